"""The command that estimates alignment from sampled queries, for arrays too large for a graph."""

from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import typer

from featcache.commands.alignment import KOption, XArgument, YArgument
from featcache.commands.options import CacheOption, DatasetArgument, JsonOption, SeedOption, TableOption


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
    from featcache.report.terminal.progress import row_progress
    from featcache.report.terminal.sample import show_missing, show_sample
    from featcache.studies.alignment.sample_parts import check_parts, missing_parts, read_parts, write_part
    from featcache.studies.alignment.sampled import SampleSettings, galleries, sampled_scores, write_sample
    from featcache.studies.tables import check_table_path

    if (shard is None) != (parts is None):
        raise UsageError("--shard and --parts go together, as in --shard 0/4 --parts sampled")
    settings = SampleSettings(queries, k, pairing, seed, block)
    mine = parse_shard(shard) if shard is not None else WHOLE
    check_table_path(out)
    started = perf_counter()
    pair = galleries(open_cache(cache), dataset, [x, y], pairing)
    if parts is not None:
        check_parts(parts, mine.count, pair, settings)
    with row_progress("searching", sum(len(one.numbers) for one in pair)) as on_groups:
        scores = sampled_scores(pair, settings, part=(mine.index, mine.count), on_groups=on_groups)
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
