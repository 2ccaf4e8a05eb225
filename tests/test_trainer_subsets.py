"""Subsets are nested and leave held-out groups alone; swaps are near neighbours at a known dose; steps are counted."""

import json

import numpy as np
import pytest
import torch
from blake3 import blake3
from pydantic import ValidationError

from featcache.errors import UsageError
from featcache.metrics.measure.row import frame
from featcache.studies.adapters.results import Evaluation, final_results
from featcache.trainer.config import FitConfig, make_config
from featcache.trainer.draws import TrainingRows
from featcache.trainer.fit import fit_paired
from featcache.trainer.run import run_identity
from featcache.trainer.sides import pair_sides
from featcache.trainer.subsets import Passes, swapped_partners, training_part
from tests.trainer_planted import planted_sides, without

QUICK = FitConfig(epochs=2, batch=32, width=8, k=5, lr=5e-3, permutations=39, halves=20, untrained=2)


def changed(**update):
    return FitConfig(**{**QUICK.recorded(), **update})


@pytest.fixture(scope="module")
def paired():
    return pair_sides(*planted_sides(160), QUICK)


# -- identities -------------------------------------------------------------------------------------------------------


def test_settings_at_their_defaults_leave_the_identity_of_a_run_what_it_was():
    sides, reference = planted_sides(160)
    identity = run_identity(sides, reference, FitConfig())
    assert identity["config_hash"] == "6b06f504b590d4948ad27deefed8abcb4b21e527c395c82df94988b806fad289"
    assert FitConfig(**identity["config"]) == FitConfig()
    canonical = json.dumps(identity["config"], sort_keys=True, separators=(",", ":"))
    assert blake3(canonical.encode()).hexdigest() == identity["config_hash"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_groups", 64),
        ("group_rows", 1),
        ("steps", 3),
        ("swap", 0.5),
        ("swap_rank", 2),
        ("swap_rank", "random"),
        ("clip", 0.5),
        ("first_groups", 64),
        ("first_rows", 1),
        ("drawn_test", 0.25),
        ("drawn_validation", 0.2),
        ("keep_self", True),
        ("permute_evaluation", True),
    ],
)
def test_another_value_is_recorded_and_makes_another_run(name, value):
    config = FitConfig(**{name: value})
    assert config.recorded() == {**FitConfig().recorded(), name: value}
    assert FitConfig(**config.recorded()) == config


def test_swaps_of_shuffled_pairs_are_refused():
    with pytest.raises(UsageError, match="shuffle_pairs permutes every pair") as error:
        make_config(swap=0.5, shuffle_pairs=True)
    assert "Value error" not in str(error.value)
    for wrong in ({"train_groups": 1}, {"train_groups": "some"}, {"steps": 0}, {"swap": 1.1}, {"swap_rank": 0}):
        with pytest.raises(ValidationError):
            FitConfig(**wrong)


# -- subsets ----------------------------------------------------------------------------------------------------------


def test_subsets_of_a_seed_are_nested_and_lie_in_the_training_groups(paired):
    train = set(paired.part("train").groups.tolist())
    for seed in (0, 1):
        subsets = [set(training_part(paired, changed(train_groups=n, seed=seed)).groups) for n in (5, 20, 80)]
        assert [len(subset) for subset in subsets] == [5, 20, 80]
        assert subsets[0] < subsets[1] < subsets[2] <= train
    one, other = (set(training_part(paired, changed(train_groups=20, seed=seed)).groups) for seed in (0, 1))
    assert one != other
    assert training_part(paired, QUICK) is paired.part("train")


def test_a_subset_depends_on_the_groups_and_not_on_their_order():
    sides, reference = planted_sides(160)
    turned = [features.take(np.arange(len(features))[::-1]) for features in (*sides.values(), reference)]
    other = pair_sides(dict(zip(sides, turned, strict=False)), turned[-1], QUICK)
    config = changed(train_groups=20)
    ours, theirs = training_part(pair_sides(sides, reference, QUICK), config), training_part(other, config)
    assert ours.groups.tolist() == theirs.groups.tolist()[::-1]


