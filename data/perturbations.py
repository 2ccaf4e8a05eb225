"""Declared perturbations of a view: deleted characters, pixel noise and other voices, as views that can be encoded.

A perturbed view is named by what was done to it, "captions-delete10-s0", and its rows' hashes and root bind it, so that
features of perturbed rows never pass for those of the rows themselves.

Source of deletion and noise: Tjandrasuwita et al. 2025, arXiv:2502.16282, in its first release (git f625000): U = 5 to
50 percent of a text's characters deleted, or of a picture's pixels replaced after the transform.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from blake3 import blake3

from featcache.data.errors import DataInvalid
from featcache.data.speech import is_spoken, speech_view
from featcache.data.views import Dataset, View
from featcache.data.voices import LABEL, dosed_voices, spoken_by, tied_voices

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Kind = Literal["delete", "noise", "voice-unique", "voice-redundant"]
# of the views that a kind is for
MODALITY = {"delete": "text", "noise": "image", "voice-unique": "audio", "voice-redundant": "audio"}
VOICES = frozenset({"voice-unique", "voice-redundant"})  # kinds that the view itself is no dose of: it has one voice
PERCENTS = tuple(range(5, 55, 5))  # as the first release has them
VOICE_PERCENTS = tuple(range(0, 101, 20))
RELEASE = 1  # to be counted up when a perturbation gives other texts, pixels or voices
_NAME = re.compile(
    rf"(?P<view>.+)-(?P<kind>{'|'.join(get_args(Kind))})(?P<percent>\d{{1,3}})"
    r"(?:-e(?P<edge>\d{1,4}))?-s(?P<seed>\d{1,9})"
)


@dataclass(frozen=True)
class Perturbation:
    """What is done to every row of a view.

    Args:
        kind: "delete": that share of a text's characters, at random places, rounded down. "noise": each pixel of a
            picture with that probability, its three channels replaced by N(m, s), m and s of all the picture's values.
            "voice-unique": with that probability a row is spoken by the voice that the label "voice" names, which
            nothing else of its group tells; "voice-redundant": by the voice of its class, which is the data set's first
            label; else by any voice (`featcache.data.voices`).
        percent: How much, 1 to 99; of voices 0 to 100.
        seed: Of the draws. With one seed what a lower percentage takes, a higher one takes too.
        edge: Of noise: pictures are first resized (shorter edge, bicubic) and cropped (central) to a square of so many
            pixels. An encoder whose own transform does just that leaves such a picture as it is, so that the noise
            comes after its transform, as in the release; without an edge it comes before, and a resize smooths it.

    Raises:
        DataInvalid: If the percentage, the seed or the edge is out of range.

    Example:
        >>> Perturbation("delete", 10).view_name("captions")
        'captions-delete10-s0'
    """

    kind: Kind
    percent: int
    seed: int = 0
    edge: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataInvalid(f"perturbation {self.kind!r} is unknown; there are {', '.join(get_args(Kind))}")
        if not _in_range(self.kind, self.percent):
            wanted = "0 to 100" if self.kind in VOICES else "1 to 99; of 0 % the view itself stands"
            raise DataInvalid(f"{self.kind} of {self.percent} %: wanted a whole number from {wanted}")
        if self.edge is not None and (self.kind != "noise" or not 1 <= self.edge <= 9999):
            raise DataInvalid(f"edge {self.edge}: only noise takes one, of 1 to 9999 pixels")
        if not 0 <= self.seed < 10**9:
            raise DataInvalid(f"seed {self.seed}: wanted a whole number of 0 or more, below 10^9")

    def view_name(self, view: str) -> str:
        """Name of the view that it makes of another."""
        edge = f"-e{self.edge}" if self.edge is not None else ""
        return f"{view}-{self.kind}{self.percent}{edge}-s{self.seed}"

    @property
    def declared(self) -> dict[str, Any]:
        """What the root of a perturbed view binds."""
        return {"perturbation": self.kind, "percent": self.percent, "seed": self.seed, "release": RELEASE} | (
            {"edge": self.edge} if self.kind == "noise" else {}
        )

    def tells(self, labels: Sequence[str], label: str) -> bool:
        """Whether voices tell a label column of a data set by design, where it has these columns in this order."""
        own = {"voice-unique": (LABEL,), "voice-redundant": tuple(labels[:1])}
        return self.percent > 0 and label in own.get(self.kind, ())


def perturbation_of(view: str) -> tuple[str, Perturbation] | None:
    """The view that a perturbed one was made of, and how, by its name; None for the name of another view.

    Example:
        >>> perturbation_of("images-noise25-e224-s1")
        ('images', Perturbation(kind='noise', percent=25, seed=1, edge=224))
        >>> perturbation_of("captions") is None
        True
    """
    match = _NAME.fullmatch(view)
    if match is None:
        return None
    kind = next(kind for kind in get_args(Kind) if kind == match["kind"])
    if not _in_range(kind, int(match["percent"])) or (match["edge"] is not None and kind != "noise"):
        return None
    edge = int(match["edge"]) if match["edge"] is not None else None
    made = Perturbation(kind, int(match["percent"]), int(match["seed"]), edge)
    return (match["view"], made) if made.view_name(match["view"]) == view else None


def original_view(view: str) -> str:
    """The view that a perturbed one was made of; the name itself of any other.

    Example:
        >>> original_view("captions-delete10-s0"), original_view("names-de")
        ('captions', 'names-de')
    """
    known = perturbation_of(view)
    return view if known is None else known[0]


def with_named(dataset: Dataset, view: str | None) -> Dataset:
    """A data set with the view of a name; itself where it has that view, or the name is no perturbation of one of its.

    Raises:
        DataInvalid: As `with_perturbed`.
    """
    known = None if view is None or view in dataset.views else perturbation_of(view)
    if known is None or known[0] not in dataset.views:
        return dataset
    return with_perturbed(dataset, known[0], [known[1]])


def perturbations_of(
    dataset: Dataset,
    view: str,
    percents: str | None = None,
    *,
    kind: Kind | None = None,
    seed: int = 0,
    edge: int | None = None,
) -> list[Perturbation]:
    """Perturbations as typed, of a kind for a view.

    Args:
        dataset: The data set.
        view: Name of a view.
        percents: Whole numbers with commas between, as in "5,10,50"; None for `PERCENTS`, of voices `VOICE_PERCENTS`.
        kind: None for the first of the view's modality: deletion for texts, noise for images, "voice-unique" for sound.
        seed: As `Perturbation`.
        edge: As `Perturbation`.

    Raises:
        DataInvalid: If there is no such view, the kind is for another modality, or a percentage is out of range.

    Example:
        perturbations_of(open_dataset("openmoji"), "captions", "10,50")
    """
    if view not in dataset.views:
        raise DataInvalid(f"{dataset.name} has no view {view!r} to perturb; it has {', '.join(dataset.views)}")
    modality = dataset.views[view].modality
    kinds = [each for each in get_args(Kind) if MODALITY[each] == modality]
    if kind is not None and kind not in kinds:
        raise DataInvalid(f"{view} is {modality}, and {kind} perturbs {MODALITY[kind]}; wanted {' or '.join(kinds)}")
    chosen = kind or kinds[0]
    usual = VOICE_PERCENTS if chosen in VOICES else PERCENTS
    parts = list(map(str, usual)) if percents is None else [part.strip() for part in percents.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise DataInvalid(f"percentages {percents!r}: wanted whole numbers with commas between, as in 5,10,50")
    return [Perturbation(chosen, int(part), seed, edge) for part in parts]


def with_perturbed(dataset: Dataset, view: str, perturbations: Iterable[Perturbation]) -> Dataset:
    """A data set with perturbed views of one of its views behind its own; ids and groups are those of that view.

    Args:
        dataset: The data set.
        view: Name of a view.
        perturbations: Of the kind for its modality.

    Raises:
        DataInvalid: If there is no such view, a perturbation is for another modality, or one of voices for recorded
            sound or for classes that the data set does not have.

    Example:
        with_perturbed(open_dataset("openmoji"), "captions", [Perturbation("delete", 10)])
    """
    if view not in dataset.views:
        raise DataInvalid(f"{dataset.name} has no view {view!r} to perturb; it has {', '.join(dataset.views)}")
    columns = list(dataset.overlay.labels.values())
    classes = dict(zip(dataset.overlay.groups, columns[0], strict=True)) if columns else {}
    made = {each.view_name(view): perturbed_view(dataset.views[view], each, classes) for each in perturbations}
    return replace(dataset, views={**dataset.views, **made})


def perturbed_view(view: View, perturbation: Perturbation, classes: Mapping[str, str] | None = None) -> View:
    """The perturbed rows of a view, under the name that says how.

    Args:
        view: Of the modality that the perturbation is for.
        perturbation: What is done.
        classes: Group -> class; "voice-redundant" needs it.

    Raises:
        DataInvalid: As `with_perturbed`.
    """
    wanted = MODALITY[perturbation.kind]
    if view.modality != wanted:
        raise DataInvalid(f"{perturbation.kind} perturbs {wanted} views, and {view.name} is {view.modality}")
    if perturbation.kind in VOICES:
        return _other_voices(view, perturbation, classes or {})
    fields: dict[str, Any] = {
        "name": perturbation.view_name(view.name),
        "decoding": {**view.decoding, **perturbation.declared},
        "given_hashes": None,
        "bound": partial(_bound, view.bound, perturbation),
    }
    if perturbation.kind == "delete":
        fields["content"] = partial(_deleted_content, view, perturbation)
    else:
        fields["decode"] = partial(_noisy, view.decode, perturbation)
    return replace(view, **fields)


def _other_voices(view: View, perturbation: Perturbation, classes: Mapping[str, str]) -> View:
    """A row's content says its voice, so that its hash needs to bind nothing more."""
    if not is_spoken(view):
        raise DataInvalid(f"{view.name} is recorded; {perturbation.kind} is for views that are synthesised from texts")
    redundant = perturbation.kind == "voice-redundant"
    if redundant and not classes:
        raise DataInvalid(
            f"{view.name}: {perturbation.kind} gives each class voices of its own, and the data set has no labels\n"
            "  voice-unique needs none"
        )
    tied = tied_voices(view, classes if redundant else None, seed=perturbation.seed)
    voices = dosed_voices(tied, perturbation.percent, seed=perturbation.seed)
    made = speech_view(perturbation.view_name(view.name), view.ids, view.groups, spoken_by(view, voices))
    return replace(made, decoding={**made.decoding, **perturbation.declared})


