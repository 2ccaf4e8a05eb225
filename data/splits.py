"""Splits: their names, and the split of a group by a hash where a data set has none."""

import re
from collections.abc import Sequence
from fractions import Fraction

from blake3 import blake3

from featcache.data.errors import DataInvalid

DEFAULT_SPLIT = "80/10/10"
UNSPLIT = "none"
# what training needs of each split at its default k = 10: that many neighbours, and the row itself
LEAST_GROUPS = 11
LEAST_MEASURED = 4  # groups of a split that every score of a training can be measured on, debiased CKA the last
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
    "other": ("other",),
    "": ("",),
}
_BY_NAME = {name: split for split, names in _NAMES.items() for name in names}
_MORE_TEST = (DEFAULT_SPLIT, "70/15/15", "60/20/20", "50/25/25", "40/30/30")


Shares = tuple[Fraction, Fraction, Fraction]  # of train, validation and test; 1 in all


def named_split(text: str) -> str | None:
    """The split that a cell or a folder names; None if it names none.

    Example:
        >>> named_split("Val"), named_split("train2017"), named_split("dogs")
        ('validation', 'train', None)
    """
    return _BY_NAME.get(re.sub(r"[-_]?\d+$", "", text.strip().lower()))


def split_names() -> str:
    """The names of splits that a cell may hold, in a sentence."""
    return ", ".join(name for name in _BY_NAME if name)


def file_splits(names: Sequence[str]) -> tuple[list[str], str]:
    """The split that each file of a data set is named by, as in "train-00000.tar" or "val/0.parquet".

    Args:
        names: Their paths, with "/".

    Returns:
        The splits, as the names have them, and where they come from; all "" unless every file names one split, and two
        or more are named.

    Example:
        >>> file_splits(["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"])
        (['train', 'test'], 'the names of the files')
    """
    splits: list[str] = []
    for name in names:
        words = {word for word in re.split(r"[/._-]", name) if word and named_split(word)}
        splits.append(words.pop() if len(words) == 1 else "")
    several = len({named_split(split) for split in splits}) > 1
    return (splits, "the names of the files") if all(splits) and several else ([""] * len(splits), "")


def parse_split(text: str) -> Shares | None:
    """Shares of train, validation and test, which sum to 1; None for no splits.

    Raises:
        DataInvalid: For other forms.

    Example:
        >>> [str(share) for share in parse_split("80/10/10")], parse_split("none")
        (['4/5', '1/10', '1/10'], None)
    """
    if text == UNSPLIT:
        return None
    parts = text.split("/")
    if len(parts) != 3 or not all(re.fullmatch(r"\d{1,9}(\.\d{1,9})?", part) for part in parts):
        raise DataInvalid(f"--split {text}: wanted the shares TRAIN/VALIDATION/TEST, as in {DEFAULT_SPLIT}, or none")
    train, validation, test = (Fraction(part) for part in parts)
    total = train + validation + test
    if not train or not total:
        raise DataInvalid(f"--split {text}: the first share, of train, is 0; as in {DEFAULT_SPLIT}, or none")
    return train / total, validation / total, test / total


def split_of(group: str, shares: Shares, seed: int) -> str:
    """The split of a group of a folder.

    Example:
        >>> [split_of(group, parse_split("50/25/25"), 0) for group in ("a.jpg", "b.jpg", "c.jpg")]
        ['train', 'test', 'test']
    """
    return split_by_hash(f"folder split {seed} {group}", shares)


def split_by_hash(text: str, shares: Shares) -> str:
    """The split of what a text names, group and seed: its hash decides, so that new groups never move old ones."""
    place = Fraction(int.from_bytes(blake3(text.encode()).digest(8), "big"), 2**64)
    return "train" if place < shares[0] else "validation" if place < shares[0] + shares[1] else "test"


def split_groups(groups: Sequence[str], text: str, seed: int) -> tuple[str, ...]:
    """The split of each group, as `--split` and `--seed` say; "" of each for none."""
    shares = parse_split(text)
    return tuple("" if shares is None else split_of(group, shares, seed) for group in groups)


def small_split_note(groups: Sequence[str], splits: Sequence[str]) -> str:
    """What to do where a hash left too few groups to a split for training; "" where it did not.

    Other shares and seeds are tried, and the first that leave enough to each split are named.
    """
    if _least(splits) >= LEAST_GROUPS:
        return ""
    need = f"training at its default of k = {LEAST_GROUPS - 1} neighbours needs {LEAST_GROUPS} groups of each split"
    for text in _MORE_TEST:
        for seed in range(5):
            if _least(split_groups(groups, text, seed)) >= LEAST_GROUPS:
                seeded = f" --seed {seed}" if seed else ""
                return f"{need}: extract with --split {text}{seeded}, or train with a lower --k"
    if _least(splits) >= LEAST_MEASURED:
        return f"{need}, more than these rows give: train with --k {_least(splits) - 1}"
    return f"{need}, and at any k {LEAST_MEASURED}, more than these rows give; align and grid need no splits"


def _least(splits: Sequence[str]) -> int:
    return min(splits.count(split) for split in ("train", "validation", "test"))
