"""Training finds planted pairs, draws the rows it says, selects on validation alone, and repeats to the bit."""

import subprocess
import sys
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.errors import UsageError
from featcache.trainer.config import FitConfig
from featcache.trainer.draws import deranged, draw_rows
from featcache.trainer.errors import TrainingDiverged
from featcache.trainer.fit import _EpochLoop, fit, untrained_adapters
from featcache.trainer.losses import Objective, pairwise_loss
from featcache.trainer.optimizer import AdamW, learning_rate
from featcache.trainer.sides import Side, pair_sides
from featcache.trainer.tracking import EvaluationSplit, embed_split, epoch_rows, retrieval_rows
from tests.trainer_planted import planted_sides, without

ROOT = Path(__file__).parents[1]
QUICK = FitConfig(epochs=4, batch=32, width=16, k=5, lr=5e-3, permutations=100)


def changed(**update):
    return QUICK.model_copy(update=update)


def find(rows, **wanted):
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def retrieved(fitted, adapters, **wanted):
    """The one row of retrieval on test."""
    split = EvaluationSplit("test", fitted.paired.part("test"))
    (row,) = find(retrieval_rows(split, embed_split(split, adapters)), **wanted)
    return row


def weights_of(fitted):
    return torch.cat([weight.ravel() for weight in fitted.adapters.state_dict().values()])


@pytest.fixture(scope="module")
def data():
    return planted_sides(480)


@pytest.fixture(scope="module")
def fitted(data):
    return fit(*data, changed(epochs=12))


def test_planted_pairs_are_found_five_times_as_often_as_shuffled_ones_with_intervals_apart(data, fitted):
    shuffled = fit(*data, fitted.config.model_copy(update={"shuffle_pairs": True}))
    for direction in ("x→y", "y→x"):
        real, control = (retrieved(one, one.adapters, metric="R@1", direction=direction) for one in (fitted, shuffled))
        assert real.value >= 5 * control.value
        assert control.ci_high < real.ci_low


def test_untrained_adapters_retrieve_at_chance(fitted):
    untrained = untrained_adapters(fitted.paired, fitted.config)
    for direction in ("x→y", "y→x"):
        row = retrieved(fitted, untrained, metric="R@10", direction=direction)
        assert row.value < 2.5 * row.chance


def test_epoch_0_is_the_untrained_adapters_of_the_seed(fitted):
    split = EvaluationSplit("validation", fitted.paired.part("validation"))
    again = epoch_rows(split, untrained_adapters(fitted.paired, fitted.config), fitted.config, 0)
    first = find(fitted.rows, epoch=0)
    assert [(row.metric, row.value) for row in again] == [(row.metric, row.value) for row in first]


def test_same_seed_same_bits_and_another_seed_other_bits(data):
    fits = [fit(*data, changed(seed=seed, captions="all")) for seed in (3, 3, 4)]
    weights = [weights_of(one) for one in fits]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    rows = [[replace(row, seconds=0.0) for row in one.rows] for one in fits]
    assert rows[0] == rows[1] != rows[2]


