"""vggsound: clips of videos with sound and a class each, from a list and a folder of the clips that the user has.

The list is the published one, id, start, label and split without a header. A clip is called "<id>_<start>" on disk,
the start with zeros in front or without, and "<id>_<six digits>" here, which is its id in every view and its group.
Clips are listed, none is opened: what is dead or cut off fails when it is encoded (`--on-error skip`).
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.data.containers import decode_frame, versions
from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.gathered import counted_note
from featcache.data.options import OpenOptions
from featcache.data.sound import CONTAINER_SUFFIXES, SOUND_SUFFIXES, read_clip, refuse_large, sound_view
from featcache.data.splits import named_split
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View

if TYPE_CHECKING:
    from PIL import Image

NAME, LIST = "vggsound", "vggsound.csv"
_CLIP = re.compile(r"(.+)_(\d{1,6})")
_MOST_FRAMES = 100
_PLACE = "frame at "  # before the share of a video's length
_CELLS = ("id", "start", "label", "split")


@dataclass(frozen=True)
class ListedClip:
    """A row of the list."""

    name: str  # "<id>_<six digits>"
    label: str
    split: str


@dataclass
class ClipFiles:
    """Files by the names of their clips."""

    sounds: dict[str, Path] = field(default_factory=dict)  # files of sound alone
    videos: dict[str, Path] = field(default_factory=dict)  # containers
    strange: list[str] = field(default_factory=list)  # files that are not called like a clip


def open_vggsound(root: Path | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens the clips of the list that are there; reads the list and names, no clip.

    Views "images" (frames, where there are videos), "captions" (the labels) and "audio", in the order of the clips'
    names. The sound is that of a file of sound, where a clip has both. One frame of a video is its middle; of several,
    evenly spaced, each is a row of the clip's group, "<clip>#<number>".

    Args:
        root: A folder with the list, vggsound.csv or its only CSV file, and the clips anywhere below it.
        options: How many seconds are kept of each clip, and how many frames.

    Raises:
        DataMissing: If there is no list, or none of its clips.
        DataInvalid: If the list has another form or names a clip twice, or two files are the same clip.

    Source:
        Chen et al. 2020, arXiv:2004.14368.
    """
    if root is None:
        raise missing(NAME, "no root given", ())
    options = options or OpenOptions()
    path = _list_path(root)
    listed, files = read_list(path), find_clips(root)
    there = [clip for clip in listed if clip.name in files.sounds or clip.name in files.videos]
    if not there:
        what = f"none of the {len(listed):,} clips that {path.name} lists is there, such as {listed[0].name}.mp4"
        raise missing(NAME, what, (f"{root}/**/<id>_<start>.*",))
    names = tuple(clip.name for clip in there)
    views = [text_view("captions", names, names, [clip.label for clip in there])]
    views.append(_audio_view(names, files, options.seconds))
    if videos := [name for name in names if name in files.videos]:
        views.insert(0, _frame_view(videos, files.videos, options.frames))
    elif options.frames != 1:
        raise DataInvalid(f"--frames {options.frames}: {root} holds no videos, sounds alone\n  Leave it out")
    overlay = Overlay(names, tuple(clip.split for clip in there), {"label": tuple(clip.label for clip in there)})
    return Dataset(
        name=NAME,
        views={view.name: view for view in views},
        overlay=overlay,
        licence=DATASETS[NAME].licence,
        source=f"folder with {path.name}",
        notes=tuple(_notes(listed, files, videos, names)),
    )


# -- the list ----------------------------------------------------------------------------------------------------------


def _list_path(root: Path) -> Path:
    """The list of a folder: vggsound.csv, else its only CSV file."""
    lists = [root / LIST] if (root / LIST).is_file() else sorted(root.glob("*.csv"))
    if len(lists) > 1:
        raise DataInvalid(
            f"{root} has {' and '.join(path.name for path in lists[:3])}; which lists the clips?\n  Call it {LIST}"
        )
    if not lists:
        raise missing(NAME, "no list of clips", (str(root / LIST), str(root / "*.csv")))
    return lists[0]


def read_list(path: Path) -> list[ListedClip]:
    """The rows of a list, by the names of the clips.

    A first row that names columns, and one that starts with "#", are passed over.

    Raises:
        DataInvalid: If a row has another form, or a clip stands twice; names the line.
    """
    clips: dict[str, ListedClip] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, cells in _rows(csv.reader(file, strict=True)):
                clip = _listed(cells, f"{path.name} line {line}")
                if clips.setdefault(clip.name, clip) is not clip:
                    raise DataInvalid(f"{path.name} line {line}: the clip {clip.name} stands more than once")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(f"{path.name} is no CSV in UTF-8: {error}") from error
    if not clips:
        raise DataInvalid(f"{path.name} lists no clip; wanted rows of {', '.join(_CELLS)}")
    return sorted(clips.values(), key=lambda clip: clip.name)


