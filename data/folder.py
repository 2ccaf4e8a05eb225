"""Folders of images, with captions where there are some, as data sets.

docs/own-data.md says which layouts, files and columns are read. Images are ordered by path, captions by image and then
by their order in the file. Captions are kept as written.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.folder_layouts import Facts, FolderLayout, read_layout
from featcache.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES, image_view
from featcache.data.options import OpenOptions
from featcache.data.splits import DEFAULT_SPLIT, UNSPLIT, parse_split, small_split_note, split_groups
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay


def open_folder(root: Path | None = None, *, alias: str | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens a folder of the user's, under the alias or the folder's own name in lower case, digits, "-" and "_".

    Views "images" (id: path below the root) and, where there are captions, "captions" (id: column `id`, or
    "<path>#<number>"), both grouped by the column `group`, or the image's path. Images without a caption are kept.
    Groups without a split get one by a hash, as `options` say. What was guessed or passed over stands in the notes.

    Raises:
        DataMissing: If there is no image, or a caption file names one that is not there.
        DataInvalid: If the folder cannot be called so, a caption file cannot be read or contradicts itself, or the
            options fit neither their form nor the folder.
    """
    if root is None:
        raise missing("folder", "no root given", ())
    options = options or OpenOptions()
    name = folder_name(root, alias)
    images, unread = _images_below(root)
    _check_links(root, images)
    layout = read_layout(root, images)
    bare = _without_caption(layout, images)
    blank = tuple("" for _ in layout.labels)
    facts = {image: layout.facts.get(image, Facts(image, labels=blank)) for image in images}
    content = [root / image for image in images]
    groups = tuple(facts[image].group for image in images)
    views = [
        image_view("images", images, groups, lambda row: content[row].read_bytes(), float_range=options.float_range)
    ]
    if layout.captions:
        rows = ((each.row_id, facts[each.image].group, each.text) for each in layout.captions)
        views.append(text_view("captions", *zip(*rows, strict=True)))
    overlay, notes = _overlay(groups, facts, layout, options)
    return Dataset(
        name=name,
        views={view.name: view for view in views},
        overlay=overlay,
        licence=DATASETS["folder"].licence,
        source=layout.source,
        notes=(*layout.notes, *bare, *unread, *notes),
    )


def folder_name(root: Path, alias: str | None = None) -> str:
    """Name of a folder's data set: the alias, else the folder's name in lower case, digits, "-" and "_".

    Raises:
        DataInvalid: If the alias has other characters, or the name is taken by a data set.

    Example:
        >>> folder_name(Path("photos/My Holiday 2024"))
        'my-holiday-2024'
    """
    given = root.expanduser().resolve().name if alias is None else alias
    ascii_name = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", ascii_name).strip("-")
    if alias is not None and (slug != alias or not slug):
        raise DataInvalid(f"folder:{alias}: a name is lower case, digits, '-' and '_'; try folder:{slug or 'mine'}")
    if not slug or slug in DATASETS:
        raise DataInvalid(
            f"a folder cannot be called {given!r} in the cache; choose a name: folder:my-{slug or 'data'} --root DIR"
        )
    return slug


def _images_below(root: Path) -> tuple[tuple[str, ...], list[str]]:
    """Paths of all images, sorted, and a note on pictures that are not read; hidden files and folders are passed over.

    Raises:
        DataMissing: If there is none.
    """
    if not root.is_dir():
        raise missing("folder", "the root is no folder", (str(root),))
    wanted = IMAGE_SUFFIXES | OTHER_SUFFIXES
    paths = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in wanted)
    visible = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    there = [path for path in visible if (root / path).is_file()]
    images = tuple(sorted(path.as_posix() for path in there if path.suffix.lower() in IMAGE_SUFFIXES))
    others = Counter(path.suffix.lower() for path in there if path.suffix.lower() not in IMAGE_SUFFIXES)
    listed = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items()))
    if not images:
        what = "no images below the folder" + (f", but files that are not read: {listed}" if listed else "")
        raise missing("folder", f"{what}; read are {', '.join(sorted(IMAGE_SUFFIXES))}", (str(root),))
    return images, [f"left out, since such image formats are not read: {listed}"] if listed else []


def _check_links(root: Path, images: Sequence[str]) -> None:
    inside = root.resolve()
    for image in images:
        if not (root / image).resolve().is_relative_to(inside):
            raise DataInvalid(f"{image!r} is a link that leads out of {root}; copy the file into the folder")


def _without_caption(layout: FolderLayout, images: Sequence[str]) -> list[str]:
    if not layout.captions:
        return ["no captions: the data set has images alone"]
    captioned = {caption.image for caption in layout.captions}
    bare = [image for image in images if image not in captioned]
    many = f"{len(bare):,} images have" if len(bare) > 1 else "1 image has"
    return [f"{many} no caption, the first {bare[0]}"] if bare else []


def _overlay(
    image_groups: Sequence[str], facts: dict[str, Facts], layout: FolderLayout, options: OpenOptions
) -> tuple[Overlay, list[str]]:
    """Splits and labels of every group, and notes on where the splits come from."""
    of_group = {each.group: each for each in facts.values()} | {each.group: each for each in layout.facts.values()}
    groups = tuple(dict.fromkeys(image_groups))
    known = tuple(of_group[group].split for group in groups)
    splits, notes = _splits(groups, known, layout.splits, options)
    columns = {
        label: tuple(of_group[group].labels[place] for group in groups) for place, label in enumerate(layout.labels)
    }
    return Overlay(groups, splits, columns), notes


def _splits(
    groups: tuple[str, ...], known: tuple[str, ...], source: str, options: OpenOptions
) -> tuple[tuple[str, ...], list[str]]:
    """The split of each group: as the folder has them, unless the options say otherwise, else by a hash."""
    if options.split is not None:
        parse_split(options.split)
    hashed = options.split not in (None, UNSPLIT) or (options.split is None and not source)
    if options.seed and not hashed:
        why = "--split none" if options.split else f"splits come from {source}"
        raise DataInvalid(f"--seed {options.seed} would change nothing: {why}\n  Add --split {DEFAULT_SPLIT}")
    if not hashed:
        if options.split == UNSPLIT:
            return split_groups(groups, UNSPLIT, 0), ["no splits, as --split none says"]
        return known, [f"splits: {source}"] if source.startswith("the folders") else []
    text = options.split or DEFAULT_SPLIT
    splits = split_groups(groups, text, options.seed)
    why = f"{source} is not used" if source else "no split column" if options.split is None else "splits"
    notes = [f"{why}: {text} by a hash of the group, seed {options.seed}"]
    return splits, [*notes, *filter(None, [small_split_note(groups, splits)])]
