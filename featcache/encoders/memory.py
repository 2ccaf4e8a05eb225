"""Memory that the process keeps once freed: asking the system for it again costs more than the arithmetic."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BELOW, _KEPT_BELOW_BEFORE_GLIBC_2_35 = 1 << 30, 32 << 20


def keep_freed_memory() -> bool:
    """Lets glibc reuse freed activations instead of returning them to the system; returns whether it could.

    A network on a CPU frees and allocates the same megabytes in every layer, and by default each of them is mapped and
    zeroed anew. Kept, EfficientNet-Lite0 ran 2.5 times as fast on two cores (docs/log.md). The process keeps its peak
    of memory until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mapped = any(mallopt(_M_MMAP_THRESHOLD, most) for most in (_KEPT_BELOW, _KEPT_BELOW_BEFORE_GLIBC_2_35))
    return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)) and mapped
