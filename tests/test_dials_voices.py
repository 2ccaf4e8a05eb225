"""Voices tied to a label by a dose: are they uniform at every dose, and is the dose all that they depend on?"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from featcache.data.errors import DataInvalid
from featcache.data.perturbations import (
    Perturbation,
    perturbation_of,
    perturbations_of,
    perturbed_view,
    with_named,
    with_perturbed,
)
from featcache.data.speech import VARIANTS, Utterance, is_spoken, read_utterance, speech_view
from featcache.data.views import Dataset, Overlay
from featcache.data.voices import voice_label

VOICE_KINDS: tuple[Any, ...] = ("voice-unique", "voice-redundant")


def spoken(n: int, classes: int = 7) -> Dataset:
    """Spoken rows of classes of unlike sizes: 1, 2, 3 ... parts of all."""
    ids = tuple(f"r{row:05}" for row in range(n))
    shares = [number for number in range(classes) for _ in range(number + 1)]
    labels = {"class": tuple(f"class {shares[row % len(shares)]}" for row in range(n)), "other": ids}
    view = speech_view("speech", ids, ids, [Utterance(f"word {row}", "de") for row in range(n)])
    return Dataset("tiny", {"speech": view}, Overlay(ids, ("train",) * n, labels), "none", "a test")


def voices_at(dataset: Dataset, kind: Any, percent: int, seed: int = 0) -> list[str]:
    made = with_perturbed(dataset, "speech", [Perturbation(kind, percent, seed)])
    view = made.views[f"speech-{kind}{percent}-s{seed}"]
    return [read_utterance(view.content(row)).voice for row in range(len(view))]


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def counted(rows: list[str], columns: list[str]) -> np.ndarray:
    names = sorted(set(rows)), sorted(set(columns))
    table = np.zeros((len(names[0]), len(names[1])))
    for row, column in zip(rows, columns, strict=True):
        table[names[0].index(row), names[1].index(column)] += 1
    return table


def independence(table: np.ndarray) -> float:
    """Chi-square of a table against the product of its margins."""
    return chi_square(table, table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum())


@pytest.mark.parametrize("kind", VOICE_KINDS)
def test_at_every_dose_each_voice_speaks_as_many_rows_as_any_other(kind: Any) -> None:
    dataset, n, v = spoken(4_000), 4_000, len(VARIANTS)
    for percent in (0, 30, 100):
        counts = counted(["all"] * n, voices_at(dataset, kind, percent))[0]
        assert len(counts) == v and chi_square(counts, np.full(v, n / v)) < 27.9  # P = .001 at 9 degrees of freedom
    if kind == "voice-redundant":
        assert set(counted(["all"] * n, voices_at(dataset, kind, 100))[0]) == {n / v}


@pytest.mark.parametrize("kind", VOICE_KINDS)
def test_the_share_of_rows_with_their_tied_voice_is_the_dose_and_a_v_th_of_the_others(kind: Any) -> None:
    dataset, n, v = spoken(4_000), 4_000, len(VARIANTS)
    tied = voices_at(dataset, kind, 100)
    for percent in (0, 20, 50, 80):
        share = np.mean([a == b for a, b in zip(voices_at(dataset, kind, percent), tied, strict=True)])
        expected = percent / 100 + (1 - percent / 100) / v
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def test_a_drawn_label_depends_on_no_class_and_is_in_the_voices_by_the_dose() -> None:
    dataset = spoken(4_000)
    classes, labels = list(dataset.overlay.labels["class"]), [voice_label(group) for group in dataset.overlay.groups]
    assert independence(counted(classes, labels)) < 92  # P = .001 at 54 degrees of freedom
    for percent, most, least in ((0, 126, 0), (20, 1e9, 500), (100, 36_001, 35_999)):  # P = .001 at 81 degrees
        voices = voices_at(dataset, "voice-unique", percent)
        assert independence(counted(classes, voices)) < 92, "the voice tells nothing of the class at any dose"
        assert least <= independence(counted(labels, voices)) <= most
    assert [f"de+{label}" for label in labels] == voices_at(dataset, "voice-unique", 100, seed=3)


def test_the_voice_of_a_class_is_its_own_by_the_dose_and_tells_no_drawn_label() -> None:
    dataset = spoken(4_000)
    classes, labels = list(dataset.overlay.labels["class"]), [voice_label(group) for group in dataset.overlay.groups]
    for percent, most, least in ((0, 92, 0), (20, 1e9, 400), (100, 1e9, 15_000)):
        voices = voices_at(dataset, "voice-redundant", percent)
        assert least <= independence(counted(classes, voices)) <= most
        assert independence(counted(labels, voices)) < 126
    table = counted(classes, voices_at(dataset, "voice-redundant", 100))
    assert (table > 0).sum() <= len(VARIANTS) + 7 - 1, "no voice is of two classes but where they meet"


def test_a_row_that_is_tied_stays_so_at_higher_doses_and_untied_rows_keep_their_voice() -> None:
    dataset = spoken(500)
    doses = [voices_at(dataset, "voice-unique", percent) for percent in (0, 20, 40, 100)]
    drawn, tied = doses[0], doses[-1]
    for lower, higher in zip(doses, doses[1:], strict=False):
        for row, (low, high) in enumerate(zip(lower, higher, strict=True)):
            assert low in (drawn[row], tied[row]) and (high == low or (low, high) == (drawn[row], tied[row]))
    assert voices_at(dataset, "voice-unique", 40, seed=1) != doses[2]


def test_voices_depend_on_no_other_row_and_differ_from_row_to_row_of_one_group() -> None:
    whole, part = spoken(300), spoken(100)
    assert voices_at(whole, "voice-unique", 50)[:100] == voices_at(part, "voice-unique", 50)
    ids = tuple(f"a#{row}" for row in range(40))
    view = speech_view("spoken", ids, ("a",) * 40, [Utterance("word")] * 40)
    tied = perturbed_view(view, Perturbation("voice-unique", 100))
    drawn = perturbed_view(view, Perturbation("voice-unique", 0))
    assert len({tied.content(row) for row in range(40)}) == 1 < len({drawn.content(row) for row in range(40)})


def test_a_dose_of_voices_says_its_voices_in_content_and_its_name_in_its_root() -> None:
    dataset = spoken(60)
    view = with_named(dataset, "speech-voice-unique40-s0").views["speech-voice-unique40-s0"]
    assert view.ids == dataset.views["speech"].ids and is_spoken(view) and view.decoding["percent"] == 40
    assert {read_utterance(view.content(row)).voice.partition("+")[0] for row in range(60)} == {"de"}, (
        "the language stays"
    )
    assert view.hashes != dataset.views["speech"].hashes
    other = perturbed_view(dataset.views["speech"], Perturbation("voice-unique", 60))
    same = [row for row in range(60) if view.content(row) == other.content(row)]
    assert same and all(view.hashes[row] == other.hashes[row] for row in same) and view.root != other.root
    assert with_named(dataset, "speech") is dataset and with_named(dataset, "x-voice-unique40-s0") is dataset


@pytest.mark.parametrize("kind", VOICE_KINDS)
@pytest.mark.parametrize("percent", [0, 5, 100])
def test_the_name_of_a_dose_of_voices_says_all_of_it(kind: Any, percent: int) -> None:
    made = Perturbation(kind, percent, 7)
    assert made.view_name("speech-de") == f"speech-de-{kind}{percent}-s7"
    assert perturbation_of(f"speech-de-{kind}{percent}-s7") == ("speech-de", made)


def test_what_voices_cannot_be_of_is_refused_by_name() -> None:
    dataset = spoken(20)
    recorded = replace(dataset.views["speech"], decode=bytes)
    for make, says in (
        (lambda: Perturbation("voice-unique", 101), "wanted a whole number from 0 to 100"),
        (lambda: perturbed_view(recorded, Perturbation("voice-unique", 5)), "speech is recorded"),
        (
            lambda: perturbed_view(dataset.views["speech"], Perturbation("voice-redundant", 5)),
            "has no labels\n  voice-u",
        ),
        (
            lambda: perturbations_of(dataset, "speech", kind="delete"),
            "speech is audio, and delete perturbs text; wanted v",
        ),
    ):
        with pytest.raises(DataInvalid, match=says):
            make()
    chosen = perturbations_of(dataset, "speech", kind="voice-redundant", seed=2)
    assert [(each.kind, each.percent, each.seed) for each in chosen] == [
        ("voice-redundant", percent, 2) for percent in (0, 20, 40, 60, 80, 100)
    ]
    assert perturbations_of(dataset, "speech", "50")[0].kind == "voice-unique"
