"""Palette, type scale and Vega-Lite configuration of every figure."""

from typing import Any

FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
INK, MUTED, RULE, FAINT = "#1a1a1a", "#5f6368", "#d5d8dc", "#eceef0"

# Okabe and Ito 2008, distinct under the common colour-vision deficiencies; `TEXT` are the same hues dark enough to read
COLOURS = {"x": "#0072B2", "y": "#D55E00", "joint": "#009E73", "reference": "#8A5A83", "mixed": "#E69F00"}
TEXT = {"x": "#005F94", "y": "#A84A00", "joint": "#00704F", "reference": "#75476F", "mixed": "#8A5F00"}
LABELS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
OTHER = "#c9cdd1"
SEQUENTIAL = "viridis"


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
