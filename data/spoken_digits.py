"""spoken-digits: scikit-learn's digit images and the clips of the Free Spoken Digit Dataset, in pairs of one digit.

An image and a clip make a pair, which is a group of its own and called after the clip. No image and no clip is in two
pairs. Splits go by the number of the take, for all digits and speakers alike: 0 to 4 are test, as the data set declares
it, 5 to 9 validation, the rest train. Every digit and speaker has as many pairs of a split as every other, so that
digit and speaker are independent and uniform. Labels: the digit, the speaker, and mixtures of both (`mixed_label`).
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.views import Dataset, Overlay, View
from featcache.data.wav import decode_wav

if TYPE_CHECKING:
    from PIL import Image

NAME = "spoken-digits"
DIGITS = 10
SIDE, WHITE = 8, 16  # pixels a side, and the value of the brightest
RECORDED, RATE = 8_000, 16_000  # samples a second of a file, and of a decoded clip: networks for speech take 16 kHz
TAKES = {"test": range(5), "validation": range(5, 10), "train": range(10, 10**6)}
_CLIP = re.compile(r"(\d)_([A-Za-z][A-Za-z0-9-]*)_(\d{1,6})\.wav")
_FORM = "<digit>_<speaker>_<take>.wav, as in 7_theo_0.wav"


@dataclass(frozen=True, order=True)
class Clip:
    """One recording of a digit."""

    digit: int
    speaker: str
    take: int
    path: Path

    @property
    def name(self) -> str:
        """Its file name without the ending."""
        return self.path.stem

    @property
    def split(self) -> str:
        """The split that its take is in."""
        return next(split for split, takes in TAKES.items() if self.take in takes)


@dataclass(frozen=True)
class Pair:
    """An image and a clip of one digit."""

    image: int  # row of scikit-learn's digits
    clip: Clip


def open_spoken_digits(root: Path | None = None, *, seed: int = 0) -> Dataset:
    """Opens the pairs of digit images and clips; reads names, no recording.

    Views "images" (8 x 8 grey pixels) and "speech" (waveforms at 16 kHz), both in the order of the pairs.

    Args:
        root: The folder of the clips, or one with a folder "recordings" of them.
        seed: Of which image goes with which clip, which images and clips are left over, and the order in which the
            mixtures name speakers.

    Raises:
        DataMissing: If there are no clips, or scikit-learn is not installed.
        DataInvalid: If a clip is named otherwise, or a digit and speaker lack clips of a split.

    Source:
        Jackson, Z. et al., Free Spoken Digit Dataset; Alpaydin and Kaynak 1998, Optical Recognition of Handwritten
        Digits, of which scikit-learn has the test part.
    """
    if root is None:
        raise missing(NAME, "no root given", ())
    clips = read_clips(root)
    pixels, digits = _digit_images()
    pairs = draw_pairs(digits, clips, seed=seed)
    groups = tuple(pair.clip.name for pair in pairs)
    images = View(
        name="images",
        modality="image",
        ids=tuple(f"digits-{pair.image:04d}" for pair in pairs),
        groups=groups,
        content=lambda row: pixels[pairs[row].image],
        decode=decode_digit,
        decoding={"layout": f"grey, 0 to {WHITE}", "side": SIDE},
    )
    speech = View(
        name="speech",
        modality="audio",
        ids=groups,
        groups=groups,
        content=lambda row: pairs[row].clip.path.read_bytes(),
        decode=decode_clip,
        decoding={"rate": RATE, "recorded": RECORDED, "resampling": "scipy.signal.resample_poly"},
    )
    overlay = Overlay(groups, tuple(pair.clip.split for pair in pairs), label_columns(pairs, seed=seed))
    return Dataset(
        name=NAME,
        views={"images": images, "speech": speech},
        overlay=overlay,
        licence=DATASETS[NAME].licence,
        source="scikit-learn's digits; FSDD, a folder of recordings",
        notes=(_sizes_note(pairs, digits, clips),),
    )


# -- contents ----------------------------------------------------------------------------------------------------------


def decode_digit(content: bytes) -> "Image.Image":
    """64 bytes of grey, row by row, 0 black and 16 white, to an RGB picture; DataInvalid for others."""
    from PIL import Image

    if len(content) != SIDE * SIDE or max(content) > WHITE:
        raise DataInvalid(f"{len(content)} bytes are no grey picture of {SIDE} x {SIDE}, values 0 to {WHITE}")
    return Image.frombytes("L", (SIDE, SIDE), bytes(round(255 * value / WHITE) for value in content)).convert("RGB")


def decode_clip(content: bytes) -> Float[np.ndarray, " samples"]:
    """A recording at 8 kHz to its waveform at 16 kHz, float32; DataInvalid as `featcache.data.wav.decode_wav`."""
    from scipy.signal import resample_poly

    return resample_poly(decode_wav(content, rate=RECORDED), RATE // RECORDED, 1).astype(np.float32)


def read_clips(root: Path) -> list[Clip]:
    """The clips of a folder, by digit, speaker and take; nothing but WAV files is looked at.

    Args:
        root: The folder of the clips, or one with a folder "recordings" of them.

    Raises:
        DataMissing: If there are none.
        DataInvalid: If one is named otherwise than published, or two have the same digit, speaker and take.
    """
    folders = [folder for folder in (root / "recordings", root) if folder.is_dir()]
    folder = next((each for each in folders if any(each.glob("*.wav"))), None)
    if folder is None:
        raise missing(NAME, "no WAV files", (*map(str, folders or [root]),))
    clips = sorted(_clip(path) for path in folder.glob("*.wav"))
    counts = Counter((clip.digit, clip.speaker, clip.take) for clip in clips)
    twice = [clip.path.name for clip in clips if counts[clip.digit, clip.speaker, clip.take] > 1]
    if twice:
        raise DataInvalid(f"{folder}: {' and '.join(twice[:2])} are the same take of the same digit and speaker")
    return clips


def _clip(path: Path) -> Clip:
    match = _CLIP.fullmatch(path.name)
    if match is None:
        raise DataInvalid(f"{path} is not named {_FORM}\n  Move what is no clip of this data set out of the folder")
    return Clip(int(match[1]), match[2], int(match[3]), path)


def _digit_images() -> tuple[list[bytes], list[int]]:
    """Bytes and digit of every image of scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing(NAME, "scikit-learn, which has the images, is not installed", ()) from error
    data, target = load_digits(return_X_y=True)
    return [row.tobytes() for row in data.astype(np.uint8)], [int(digit) for digit in target]


