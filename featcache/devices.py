"""The check that torch can use a device."""

import torch

from featcache.errors import UsageError


def check_device(device: str) -> None:
    """Raises UsageError if torch cannot put a tensor on a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device {device!r} cannot be used: {reason}\n  cpu is always there") from error