def delete_characters(text: str, percent: int, *, seed: int, row: str) -> str:
    """A text without a share of its characters, at places drawn by seed and row: floor(length * percent / 100).

    What is deleted at a lower percentage is deleted at a higher one too. The release draws without a seed, and anew for
    each percentage; of one percentage both leave every subset of characters with the same probability.

    Args:
        text: Of any length.
        percent: 0 to 99.
        seed: Of the draw.
        row: Id of the row, so that equal texts lose other characters.

    Example:
        >>> delete_characters("a dog on the beach", 50, seed=0, row="1.jpg#0")
        ' oo tbach'
    """
    count = len(text) * percent // 100
    gone = set(_generator(seed, row.encode()).permutation(len(text))[:count].tolist())
    return "".join(letter for place, letter in enumerate(text) if place not in gone)


def replace_pixels(picture: "Image.Image", perturbation: Perturbation, *, row: bytes) -> "Image.Image":
    """A picture with pixels replaced by noise; of the same size, or a square where the perturbation has an edge.

    Each pixel is replaced with the probability, all channels at once, each by its own draw from N(m, s). m and s are
    mean and standard deviation of all values of the picture. The release draws after the normalisation too: there m and
    s are of normalised values, which is the same where an encoder normalises the three channels alike. Here values are
    rounded to 8 bits and cut at 0 and 255; the release's are not.

    Args:
        picture: RGB.
        perturbation: Of kind "noise".
        row: What draws depend on beside the seed, such as the row's bytes.

    Example:
        >>> from PIL import Image
        >>> white = Image.new("RGB", (8, 8), (255, 255, 255))
        >>> replace_pixels(white, Perturbation("noise", 50), row=b"").getextrema()  # no spread, no other value
        ((255, 255), (255, 255), (255, 255))
    """
    import numpy as np
    from PIL import Image

    if perturbation.edge is not None:
        picture = _square(picture, perturbation.edge)
    pixels = np.asarray(picture, dtype=np.float64)
    rng = _generator(perturbation.seed, row)
    replaced = rng.random(pixels.shape[:2]) < perturbation.percent / 100
    drawn = pixels.mean() + pixels.std(ddof=1) * rng.standard_normal(pixels.shape)
    mixed = np.where(replaced[..., None], np.clip(np.rint(drawn), 0, 255), pixels)
    return Image.fromarray(mixed.astype(np.uint8))


