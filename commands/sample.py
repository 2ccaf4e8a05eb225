"""The command that estimates alignment from sampled queries, for arrays too large for a graph."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.commands.alignment import KOption, XArgument, YArgument
from featcache.commands.options import CacheOption, DatasetArgument, JsonOption, SeedOption, TableOption

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.extraction.shards import Shard
    from featcache.studies.alignment.sampled import Gallery, QueryScores, SampleSettings


def sample(
    dataset: DatasetArgument,
    x: XArgument,
    y: YArgument,
    queries: Annotated[
        int, typer.Option(help="Groups that are drawn and searched in the whole gallery.", min=2)
    ] = 10_000,
    k: KOption = 10,
    pairing: Annotated[
        Literal["mean", "first"],
        typer.Option(help="Rows of a group: their mean (they must stand together), or the first."),
    ] = "mean",
    block: Annotated[int, typer.Option(help="Rows that are in memory at a time; changes no result.", min=1)] = 8192,
    seed: SeedOption = 0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Search only every N-th query from the I-th, for several processes; with --parts."
        ),
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where shards leave their scores; the last to end shows them together."),
    ] = None,
    executor: Annotated[Literal["local", "ray"], typer.Option(help="Who searches.")] = "local",
    actors: Annotated[
        int | None, typer.Option(help="Parts of the queries that Ray's workers take. Default: one a machine.", min=1)
    ] = None,
    out: TableOption = None,
    json: JsonOption = False,
    cache: CacheOption = None,
) -> None:
    """Estimate the mutual k-NN of two arrays of any size: sampled queries, each searched exactly in the whole gallery.

    The gallery is read block by block, from a disk or a bucket, so memory does not grow with its width. The interval is
    about the mean over all groups of the gallery.
    """
    from featcache.cache import open_cache
    from featcache.errors import UsageError
    from featcache.extraction.shards import WHOLE, parse_shard
    from featcache.report.terminal.sample import show_missing, show_sample
    from featcache.studies.alignment.sample_parts import check_parts, missing_parts, read_parts, write_part
    from featcache.studies.alignment.sampled import SampleSettings, galleries, write_sample
    from featcache.studies.tables import check_table_path

    if (shard is None) != (parts is None):
        raise UsageError("--shard and --parts go together, as in --shard 0/4 --parts sampled")
    if executor == "ray" and shard is not None:
        raise UsageError("--executor ray deals out the queries itself: leave --shard and --parts out")
    if executor == "local" and actors is not None:
        raise UsageError("--actors is for --executor ray")
    settings = SampleSettings(queries, k, pairing, seed, block)
    mine = parse_shard(shard) if shard is not None else WHOLE
    check_table_path(out)
    started, place = perf_counter(), open_cache(cache)
    pair = galleries(place, dataset, [x, y], pairing)
    if parts is not None:
        check_parts(parts, mine.count, pair, settings)
    scores = _on_ray(place, pair, settings, actors) if executor == "ray" else _here(pair, settings, mine)
    if parts is not None:
        write_part(parts, mine, scores, pair, settings)
        missing = missing_parts(parts, mine.count)
        if missing:
            show_missing(parts, mine, missing, len(scores.scores))
            return
        scores = read_parts(parts, mine.count, pair, settings)
    row = scores.row(pair, k, perf_counter() - started)
    write_sample(out, row, pair, settings)
    show_sample(row, pair, settings, population=scores.population, table=out, as_json=json)


def _here(pair: "list[Gallery]", settings: "SampleSettings", mine: "Shard") -> "QueryScores":
    from featcache.report.terminal.progress import row_progress
    from featcache.studies.alignment.sampled import sampled_scores

    with row_progress("searching", sum(len(one.numbers) for one in pair)) as on_groups:
        return sampled_scores(pair, settings, part=(mine.index, mine.count), on_groups=on_groups)


def _on_ray(cache: "Cache", pair: "list[Gallery]", settings: "SampleSettings", actors: int | None) -> "QueryScores":
    from featcache.report.terminal.console import console
    from featcache.studies.alignment.sample_ray import RemoteSample, sampled_on_ray

    def say(done: int, count: int) -> None:
        console(stderr=True).print(f"searched {done} of {count} parts")

    return sampled_on_ray(RemoteSample.of(cache, pair, settings), tasks=actors, on_task=say)
