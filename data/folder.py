"""Folders of images with a caption file, as data sets.

The folder holds images anywhere below it and one of captions.csv, captions.jsonl, captions.parquet. Columns: `image`
(path below the folder, with "/") and `caption`; if wanted `id`, `group`, `split`, and any that start with `label`.
Several rows may name one image: it then has several captions. Images are ordered by path, captions by image and then
by their order in the file. Captions are kept as written.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, image_view
from featcache.data.options import OpenOptions
from featcache.data.parquet_images import parquet_schema
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay

if TYPE_CHECKING:
    import polars as pl

CAPTION_FILES = ("captions.csv", "captions.jsonl", "captions.parquet")
_SPLIT_NAMES = {
    "": "",
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "other": "other",
}
_COLUMNS = ("image", "caption", "id", "group", "split")


@dataclass(frozen=True)
class CaptionRow:
    """One line of the caption file, checked."""

    image: str
    caption: str
    row_id: str
    group: str
    split: str
    labels: tuple[str, ...]


def open_folder(root: Path | None = None, *, alias: str | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens a folder of the user's, under the alias or the folder's own name in lower case, digits, "-" and "_".

    Views "images" (id: path below the root) and "captions" (id: column `id`, or "<path>#<number>"), both grouped by the
    column `group`, or the image's path. Images without a caption are kept, with a note.
    """
    if root is None:
        raise missing("folder", "no root given", ())
    name = _slug(root.resolve().name if alias is None else alias, alias)
    path = _caption_file(root)
    table = _read_table(path)
    labels = [column for column in table.columns if column.startswith("label")]
    rows = _rows(table, path.name, labels)
    images, unread = _files_below(root, IMAGE_SUFFIXES), _files_below(root, OTHER_SUFFIXES)
    _check_photos(root, rows, images, path.name)
    bare = [image for image in images if image not in {row.image for row in rows}]
    notes = (f"{len(bare)} images have no caption, the first {bare[0]}",) if bare else ()
    if unread:
        notes += (f"left out, since such image formats are not read: {len(unread)} files, the first {unread[0]}",)
    group_of = {image: image for image in bare} | {row.image: row.group for row in rows}
    rows.sort(key=lambda row: row.image)  # stable: the order in the file stays within an image
    content = [root / image for image in images]
    views = (
        image_view(
            "images",
            images,
            tuple(group_of[image] for image in images),
            lambda row: content[row].read_bytes(),
            float_range=(options or OpenOptions()).float_range,
        ),
        text_view("captions", *zip(*((row.row_id, row.group, row.caption) for row in rows), strict=True)),
    )
    groups = tuple(dict.fromkeys(group_of[image] for image in images))
    overlay = _overlay(groups, rows, labels)
    return Dataset(
        name=name,
        views={view.name: view for view in views},
        overlay=overlay,
        licence=DATASETS["folder"].licence,
        source=f"folder with {path.name}",
        notes=notes,
    )


def _slug(name: str, alias: str | None) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", ascii_name).strip("-")
    if alias is not None and (slug != alias or not slug):
        raise DataInvalid(f"folder:{alias}: a name is lower case, digits, '-' and '_'; try folder:{slug or 'mine'}")
    if not slug or slug in DATASETS:
        raise DataInvalid(f"a folder cannot be called {name!r} in the cache; choose a name: folder:my-{slug or 'data'}")
    return slug


def _caption_file(root: Path) -> Path:
    files = [root / name for name in CAPTION_FILES if (root / name).is_file()]
    if not files:
        raise missing("folder", "no caption file", tuple(str(root / name) for name in CAPTION_FILES))
    if len(files) > 1:
        raise DataInvalid(f"{root} has {' and '.join(path.name for path in files)}; keep one")
    return files[0]