# -- pairs -------------------------------------------------------------------------------------------------------------


def draw_pairs(digits: Sequence[int], clips: Sequence[Clip], *, seed: int = 0) -> list[Pair]:
    """Pairs images and clips of the same digit, each of both at most once.

    Args:
        digits: Of each image.
        clips: Of all splits.
        seed: Of which goes with which.

    Returns:
        By digit, speaker and take. Every digit and speaker has the same number of pairs of a split: of test and
        validation all takes that each of them has, of train as many as clips and images allow.

    Raises:
        DataInvalid: If a digit and speaker lack clips of a split, or there are too few images for so many speakers.
    """
    cells: dict[tuple[str, int, str], list[Clip]] = {}
    for clip in sorted(clips):
        cells.setdefault((clip.split, clip.digit, clip.speaker), []).append(clip)
    speakers = sorted({clip.speaker for clip in clips})
    sizes = _cell_sizes(cells, speakers, fewest=min(digits.count(digit) for digit in range(DIGITS)))
    rng = np.random.default_rng(seed)
    pairs: list[Pair] = []
    for digit in range(DIGITS):
        images = iter(rng.permutation([row for row, each in enumerate(digits) if each == digit]).tolist())
        for speaker in speakers:
            for split, size in sizes.items():
                cell = cells[split, digit, speaker]
                chosen = sorted(rng.permutation(len(cell))[:size].tolist())
                pairs += [Pair(next(images), cell[place]) for place in chosen]
    return sorted(pairs, key=lambda pair: pair.clip)


def _cell_sizes(
    cells: Mapping[tuple[str, int, str], Sequence[Clip]], speakers: Sequence[str], *, fewest: int
) -> dict[str, int]:
    """Pairs of each split that every digit and speaker has."""
    sizes: dict[str, int] = {}
    for split, takes in TAKES.items():
        counts = {(d, who): len(cells.get((split, d, who), ())) for d in range(DIGITS) for who in speakers}
        sizes[split] = min(counts.values())
        if not sizes[split]:
            digit, speaker = min(counts, key=lambda cell: counts[cell])
            last = "on" if split == "train" else f"to {takes[-1]}"
            raise DataInvalid(
                f"{NAME}: no clip of digit {digit} by {speaker} among the takes from {takes[0]} {last}, which are the "
                f"{split} split\n  Every speaker needs takes of every digit in every split: get the missing files, or "
                "move all of that speaker's out of the folder"
            )
    room = fewest // len(speakers) - sizes["test"] - sizes["validation"]
    if room < 1:
        raise DataInvalid(
            f"{NAME}: {len(speakers)} speakers with {sizes['test']} takes for test and {sizes['validation']} for "
            f"validation leave none of the {fewest} images of a digit for training\n  Move some speakers' clips out"
        )
    return sizes | {"train": min(sizes["train"], room)}


