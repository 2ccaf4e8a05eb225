"""NumPy arrays from what a pickle states of them: shape, kind of number and bytes, checked against each other."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.data.errors import DataInvalid

_DTYPE = re.compile(r"f[248]|[iu][1248]|b1|[SU][1-9]\d{0,5}|O8?")
_CORE = ("numpy.core.", "numpy._core.")  # before and since NumPy 2
# names that NumPy writes -> what stands for them here
NAMES = {
    **{f"{core}multiarray._reconstruct": "reconstruct" for core in _CORE},
    **{f"{core}multiarray.scalar": "scalar" for core in _CORE},
    **{f"{core}numeric._frombuffer": "from_buffer" for core in _CORE},
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
    "__builtin__.bytes": "no_bytes",
}


@dataclass(frozen=True)
class Name:
    """What stands for a name until it is called."""

    name: str


class Unbuilt:
    """An array, or kind of number, that is named before its state comes."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype | None = None) -> None:
        self.value: np.dtype | np.ndarray | None = value

    def build(self, state: tuple[Any, ...]) -> None:
        """Takes the state that the file gives.

        Raises:
            DataInvalid: If it contradicts itself, or comes twice.
        """
        if isinstance(self.value, np.dtype):
            self.value = _ordered(self.value, *state)
            return
        if self.value is not None:
            raise DataInvalid("an array whose content comes twice")
        _, shape, dtype, fortran, data = state if len(state) == 5 else (1, *state)
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unbuilt:
    if not (isinstance(kind, Name) and kind.name == "ndarray" and shape == (0,) and code in (b"b", "b")):
        raise DataInvalid("an array that begins with another shape or class than NumPy writes")
    return Unbuilt()


def _dtype(text: Any, align: Any = False, copy: Any = True) -> Unbuilt:
    if not (isinstance(text, str) and _DTYPE.fullmatch(text)) or align not in (0, False) or copy not in (0, 1):
        raise DataInvalid(f"numbers of another kind than is read: {str(text)[:40]!a}")
    return Unbuilt(np.dtype(text[0] if text[0] == "O" else text))


def _ordered(dtype: np.dtype, version: Any, order: Any, *rest: Any) -> np.dtype:
    """A dtype in the byte order of its state; parts and fields are not read."""
    if version not in (3, 4) or order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
        raise DataInvalid("numbers of another kind than is read: parts or fields")
    return dtype.newbyteorder(order) if order in "<>" else dtype


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array(data, dtype, (), "C")[()]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if order not in ("C", "F") or axes is not None:
        raise DataInvalid("an array in another order than C or F")
    return _array(data, dtype, shape, order)


def _encoded(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataInvalid("bytes in another encoding than latin1")
    return text.encode("latin1")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array whose bytes are as many as its shape has, so that a file cannot claim what it does not hold."""
    whole = isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 2**48 for size in shape)
    if not whole or len(shape) > 8 or not isinstance(dtype, np.dtype):
        raise DataInvalid("an array without shape or kind of number")
    entries = math.prod(shape)
    if dtype.hasobject:
        if not isinstance(data, list) or len(data) != entries:
            raise DataInvalid(f"an array {shape} of objects that lists other than {entries:,}")
        values = np.empty(entries, dtype=object)
        for place, item in enumerate(data):
            values[place] = item
        return values.reshape(shape, order=order)
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes | memoryview) or len(data) != entries * dtype.itemsize:
        raise DataInvalid(f"an array {shape} of {dtype.itemsize}-byte numbers that holds other than {entries:,}")
    values = np.frombuffer(data, dtype) if entries else np.empty(0, dtype)
    return values.reshape(shape, order=order)


# what stands for a name -> what a call of it does
CALLS: dict[str, Callable[..., Any]] = {
    "reconstruct": _reconstruct,
    "scalar": _scalar,
    "from_buffer": _from_buffer,
    "dtype": _dtype,
    "encode": _encoded,
    "no_bytes": lambda: b"",  # how protocol 2 writes them; with arguments it is refused
}
