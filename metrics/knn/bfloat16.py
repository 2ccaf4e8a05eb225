"""Bfloat16 products as proposals: rounded rows, how far their products may be off, and whether they pay here.

Processors with AMX or AVX-512-BF16 multiply bfloat16 twice to seven times as fast as float32. What is nearest is
decided in float64 in any case, so proposals may be coarse as long as their error is bounded.
"""

import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from blake3 import blake3

from featcache.metrics.knn import compiled, exact
from featcache.metrics.knn.exact import SearchRows
from featcache.metrics.knn.threads import one_blas_thread, one_openmp_thread, over_rows

ROUNDING = 2.0**-8  # of a number of eight significant bits, relative
_TILE, _WIDTH, _TRIES = 640, 512, 7  # of the products that are measured


@dataclass(frozen=True, eq=False)
class Operands:
    """What proposes pairs: rows, and how far a product plus its bias may be from the pair's float64 value.

    That is at most `bound` of the row, and `rounding` of the product's own size.
    """

    rows: np.ndarray | torch.Tensor  # [n, d] float32 in NumPy, bfloat16 in torch
    bound: np.ndarray  # [n] float32
    rounding: float  # of the output, relative; 0 where it is in the bound
    bias_reach: float  # the largest |bias|: |product| <= |product + bias| + bias_reach

    @property
    def is_half(self) -> bool:
        """Whether the rows are bfloat16."""
        return isinstance(self.rows, torch.Tensor)

    def slack(self, values: np.ndarray) -> np.ndarray:
        """What `rounding` allows products plus bias, of any shape, beside the bound of their row; -inf is none."""
        return self.rounding * (np.where(np.isfinite(values), np.abs(values), 0.0) + self.bias_reach)


def single(space: SearchRows) -> Operands:
    """The float32 rows themselves."""
    return Operands(space.centred, space.bound, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Rounded:
    """Centred rows rounded to bfloat16, and how long is what each lost."""

    rows: torch.Tensor  # [n, d] bfloat16
    residual: np.ndarray  # [n] float64


def rounded(space: SearchRows) -> Rounded:
    """Rounds the centred rows, ties to even."""
    n = len(space)
    bits, residual = np.empty(space.centred.shape, np.uint16), np.empty(n)
    over_rows(lambda start, stop: compiled.to_bfloat16(space.centred, start, stop, bits, residual), n)
    return Rounded(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16), residual)


def value_bound(space: SearchRows, own: Rounded, candidates: SearchRows, theirs: Rounded) -> np.ndarray:
    """As `exact.value_bound` of rounded rows, [n] float32, without the rounding of the product itself.

    With c = b + r for each row, |c_i . c_j - b_i . b_j| <= |r_i| |c_j| + |b_i| |r_j|; products of bfloat16 are exact in
    float32, which sums them.
    """
    off = own.residual * candidates.lengths.max() + (space.lengths + own.residual) * theirs.residual.max()
    return (1.02 * exact.value_bound(space, candidates) + 1.0001 * off).astype(np.float32)


def halved(space: SearchRows) -> Operands:
    """Rows rounded to bfloat16, with a bound from the residuals that were measured."""
    own = rounded(space)
    return Operands(own.rows, value_bound(space, own, space, own), ROUNDING, float(np.abs(space.bias).max()))


# -- whether it pays --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Multiplications and additions a second of one thread."""

    single: float
    half: float  # 0 where bfloat16 products are not what the bound takes them for

    @property
    def ratio(self) -> float:
        """Of bfloat16 relative to float32."""
        return self.half / self.single


@cache
def speed() -> Speed:
    """How fast this machine multiplies, measured once (some 100 ms) and kept in the user's cache folder."""
    from platformdirs import user_cache_path

    path = user_cache_path("featcache") / f"products-{_machine()}.json"
    with suppress(OSError, ValueError, TypeError):
        return Speed(**json.loads(path.read_text(encoding="utf-8")))
    measured = measured_speed()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    return measured


def measured_speed() -> Speed:
    """Times products of a tile in float32 and in bfloat16, and checks that the second are what they should be."""
    space = exact.prepare(np.random.default_rng(0).standard_normal((2 * _TILE, _WIDTH)).astype(np.float32), "cosine")
    half = halved(space)
    assert isinstance(half.rows, torch.Tensor)
    a, b = half.rows[:_TILE], half.rows[_TILE:].T
    x, y = space.centred[:_TILE], space.centred[_TILE:].T
    out, coarse = np.empty((_TILE, _TILE), np.float32), torch.empty((_TILE, _TILE), dtype=torch.bfloat16)
    times: dict[str, list[float]] = {"single": [], "half": []}
    with one_blas_thread(), one_openmp_thread():
        for _ in range(_TRIES):  # the best of each: what else the machine does makes products slower, never faster
            started = perf_counter()
            np.matmul(x, y, out=out)
            between = perf_counter()
            torch.mm(a, b, out=coarse)
            times["single"].append(between - started)
            times["half"].append(perf_counter() - between)
    work = _TILE * _TILE * _WIDTH
    products = a.double() @ b.double()
    allowed = ROUNDING * products.abs() + exact.relative_bound(_WIDTH) * float(space.lengths.max() ** 2)
    sound = bool(((coarse.double() - products).abs() <= allowed).all())
    return Speed(work / min(times["single"]), work / min(times["half"]) if sound else 0.0)


def _machine() -> str:
    """What tells processors apart as far as products go, and the libraries that multiply."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if line.startswith(("model name", "flags", "Features"))][:2]
        return _short([*found, torch.__version__, np.__version__])
    return _short([platform.machine(), platform.processor(), torch.__version__, np.__version__])


def _short(parts: list[str]) -> str:
    return blake3("\n".join(parts).encode()).hexdigest()[:16]
