"""Layouts of a folder of images: a caption file, a text file beside each image, images alone or in class folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from featcache.data.caption_files import CAPTION_FILES, CaptionTable, detect_text, read_caption_file
from featcache.data.errors import DataInvalid
from featcache.data.image_names import ImageNames
from featcache.data.splits import named_split, split_names


@dataclass(frozen=True)
class Caption:
    """One caption of an image."""

    row_id: str
    image: str
    text: str


@dataclass(frozen=True)
class Facts:
    """What else is known of an image."""

    group: str
    split: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderLayout:
    """What a folder says of its images.

    Args:
        source: How it says so, as in "folder with captions.csv".
        captions: Ordered by image, and of one image as the folder has them; empty where there are none.
        facts: Image -> what else is known; images that are not mentioned have no entry.
        labels: Names of the label columns.
        splits: Where splits come from, as in "column split of captions.csv"; "" where there are none.
        notes: What the user should know of how it was read.
    """

    source: str
    captions: tuple[Caption, ...] = ()
    facts: Mapping[str, Facts] = field(default_factory=lambda: {})
    labels: tuple[str, ...] = ()
    splits: str = ""
    notes: tuple[str, ...] = ()


def read_layout(root: Path, images: Sequence[str]) -> FolderLayout:
    """Reads what a folder says of its images.

    In this order: a caption file in the folder, caption files in its subfolders, text files beside the images, images
    alone. Without a caption file, folders of images are their category. Top folders that are called train, val, test
    are splits, where nothing else says them.

    Args:
        root: The folder.
        images: Paths of its images below it, with "/", sorted.

    Raises:
        DataMissing, DataInvalid: If a caption file names what is not there, or contradicts its format or itself.
    """
    files, notes = _caption_files(root)
    if files:
        layout = _from_tables(root, images, files)
    else:
        layout = _from_texts(root, images) or FolderLayout("folder of images")
        layout = _with_categories(layout, images)
    layout = layout if layout.splits else _with_folder_splits(layout, images)
    return replace(layout, notes=(*notes, *layout.notes))


# -- caption files ----------------------------------------------------------------------------------------------------


def _caption_files(root: Path) -> tuple[list[Path], list[str]]:
    """The caption files, one in the root or else at most one in each of its subfolders, and a note of one passed over.

    Raises:
        DataInvalid: If one folder has several.
    """
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    files: list[Path] = []
    notes: list[str] = []
    for folder in folders:
        there = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
        first = [path for path in there if path.stem == there[0].stem]
        if len(first) > 1:
            raise DataInvalid(f"{folder} has {' and '.join(path.name for path in first)}; keep one")
        notes += [f"{path.name} is not read: {first[0].name} is there" for path in there[1:]]
        files += first
        if folder == root and files:
            break
    return files, notes


def _from_tables(root: Path, images: Sequence[str], files: Sequence[Path]) -> FolderLayout:
    bases = ["" if path.parent == root else path.parent.name for path in files]
    names = [f"{base}/{path.name}".lstrip("/") for base, path in zip(bases, files, strict=True)]
    tables = [read_caption_file(path, name) for path, name in zip(files, names, strict=True)]
    labels = tuple(dict.fromkeys(label for table in tables for label in table.labels))
    builder = _Rows(labels)
    notes: list[str] = []
    for table, base in zip(tables, bases, strict=True):
        finder = ImageNames(root, images, table.name, base)
        builder.add(table, finder)
        notes += [*table.notes, *finder.check()]
    if not builder.captions and any("caption" in table.columns for table in tables):
        raise DataInvalid(f"{names[0]} has a column caption, and none in it")
    where = names[0] if len(names) == 1 else f"{len(names)} files such as {names[0]}"
    split = any("split" in table.columns for table in tables) and any(fact.split for fact in builder.facts.values())
    return FolderLayout(
        source=f"folder with {where}",
        captions=tuple(sorted(builder.captions, key=lambda caption: caption.image)),  # stable: the file's order stays
        facts=builder.facts,
        labels=labels,
        splits=f"column split of {where}" if split else "",
        notes=tuple(notes),
    )


class _Rows:
    """Captions and facts, gathered row by row and checked against the rows before."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self.captions: list[Caption] = []
        self.facts: dict[str, Facts] = {}
        self._of_group: dict[str, tuple[str, ...]] = {}
        self._ids: set[str] = set()
        self._count: dict[str, int] = {}

    def add(self, table: CaptionTable, finder: ImageNames) -> None:
        for place, row in zip(table.places, table.rows, strict=True):
            here = f"{table.name} {place} ({row['image']!r})"
            image = finder.find(row["image"], here)
            self._add_facts(image, row, f"{table.name} {place}", here)
            if "caption" in table.columns:
                self._add_caption(image, row, here)

    def _add_caption(self, image: str, row: Mapping[str, str], here: str) -> None:
        if not row["caption"].strip():
            raise DataInvalid(
                f"{here}: the caption is empty\n  To mend: write one, or remove the row; an image needs no caption"
            )
        place = self._count[image] = self._count.get(image, -1) + 1
        row_id = row.get("id", f"{image}#{place}")
        if not row_id or row_id in self._ids:
            fault = f"{row_id!r} is used before" if row_id else f"{row_id!r} is empty"
            raise DataInvalid(f"{here}: the id {fault}\n  To mend: give each row an id of its own, or no column id")
        self._ids.add(row_id)
        self.captions.append(Caption(row_id, image, row["caption"]))

    def _add_facts(self, image: str, row: Mapping[str, str], number: str, here: str) -> None:
        """Rows of one image have one group, rows of one group have one split and one label a column."""
        cell = row.get("split", "")
        split = named_split(cell)
        if split is None:
            raise DataInvalid(f"{here}: unknown split {cell!r}; known: {split_names()}, or none")
        group, labels = row.get("group") or image, tuple(row.get(label, "") for label in self._labels)
        known = self.facts.setdefault(image, Facts(group, split, labels))
        if known.group != group:
            raise DataInvalid(f"{number}: {image!r} is in group {group!r} and {known.group!r}")
        if self._of_group.setdefault(group, (split, *labels)) != (split, *labels):
            raise DataInvalid(f"{number}: group {group!r} has another split or label in an earlier row")


