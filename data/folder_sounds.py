"""Sounds in a folder of images: those called like an image, and spoken captions in a folder of their own."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from featcache.data.gathered import Clip, FolderLayout, counted_note
from featcache.data.spoken import FOLDER, read_spoken


def with_sounds(
    root: Path, layout: FolderLayout, images: Sequence[str], sounds: Sequence[str], *, named: bool
) -> FolderLayout:
    """What a folder says, and which of its sounds belong to which image.

    Args:
        root: The folder.
        layout: What is known of its images.
        images: Their paths below it.
        sounds: Paths of its sounds.
        named: Whether a caption file says which sound belongs to which image; else those do that are called alike.

    Raises:
        DataInvalid: As `read_spoken`.
    """
    clips = {clip.path: clip for clip in layout.clips} if named else _beside(images, sounds)
    place = {image: number for number, image in enumerate(images)}
    spoken, notes = list(layout.spoken), list[str]()
    left = [sound for sound in sounds if sound not in clips]
    if any(map(_is_spoken, left)):
        spoken, notes = read_spoken(root / FOLDER, images)
        left = [sound for sound in left if not _is_spoken(sound)]
    notes += counted_note(left, "sound file belongs to no image", "sound files belong to no image")
    return replace(
        layout,
        clips=tuple(sorted(clips.values(), key=lambda clip: (place[clip.image], clip.path))),
        spoken=tuple(spoken),
        notes=(*layout.notes, *notes),
    )


def _is_spoken(sound: str) -> bool:
    return PurePosixPath(sound).parts[0] == FOLDER


def _beside(images: Sequence[str], sounds: Sequence[str]) -> dict[str, Clip]:
    """The sounds that are called like just one image, but for the ending."""
    called: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        called[str(PurePosixPath(image).with_suffix(""))].append(image)
    fitting = {sound: called.get(str(PurePosixPath(sound).with_suffix("")), []) for sound in sounds}
    return {sound: Clip(of[0], sound) for sound, of in fitting.items() if len(of) == 1}
