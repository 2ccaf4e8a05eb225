"""Mixup halves a batch with one share for all sides; the geometry penalty is the obvious loop over rows."""

import math

import pytest
import torch

from featcache.trainer.config import FitConfig
from featcache.trainer.fit import fit
from featcache.trainer.losses import pairwise_loss
from featcache.trainer.regularizers import geometry_loss, lost_geometry, mixup
from tests.trainer_planted import planted_sides, without

QUICK = FitConfig(epochs=2, batch=32, width=16, k=5, lr=5e-3, permutations=100)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [4, 8, 9])
def test_mixup_halves_the_batch_with_one_share_for_every_row_and_side(count):
    sides = {"x": torch.randn(count, 3, generator=seeded(1)), "y": torch.randn(count, 5, generator=seeded(2))}
    groups = torch.arange(10, 10 + count)
    mixed, numbers, present = mixup(sides, groups, None, seeded())
    share = float(torch.rand((), generator=seeded()))
    half = count // 2
    assert 0 < share < 1 and present is None
    for name, rows in sides.items():
        assert len(mixed[name]) == half
        for i in range(half):
            torch.testing.assert_close(mixed[name][i], share * rows[i] + (1 - share) * rows[half + i])
    assert numbers.tolist() == [[10 + i, 10 + half + i] for i in range(half)]


def test_a_mixture_is_there_where_both_of_its_rows_are():
    sides = {"x": torch.randn(6, 2), "y": torch.randn(6, 2)}
    there = {"x": torch.tensor([1, 1, 0, 1, 0, 1]).bool(), "y": torch.ones(6).bool()}
    _, _, present = mixup(sides, torch.arange(6), there, seeded())
    assert present is not None and present["x"].tolist() == [True, False, False] and present["y"].all()


def test_training_with_mixup_sees_half_as_many_rows_in_as_many_steps(monkeypatch):
    seen = []

    def watched(sides, objective, groups, *rest):
        seen.append((len(groups), groups.ndim))
        return pairwise_loss(sides, objective, groups, *rest)

    monkeypatch.setattr("featcache.trainer.losses.pairwise_loss", watched)
    monkeypatch.setattr("featcache.trainer.fit.epoch_rows", lambda *_: [])
    monkeypatch.setattr("featcache.trainer.fit.mean_recall", lambda _: 0.0)
    data = planted_sides(480)
    for on, rows, ndim in ((False, 240, 1), (True, 120, 2)):
        seen.clear()
        fit(*data, QUICK.model_copy(update={"mixup": on, "epochs": 1}))
        assert len(seen) == 8 and sum(count for count, _ in seen) == rows and {kind for _, kind in seen} == {ndim}


def test_the_geometry_penalty_equals_the_loop_over_rows_and_neighbours():
    before = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
    after = torch.randn(6, 3, generator=seeded(2), dtype=torch.float64)

    def neighborhoods(rows):
        rows = [row - rows.mean(dim=0) for row in rows]
        cosines = [[float(a @ b / (a.norm() * b.norm())) for b in rows] for a in rows]
        weights = [[math.exp(row[j] / 0.05) for j in range(6) if j != i] for i, row in enumerate(cosines)]
        return [[value / sum(row) for value in row] for row in weights]

    total = 0.0
    for p, q in zip(neighborhoods(before), neighborhoods(after), strict=True):
        for a, b in zip(p, q, strict=True):
            total += (a * math.log(a / ((a + b) / 2)) + b * math.log(b / ((a + b) / 2))) / 2
    assert geometry_loss(before, after).item() == pytest.approx(total / 6, rel=1e-9)


def test_the_geometry_penalty_lies_between_0_and_ln_2_and_rotations_cost_nothing():
    x = torch.randn(40, 8, generator=seeded(3))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=seeded(4)))[0]
    assert geometry_loss(x, 5 * x @ rotation + 2).item() == pytest.approx(0, abs=1e-4)
    assert 0.3 < geometry_loss(x, torch.randn(40, 8, generator=seeded(5))).item() < math.log(2)


def test_rows_that_are_missing_count_in_no_neighbourhood():
    x, y = torch.randn(6, 4, generator=seeded(1)), torch.randn(6, 3, generator=seeded(2))
    mask = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    lost = lost_geometry({"x": x}, {"x": y}, {"x": mask})
    assert lost.item() == pytest.approx(geometry_loss(x[mask], y[mask]).item())
    assert lost_geometry({"x": x}, {"x": y}, {"x": torch.zeros(6).bool()}).item() == 0


def test_keeping_the_geometry_loses_less_of_it_with_sides_that_lack_rows():
    sides, reference = planted_sides(240, third=True)
    sides = {**sides, "z": without(sides["z"], [f"g{i:04d}" for i in range(0, 240, 3)])}
    rows = {}
    for weight in (0.0, 30.0):
        result = fit(sides, reference, QUICK.model_copy(update={"keep_geometry": weight, "missing": "mask"}))
        side = result.paired.part("test").sides["x"]
        rows[weight] = geometry_loss(side.values, result.adapters.embed("x", side.values)).item()
    assert rows[30.0] < rows[0.0]
