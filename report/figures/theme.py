"""Palette, type scale and Vega-Lite configuration of every figure."""

from collections.abc import Sequence
from typing import Any

FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
INK, MUTED, RULE, FAINT = "#1a1a1a", "#5f6368", "#d5d8dc", "#eceef0"

# Okabe and Ito 2008, distinct under the common colour-vision deficiencies; `TEXT` are the same hues dark enough to read
COLOURS = {"joint": "#009E73", "pair": "#7CC7AF", "reference": "#8A5A83", "mixed": "#E69F00"}
TEXT = {"joint": "#00704F", "pair": "#3F7F6B", "reference": "#75476F", "mixed": "#8A5F00"}
_SERIES = (
    ("#0072B2", "#005F94"),
    ("#D55E00", "#A84A00"),
    ("#CC79A7", "#9A4A75"),
    ("#56B4E9", "#23759F"),
    ("#E69F00", "#8A5F00"),
    ("#009E73", "#00704F"),
    ("#000000", "#000000"),
)
_SIDES = 4  # of these colours are neither a joint's nor a mixture's
LABELS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
OTHER = "#c9cdd1"
SEQUENTIAL = "viridis"
VIRIDIS = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")  # the same, in seven steps


def series(number: int) -> tuple[str, str]:
    """Colour of the n-th line or bar among equals, and of text in it; they repeat after the seventh.

    Example:
        >>> series(0)
        ('#0072B2', '#005F94')
    """
    return _SERIES[number % len(_SERIES)]


def space(name: str, sides: Sequence[str]) -> tuple[str, str]:
    """Colour of a side, a joint space or a mixture, and of text in it.

    Example:
        >>> space("joint", ["images", "captions"])[0], space("captions", ["images", "captions"])[0]
        ('#009E73', '#D55E00')
    """
    if name in sides:
        return _SERIES[sides.index(name) % _SIDES]
    known = "pair" if name.startswith("joint:") else name
    return COLOURS.get(known, MUTED), TEXT.get(known, MUTED)


def configuration() -> dict[str, Any]:
    """Returns the Vega-Lite `config` that every figure carries.

    Example:
        >>> configuration()["background"]
        'white'
    """
    text = {"font": FONT}
    return {
        "background": "white",
        "font": FONT,
        "padding": 8,
        "view": {"stroke": None},
        "axis": {
            **{f"{part}Font": FONT for part in ("label", "title")},
            "labelColor": MUTED,
            "labelFontSize": 11,
            "titleColor": MUTED,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
            "labelFlush": False,
            "gridColor": FAINT,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": RULE},
        "title": {**text, "anchor": "start", "color": INK, "fontSize": 13, "fontWeight": 600, "offset": 10}
        | {"subtitleFont": FONT, "subtitleColor": MUTED, "subtitleFontSize": 11},
        "legend": {
            **{f"{part}Font": FONT for part in ("label", "title")},
            "labelColor": INK,
            "labelFontSize": 11,
            "titleColor": MUTED,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "orient": "top",
            "symbolStrokeWidth": 0,
        },
        "text": {**text, "fontSize": 11, "color": INK},
        "concat": {"spacing": 28},
    }
