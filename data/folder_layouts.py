"""Layouts of a folder of images, or of sounds: a caption file, text and sound files beside each, class folders."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from featcache.data.caption_files import CAPTION_FILES, CaptionTable, detect_text, read_caption_file
from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.folder_sounds import with_sounds
from featcache.data.gathered import Caption, Facts, FolderLayout, Gathered, OwnData, counted_note
from featcache.data.image_names import ImageNames
from featcache.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES
from featcache.data.options import OpenOptions
from featcache.data.sound import CONTAINER_SUFFIXES, SOUND_SUFFIXES, read_clip
from featcache.data.splits import named_split

_ARCHIVES = frozenset({".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})


@dataclass(frozen=True)
class _Listing:
    """The files below a folder: paths of images and of sounds, sorted, and notes on files that are not read."""

    images: tuple[str, ...]
    sounds: tuple[str, ...]
    notes: list[str]


@dataclass(frozen=True)
class _Folder:
    """A folder of images, or of sounds in their place."""

    root: Path
    images: tuple[str, ...]  # paths below it, sorted; of sounds where `of_sounds`
    sounds: tuple[str, ...]  # the same of sounds of images
    of_sounds: bool
    allow_missing: bool

    @property
    def what(self) -> str:
        """What its images are called."""
        return "sound" if self.of_sounds else "image"

    def finder(self, table: CaptionTable, base: str, paths: Sequence[str], what: str) -> ImageNames:
        """Finds files as a caption file in the subfolder `base` names them."""
        return ImageNames(self.root, paths, table.name, base, allow_missing=self.allow_missing, what=what)


def read_images(root: Path, options: OpenOptions) -> OwnData:
    """Reads a folder of image files and what it says of them; ids are paths below it.

    Where there are no images, or the caption files name sounds alone, sound files stand in their place. Else they are
    the sounds of images, by a column `audio` or by their names, and those in a folder "spoken" are spoken captions.

    Raises:
        DataMissing: If there is no image and no sound, or a caption file names one that is not there.
        DataInvalid: If a caption file contradicts its format or itself, or a link leads out of the folder.
    """
    listing = _files_below(root)
    tables, notes = _read_tables(root)
    of_sounds = not listing.images or any("image" not in table.columns for table, _ in tables)
    if of_sounds and not listing.sounds:
        raise missing("folder", f"{tables[0][0].name} has no column image, and there is no sound", (str(root),))
    if of_sounds and listing.images:
        why = "not read, for the caption file names sounds alone"
        notes += counted_note(listing.images, f"image is {why}", f"images are {why}")
    _check_links(root, (*listing.images, *listing.sounds))
    images = listing.sounds if of_sounds else listing.images
    folder = _Folder(root, images, () if of_sounds else listing.sounds, of_sounds, options.allow_missing)
    layout = _read_layout(folder, tables)
    paths, read = [root / image for image in images], read_clip if of_sounds else Path.read_bytes
    return OwnData(
        images,
        lambda row: read(paths[row]),
        replace(layout, notes=(*notes, *layout.notes, *listing.notes)),
        modality="audio" if of_sounds else "image",
        read_sound=lambda path: read_clip(root / path),
    )


def _files_below(root: Path) -> _Listing:
    """Lists a folder; hidden files and folders are passed over.

    Raises:
        DataMissing: If there is no image and no sound.
    """
    if not root.is_dir():
        raise missing("folder", "the root is no folder", (str(root),))
    wanted = IMAGE_SUFFIXES | SOUND_SUFFIXES | CONTAINER_SUFFIXES | OTHER_SUFFIXES | _ARCHIVES | {".tar", ".parquet"}
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in wanted)
    visible = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    there = [path for path in visible if (root / path).is_file() and path.name not in CAPTION_FILES]
    images = tuple(sorted(path.as_posix() for path in there if path.suffix.lower() in IMAGE_SUFFIXES))
    sounds = tuple(sorted(path.as_posix() for path in there if path.suffix.lower() in SOUND_SUFFIXES))
    read = IMAGE_SUFFIXES | SOUND_SUFFIXES
    others = Counter(path.suffix.lower() for path in there if path.suffix.lower() not in read)
    if not images and not sounds:
        listed = _listed(others, others)
        what = "no images below the folder" + (f", but files that are not read: {listed}" if listed else "")
        endings = f"read are {', '.join(sorted(IMAGE_SUFFIXES))}; and of sounds {', '.join(sorted(SOUND_SUFFIXES))}"
        raise missing("folder", f"{what}; {endings}", (str(root),))
    notes = {
        "left out, since such image formats are not read: {}": _listed(others, OTHER_SUFFIXES),
        "videos are not read: {}": _listed(others, CONTAINER_SUFFIXES),
        "archives are not read: {}": _listed(others, _ARCHIVES),
        "not read, since there are images: {}; --layout webdataset reads them instead": _listed(others, {".tar"}),
        "not read, since there are images: {}; --layout parquet reads them instead": _listed(others, {".parquet"}),
    }
    return _Listing(images, sounds, [note.format(listed) for note, listed in notes.items() if listed])


def _listed(counts: Mapping[str, int], of: Collection[str]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()) if suffix in of)


def _check_links(root: Path, images: Sequence[str]) -> None:
    inside = root.resolve()
    for image in images:
        if not (root / image).resolve().is_relative_to(inside):
            raise DataInvalid(f"{image!r} is a link that leads out of {root}; copy the file into the folder")


def _read_layout(folder: _Folder, tables: Sequence[tuple[CaptionTable, str]]) -> FolderLayout:
    """Reads what a folder says of its images, or of its sounds in their place.

    In this order: a caption file in the folder, caption files in its subfolders, text files beside the images, images
    alone. Without a caption file, folders of images are their category. Top folders that are called train, val, test
    are splits, where nothing else says them.

    Args:
        folder: The folder.
        tables: Its caption files, each with the name of the subfolder that it lies in.

    Raises:
        DataMissing, DataInvalid: If a caption file names what is not there, or contradicts its format or itself.
    """
    if tables:
        layout = _from_tables(folder, tables)
    else:
        layout = _from_texts(folder.root, folder.images) or FolderLayout(f"folder of {folder.what}s")
        layout = _with_categories(layout, folder.images)
    layout = layout if layout.splits else _with_folder_splits(layout, folder.images)
    named = not folder.of_sounds and any("audio" in table.columns for table, _ in tables)
    return with_sounds(folder.root, layout, folder.images, folder.sounds, named=named)


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


def _read_tables(root: Path) -> tuple[list[tuple[CaptionTable, str]], list[str]]:
    """The caption files of a folder and its subfolders, the name of the subfolder with each, and notes."""
    files, notes = _caption_files(root) if root.is_dir() else ([], [])
    bases = ["" if path.parent == root else path.parent.name for path in files]
    names = [f"{base}/{path.name}".lstrip("/") for base, path in zip(bases, files, strict=True)]
    read = [read_caption_file(path, name) for path, name in zip(files, names, strict=True)]
    return list(zip(read, bases, strict=True)), notes


def _from_tables(folder: _Folder, tables: Sequence[tuple[CaptionTable, str]]) -> FolderLayout:
    gathered = Gathered(tuple(dict.fromkeys(label for table, _ in tables for label in table.labels)))
    notes: list[str] = []
    for table, base in tables:
        column = "audio" if folder.of_sounds and "audio" in table.columns else "image"
        images, sounds = folder.finder(table, base, folder.images, folder.what), None
        if "audio" in table.columns and column == "image" and not folder.of_sounds:
            sounds = folder.finder(table, base, folder.sounds, "sound")
        for place, row in zip(table.places, table.rows, strict=True):
            here = f"{table.name} {place} ({row[column]!r})"
            image = images.find(row[column], here)
            if image is not None:
                _add_row(gathered, table, place, row, image)
            if image is not None and sounds is not None and row["audio"].strip():
                sound = sounds.find(row["audio"], here)
                if sound is not None:
                    gathered.add_clip(image, sound, here)
        notes += [*table.notes, *images.check(), *(sounds.check() if sounds else ())]
    names = [table.name for table, _ in tables]
    if not gathered.captions and any("caption" in table.columns for table, _ in tables):
        raise DataInvalid(f"{names[0]} has a column caption, and none in it")
    where = names[0] if len(names) == 1 else f"{len(names)} files such as {names[0]}"
    return gathered.layout(f"folder with {where}", images=folder.images, splits=f"column split of {where}", notes=notes)


def _add_row(gathered: Gathered, table: CaptionTable, place: str, row: Mapping[str, str], image: str) -> None:
    labels = {label: row[label] for label in table.labels}
    split = row.get("split", "")
    gathered.add_facts(image, f"{table.name} {place}", group=row.get("group", ""), split=split, labels=labels)
    if "caption" in table.columns:
        gathered.add_caption(image, row["caption"], f"{table.name} {place} ({image!r})", row.get("id"))


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
    parts = [PurePosixPath(image).parts[:-1] for image in images]
    if all(folders and named_split(folders[0]) for folders in parts):
        parts = [folders[1:] for folders in parts]
    categories = {folders[0] for folders in parts if folders}
    numbered = all(name.isdecimal() for name in categories)  # shards of an image–text crawl, no classes
    if not all(parts) or len(categories) < 2 or (layout.captions and numbered):
        return layout
    facts = {image: Facts(image, labels=(folders[0],)) for image, folders in zip(images, parts, strict=True)}
    note = f"category: the {len(categories):,} folders of the images"
    source = layout.source if layout.captions else "folder of class folders"
    return FolderLayout(source, layout.captions, facts, ("category",), notes=(*layout.notes, note))


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
