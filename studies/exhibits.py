"""Captions and thumbnails of the rows that a run's tables name, as far as a page may show them.

A page travels: by default it shows those views alone that `DatasetEntry.may_show` credits. A picture is what its view
decodes, made smaller: what is seen is what was encoded.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cache import Cache, default_place
from featcache.data.datasets import DATASETS, credit_of, known_entry, source_text
from featcache.data.entries import DatasetEntry
from featcache.data.errors import DataError, DataMissing
from featcache.data.hub import without_downloads
from featcache.data.open import DatasetSource
from featcache.errors import FeatcacheError, UsageError
from featcache.storage.open import is_address
from featcache.trainer.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from featcache.data.views import Dataset, View

SIDE = 64  # pixels of the longer side of a thumbnail
QUALITY = 80  # of WebP
MOST = {"image": 1_500, "text": 10_000}  # rows of a page
LONGEST_TEXT = 1_000  # characters
# of a row that is damaged or hostile, or whose decoder is not installed
BROKEN = (DataError, OSError, ValueError, ArithmeticError, LookupError, SyntaxError, MemoryError, ImportError)
_GROUPS = {"answers": ("group", "answer_group"), "neighbors": ("id", "neighbor")}  # table -> its columns of groups
_WORDS = {"image": "pictures", "text": "texts"}
_OPTIONS = {"image": "--thumbnails", "text": "--texts"}
Asked = Mapping[str, bool | None]  # modality -> whether it is shown; None where the licence lets a page show it


@dataclass(frozen=True)
class Wanted:
    """What a page would show.

    Args:
        rows: View -> ids of rows, the most wanted first.
        groups: Groups whose first row of each view of the run is wanted, after those rows.
    """

    rows: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    groups: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Exhibits:
    """Captions and thumbnails for a page; each is filed by its view, since two views may have rows of the same id.

    Args:
        texts: View -> id of a row -> its text, of at most LONGEST_TEXT characters.
        thumbnails: View -> id of a row -> a WebP file whose longer side is SIDE pixels, or less.
        first_rows: View -> group -> id of its first row, of the groups that were wanted.
        licence: Credits and terms of what is shown, to stand beside it, in one line; "" where nothing is shown.
        notes: What is not shown and why, and whose terms apply; a sentence or two each.
    """

    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    thumbnails: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict[str, Mapping[str, bytes]])
    first_rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    licence: str = ""
    notes: tuple[str, ...] = ()

    def text(self, view: str, row: str) -> str | None:
        """The text of a row, or None."""
        return self.texts.get(view, {}).get(row)

    def thumbnail(self, view: str, row: str) -> bytes | None:
        """The picture of a row, or None."""
        return self.thumbnails.get(view, {}).get(row)

    def group_text(self, group: str) -> str | None:
        """The text of a group's first row, of the first view that has one, or None."""
        found = (self.text(view, rows[group]) for view, rows in self.first_rows.items() if group in rows)
        return next((text for text in found if text is not None), None)

    def group_thumbnail(self, group: str) -> bytes | None:
        """The picture of a group's first row, of the first view that has one, or None."""
        found = (self.thumbnail(view, rows[group]) for view, rows in self.first_rows.items() if group in rows)
        return next((picture for picture in found if picture is not None), None)


def exhibit_ids(run: Run) -> Wanted:
    """The rows and groups that the tables "answers" and "neighbors" of a run name; of a table that is absent, none.

    Raises:
        RunDamaged: If a table cannot be read or lacks a column.
    """
    view_of = {name: side["view"] for name, side in run.config["sides"].items()}
    directions = {f"{one}→{other}": (view_of[one], view_of[other]) for one in view_of for other in view_of}
    rows: dict[str, dict[str, None]] = {}
    groups: dict[str, None] = {}
    for table, of_groups in _GROUPS.items():
        columns = [*of_groups, *(["direction", "query", "answer"] if table == "answers" else [])]
        frame = run.table(table)
        for line in frame.select(columns).unique(maintain_order=True).iter_rows(named=True):
            groups |= dict.fromkeys(line[column] for column in of_groups)
            for view, row in zip(directions.get(line.get("direction", ""), ()), ("query", "answer"), strict=False):
                rows.setdefault(view, {})[line[row]] = None
    return Wanted({view: [*ids] for view, ids in rows.items()}, tuple(groups))


