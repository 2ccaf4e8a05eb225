"""Output folders of clip-retrieval: CLIP embeddings of images and texts in numbered parts, with metadata.

`img_emb/img_emb_<number>.npy`, `text_emb/text_emb_<number>.npy` and `metadata/metadata_<number>.parquet`, one of each a
partition; numbers may be padded with zeros and have gaps. Both embeddings are in CLIP's joint space.

Source:
    github.com/rom1504/clip-retrieval, clip_retrieval/clip_inference/writer.py and reader.py.
"""

import re
from pathlib import Path

from featcache.data.errors import DataInvalid
from featcache.data.views import Modality
from featcache.errors import UsageError
from featcache.interchange.formats.arrays import npy_part
from featcache.interchange.formats.contents import Contents, ImportOptions, MatrixPart, stack, wanted_layer
from featcache.interchange.formats.row_names import RowNames, read_row_names, table_names

LAYER = "last.projected"  # behind the projection into the joint space
_FOLDERS: dict[str, Modality] = {"img_emb": "image", "text_emb": "text"}
_ID_COLUMNS = ("image_path", "key")


def read_clip_retrieval(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """The embeddings of images, of texts, or of both; layer "last.projected" if none is named. Errors as `read_source`.

    Option `modality` chooses one of the two. Without `ids`, ids are the metadata's `image_path` or `key`, or the column
    that `id_column` names.
    """
    layer = wanted_layer(layer or LAYER, source)
    chosen = dict(each for each in _FOLDERS.items() if options.modality in (None, each[1]))
    parts = {name: _numbered(source / name, ".npy") for name in chosen}
    if not any(parts.values()):
        raise UsageError(f"{source} holds no {' or '.join(f'{name}/{name}_0.npy' for name in chosen or _FOLDERS)}")
    contents: list[Contents] = []
    for name, files in parts.items():
        if files:
            read = {number: npy_part(file) for number, file in files.items()}
            names = _names(source, read, options)
            matrix = stack(list(read.values()), layer)
            contents.append(
                Contents(
                    kind="clip-retrieval",
                    source=source,
                    files=tuple(files.values()),
                    ids=names.ids,
                    matrices=(matrix,),
                    default=layer,
                    groups=names.groups,
                    are_paths=options.ids is None,
                    modality=chosen[name],
                )
            )
    return contents


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    """The parts of a folder by number, ascending."""
    numbered: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{folder.name}_*{suffix}")):
        match = re.fullmatch(r"(\d+)", path.name[len(folder.name) + 1 : -len(suffix)])
        if match and numbered.setdefault(int(match[1]), path) != path:
            raise DataInvalid(f"{folder}: {path.name} and {numbered[int(match[1])].name} have the same number")
    return dict(sorted(numbered.items()))


def _names(source: Path, parts: dict[int, MatrixPart], options: ImportOptions) -> RowNames:
    """Ids of the rows: those the user gave, else the metadata's, part by part."""
    if options.ids is not None:
        return read_row_names(options.ids, options.id_column)
    tables = _numbered(source / "metadata", ".parquet")
    if tables.keys() != parts.keys():
        odd = min(tables.keys() ^ parts.keys())
        lacks = "metadata" if odd in parts else next(iter(parts.values())).where.rpartition("_")[0]
        raise DataInvalid(f"{source}: part {odd} of {lacks} is missing. Give the ids of all rows: --ids FILE")
    names = [table_names(table, options.id_column, _ID_COLUMNS) for table in tables.values()]
    for part, table, read in zip(parts.values(), tables.values(), names, strict=True):
        if part.n != len(read.ids):
            raise DataInvalid(f"{part.where} has {part.n} rows, {table.name} {len(read.ids)}")
    ids = tuple(row_id for read in names for row_id in read.ids)
    if any(read.groups is None for read in names):
        return RowNames(ids)
    return RowNames(ids, tuple(group for read in names for group in read.groups or ()))
