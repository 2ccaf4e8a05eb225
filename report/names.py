"""Names and numbers as short as a reader can still tell them apart."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

_LONGEST = 22


def shorten(name: str, longest: int = _LONGEST) -> str:
    """Cuts a name in its middle so that both ends stay readable.

    Example:
        >>> shorten("a-very-long-encoder-name-of-someone", 15)
        'a-very-…someone'
    """
    if len(name) <= longest:
        return name
    keep = longest - 1
    return f"{name[: keep // 2]}…{name[-(keep - keep // 2) :]}"


def short_names(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """Each name as `shorten` has it; those that would then be alike with a number.

    Example:
        >>> short_names(["ab", "x" * 10 + "1" + "x" * 10, "x" * 10 + "2" + "x" * 10], longest=5)
        {'ab': 'ab', 'xxxxxxxxxx1xxxxxxxxxx': 'xx…xx', 'xxxxxxxxxx2xxxxxxxxxx': 'xx…xx 2'}
    """
    short: dict[str, str] = {}
    seen = Counter[str]()
    for name in dict.fromkeys(names):
        cut = shorten(name, longest)
        seen[cut] += 1
        short[name] = cut if seen[cut] == 1 else f"{cut} {seen[cut]}"
    return short


def finite(value: Any) -> float | None:
    """A number that a column holds, or None where it is null, NaN or infinite.

    Example:
        >>> finite(0.5), finite(float("nan")), finite(None)
        (0.5, None, None)
    """
    return float(value) if value is not None and math.isfinite(value) else None


def is_number(text: str) -> bool:
    """Whether a text is a finite number.

    Example:
        >>> is_number("1e-3"), is_number("inf"), is_number("three")
        (True, False, False)
    """
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def file_stem(name: str, otherwise: str) -> str:
    """A name as that of a file: its letters and digits, with hyphens between.

    Example:
        >>> file_stem("Alignment, by k", "figure"), file_stem("…", "figure")
        ('alignment-by-k', 'figure')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or otherwise


def decimals(value: float) -> str:
    """A score with three decimals, without the leading zero.

    Example:
        >>> decimals(0.3812), decimals(-0.0049), decimals(1.25)
        ('.381', '−.005', '1.250')
    """
    return ("−" if value < 0 else "") + f"{abs(value):.3f}".removeprefix("0")


def span(low: float | None, high: float | None) -> str:
    """An interval of scores, or "" where there is none.

    Example:
        >>> span(0.3321, 0.431), span(None, None)
        ('[.332, .431]', '')
    """
    return "" if low is None or high is None else f"[{decimals(low)}, {decimals(high)}]"