def _in_range(kind: Kind, percent: int) -> bool:
    return 0 <= percent <= 100 if kind in VOICES else 1 <= percent <= 99


def _bound(inner: Callable[[bytes], str] | None, perturbation: Perturbation, content: bytes) -> str:
    declared = ", ".join(f"{name} {value}" for name, value in perturbation.declared.items())
    return f"{inner(content) if inner else ''}|{declared}"


def _deleted_content(view: View, perturbation: Perturbation, row: int) -> bytes:
    text = view.read(row)
    return delete_characters(text, perturbation.percent, seed=perturbation.seed, row=view.ids[row]).encode("utf-8")


def _noisy(decode: Callable[[bytes], Any], perturbation: Perturbation, content: bytes) -> "Image.Image":
    return replace_pixels(decode(content), perturbation, row=content)


def _square(picture: "Image.Image", edge: int) -> "Image.Image":
    """Shorter edge to `edge` by bicubic, then the central square: timm's and torchvision's evaluation at one size."""
    from PIL.Image import Resampling

    width, height = picture.size
    size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    resized = picture.resize(size, Resampling.BICUBIC)
    left, top = round((size[0] - edge) / 2), round((size[1] - edge) / 2)
    return resized.crop((left, top, left + edge, top + edge))


def _generator(seed: int, row: bytes) -> "np.random.Generator":
    import numpy as np

    digest = blake3(seed.to_bytes(8, "big") + row).digest(length=16)
    return np.random.default_rng(int.from_bytes(digest, "big"))