def _read_table(path: Path) -> "pl.DataFrame":
    """The caption file, every cell a string, an empty one where there is none; DataInvalid for other columns."""
    import polars as pl

    try:
        if path.suffix == ".csv":
            table = pl.read_csv(path, infer_schema=False)
        elif path.suffix == ".jsonl":
            table = pl.read_ndjson(path, infer_schema_length=None)
        else:
            parquet_schema(path)
            table = pl.read_parquet(path, glob=False)
        table = table.select(pl.all().cast(pl.String).fill_null(""))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataInvalid(f"{path} cannot be read: {error}") from error
    lacking = [column for column in ("image", "caption") if column not in table.columns]
    unknown = [column for column in table.columns if column not in _COLUMNS and not column.startswith("label")]
    if lacking or unknown:
        known = f"{', '.join(_COLUMNS)} and label*"
        raise DataInvalid(f"{path.name}: columns lacking: {lacking}; not known: {unknown}; known are {known}")
    if not table.height:
        raise DataInvalid(f"{path.name} has no rows")
    return table


def _rows(table: "pl.DataFrame", where: str, labels: Sequence[str]) -> list[CaptionRow]:
    rows: list[CaptionRow] = []
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for number, record in enumerate(table.iter_rows(named=True), start=1):
        image, caption = record["image"], record["caption"]
        here = f"{where} row {number} ({image!r})"
        pure = PurePosixPath(image)
        if not image or pure.is_absolute() or ".." in pure.parts or str(pure) != image:
            raise DataInvalid(f"{here}: the image must be a plain path below the folder, with '/'")
        if not caption.strip():
            raise DataInvalid(f"{here}: the caption is empty")
        split = record.get("split", "")
        if split not in _SPLIT_NAMES:
            raise DataInvalid(
                f"{here}: unknown split {split!r}; known: {', '.join(filter(None, _SPLIT_NAMES))}, or none"
            )
        place = counts[image] = counts.get(image, -1) + 1
        row_id = record.get("id", f"{image}#{place}")
        if not row_id or row_id in seen:
            raise DataInvalid(f"{here}: the id {row_id!r} is {'used before' if row_id else 'empty'}")
        seen.add(row_id)
        group = record.get("group") or image
        rows.append(
            CaptionRow(
                image=image,
                caption=caption,
                row_id=row_id,
                group=group,
                split=_SPLIT_NAMES[split],
                labels=tuple(record[label] for label in labels),
            )
        )
    _check_agreement(rows, where)
    return rows


def _check_agreement(rows: Sequence[CaptionRow], where: str) -> None:
    """Rows of one image have one group, rows of one group have one split and one label a column."""
    groups: dict[str, str] = {}
    facts: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=1):
        if groups.setdefault(row.image, row.group) != row.group:
            raise DataInvalid(
                f"{where} row {number}: {row.image!r} is in group {row.group!r} and {groups[row.image]!r}"
            )
        if facts.setdefault(row.group, (row.split, *row.labels)) != (row.split, *row.labels):
            raise DataInvalid(f"{where} row {number}: group {row.group!r} has another split or label in an earlier row")


def _files_below(root: Path, suffixes: frozenset[str]) -> tuple[str, ...]:
    """Paths of all files with one of the suffixes, sorted; hidden files and folders are passed over."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in suffixes)
    visible = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    return tuple(sorted(path.as_posix() for path in visible if (root / path).is_file()))


def _check_photos(root: Path, rows: Sequence[CaptionRow], images: tuple[str, ...], where: str) -> None:
    known = set(images)
    absent = list(dict.fromkeys(row.image for row in rows if row.image not in known))
    if absent:
        what = f"{len(absent)} images named in {where} are no image files below the folder, the first {absent[0]!r}"
        raise missing("folder", what, (str(root / absent[0]),))
    inside = root.resolve()
    for image in images:
        if not (root / image).resolve().is_relative_to(inside):
            raise DataInvalid(f"{image!r} is a link that leads out of {root}; copy the file into the folder")


def _overlay(groups: tuple[str, ...], rows: Sequence[CaptionRow], labels: Sequence[str]) -> Overlay:
    facts = {row.group: row for row in rows}
    splits = tuple(facts[group].split if group in facts else "" for group in groups)
    columns = {
        label: tuple(facts[group].labels[place] if group in facts else "" for group in groups)
        for place, label in enumerate(labels)
    }
    return Overlay(groups, splits, columns)
