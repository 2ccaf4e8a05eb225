"""Checks and conversions of features, groups and options."""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias, TypeGuard

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from featcache.metrics.errors import BadDtype, BadShape, ConstantSpace, NotFinite, TooFewRows, ZeroRow

X: TypeAlias = Float[Tensor, "n dx"] | Float[np.ndarray, "n dx"]
Y: TypeAlias = Float[Tensor, "n dy"] | Float[np.ndarray, "n dy"]
Graph: TypeAlias = Int[np.ndarray, "n k"] | Int[Tensor, "n k"]
Groups: TypeAlias = Sequence[Hashable] | np.ndarray

_FLOATS = ("float16", "float32", "float64")


def checked(x: X | Y, name: str = "x") -> np.ndarray:
    """The features [n, d] as a numpy array in their own dtype (float16, float32 or float64, any byte order), checked.

    C-contiguous, in this machine's byte order, on the CPU; may share memory with x, so do not write to it. `name` is
    what the messages call it.

    Raises:
        BadShape: If x is not two-dimensional or is empty.
        BadDtype: If x is bfloat16 or not floating point, a sparse tensor or a masked array.
        NotFinite: If a row holds NaN or infinity; names the first.

    Example:
        >>> checked(np.float16([[1, 2]])).dtype.name
        'float16'
    """
    if not isinstance(x, torch.Tensor | np.ndarray):
        raise BadShape(f"{name}: wanted a numpy array or a torch tensor [n, d], got {type(x).__name__}")
    refuse_gaps(x, name)
    dtype = str(x.dtype).removeprefix("torch.") if isinstance(x, torch.Tensor) else x.dtype.name
    if x.ndim != 2 or 0 in x.shape:
        raise BadShape(f"{name}: wanted features [n, d] with at least one row and column, got shape {tuple(x.shape)}")
    if dtype not in _FLOATS:
        why = "; its 8 bits of precision change which rows are neighbours" if dtype == "bfloat16" else ""
        raise BadDtype(f"{name} is {dtype}{why}; wanted one of {', '.join(_FLOATS)}: convert it, or extract as float32")
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().numpy()
    values = np.ascontiguousarray(x, dtype=dtype)  # in this machine's byte order
    # One pass over n sums instead of n * d booleans; a sum of finite numbers may overflow, hence the second look.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None, dtype=np.float32 if dtype == "float16" else None)
    if not np.isfinite(total):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise NotFinite(f"{name}: {len(bad)} of {len(values)} rows hold NaN or infinity, the first is row {bad[0]}")
    return values


def refuse_gaps(x: X | Y, name: str = "x") -> None:
    """Raises BadDtype for sparse tensors and masked arrays: numpy and torch disagree on what their gaps hold."""
    if isinstance(x, torch.Tensor) and x.layout != torch.strided:
        raise BadDtype(f"{name} is a {x.layout} tensor; wanted a dense one: x.to_dense() writes its zeros out")
    if isinstance(x, np.ma.MaskedArray):
        raise BadDtype(f"{name} is a masked array; a metric needs every entry: drop the rows, or fill them (x.filled)")


def as_float64(x: X | Y, name: str = "x") -> np.ndarray:
    """A checked float64 copy of features, C-contiguous, on the CPU, to be written to; errors as `checked`.

    Example:
        >>> as_float64(np.float16([[1, 2]])).dtype.name
        'float64'
    """
    return np.array(checked(x, name), dtype=np.float64, order="C")


def check_pair(x: X, y: Y, *, at_least: int = 2) -> None:
    """Refuses two spaces that cannot be compared, without a copy of either; other errors as `checked`.

    Raises:
        BadShape: If the numbers of rows differ.
        TooFewRows: If there are fewer than `at_least` rows.
        ConstantSpace: If every row of one space is the same.
    """
    _refuse_unfit(checked(x, "x"), checked(y, "y"), at_least)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether an option is a whole number; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether an option is a real number; True and False are not."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_same_width(a: np.ndarray, b: np.ndarray) -> None:
    """Raises BadShape if two spaces differ in width, so that their rows cannot be compared with each other."""
    if a.shape[1] != b.shape[1]:
        raise BadShape(
            f"x is {a.shape[1]} wide and y {b.shape[1]}: their rows are compared with each other, so both must lie "
            "in one space of one width"
        )


