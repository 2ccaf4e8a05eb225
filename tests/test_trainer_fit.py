import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.errors import UsageError
from featcache.studies.adapters.results import final_rows
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import TrainingDiverged
from featcache.trainer.fit import epoch_pairs, fit
from featcache.trainer.pairs import pair
from tests.trainer_planted import planted

ROOT = Path(__file__).parents[1]
QUICK = FitConfig(epochs=4, batch=32, width=16, k=5, lr=5e-3, permutations=100)


def find(fitted, **wanted):
    rows = final_rows(fitted) if wanted.get("split") == "test" else fitted.rows
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def value(fitted, **wanted):
    (row,) = find(fitted, **wanted)
    return row


@pytest.fixture(scope="module")
def data():
    return planted(480)


@pytest.fixture(scope="module")
def fitted(data):
    return fit(*data, QUICK.model_copy(update={"epochs": 12}))


def test_planted_pairs_are_found_five_times_as_often_as_shuffled_ones_with_intervals_apart(data, fitted):
    shuffled = fit(*data, fitted.config.model_copy(update={"shuffle_pairs": True}))
    for direction in ("x→y", "y→x"):
        wanted = {"stage": "trained", "metric": "R@1", "split": "test", "direction": direction}
        real, control = value(fitted, **wanted), value(shuffled, **wanted)
        assert real.value >= 5 * control.value
        assert control.ci_high < real.ci_low


def test_untrained_adapters_retrieve_at_chance(fitted):
    for direction in ("x→y", "y→x"):
        row = value(fitted, stage="untrained", metric="R@10", split="test", direction=direction)
        assert row.value < 2.5 * row.chance and row.epoch == 0


def test_same_seed_same_bits_and_another_seed_other_bits(data):
    fits = [fit(*data, QUICK.model_copy(update={"seed": seed, "captions": "all"})) for seed in (3, 3, 4)]
    weights = [torch.cat([w.ravel() for w in f.adapters.state_dict().values()]) for f in fits]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert fits[0].rows == fits[1].rows


def test_training_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    fit(*data, QUICK.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.get_rng_state(), before)


