"""Views and data sets of rows that a program has at hand: lists, arrays, map-style data sets of torch."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from featcache.data.datasets import is_taken
from featcache.data.errors import DataInvalid
from featcache.data.hub_names import OWN_NAME, is_own_name
from featcache.data.images import DECODING, bound_policy, decode_rgb
from featcache.data.texts import decode_text
from featcache.data.views import Dataset, Modality, Overlay, View

_VIEW_NAMES: dict[str, str] = {"image": "images", "text": "captions", "audio": "audio"}


class Rows(Protocol):
    """A list, an array, or a map-style `torch.utils.data.Dataset`."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __getitem__(self, row: int, /) -> Any:
        """One row."""
        ...


def make_view(
    rows: Any,
    modality: Modality,
    *,
    name: str | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    item: Callable[[Any], Any] | None = None,
) -> View:
    """A view of rows in memory or of a map-style data set; nothing is copied, and rows are read when they are needed.

    Args:
        rows: A list, an array [n, ...], a map-style `Dataset`, or a `DataLoader` of one, whose batches are left aside.
            A row is a text, a picture (PIL image, or the path of a file), or an array or tensor of numbers; of a tuple
            (row, label) it is the first.
        modality: "image", "text" or "audio".
        name: Of the view; None: "images", "captions" or "audio".
        ids: [n] stable and unique; None: the row numbers, which hold only while no row is added or moved.
        groups: [n] what each row shows; None: the ids.
        item: From what `rows` gives to the row; None: as above.

    Raises:
        DataInvalid: If there is no such modality, rows have no length, ids or groups are not as many, or an id stands
            twice.

    Example:
        >>> view = make_view(["a red fox", "a blue whale"], "text", ids=["fox", "whale"])
        >>> view.name, view.ids, view.read(1)
        ('captions', ('fox', 'whale'), 'a blue whale')
    """
    if modality not in _VIEW_NAMES:
        raise DataInvalid(f"modality {modality!r}: wanted one of {', '.join(_VIEW_NAMES)}")
    source = _map_style(rows)
    count = len(source)
    names = tuple(map(str, ids)) if ids is not None else tuple(f"{row:08d}" for row in range(count))
    of = tuple(map(str, groups)) if groups is not None else names
    if len(names) != count or len(of) != count:
        raise DataInvalid(f"{len(names)} ids and {len(of)} groups for {count} rows: wanted one of each a row")
    take = item or _first

    def content(row: int) -> bytes:
        return _bytes(take(source[row]), modality)

    images = modality == "image"
    return View(
        name or _VIEW_NAMES[modality], modality, names, of, content, _decoder(modality),
        decoding=dict(DECODING) if images else {}, bound=_bound if images else None,
    )  # fmt: skip


def make_dataset(
    name: str,
    views: Sequence[View],
    *,
    splits: Mapping[str, str] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    licence: str = "the user's own",
    source: str = "rows of a program",
) -> Dataset:
    """A data set of views that show the same groups.

    Args:
        name: The cache files it under this: `OWN_NAME` says what it may hold; of no data set that has an entry.
        views: One or more, each of another name.
        splits: Group -> "train", "validation", "test" or "other"; None, or a group without: no split.
        labels: Label column -> group -> label.
        licence: Terms of the data, in one line.
        source: Where it is from: provenance only.

    Raises:
        DataInvalid: If it cannot be called so, views are named alike or there is none, or a split or label is of a
            group that no view has.
    """
    if not is_own_name(name):
        raise DataInvalid(f"{name!r} cannot be the name of a data set: it has {OWN_NAME}")
    if is_taken(name):
        raise DataInvalid(
            f"{name} is a data set already, whose cached rows these would replace\n"
            f"  Choose another name, such as my-{name}; those that there are: featcache datasets"
        )
    if not views or len({view.name for view in views}) < len(views):
        raise DataInvalid(f"views {', '.join(view.name for view in views) or 'none'}: wanted one or more, named apart")
    every = tuple(dict.fromkeys(group for view in views for group in view.groups))
    there = set(every)
    for what, given in {"splits": splits or {}, **(labels or {})}.items():
        strange = [group for group in given if group not in there]
        if strange:
            raise DataInvalid(f"{what}: {len(strange)} groups are in no view, the first {strange[0]!r}")
    columns = {column: tuple(str(of.get(group, "")) for group in every) for column, of in (labels or {}).items()}
    overlay = Overlay(every, tuple((splits or {}).get(group, "") for group in every), columns)
    return Dataset(name, {view.name: view for view in views}, overlay, licence, source)


def _map_style(rows: Any) -> Rows:
    source = getattr(rows, "dataset", None) if type(rows).__name__ == "DataLoader" else rows
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise DataInvalid(
            f"{type(rows).__name__}: wanted rows with a length and an index, as a list or a map-style Dataset has\n"
            "  Of a stream, write the rows into a list or a folder first"
        )
    return cast(Rows, source)


def _first(row: Any) -> Any:
    return row[0] if isinstance(row, tuple) else row


def _bytes(row: Any, modality: str) -> bytes:
    """A row as bytes that its hash is taken of, and that `_decoder` reads back."""
    if modality == "text":
        if not isinstance(row, str) or not row.strip():
            raise DataInvalid(f"{row!r:.60}: wanted a text")
        return row.encode()
    if isinstance(row, bytes):
        return row
    if isinstance(row, str | Path):
        return Path(row).read_bytes()
    held = io.BytesIO()
    if hasattr(row, "save") and hasattr(row, "mode"):  # a PIL image: PNG keeps every bit of it
        row.save(held, format="PNG")
    else:
        np.save(held, np.asarray(row), allow_pickle=False)
    return held.getvalue()


def _decoder(modality: str) -> Callable[[bytes], Any]:
    if modality == "text":
        return decode_text
    return _decode_image if modality == "image" else _array


def _decode_image(content: bytes) -> Any:
    return _array(content) if content.startswith(b"\x93NUMPY") else decode_rgb(content)


def _array(content: bytes) -> Any:
    """A tensor of an array's bytes."""
    import torch

    try:
        return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise DataInvalid(f"no array of numbers: {error}") from error


def _bound(content: bytes) -> str:
    return "" if content.startswith(b"\x93NUMPY") else bound_policy(content)
