"""Are digits paired with speech without a leak, is every recording read or refused by name, and are labels exact?"""

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data import DATASETS, DataInvalid, DataMissing, open_dataset
from featcache.data.raw_features import LogMel, grey_pixels, log_mel, log_mel_energies
from featcache.data.spoken_digits import (
    TAKES,
    Clip,
    column_name,
    decode_digit,
    draw_pairs,
    label_columns,
    label_table,
    naming_order,
    open_spoken_digits,
    read_clips,
)
from featcache.data.views import View
from featcache.data.wav import decode_wav
from featcache.studies.emergence.digits.pairs import digit_pairs
from tests.spoken_clips import wav, write_clips

REAL = Path(__file__).parents[2] / "shared" / "data" / "fsdd"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("fsdd"))


def made(names: list[str], root: Path = Path("clips")) -> list[Clip]:
    parts = [(root / f"{name}.wav", *name.split("_")) for name in names]
    return [Clip(int(digit), speaker, int(take), path) for path, digit, speaker, take in parts]


# -- recordings --------------------------------------------------------------------------------------------------------

WHOLE = wav(np.arange(400))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"RIFF", "not a whole WAV file"),
        (b"OggS" + bytes(60), "not a whole WAV file"),
        (WHOLE[:30], "not a whole WAV file"),
        (WHOLE[:-301], "cut off: it states 400 samples and holds 249"),
        (wav(np.arange(0)), "without samples"),
        (wav(np.arange(400), channels=2), "2 channels, wanted 1"),
        (wav(np.arange(200), width=1), "8 bits a sample, wanted 16"),
        (wav(np.arange(400), rate=16_000), "16000 samples a second, wanted 8000"),
        (wav(np.arange(400), channels=2, rate=44_100), "2 channels, wanted 1; 44100 samples a second, wanted 8000"),
    ],
)
def test_a_recording_of_another_form_is_refused_by_what_is_wrong_with_it(content: bytes, says: str) -> None:
    with pytest.raises(DataInvalid, match=says):
        decode_wav(content, rate=8_000)


def test_a_recording_that_cannot_be_read_is_named_wherever_it_is_read(clips: Path, tmp_path: Path) -> None:
    for path in (clips / "recordings").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3_bo_1.wav").write_bytes(WHOLE[:-301])
    with pytest.raises(DataInvalid, match=r"speech row '3_bo_1' \(number \d+\): cut off"):
        log_mel_energies(open_spoken_digits(tmp_path).views["speech"])


@pytest.mark.parametrize("name", ["7-theo-0.wav", "theo_7_0.wav", "77_theo_0.wav", "7_theo.wav", "7_theo_x.wav"])
def test_a_clip_that_is_named_otherwise_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "0_theo_0.wav").write_bytes(WHOLE)
    (tmp_path / name).write_bytes(WHOLE)
    with pytest.raises(DataInvalid, match=rf"{name} is not named <digit>_<speaker>_<take>.wav, as in 7_theo_0.wav"):
        read_clips(tmp_path)


def test_one_take_under_two_names_is_refused_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("7_theo_1.wav", "metadata.py"):
        (tmp_path / name).write_bytes(WHOLE)
    assert [clip.name for clip in read_clips(tmp_path)] == ["7_theo_1"]
    (tmp_path / "7_theo_01.wav").write_bytes(WHOLE)
    with pytest.raises(DataInvalid, match="are the same take"):
        read_clips(tmp_path)


def test_without_clips_or_images_the_ways_to_get_them_are_listed(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataMissing, match=r"(?s)no WAV files.*Looked at.*free-spoken-digit-dataset"):
        open_dataset("spoken-digits", root=tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataMissing, match=r"(?s)scikit-learn, which has the images.*pip install scikit-learn"):
        open_dataset("spoken-digits", root=clips)