def load_exhibits(
    run: Run,
    wanted: Wanted | None = None,
    *,
    texts: bool | None = None,
    thumbnails: bool | None = None,
    root: Path | None = None,
    cache: str | Path | None = None,
) -> Exhibits:
    """Reads captions and pictures of a run's data set; downloads nothing.

    Rows whose content is not what was encoded are left out, where the run's features are cached on this disk.

    Args:
        run: A run; of several on one page, the headline run.
        wanted: What to read; None for `exhibit_ids`.
        texts: Whether captions are shown: None where the data's licence lets a page show them, True whatever it says.
        thumbnails: The same of pictures.
        root: The folder that holds the data set's files, as for `open_dataset`.
        cache: Where the features of the run may be cached; None for the default place.

    Returns:
        What can be shown. What cannot be stands in `notes` with the reason, unless True or `root` asked for it.

    Raises:
        UsageError: If what was asked for cannot be shown at all.
        RunDamaged: As `exhibit_ids`.
    """
    asked: Asked = {"image": thumbnails, "text": texts}
    name, views = str(run.config["dataset"]), list(dict.fromkeys(array["view"] for array in _arrays(run)))
    entry = known_entry(name) or DATASETS["folder"]
    free = None in asked.values() and any(credit_of(entry.name, view) for view in views)
    if not free and True not in asked.values():
        if root is not None:
            raise UsageError(
                f"--root {root} says where {name} lies, and nothing of it would be shown\n"
                "  Add --thumbnails, --texts or both, or leave out --root"
            )
        return Exhibits(notes=_withheld(name, entry, [modality for modality in asked if asked[modality] is None]))
    try:
        wanted = _some(run, exhibit_ids(run) if wanted is None else wanted)
        dataset = _open(name, root)
        there = [dataset.views[view] for view in views if view in dataset.views]
        shown = [view for view in there if _is_shown(entry, view, asked)]
        _check_asked(run, there, shown, asked)
    except (DataError, UsageError, OSError) as error:
        if True in asked.values() or root is not None:
            raise UsageError(f"nothing of {name} can be shown: {error}") from error
        hint = (
            ". Add --root DIR, the folder that holds it" if entry.takes_root and isinstance(error, DataMissing) else ""
        )
        return Exhibits(notes=(f"Nothing of {name} is shown: {str(error).partition(chr(10))[0]}{hint}.",))
    kept_back = dict.fromkeys(view.modality for view in there if asked.get(view.modality, False) is None)
    notes = _withheld(name, entry, [one for one in kept_back if all(view.modality != one for view in shown)])
    place = default_place() if cache is None else cache
    recorded = {view.name: _recorded_hashes(run, view.name, place) for view in shown}
    return _with_terms(_read(shown, wanted, recorded), name, entry, shown, [*notes, *_unchecked(recorded, place)])


def thumbnail(picture: "Image.Image") -> bytes:
    """A picture as WebP, its longer side SIDE pixels at most; an alpha channel is kept.

    Example:
        >>> from PIL import Image
        >>> small = Image.open(io.BytesIO(thumbnail(Image.new("RGB", (256, 128), "red"))))
        >>> small.format, small.size
        ('WEBP', (64, 32))
    """
    from PIL import Image

    small, buffer = picture.copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, format="WEBP", quality=QUALITY)
    return buffer.getvalue()


def _arrays(run: Run) -> list[dict[str, Any]]:
    reference = run.config.get("reference")
    return [*run.config["sides"].values(), *([reference] if reference else [])]


def _is_shown(entry: DatasetEntry, view: "View", asked: Asked) -> bool:
    wish = asked.get(view.modality, False)
    return bool(credit_of(entry.name, view.name)) if wish is None else wish


def _open(name: str, root: Path | None) -> "Dataset":
    with without_downloads():
        return DatasetSource(source_text(name), root).open()


def _check_asked(run: Run, views: "Sequence[View]", shown: "Sequence[View]", asked: Asked) -> None:
    for modality, wish in asked.items():
        if wish and all(view.modality != modality for view in views):
            has = ", ".join(f"{view.name} ({view.modality})" for view in views)
            raise UsageError(
                f"the run {run.path} has no {_WORDS[modality]}; of its data set it has {has or 'no view'}\n"
                f"  Leave out {_OPTIONS[modality]}"
            )
    if not shown:
        raise UsageError(f"no page may show what the run {run.path} has of it\n  Add --thumbnails, --texts or both")


def _some(run: Run, wanted: Wanted) -> Wanted:
    if not wanted.groups and not any(wanted.rows.values()):
        raise UsageError(
            f"the run {run.path.name} names no rows to show: it has neither neighbours nor answers\n"
            "  Train it again with --overwrite"
        )
    return wanted


def _recorded_hashes(run: Run, view: str, place: str | Path) -> dict[str, str] | None:
    """Id -> content hash of the rows that were encoded; None where no array of the run is cached on this disk."""
    if is_address(str(place)):
        return None
    cache = Cache(place)
    for array in _arrays(run):
        name = (str(run.config["dataset"]), view, array["encoder"], array["layer"], array["digest"])
        if array["view"] != view or any("/" in part or part == ".." for part in name[:-2]):
            continue
        try:
            for cached in cache.arrays(*name):
                rows = cache.rows(cached.key())
                return dict(zip(rows.ids, rows.hashes, strict=True))
        except (FeatcacheError, OSError):  # verify names what is damaged
            continue
    return None


