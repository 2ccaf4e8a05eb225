"""MultiBench's files become the sequences that the study trains on, with every quirk of its loader."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.data.errors import DataInvalid, DataMissing, UnknownDataset
from featcache.data.multibench import PUBLISHED, STEPS, load_multibench
from tests.multibench_files import ROWS, raw_split, write_affect, write_avmnist

AFFECT = [name for name in PUBLISHED if name != "avmnist"]
OURS = {"train": "train", "valid": "validation", "test": "test"}
TINY = {"train": 10, "valid": 6, "test": 7}


def straightforward(content: dict[str, Any], modality: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Sequences and mask row by row, as the facts put it."""

    def filled(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        if modality == "audio":
            rows[rows == -np.inf] = 0
        return rows

    def with_text(part: dict[str, Any]) -> list[int]:
        return [row for row in range(len(part["text"])) if part["text"][row].sum() != 0]

    training = filled(content["train"][modality][with_text(content["train"])])
    frames = training.reshape(-1, training.shape[2])
    spread = frames.std(axis=0)
    spread[spread == 0] = 1
    sequences, masks = [], []
    for row in with_text(content[split]):
        values = filled(content[split][modality][row : row + 1])[0]
        if modality != "text":
            values = (values - frames.mean(axis=0)) / spread
        start = next(step for step in range(STEPS) if content[split]["text"][row, step].any())
        values = values[start:]
        mask = [False] * len(values) + [True] * start
        sequences.append(np.concatenate([values, np.zeros((start, values.shape[1]))]))
        masks.append(mask)
    return np.array(sequences, np.float32), np.array(masks)


@pytest.mark.parametrize("name", AFFECT)
def test_sequences_are_those_of_a_straightforward_loader(tmp_path: Path, name: str) -> None:
    content = write_affect(tmp_path, name, rows=TINY, protocol=2 + AFFECT.index(name) % 4)
    data = load_multibench(name, tmp_path)
    for key, split in OURS.items():
        part = data.splits[split]
        assert part.kept.tolist() == [row for row in range(TINY[key]) if row != 3]  # the row without text
        for modality in data.published.widths:
            values, mask = straightforward(content, modality, key)
            got = part.sequences[modality]
            assert got.values.dtype == np.float32 and got.padding is not None
            np.testing.assert_allclose(got.values, values, rtol=2e-5, atol=2e-6)
            assert (got.padding == mask).all()


def test_a_number_that_never_varies_stays_finite(tmp_path: Path) -> None:
    content = write_affect(tmp_path, "mosi", rows=TINY)
    for part in content.values():
        part["vision"][:, :, 4] = 2.5
    (tmp_path / "mosi_data.pkl").write_bytes(pickle.dumps(content))
    train = load_multibench("mosi", tmp_path).splits["train"].sequences["vision"]
    assert np.isfinite(train.values).all() and (train.values[:, :, 4] == 0).all()


def test_labels_are_values_or_classes(tmp_path: Path) -> None:
    contents = {name: write_affect(tmp_path, name, rows=TINY) for name in ("mosi", "humor", "sarcasm")}
    rows = [row for row in range(TINY["test"]) if row != 3]
    flat = {name: content["test"]["labels"].ravel()[rows] for name, content in contents.items()}
    got = {name: load_multibench(name, tmp_path).splits["test"].targets for name in contents}
    assert got["mosi"].dtype == np.float32 and (got["mosi"] == flat["mosi"].astype(np.float32)).all()
    assert got["humor"].dtype == np.int64 and (got["humor"] == flat["humor"]).all()
    assert set(flat["sarcasm"]) == {-1, 1} and (got["sarcasm"] == (flat["sarcasm"] > 0)).all()


def test_files_are_found_in_the_layout_of_the_release(tmp_path: Path) -> None:
    (tmp_path / "mosi").mkdir()
    write_affect(tmp_path / "mosi", "mosi", rows=TINY)
    inside, above = load_multibench("mosi", tmp_path / "mosi"), load_multibench("mosi", tmp_path)
    exact = load_multibench("mosi", tmp_path / "mosi" / "mosi_data.pkl")
    assert inside.path == above.path == exact.path
    with pytest.raises(DataMissing, match=r"mosei: no mosei_senti_data\.pkl below .*\n  Looked at: (.|\n)*MultiBench"):
        load_multibench("mosei", tmp_path)
    with pytest.raises(UnknownDataset, match="there are mosi, mosi_raw, mosei, humor, sarcasm, avmnist"):
        load_multibench("mosaic", tmp_path)


def cut(split: str, modality: str, part: Any) -> Callable[[dict[str, Any]], None]:
    """Keeps a part of an array."""
    return lambda content: content[split].update({modality: content[split][modality][part]})


def put(split: str, modality: str, place: Any, value: float) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[split][modality].__setitem__(place, value)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no test": (lambda content: content.pop("test"), "test is no dict of the arrays vision, audio, text, labels"),
    "no labels": (lambda content: content["valid"].pop("labels"), "valid is no dict of the arrays"),
    "width": (
        cut("test", "audio", np.s_[:, :, :80]),
        r"test audio is float64 \(7, 50, 80\); wanted numbers \(7, 50, 81\)",
    ),
    "steps": (
        cut("train", "text", np.s_[:, :20]),
        r"train text is float64 \(10, 20, 300\); wanted numbers \(10, 50, 300\)",
    ),
    "fewer labels": (cut("test", "labels", np.s_[:-1]), r"test labels is int64 \(6, 1\); wanted numbers \(7, 1\)"),
    "flat labels": (cut("test", "labels", np.s_[:, 0]), r"test labels is int64 \(7,\); wanted"),
    "class 2": (put("valid", "labels", 5, 2), "valid labels row 4 is 2; wanted a class from 0 to 1"),
    "nan": (put("valid", "vision", (4, 49, 7), np.nan), "valid vision row 4 holds NaN or infinity"),
    "inf": (put("test", "audio", (5, 49, 7), np.inf), "test audio row 5 holds NaN or infinity"),
    "objects": (lambda content: content["test"].update(text=np.zeros((7, 50, 300), object)), "test text is object"),
    "no text": (put("valid", "text", np.s_[:], 0), "no row of valid has text"),
}


