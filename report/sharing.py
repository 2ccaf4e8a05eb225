"""How does the terminal show what travels between caches?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from featcache.report.console import console, count, print_table, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from featcache.cache import Cache
    from featcache.sharing.transfer import Sent, Transfer


def move(
    source: "Cache",
    target: "Cache",
    selectors: Sequence[str],
    *,
    local: Literal["source", "target"],
    prefer: Literal["local", "remote"] | None = None,
    dry_run: bool = False,
    public: bool = False,
    **choices: Any,
) -> None:
    """Moves arrays between caches under a progress display.

    Args:
        source: Where they are.
        target: Where they go.
        selectors: What of it.
        local: Which of the two is the user's own.
        prefer: Whose array stays where the bytes differ.
        dry_run: Only say what would travel.
        public: A new Hub repository can be read by everybody.
        choices: Of `plan_transfer`.
    """
    from featcache.sharing.hub_publish import is_hub, make_repository, write_card
    from featcache.sharing.transfer import plan_transfer, transfer

    if dry_run and is_hub(target.folder) and not target.folder.there():
        console().print(f"{target.folder} is not there yet: a push makes it and sends everything. Nothing was moved.")
        return
    if not dry_run and local == "source":
        make_repository(target, public=public)
    wanted = None if prefer is None else ("source" if (prefer == "local") == (local == "source") else "destination")
    with console(stderr=True).status(f"comparing {source.folder} with {target.folder}"):
        what = plan_transfer(source, target, selectors, prefer=wanted, **choices)
    if dry_run:
        _show_plan(what)
        return
    with byte_progress(f"to {target.folder}", what.bytes) as advance:
        sent = transfer(what, on_bytes=advance)
    if local == "source" and not write_card(target):
        console().print("README.md there was written by someone else and was left as it is.")
    _show_sent(what, sent)


def _show_sent(what: "Transfer", sent: "Sent") -> None:
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


def _show_plan(what: "Transfer") -> None:
    rows = [
        (
            move.path.rpartition("/")[0],
            move.source.digest[:8],
            f"{len(move.records)} of {move.plan.chunks}",
            size(move.bytes),
            "replaces other bytes" if str(move.target.folder) in {str(a.folder) for a in what.replaced} else "",
        )
        for move in what.moves
    ]
    print_table(("array", "digest", "chunks to move", "size", ""), rows)
    console().print(f"{count(what.chunks, 'chunk')}, {size(what.bytes)}. Nothing was moved (--dry-run).")


def confirm_public(source: "Cache", selectors: Sequence[str]) -> None:
    """Shows the licences of what everybody could read, and asks; ends the command on no."""
    import typer

    from featcache.sharing.hub_publish import terms

    print_table(("what", "licence"), terms(source, list(selectors)))
    typer.confirm("Everybody will be able to read these features. Do the licences allow that?", abort=True)


@contextmanager
def byte_progress(title: str, total: int) -> "Iterator[Callable[[int], None]]":
    """A progress bar with bytes, rate and the time that is left; yields the function that advances it."""
    import sys

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    silent = not sys.stderr.isatty()  # a bar in a log file is noise
    with Progress(*columns, console=console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
