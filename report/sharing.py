"""Transfers between caches on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.report.console import console, count, print_table, size

if TYPE_CHECKING:
    from featcache.sharing.transfer import Sent, Transfer


def show_transferred(what: "Transfer", sent: "Sent") -> None:
    """Shows what travelled, and what did not."""
    there = sum(move.done and move.complete is not None for move in what.moves)
    unfinished = sum(move.complete is None for move in what.moves)
    line = f"{what.source.folder} to {what.target.folder}: {count(sent.arrays, 'array')}, "
    line += f"{count(sent.chunks, 'chunk')}, {size(sent.bytes)}"
    console().print(line + (f", {there} there already" if there else ""))
    for place in what.left_out:
        console().print(f"Left out, since only some of its rows are here: {place}")
    if unfinished:
        console().print(
            f"Not complete in {what.source.folder}: {count(unfinished, 'array')}. Once extracted to the end, the same "
            "command sends the rest."
        )


def show_transfer(what: "Transfer") -> None:
    """Shows what would travel."""
    rows = [
        (
            move.path.rpartition("/")[0],
            move.source.digest[:8],
            f"{len(move.records)} of {move.layout.chunks}",
            size(move.bytes),
            "replaces other bytes" if str(move.target.folder) in {str(a.folder) for a in what.replaced} else "",
        )
        for move in what.moves
    ]
    print_table(("array", "digest", "chunks to move", "size", ""), rows)
    console().print(f"{count(what.chunks, 'chunk')}, {size(what.bytes)}. Nothing was moved (--dry-run).")


def show_terms(terms: Sequence[tuple[str, str]]) -> None:
    """Shows the licence of everything that a push would make public."""
    print_table(("what", "licence"), terms)
