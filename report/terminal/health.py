"""What of an array's rows deserves a look, on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.report.terminal.console import console, count, size

if TYPE_CHECKING:
    from featcache.maintenance.health import Health

_SHOWN = 5  # ids, or sets of them
_CUT = 60  # characters of an id
# What was cut, and where; what hardly varies, and how.
_WORDS = {
    "audio": ("recording", "cut at the encoder's window", "recording", "of silence, 60 dB below full scale"),
    "other": (
        "text",
        "cut at the encoder's token limit",
        "image",
        "of almost one colour, as the encoder sees it (docs/images.md)",
    ),
}


def show_health(health: "Health | None", *, clean: str | None = None) -> None:
    """Shows each kind of row that deserves a look: how many, and the first ids.

    Args:
        health: From `featcache.maintenance.health.array_health`; None, which arrays of row numbers have, shows nothing.
        clean: What to say where there is nothing; None for nothing.
    """
    if health is None:
        return
    for line in health_lines(health):
        console().print(f"  Warning: {line}", style="yellow")
    if health.is_clean and clean is not None:
        console().print(clean)


def show_unchecked(name: str, bytes: int) -> None:
    """Says that an array is too large to be looked at in passing, and how to."""
    console().print(f"  {name} takes {size(bytes)}: its rows were not compared. To do so: featcache show {name}")


def health_lines(health: "Health") -> list[str]:
    """One sentence for each kind of row that deserves a look."""
    lines: list[str] = []
    if health.identical:
        sets = [
            " = ".join(map(_name, ids[:_SHOWN])) + (" = …" if len(ids) > _SHOWN else "") for ids in health.identical
        ]
        rows = count(sum(map(len, health.identical)), "row")
        lines.append(f"{rows} of unequal content have equal features, in {count(sets, 'set')}: {_first(sets)}")
    if ids := health.constant:
        lines.append(f"{count(ids, 'row')} whose features are all one number: {_first(list(map(_name, ids)))}")
    row, cut, noun, flat = _WORDS["audio" if health.modality == "audio" else "other"]
    if ids := health.near_constant:
        lines.append(f"{count(ids, noun)} {flat}: {_first(list(map(_name, ids)))}")
    if ids := health.truncated:
        lines.append(f"{count(ids, row)} {cut}, so that the rest counts for nothing: {_first(list(map(_name, ids)))}")
    if health.adopted:
        lines.append(
            f"{count(health.adopted, 'row')} recorded after a crash: which of them are of one colour, or were cut, is "
            "not known"
        )
    return lines


def _first(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more


def _name(row_id: str) -> str:
    return repr(row_id if len(row_id) <= _CUT else f"{row_id[:_CUT]}…")
