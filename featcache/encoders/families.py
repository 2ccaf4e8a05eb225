"""Families of encoders that an id describes: tables of families.toml, narrowed to one member by its settings."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from featcache.errors import UndescribedEncoder

_FILE = Path(__file__).with_name("families.toml")
_NOT_OF_AN_ENTRY = ("base", "offset", "padded", "tokens", "where", "towers", "refuse", "blocks", "prefix_tokens")


@dataclass(frozen=True)
class Family:
    """What is the same for every member of a family, and what has to be read of a member."""

    fields: dict[str, Any]  # of an entry
    blocks: tuple[str, ...]  # paths: of transformers the first that is there, of timm all
    base: str | None = None  # class without a language model's head
    offset: int = 0  # positions that no token takes
    padded: bool = False  # reads padding, to the last position
    tokens: bool = False  # of timm: gives tokens, not maps
    prefix_tokens: int | None = None  # before the patches; None: CLS, and registers as the settings state
    towers: tuple[str, ...] = ()  # settings that are a tower's


def find_family(library: Literal["transformers", "timm"], kind: str, settings: Any) -> Family:
    """The family of a kind, as it holds for a member.

    Args:
        library: Whose network it is.
        kind: `model_type` of transformers, class of timm.
        settings: The member's, as attributes: what the conditions of the family are about.

    Raises:
        UndescribedEncoder: If there is no such family, or its members cannot be described; without what to do.
    """
    table = _tables()[library].get(kind)
    if table is None:
        known = described_kinds(library)
        near = get_close_matches(kind, known, n=3, cutoff=0.4) or known[:3]
        raise UndescribedEncoder(
            f"of the families of {library}, {kind} is none of the {len(known)} that are described "
            f"(nearest: {', '.join(near)})"
        )
    table = dict(table)
    for case in table.get("where", ()):
        if all(getattr(settings, name, None) == value for name, value in case["when"].items()):
            table |= case.get("set", {"refuse": case.get("refuse")})
    if "refuse" in table:
        raise UndescribedEncoder(table["refuse"])
    paths = table.get("blocks", ())
    return Family(
        fields={name: value for name, value in table.items() if name not in _NOT_OF_AN_ENTRY and value != {}},
        blocks=(paths,) if isinstance(paths, str) else tuple(paths),
        base=table.get("base"),
        offset=table.get("offset", 0),
        padded=table.get("padded", False),
        tokens=table.get("tokens", False),
        prefix_tokens=table.get("prefix_tokens"),
        towers=tuple(table.get("towers", ())),
    )


def described_kinds(library: Literal["transformers", "timm"]) -> list[str]:
    """The kinds of a library that are described.

    Example:
        >>> "gpt2" in described_kinds("transformers"), "albert" in described_kinds("transformers")
        (True, False)
    """
    return [kind for kind, table in _tables()[library].items() if "refuse" not in table]


@cache
def _tables() -> dict[str, dict[str, dict[str, Any]]]:
    read = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {library: {kind: _inherited(kind, tables) for kind in tables} for library, tables in read.items()}


def _inherited(kind: str, tables: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(tables[kind])
    like = own.pop("like", None)
    return own if like is None else _inherited(like, tables) | own
