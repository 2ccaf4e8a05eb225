"""Captions and pictures that the page shows, and JSON that may stand in it."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from featcache.printing import printable
from featcache.report.figures.figure import escape

_SCRIPT_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


class Exhibits(Protocol):
    """Captions and pictures of a data set, as far as the widgets read them."""

    @property
    def texts(self) -> Mapping[str, str]:
        """Row id or group -> text."""
        ...

    @property
    def thumbnails(self) -> Mapping[str, bytes]:
        """Row id or group -> WebP."""
        ...

    @property
    def licence(self) -> str:
        """What a reader must be told of them."""
        ...


class Samples:
    """Captions and pictures that the widgets of one page show, each picture once.

    Args:
        exhibits: Captions and pictures by row id or group; None for none.
        rows_of: Side or view -> group -> its row ids; empty where groups are not looked up through their rows.
    """

    def __init__(
        self, exhibits: Exhibits | None = None, rows_of: Mapping[str, Mapping[str, Sequence[str]]] | None = None
    ) -> None:
        self.licence = exhibits.licence if exhibits else ""
        self._texts = exhibits.texts if exhibits else {}
        self._thumbnails = exhibits.thumbnails if exhibits else {}
        self._rows_of = rows_of or {}
        self._pictures: dict[str, int] = {}

    def text(self, name: str, group: str) -> str:
        """The caption of a row, or the first of its group; "" where there is none."""
        return next((self._texts[key] for key in self._keys(name, group) if key in self._texts), "")

    def picture(self, name: str, group: str) -> int:
        """The place in `html` of the picture of a row, or of the first of its group that has one; -1 without."""
        key = next((key for key in self._keys(name, group) if key in self._thumbnails), None)
        return -1 if key is None else self._pictures.setdefault(key, len(self._pictures))

    def html(self) -> str:
        """Every picture that a widget shows, as JSON: once a page, after the widgets were made."""
        pictures = [base64.b64encode(self._thumbnails[key]).decode("ascii") for key in self._pictures]
        return json_script(pictures, ' id="pictures"') if pictures else ""

    def credit(self) -> str:
        """The licence as a paragraph, or ""."""
        return f'<p class="note">{escape(self.licence)}</p>' if self.licence else ""

    def _keys(self, name: str, group: str) -> list[str]:
        return [name, group, *(row for rows in self._rows_of.values() for row in rows.get(group, ()))]


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