def _refuse_unfit(a: np.ndarray, b: np.ndarray, at_least: int) -> None:
    if len(a) != len(b):
        raise BadShape(
            f"x has {len(a)} rows and y has {len(b)}: row i of both must be the same sample; pair them by id"
        )
    if len(a) < at_least:
        raise TooFewRows(f"wanted at least {at_least} rows, got {len(a)}")
    for values, name in ((a, "x"), (b, "y")):
        # Nearly always the last row settles it; only a space that may have collapsed is looked at as a whole.
        if (values[-1] == values[0]).all() and (values == values[0]).all():
            raise ConstantSpace(f"{name}: all {len(values)} rows are the same; the space has collapsed to one point")


def unit_rows(values: np.ndarray, name: str = "x") -> np.ndarray:
    """Rows of length 1, in float64 and a fixed order; overwrites and returns `values`. ZeroRow if a row is zero."""
    peak = np.abs(values).max(axis=1)
    zero = np.flatnonzero(peak == 0)
    if len(zero):
        raise ZeroRow(f"{name}: {len(zero)} of {len(values)} rows are zero, the first is row {zero[0]}; no cosine")
    if peak.max() > 1e100 or peak.min() < 1e-100:  # squares would leave float64; a power of two changes no bit
        np.ldexp(values, -np.frexp(peak)[1][:, None], out=values)
    values /= np.sqrt(np.add.reduce(values * values, axis=1))[:, None]
    return values


def group_codes(groups: Groups | None, n: int, name: str = "groups") -> tuple[np.ndarray, list[Hashable]]:
    """Groups as numbers 0, 1, ... in order of first occurrence, and the groups in that order.

    None makes every row a group of its own. Errors as `labels`.

    Example:
        >>> group_codes(["b", "a", "b"], 3)
        (array([0, 1, 0]), ['b', 'a'])
    """
    if groups is None:
        return np.arange(n), list(range(n))
    if isinstance(groups, np.ndarray) and groups.shape == (n,) and np.issubdtype(groups.dtype, np.integer):
        numbers, first, codes = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return place[codes], numbers[order].tolist()
    rows = labels(groups, n, name)
    seen: dict[Hashable, int] = {}
    codes = np.fromiter((seen.setdefault(group, len(seen)) for group in rows), dtype=np.int64, count=n)
    return codes, list(seen)


def labels(values: Groups | Tensor, n: int, name: str) -> list[Hashable]:
    """One hashable a row, as a list: numbers of arrays as Python's own.

    BadShape if there is not one hashable a row, or one is NaN, which is not equal to itself.
    """
    wanted = f"wanted one hashable a row, {n} in all"
    if isinstance(values, np.ndarray | torch.Tensor):
        if values.ndim != 1:
            raise BadShape(f"{name}: an array of shape {tuple(values.shape)}; {wanted}")
        rows = values.tolist()
    elif isinstance(values, Iterable):
        rows = list(values)
    else:
        raise BadShape(f"{name}: {values!r}; {wanted}")
    if len(rows) != n:
        raise BadShape(f"{name}: {len(rows)} entries for {n} rows; {wanted}")
    for place, row in enumerate(rows):
        if not _is_label(row):
            raise BadShape(f"{name}: entry {place} is {row!r}, not hashable or not equal to itself; {wanted}")
    return rows


def _is_label(row: object) -> bool:
    try:
        hash(row)
        return bool(row == row)  # not so for NaN
    except TypeError:
        return False


def float32_like(values: np.ndarray, x: X | Y) -> np.ndarray | Tensor:
    """`values` as float32, in the kind (numpy or torch) and on the device of `x`."""
    if isinstance(x, torch.Tensor):
        return torch.from_numpy(values).to(x.device, torch.float32)
    return values.astype(np.float32)
