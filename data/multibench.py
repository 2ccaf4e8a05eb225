"""MultiBench's published files as sequences: sentiment, humour and sarcasm in pickles, and AVMNIST with audio as MFCC.

A pickle holds {"train", "valid", "test"} -> {"vision", "audio", "text", "labels"}: arrays [n, 50, f] with zeros in
front of shorter sequences. They are read as the study of emerging alignment reads them: rows whose text sums to zero
are dropped; -inf in audio becomes 0; vision and audio are standardised by mean and standard deviation over all rows and
steps of the training split, padding among them; each row is cut at the first step with text, in all three modalities;
and it is filled up with zeros at its end again, which a mask marks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from featcache.data.errors import DataInvalid, DataMissing, UnknownDataset
from featcache.data.multibench_pickles import MOST_BYTES, read_pickle

Task = Literal["regression", "classification"]
STEPS = 50  # of every sequence in the pickles
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # ours -> the files'
_STANDARDISED = ("vision", "audio")
_SIDE, _PATCH = 28, 4  # pixels of an AVMNIST image and of its patches
_COEFFICIENTS, _FRAMES = 20, 36  # of AVMNIST's MFCC
_WAYS = "The files: https://github.com/pliang279/MultiBench, and for AVMNIST of github.com/MeganTj/multimodal_alignment"


@dataclass(frozen=True)
class Published:
    """One published data set.

    Args:
        title: As the paper names it.
        file: The pickle, or a file that is always there.
        folders: Below the root, where the file may lie besides the root itself.
        widths: Modality -> numbers a step, in the paper's order: vision, audio, text.
        task: Regression of a sentiment, or classification.
        labels: Shape of the labels of one row.
        classes: Of a classification; 1 of a regression.
        positive: Whether any label above 0 is class 1; else labels are classes.
    """

    title: str
    file: str
    folders: tuple[str, ...]
    widths: Mapping[str, int]
    task: Task = "classification"
    labels: tuple[int, ...] = (1,)
    classes: int = 2
    positive: bool = False


def _widths(vision: int, audio: int, text: int = 300) -> Mapping[str, int]:
    return MappingProxyType({"vision": vision, "audio": audio, "text": text})


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "mosi": Published("MOSI", "mosi_data.pkl", ("mosi",), _widths(20, 5), "regression", (1, 1), 1),
        "mosi_raw": Published("MOSI (raw)", "mosi_raw.pkl", ("mosi",), _widths(35, 74), "regression", (1, 1), 1),
        "mosei": Published("MOSEI", "mosei_senti_data.pkl", ("mosei",), _widths(35, 74), "regression", (1, 1), 1),
        "humor": Published("URFUNNY", "humor.pkl", ("humor",), _widths(371, 81)),
        "sarcasm": Published("MUStARD", "sarcasm.pkl", ("sarcasm",), _widths(371, 81), positive=True),
        "avmnist": Published(
            "AVMNIST", "train_labels.npy", ("avmnist_mfcc", "avmnist"),
            MappingProxyType({"image": _PATCH**2, "audio": _FRAMES}), labels=(), classes=10,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sequences:
    """One modality of a split.

    Args:
        values: [n, t, f] float32.
        padding: [n, t], true where a row has ended; None where all are of full length.
    """

    values: np.ndarray
    padding: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """One split: row i of every modality is the same sample.

    Args:
        sequences: Modality -> its rows.
        targets: [n] classes int64, or values float32.
        kept: [n] numbers of the rows in the file.
    """

    sequences: Mapping[str, Sequences]
    targets: np.ndarray
    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class MultiBench:
    """A data set of sequences.

    Args:
        name: A key of PUBLISHED.
        published: Its entry.
        splits: "train", "validation" and "test".
        path: What was read.
    """

    name: str
    published: Published
    splits: Mapping[str, Split]
    path: Path


def load_multibench(name: str, root: Path, *, validation_rows: int = 5_000, most_bytes: int = MOST_BYTES) -> MultiBench:
    """Reads a published data set as the module says.

    Args:
        name: A key of PUBLISHED.
        root: The folder that the files lie in, or the one above; or the pickle.
        validation_rows: Of AVMNIST: training rows, from the end, that are the validation split.
        most_bytes: Larger pickles are not read.

    Raises:
        UnknownDataset: If there is no such name.
        DataMissing: If the files are not there.
        DataInvalid: If a file is not of the published form, or wants more than arrays when it is unpickled.

    Source:
        Liang et al. 2021, arXiv:2107.07502 (MultiBench); Tjandrasuwita et al. 2025, arXiv:2502.16282.
    """
    if name not in PUBLISHED:
        raise UnknownDataset(f"no data set of MultiBench is called {name!r}; there are {', '.join(PUBLISHED)}")
    path = _path(name, PUBLISHED[name], root)
    if name == "avmnist":
        return MultiBench(name, PUBLISHED[name], _avmnist(path.parent, validation_rows), path.parent)
    return MultiBench(name, PUBLISHED[name], _affect(path, PUBLISHED[name], most_bytes), path)


def _path(name: str, published: Published, root: Path) -> Path:
    if root.is_file() and root.name == published.file:
        return root
    places = [root / published.file, *(root / folder / published.file for folder in published.folders)]
    for place in places:
        if place.is_file():
            return place
    looked = "\n".join(f"  Looked at: {place}" for place in places)
    raise DataMissing(f"{name}: no {published.file} below {root}\n{looked}\n  {_WAYS}")


# --- the pickles


def _affect(path: Path, published: Published, most_bytes: int) -> dict[str, Split]:
    content = read_pickle(path, most_bytes=most_bytes)
    raw = {split: _arrays(path, content, key, published) for split, key in _SPLITS.items()}
    kept = {split: np.flatnonzero(_sums(arrays["text"]) != 0) for split, arrays in raw.items()}
    for split, rows in kept.items():
        if not len(rows):
            raise DataInvalid(f"{path}: no row of {_SPLITS[split]} has text")
    starts = {split: _starts(raw[split]["text"], rows) for split, rows in kept.items()}
    sequences: dict[str, dict[str, Sequences]] = {split: {} for split in _SPLITS}
    for modality in published.widths:
        statistics: tuple[Any, Any] | None = None  # of the training split, for all
        for split in _SPLITS:
            values = raw[split][modality][kept[split]]
            if modality == "audio":
                values = np.where(values == -np.inf, 0, values)
            if modality in _STANDARDISED:
                statistics = statistics or _statistics(values, axes=(0, 1))
                values = (values - statistics[0]) / statistics[1]
            values = np.asarray(values, np.float32)
            _require_finite(path, f"{_SPLITS[split]} {modality}", values, kept[split])
            sequences[split][modality] = _cut(values, starts[split])
    return {
        split: Split(sequences[split], _targets(path, split, raw[split]["labels"], kept[split], published), kept[split])
        for split in _SPLITS
    }


def _arrays(path: Path, content: Any, key: str, published: Published) -> dict[str, np.ndarray]:
    """The arrays of a split, each of the published shape."""
    part = content.get(key) if isinstance(content, dict) else None
    names = (*published.widths, "labels")
    if not isinstance(part, dict) or any(not isinstance(part.get(name), np.ndarray) for name in names):
        raise DataInvalid(f"{path}: {key} is no dict of the arrays {', '.join(names)}")
    n = len(part["text"]) if part["text"].ndim else 0
    shapes = {name: (n, STEPS, width) for name, width in published.widths.items()} | {"labels": (n, *published.labels)}
    for name, shape in shapes.items():
        array = part[name]
        if array.shape != shape or array.dtype.kind not in "fiub":
            raise DataInvalid(f"{path}: {key} {name} is {array.dtype} {array.shape}; wanted numbers {shape}")
    if not n:
        raise DataInvalid(f"{path}: {key} has no rows")
    return {name: part[name] for name in names}


def _sums(text: np.ndarray) -> np.ndarray:
    """[n] sums of whole rows in their own precision, each by itself."""
    return np.array([row.sum() for row in text])


def _starts(text: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n] the first step of each row that is not all zero; a row whose sum is not 0 has one."""
    return np.array([np.argmax((text[row] != 0).any(axis=1)) for row in rows])