def _sizes_note(pairs: Sequence[Pair], digits: Sequence[int], clips: Sequence[Clip]) -> str:
    each = Counter(pair.clip.split for pair in pairs)
    speakers = len({pair.clip.speaker for pair in pairs})
    of = ", ".join(f"{count // (DIGITS * speakers)} {split}" for split, count in each.items())
    return (
        f"{len(pairs):,} pairs, of each digit and speaker {of}; {len(digits) - len(pairs):,} images and "
        f"{len(clips) - len(pairs):,} clips are in none"
    )


# -- labels ------------------------------------------------------------------------------------------------------------


def mixed_label(digit: int, speaker: str, named: Collection[str]) -> str:
    """The label that mixes digit and speaker: the speaker of those who are named, the digit of all others.

    A function of digit and speaker, so that whoever recognises both knows it. The image knows the digit alone.

    Example:
        >>> mixed_label(7, "theo", {"theo"}), mixed_label(7, "lucas", {"theo"})
        ('theo', '7')
    """
    return speaker if speaker in named else str(digit)


def column_name(named: int, speakers: int) -> str:
    """The label column in which some of the speakers are named: "mixed-50" where half of them are.

    Example:
        >>> [column_name(named, 6) for named in range(7)]
        ['digit', 'mixed-17', 'mixed-33', 'mixed-50', 'mixed-67', 'mixed-83', 'speaker']
    """
    if named in (0, speakers):
        return "digit" if named == 0 else "speaker"
    return f"mixed-{round(100 * named / speakers)}"


def naming_order(speakers: Collection[str], *, seed: int = 0) -> list[str]:
    """The speakers in the order in which the mixtures name them: whoever is named stays so.

    Args:
        speakers: In any order.
        seed: Of the order.
    """
    known = sorted(speakers)
    return [known[place] for place in np.random.default_rng(seed).permutation(len(known))]


def label_columns(pairs: Sequence[Pair], *, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """The labels of pairs, a column for each number of speakers who are named.

    Args:
        pairs: From `draw_pairs`.
        seed: As for `naming_order`.

    Returns:
        From "digit" to "speaker", as `column_name`.
    """
    order = naming_order({pair.clip.speaker for pair in pairs}, seed=seed)
    return {
        column_name(named, len(order)): tuple(
            mixed_label(pair.clip.digit, pair.clip.speaker, order[:named]) for pair in pairs
        )
        for named in range(len(order) + 1)
    }


def label_table(named: int, speakers: int = 6) -> Float[np.ndarray, "digits clips labels"]:
    """Joint distribution of the image's digit, the clip's digit and speaker, and the label: what is exact.

    With the share q = named / speakers of the speakers, the image tells (1 - q) log 10 nats of the label, and the clip
    all of it, H(q) + (1 - q) log 10 + q log named with the entropy H. The clip tells what the image tells, so the first
    is redundant, the rest unique to the clip, and nothing unique to the image or synergy: by every decomposition.

    Args:
        named: Speakers whose clips are labelled by speaker, 0 to `speakers`.
        speakers: All of them.

    Returns:
        p(digit, clip, label), sum 1. The clip of digit d by speaker s, in the order of naming, is number
        d * speakers + s. Labels are the digits, if some speaker is not named, then the speakers who are.

    Raises:
        DataInvalid: If so many cannot be named.

    Example:
        >>> table = label_table(3)
        >>> table.shape, round(float(table.sum()), 6)
        ((10, 60, 13), 1.0)
    """
    if not 0 <= named <= speakers or speakers < 1:
        raise DataInvalid(f"{named} of {speakers} speakers named: wanted 0 to all of one or more")
    digits = 0 if named == speakers else DIGITS
    table = np.zeros((DIGITS, DIGITS * speakers, digits + named))
    for digit in range(DIGITS):
        for speaker in range(speakers):
            label = digits + speaker if speaker < named else digit
            table[digit, digit * speakers + speaker, label] = 1 / (DIGITS * speakers)
    return table
