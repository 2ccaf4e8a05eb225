"""Scores of sampled queries that several processes compute: a file a part, and all parts together."""

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from blake3 import blake3

from featcache.errors import Damaged, UsageError
from featcache.extraction.shards import Shard
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.store.digest import canonical
from featcache.studies.alignment.sampled import Gallery, QueryScores, SampleSettings
from featcache.studies.tables import read_table

_COLUMNS = {"group": pl.String, "score": pl.Float64, "population": pl.Int64, "backend": pl.String, "of": pl.String}


def part_path(folder: Path, shard: Shard) -> Path:
    """Where the scores of one part stand."""
    return folder / f"part-{shard.index}-of-{shard.count}.parquet"


def check_parts(folder: Path, count: int, pair: list[Gallery], settings: SampleSettings) -> None:
    """Refuses, before anything is searched, a folder that takes no parts or has parts of another sample.

    Raises:
        UsageError: If it cannot be a folder, or a part there is of other arrays or settings.
        Damaged: If a part is no table of scores.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise UsageError(f"--parts {folder}: no folder can stand there ({why})\n  Name a folder") from error
    missing = missing_parts(folder, count)
    for shard in (Shard(index, count) for index in range(count)):
        if shard not in missing:
            _part(part_path(folder, shard), _identity(pair, settings))


def write_part(folder: Path, shard: Shard, scores: QueryScores, pair: list[Gallery], settings: SampleSettings) -> None:
    """Writes the scores of one part, in place of what may stand there."""
    of = _identity(pair, settings)
    frame = pl.DataFrame(
        {
            "group": [str(group) for group in scores.groups.tolist()],
            "score": scores.scores,
            "population": [scores.population] * len(scores.scores),
            "backend": [scores.backend] * len(scores.scores),
            "of": [of] * len(scores.scores),
        },
        schema=_COLUMNS,
    )
    write_output(part_path(folder, shard), parquet_bytes(frame))


def missing_parts(folder: Path, count: int) -> list[Shard]:
    """The parts of so many that are not there."""
    every = [Shard(index, count) for index in range(count)]
    return [shard for shard in every if not part_path(folder, shard).is_file()]


def read_parts(folder: Path, count: int, pair: list[Gallery], settings: SampleSettings) -> QueryScores:
    """The scores of all parts together, in the order of the gallery's groups.

    Raises:
        UsageError: If a part is of other arrays or settings.
        Damaged: If a part is no table of scores.
    """
    of = _identity(pair, settings)
    frames = [_part(part_path(folder, Shard(index, count)), of) for index in range(count)]
    parts = [
        QueryScores(np.array(frame["group"].to_list(), object), frame["score"].to_numpy(), *frame.row(0)[2:4])
        for frame in frames
    ]
    return combined_parts(parts)


def combined_parts(parts: list[QueryScores]) -> QueryScores:
    """The scores of all parts together, which were dealt in turn from the rising numbers of the drawn groups."""
    places = np.argsort(np.concatenate([np.arange(len(part.scores)) for part in parts]), kind="stable")
    groups, scores = (np.concatenate(each)[places] for each in zip(*((p.groups, p.scores) for p in parts), strict=True))
    return QueryScores(groups, scores, parts[0].population, ", ".join(dict.fromkeys(part.backend for part in parts)))


def _part(path: Path, of: str) -> pl.DataFrame:
    """One part, which must be of the sample that `of` stands for."""
    frame = read_table(path)
    if frame.schema != pl.Schema(_COLUMNS):
        raise Damaged(f"{path} is no part of a sample: it has {', '.join(frame.columns)}")
    if frame["of"].unique().to_list() != [of]:
        raise UsageError(
            f"{path} is of other arrays or settings\n  Choose another folder, or delete the parts that are there"
        )
    return frame


def _identity(pair: list[Gallery], settings: SampleSettings) -> str:
    """What parts of one sample have in common: arrays, their values, and every setting but the size of blocks."""
    what = {name: value for name, value in asdict(settings).items() if name != "block"}
    arrays = [{"digest": one.features.digest, "root": one.reader.complete.root} for one in pair]
    return blake3(canonical({"settings": what, "arrays": arrays})).hexdigest(length=16)