def _rows(reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for number, cells in enumerate(reader, 1):
        blank = not any(cell.strip() for cell in cells)
        is_header = number == 1 and len(cells) == len(_CELLS) and not cells[1].strip().isdecimal()
        if not blank and not is_header and not cells[0].startswith("#"):
            yield number, cells


def _listed(cells: Sequence[str], here: str) -> ListedClip:
    if len(cells) != len(_CELLS):
        raise DataInvalid(
            f"{here} has {len(cells)} cells; wanted {len(_CELLS)}: {', '.join(_CELLS)}\n"
            '  A label that holds a comma stands in quotes, as in "playing violin, fiddle"'
        )
    video, start, label, split = (cell.strip() for cell in cells)
    if not video or not start.isdecimal() or len(start) > 6 or not label:
        raise DataInvalid(f"{here}: {','.join(cells)!r:.100}: wanted an id, a start in whole seconds, and a label")
    named = named_split(split)
    if not named:
        raise DataInvalid(f"{here}: unknown split {split!r}; known: train, test")
    return ListedClip(f"{video}_{int(start):06}", label, named)


# -- clips -------------------------------------------------------------------------------------------------------------


def find_clips(root: Path) -> ClipFiles:
    """Files of sound and containers anywhere below a folder, by the names of their clips; hidden ones are passed over.

    Raises:
        DataInvalid: If two files of one kind are the same clip.
    """
    files = ClipFiles()
    for path in _walk(root):
        suffix = path.suffix.lower()
        kind = files.sounds if suffix in SOUND_SUFFIXES else files.videos if suffix in CONTAINER_SUFFIXES else None
        if kind is None:
            continue
        match = _CLIP.fullmatch(path.stem)
        if match is None:
            files.strange.append(path.name)
            continue
        name = f"{match[1]}_{int(match[2]):06}"
        if (other := kind.setdefault(name, path)) is not path:
            raise DataInvalid(f"{other} and {path} are the same clip, {name}\n  Keep one of them")
    return files


def _walk(folder: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """Files below a folder, by name; links to folders are followed, each folder once."""
    seen = set() if seen is None else seen
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        visible = sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)
    for entry in visible:
        if entry.is_dir():
            yield from _walk(Path(entry.path), seen)
        elif entry.is_file():
            yield Path(entry.path)


def _audio_view(names: Sequence[str], files: ClipFiles, seconds: float) -> View:
    paths = [files.sounds.get(name) or files.videos[name] for name in names]
    return sound_view("audio", names, names, lambda row: read_clip(paths[row]), seconds=seconds)


def _frame_view(names: Sequence[str], videos: Mapping[str, Path], frames: int) -> View:
    """Frames of videos: the place of the frame stands before the video's bytes, so that a row's hash binds it."""
    if not 1 <= frames <= _MOST_FRAMES:
        raise DataInvalid(f"--frames {frames}: wanted from 1 to {_MOST_FRAMES} of each video")
    rows = [(name, number) for name in names for number in range(frames)]

    def content(row: int) -> bytes:
        name, number = rows[row]
        return f"{_PLACE}{Fraction(2 * number + 1, 2 * frames)}\n".encode() + read_clip(videos[name])

    return View(
        name="images",
        modality="image",
        ids=tuple(name if frames == 1 else f"{name}#{number}" for name, number in rows),
        groups=tuple(name for name, _ in rows),
        content=content,
        decode=_decode_place,
        decoding={
            "decoder": "pyav",
            "mode": "RGB",
            "orientation": "as stored",
            "frame": "at a share of the length",
        },
        bound=lambda _: versions(),
    )


def _decode_place(content: bytes) -> "Image.Image":
    """The frame that `content` of `_frame_view` names, of the video behind it."""
    place, _, video = content.partition(b"\n")
    refuse_large(video)
    return decode_frame(video, float(Fraction(place.decode().removeprefix(_PLACE))))


def _notes(
    listed: Sequence[ListedClip], files: ClipFiles, videos: Sequence[str], there: Sequence[str]
) -> Iterator[str]:
    """What is worth saying: clips that are not there, files that are none, clips without a picture."""
    known = {clip.name for clip in listed}
    absent = [clip.name for clip in listed if clip.name not in files.sounds and clip.name not in files.videos]
    strange = sorted({*files.strange, *(name for name in {**files.sounds, **files.videos} if name not in known)})
    yield from counted_note(absent, "listed clip is not there", "listed clips are not there")
    yield from counted_note(strange, "file is no clip of the list", "files are no clips of the list")
    if len(videos) < len(there):
        yield from counted_note(
            [name for name in there if name not in files.videos],
            "clip is sound alone, without a picture",
            "clips are sound alone, without a picture",
        )
