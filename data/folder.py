"""Data of the user's own, images with captions and sounds where there are some, or sounds alone, as data sets.

docs/own-data.md says which layouts, files and columns are read. Captions are ordered by image and then by their order
in the files, and kept as written.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.gathered import Facts, FolderLayout, OwnData
from featcache.data.images import image_view
from featcache.data.layouts import OF_FILES, read_own
from featcache.data.options import OpenOptions
from featcache.data.sound import sound_view
from featcache.data.splits import DEFAULT_SPLIT, UNSPLIT, parse_split, small_split_note, split_groups
from featcache.data.spoken import spoken_view
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View


def open_folder(root: Path | None = None, *, alias: str | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens data of the user's, under the alias or the folder's own name in lower case, digits, "-" and "_".

    Views "images" and, where there are such, "captions" (id: as the files have it, or "<image>#<number>"), "audio" (id:
    the sound's path) and "spoken" (`spoken`), all grouped by a column `group`, or the image. Without images, sounds
    stand in their place, as the view "audio". Images without a caption are kept. Groups without a split get one by a
    hash, as `options` say. What was guessed or passed over stands in the notes.

    Raises:
        DataMissing: If there is no image, or a list names one that is not there.
        DataInvalid: If the folder cannot be called so, files cannot be read or contradict themselves, or the options
            fit neither their form nor the data.
    """
    if root is None:
        raise missing("folder", "no root given", ())
    options = options or OpenOptions()
    return own_dataset(folder_name(root, alias), read_own(root, options), options, licence=DATASETS["folder"].licence)


def own_dataset(name: str, own: OwnData, options: OpenOptions, *, licence: str) -> Dataset:
    """The data set of images of the user's and of what is known of them; arguments and errors as `open_folder`."""
    if options.frames != 1:
        raise DataInvalid(f"--frames {options.frames}: of videos alone several are taken, and none is read here")
    images, layout = own.images, own.layout
    blank = tuple("" for _ in layout.labels)
    facts = {image: layout.facts.get(image, Facts(image, labels=blank)) for image in images}
    groups = tuple(facts[image].group for image in images)
    if own.modality == "image":
        views = [image_view("images", images, groups, own.content, float_range=options.float_range)]
    else:
        views = [sound_view("audio", images, groups, own.content, seconds=options.seconds)]
    if layout.captions:
        rows = ((each.row_id, facts[each.image].group, each.text) for each in layout.captions)
        views.append(text_view("captions", *zip(*rows, strict=True)))
    views += _sound_views(own, facts, options)
    overlay, notes = _overlay(groups, facts, layout, options)
    return Dataset(
        name=name,
        views={view.name: view for view in views},
        overlay=overlay,
        licence=licence,
        source=layout.source,
        notes=(*layout.notes, *_without_caption(own), *notes),
    )


def _sound_views(own: OwnData, facts: Mapping[str, Facts], options: OpenOptions) -> list[View]:
    """Views of sounds of images, and of spoken captions, where there are some."""
    views, read = list[View](), own.read_sound
    if own.layout.clips and read is not None:
        paths = [clip.path for clip in own.layout.clips]
        of = [facts[clip.image].group for clip in own.layout.clips]
        views.append(sound_view("audio", paths, of, lambda row: read(paths[row]), seconds=options.seconds))
    if own.layout.spoken:
        of_image = {image: known.group for image, known in facts.items()}
        views.append(spoken_view(own.layout.spoken, of_image, seconds=options.seconds))
    return views


def folder_name(root: Path, alias: str | None = None) -> str:
    """Name of a folder's data set: the alias, else the folder's name in lower case, digits, "-" and "_".

    Raises:
        DataInvalid: If the alias has other characters, or the name is taken by a data set.

    Example:
        >>> folder_name(Path("photos/My Holiday 2024"))
        'my-holiday-2024'
    """
    place = root.expanduser().resolve()
    given = alias if alias is not None else place.stem if place.suffix in OF_FILES else place.name
    ascii_name = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", ascii_name).strip("-")
    if alias is not None and (slug != alias or not slug):
        raise DataInvalid(f"folder:{alias}: a name is lower case, digits, '-' and '_'; try folder:{slug or 'mine'}")
    if not slug or slug in DATASETS:
        what = f"a folder cannot be called {given!r} in the cache"
        itself = slug in DATASETS and slug != "folder" and DATASETS[slug].takes_root
        hint = f"\n  If it is that data set: {slug} --root DIR" if itself else ""
        raise DataInvalid(f"{what}; choose a name: folder:my-{slug or 'data'} --root DIR{hint}")
    return slug


def _without_caption(own: OwnData) -> list[str]:
    layout, what = own.layout, "image" if own.modality == "image" else "sound"
    if not layout.captions:
        return [] if layout.clips or layout.spoken else [f"no captions: the data set has {what}s alone"]
    captioned = {caption.image for caption in layout.captions}
    bare = [image for image in own.images if image not in captioned]
    many = f"{len(bare):,} {what}s have" if len(bare) > 1 else f"1 {what} has"
    return [f"{many} no caption, the first {bare[0]}"] if bare else []


def _overlay(
    image_groups: Sequence[str], facts: dict[str, Facts], layout: FolderLayout, options: OpenOptions
) -> tuple[Overlay, list[str]]:
    """Splits and labels of every group, and notes on where the splits come from."""
    of_group = {each.group: each for each in facts.values()} | {each.group: each for each in layout.facts.values()}
    groups = tuple(dict.fromkeys(image_groups))
    known = tuple(of_group[group].split for group in groups)
    splits, notes = _splits(groups, known, layout, options)
    columns = {
        label: tuple(of_group[group].labels[place] for group in groups) for place, label in enumerate(layout.labels)
    }
    return Overlay(groups, splits, columns), notes


def _splits(
    groups: tuple[str, ...], known: tuple[str, ...], layout: FolderLayout, options: OpenOptions
) -> tuple[tuple[str, ...], list[str]]:
    """The split of each group: as the folder has them, unless the options say otherwise, else by a hash."""
    source = layout.splits
    if options.split is not None:
        parse_split(options.split)
    hashed = options.split not in (None, UNSPLIT) or (options.split is None and not source)
    if options.seed and not hashed:
        why = "--split none" if options.split else f"splits come from {source}"
        raise DataInvalid(f"--seed {options.seed} would change nothing: {why}\n  Add --split {DEFAULT_SPLIT}")
    if not hashed:
        if options.split == UNSPLIT:
            return split_groups(groups, UNSPLIT, 0), ["no splits, as --split none says"]
        notes = [f"splits: {source}"] if source.startswith("the ") else []
        untested = "train" in known and "test" not in known
        alone = f"no test split, which training needs: --split {DEFAULT_SPLIT} draws all three by a hash of the group"
        return known, [*notes, alone] if untested else notes
    text = options.split or DEFAULT_SPLIT
    splits = split_groups(groups, text, options.seed)
    why = f"{source} is not used" if source else layout.unsplit if options.split is None else "splits"
    notes = [f"{why}: {text} by a hash of the group, seed {options.seed}"]
    return splits, [*notes, *filter(None, [small_split_note(groups, splits)])]
