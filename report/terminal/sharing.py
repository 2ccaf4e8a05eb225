"""Transfers between caches on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.not_found import moment
from featcache.report.terminal.console import console, count, print_table, size

if TYPE_CHECKING:
    from featcache.sharing.transfer import Sent, Transfer
    from featcache.store.current import CurrentRows


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
    _show_records(what, sent=True)


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
    _show_records(what, sent=False)
    console().print(f"{count(what.chunks, 'chunk')}, {size(what.bytes)}. Nothing was moved (--dry-run).")


def _show_records(what: "Transfer", *, sent: bool) -> None:
    """Shows which records of current rows travelled, or would, and which stayed; those that contradict, on stderr."""
    source, target = what.source.folder, what.target.folder
    for move in what.records:
        ours, rows = _rows(move.ours), f"Current rows of {move.view} in {target}"
        if move.what == "conflict":
            has = f"{target}: {_rows(move.theirs)}" if move.theirs else f"{target} has other rows and no record"
            console(stderr=True).print(
                f"Current rows of {move.view} differ, and neither record follows the other: {source}: {ours}; {has}. "
                "Neither was changed: names mean other rows here and there. To make one current: --prefer local, or "
                "--prefer remote"
            )
        elif move.goes and move.theirs is not None:
            verb = "are now" if sent else "would be"
            console().print(f"{rows} {verb} {ours}, instead of {_rows(move.theirs)}.")
        elif move.theirs is not None:
            console().print(
                f"Current rows of {move.view} in {target} stay {_rows(move.theirs)}; in {source} they are {ours}."
            )


def _rows(record: "CurrentRows") -> str:
    return f"{record.n:,} (root {record.root[:12]}, {moment(record.written)})"


def show_terms(terms: Sequence[tuple[str, str]]) -> None:
    """Shows the licence of everything that a push would make public."""
    print_table(("what", "licence"), terms)