def _statistics(values: np.ndarray, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Mean and standard deviation over axes, float64; a number that never varies is left to be 0 after centring."""
    mean = values.mean(axis=axes, dtype=np.float64, keepdims=True)
    scale = values.std(axis=axes, dtype=np.float64, keepdims=True)
    return mean, np.where(scale == 0, 1.0, scale)


def _require_finite(path: Path, what: str, values: np.ndarray, rows: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(broken):
        raise DataInvalid(f"{path}: {what} row {rows[broken[0]]} holds NaN or infinity")


def _cut(values: np.ndarray, starts: np.ndarray) -> Sequences:
    """Rows from their first step on, moved to the front, with zeros and a mask behind."""
    steps = starts[:, None] + np.arange(values.shape[1])
    padding = steps >= values.shape[1]
    moved = np.take_along_axis(values, np.where(padding, 0, steps)[:, :, None], axis=1)
    moved[padding] = 0
    return Sequences(moved, padding)


def _targets(path: Path, split: str, labels: np.ndarray, kept: np.ndarray, published: Published) -> np.ndarray:
    flat = labels.reshape(len(labels))[kept]
    if not np.isfinite(flat.astype(np.float64)).all():
        raise DataInvalid(f"{path}: {_SPLITS[split]} labels hold NaN or infinity")
    if published.task == "regression":
        return flat.astype(np.float32)
    if published.positive:
        return (flat > 0).astype(np.int64)
    return _classes(path, f"{_SPLITS[split]} labels", flat, published.classes)


def _classes(path: Path, what: str, labels: np.ndarray, classes: int) -> np.ndarray:
    values = labels.astype(np.int64)
    wrong = np.flatnonzero((values != labels) | (values < 0) | (values >= classes))
    if len(wrong):
        raise DataInvalid(
            f"{path}: {what} row {wrong[0]} is {labels[wrong[0]]}; wanted a class from 0 to {classes - 1}"
        )
    return values


# --- AVMNIST


def _avmnist(folder: Path, validation_rows: int) -> dict[str, Split]:
    raw = {key: _avmnist_part(folder, key) for key in ("train", "test")}
    first = len(raw["train"]["labels"]) - validation_rows
    if not 0 < validation_rows or first < 1:
        raise DataInvalid(
            f"{folder}: {validation_rows:,} validation rows of {first + validation_rows:,} training rows"
            "\n  Name fewer validation rows, or get the whole files"
        )
    mean, scale = _statistics(raw["train"]["audio"][:first], axes=(0, 2))  # of each coefficient
    rows = {
        "train": ("train", slice(0, first)),
        "validation": ("train", slice(first, None)),
        "test": ("test", slice(None)),
    }
    splits = dict[str, Split]()
    for split, (key, part) in rows.items():
        labels = raw[key]["labels"][part]
        audio = ((raw[key]["audio"][part] - mean) / scale).astype(np.float32)
        kept = np.arange(len(raw[key]["labels"]))[part]
        _require_finite(folder, f"{key} audio", audio, kept)
        images = _patches(raw[key]["image"][part])
        _require_finite(folder, f"{key} image", images, kept)
        splits[split] = Split({"image": Sequences(images), "audio": Sequences(audio)}, labels, kept)
    return splits


def _avmnist_part(folder: Path, key: str) -> dict[str, np.ndarray]:
    labels = _numbers(folder / f"{key}_labels.npy")
    audio, image = (_numbers(folder / kind / f"{key}_data.npy") for kind in ("audio", "image"))
    n = len(labels) if labels.ndim == 1 else 0
    fits = image.shape in ((n, _SIDE**2), (n, _SIDE, _SIDE)) and audio.shape == (n, _COEFFICIENTS, _FRAMES)
    if not n or not fits:
        raise DataInvalid(
            f"{folder}: {key} images {image.shape}, audio {audio.shape} and labels {labels.shape}; wanted "
            f"[n, {_SIDE**2}], MFCC [n, {_COEFFICIENTS}, {_FRAMES}] and [n] (MultiBench's own audio is no MFCC)"
        )
    checked = _classes(folder / f"{key}_labels.npy", "label", labels, PUBLISHED["avmnist"].classes)
    return {"labels": checked, "audio": audio, "image": image}


def _numbers(path: Path) -> np.ndarray:
    """A .npy of numbers, mapped; one of objects is refused, since it would be unpickled."""
    if not path.is_file():
        raise DataMissing(f"{path} is not there\n  {_WAYS}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataInvalid(f"{path} is no whole .npy of numbers: {str(error).splitlines()[0]}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataInvalid(f"{path} is no .npy of numbers")
    return array


def _patches(images: np.ndarray) -> np.ndarray:
    """[n, 49, 16] patches of 4 x 4 pixels, row by row, in [0, 1]."""
    side = _SIDE // _PATCH
    tiles = np.asarray(images, np.float32).reshape(-1, side, _PATCH, side, _PATCH) / 255
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4).reshape(-1, side**2, _PATCH**2))