def _read(views: "Sequence[View]", wanted: Wanted, recorded: Mapping[str, Mapping[str, str] | None]) -> Exhibits:
    shown: dict[str, dict[str, dict[str, Any]]] = {modality: {} for modality in MOST}
    first_rows: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for view in views:
        numbers, first_rows[view.name] = _row_numbers(view, wanted)
        most = MOST[view.modality] - sum(map(len, shown[view.modality].values()))
        content, skipped = _contents(view, sorted(numbers[:most]), recorded[view.name] or {})
        shown[view.modality][view.name] = content
        absent = len(set(wanted.rows.get(view.name, ())) - set(view.ids))
        absent += len(set(wanted.groups) - set(first_rows[view.name]))
        skipped["not in the data set as it is now"] = absent
        skipped[f"more than a page shows ({MOST[view.modality]:,})"] = len(numbers[most:])
        if any(skipped.values()):
            listed = "; ".join(f"{count:,} {why}" for why, count in skipped.items() if count)
            notes.append(f"{view.name}: {len(content):,} rows are shown, and these are not: {listed}.")
    return Exhibits(shown["text"], shown["image"], first_rows, notes=tuple(notes))


def _row_numbers(view: "View", wanted: Wanted) -> tuple[list[int], dict[str, str]]:
    """The rows of a view that are wanted, once each, and the id of the first row of each group that is."""
    number = {row: place for place, row in enumerate(view.ids)}
    groups = dict.fromkeys(wanted.groups)
    first: dict[str, int] = {}
    for place, group in enumerate(view.groups):
        if group in groups:
            first.setdefault(group, place)
    rows = [number[row] for row in wanted.rows.get(view.name, ()) if row in number]
    numbers = dict.fromkeys([*rows, *(first[group] for group in groups if group in first)])
    return [*numbers], {group: view.ids[place] for group, place in first.items()}


def _contents(
    view: "View", numbers: Sequence[int], recorded: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, int]]:
    """What the page shows of rows of a view, and how many are left out, by reason."""
    make = thumbnail if view.modality == "image" else _shortened

    def attempt(number: int) -> tuple[Any, str | None]:
        try:
            content = view.content(number)
            if recorded and recorded.get(view.ids[number]) not in ("", view.hash_of(content)):
                return None, None
            return make(view.decode(content)), ""
        except BROKEN as error:
            return None, str(error).partition("\n")[0][:200] or type(error).__name__

    with ThreadPoolExecutor(4) as pool:
        made = {view.ids[number]: each for number, each in zip(numbers, pool.map(attempt, numbers), strict=True)}
    broken = {row: why for row, (_, why) in made.items() if why}
    skipped = {"of other content than was encoded": sum(why is None for _, why in made.values())}
    if broken:
        row, why = next(iter(broken.items()))
        skipped[f"cannot be read, the first {row!r}: {why}"] = len(broken)
    return {row: value for row, (value, why) in made.items() if why == ""}, skipped


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _withheld(name: str, entry: DatasetEntry, modalities: Sequence[str]) -> tuple[str, ...]:
    if not modalities:
        return ()
    what = " and ".join(_WORDS[modality] for modality in modalities)
    options = " ".join(_OPTIONS[modality] for modality in modalities)
    root = " --root DIR" if entry.takes_root else ""
    return (
        f"The {what} of {name} are not shown, for a page travels ({_terms(entry)}). Who may show them adds: "
        f"{options}{root}.",
    )


def _terms(entry: DatasetEntry) -> str:
    return "they are their owner's" if entry.name == "folder" else f"terms of the data: {entry.licence}"


def _unchecked(recorded: Mapping[str, Mapping[str, str] | None], place: str | Path) -> Iterator[str]:
    unknown = [view for view, hashes in recorded.items() if hashes is None]
    if unknown:
        yield (
            f"The rows of {' and '.join(unknown)} are shown as they are now; they were not compared with what was "
            f"encoded, for the run's features are not cached in {place}."
        )


def _with_terms(
    exhibits: Exhibits, name: str, entry: DatasetEntry, views: "Sequence[View]", notes: Sequence[str]
) -> Exhibits:
    """The exhibits with their credits, and a note on what is shown at somebody's wish."""
    credits = dict.fromkeys(filter(None, (credit_of(entry.name, view.name) for view in views)))
    notes = [*exhibits.notes, *notes]
    wished = " and ".join(view.name for view in views if not credit_of(entry.name, view.name))
    if wished:
        credits[f"{wished} of {name}: {_terms(entry)}"] = None
        notes.insert(0, f"{wished} of {name} are shown at the wish of whoever made this page ({_terms(entry)}).")
    return replace(exhibits, licence="; ".join(credits), notes=tuple(notes))
