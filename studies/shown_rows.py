"""Texts and pictures of a data set's rows, for a table that a viewer opens: only of rows that were encoded."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.datasets import credit_of, known_entry, source_text
from featcache.data.errors import DataError
from featcache.data.hub import without_downloads
from featcache.data.hub_names import hub_name_of
from featcache.data.open import DatasetSource
from featcache.errors import UsageError
from featcache.studies.exhibits import BROKEN, thumbnail

if TYPE_CHECKING:
    from featcache.data.views import Dataset, View


@dataclass(frozen=True, eq=False)
class ShownRows:
    """What may stand beside points.

    Args:
        texts: Id of a point -> text.
        pictures: Id of a point -> a WebP file.
        credits: Lines that credit what is shown.
        notes: What is not shown and why.
    """

    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    pictures: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    credits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def shown_rows(
    name: str,
    groups: Mapping[str, str],
    recorded: Mapping[str, Mapping[str, str]],
    *,
    texts: bool | None,
    pictures: bool,
    root: Path | None,
    source: str = "",
) -> ShownRows:
    """Reads texts and pictures of some rows; downloads nothing.

    Texts are those of a view that was mapped, else of the first view of the data set whose texts may be shown. A point
    that is a row of that view has its own, any other the first row's of its group. A row whose content is not what was
    encoded is left out, where that is known.

    Args:
        name: Data set, as the cache calls it.
        groups: Id of each point -> its group.
        recorded: View that was mapped -> id -> hash of the content that was encoded.
        texts: None: where the data's licence lets others see them; True: whatever it says.
        pictures: Whether thumbnails are read: of the user's own files, which `root` points at.
        root: The folder that holds the data set's files.
        source: Where the data set is from, as the cache records it; "" where that is not known.

    Raises:
        UsageError: If what was asked for cannot be read, or pictures without a root.
    """
    if pictures and root is None:
        raise UsageError(
            "--thumbnails puts pictures into the file, which others may get: point at pictures of your own\n"
            "  Add --root DIR"
        )
    if texts is False and not pictures:
        return ShownRows()
    if root is None and _is_of_a_program(name, source):
        what = f"{name} is of a program ({source}): its rows have no texts on this disk"
        if texts:
            raise UsageError(f"{what}\n  Leave out --texts")
        return ShownRows(notes=(what,))
    try:
        dataset = _open(name, root)
    except (DataError, OSError) as error:
        first = str(error).partition("\n")[0]
        if texts or pictures or root is not None:
            raise UsageError(f"nothing of {name} can be shown: {error}") from error
        return ShownRows(notes=(f"no texts: {first}",))
    views = [view for view in dataset.views.values() if view.modality == "text"]
    views.sort(key=lambda view: view.name not in recorded)  # stable
    allowed = [view for view in views if texts or credit_of(name, view.name)] if texts is not False else []
    said, notes = _of_first_view(allowed, groups, recorded, str), list[str]()
    if views and not allowed and texts is None:
        entry = known_entry(name)
        terms = entry.licence if entry is not None else "they are their owner's"
        notes.append(f"no texts: the file travels ({terms}); whoever may show them adds --texts")
    images = [view for view in dataset.views.values() if view.modality == "image"] if pictures else []
    seen = _of_first_view(images, groups, recorded, thumbnail)
    credits = [credit_of(name, view.name) for view in allowed[:1]]
    for what, there, asked in (("texts", said, bool(texts)), ("pictures", seen, pictures)):
        if asked and not there:
            raise UsageError(
                f"{name} has no {what} of the rows that are mapped\n  Leave out the option that asks for them"
            )
    return ShownRows(said, seen, tuple(filter(None, credits)), tuple(notes))


def _is_of_a_program(name: str, source: str) -> bool:
    """Whether the rows came from a program's `make_dataset`, and not from a place that a name or a folder says."""
    placed = known_entry(name) is not None or hub_name_of(name) is not None
    return not placed and bool(source) and not source.startswith("folder")


def _open(name: str, root: Path | None) -> "Dataset":
    with without_downloads():
        return DatasetSource(source_text(name), root).open()


def _of_first_view(
    views: "Sequence[View]", groups: Mapping[str, str], recorded: Mapping[str, Mapping[str, str]], make: Any
) -> dict[str, Any]:
    """What the first view that has any of the points holds of them."""
    for view in views:
        own = set(view.ids) & groups.keys()
        read = _read(view, view.ids, own, recorded.get(view.name, {}), make)
        if not own:
            by_group = _read(view, view.groups, set(groups.values()), recorded.get(view.name, {}), make)
            read = {point: by_group[group] for point, group in groups.items() if group in by_group}
        if read:
            return read
    return {}


def _read(view: "View", keys: Sequence[str], wanted: set[str], hashes: Mapping[str, str], make: Any) -> dict[str, Any]:
    """What is made of the first row of each key that is wanted; a row that cannot be read is left out."""
    first = dict[str, int]()
    for row, key in enumerate(keys):
        if key in wanted:
            first.setdefault(key, row)

    def attempt(row: int) -> Any:
        try:
            content = view.content(row)
            if hashes.get(view.ids[row]) not in (None, "", view.hash_of(content)):
                return None
            return make(view.decode(content))
        except BROKEN:
            return None

    with ThreadPoolExecutor(4) as pool:
        made = dict(zip(first, pool.map(attempt, first.values()), strict=True))
    return {key: each for key, each in made.items() if each is not None}
