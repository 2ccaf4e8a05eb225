"""Voices tied to a label by a dose: are they uniform at every dose, and is the dose all that they depend on?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.datasets import label_hint
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
from featcache.data.views import Dataset, Overlay, View
from featcache.data.voices import voice_label
from featcache.errors import UsageError
from featcache.report.figures.dials import dial_figures
from featcache.report.terminal.dials import dial_answer
from featcache.studies.emergence.dials.doses import DialSettings, DialViews
from featcache.studies.emergence.dials.perturbed import cached_perturbations, perturbed
from tests.alignment_cache import store_layers

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


# -- the dial over planted features -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Images that know the class, and recordings that know the word, with a little of the class, and the voice."""
    cache, dataset = Cache(tmp_path_factory.mktemp("voices") / "cache"), spoken(600, classes=4)
    ids, rng = dataset.overlay.groups, np.random.default_rng(0)
    splits = tuple(("train", "train", "validation", "test")[row % 4] for row in range(600))
    dataset = replace(dataset, overlay=replace(dataset.overlay, splits=splits))
    images = View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes)
    kinds = sorted(set(dataset.overlay.labels["class"]))
    known = np.array([[label == kind for kind in kinds] for label in dataset.overlay.labels["class"]], float)
    doses = [Perturbation(kind, percent) for kind in VOICE_KINDS for percent in (0, 50, 100)]
    dataset = with_perturbed(replace(dataset, views={"images": images, **dataset.views}), "speech", doses)
    store_layers(cache, dataset, "images", "vit", {"last.mean": known + 0.3 * rng.standard_normal((600, 4))})
    word = np.hstack([0.4 * known, 0.3 * rng.standard_normal((600, 8))])
    for dose in doses:
        view = dataset.views[dose.view_name("speech")]
        voices = [read_utterance(view.content(row)).voice for row in range(600)]
        heard = np.array([[voice == f"de+{each}" for each in VARIANTS] for voice in voices], float)
        store_layers(cache, dataset, view.name, "ear", {"last.mean": np.hstack([word, heard])})
    return cache


@pytest.mark.parametrize(("kind", "label"), [("voice-unique", "voice"), ("voice-redundant", "class")])
def test_over_the_doses_the_probe_of_the_tied_label_rises_and_alignment_where_images_know_it(
    planted: Cache, kind: Any, label: str, tmp_path: Path
) -> None:
    views = DialViews("tiny", y="speech")
    chosen = cached_perturbations(planted, "tiny", ("speech",), kind=kind)
    assert [each.percent for each in chosen] == [0, 50, 100], "the view itself is not cached, and no dose of voices"
    result = perturbed(planted, views, chosen, DialSettings(k=10, rows=None, permutations=39), out=tmp_path)
    rows = result.alignment.sort("dose")
    assert rows["dose"].to_list() == [0, 0.5, 1] and set(rows["dial"]) == {kind} and result.bits is None
    assert set(rows["comparison"]) == {"image–audio"} and set(rows["x_view"]) == {"images"}
    assert result.paths["alignment"] == tmp_path / "perturbed" / "tiny" / kind / "alignment.parquet"
    assert result.performance is not None and set(result.performance["against"]) == {f"label {label}"}
    heard, seen = (result.performance.filter(side=side).sort("dose")["value"].to_list() for side in ("y", "x"))
    first, last = rows["value"][0], rows["value"][2]
    if kind == "voice-unique":
        assert heard[0] < 0.2 and heard[1] > 0.4 and heard[2] > 0.95 and max(seen) < 0.2
        assert rows["ci_low"][2] < first < rows["ci_high"][2] and abs(last - first) < 0.02
    else:
        assert min(seen) > 0.9 and last > 1.3 * first and rows["ci_low"][2] > rows["ci_high"][0]
    figures = dial_figures(result.alignment, result.correlations, result.performance)
    assert figures and "share of voices tied to the" in figures[0].title
    assert "image–audio" in dial_answer(result) and "of voices tied to the" in dial_answer(result)


def test_doses_that_are_not_cached_are_named_with_the_command_that_encodes_them(planted: Cache) -> None:
    with pytest.raises(UsageError, match="emergence perturb tiny ENCODER --view speech-de --kind voice-unique"):
        cached_perturbations(planted, "tiny", ("speech-de",), kind="voice-unique")


def test_a_hint_says_that_voices_were_chosen_to_tell_the_label() -> None:
    assert label_hint("openmoji", "speech-voice-redundant40-s0", "group") == "its voices were chosen to, 40 % of them"
    assert label_hint("openmoji", "speech-voice-unique100-s2", "voice") == "its voices were chosen to, 100 % of them"
    for view in ("speech-voice-unique100-s0", "speech-voice-redundant0-s0", "speech"):
        assert "a spoken name may say the group" in label_hint("openmoji", view, "group")
    assert label_hint("openmoji", "speech-voice-redundant40-s0", "voice") == ""