def test_training_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    fit(*data, changed(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_standardisation_uses_training_rows_only(data):
    sides, reference = data
    x = sides["x"]
    held = x.splits != "train"
    moved = replace(x, values=np.where(held[:, None], x.values * 100 + 7, x.values).astype(np.float32))
    first, second = (fit({**sides, "x": one}, reference, changed(epochs=1)).adapters["x"] for one in (x, moved))
    assert torch.equal(first.mean, second.mean) and torch.equal(first.std, second.std)
    train = x.values[x.splits == "train"].astype(np.float64)
    np.testing.assert_allclose(first.mean.numpy(), train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(first.std.numpy(), train.std(axis=0), rtol=1e-5)
    assert torch.equal(first.net.weight, second.net.weight)


def test_every_epoch_is_measured_on_validation_and_on_no_other_split(fitted):
    wanted = {"space": "joint", "metric": "mutual_knn", "against": "reference"}
    assert [row.epoch for row in find(fitted.rows, stage="trained", **wanted)] == list(range(1, 13))
    assert [row.epoch for row in find(fitted.rows, stage="untrained", **wanted)] == [0]
    losses = find(fitted.rows, metric="loss")
    assert [row.epoch for row in losses if row.split == "train"] == list(range(1, 13))
    assert [row.epoch for row in losses if row.split == "validation"] == list(range(13))
    assert {row.split for row in fitted.rows if row.metric != "loss"} == {"validation"}


def test_the_selected_epoch_is_the_first_best_on_validation_by_the_declared_criterion(data):
    for select in ("retrieval", "alignment"):
        seen = []
        result = fit(*data, changed(select=select), on_epoch=seen.append)
        scores = [getattr(epoch, select) for epoch in seen]
        assert [epoch.number for epoch in seen] == [0, 1, 2, 3, 4] and seen[0].loss is None
        assert result.selected_epoch == 1 + int(np.argmax(scores[1:]))
        recall = [row.value for row in find(result.rows, metric="R@10", epoch=2)]
        assert seen[2].retrieval == pytest.approx(np.mean(recall)) and len(recall) == 2
        (joint,) = find(result.rows, space="joint", against="reference", metric="mutual_knn", epoch=2)
        assert seen[2].alignment == joint.value


def test_the_last_epoch_is_kept_where_that_is_wanted(data):
    result = fit(*data, changed(select="last", epochs=12))
    first = fit(*data, changed(epochs=12))
    assert result.selected_epoch == 12 and [row.value for row in result.rows] == [row.value for row in first.rows]


def test_the_kept_weights_are_those_of_the_selected_epoch(data):
    # over-trained on purpose, so that the best epoch is not the last
    config = changed(epochs=8, lr=0.3, select="alignment")
    result = fit(*data, config)
    assert result.selected_epoch < 8
    wanted = {"space": "joint", "against": "reference", "metric": "mutual_knn"}
    scores = {row.epoch: row.value for row in find(result.rows, **wanted)}
    split = EvaluationSplit("validation", result.paired.part("validation"))
    (kept,) = find(epoch_rows(split, result.adapters, config, result.selected_epoch), **wanted)
    assert kept.value == scores[result.selected_epoch] == max(v for epoch, v in scores.items() if epoch)


def test_training_lowers_both_losses(fitted):
    for split in ("train", "validation"):
        losses = [row.value for row in find(fitted.rows, metric="loss", split=split)]
        assert losses[-1] < -1 < losses[0], "nats below a guess"


def test_the_temperature_never_passes_its_cap(data):
    result = fit(*data, changed(lr=0.5, epochs=6))
    assert result.adapters.log_scale.exp().item() <= 100.001


# -- draws ------------------------------------------------------------------------------------------------------------


def old_epoch_pairs(x, y, partner, captions, generator):
    """The draw of featcache 0.1, of two sides."""
    count_x, count_y = x.counts, y.counts[partner]
    repeats = torch.maximum(count_x, count_y) if captions == "all" else torch.ones_like(partner)
    groups = torch.repeat_interleave(torch.arange(len(partner)), repeats)
    before = repeats.cumsum(0) - repeats
    within = torch.arange(len(groups)) - before[groups]
    offsets = torch.rand(2, len(partner), generator=generator, dtype=torch.float64)
    rows = []
    for starts, count, offset in ((x.starts, count_x, offsets[0]), (y.starts[partner], count_y, offsets[1])):
        drawn = (offset * count).long()
        rows.append(starts[groups] + (within + drawn[groups]) % count[groups])
    order = torch.randperm(len(groups), generator=generator)
    return rows[0][order], rows[1][order], groups[order]


def old_deranged(count, seed):
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(1)
    return partner


def two_sides(captions=3):
    return [*pair_sides(*planted_sides(40, captions), FitConfig(k=3)).sides.values()]


def draw(sides, captions, seed=0, partners=None):
    partners = partners or [torch.arange(len(sides[0].counts))] * len(sides)
    return draw_rows(sides, partners, captions, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("captions", ["sample", "all"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_two_whole_sides_are_drawn_as_0_1_drew_them(captions, shuffled):
    x, y = two_sides()
    for seed in range(5):
        partner = old_deranged(40, seed) if shuffled else torch.arange(40)
        assert not shuffled or torch.equal(partner, deranged(40, seed))
        wanted = old_epoch_pairs(x, y, partner, captions, torch.Generator().manual_seed(seed))
        (rows_x, rows_y), groups = draw([x, y], captions, seed, [torch.arange(40), partner])
        assert all(torch.equal(a, b) for a, b in zip((rows_x, rows_y, groups), wanted, strict=True))


@pytest.mark.parametrize("captions", ["sample", "all", "mean"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_two_whole_sides_train_on_the_draws_of_0_1(captions, shuffled):
    """The loop of 0.1 restated: its epochs, partners, draws and steps give the same weights."""
    config = changed(captions=captions, shuffle_pairs=shuffled, epochs=2)
    result = fit(*planted_sides(240), config)
    weights_seed, draws_seed, control_seed = (int(s) for s in np.random.SeedSequence(0).generate_state(3))
    adapters = untrained_adapters(result.paired, config, weights_seed)
    train = result.paired.part("train")
    x, y = (side.averaged() if captions == "mean" else side for side in train.sides.values())
    partner = old_deranged(120, control_seed) if shuffled else torch.arange(120)
    decayed = [weight for weight in adapters.parameters() if weight.ndim > 1]
    optimizer = AdamW(decayed, [weight for weight in adapters.parameters() if weight.ndim <= 1], config.weight_decay)
    generator = torch.Generator().manual_seed(draws_seed)
    losses = []
    for epoch in range(2):
        rows_x, rows_y, groups = old_epoch_pairs(x, y, partner, captions, generator)
        batches, total = -(-len(groups) // 32), 0.0
        for number, chosen in enumerate(torch.arange(len(groups)).tensor_split(batches)):
            both = {"x": adapters.embed("x", x.values[rows_x[chosen]])}
            both["y"] = adapters.embed("y", y.values[rows_y[chosen]])
            loss = pairwise_loss(both, Objective("infonce", adapters.log_scale), groups[chosen])
            loss.backward()
            optimizer.step(learning_rate(epoch * batches + number, 2 * batches, config.lr, config.warmup))
            total += loss.item() * len(chosen)
        losses.append(total / len(groups))
        if epoch + 1 == result.selected_epoch:
            kept = torch.cat([weight.ravel().clone() for weight in adapters.state_dict().values()])
    torch.testing.assert_close(weights_of(result), kept, rtol=0, atol=0)
    recorded = [row.value for row in find(result.rows, metric="loss", split="train")]
    assert recorded == pytest.approx(losses, abs=1e-5)


def test_sample_draws_one_row_of_each_group_and_all_draws_each_row_once():
    x, y = two_sides()
    (rows_x, rows_y), groups = one = draw([x, y], "sample")
    assert sorted(groups.tolist()) == list(range(40))
    (_, each_y), _ = each = draw([x, y], "all")
    assert sorted(each_y.tolist()) == list(range(120))
    for (rows_x, rows_y), groups in (one, each):
        assert torch.equal(x.groups[rows_x], groups) and torch.equal(y.groups[rows_y], groups)


def test_another_caption_is_drawn_in_another_epoch():
    sides = two_sides()
    generator = torch.Generator().manual_seed(0)
    partners = [torch.arange(40)] * 2
    drawn = [set(draw_rows(sides, partners, "sample", generator)[0][1].tolist()) for _ in range(60)]
    assert set.union(*drawn) == set(range(120))


def some_side(counts):
    counts = torch.tensor(counts)
    groups = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return Side(torch.randn(len(groups), 2), groups, counts.cumsum(0) - counts, counts)


@pytest.mark.parametrize("captions", ["sample", "all"])
def test_a_side_that_is_missing_is_drawn_as_missing_and_the_others_as_they_are(captions):
    counts = [[1, 1, 0, 1, 2], [3, 0, 2, 1, 1], [0, 2, 2, 1, 0]]
    sides = [some_side(each) for each in counts]
    for seed in range(20):
        rows, groups = draw(sides, captions, seed)
        repeats = (
            torch.stack([side.counts for side in sides]).amax(dim=0) if captions == "all" else torch.ones(5).long()
        )
        assert torch.bincount(groups, minlength=5).tolist() == repeats.tolist()
        for side, drawn in zip(sides, rows, strict=True):
            assert torch.equal(drawn < 0, side.counts[groups] == 0)
            assert torch.equal(side.groups[drawn[drawn >= 0]], groups[drawn >= 0])
            if captions == "all":  # each of its rows as evenly often as the largest side has rows
                for group in range(5):
                    used = torch.bincount(drawn[(groups == group) & (drawn >= 0)], minlength=len(side.groups))
                    own = used[side.groups == group]
                    assert not len(own) or own.max() - own.min() <= 1


def test_shuffled_sides_never_meet_their_own_group_nor_each_others():
    sides = [some_side([1] * 30) for _ in range(4)]
    for seed in range(20):
        partners = [torch.arange(30)] + [deranged(30, seed, shift) for shift in (1, 2, 3)]
        assert all(sorted(partner.tolist()) == list(range(30)) for partner in partners)
        rows, _ = draw(sides, "all", seed, partners)
        for a, b in combinations(range(4), 2):
            assert not (sides[a].groups[rows[a]] == sides[b].groups[rows[b]]).any()


# -- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"captions": "mean"},
        {"adapter": "mlp"},
        {"adapter": "bottleneck"},
        {"adapter": {"x": "mlp", "y": "linear"}},
        {"adapter": {"x": "linear", "y": "identity"}, "width": 12},
        {"batch": 2000},
        {"pair_weights": {"y+x": 3.0}},
        {"adapter": "fusemix"},
        {"adapter": "gated"},
        {"loss": "siglip"},
        {"loss": "siglip", "temperature": 0.05},
        {"loss": "product"},
        {"loss": "cka"},
        {"temperature": 0.05, "label_smoothing": 0.05},
        {"mixup": True, "captions": "all"},
        {"keep_geometry": 10.0},
        {"joint": "learned"},
    ],
)
def test_every_choice_trains(data, change):
    result = fit(*data, changed(**change))
    losses = [row.value for row in find(result.rows, metric="loss", split="validation")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "change", [{"adapter": "fusemix"}, {"loss": "siglip", "mixup": True}, {"loss": "cka"}, {"joint": "learned"}]
)
def test_every_choice_is_a_function_of_its_seed(data, change):
    first, again, other = (fit(*data, changed(epochs=2, seed=seed, **change)) for seed in (1, 1, 2))
    assert torch.equal(weights_of(first), weights_of(again)) and not torch.equal(weights_of(first), weights_of(other))


def test_a_fixed_temperature_stays_and_a_learned_one_moves(data):
    fixed, learned = (fit(*data, changed(temperature=value)) for value in (0.05, None))
    assert fixed.adapters.log_scale.exp().item() == pytest.approx(20)
    assert learned.adapters.log_scale.exp().item() != pytest.approx(1 / 0.07, abs=1e-4)


def test_what_is_applied_drops_nothing_out(data):
    adapters = fit(*data, changed(adapter="fusemix")).adapters
    assert not adapters.training
    rows = torch.from_numpy(data[0]["x"].values[:9])
    assert torch.equal(adapters.embed("x", rows), adapters.embed("x", rows))


def test_trained_on_the_reference_the_joint_is_nearer_to_it_on_training_rows_than_any_other(data):
    def on_training_rows(**change):
        fitted = fit(*data, changed(**change))
        split = EvaluationSplit("train", fitted.paired.part("train"))
        rows = find(epoch_rows(split, fitted.adapters, fitted.config, 1), space="joint", against="reference")
        return np.array([row.value for row in rows])

    ceiling = on_training_rows(loss="cka", epochs=30, lr=1e-2, select="last")
    others = [{}, {"loss": "siglip"}, {"keep_geometry": 10.0}, {"mixup": True}, {"adapter": "mlp"}]
    others += [{"adapter": kind} for kind in ("procrustes", "cca", "csa", "asif")] + [{"joint": "weighted"}]
    for change in others:
        assert (ceiling > on_training_rows(**change) + 0.05).all(), change  # mutual k-NN and debiased CKA


def test_a_kernel_that_is_trained_on_wrong_rows_of_the_reference_is_no_nearer_on_test(data):
    scores = []
    for shuffled in (False, True):
        fitted = fit(*data, changed(loss="cka", epochs=12, shuffle_pairs=shuffled))
        split = EvaluationSplit("test", fitted.paired.part("test"))
        rows = epoch_rows(split, fitted.adapters, fitted.config, 1)
        scores.append(find(rows, space="x", against="reference", metric="cka_debiased")[0].value)
    assert scores[0] > scores[1] + 0.15


def test_a_frozen_side_stays_what_it_was(data):
    sides, reference = data
    result = fit(sides, reference, changed(adapter={"x": "linear", "y": "identity"}, width=12))
    y = sides["y"]
    train = y.values[y.splits == "train"].astype(np.float64)
    wanted = (y.values - train.mean(axis=0)) / train.std(axis=0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(result.adapters.embed("y", y.tensor()).numpy(), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="identity leaves 12 dimensions, but the joint space has 16"):
        fit(sides, reference, changed(adapter={"x": "linear", "y": "identity"}))


def test_settings_of_other_sides_are_refused_before_anything_is_paired(data):
    with pytest.raises(UsageError, match="wanted A.B of the sides x, y"):
        fit(*data, changed(pair_weights={"x+z": 1.0}))
    sides, reference = data
    with pytest.raises(UsageError, match="'joint' cannot be the name of a side"):
        fit({"joint": sides["x"], "y": sides["y"]}, reference, QUICK)


def test_a_diverging_run_says_so(data):
    said = r"in epoch [12] of 4: the training loss is nan\n.*--lr than 1e.30 .the default is 0.001"
    with pytest.raises(TrainingDiverged, match=said):
        fit(*data, changed(lr=1e30))


def test_adapters_that_map_every_row_to_nothing_are_called_a_diverged_training(data, monkeypatch):
    step = _EpochLoop.run_epoch

    def collapse(self, epoch, adapters, optimizer):
        loss = step(self, epoch, adapters, optimizer)
        with torch.no_grad():
            for weight in adapters.parameters():
                weight.zero_()
        return loss

    monkeypatch.setattr(_EpochLoop, "run_epoch", collapse)
    with pytest.raises(TrainingDiverged, match=r"diverged in epoch 1 of 4: .*rows are zero.*\n.*lower --lr than"):
        fit(*data, QUICK)


def test_a_device_that_is_not_there_is_refused(data):
    with pytest.raises(UsageError, match="(?s)device 'cuda:99' cannot be used.*cpu is always there"):
        fit(*data, changed(device="cuda:99"))


# -- three sides ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three():
    return planted_sides(480, third=True)


def test_three_sides_find_each_other_in_all_six_directions(three):
    result = fit(*three, changed(epochs=8))
    for a, b in permutations("xyz", 2):
        row = retrieved(result, result.adapters, metric="R@10", direction=f"{a}→{b}")
        assert row.value > 5 * row.chance
    assert len(find(result.rows, metric="R@10", epoch=3)) == 6


def test_a_pair_of_weight_0_is_not_trained(three):
    """x and z meet in no loss: without y they would stay strangers, and do where y meets neither."""
    result = fit(*three, changed(epochs=8, pair_weights={"x+z": 1.0, "x+y": 0.0, "y+z": 0.0}))
    untrained = untrained_adapters(result.paired, result.config)
    assert retrieved(result, result.adapters, metric="R@10", direction="x→z").value > 0.5
    assert retrieved(result, result.adapters, metric="R@10", direction="x→y").value < 0.25
    for trained, before in zip(result.adapters["y"].parameters(), untrained["y"].parameters(), strict=True):
        assert torch.equal(trained, before), "neither a gradient nor decay"


def test_masked_training_uses_what_each_group_has_and_finds_the_side_that_a_third_lacks(three):
    sides, reference = three
    lacking = {**sides, "z": without(sides["z"], [f"g{i:04d}" for i in range(0, 480, 3)])}
    masked = fit(lacking, reference, changed(epochs=8, missing="mask"))
    assert masked.paired.split["n"] == {"train": 240, "validation": 80, "test": 80}
    assert masked.paired.split["training_groups_with"] == {"x": 240, "y": 240, "z": 160}
    for direction in ("x→z", "z→y", "x→y"):
        row = retrieved(masked, masked.adapters, metric="R@10", direction=direction)
        assert row.value > 5 * row.chance
    dropped = fit(lacking, reference, changed(epochs=8))
    assert dropped.paired.split["n"] == {"train": 160, "validation": 80, "test": 80}
    assert not torch.equal(weights_of(masked), weights_of(dropped))


def test_missing_rows_are_never_read(three, monkeypatch):
    """The rows that stand in for missing ones decide no weight."""
    sides, reference = three
    lacking = {**sides, "z": without(sides["z"], [f"g{i:04d}" for i in range(0, 480, 3)])}
    config = changed(epochs=2, missing="mask")
    result = fit(lacking, reference, config)

    def at_another_place(*arguments):
        rows, groups = draw_rows(*arguments)
        return [torch.where(numbers < 0, numbers - 4, numbers) for numbers in rows], groups

    monkeypatch.setattr("featcache.trainer.draws.draw_rows", at_another_place)
    assert torch.equal(weights_of(fit(lacking, reference, config)), weights_of(result))


def test_masking_changes_nothing_where_nothing_is_missing(three):
    whole = [fit(*three, changed(epochs=2, missing=missing)) for missing in ("drop", "mask")]
    assert torch.equal(weights_of(whole[0]), weights_of(whole[1]))


# -- without a reference ----------------------------------------------------------------------------------------------


def test_without_a_reference_training_is_the_same_and_selects_by_retrieval(data):
    sides, reference = data
    seen = []
    alone, with_it = fit(sides, None, QUICK, on_epoch=seen.append), fit(sides, reference, QUICK)
    assert torch.equal(weights_of(alone), weights_of(with_it)) and alone.selected_epoch == with_it.selected_epoch
    assert [epoch.alignment for epoch in seen] == [None] * 5
    assert not find(alone.rows, against="reference") and find(alone.rows, against="y", metric="mutual_knn")


def test_alignment_cannot_select_without_a_reference(data):
    with pytest.raises(UsageError, match="--select alignment needs a reference"):
        fit(data[0], None, changed(select="alignment"))


CHECK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"timm", "transformers", "torchvision", "data", "zarr"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from featcache.trainer.config import FitConfig
from featcache.trainer.fit import _EpochLoop, fit
from tests.trainer_planted import planted_sides
# numba loads scipy.linalg for its BLAS; the other parts of scipy are what is slow
slow = {"polars", "sklearn", "scipy.sparse", "scipy.stats", "pandas", "torch._dynamo", "sympy"}
def first(epoch):
    loaded = slow & set(sys.modules)
    assert not loaded, loaded
fit(*planted_sides(80), FitConfig(epochs=1, k=3, permutations=100), on_epoch=first)
print("trained")
"""


def test_training_needs_no_encoder_library_no_data_folder_and_no_slow_import():
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "trained\n", done.stderr