def test_more_groups_than_there_are_are_refused_instead_of_taken_as_all(paired):
    with pytest.raises(UsageError, match=r"train_groups = 81: there are 80.*\n.*or all"):
        training_part(paired, changed(train_groups=81))


def test_the_first_rows_of_every_group_are_kept_in_their_order(paired):
    side = paired.part("train").sides["y"]
    for count in (1, 2, 3, 7):
        kept = side.first(count)
        for group in range(len(side.counts)):
            rows = side.values[side.groups == group][:count]
            assert torch.equal(kept.values[kept.groups == group], rows)
            assert (int(kept.starts[group]), int(kept.counts[group])) == (group * min(count, 3), len(rows))


def test_first_rows_of_groups_that_lack_a_side_are_none():
    sides, reference = planted_sides(160, third=True)
    lacking = {**sides, "z": without(sides["z"], {f"g{i:04d}" for i in range(0, 160, 8)})}
    train = training_part(pair_sides(lacking, reference, changed(missing="mask")), changed(group_rows=1))
    z = train.sides["z"]
    assert z.counts.tolist() == [int(bool(i % 4)) for i in range(80)] == z.present.int().tolist()
    assert z.starts[z.present].tolist() == [*range(60)]


def test_held_out_groups_and_the_standardisation_know_nothing_of_what_is_left_out(paired):
    config = changed(train_groups=20, group_rows=1)
    fitted = fit_paired(paired, config)
    rows = training_part(paired, config).sides["y"].values
    adapter = fitted.adapters["y"]
    assert torch.allclose(adapter.mean, rows.mean(dim=0), atol=1e-5)
    assert fitted.paired.split == paired.split


# -- swaps ------------------------------------------------------------------------------------------------------------


def nearest_by_hand(values, rank):
    unit = torch.nn.functional.normalize(values.double())
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-2)
    return cosine.argsort(dim=1, descending=True, stable=True)[:, rank - 1]


@pytest.mark.parametrize("rank", [1, 4])
def test_swapped_groups_get_the_rows_of_that_neighbour_of_their_photo(paired, rank):
    train = paired.part("train")
    nearest = nearest_by_hand(train.sides["x"].values, rank)
    before: set[int] = set()
    for share, count in ((0.0, 0), (0.25, 20), (0.5, 40), (1.0, 80)):
        partner = swapped_partners(train, changed(swap=share, swap_rank=rank), 7)
        swapped = torch.nonzero(partner != torch.arange(80)).ravel()
        assert len(swapped) == count and before <= set(swapped.tolist())
        assert torch.equal(partner[swapped], nearest[swapped])
        before = set(swapped.tolist())


def test_randomly_swapped_groups_get_one_anothers_rows_and_nobody_keeps_its_own(paired):
    train = paired.part("train")
    before: set[int] = set()
    for share, count in ((0.0, 0), (0.25, 20), (1.0, 80)):
        partner = swapped_partners(train, changed(swap=share, swap_rank="random"), 7)
        swapped = torch.nonzero(partner != torch.arange(80)).ravel().tolist()
        assert len(swapped) == count and before <= set(swapped)
        assert sorted(partner[swapped].tolist()) == swapped
        before = set(swapped)


def test_training_draws_the_swapped_rows_and_no_others(paired):
    train = paired.part("train")
    rows = TrainingRows(train, changed(swap=0.5, swap_rank=2), 0, 7)
    partner = swapped_partners(train, changed(swap=0.5, swap_rank=2), 7)
    drawn, groups, _ = rows.next_epoch()
    assert torch.equal(train.sides["x"].groups[drawn["x"]], groups)
    assert torch.equal(train.sides["y"].groups[drawn["y"]], partner[groups])


def test_groups_that_lack_a_side_are_neither_swapped_nor_anybodys_neighbour():
    sides, reference = planted_sides(160, third=True)
    lacking = {**sides, "z": without(sides["z"], {f"g{i:04d}" for i in range(0, 160, 8)})}
    train = pair_sides(lacking, reference, changed(missing="mask")).part("train")
    partner = swapped_partners(train, changed(swap=1.0), 0)
    lacks = ~train.sides["z"].present
    assert torch.equal(partner[lacks], torch.nonzero(lacks).ravel())
    assert not lacks[partner[~lacks]].any() and (partner[~lacks] != torch.nonzero(~lacks).ravel()).all()
    with pytest.raises(UsageError, match="swap_rank = 60: 60 training groups"):
        swapped_partners(train, changed(swap=1.0, swap_rank=60), 0)


