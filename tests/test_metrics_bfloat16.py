"""Bfloat16 only proposes: its bound holds, near ties are settled; where it does not pay or is not sound it is left."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.metrics import neighbors
from featcache.metrics.knn import bfloat16, compiled, exact, plan, search
from featcache.metrics.knn.bfloat16 import ROUNDING, Speed
from featcache.metrics.knn.exclusion import Exclusion
from tests.test_metrics_neighbors import HARD, oracle

RNG = np.random.default_rng


def close_calls(n: int, d: int, gap: float, seed: int = 0) -> np.ndarray:
    """Rows about a few centres whose similarities to each differ by less than bfloat16 tells apart."""
    rng = RNG(seed)
    centres = rng.standard_normal((4, d))
    rows = centres[np.arange(n) % 4] + gap * rng.standard_normal((n, d))
    return rows.astype(np.float32)


INSIDE = {
    "inside the bound": close_calls(240, 32, 1e-3),
    "far inside the bound": close_calls(240, 32, 1e-5),
    "halves of a bfloat16 step": (1 + 2.0**-9 * RNG(1).integers(0, 3, (200, 16))).astype(np.float32),
    "one large column": np.c_[RNG(2).standard_normal((200, 15)), 300 + RNG(3).standard_normal(200)].astype(np.float32),
    "subnormal columns": np.c_[RNG(4).standard_normal((200, 8)), 1e-40 * RNG(5).standard_normal((200, 8))],
    "tiny": 1e-30 * RNG(6).standard_normal((200, 12)),
    "huge": 1e30 * RNG(7).standard_normal((200, 12)),
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("metric", exact.MEASURES)
def test_rows_that_bfloat16_cannot_tell_apart_have_the_ids_of_the_oracle(name, metric) -> None:
    x = INSIDE[name]
    np.testing.assert_array_equal(neighbors(x, k=6, metric=metric, backend="bfloat16").ids, oracle(x, 6, metric=metric))


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(3, 80),
    d=st.integers(1, 40),
    gap=st.sampled_from([1e-6, 1e-4, 1e-3, 1e-2, 1.0]),
    scale=st.sampled_from([1e-38, 1e-6, 1.0, 1e6, 1e38]),
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(exact.MEASURES),
    data=st.data(),
)
def test_ids_are_those_of_the_oracle_however_close_the_rows(n, d, gap, scale, seed, metric, data) -> None:
    k = data.draw(st.integers(1, min(n - 1, 12)))
    x = close_calls(n, d, gap, seed).astype(np.float64) * scale
    np.testing.assert_array_equal(neighbors(x, k=k, metric=metric, backend="bfloat16").ids, oracle(x, k, metric=metric))


@pytest.mark.parametrize("metric", exact.MEASURES)
@pytest.mark.parametrize("name", [*HARD, *INSIDE])
def test_the_bound_holds_for_every_pair(name, metric) -> None:
    space = exact.prepare({**HARD, **INSIDE}[name], metric)
    n, operands = len(space), bfloat16.halved(space)
    assert isinstance(operands.rows, torch.Tensor)
    unit = space.values.astype(np.longdouble) * space.scale[:, None]
    centred = unit - space.mean
    bias = -((centred**2).sum(axis=1)) / 2 if metric == "euclidean" else centred @ space.mean.astype(np.longdouble)
    true = (centred @ centred.T + bias).astype(np.float64)
    given = (operands.rows @ operands.rows.T).float().numpy() + space.bias
    allowed = operands.bound[:, None] + operands.slack(given.astype(np.float64))
    assert (np.abs(given - true) <= allowed).all()
    assert len(given) == n


def mirrored(x: np.ndarray) -> np.ndarray:
    """Rows and their negatives: the mean is 0, so centring takes nothing away."""
    return np.concatenate([x, -x])


# (rows, k) of which one part of the bound alone keeps the ids right: rows that are rounded, whose k-th product is
# near 0; and rows that are not rounded, whose products are large and are ordered with a bias
DECISIVE = {
    "bound": (mirrored(RNG(8).standard_normal((200, 512))).astype(np.float32), 199),
    "rounding": (mirrored(RNG(9).integers(-7, 8, (300, 40))).astype(np.float32) + 5, 6),
}


@pytest.mark.parametrize("part", DECISIVE)
def test_a_bound_made_too_small_is_caught(part, monkeypatch) -> None:
    (x, k), halved = DECISIVE[part], bfloat16.halved
    expected = oracle(x, k, metric="ip")
    np.testing.assert_array_equal(neighbors(x, k=k, metric="ip", backend="bfloat16").ids, expected)

    def forgetful(space):
        whole = halved(space)
        bound = 0 * whole.bound if part == "bound" else whole.bound
        return bfloat16.Operands(whole.rows, bound, 0.0 if part == "rounding" else whole.rounding, whole.bias_reach)

    monkeypatch.setattr(bfloat16, "halved", forgetful)
    assert not np.array_equal(neighbors(x, k=k, metric="ip", backend="bfloat16").ids, expected)


def test_rounding_is_torchs() -> None:
    x = RNG(0).standard_normal((50, 70)).astype(np.float32) * 10.0 ** RNG(1).integers(-40, 20, (50, 1))
    x = x.astype(np.float32)
    bits, residual = np.empty(x.shape, np.uint16), np.empty(50)
    compiled.to_bfloat16(x, 0, 50, bits, residual)
    theirs = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(bits, theirs.view(torch.int16).numpy().view(np.uint16))
    lost = np.linalg.norm(x.astype(np.float64) - theirs.double().numpy(), axis=1)
    np.testing.assert_allclose(residual, lost, rtol=1e-7)
    assert (residual >= lost).all()


def test_products_are_checked_before_they_are_used(monkeypatch) -> None:
    assert bfloat16.measured_speed().half > 0
    mm = torch.mm

    def careless(a, b, *, out):  # sums in bfloat16, as some back ends do
        mm(a, b, out=out)
        return out.mul_(1.02)

    monkeypatch.setattr(bfloat16.torch, "mm", careless)
    assert bfloat16.measured_speed().half == 0


@pytest.fixture
def rates(monkeypatch):
    """Sets how fast products are said to be."""

    def set_to(single: float, half: float) -> None:
        monkeypatch.setattr(bfloat16, "speed", lambda: Speed(single, half))

    return set_to


def chosen(x: np.ndarray, k: int = 10) -> plan.Plan:
    space = exact.prepare(x, "cosine")
    return plan.plan(space, np.arange(len(space)), k, half=None)


def test_bfloat16_is_taken_where_its_products_are_quicker_and_leave_few_rows_open(rates) -> None:
    apart = RNG(0).standard_normal((plan.SMALL + 1, 64)).astype(np.float32)
    rates(1e11, 4e11)
    assert chosen(apart).operands.is_half
    assert not chosen(apart[:-1]).operands.is_half  # small: nothing is measured
    close = close_calls(plan.SMALL + 1, 64, 1e-4)
    assert not chosen(close).operands.is_half  # lists of no length would do
    rates(1e11, 0.9e11)
    assert not chosen(apart).operands.is_half
    rates(1e11, 0.0)  # not sound
    assert not chosen(apart).operands.is_half


def test_lists_are_as_long_as_a_sample_of_rows_needs_them(rates) -> None:
    rates(1e11, 4e11)
    x = RNG(0).standard_normal((6_000, 256)).astype(np.float32)
    short = plan.plan(exact.prepare(x, "cosine"), np.arange(6_000), 10, half=True)
    assert short.length > 10 + 10 // 8 + plan._MARGIN
    result = neighbors(x, k=10, backend="bfloat16")
    assert result.searched_again < 600 and result.backend.startswith("tiles, bfloat16")
    np.testing.assert_array_equal(result.ids, neighbors(x, k=10, backend="tiles").ids)


def test_the_measurement_is_kept_for_the_machine(tmp_path, monkeypatch) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    calls = []
    monkeypatch.setattr(bfloat16, "measured_speed", lambda: calls.append(1) or Speed(2.0, 6.0))
    for _ in range(2):
        bfloat16.speed.cache_clear()
        assert bfloat16.speed().ratio == 3
    (kept,) = (tmp_path / "featcache").iterdir()
    assert calls == [1] and json.loads(kept.read_text()) == {"single": 2.0, "half": 6.0}
    kept.write_text("{")  # as after a full disk
    bfloat16.speed.cache_clear()
    assert bfloat16.speed().ratio == 3 and calls == [1, 1]
    bfloat16.speed.cache_clear()


def test_a_slack_is_that_of_the_product_itself() -> None:
    operands = bfloat16.Operands(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), ROUNDING, 0.5)
    np.testing.assert_allclose(operands.slack(np.array([-1.0, 0.0, 2.0])), ROUNDING * np.array([1.5, 0.5, 2.5]))


# -- on other devices: torch multiplies --------------------------------------------------------------------------------


def by_torch(x: np.ndarray, k: int, metric: exact.Measure = "cosine", *, tile: int = 64, **changes: Any) -> np.ndarray:
    """Ids from products that torch computes in bfloat16, on the CPU here."""
    space, exclusion = exact.prepare(x, metric), Exclusion(np.arange(len(x)))
    operands = replace(bfloat16.halved(space), **changes)
    found = search.proposals(space, exclusion, np.arange(len(x)), k=k, tile=tile, device="cpu", operands=operands)
    return np.concatenate([exact.select_nearest(space, rows, cols, len(part), k)[0] for part, rows, cols in found])


@pytest.mark.parametrize("metric", exact.MEASURES)
@pytest.mark.parametrize("name", [*HARD, *INSIDE])
def test_products_by_torch_propose_every_neighbour(name, metric) -> None:
    x = {**HARD, **INSIDE}[name]
    np.testing.assert_array_equal(by_torch(x, 6, metric), oracle(x, 6, metric=metric))


@pytest.mark.parametrize("tile", [1, 7, 500])
def test_no_tile_of_torchs_changes_an_id(tile) -> None:
    x = close_calls(240, 32, 1e-3)
    np.testing.assert_array_equal(by_torch(x, 6, tile=tile), oracle(x, 6))


@pytest.mark.parametrize("part", DECISIVE)
def test_a_bound_made_too_small_is_caught_by_torch_too(part) -> None:
    x, k = DECISIVE[part]
    expected, n = oracle(x, k, metric="ip"), len(x)
    np.testing.assert_array_equal(by_torch(x, k, "ip"), expected)
    less: dict[str, Any] = {"bound": np.zeros(n, np.float32)} if part == "bound" else {"rounding": 0.0}
    assert not np.array_equal(by_torch(x, k, "ip", **less), expected)


def test_what_is_quicker_on_a_device_gives_the_same_ids(monkeypatch) -> None:
    x = close_calls(plan.SMALL + 60, 16, 1e-2)
    space, exclusion = exact.prepare(x, "cosine"), Exclusion(np.arange(len(x)))
    chosen = search.quicker(space, exclusion, k=5, tile=512, device=torch.device("cpu"))
    assert isinstance(chosen.rows, np.ndarray | torch.Tensor)
    ids = neighbors(x, k=5, backend="torch").ids
    np.testing.assert_array_equal(by_torch(x, 5, tile=512), ids)
    np.testing.assert_array_equal(neighbors(x, k=5, backend="bfloat16").ids, ids)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "bfloat16", "torch"])
def test_a_gpu_gives_the_ids_of_the_cpu(backend) -> None:
    x = torch.from_numpy(close_calls(3 * plan.SMALL, 64, 1e-2))
    on_gpu = neighbors(x.cuda(), k=10, backend=backend)
    np.testing.assert_array_equal(on_gpu.ids, neighbors(x, k=10, backend="tiles").ids)
    assert on_gpu.backend.endswith("(cuda:0)")
