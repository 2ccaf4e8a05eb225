"""What is known of images of the user's, gathered row by row and checked: captions, groups, splits and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featcache.data.errors import DataInvalid
from featcache.data.splits import named_split, split_names
from featcache.data.views import Modality


@dataclass(frozen=True)
class Caption:
    """One caption of an image."""

    row_id: str
    image: str
    text: str


@dataclass(frozen=True)
class Clip:
    """A sound that belongs to an image; its path below the folder is its id."""

    image: str
    path: str


@dataclass(frozen=True)
class SpokenClip:
    """One clip that speaks of a photo."""

    photo: str
    number: int
    path: Path

    @property
    def row_id(self) -> str:
        """As the written caption of its number has it."""
        return f"{self.photo}#{self.number}"


@dataclass(frozen=True)
class Facts:
    """What else is known of an image."""

    group: str
    split: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderLayout:
    """What a folder says of its images, or of its sounds where these stand in their place.

    Args:
        source: How it says so, as in "folder with captions.csv".
        captions: Ordered by image, and of one image as the folder has them; empty where there are none.
        facts: Image -> what else is known; images that are not mentioned have no entry.
        labels: Names of the label columns.
        splits: Where splits come from, as in "column split of captions.csv"; "" where there are none.
        notes: What the user should know of how it was read.
        unsplit: Why it has no splits, where it has none.
        clips: Sounds of images, ordered as captions are.
        spoken: Spoken captions of images, in order.
    """

    source: str
    captions: tuple[Caption, ...] = ()
    facts: Mapping[str, Facts] = field(default_factory=lambda: {})
    labels: tuple[str, ...] = ()
    splits: str = ""
    notes: tuple[str, ...] = ()
    unsplit: str = "no split column"
    clips: tuple[Clip, ...] = ()
    spoken: tuple[SpokenClip, ...] = ()


@dataclass(frozen=True)
class OwnData:
    """Images of the user's, or sounds, in files of whatever layout, and what is said of them."""

    images: tuple[str, ...]  # ids, in order
    content: Callable[[int], bytes]  # number of an image -> its bytes, as of a `View`
    layout: FolderLayout
    modality: Modality = "image"  # of what are called images here
    read_sound: Callable[[str], bytes] | None = None  # path of a clip of the layout -> its bytes


class Gathered:
    """Captions and facts, each row checked against those before.

    Args:
        labels: Names of the label columns.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.captions: list[Caption] = []
        self.clips: dict[str, Clip] = {}
        self.facts: dict[str, Facts] = {}
        self._of_group: dict[str, tuple[str, ...]] = {}
        self._ids: set[str] = set()
        self._count: dict[str, int] = {}

    def add_facts(
        self, image: str, here: str, *, group: str = "", split: str = "", labels: Mapping[str, str] | None = None
    ) -> None:
        """Adds what a row says of an image: rows of one image have one group, rows of one group one split and label.

        Args:
            image: The image.
            here: The row, for messages.
            group: "" for the image's own.
            split: As the row calls it.
            labels: Label column -> label; "" where the row has none.

        Raises:
            DataInvalid: If the split is unknown, or an earlier row says otherwise.
        """
        named = named_split(split)
        if named is None:
            raise DataInvalid(f"{here} ({image!r}): unknown split {split!r}; known: {split_names()}, or none")
        group = group or image
        values = tuple((labels or {}).get(label, "") for label in self.labels)
        known = self.facts.setdefault(image, Facts(group, named, values))
        if known.group != group:
            raise DataInvalid(f"{here}: {image!r} is in group {group!r} and {known.group!r}")
        if self._of_group.setdefault(group, (named, *values)) != (named, *values):
            raise DataInvalid(f"{here}: group {group!r} has another split or label in an earlier row")

    def add_caption(self, image: str, text: str, here: str, row_id: str | None = None) -> None:
        """Adds a caption; without an id of its own it is "<image>#<number>".

        Raises:
            DataInvalid: If it is empty, or its id is, or stands before.
        """
        if not text.strip():
            raise DataInvalid(
                f"{here}: the caption is empty\n  To mend: write one, or remove the row; an image needs no caption"
            )
        place = self._count[image] = self._count.get(image, -1) + 1
        row_id = f"{image}#{place}" if row_id is None else row_id
        if not row_id or row_id in self._ids:
            fault = f"{row_id!r} is used before" if row_id else f"{row_id!r} is empty"
            raise DataInvalid(f"{here}: the id {fault}\n  To mend: give each row an id of its own, or no column id")
        self._ids.add(row_id)
        self.captions.append(Caption(row_id, image, text))

    def add_clip(self, image: str, path: str, here: str) -> None:
        """Adds the sound of an image, whose facts are known; rows may repeat it, also for images of the same group.

        Raises:
            DataInvalid: If it is the sound of an image of another group.
        """
        other = self.clips.setdefault(path, Clip(image, path)).image
        if self.facts[other].group != self.facts[image].group:
            raise DataInvalid(
                f"{here}: {path!r} is the sound of {other!r} before, which is in another group\n"
                "  To mend: give both images one group, or each a file of its own"
            )

    def layout(
        self, source: str, *, images: Sequence[str], splits: str = "", notes: Sequence[str] = ()
    ) -> FolderLayout:
        """The whole, captions in the order of the images; `splits` holds only where a row has one."""
        place = {image: number for number, image in enumerate(images)}
        return FolderLayout(
            source=source,
            # stable: of one image the order of the rows stays
            captions=tuple(sorted(self.captions, key=lambda caption: place[caption.image])),
            clips=tuple(sorted(self.clips.values(), key=lambda clip: place[clip.image])),
            facts=self.facts,
            labels=self.labels,
            splits=splits if any(fact.split for fact in self.facts.values()) else "",
            notes=tuple(notes),
        )


def counted_note(named: Sequence[str], one: str, many: str) -> list[str]:
    """A note on how many there are of something, with the first three by name; none where there are none.

    Example:
        >>> counted_note(["a.jpg", "b.jpg"], "caption is empty", "captions are empty")
        ['2 captions are empty: a.jpg; b.jpg']
    """
    return [f"{len(named):,} {many if len(named) > 1 else one}: {'; '.join(named[:3])}"] if named else []


def blank_note(images: Sequence[str]) -> list[str]:
    """The note on captions that are empty, by their images."""
    return counted_note(images, "caption is empty and left out", "captions are empty and left out")
