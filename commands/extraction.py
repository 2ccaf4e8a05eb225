"""The command that writes features into the cache."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.commands.options import CacheOption, DatasetArgument, RootOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.extraction.executors import Execution
    from featcache.extraction.job import Job


def extract(
    dataset: DatasetArgument,
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER", help="Encoders; see: featcache encoders.")],
    root: RootOption = None,
    cache: CacheOption = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to keep, such as last,0 or last.mean. Default: every layer.")
    ] = None,
    view: Annotated[str | None, typer.Option(help="View to encode. Default: the first that fits the encoder.")] = None,
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
    """Write a data set's features into the cache.

    One pass of an encoder keeps every layer. What is cached is not computed again, and an interrupted extraction goes
    on where it stopped. Several processes may fill one cache: each commits whole chunks.
    """
    from featcache.cache import Cache
    from featcache.data.open import DatasetSource
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extraction.executors import choose_execution
    from featcache.extraction.job import plan_job

    execution = choose_execution(
        device, shard=shard, executor=executor, actors=actors, workers=workers, on_error=on_error
    )
    options = EncodeOptions(weights, random is not None, random or 0, execution.devices[0], autocast, compile, dtype)
    store, specs = Cache(cache), [encoder_spec(name) for name in encoders]
    source = DatasetSource(dataset, root)
    data = source.open()
    chosen = layers.split(",") if layers else None
    jobs = [plan_job(store, data, spec, options, view=view, layers=chosen) for spec in specs]
    if dry_run:
        estimate_jobs(store, jobs, execution)
    else:
        run_jobs(store, jobs, execution, source)


def estimate_jobs(cache: "Cache", jobs: "Sequence[Job]", execution: "Execution") -> None:
    """Shows what extractions would compute and, at the rate of a measured sample, how long they take."""
    from featcache.extraction.estimate import estimate
    from featcache.report.extraction import show_estimates
    from featcache.report.progress import step_progress

    costs = []
    for job in jobs:
        with step_progress(f"measuring {job.card.name} over {job.view.name}"):
            costs.append(estimate(cache, job, workers=execution.rows.workers))
    show_estimates(jobs, costs, processes=execution.shard.count * len(execution.devices), place=cache.folder)


def run_jobs(cache: "Cache", jobs: "Sequence[Job]", execution: "Execution", source: "DatasetSource") -> None:
    """Runs extractions one after the other and shows a line of result each."""
    from featcache.extraction.executors import run_job
    from featcache.report.extraction import print_line, show_extracted, show_notes
    from featcache.report.leaks import show_leaks
    from featcache.report.progress import row_progress
    from featcache.studies.leaks import extracted_leaks

    show_notes(jobs, execution.notes)
    for job in jobs:
        with row_progress(f"{job.card.name} over {job.view.name}", len(job.view), silent=job.done) as on_rows:
            result = run_job(cache, job, execution, source=source, on_rows=on_rows, on_line=print_line)
        show_extracted(result)
    show_leaks(extracted_leaks(cache, jobs))
