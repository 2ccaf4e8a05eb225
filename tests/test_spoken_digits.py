"""Is the dial from digit to speaker as exact as stated, and do encoders of images and of speech follow it?"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featcache.cache import Cache
from featcache.data.raw_features import LogMel, log_mel_energies
from featcache.data.spoken_digits import TAKES, label_table, naming_order, open_spoken_digits
from featcache.data.views import Dataset, Overlay, View
from featcache.derived.raw import store_raw
from featcache.errors import UsageError
from featcache.metrics import cka
from featcache.metrics.certainty.clustered import clustered_correlation
from featcache.metrics.errors import TooFewRows
from featcache.report.figures.spoken_digits import spoken_digits_figure
from featcache.report.names import decimals
from featcache.report.terminal.spoken_digits import show_spoken_digits
from featcache.studies.emergence.digits import encoders as study
from featcache.studies.emergence.digits.dial import PARTS, best_of_encoders, dial_row, posterior_cka
from featcache.studies.emergence.digits.encoders import SpokenDigitsSettings, run_spoken_digits
from featcache.studies.emergence.digits.pairs import cache_raw_features, digit_pairs
from tests.spoken_clips import SPEAKERS, tone, write_clips

TINY = SpokenDigitsSettings(depths=(1, 2), seeds=(0, 1), steps=60, batch=32, width=8, k=5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("fsdd"))


# -- the dial ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speakers", [2, 3, 6])
def test_the_dial_moves_information_from_redundant_to_unique_by_the_stated_amounts(speakers: int) -> None:
    for named in range(speakers + 1):
        exact, q = dial_row(named, speakers), named / speakers
        gate = -sum(p * math.log(p) for p in (q, 1 - q) if p)
        unique = gate + q * math.log(max(named, 1))
        wanted = dict(zip(PARTS, ((1 - q) * math.log(10), 0, unique, 0), strict=True))
        for measure in ("broja", "common", "i_min"):
            parts = {part: exact[f"{measure}_{part}"] for part in PARTS}
            assert parts == pytest.approx(wanted, abs=1e-9), (named, measure)
        assert exact["information1"] == pytest.approx((1 - q) * math.log(10))
        assert exact["information2"] == exact["information12"] == pytest.approx((1 - q) * math.log(10) + unique)
        assert exact["bayes_accuracy1"] == pytest.approx(max(1 - q, 1 / speakers))
        assert exact["bayes_accuracy2"] == pytest.approx(1)


def test_the_pairs_of_every_split_have_exactly_the_table_of_the_dial(clips: Path) -> None:
    pairs, order = digit_pairs(clips, 0), naming_order(SPEAKERS, seed=0)
    for named, labels in enumerate(pairs.labels):
        table = label_table(named, len(order))
        for split in TAKES:
            of = pairs.splits == split
            counted = np.zeros_like(table)
            np.add.at(counted, (pairs.shown[0][of], pairs.shown[1][of], labels[of]), 1 / of.sum())
            np.testing.assert_allclose(counted, table, atol=1e-12)
        assert np.array_equal(pairs.given(1, named).argmax(axis=1), labels), "speech tells the label for certain"


def test_the_cka_of_exact_posteriors_is_that_of_every_pair_listed() -> None:
    joint = label_table(2, 4)
    images, clips = joint.sum(axis=1), joint.sum(axis=0)
    rows = [(d, d * 4 + s) for d in range(10) for s in range(4)]
    x = np.array([images[d] / images[d].sum() for d, _ in rows])
    y = np.array([clips[c] / clips[c].sum() for _, c in rows])
    assert posterior_cka(joint) == pytest.approx(cka(x, y), abs=1e-9)


# -- the cache --------------------------------------------------------------------------------------------------------


def test_raw_features_are_cached_with_rows_splits_and_labels_once(clips: Path, tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path / "cache"), open_spoken_digits(clips)
    pixels, logmel = cache_raw_features(cache, dataset)
    assert (pixels.view, logmel.view, logmel.modality, logmel.width) == ("images", "speech", "audio", 256)
    np.testing.assert_array_equal(logmel.values, log_mel_energies(dataset.views["speech"]))
    loaded = cache.load("spoken-digits", "logmel")
    assert loaded.ids.tolist() == [*dataset.views["speech"].ids] and loaded.splits.tolist() == [*dataset.overlay.splits]
    assert loaded.labels["mixed-50"].tolist() == [*dataset.overlay.labels["mixed-50"]]
    assert loaded.hashes.tolist() == [*dataset.views["speech"].hashes]
    again = cache_raw_features(cache, dataset)
    assert [each.root for each in again] == [pixels.root, logmel.root] and len([*cache.arrays()]) == 2
    finer = cache_raw_features(cache, dataset, LogMel(parts=4))[1]
    assert finer.width == 128 and finer.digest != logmel.digest


def test_raw_features_of_other_rows_are_refused(tmp_path: Path) -> None:
    view = View("images", "image", ("a", "b"), ("a", "b"), lambda row: bytes([row]), lambda content: content)
    dataset = Dataset("two", {"images": view}, Overlay(("a", "b"), ("", "")), licence="", source="")
    for values in (np.zeros((3, 2)), np.zeros(2), np.array([[0.0], [np.nan]])):
        with pytest.raises(UsageError, match=r"wanted finite values \[2, d\] for two/images"):
            store_raw(Cache(tmp_path), dataset, "images", values, name="x", settings={})


# -- encoders ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> study.SpokenDigitsTables:
    shares: list[float] = []
    folder = tmp_path_factory.mktemp("study")
    result = run_spoken_digits(clips, folder, TINY, on_progress=lambda share, name: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    return result


def test_every_encoder_layer_and_position_has_its_row(tables: study.SpokenDigitsTables) -> None:
    models, alignment = tables.models, tables.alignment
    assert len(models) == 2 * 2 * 2 * 3, "modalities, depths, seeds, positions"
    assert models.select("modality", "depth", "seed", "named").is_duplicated().sum() == 0
    assert (models["accuracy"] <= models["bayes_accuracy"] + 1e-9).all()
    speech = models.filter(modality=1)
    assert speech["accuracy"].to_list() == pytest.approx(speech["test_accuracy"].to_list()), "speech tells the label"
    trained = alignment.filter(stage="trained")
    assert len(trained) == (1 + 2) * 2 * 3 * 3 and set(trained["n"]) == {40}
    assert len(alignment.filter(stage="initial")) == (1 + 2) * 2 * 3
    wide = trained.pivot("metric", index=["depth", "seed", "label", "layer1"], values="value")
    assert wide["cka_clipped"].to_list() == wide["cka_debiased"].clip(0).to_list()
    for name in ("models", "alignment", "dial", "correlations"):
        assert pl.read_parquet(tables.folder / f"{name}.parquet").equals(getattr(tables, name))


def test_encoders_learn_and_align_where_the_label_is_shared(tables: study.SpokenDigitsTables) -> None:
    dial = {row["label"]: row for row in tables.dial.to_dicts()}
    assert dial["digit"]["accuracy1"] > 0.6 and dial["digit"]["accuracy2"] > 0.6 and dial["speaker"]["accuracy2"] > 0.8
    assert dial["digit"]["cka_debiased"] > dial["mixed-50"]["cka_debiased"] > dial["speaker"]["cka_debiased"]
    assert dial["digit"]["cka_debiased"] > dial["digit"]["cka_debiased_initial"]
    best = best_of_encoders(tables.models, tables.alignment).filter(stage="trained", metric="cka_debiased")
    of_digit = best.filter(label="digit")["value"]
    assert dial["digit"]["cka_debiased"] == pytest.approx(of_digit.mean())
    assert (dial["digit"]["cka_debiased_low"], dial["digit"]["cka_debiased_high"]) == (of_digit.min(), of_digit.max())
    assert (dial["digit"]["models"], dial["digit"]["n"], dial["digit"]["k"]) == (4, 40, 5)


def test_no_coefficient_is_given_of_few_encoders(tables: study.SpokenDigitsTables) -> None:
    few = tables.correlations.filter(label="digit")
    assert few["value"].is_null().all() and few["low"].is_null().all() and set(few["n"]) == {4}
    assert set(few["note"]) == {"fewer than 12 encoders"}
    over_the_dial = tables.correlations.filter(label="", metric="cka_debiased", method="spearman").row(0, named=True)
    assert over_the_dial["n"] == 12 and over_the_dial["value"] > 0.5


def test_intervals_over_depths_and_over_positions_reject_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    depth, seed = np.tile(np.arange(6), 3), np.repeat(np.arange(3), 6)
    position, encoder = np.tile(np.arange(7), 18), np.repeat(np.arange(18), 7)
    rejected = np.zeros(2)
    for _ in range(600):
        of_depth, of_position = rng.standard_normal((2, 6)), rng.standard_normal(7)
        x, y = (each[depth] + rng.standard_normal(18) for each in of_depth)
        z = of_position[position] + 0.5 * rng.standard_normal(126)
        found = (
            clustered_correlation(x, y, depth, blocks=seed),
            clustered_correlation(7.0 - position, z, position, blocks=encoder),
        )
        rejected += [one.p is not None and one.p <= 0.05 for one in found]
    assert (rejected / 600 < 0.085).all()


def test_what_was_trained_is_not_trained_again_unless_content_or_settings_change(
    tables: study.SpokenDigitsTables, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.trainer.ensembles import fit

    trainings: list[int] = []
    train = fit.fit_classifiers

    def counted(ensemble: Any, *rest: Any) -> Any:
        trainings.append(ensemble.shape.depth)
        return train(ensemble, *rest)

    monkeypatch.setattr(fit, "fit_classifiers", counted)
    again = run_spoken_digits(clips, tables.folder, TINY)
    assert again.models.equals(tables.models) and again.alignment.equals(tables.alignment) and not trainings
    fewer = SpokenDigitsSettings(depths=(1,), seeds=(0,), steps=4, width=4, k=5)
    for path in (clips / "recordings").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    run_spoken_digits(tmp_path, tmp_path / "out", fewer)
    assert trainings == [1, 1]
    (tmp_path / "out" / "blocks" / next((tmp_path / "out" / "blocks").glob("modality1*")).name / "block.json").unlink()
    run_spoken_digits(tmp_path, tmp_path / "out", fewer)
    assert trainings == [1, 1, 1], "a block that was killed before its end"
    (tmp_path / "0_bo_0.wav").write_bytes(tone(0, 1, 99))
    digit_pairs.cache_clear()
    run_spoken_digits(tmp_path, tmp_path / "out", fewer)
    assert trainings == [1] * 5, "another recording is another data set"


def test_settings_that_cannot_be_trained_are_refused(clips: Path, tmp_path: Path) -> None:
    for depths in ((), (0, 1), (1, 1)):
        with pytest.raises(UsageError, match="wanted one or more, each depth once"):
            SpokenDigitsSettings(depths=depths)
    with pytest.raises(TooFewRows, match="k = 40"):
        run_spoken_digits(clips, tmp_path, SpokenDigitsSettings(depths=(1,), seeds=(0,), steps=1, width=4, k=40))


def test_the_figure_has_every_position_and_says_what_it_shows(tables: study.SpokenDigitsTables) -> None:
    figure = spoken_digits_figure(tables.dial.sample(fraction=1, shuffle=True, seed=0))
    assert figure is not None
    rows = {(row["metric"], row["series"], row["x"]): row for row in figure.rows}
    assert len(rows) == len(figure.rows) == 3 * (2 + 3 + 2 + 3) - 1, "no posterior of images knows the speaker"
    first, last = tables.dial.row(0, named=True), tables.dial.row(2, named=True)
    trained = rows["cka_debiased", "trained", 0]
    assert (trained["value"], trained["ci_low"], trained["ci_high"]) == tuple(
        first[f"cka_debiased{end}"] for end in ("", "_low", "_high")
    )
    assert rows["mutual_knn", "trained", 2]["chance"] == pytest.approx(5 / 39)
    assert f"from {first['cka_debiased']:.3f}" in figure.caption and f"to {last['cka_debiased']:.3f}" in figure.caption
    assert "4 speech encoders" in figure.caption
    lacking = tables.dial.with_columns(cka_debiased=pl.when(pl.col("named") > 0).then(float("nan")).otherwise(0.5))
    assert spoken_digits_figure(lacking) is None, "one position is no line"


def test_the_terminal_has_a_line_for_each_position_and_the_answer_first(
    tables: study.SpokenDigitsTables, capsys: pytest.CaptureFixture[str]
) -> None:
    show_spoken_digits(tables)
    shown = capsys.readouterr().out
    first = tables.dial.row(0, named=True)
    assert shown.index("Debiased CKA of the most aligned layers") < shown.index("mixed-50") < shown.index("speaker  ")
    assert f"2.303      .000  {decimals(first['cka_debiased'])}" in shown and "Spearman" in shown
    assert "At one label" not in shown, "four encoders give no coefficient"
    assert shown.rstrip().endswith(str(tables.folder))
