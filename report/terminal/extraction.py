"""Extraction on the terminal: estimates, notes and results."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.data.datasets import known_entry
from featcache.data.splits import LEAST_GROUPS
from featcache.report.terminal.console import console, count, duration, print_table, size

if TYPE_CHECKING:
    from featcache.data.views import Dataset
    from featcache.extraction.cost import EncoderCost
    from featcache.extraction.estimate import Estimate
    from featcache.extraction.extract import Extracted
    from featcache.extraction.job import Job
    from featcache.trainer.defaults import Selection


def show_interrupted(interruption: BaseException) -> None:
    """Shows on stderr what an interrupted extraction has kept beside what it committed."""
    from featcache.extraction.interrupts import TERMINATED, kept_rows

    rows, out = kept_rows(interruption), console(stderr=True)
    if rows:
        out.print(f"{rows:,} rows were encoded and not yet committed. They are kept, and the same command takes them.")
    if isinstance(interruption, SystemExit) and interruption.code == TERMINATED:
        out.print("Terminated. What was committed stays: run the same command again to go on.")


def show_estimates(jobs: "Sequence[Job]", costs: "Sequence[Estimate]", *, processes: int, place: object) -> None:
    """Shows what extractions would compute and how long they take.

    Args:
        jobs: The extractions.
        costs: Their estimates.
        processes: How many share the work.
        place: The cache's folder.
    """
    rows = [
        (
            job.card.name,
            job.view.name,
            f"{cost.rows_left:,} of {len(job.view):,}",
            len(job.targets),
            f"{cost.chunks:,}",
            size(cost.bytes),
            f"{cost.rows_per_second:.0f}" if cost.sample_rows else "–",
            duration(cost.seconds / processes),
        )
        for job, cost in zip(jobs, costs, strict=True)
    ]
    columns = ("encoder", "view", "rows to encode", "arrays", "chunks to write", "to write", "rows/s", "time")
    print_table(columns, rows)
    console().print(
        "Rates were measured on this machine, on a sample of the rows"
        + (f"; time is for each of {processes} processes" if processes > 1 else "")
        + f". Cache: {place}. Nothing was written (--dry-run)."
    )
    for job, cost in zip(jobs, costs, strict=True):
        if cost.sample_batches == 1:
            sample = count(range(cost.sample_rows), "row")
            console().print(f"{job.card.name}: there was time for one batch of {sample} only: a rough estimate.")


def show_costs(costs: "Sequence[EncoderCost]") -> None:
    """Shows what a row costs each encoder, and what measured it."""
    rows = [
        (
            f"{cost.view}/{cost.encoder}",
            f"{cost.layer}, {cost.width:,}",
            f"{cost.parameters / 1e6:.1f}",
            f"{cost.flops / 1e9:.3f}",
            f"{cost.prepare_ms:.2f}",
            f"{cost.forward_ms:.2f}",
        )
        for cost in costs
    ]
    print_table(("encoder", "top layer, width", "M parameters", "GFLOP a row", "ms to prepare", "ms to run"), rows)
    for first in {(cost.device, cost.processor): cost for cost in costs}.values():
        console().print(
            f"Medians on {first.device} ({first.processor}), {count(first.threads, 'thread')}; "
            f"batches of {first.batch}, {count(first.rows, 'row')} of {first.dataset}, {first.repeats} times. FLOP: "
            "matrix products, convolutions and attention, a multiplication and its addition as two, padding included."
        )


def show_dataset(dataset: "Dataset", guess: "Selection | None" = None, caveat: str = "") -> None:
    """Shows what a data set holds, what was guessed of it, and the encoders that were.

    Args:
        dataset: The data set.
        guess: The encoders, where the user named none.
        caveat: What else is to be known; "" for nothing.
    """
    views = list(dataset.views.values())
    shown = [f"{len(view):,} {view.name}" for view in views[:3]]
    more = f" and {count(views[3:], 'more view')}" if len(views) > 3 else ""
    splits = {split: dataset.overlay.splits.count(split) for split in ("train", "validation", "test")}
    counts = ", ".join(f"{number:,} {split}" for split, number in splits.items() if number)
    split = f"; groups: {counts}" if counts else "; no splits"
    console().print(f"{dataset.name}: {dataset.source}: {', '.join(shown)}{more}{split}")
    for note in dataset.notes:
        console().print(f"  {note}")
    if guess is not None:
        against = f", reference {guess.reference}" if guess.reference else ""
        console().print(f"  encoders: {' and '.join(guess.encoders)}{against}; name others after the data set")
        sounds = [view.name for view in views if view.modality == "audio"]
        if sounds and known_entry(dataset.name) is None:  # packaged ones have views that are spoken
            unnamed = f"  {', '.join(sounds[:3])}{' and more' if len(sounds) > 3 else ''}: sound has no default encoder"
            console().print(f"{unnamed}; name one, as resemblyzer (voices) or whisper-tiny-en (words)")
    if caveat:
        console().print(caveat)


def show_next(dataset: "Dataset", typed: str, guess: "Selection | None") -> None:
    """Shows the next command, where the encoders were guessed.

    Args:
        dataset: The data set.
        typed: What the user called it.
        guess: The encoders, where the user named none.
    """
    if guess is None:
        return
    named = shlex.quote(typed if typed != "folder" else dataset.name)
    splits = dataset.overlay.splits
    least = min(splits.count("train"), splits.count("test"))
    if len(dataset.views) > 1 and least >= LEAST_GROUPS:
        console().print(f"Next: featcache train {named}")
    elif len(guess.encoders) > 1:
        console().print(f"Next: featcache align {named} {' '.join(guess.encoders)}")


def show_notes(notes: Sequence[str]) -> None:
    """Shows what is to be known of where an extraction runs."""
    for note in notes:
        console().print(note)


def print_line(line: str) -> None:
    """Prints a line of another process on stderr."""
    console(stderr=True).print(line)


def show_extracted(result: "Extracted") -> None:
    """Shows what one extraction did, and which rows failed."""
    console().print(_result_line(result))
    for note in result.notes:
        console().print(f"  {note}")
    if result.failed:
        listed = "; ".join(f"{failure.id}: {failure.why}" for failure in result.failed[:5])
        more = f"; and {len(result.failed) - 5} more" if len(result.failed) > 5 else ""
        console().print(f"  {count(result.failed, 'row')} failed and will be dropped when loading: {listed}{more}")


def _result_line(result: "Extracted") -> str:
    what = f"{result.encoder} over {result.view}: {count(result.layers, 'array')} "
    what += "complete" if result.complete else "in work: this share is result, other chunks are not yet there"
    if not result.rows:
        there = f"; nothing to encode{_reused(result)}" if result.copied else ", all of it cached already"
        return what + there if result.complete else what
    rate = f"{result.rows:,} encoded in {result.seconds:.1f} s ({result.rows / result.seconds:.0f} rows/s)"
    there = result.reused - result.copied
    return f"{what}; {rate}{_reused(result)}" + (f", {there:,} were there" if there else "")


def _reused(result: "Extracted") -> str:
    """How many rows came from an older extraction, and from which."""
    if not result.copied:
        return ""
    roots = [root[:12] for root in result.sources]
    more = f" and {len(roots) - 1} more, one a layer" if len(roots) > 1 else ""
    return f", {result.copied:,} reused from root {roots[0]}{more}"
