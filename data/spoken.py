"""Spoken captions: sound files that are called after the photo that is spoken of, as a view in the photos' groups.

"12.wav" and "12_0.wav" are the first clip of the photo "12.jpg", "12_1.wav" the second; "12.jpg_1.wav" as well. A clip
has the id of the written caption of the same number: "12.jpg#1". Flickr8k's spoken captions are called so.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from featcache.data.errors import DataInvalid
from featcache.data.gathered import SpokenClip, counted_note
from featcache.data.options import SECONDS
from featcache.data.sound import SOUND_SUFFIXES, read_clip, sound_view
from featcache.data.views import Dataset, View

FOLDER = VIEW = "spoken"  # of a root, and the view of its clips
_NUMBERED = re.compile(r"(.+)_(\d{1,6})")


def with_spoken(dataset: Dataset, root: Path, *, seconds: float = SECONDS) -> Dataset:
    """A data set and, where its root has a folder "spoken", the view of the clips in it, before other views of sound.

    Args:
        dataset: With a view "images", whose ids are names of files.
        root: Its folder.
        seconds: What is kept of each clip.

    Raises:
        DataInvalid: As `read_spoken`.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        return dataset
    images = dataset.views["images"]
    clips, notes = read_spoken(folder, images.ids)
    if not clips:
        return replace(dataset, notes=(*dataset.notes, f"{FOLDER}/ holds no sound file"))
    view = spoken_view(clips, dict(zip(images.ids, images.groups, strict=True)), seconds=seconds)
    silent = {name: each for name, each in dataset.views.items() if each.modality != "audio"}
    return replace(dataset, views={**silent, VIEW: view, **dataset.views}, notes=(*dataset.notes, *notes))


def spoken_view(clips: Sequence[SpokenClip], groups: Mapping[str, str], *, seconds: float = SECONDS) -> View:
    """The view of some clips, in their order; photo -> group."""
    paths = [clip.path for clip in clips]
    ids, of = [clip.row_id for clip in clips], [groups[clip.photo] for clip in clips]
    return sound_view(VIEW, ids, of, lambda row: read_clip(paths[row]), seconds=seconds)


def read_spoken(folder: Path, photos: Sequence[str]) -> tuple[list[SpokenClip], list[str]]:
    """The clips anywhere below a folder, by photo and number, and a note on those whose photo is not known.

    Args:
        folder: Of the clips; a photo of a folder may have its clips in a folder of the same name.
        photos: Ids of the photos.

    Raises:
        DataInvalid: If a name fits two photos, two files are the same clip, or no file is called after a photo.
    """
    names = _Names(photos)
    clips, unknown = dict[tuple[str, int], SpokenClip](), list[str]()
    for path in sorted(each for each in folder.rglob("*") if each.suffix.lower() in SOUND_SUFFIXES):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in PurePosixPath(name).parts) or not path.is_file():
            continue
        known = names.find(name)
        if known is None:
            unknown.append(name)
            continue
        clip = SpokenClip(*known, path)
        if (other := clips.setdefault(known, clip)) is not clip:
            raise DataInvalid(
                f"{folder}: {other.path.name} and {path.name} are the same clip, number {clip.number} of {clip.photo}\n"
                "  Keep one, or number the other"
            )
    if unknown and not clips:
        raise DataInvalid(
            f"{folder}: none of {len(unknown):,} sound files is called after a photo, the first {unknown[0]}\n"
            f"  Wanted <photo>.wav or <photo>_<number>.wav, as in {PurePosixPath(photos[0]).stem}_0.wav"
        )
    place = {photo: number for number, photo in enumerate(photos)}
    ordered = sorted(clips.values(), key=lambda clip: (place[clip.photo], clip.number))
    return ordered, counted_note(
        unknown,
        f"file of {folder.name}/ belongs to no photo",
        f"files of {folder.name}/ belong to no photo",
    )


class _Names:
    """Photos by what a clip may call them: the id, the id without its ending; and both without the folder."""

    def __init__(self, photos: Sequence[str]) -> None:
        self._whole: defaultdict[str, set[str]] = defaultdict(set)
        self._bare: defaultdict[str, set[str]] = defaultdict(set)
        for photo in photos:
            path = PurePosixPath(photo)
            for name in (photo, str(path.with_suffix(""))):
                self._whole[name].add(photo)
            for name in (path.name, path.stem):
                self._bare[name].add(photo)

    def find(self, name: str) -> tuple[str, int] | None:
        """Photo and number of the clip of a file; None where there is no such photo.

        Raises:
            DataInvalid: If it fits several.
        """
        called = str(PurePosixPath(name).with_suffix(""))
        match = _NUMBERED.fullmatch(called)
        for table in (self._whole, self._bare):
            fitting = {(photo, 0) for photo in table.get(called, ())}
            if match is not None:
                fitting |= {(photo, int(match[2])) for photo in table.get(match[1], ())}
            if len(fitting) > 1:
                (one, _), (two, number) = sorted(fitting, key=lambda each: each[1])[:2]
                raise DataInvalid(
                    f"the clip {name} may belong to {one} and to {two}\n"
                    f"  Call it {one}_0{PurePosixPath(name).suffix} or {two}_{number}{PurePosixPath(name).suffix}"
                )
            if fitting:
                return fitting.pop()
        return None