# -- steps ------------------------------------------------------------------------------------------------------------


def test_an_epoch_has_so_many_batches_and_nothing_of_a_pass_is_lost():
    drawn = iter(range(100))

    def draw():
        start = 10 * next(drawn)
        return [torch.arange(start, start + 10)], torch.arange(start, start + 10)

    passes = Passes(draw, 4, 5)  # a pass of 10 has batches of 4, 3 and 3
    seen, sizes = [], []
    for _ in range(6):
        (rows,), groups, batches = passes.next_epoch()
        assert torch.equal(rows, groups) and torch.cat(batches).tolist() == [*range(len(rows))]
        sizes += [len(batch) for batch in batches]
        seen += rows.tolist()
    assert seen == [*range(100)] and sizes == [4, 3, 3] * 10


def test_without_a_number_of_steps_an_epoch_is_one_pass(paired):
    rows = TrainingRows(paired.part("train"), QUICK, 0, 0)
    for _ in range(2):
        _, groups, batches = rows.next_epoch()
        assert sorted(groups.tolist()) == [*range(80)] and [len(batch) for batch in batches] == [27, 27, 26]


def test_matched_steps_take_as_many_steps_of_few_pairs_as_of_all(paired, monkeypatch):
    import featcache.trainer.fit as fitting

    steps: list[float] = []
    rate = fitting.learning_rate
    monkeypatch.setattr(
        fitting, "learning_rate", lambda step, of, *rest: (steps.append(step / of), rate(step, of, *rest))[1]
    )
    for groups in (8, "all"):
        steps.clear()
        fit_paired(paired, changed(train_groups=groups, steps=3))
        assert steps == [number / 6 for number in range(6)]


# -- permuted evaluation ----------------------------------------------------------------------------------------------


def test_a_permuted_evaluation_is_by_chance_and_leaves_every_other_row_alone(paired):
    config = changed(epochs=6, permute_evaluation=True)
    fitted = fit_paired(paired, config)
    evaluation = Evaluation(paired, config)
    rows = final_results(fitted, evaluation).rows
    plain = final_results(fit_paired(paired, changed(epochs=6)), Evaluation(paired, changed(epochs=6))).rows
    permuted = [row for row in rows if row.stage == "permuted"]
    left = frame([row for row in rows if row.stage != "permuted"]).drop("seconds")
    assert left.equals(frame(plain).drop("seconds"))
    recall = {row.direction: row for row in permuted if row.metric == "R@10"}
    trained = {row.direction: row for row in rows if (row.stage, row.metric, row.split) == ("trained", "R@10", "test")}
    for direction in ("x→y", "y→x"):
        assert recall[direction].ci_low <= recall[direction].chance <= recall[direction].ci_high
        assert trained[direction].value > 2 * recall[direction].value
    images = {
        row.stage: row.value
        for row in rows
        if (row.space, row.against, row.metric, row.split) == ("x", "reference", "mutual_knn", "test")
    }
    assert images["permuted"] == images["trained"]  # the first side stays as it is


def test_no_group_keeps_its_rows_and_no_two_sides_meet_in_the_permuted_split():
    sides, reference = planted_sides(160, third=True)
    paired = pair_sides(sides, reference, QUICK)
    plain, moved = paired.part("test").sides, Evaluation(paired, QUICK).permuted.paired.sides
    own = {name: nearest_rows(plain[name].means(), moved[name].means()) for name in plain}
    here = np.arange(40)
    assert (own["x"] == here).all()
    assert (own["y"] != here).all() and (own["z"] != here).all() and (own["y"] != own["z"]).all()
    assert sorted(own["y"]) == sorted(own["z"]) == [*range(40)]


def nearest_rows(rows, of):
    return torch.cdist(of, rows).argmin(dim=1).numpy()