def test_standardisation_uses_training_rows_only(data):
    config = QUICK.model_copy(update={"epochs": 1})
    x, y, reference = data
    held = x.splits != "train"
    moved = replace(x, values=np.where(held[:, None], x.values * 100 + 7, x.values).astype(np.float32))
    first, second = fit(x, y, reference, config).adapters, fit(moved, y, reference, config).adapters
    assert torch.equal(first.x.mean, second.x.mean) and torch.equal(first.x.std, second.x.std)
    train = x.values[x.splits == "train"].astype(np.float64)
    np.testing.assert_allclose(first.x.mean.numpy(), train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(first.x.std.numpy(), train.std(axis=0), rtol=1e-5)
    assert torch.equal(first.x.net.weight, second.x.net.weight)


def test_every_epoch_is_measured_on_validation_and_only_the_selected_one_on_test(fitted):
    wanted = {"space": "joint", "metric": "mutual_knn"}
    validated = find(fitted, stage="trained", split="validation", **wanted)
    assert [row.epoch for row in validated] == list(range(1, 13))
    assert [row.epoch for row in find(fitted, stage="untrained", split="validation", **wanted)] == [0]
    tested = {row.epoch for row in find(fitted, split="test", stage="trained")}
    assert tested == {fitted.selected_epoch}
    assert [row.epoch for row in find(fitted, metric="loss", split="train")] == list(range(1, 13))
    assert [row.epoch for row in find(fitted, metric="loss", split="validation")] == list(range(13))


def test_the_selected_epoch_is_the_first_best_on_validation_by_the_declared_criterion(data):
    for select in ("retrieval", "alignment"):
        seen = []
        result = fit(*data, QUICK.model_copy(update={"select": select}), on_epoch=seen.append)
        scores = [getattr(epoch, select) for epoch in seen]
        assert [epoch.number for epoch in seen] == [0, 1, 2, 3, 4] and seen[0].loss is None
        assert result.selected_epoch == 1 + int(np.argmax(scores[1:]))
        recall = [r.value for r in find(result, metric="R@10", split="validation", epoch=2)]
        assert seen[2].retrieval == pytest.approx(np.mean(recall))


def test_the_kept_weights_are_those_of_the_selected_epoch(data):
    # over-trained on purpose, so that the best epoch is not the last
    config = QUICK.model_copy(update={"epochs": 8, "lr": 0.3, "select": "alignment"})
    result = fit(*data, config)
    assert result.selected_epoch < 8
    scores = {row.epoch: row.value for row in find(result, space="joint", metric="mutual_knn", split="validation")}
    from featcache.trainer.evaluate import EvaluationSplit, adapt, adapted_rows

    bench = EvaluationSplit("validation", result.pairs.part("validation"), config)
    again = adapted_rows(bench, adapt(bench, result.adapters), "trained", result.selected_epoch)
    kept = next(row for row in again if (row.space, row.metric) == ("joint", "mutual_knn"))
    assert kept.value == scores[result.selected_epoch] == max(v for epoch, v in scores.items() if epoch)


def test_training_lowers_both_losses(fitted):
    losses = [row.value for row in find(fitted, metric="loss", split="validation")]
    assert losses[-1] < losses[0] / 2


def test_the_temperature_never_passes_its_cap(data):
    result = fit(*data, QUICK.model_copy(update={"lr": 0.5, "epochs": 6}))
    assert result.adapters.log_scale.exp().item() <= 100.001


def sides(captions=3):
    pairs = pair(*planted(40, captions), FitConfig(k=3))
    return pairs.x, pairs.y


def test_sample_draws_one_row_of_each_group_and_all_draws_each_row_once():
    x, y = sides()
    generator = torch.Generator().manual_seed(0)
    partner = torch.arange(40)
    one = epoch_pairs(x, y, partner, "sample", generator)
    assert sorted(one[2].tolist()) == list(range(40))
    each = epoch_pairs(x, y, partner, "all", generator)
    assert sorted(each[1].tolist()) == list(range(120))
    for rows_x, rows_y, groups in (one, each):
        assert torch.equal(x.groups[rows_x], groups) and torch.equal(y.groups[rows_y], groups)


def test_another_caption_is_drawn_in_another_epoch():
    x, y = sides()
    generator = torch.Generator().manual_seed(0)
    drawn = [set(epoch_pairs(x, y, torch.arange(40), "sample", generator)[1].tolist()) for _ in range(60)]
    assert set.union(*drawn) == set(range(120))


def test_shuffled_pairs_never_meet_their_own_group():
    from featcache.trainer.fit import _deranged

    x, y = sides()
    for seed in range(20):
        partner = _deranged(40, seed)
        assert sorted(partner.tolist()) == list(range(40))
        rows_x, rows_y, _ = epoch_pairs(x, y, partner, "all", torch.Generator().manual_seed(seed))
        assert not (x.groups[rows_x] == y.groups[rows_y]).any()


@pytest.mark.parametrize(
    "change", [{"captions": "mean"}, {"adapter": "mlp"}, {"adapter": "bottleneck"}, {"batch": 2000}]
)
def test_every_choice_trains(data, change):
    result = fit(*data, QUICK.model_copy(update=change))
    losses = [row.value for row in find(result, metric="loss", split="validation")]
    assert losses[-1] < losses[0]


def test_a_diverging_run_says_so(data):
    with pytest.raises(TrainingDiverged, match="in epoch [12] of 4 .lr 1e.30"):
        fit(*data, QUICK.model_copy(update={"lr": 1e30}))


def test_a_device_that_is_not_there_is_refused(data):
    with pytest.raises(UsageError, match="(?s)device 'cuda:99' cannot be used.*cpu is always there"):
        fit(*data, QUICK.model_copy(update={"device": "cuda:99"}))


CHECK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"timm", "transformers", "torchvision", "data", "zarr"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from featcache.trainer.config import FitConfig
from featcache.trainer.fit import fit
from tests.trainer_planted import planted
# numba loads scipy.linalg for its BLAS; the other parts of scipy are what is slow
slow = {"polars", "sklearn", "scipy.sparse", "scipy.stats", "pandas", "torch._dynamo", "sympy"}
def first(epoch):
    loaded = slow & set(sys.modules)
    assert not loaded, loaded
fit(*planted(80), FitConfig(epochs=1, k=3, permutations=100), on_epoch=first)
print("trained")
"""


def test_training_needs_no_encoder_library_no_data_folder_and_no_slow_import():
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "trained\n", done.stderr
