"""Sparklines: a row of numbers as a row of characters."""

import math
import sys
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.,-=+*#"  # where the output cannot carry blocks
_WIDEST = 24


def sparkline(values: Sequence[float], *, blocks: bool | None = None, widest: int = _WIDEST) -> str:
    """Numbers as a row of characters; of many, evenly spaced ones, the first and the last among them.

    Args:
        values: Numbers; those that are not finite are marked "x".
        blocks: Draw with block characters, else with plain ones; None: as the encoding of stdout allows.
        widest: Characters at most.

    Example:
        >>> sparkline([0.1, 0.2, 0.4, 0.3], blocks=True), sparkline([1.0, 0.0], blocks=False)
        ('▁▃█▆', '#_')
    """
    if len(values) > widest:
        values = [values[round(at * (len(values) - 1) / (widest - 1))] for at in range(widest)]
    levels = BLOCKS if (_can_print_blocks() if blocks is None else blocks) else PLAIN
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / (len(levels) - 1)
    return "".join(
        ("x" if not math.isfinite(value) else levels[round((value - low) / step) if step else 0]) for value in values
    )


def _can_print_blocks() -> bool:
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
