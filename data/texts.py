"""Texts: views of them, and the one normal form of a caption."""

import re
import unicodedata
from collections.abc import Sequence

from featcache.data.errors import DataInvalid
from featcache.data.views import View

# The run of sentence-ending marks, and the spaces within and before it, at the end of a caption.
_ENDING = re.compile(r"[\s.!?]*[.!?][\s.!?]*\Z")


def normal_caption(text: str) -> str:
    r"""The one form of a caption, whichever file it comes from.

    In this order: Unicode NFC; every run of white space becomes one space; none stays at either end; none stays before
    or between the marks . ! ? that end the caption (token files write "in the yard ."). Nothing else changes: neither
    case nor the spaces around commas. Idempotent.

    Example:
        >>> normal_caption("  Two young guys  look at\ttheir hands .\n")
        'Two young guys look at their hands.'
        >>> normal_caption("three lambs : one white , one black . . .")
        'three lambs : one white , one black...'
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return _ENDING.sub(lambda ending: "".join(ending.group().split()), text)


def whole_characters(text: str) -> str:
    r"""A text without halves of characters, which JSON can escape and UTF-8 cannot hold: each becomes U+FFFD.

    Example:
        >>> whole_characters("a \ud83d b") == "a \ufffd b"
        True
    """
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode_text(content: bytes) -> str:
    """UTF-8 bytes to str; DataInvalid if they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataInvalid(f"not UTF-8: {error}") from error


def text_view(name: str, ids: Sequence[str], groups: Sequence[str], texts: Sequence[str]) -> View:
    """A view of texts held in memory; DataInvalid if one is empty or white space only, with its id."""
    for row_id, text in zip(ids, texts, strict=True):
        if not text.strip():
            raise DataInvalid(f"view {name!r}: row {row_id!r} has an empty text")
    kept = tuple(texts)
    return View(
        name=name,
        modality="text",
        ids=tuple(ids),
        groups=tuple(groups),
        content=lambda row: kept[row].encode("utf-8"),
        decode=decode_text,
    )
