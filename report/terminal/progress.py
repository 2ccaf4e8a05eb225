"""Progress displays on stderr; silent where stderr is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from featcache.printing import safe_text
from featcache.report.terminal.console import console, duration

if TYPE_CHECKING:
    from featcache.studies.emergence.pool import OnProgress
    from featcache.trainer.fit import Epoch


@contextmanager
def step_progress(title: str) -> Iterator[Callable[[str], None]]:
    """A spinner; yields the function that says what is being done."""
    with console(stderr=True).status(_plain(title)) as status:
        yield lambda step: status.update(_plain(f"{title} {step}"))


def _plain(title: str) -> Text:
    """A title of names that are anybody's: a spinner and a bar would take [red] in it for markup."""
    return Text(safe_text(title, one_line=True))


@contextmanager
def epoch_progress() -> "Iterator[Callable[[Epoch], None]]":
    """A spinner with loss and validation scores; yields the function that an epoch is passed to."""
    with console(stderr=True).status("training") as status:

        def on_epoch(epoch: "Epoch") -> None:
            loss = "" if epoch.loss is None else f"loss {epoch.loss:.3f}  "
            alignment = "" if epoch.alignment is None else f", joint mutual-kNN {epoch.alignment:.3f}"
            status.update(
                f"epoch {epoch.number} of {epoch.of}  {loss}validation: R@10 {epoch.retrieval:.3f}{alignment}"
            )
            if epoch.number == epoch.of:
                status.update(f"epoch {epoch.number} of {epoch.of} is done; measuring nulls and intervals on test")

        yield on_epoch


@contextmanager
def row_progress(title: str, total: int, *, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar of the rows to encode, with rows/s and the time that is left; yields what advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} rows/s"),
        TimeRemainingColumn(),
    )
    silent = silent or not sys.stderr.isatty()  # a bar in a log file is noise
    with Progress(*columns, console=console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task(_plain(title).plain, total=total, rate="–")

        def advance(rows: int) -> None:
            progress.advance(task, rows)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.0f}" if speed else "–")

        yield advance


@contextmanager
def byte_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with bytes, rate and the time that is left; yields the function that advances it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    silent = not sys.stderr.isatty()  # a bar in a log file is noise
    with Progress(*columns, console=console(stderr=True), transient=True, disable=silent) as progress:
        task = progress.add_task(_plain(title).plain, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def share_progress(title: str) -> "Iterator[OnProgress]":
    """A bar of the share that is done, with the time that is left; where there is no terminal, a line for what ended.

    Yields:
        What takes the share, 0 to 1, and the part that has just ended or "".
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    started, lines = time.monotonic(), not sys.stderr.isatty()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, disable=lines) as progress:
        task = progress.add_task(_plain(title).plain, total=1.0)

        def on_progress(share: float, ended: str) -> None:
            progress.update(task, completed=share)
            if lines and ended:
                left = (time.monotonic() - started) * (1 / share - 1) if 0 < share < 1 else 0.0
                words = f", about {duration(left)} left" if left >= 1 else ""
                console(stderr=True).print(_plain(f"[{share:.0%}] {ended}: done{words}"))

        yield on_progress
