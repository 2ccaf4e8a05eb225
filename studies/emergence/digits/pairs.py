"""Digit images and spoken digits as two modalities: raw features in the cache, and what each pair shows."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from featcache.cache import Cache
from featcache.data.raw_features import LogMel, grey_pixels, log_mel_energies
from featcache.data.spoken_digits import DIGITS, column_name, label_table, naming_order, open_spoken_digits
from featcache.data.views import Dataset
from featcache.derived.raw import store_raw
from featcache.features import Features

PIXELS, LOGMEL = "pixels", "logmel"  # names of the cached features of the views


def cache_raw_features(cache: Cache, dataset: Dataset, settings: LogMel | None = None) -> list[Features]:
    """Caches the pixels of the view "images" and the log-mel energies of the view "speech", with splits and labels.

    Args:
        cache: The cache; it need not exist yet.
        dataset: From `open_spoken_digits`, or any with two such views.
        settings: Of the log-mel energies; None for the defaults.

    Returns:
        Both, as loaded from the cache.

    Raises:
        DataInvalid: If a row cannot be read; names it.
    """
    log_mel = settings or LogMel()
    how = {"features": "log-mel energies", "settings": dict(log_mel.to_dict()), "version": 1}
    arrays = [
        store_raw(cache, dataset, "images", grey_pixels(dataset.views["images"]), name=PIXELS,
                  settings={"features": "grey pixels", "version": 1}),
        store_raw(cache, dataset, "speech", log_mel_energies(dataset.views["speech"], log_mel), name=LOGMEL,
                  settings=how),
    ]  # fmt: skip
    return [cache.load_array(array) for array in arrays]


@dataclass(frozen=True, eq=False)
class DigitPairs:
    """The pairs of one seed. Modality 0 is the image, 1 the clip.

    Args:
        roots: Of the rows of both views: what images and clips hold.
        inputs: [n, d] raw features of each modality, z-scored by the training rows.
        splits: [n].
        speakers: How many there are.
        labels: [speakers + 1, n] where so many speakers are named, by the numbers of `label_table`.
        shown: [n] what a row shows of each modality, by the numbers of `label_table`.
    """

    roots: tuple[str, str]
    inputs: tuple[np.ndarray, np.ndarray]
    splits: np.ndarray
    speakers: int
    labels: Int[np.ndarray, "positions n"]
    shown: tuple[np.ndarray, np.ndarray]

    def given(self, modality: int, named: int) -> Float[np.ndarray, "n labels"]:
        """p(label | what each row shows), if that is recognised without fail."""
        table = label_table(named, self.speakers).sum(axis=1 - modality)
        return (table / table.sum(axis=1, keepdims=True))[self.shown[modality]]


@lru_cache(maxsize=32)
def digit_pairs(root: Path, seed: int) -> DigitPairs:
    """The pairs that a seed draws from a folder of clips; kept in memory. Errors as `open_spoken_digits`."""
    dataset = open_spoken_digits(root, seed=seed)
    columns, splits = dataset.overlay.labels, np.array(dataset.overlay.splits)
    order = naming_order(set(columns["speaker"]), seed=seed)
    labels = []
    for named in range(len(order) + 1):
        digits = [] if named == len(order) else [str(digit) for digit in range(DIGITS)]
        number = {label: place for place, label in enumerate([*digits, *order[:named]])}
        labels.append([number[label] for label in columns[column_name(named, len(order))]])
    digit = np.array([int(label) for label in columns["digit"]])
    speaker = np.array([order.index(label) for label in columns["speaker"]])
    images, speech = dataset.views["images"], dataset.views["speech"]
    train = splits == "train"
    return DigitPairs(
        roots=(images.root, speech.root),
        inputs=(_z_scored(grey_pixels(images), train), _z_scored(log_mel_energies(speech), train)),
        splits=splits,
        speakers=len(order),
        labels=np.array(labels),
        shown=(digit, digit * len(order) + speaker),
    )


def _z_scored(values: Float[np.ndarray, "n d"], train: np.ndarray) -> Float[np.ndarray, "n d"]:
    """By mean and deviation of the training rows; a feature without deviation there becomes 0."""
    mean, deviation = values[train].mean(axis=0), values[train].std(axis=0)
    return np.where(deviation > 0, (values - mean) / np.where(deviation > 0, deviation, 1), 0).astype(np.float32)
