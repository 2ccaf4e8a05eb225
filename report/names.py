"""Names and numbers as short as a reader can still tell them apart."""

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
