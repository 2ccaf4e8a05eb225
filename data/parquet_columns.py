"""Which columns of Parquet files hold images, captions and what else is known: declared, or guessed where clear."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featcache.data.caption_files import COLUMNS
from featcache.data.errors import DataInvalid
from featcache.data.options import OpenOptions

# names that images go by, beside those of caption files, where there are several columns of bytes
IMAGE_NAMES = (*COLUMNS["image"], "jpg", "png", "picture", "photo")
CAPTION_NAMES = (*COLUMNS["caption"], "sentences", "txt", "alt_text", "raw", "answer")
# names of an image: rows that share one are captions of one image
IMAGE_IDS = ("image_id", "img_id", "imgid", "cocoid", "filename", "file_name", "image_name")
ROW_IDS = ("key", "__key__", "id")
GROUP_NAMES, SPLIT_NAMES = ("group",), ("split",)


@dataclass(frozen=True)
class ParquetColumns:
    """The columns that are read.

    Args:
        image: Bytes of images.
        captions: Texts, or lists of them; those of one row are captions of one image, in this order.
        ids: Candidates for the id, the first that fits is taken: each a column, and whether rows may share an id.
        group: The group, or None.
        split: The split, or None.
        labels: Labels.
        notes: What was passed over.
    """

    image: str
    captions: tuple[str, ...]
    ids: tuple[tuple[str, bool], ...]
    group: str | None
    split: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def read(self) -> list[str]:
        """Every column but the image's."""
        others = (*self.captions, *(column for column, _ in self.ids), self.group, self.split, *self.labels)
        return list(dict.fromkeys(column for column in others if column is not None))


def parquet_columns(schema: Mapping[str, Any], options: OpenOptions, where: str) -> ParquetColumns:
    """Chooses columns: those that the options declare, else such as are clear by their names and types.

    Args:
        schema: Column -> polars type.
        options: The declarations.
        where: The file, for messages.

    Raises:
        DataInvalid: If a declared column is not there or of another type, or it is not clear which holds the images.
    """
    for role, column in options.column:
        if column not in schema:
            near = difflib.get_close_matches(column, schema, n=1)
            guess = f"; did you mean --column {role}={near[0]}?" if near else ""
            raise DataInvalid(f"{where} has no column {column!r}{guess}\n  It has: {_listed(schema)}")
    image = _image_column(schema, options, where)
    captions, notes = _caption_columns(schema, options, where)
    declared = options.columns("id")
    ids = [(column, True) for column in declared] or [
        *((column, True) for column in _named(schema, IMAGE_IDS)),
        *((column, False) for column in _named(schema, ROW_IDS)),
    ]
    labels = options.columns("label") or tuple(column for column in schema if _is_label(column, schema[column]))
    columns = ParquetColumns(
        image=image,
        captions=captions,
        ids=tuple((column, shared) for column, shared in ids if declared or _is_scalar(schema[column])),
        group=next(iter(options.columns("group") or _named(schema, GROUP_NAMES)), None),
        split=next(iter(options.columns("split") or _named(schema, SPLIT_NAMES)), None),
        labels=labels,
        notes=notes,
    )
    unread = ", ".join(column for column in schema if column not in {image, *columns.read})
    return replace(columns, notes=(*notes, f"columns that are not read: {unread}")) if unread else columns


def _image_column(schema: Mapping[str, Any], options: OpenOptions, where: str) -> str:
    holding = [column for column, kind in schema.items() if is_image(kind)]
    declared = options.columns("image")
    if declared:
        if declared[0] not in holding:
            raise DataInvalid(
                f"{where}: column {declared[0]!r} holds no image bytes but {schema[declared[0]]}\n"
                f"  Columns of bytes: {', '.join(holding) or 'none'}"
            )
        return declared[0]
    known = [column for column in holding if column.lower() in IMAGE_NAMES]
    clear = holding if len(holding) == 1 else known
    if len(clear) == 1:
        return clear[0]
    if holding:
        raise DataInvalid(
            f"{where} has several columns of bytes: {', '.join(holding)}\n"
            f"  Say which holds the images: --column image={holding[0]}"
        )
    links = _named(schema, ("url", "image_url", "image", "urls"))
    what = f"; addresses of images ({links[0]}) are not followed: img2dataset downloads them" if links else ""
    raise DataInvalid(f"{where} has no column of image bytes{what}\n  It has: {_listed(schema)}")


def _caption_columns(
    schema: Mapping[str, Any], options: OpenOptions, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of captions, and a note on others that may hold some."""
    texts = [column for column, kind in schema.items() if _is_text(kind)]
    declared = options.columns("caption")
    for column in declared:
        if column not in texts:
            raise DataInvalid(
                f"{where}: column {column!r} holds no texts but {schema[column]}\n"
                f"  Columns of texts: {', '.join(texts) or 'none'}"
            )
    if declared:
        return declared, ()
    for name in CAPTION_NAMES:
        exact = [column for column in texts if column.lower() == name]
        numbered = sorted(column for column in texts if re.fullmatch(rf"{name}s?_?\d", column.lower()))
        if exact or numbered:
            return tuple(exact or numbered), ()
    others = [column for column in texts if column.lower() not in {*IMAGE_IDS, *ROW_IDS, *GROUP_NAMES, *SPLIT_NAMES}]
    if not others:
        return (), ()
    return (), (
        f"no column is called like a caption; texts are in {', '.join(others)}: to read one, add --column "
        f"caption={others[0]}",
    )


def is_image(kind: Any) -> bool:
    """Whether a polars type is bytes, or a struct with a field `bytes` of them, as the Hub stores images."""
    import polars as pl

    if isinstance(kind, pl.Struct):
        return any(field.name == "bytes" and field.dtype == pl.Binary for field in kind.fields)
    return kind == pl.Binary


def _is_text(kind: Any) -> bool:
    import polars as pl

    return kind == pl.String or (isinstance(kind, pl.List) and kind.inner == pl.String)


def _is_scalar(kind: Any) -> bool:
    import polars as pl

    return kind in (pl.String, pl.Boolean) or kind.is_integer()


def _is_label(column: str, kind: Any) -> bool:
    name = column.lower()
    named = name.startswith("label") or name.endswith("_label") or name in ("category", "class", "cls")
    return named and _is_scalar(kind)


def _named(schema: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Columns of these names in any case, in the order of the names."""
    lower = {column.lower(): column for column in reversed(list(schema))}
    return [lower[name] for name in names if name in lower]


def _listed(schema: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} ({kind})" for column, kind in schema.items())[:500]
