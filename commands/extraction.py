"""The command that writes features into the cache."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.commands.completion import complete_encoder
from featcache.commands.options import (
    AllowMissingOption,
    CacheOption,
    ColumnOption,
    FloatRangeOption,
    FramesOption,
    LayoutOption,
    OpenedDatasetArgument,
    RootOption,
    SecondsOption,
    TableOption,
    declared_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.data.views import Dataset
    from featcache.extraction.executors import Execution
    from featcache.extraction.job import Job
    from featcache.trainer.defaults import Selection

_MOST_COMPARED = 2**33  # bytes of an array that are read again to look for equal rows: seconds


def extract(
    dataset: OpenedDatasetArgument,
    encoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_encoder,
            help="Encoders (featcache encoders), or ids: hf:ORG/NAME, timm:NAME. Default: small installed ones.",
        ),
    ] = None,
    root: RootOption = None,
    layout: LayoutOption = None,
    column: ColumnOption = None,
    allow_missing: AllowMissingOption = False,
    float_range: FloatRangeOption = None,
    seconds: SecondsOption = None,
    frames: FramesOption = 1,
    cache: CacheOption = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to keep, such as last,0 or last.mean. Default: every layer.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(help="Modality to encode, such as images or captions. Default: the first that fits the encoder."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN/VAL/TEST",
            help="Split a folder of yours by a hash of the group, as in 80/10/10, or none. Default: its own splits, "
            "else 80/10/10.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that hash.", min=0)] = 0,
    weights: Annotated[Path | None, typer.Option(help="Local copy of the encoder's repository.")] = None,
    random: Annotated[
        int | None, typer.Option(help="Seed of random weights, as a control.", metavar="SEED", min=0)
    ] = None,
    device: Annotated[
        str, typer.Option(help="Torch device: cpu, cuda, mps; or several with commas, as in cuda:0,cuda:1.")
    ] = "cpu",
    autocast: Annotated[
        Literal["bfloat16", "float16"] | None, typer.Option(help="Compute in a shorter type; bound in the digest.")
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None, typer.Option(help="Store as this instead of the encoder's own type.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="A row that cannot be encoded stops the run, or is skipped: listed, dropped when loading."),
    ] = "stop",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that decode images and audio; 0 for threads. Default: by cores.", min=0),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Compute only every N-th chunk, from chunk I = 0 to N-1 on. Default: what torchrun or SLURM say.",
        ),
    ] = None,
    executor: Annotated[Literal["local", "ray"], typer.Option(help="Who computes the chunks.")] = "local",
    actors: Annotated[int | None, typer.Option(help="Workers of Ray. Default: one a GPU or machine.", min=1)] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be computed and, from a measured sample, how long it takes."),
    ] = False,
) -> None:
    """Write the features (embeddings) of a data set, or of data of yours, into the cache.

    featcache extract ./my_images guesses layout, captions, splits and encoders, and says so: docs/own-data.md. One pass
    of an encoder keeps every layer. What is cached is not computed again, and of a data set that was changed, only the
    rows that are new. An interrupted extraction goes on where it stopped, in the middle of a chunk after Ctrl-C or
    SIGTERM. Several processes may fill one cache: each commits whole chunks.
    """
    from featcache.cache import Cache
    from featcache.data.open import dataset_source
    from featcache.encoder_ids import is_id
    from featcache.encoders import EncodeOptions, encoder_spec, encoders_of, fitting
    from featcache.extraction.executors import choose_execution
    from featcache.extraction.job import plan_job
    from featcache.extraction.same_name import open_source, other_folder_note
    from featcache.report.terminal.encoders import show_generated
    from featcache.report.terminal.extraction import show_dataset, show_next

    execution = choose_execution(
        device, shard=shard, executor=executor, actors=actors, workers=workers, on_error=on_error
    )
    options = EncodeOptions(weights, random is not None, random or 0, execution.devices[0], autocast, compile, dtype)
    store = Cache(cache)
    named = encoders_of(encoders or (), memo=store.memo)
    show_generated([spec for name, specs in named.items() if is_id(name) for spec in specs])
    declared = declared_options(
        float_range=float_range, split=split, seed=seed, layout=layout, column=column, allow_missing=allow_missing,
        seconds=seconds, frames=frames,
    )  # fmt: skip
    source = dataset_source(dataset, root, declared)
    data = open_source(store, source)
    guess = None if encoders else guess_encoders(data)
    specs = fitting(named, data, view) + [encoder_spec(name) for name in (guess.every if guess else ())]
    show_dataset(data, guess, other_folder_note(store, data))
    chosen = layers.split(",") if layers else None
    jobs = [plan_job(store, data, spec, options, view=view, layers=chosen) for spec in specs]
    if dry_run:
        estimate_jobs(store, jobs, execution)
    else:
        run_jobs(store, jobs, execution, source)
        show_next(data, dataset, guess)


def cost(
    dataset: OpenedDatasetArgument,
    encoders: Annotated[
        list[str],
        typer.Argument(metavar="ENCODER", autocompletion=complete_encoder, help="Encoders; see: featcache encoders."),
    ],
    root: RootOption = None,
    layout: LayoutOption = None,
    column: ColumnOption = None,
    allow_missing: AllowMissingOption = False,
    seconds: SecondsOption = None,
    frames: FramesOption = 1,
    cache: CacheOption = None,
    view: Annotated[
        str | None, typer.Option(help="Modality to encode. Default: of each encoder the first that fits.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(help="Seed of random weights, which cost the same.", metavar="SEED", min=0)
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")] = "cpu",
    rows: Annotated[int, typer.Option(help="Rows of the sample, spread over the view.", min=1)] = 64,
    batch: Annotated[int, typer.Option(help="Rows of a forward pass.", min=1)] = 16,
    repeats: Annotated[int, typer.Option(help="Passes of each batch that are measured.", min=1)] = 3,
    out: TableOption = None,
) -> None:
    """Measure what a row costs encoders: parameters, floating-point operations, milliseconds on this machine.

    No feature is cached. Operations are those of matrix products, convolutions and attention in the passes of real
    batches, a multiplication and its addition counted as two, padding included. Times are medians, to prepare a row on
    one thread and to run it.
    """
    from featcache.cache import Cache
    from featcache.data.open import dataset_source
    from featcache.encoders import EncodeOptions, encoders_of, fitting
    from featcache.extraction.cost import CostSettings, measure_costs
    from featcache.report.terminal.extraction import show_costs
    from featcache.studies.cost import cost_table
    from featcache.studies.tables import check_table_path, write_table

    check_table_path(out)
    options = EncodeOptions(random=random is not None, seed=random or 0, device=device)
    memo = Cache(cache).memo
    named = encoders_of(encoders, memo=memo)
    declared = declared_options(
        layout=layout, column=column, allow_missing=allow_missing, seconds=seconds, frames=frames
    )
    data = dataset_source(dataset, root, declared).open()
    settings = CostSettings(rows, batch, repeats)
    costs = measure_costs(data, fitting(named, data, view), options, settings, view=view, memo=memo)
    show_costs(costs)
    if out:
        write_table(cost_table(costs), out)


def guess_encoders(data: "Dataset") -> "Selection":
    """The encoders of a data set whose user names none; errors as `guess_selection`."""
    from featcache.encoders import encoder_spec
    from featcache.encoders.weights import is_installed
    from featcache.trainer.defaults import guess_selection

    modalities = [view.modality for view in data.views.values()]
    return guess_selection(data.name, modalities, lambda name: is_installed(encoder_spec(name)))


def estimate_jobs(cache: "Cache", jobs: "Sequence[Job]", execution: "Execution") -> None:
    """Shows what extractions would compute and, at the rate of a measured sample, how long they take."""
    from featcache.extraction.estimate import estimate
    from featcache.report.terminal.extraction import show_estimates
    from featcache.report.terminal.progress import step_progress

    costs = []
    for job in jobs:
        with step_progress(f"measuring {job.card.name} over {job.view.name}"):
            costs.append(estimate(cache, job, workers=execution.rows.workers))
    show_estimates(jobs, costs, processes=execution.shard.count * len(execution.devices), place=cache.folder)


def run_jobs(cache: "Cache", jobs: "Sequence[Job]", execution: "Execution", source: "DatasetSource") -> None:
    """Runs extractions one after the other and shows a line of result each."""
    from featcache.extraction.executors import run_job
    from featcache.extraction.job import work_left
    from featcache.extraction.outdated import outdated_notes
    from featcache.extraction.same_name import other_encoder_note
    from featcache.report.terminal.extraction import print_line, show_extracted, show_notes
    from featcache.report.terminal.leaks import show_leaks
    from featcache.report.terminal.progress import row_progress
    from featcache.studies.leaks import extracted_leaks

    show_notes(execution.notes)
    with interruptible():
        for job in jobs:
            if note := other_encoder_note(cache, job):
                print_line(note)
            _, rows = work_left(job, execution.shard.mine)
            with row_progress(f"{job.card.name} over {job.view.name}", rows, silent=job.done) as on_rows:
                result = run_job(cache, job, execution, source=source, on_rows=on_rows, on_line=print_line)
            show_extracted(result)
            if result.complete:
                show_job_health(cache, job)
    show_leaks(extracted_leaks(cache, jobs))
    for note in outdated_notes(cache, jobs, root=source.root):
        print_line(note)


@contextmanager
def interruptible() -> "Iterator[None]":
    """On Ctrl-C and on SIGTERM, which ends it as Ctrl-C does, the user reads what is kept."""
    from featcache.extraction.interrupts import INTERRUPTIONS, terminable
    from featcache.report.terminal.extraction import show_interrupted

    try:
        with terminable():
            yield
    except INTERRUPTIONS as interruption:
        show_interrupted(interruption)
        raise


def show_job_health(cache: "Cache", job: "Job") -> None:
    """Shows which rows of an extraction deserve a look, by its default layer or, without it, its last."""
    from featcache.entries import entry_of
    from featcache.maintenance.health import array_health
    from featcache.report.terminal.health import show_health, show_unchecked

    target = job.default_target
    bytes = entry_of(target.array).bytes
    if bytes > _MOST_COMPARED:
        show_unchecked(f"{target.key.dataset} {target.key.view}/{target.key.encoder}/{target.layer}", bytes)
    else:
        show_health(array_health(cache, target.array))