# -- pairs -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    test=st.integers(1, 5), validation=st.integers(1, 5), train=st.integers(1, 9), speakers=st.integers(1, 3),
    seed=st.integers(0, 99), more=st.integers(0, 30),
)  # fmt: skip
def test_no_image_clip_or_take_is_in_two_splits_and_digits_and_speakers_are_independent(
    test: int, validation: int, train: int, speakers: int, seed: int, more: int
) -> None:
    takes = [*range(test), *range(5, 5 + validation), *range(10, 10 + train)]
    names = [f"{digit}_s{who}_{take}" for digit in range(10) for who in range(speakers) for take in takes]
    digits = list(np.random.default_rng(seed).permutation([d for d in range(10) for _ in range(60 + d * more // 9)]))
    pairs = draw_pairs(digits, made(names), seed=seed)
    assert all(digits[pair.image] == pair.clip.digit for pair in pairs)
    assert len({pair.image for pair in pairs}) == len({pair.clip.name for pair in pairs}) == len(pairs)
    assert all(pair.clip.take in TAKES[pair.clip.split] for pair in pairs)
    cells = Counter((pair.clip.split, pair.clip.digit, pair.clip.speaker) for pair in pairs)
    for split, size in (("test", test), ("validation", validation), ("train", train)):
        sizes = {cells[split, digit, f"s{who}"] for digit in range(10) for who in range(speakers)}
        room = 60 // speakers - test - validation
        assert sizes == {min(size, room) if split == "train" else size}
    assert draw_pairs(digits, made(names[::-1]), seed=seed) == pairs, "the order of the files counts for nothing"
    assert pairs != draw_pairs(digits, made(names), seed=seed + 1)


def test_a_speaker_without_takes_of_a_split_is_named() -> None:
    names = [f"{digit}_{who}_{take}" for digit in range(10) for who in ("ann", "bo") for take in (0, 5, 10)]
    digits = [digit for digit in range(10) for _ in range(50)]
    names.remove("4_bo_5")
    with pytest.raises(DataInvalid, match="no clip of digit 4 by bo among the takes from 5 to 9.* validation split"):
        draw_pairs(digits, made(names))
    names.remove("3_ann_10")
    with pytest.raises(DataInvalid, match="no clip of digit 4 by bo"):
        draw_pairs(digits, made(names))
    many = [f"{digit}_s{who}_{take}" for digit in range(10) for who in range(25) for take in (0, 5, 10)]
    with pytest.raises(DataInvalid, match="25 speakers .* leave none of the 50 images of a digit for training"):
        draw_pairs(digits, made(many))


def test_the_data_set_has_both_views_of_every_pair_and_its_labels(clips: Path) -> None:
    dataset = open_dataset("spoken-digits", root=clips)
    images, speech = dataset.views["images"], dataset.views["speech"]
    assert images.groups == speech.groups == speech.ids == dataset.overlay.groups
    assert Counter(dataset.overlay.splits) == {"train": 120, "validation": 20, "test": 40}
    assert [*dataset.overlay.labels] == ["digit", "mixed-50", "speaker"]
    assert "180 pairs, of each digit and speaker 2 test, 1 validation, 6 train" in dataset.notes[0]
    row = speech.ids.index("7_bo_1")
    assert [column[row] for column in dataset.overlay.labels.values()][::2] == ["7", "bo"]
    waveform = speech.read(row)
    recorded = decode_wav((clips / "recordings" / "7_bo_1.wav").read_bytes(), rate=8_000)
    assert waveform.dtype == np.float32 and len(waveform) == 2 * len(recorded)
    assert np.abs(waveform[::2] - recorded).max() < 0.05, "twice the samples, the same sound"
    picture = images.read(row)
    assert picture.mode == "RGB" and picture.size == (8, 8)
    again = open_spoken_digits(clips)
    assert (again.views["images"].root, again.overlay.root) == (images.root, dataset.overlay.root)
    assert open_spoken_digits(clips, seed=1).views["images"].root != images.root


def test_digit_pictures_keep_every_level_and_refuse_what_is_none() -> None:
    levels = bytes(range(17)) + bytes(47)
    grey = np.asarray(decode_digit(levels).convert("L")).ravel()
    assert np.array_equal(np.rint(grey[:17] * (16 / 255)), np.arange(17))
    for wrong in (bytes(63), bytes([17]) + bytes(63)):
        with pytest.raises(DataInvalid, match="no grey picture of 8 x 8, values 0 to 16"):
            decode_digit(wrong)


# -- labels -----------------------------------------------------------------------------------------------------------


def test_whoever_is_named_stays_so_and_the_seed_says_who_is_first() -> None:
    names = [f"{digit}_{who}_{take}" for digit in range(10) for who in ("a", "b", "c") for take in (0, 5, 10)]
    digits = [digit for digit in range(10) for _ in range(9)]
    pairs = draw_pairs(digits, made(names))
    columns = label_columns(pairs, seed=3)
    assert [*columns] == ["digit", "mixed-33", "mixed-67", "speaker"] == [column_name(k, 3) for k in range(4)]
    spoken = [{label for label in column if label in "abc"} for column in columns.values()]
    assert [len(each) for each in spoken] == [0, 1, 2, 3] and spoken[1] < spoken[2] < spoken[3]
    assert len({naming_order("abc", seed=seed)[0] for seed in range(20)}) == 3
    with pytest.raises(DataInvalid, match="4 of 3 speakers named"):
        label_table(4, 3)


# -- raw features ------------------------------------------------------------------------------------------------------


def slow_log_mel(waveform: np.ndarray, rate: int, how: LogMel) -> np.ndarray:
    """The definition, one number at a time."""
    length, hop, size = round(how.window * rate), round(how.hop * rate), 1
    while size < length:
        size *= 2
    mel = [2595 * math.log10(1 + hertz / 700) for hertz in (how.low, how.high)]
    peaks = [
        700 * (10 ** ((mel[0] + i * (mel[1] - mel[0]) / (how.bands + 1)) / 2595) - 1) for i in range(how.bands + 2)
    ]
    frames = []
    for start in range(0, len(waveform) - length + 1, hop):
        window = [0.5 - 0.5 * math.cos(2 * math.pi * i / length) for i in range(length)]
        spectrum = np.abs(np.fft.fft(np.pad(waveform[start : start + length] * window, (0, size - length)))) ** 2
        energies = []
        for left, peak, right in zip(peaks, peaks[1:], peaks[2:], strict=False):
            total = 0.0
            for place in range(size // 2 + 1):
                hertz = place * rate / size
                weight = (hertz - left) / (peak - left) if hertz <= peak else (right - hertz) / (right - peak)
                total += max(weight, 0.0) * spectrum[place]
            energies.append(math.log(total + 1e-8))
        frames.append(energies)
    fine = np.repeat(np.array(frames), how.parts, axis=0)  # every part is then a whole number of rows
    return fine.reshape(how.parts, len(frames), how.bands).mean(axis=1).ravel()


@pytest.mark.parametrize("samples", [300, 777, 1_200])
def test_log_mel_energies_are_their_definition(samples: int) -> None:
    waveform = np.random.default_rng(samples).standard_normal(samples).astype(np.float32) / 9
    how = LogMel(bands=5, parts=3, low=50, high=3_500)
    np.testing.assert_allclose(log_mel(waveform, 8_000, how), slow_log_mel(waveform, 8_000, how), rtol=1e-5)


def test_log_mel_energies_have_one_length_and_follow_time_not_speed() -> None:
    noise = np.random.default_rng(0).standard_normal(8_000).astype(np.float32) / 9
    rising = np.concatenate([noise[:2_000] * 0.01, noise[2_000:4_000]])
    slow = np.concatenate([noise[:4_000] * 0.01, noise[4_000:]])
    how = LogMel(bands=4, parts=2)
    values = [log_mel(each, 8_000, how).reshape(2, 4) for each in (rising, slow, noise[:10])]
    assert {each.shape for each in values} == {(2, 4)} and np.isfinite(values).all(), "a short one is padded"
    assert (values[0][1] - values[0][0] > 6).all()
    np.testing.assert_allclose(values[0], values[1], atol=1.0)
    assert log_mel(np.zeros(500, np.float32), 8_000, how) == pytest.approx(np.full(8, math.log(1e-8)), rel=1e-6)


def test_raw_features_refuse_what_has_none() -> None:
    with pytest.raises(DataInvalid, match="up to 4000 Hz of a waveform at 4000 Hz"):
        log_mel(np.zeros(500, np.float32), 4_000)
    with pytest.raises(DataInvalid, match="wanted 1 or more bands"):
        LogMel(bands=0)
    texts = View("captions", "text", ("a",), ("a",), lambda row: b"", lambda content: "")
    with pytest.raises(DataInvalid, match="holds text, which has no pixels"):
        grey_pixels(texts)
    with pytest.raises(DataInvalid, match="wanted audio whose decoding states its rate"):
        log_mel_energies(texts)
    from PIL import Image

    sizes = ((2, 2), (2, 3))
    two = View(
        "images", "image", ("a", "b"), ("a", "b"), lambda row: bytes([row]), lambda c: Image.new("L", sizes[c[0]])
    )
    with pytest.raises(DataInvalid, match=r"row 'b' \(number 1\) has \(3, 2\) pixels, and the first \(2, 2\)"):
        grey_pixels(two)


# -- the real data -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the recordings beside the checkout")
def test_the_real_recordings_give_1740_balanced_pairs_that_can_be_recognised() -> None:
    from sklearn.datasets import load_digits

    dataset = open_dataset("spoken-digits", root=REAL)
    pairs = draw_pairs(load_digits(return_X_y=True)[1].tolist(), read_clips(REAL))
    cells = Counter((pair.clip.split, pair.clip.digit, pair.clip.speaker) for pair in pairs)
    assert {split: {n for (of, _, _), n in cells.items() if of == split} for split in TAKES} == {
        "test": {5}, "validation": {5}, "train": {19}
    }  # fmt: skip
    assert len(pairs) == len(dataset.overlay.groups) == 1_740 and len(cells) == 3 * 60
    assert tuple(dataset.overlay.labels) == DATASETS["spoken-digits"].labels
    data, split = digit_pairs(REAL, 0), np.array(dataset.overlay.splits)
    for modality, column, at_least in ((0, 0, 0.85), (1, 0, 0.8), (1, 6, 0.9), (1, 3, 0.85)):
        x, y = data.inputs[modality], data.labels[column]
        train, test = split == "train", split == "test"
        inner = x[train].T @ x[train] + 100 * np.eye(x.shape[1])
        weights = np.linalg.solve(inner, x[train].T @ np.eye(y.max() + 1)[y[train]])
        assert ((x[test] @ weights).argmax(axis=1) == y[test]).mean() > at_least, "by ridge regression"
