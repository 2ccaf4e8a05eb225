"""A context in which float32 products are computed in float32, whatever callers switched on for speed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_before: list[tuple[Any, str, Any]] = []  # (place, setting, value); no place: torch's matmul precision


@contextmanager
def full_precision() -> Iterator[None]:
    """Products summed in float32: TF32 or bfloat16 passes, autocast, or sums in bfloat16 would break the error bound.

    The settings are the process's: the first thread to enter switches them, the last to leave restores them.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _before[:] = _switched_off()
        _inside += 1
    try:
        with ExitStack() as off:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    off.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore(_before)


def _switched_off() -> list[tuple[Any, str, Any]]:
    """Switches to full precision; what was set before, by whichever of torch's two interfaces the caller used."""
    matmul: Any = torch.backends.cuda.matmul
    sums = "allow_bf16_reduced_precision_reduction"
    previous: list[tuple[Any, str, Any]] = [(matmul, sums, getattr(matmul, sums))]
    setattr(matmul, sums, False)
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller set one back end's fp32_precision: torch refuses to mix the two
        for place in (matmul, torch.backends.mkldnn.matmul):  # pyright: ignore[reportAttributeAccessIssue]
            previous.append((place, "fp32_precision", place.fp32_precision))
            place.fp32_precision = "ieee"
        return previous
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
        previous.append((None, "", before))
    return previous


def _restore(before: list[tuple[Any, str, Any]]) -> None:
    for place, setting, value in before:
        if place is None:
            torch.set_float32_matmul_precision(value)
        else:
            setattr(place, setting, value)
