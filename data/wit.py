"""wit_1024: the 1,024 Wikipedia images with captions that the platonic representation hypothesis was shown on.

Rows keep the order of the file; ids and groups are the row number in four digits. A row's `text` is a list of captions
of which the published scores use the first, so the view "captions" holds the first.
"""

from pathlib import Path
from typing import Any

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.hub import download
from featcache.data.images import image_view
from featcache.data.parquet_images import Cell, ParquetImages, read_columns
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay

ROWS = 1024
HUB_REPO, HUB_REVISION, HUB_PATTERNS = "minhuh/prh", "wit_1024", ("*.parquet", "**/*.parquet")


def open_wit_1024(root: Path | None = None) -> Dataset:
    """Opens wit_1024 from a folder with its Parquet files (directly, or in data/), or, with no root, from the Hub.

    Views "images" and "captions", both of 1,024 rows, one group a row; no splits, no labels.

    Source:
        Huh et al. 2024, arXiv:2405.07987; Srinivasan et al. 2021, arXiv:2103.01913.
    """
    if root is None:
        folder = download("wit_1024", HUB_REPO, HUB_REVISION, HUB_PATTERNS)
        root, source = folder.path, folder.source
    else:
        source = "Parquet files in a local folder"
    files = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    if not files:
        raise missing("wit_1024", "no Parquet file", (f"{root}/*.parquet", f"{root}/data/*.parquet"))
    cells: list[Cell] = []
    texts: list[str] = []
    for number, file in enumerate(files):
        for row, text in enumerate(read_columns(file, ["text"])["text"].to_list()):
            cells.append(Cell(number, row))
            texts.append(_first(text, f"{file.name} row {row}"))
    if len(cells) != ROWS:
        raise DataInvalid(f"wit_1024: {len(cells)} rows in {len(files)} files of {files[0].parent}, not {ROWS}")
    ids = tuple(f"{row:04d}" for row in range(ROWS))
    photos = ParquetImages(files, "image")
    images = image_view("images", ids, ids, lambda row: photos.read(cells[row]))
    views = {"images": images, "captions": text_view("captions", ids, ids, texts)}
    overlay = Overlay(ids, ("",) * ROWS)
    return Dataset("wit_1024", views, overlay, licence=DATASETS["wit_1024"].licence, source=source)


def _first(text: Any, where: str) -> str:
    first = text[0] if isinstance(text, list) and text else text
    if not isinstance(first, str) or not first.strip():
        raise DataInvalid(f"wit_1024: {where} has no caption")
    return first
