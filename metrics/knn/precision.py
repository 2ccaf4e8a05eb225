"""A context in which float32 products are computed in float32, whatever callers switched on for speed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_before: list[tuple[Any, str]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32: TF32 or bfloat16 passes, or autocast, would break the error bound.

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


def _switched_off() -> list[tuple[Any, str]]:
    """Switches to full precision; what was set before, by whichever of torch's two interfaces the caller used."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller set one back end's fp32_precision: torch refuses to mix the two
        places = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # pyright: ignore[reportAttributeAccessIssue]
        previous = [(place, place.fp32_precision) for place in places]
        for place in places:
            place.fp32_precision = "ieee"
        return previous
    if before == "highest":
        return []
    torch.set_float32_matmul_precision("highest")
    return [(None, before)]


def _restore(before: list[tuple[Any, str]]) -> None:
    for place, value in before:
        if place is None:
            torch.set_float32_matmul_precision(value)
        else:
            place.fp32_precision = value