@pytest.mark.parametrize("change", DAMAGES)
def test_files_that_contradict_the_format_are_refused_with_the_place(tmp_path: Path, change: str) -> None:
    damage, reason = DAMAGES[change]
    content = {split: raw_split("humor", TINY[split], seed) for seed, split in enumerate(ROWS)}
    damage(content)
    (tmp_path / "humor.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataInvalid, match=rf"humor\.pkl: {reason}"):
        load_multibench("humor", tmp_path)


def test_avmnist_is_patches_and_coefficients_standardised_on_training_rows(tmp_path: Path) -> None:
    arrays = write_avmnist(tmp_path)
    data = load_multibench("avmnist", tmp_path, validation_rows=12)
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 38, "validation": 12, "test": 24}
    audio, image = arrays["audio/train_data"], arrays["image/train_data"]
    for place in range(20):
        own = audio[:38, place]
        wanted = (audio[38:, place] - own.mean()) / own.std()
        got = data.splits["validation"].sequences["audio"].values[:, place]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    tokens = data.splits["train"].sequences["image"].values
    assert tokens.shape == (38, 49, 16) and data.splits["train"].sequences["image"].padding is None
    picture = image[5].reshape(28, 28)
    for down, right in ((0, 0), (2, 6), (6, 3)):
        patch = picture[4 * down : 4 * down + 4, 4 * right : 4 * right + 4].ravel() / 255
        np.testing.assert_allclose(tokens[5, 7 * down + right], patch, rtol=1e-6)
    assert (data.splits["validation"].targets == arrays["train_labels"][38:]).all()
    assert data.splits["validation"].kept.tolist() == [*range(38, 50)]


def test_avmnist_of_another_form_is_refused(tmp_path: Path) -> None:
    arrays = write_avmnist(tmp_path)
    with pytest.raises(DataInvalid, match="50 validation rows of 50 training rows"):
        load_multibench("avmnist", tmp_path, validation_rows=50)
    np.save(tmp_path / "audio" / "test_data.npy", np.zeros((24, 112, 112)))
    with pytest.raises(DataInvalid, match=r"wanted .* MFCC \[n, 20, 36\]"):
        load_multibench("avmnist", tmp_path, validation_rows=12)
    np.save(tmp_path / "audio" / "test_data.npy", arrays["audio/test_data"].astype(object), allow_pickle=True)
    with pytest.raises(DataInvalid, match=r"test_data\.npy is no whole \.npy of numbers"):
        load_multibench("avmnist", tmp_path, validation_rows=12)
    (tmp_path / "audio" / "test_data.npy").unlink()
    with pytest.raises(DataMissing, match=r"test_data\.npy is not there"):
        load_multibench("avmnist", tmp_path, validation_rows=12)