# -- text files and folders -------------------------------------------------------------------------------------------


def _from_texts(root: Path, images: Sequence[str]) -> FolderLayout | None:
    """Captions from the text file of the same name beside an image, one a line; None where no image has one."""
    captions: list[Caption] = []
    notes: list[str] = []
    files = 0
    for image in images:
        path = (root / image).with_suffix(".txt")
        if not path.is_file():
            continue
        files += 1
        text, note = detect_text(path.read_bytes(), path.relative_to(root).as_posix())
        notes += filter(None, [note])
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        captions += [Caption(f"{image}#{number}", image, line) for number, line in enumerate(lines)]
    if not captions:
        return None
    more = (f"{len(notes) - 1:,} more text files were read so",) if len(notes) > 1 else ()
    return FolderLayout(f"folder with {files:,} .txt files", tuple(captions), notes=(*notes[:1], *more))


def _with_categories(layout: FolderLayout, images: Sequence[str]) -> FolderLayout:
    """Folders as the label "category", where every image lies in one and there are two or more."""
    parts = [_below_split(image) for image in images]
    categories = {folders[0] for folders in parts if folders}
    numbered = all(name.isdecimal() for name in categories)  # shards of an image–text crawl, no classes
    if not all(parts) or len(categories) < 2 or (layout.captions and numbered):
        return layout
    facts = {image: Facts(image, labels=(folders[0],)) for image, folders in zip(images, parts, strict=True)}
    note = f"category: the {len(categories):,} folders of the images"
    source = layout.source if layout.captions else "folder of class folders"
    return FolderLayout(source, layout.captions, facts, ("category",), notes=(*layout.notes, note))


def _below_split(image: str) -> tuple[str, ...]:
    """The folders of an image, without that of a split."""
    folders = PurePosixPath(image).parts[:-1]
    return folders[1:] if folders and named_split(folders[0]) else folders


def _with_folder_splits(layout: FolderLayout, images: Sequence[str]) -> FolderLayout:
    """Splits from the top folders, where every image lies in one of a split's name and there are two or more splits."""
    tops = [PurePosixPath(image).parts[0] if "/" in image else "" for image in images]
    splits = [named_split(top) or "" if top else "" for top in tops]
    names = list(dict.fromkeys(top for top, split in zip(tops, splits, strict=True) if split))
    if len({split for split in splits if split}) < 2:
        return layout
    if not all(splits):
        outside = images[splits.index("")]
        note = f"the folders {', '.join(names)} are not taken for splits, for {outside} and others lie in none of them"
        return replace(layout, notes=(*layout.notes, note))
    blank = tuple("" for _ in layout.labels)
    facts: dict[str, Facts] = {}
    of_group: dict[str, str] = {}
    for image, split in zip(images, splits, strict=True):
        known = layout.facts.get(image, Facts(image, labels=blank))
        if of_group.setdefault(known.group, split) != split:
            both = f"{split} and {of_group[known.group]}"
            raise DataInvalid(f"group {known.group!r} lies in the folders of two splits, {both}")
        facts[image] = Facts(known.group, split, known.labels)
    return replace(layout, facts=facts, splits=f"the folders {', '.join(names)}")
