"""Captions and pictures that the page shows, and JSON that may stand in it."""

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.printing import printable
from featcache.report.figures.figure import escape

if TYPE_CHECKING:
    from featcache.studies.exhibits import Exhibits

_SCRIPT_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class Samples:
    """Captions and pictures that the widgets of one page show, each picture once.

    Args:
        exhibits: Captions and pictures by view and row; None for none.
    """

    def __init__(self, exhibits: "Exhibits | None" = None) -> None:
        self._exhibits = exhibits
        self._pictures: dict[bytes, int] = {}

    def text(self, group: str, view: str = "", row: str = "") -> str:
        """The caption of a row, else the first of its group; "" where there is none."""
        if self._exhibits is None:
            return ""
        return self._exhibits.text(view, row) or self._exhibits.group_text(group) or ""

    def picture(self, group: str, view: str = "", row: str = "") -> int:
        """The place in `html` of the picture of a row, else of the first of its group; -1 without."""
        found = self._exhibits and (self._exhibits.thumbnail(view, row) or self._exhibits.group_thumbnail(group))
        return self._pictures.setdefault(found, len(self._pictures)) if found else -1

    def html(self) -> str:
        """Every picture that a widget shows, as JSON: once a page, after the widgets were made."""
        pictures = [base64.b64encode(picture).decode("ascii") for picture in self._pictures]
        return json_script(pictures, ' id="pictures"') if pictures else ""

    def credit(self) -> str:
        """The licence as a paragraph, or ""."""
        licence = self._exhibits.licence if self._exhibits is not None else ""
        return f'<p class="note">{escape(licence)}</p>' if licence else ""


def json_text(value: Any) -> str:
    r"""JSON that may stand in a script element, its texts fit to be shown.

    Example:
        >>> json_text(["</script>\u2028", 1])
        '["\\u003c/script\\u003e\\\\u2028",1]'
    """
    text = json.dumps(_shown(value), ensure_ascii=False, separators=(",", ":"))
    return text.translate(_SCRIPT_UNSAFE)


def json_script(data: Any, attributes: str = "") -> str:
    """A value as an element of JSON that the page's script reads."""
    return f'<script type="application/json"{attributes}>{json_text(data)}</script>'


def _shown(value: Any) -> Any:
    """A value whose texts hold nothing that a reader could not see."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {key: _shown(each) for key, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list | tuple) else value
