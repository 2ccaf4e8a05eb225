"""A panic of polars over somebody's Parquet, which is no Exception, is an error that names the file."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from featcache.data.caption_files import read_caption_file
from featcache.data.errors import DataInvalid
from featcache.data.parquet_images import Cell, ParquetImages, parquet_schema, read_columns


def panic(*_: object, **__: object) -> None:
    raise pl.exceptions.PanicException("range end index 12 out of range")


USES: dict[str, Callable[[Path], object]] = {
    "captions": lambda path: read_caption_file(path),
    "columns": lambda path: read_columns(path, ["file"]),
    "images": lambda path: ParquetImages([path], "image").read(Cell(0, 0)),
    "columns' names": parquet_schema,
}


@pytest.mark.parametrize("use", USES)
def test_a_panic_over_a_table_of_images_or_captions_names_the_file(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "captions.parquet"
    pl.DataFrame({"file": ["a.jpg"], "caption": ["a"], "image": [b"x"]}).write_parquet(path)
    for owner, name in ((pl.LazyFrame, "collect"), (pl, "read_parquet")):
        monkeypatch.setattr(owner, name, panic)
    if use == "columns' names":
        monkeypatch.setattr(pl, "read_parquet_schema", panic)
    with pytest.raises(DataInvalid, match=r"captions\.parquet.* cannot be read.*range end index 12"):
        USES[use](path)
