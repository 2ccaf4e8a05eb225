"""Splits drawn in place of the data set's own, the first groups and rows, clipped gradients, and what refuses them."""

import numpy as np
import pytest
import torch

from featcache.errors import UsageError
from featcache.studies.adapters.embed import embed
from featcache.studies.adapters.results import Evaluation, final_results
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig, make_config
from featcache.trainer.defaults import Selection
from featcache.trainer.fit import fit_paired
from featcache.trainer.optimizer import AdamW
from featcache.trainer.sides import pair_sides
from tests.spine import tiny_cache
from tests.trainer_planted import planted_sides

QUICK = {"epochs": 2, "batch": 32, "width": 8, "k": 5, "permutations": 39, "halves": 20, "untrained": 2}


def pairs(**settings):
    sides, reference = planted_sides(240)
    return pair_sides(sides, reference, FitConfig(k=5, **settings))


def test_a_drawn_test_split_has_its_share_whatever_the_data_set_says_and_depends_on_its_seed_alone():
    first = pairs(drawn_test=0.25, drawn_validation=0.1)
    assert {name: len(numbers) for name, numbers in first.splits.items()} == {
        "train": 162,
        "validation": 18,
        "test": 60,
    }
    published = pairs()
    assert set(first.groups[first.splits["test"]]) != set(published.groups[published.splits["test"]])
    again, other = pairs(drawn_test=0.25, seed=7), pairs(drawn_test=0.25, split_seed=1)
    assert again.split["hashes"]["test"] == first.split["hashes"]["test"] != other.split["hashes"]["test"]
    assert "drawn with seed 0" in first.split["rule"] and "drawn_validation" in first.split


def test_a_whole_number_of_test_groups_can_be_drawn_too():
    assert len(pairs(drawn_test=40).splits["test"]) == 40
    with pytest.raises(UsageError, match="share below 1, or a whole number"):
        make_config(drawn_test=1.5)


def test_only_the_first_groups_and_rows_take_part_in_every_split():
    part = pairs(first_groups=100, first_rows=1)
    sides, _ = planted_sides(240)
    assert list(part.groups) == list(dict.fromkeys(sides["x"].groups))[:100]
    assert part.sides["y"].counts.tolist() == [1] * 100
    for number, group in enumerate(part.groups):
        own = sides["y"].values[sides["y"].groups == group][0]
        assert part.sides["y"].values[number].tolist() == own.tolist()
    assert part.split["n"] == {"train": 50, "validation": 25, "test": 25}


def test_embeddings_of_a_run_with_drawn_splits_cannot_pose_as_test_rows(tmp_path):
    cache = tiny_cache(tmp_path, captions=2)
    bench = Workbench.load(cache, Selection("openmoji", ("efficientnet-lite0", "minilm"), "efficientnet-lite2"))
    run = train(bench, make_config(drawn_test=0.25, **QUICK), tmp_path / "run")
    with pytest.raises(UsageError, match="splits drawn for it"):
        embed(cache, run)


def test_gradients_are_scaled_down_to_the_norm_of_all_of_them_together_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 10.0):
        weights = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
        gradients = [scale * torch.randn(weight.shape, generator=generator) for weight in weights]
        theirs = [weight.clone().requires_grad_() for weight in weights]
        ours = [weight.clone().requires_grad_() for weight in weights]
        for weight, gradient in zip([*theirs, *ours], [*gradients, *gradients], strict=True):
            weight.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        plain, clipped = AdamW(theirs, [], 0.0), AdamW(ours, [], 0.0, clip=0.5)
        plain.step(0.1)
        clipped.step(0.1)
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def self_kept_by_hand(x, y, k):
    """Mean share of k nearest rows by cosine that two spaces have in common, every row being its own nearest."""

    def lists(rows):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return [set(np.argsort(-(unit @ unit[i]), kind="stable")[:k].tolist()) for i in range(len(rows))]

    return np.mean([len(a & b) / k for a, b in zip(lists(x), lists(y), strict=True)])


def test_with_its_own_row_kept_a_score_is_that_of_lists_which_hold_it():
    sides, reference = planted_sides(480)
    config = FitConfig(**QUICK, keep_self=True)
    paired = pair_sides(sides, reference, config)
    evaluation = Evaluation(paired, config)
    results = final_results(fit_paired(paired, config), evaluation)
    test = paired.part("test")
    rows = [row for row in results.rows if row.metric == "mutual_knn_self"]
    assert {(row.stage, row.space) for row in rows} == {
        ("raw", "x"), ("raw", "y"), ("trained", "x"), ("trained", "y"), ("trained", "joint")
    }  # fmt: skip
    for row in rows:
        if row.stage == "raw":
            values = test.sides[row.space].means().double().numpy()
            wanted = self_kept_by_hand(values, test.reference.double().numpy(), config.k)
            assert row.value == pytest.approx(wanted, abs=1e-9) and row.ci_low < row.value < row.ci_high
            assert row.chance == pytest.approx((1 + 4 * 4 / 119) / 5)
    scores = {(row.stage, row.space): row.value for row in rows}
    own = {row.contrast: row for row in results.contrasts if row.metric == "mutual_knn_self"}
    assert len(own) == 4
    average = (scores["raw", "x"] + scores["raw", "y"]) / 2
    assert own["joint − average of raw parts"].value == pytest.approx(scores["trained", "joint"] - average)
    assert own["joint − average of raw parts"].verdict in (
        "above",
        "below",
        "cannot tell",
        "cannot tell after correction",
    )
    plain = final_results(fit_paired(paired, FitConfig(**QUICK)), Evaluation(paired, FitConfig(**QUICK)))
    assert not [row for row in plain.rows if row.metric == "mutual_knn_self"]
