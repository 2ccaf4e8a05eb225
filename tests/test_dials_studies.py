"""Dials on small caches: what is swapped or perturbed, what is measured of it, and what is not said."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.data.texts import text_view
from featcache.data.views import Dataset
from featcache.errors import FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.metrics.errors import BadChoice
from featcache.report.terminal.dials import show_dial
from featcache.studies.emergence.dials.correlations import (
    BITS,
    LEAST_LMS,
    LEAST_MODELS,
    POOLED,
    WITHIN,
    _correlated,  # pyright: ignore[reportPrivateUsage]
    dial_correlations,
)
from featcache.studies.emergence.dials.doses import DialSettings, DialViews, depths_of, drawn_groups, layers_of_view
from featcache.studies.emergence.dials.performance import caption_subjects, column_labels, given_labels
from featcache.studies.emergence.dials.swapped_captions import swap_levels, swapped_captions, swapped_rows
from featcache.trainer.errors import NotPaired
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset

FAST = DialSettings(k=5, rows=None, permutations=39, repeats=20)
PHOTOS = 80


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Four image encoders of four layers and a text encoder, which share a latent, the more the later the layer."""
    return layered_cache(tmp_path_factory.mktemp("dials"), captions=3)


def layered_cache(root: Path, *, captions: int, name: str = "tiny") -> Cache:
    cache, dataset = Cache(root / "cache"), tiny_dataset(PHOTOS, captions, name=name)
    rng = np.random.default_rng(0)
    kinds = np.array([int(label.split()[1]) for label in dataset.overlay.labels["kind"]])
    latent = rng.standard_normal((PHOTOS, 6)) + 4 * np.eye(6)[kinds]
    for number in range(4):
        noises = {f"{layer}.mean": noise for layer, noise in enumerate((4.0, 2.0, 1.0))} | {
            "last.mean": 0.3 + number / 10
        }
        turn = rng.standard_normal((6, 8))
        layers = {layer: latent @ turn + noise * rng.standard_normal((PHOTOS, 8)) for layer, noise in noises.items()}
        store_layers(cache, dataset, "images", f"vit{number}", layers)
    texts = np.repeat(latent, captions, axis=0)
    for number in range(2):
        layers = {layer: texts @ rng.standard_normal((6, 8)) + noise * rng.standard_normal((len(texts), 8))
                  for layer, noise in {"0.mean": 2.0, "last.mean": 0.3}.items()}  # fmt: skip
        store_layers(cache, dataset, "captions", f"lm{number}", layers)
        bits = {"lm.bits-per-byte": rng.random((len(texts), 1))}
        store_layers(cache, dataset, "captions", f"lm{number}", bits, default="last.mean")
    return cache


# -- swaps ------------------------------------------------------------------------------------------------------------


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 3), st.data())
def test_texts_move_to_other_groups_of_their_block_and_each_stands_once(
    count: int, captions: int, seed: int, data: Any
) -> None:
    groups = [f"g{number}" for number in range(2 * count) for _ in range(captions)]
    blocks = [("train", "test")[int(group[1:]) % 2] for group in groups]
    before = set[int]()
    for share, _ in swap_levels(groups):
        source = swapped_rows(groups, blocks, share, seed=seed)
        assert sorted(source.tolist()) == list(range(len(groups)))
        moved = np.flatnonzero(source != np.arange(len(groups))).tolist()
        assert all(groups[row] != groups[source[row]] and blocks[row] == blocks[source[row]] for row in moved)
        assert before <= set(moved)
        before = set(moved)
        if captions > 1:  # every group has as many wrong texts, all of one other group
            assert set(Counter(groups[row] for row in moved).values()) <= {round(share * captions)}
            donors = {(groups[row], groups[source[row]]) for row in moved}
            assert len(donors) == len({group for group, _ in donors})
        else:
            selected = sum(round(share * blocks.count(block)) for block in ("train", "test"))
            assert len(moved) == selected or len(moved) == selected - sum(
                round(share * blocks.count(block)) == 1 for block in ("train", "test")
            )
    assert len(before) == len(groups)


def test_the_places_that_move_differ_by_group_and_the_circle_by_seed() -> None:
    groups = [number for number in range(60) for _ in range(5)]
    source = swapped_rows(groups, ["all"] * 300, 0.2, seed=0)
    places = Counter(int(row) % 5 for row in np.flatnonzero(source != np.arange(300)))
    assert len(places) == 5 and max(places.values()) < 30
    assert not np.array_equal(source, swapped_rows(groups, ["all"] * 300, 0.2, seed=1))
    assert np.array_equal(source, swapped_rows(groups, ["all"] * 300, 0.2, seed=0))


def test_a_group_without_another_in_its_block_is_refused_and_so_is_a_share_beyond_one() -> None:
    with pytest.raises(NotPaired, match="'test 0' has one group, 'c': nobody is there to swap texts with"):
        swapped_rows(["a", "b", "c"], ["train 0", "train 0", "test 0"], 0.5, seed=0)
    with pytest.raises(BadChoice, match="wanted 0 to 1"):
        swapped_rows(["a", "b"], ["", ""], 1.5, seed=0)


def test_alignment_falls_with_the_dose_to_that_of_unrelated_texts(
    layered: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    settings = replace(FAST, fixed_metrics=("cka_debiased",))
    result = swapped_captions(
        layered,
        DialViews("tiny", x_encoders=("vit1", "vit0"), y_encoders=("lm0",)),
        settings,
        draws=(0, 1),
        out=tmp_path,
        on_step=said.append,
    )
    rows = result.alignment.filter(fixed="xy", metric="mutual_knn", draw=0).sort("dose")
    values = rows["value"].to_list()
    assert rows["dose"].to_list() == [0, 1 / 3, 2 / 3, 1] and values == sorted(values, reverse=True)
    assert rows["dose_words"].to_list()[1] == "1 of 3 captions"
    assert rows["p"][0] < 0.05 and rows["null_low"][3] - 0.02 <= values[3] <= rows["null_high"][3] + 0.02
    assert rows["ci_low"][0] < values[0] < rows["ci_high"][0] and rows["chance"][0] == pytest.approx(5 / 79)
    # every pair of layers, and of the costly metric those with a default layer; dose 0 is measured once
    counts = result.alignment.group_by("metric", "dose", "draw").len()
    assert set(counts.filter(metric="mutual_knn")["len"]) == {8 * 2}
    assert set(counts.filter(metric="cka_debiased")["len"]) == {8 + 2 - 1} and len(counts.filter(dose=0.0)) == 2
    assert said[0] == "swapped: 0 of 3 captions, draw 0" and any(
        "probes of 8 layers of images" in step for step in said
    )
    show_dial(result)
    shown = capsys.readouterr().out
    assert "image–text mutual-kNN:" in shown and "at 3 of 3 captions, as unrelated rows score." in " ".join(
        shown.split()
    )
    assert "1 of 3 captions" in shown and str(tmp_path / "swapped/tiny/captions") in shown
    written = pl.read_parquet(tmp_path / "swapped/tiny/captions/alignment.parquet")
    assert written.equals(result.alignment) and {"x_digest", "y_root", "dial", "commit"} <= {*written.columns}


def test_images_keep_their_accuracy_and_texts_lose_theirs(layered: Cache) -> None:
    result = swapped_captions(
        layered, DialViews("tiny", x_encoders=("vit0",), y_encoders=("lm0",)), FAST, labels="kind"
    )
    assert result.performance is not None
    of_layer = result.performance.filter(layer="last.mean").sort("side", "dose")
    images, texts = (of_layer.filter(side=side)["value"].to_list() for side in "xy")
    assert len(images) == 4 and len(set(images)) == 1 and images[0] > 0.6
    assert texts[0] > 0.6 and texts[-1] < 0.5
    assert of_layer["metric"].unique().to_list() == ["probe_accuracy"]


def test_a_view_that_gives_the_label_away_is_not_probed(layered: Cache) -> None:
    features = layered.load("tiny", "images/vit0")
    of = {group: str(int(group[1:]) % 3) for group in features.groups.tolist()}
    labels = given_labels(features, "rest", of, forbidden=("captions",), note="made by a test")
    result = swapped_captions(
        layered, DialViews("tiny", x_encoders=("vit0",), y_encoders=("lm0",)), FAST, labels=labels
    )
    assert result.performance is not None and set(result.performance["side"]) == {"x"}
    assert "captions is not probed: it gives the label rest away" in " ".join(result.notes)
    assert "made by a test" in result.notes
    text = layered.load("tiny", "captions/lm0")
    assert not labels.may_probe(replace(text, view="captions-delete10-s0")) and labels.may_probe(features)
    # the rule of the data set's own entry holds for perturbed views as well
    own = column_labels([replace(features, dataset="openmoji")], "kind")
    assert own.may_probe(replace(text, dataset="openmoji", view="names-de"))
    group = replace(own, name="group")
    assert not group.may_probe(replace(text, dataset="openmoji", view="captions-delete10-s0"))


def test_a_small_test_split_is_drawn_anew_and_said(layered: Cache) -> None:
    features = layered.load("tiny", "images/vit0")
    labels = column_labels([features], "kind")
    assert "16 labelled groups in the test split, fewer than 200" in labels.notes[0]
    assert set(labels.splits.values()) == {"train", "validation", "test"}
    many = replace(features, splits=np.full(PHOTOS, "test", object))
    of = {group: "x" for group in features.groups.tolist()}
    assert given_labels(many, "k", of).notes[0].startswith("80 labelled groups")
    names = np.array([f"g{row}" for row in range(2500)], object)
    crowd = Features(np.zeros((2500, 0)), ids=names, groups=names, splits=np.full(2500, "test"))
    some = given_labels(crowd, "k", {f"g{row}": "x" for row in range(2500)})
    assert len(some.of) == 2000 and "2,000 of 2,500 labelled groups are probed" in some.notes[0]
    assert set(some.splits.values()) == {"test"} and len(some.splits) == 2500
    with pytest.raises(UsageError, match="no label 'colour' in tiny; it has kind"):
        column_labels([features], "colour")


def test_subjects_of_captions_are_labels_that_no_text_is_probed_for(layered: Cache) -> None:
    dataset = tiny_dataset(PHOTOS, 3, name="tiny")
    captions = dataset.views["captions"]
    subjects = ("a dog", "a man", "rain")
    texts = text_view("captions", captions.ids, captions.groups, [subjects[int(g[1:]) % 3] for g in captions.groups])
    labels = caption_subjects(layered, replace(dataset, views={**dataset.views, "captions": texts}), "captions")
    assert [labels.of[f"p00{number}"] for number in range(3)] == ["dog", "man", ""] and labels.name == "subject"
    image, text = layered.load("tiny", "images/vit0"), layered.load("tiny", "captions/lm0")
    assert labels.may_probe(image) and not labels.may_probe(text)
    with pytest.raises(FeaturesNotCached):
        caption_subjects(layered, Dataset("other", {"captions": texts}, dataset.overlay, "", ""), "captions")


def test_of_one_text_a_row_a_share_of_the_rows_is_swapped(tmp_path: Path) -> None:
    cache = layered_cache(tmp_path, captions=1)
    result = swapped_captions(
        cache, DialViews("tiny", x_encoders=("vit0/last.mean",), y_encoders=("lm0/last.mean",)), FAST
    )
    assert result.alignment["dose_words"].to_list() == [f"{share}% of texts" for share in (0, 20, 40, 60, 80, 100)]
    values = result.alignment.sort("dose")["value"].to_list()
    assert values[0] > values[2] > values[-1]


# -- layers and draws -------------------------------------------------------------------------------------------------


def test_layers_are_those_of_every_encoder_in_order_with_depth_and_default(layered: Cache) -> None:
    layers = layers_of_view(layered, "tiny", "images")
    assert [each.layer for each in layers.arrays[:4]] == ["0.mean", "1.mean", "2.mean", "last.mean"]
    assert layers.defaults == {f"vit{number}": "last.mean" for number in range(4)}
    assert [depths_of(layers.arrays)["vit2", layer] for layer in ("0.mean", "last.mean")] == [0, 3]
    one = layers_of_view(layered, "tiny", "captions", ["lm1/0.mean"])
    assert [each.layer for each in one.arrays] == ["0.mean"] and one.defaults == {"lm1": "0.mean"}
    with pytest.raises(FeaturesNotCached, match="nothing"):
        layers_of_view(layered, "tiny", "captions", ["nothing"])
    with pytest.raises(FeaturesNotCached):
        layers_of_view(layered, "tiny", "speech")


def test_a_draw_of_groups_is_seeded_and_of_those_that_all_have(layered: Cache) -> None:
    images, texts = layered.load("tiny", "images/vit0"), layered.load("tiny", "captions/lm0")
    some = texts.take(np.arange(30))
    assert drawn_groups([images, some], None, 0) == {f"p{number:03}" for number in range(10)}
    assert (
        drawn_groups([images, texts], 20, 1)
        == drawn_groups([images, texts], 20, 1)
        != drawn_groups([images, texts], 20, 2)
    )
    assert len(drawn_groups([images, texts], 20, 1)) == 20
    with pytest.raises(NotPaired, match="share no groups"):
        drawn_groups([images.take(np.arange(40, 50)), some], None, 0)


# -- correlations -----------------------------------------------------------------------------------------------------


def alignment_rows(layers: int, encoders: int = 4, *, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A dose with so many layers of x against one of y, and the performance of those layers."""
    rng = np.random.default_rng(seed)
    names = [(f"e{number % encoders}", f"{number // encoders}.mean") for number in range(layers)]
    shared = {"dial": "swapped", "comparison": "image–text", "dataset": "d", "dose": 0.0, "dose_words": "0", "draw": 0}
    quality = rng.standard_normal(layers)
    alignment = pl.DataFrame(
        [{**shared, "metric": "mutual_knn", "x_view": "images", "x_encoder": encoder, "x_layer": layer,
          "x_share": number / layers, "y_view": "captions", "y_encoder": "lm", "y_layer": "last.mean", "y_share": 1.0,
          "fixed": "y", "value": float(quality[number])} for number, (encoder, layer) in enumerate(names)]
    )  # fmt: skip
    performance = pl.DataFrame(
        [{"side": "x", "dose": 0.0, "draw": 0, "encoder": encoder, "layer": layer,
          "value": float(quality[number] + 0.1 * rng.standard_normal())}
         for number, (encoder, layer) in enumerate(names)]
    )  # fmt: skip
    return alignment, performance


def test_no_coefficient_is_computed_from_fewer_than_twelve_layers() -> None:
    assert LEAST_MODELS == 12
    few = dial_correlations(*alignment_rows(11), None)
    assert few["value"].null_count() == len(few) and set(few["note"]) >= {"11 layers: no coefficient below 12"}
    rows = dial_correlations(*alignment_rows(16), None).filter(x="alignment", y="probe_accuracy")
    pooled = rows.filter(levels=POOLED)
    assert min(pooled["value"]) > 0.9 and pooled["models"].to_list() == [16, 16] and set(pooled["clusters"]) == {4}
    assert all(low < value < high for low, value, high in pooled.select("low", "value", "high").rows())


def test_within_encoders_is_the_mean_of_their_own_coefficients() -> None:
    alignment, performance = alignment_rows(28, 7, seed=3)
    rows = dial_correlations(alignment, performance, None).filter(x="alignment", y="probe_accuracy", levels=WITHIN)
    joined = alignment.rename({"x_encoder": "encoder", "x_layer": "layer"}).join(
        performance.rename({"value": "score"}), on=["encoder", "layer"]
    )
    own = [np.corrcoef(part["value"], part["score"])[0, 1] for _, part in joined.group_by("encoder")]
    pearson = rows.filter(method="pearson").row(0, named=True)
    assert pearson["value"] == pytest.approx(np.mean(own))
    half = 2.446912 * np.std(own, ddof=1) / np.sqrt(7)  # Student's t with six degrees of freedom
    assert pearson["low"] == pytest.approx(np.mean(own) - half, abs=1e-5)
    assert pearson["high"] == pytest.approx(min(1.0, np.mean(own) + half), abs=1e-5)
    few = dial_correlations(*alignment_rows(16), None).filter(levels=WITHIN, y="probe_accuracy", x="alignment")
    assert few["low"].null_count() == 2 and few["note"].str.starts_with("no interval below 6 encoders; e0 +").all()


def test_bits_per_byte_have_no_coefficient_below_six_language_models() -> None:
    assert LEAST_LMS == 6
    alignment, _ = alignment_rows(12)
    turned = alignment.rename(
        {name: name.replace("x_", "?_").replace("y_", "x_").replace("?_", "y_") for name in alignment.columns}
    ).with_columns(fixed=pl.lit("x"))
    turned = turned.with_columns(
        y_encoder=pl.concat_str(pl.lit("lm"), pl.int_range(pl.len()) // 2), y_layer=pl.lit("0.mean")
    )
    bits = pl.DataFrame(
        {
            "encoder": [f"lm{number}" for number in range(6)],
            "dose": 0.0,
            "draw": 0,
            "bits_per_byte": [1.0, 2, 3, 4, 5, 6],
        }
    )
    rows = dial_correlations(turned, None, bits).filter(y=BITS)
    best = turned.group_by("y_encoder", maintain_order=True).agg(pl.col("value").max())["value"]
    oracle = np.corrcoef(best, [-1.0, -2, -3, -4, -5, -6])[0, 1]
    assert rows.filter(method="pearson")["value"].to_list() == [pytest.approx(oracle)] and set(rows["models"]) == {6}
    one = dial_correlations(turned, None, bits[:1]).filter(y=BITS)
    assert one["value"].null_count() == 2
    assert one["note"][0] == "1 causal language models cached (lm0): no coefficient below 6"


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_of_layers_that_have_nothing_to_do_with_each_other_about_one_in_twenty_is_called_related(method: str) -> None:
    """Layers of four encoders rise and fall together, in each encoder in its own way."""
    rng, wrong, draws = np.random.default_rng(4), 0, 300
    blank = replace(_correlation_blank(), method=method)
    encoders = np.repeat(["a", "b", "c", "d"], [9, 9, 9, 14])
    for _ in range(draws):
        x, y = (np.concatenate([_of_encoder(rng, count) for count in (9, 9, 9, 14)]) for _ in range(2))
        row = _correlated(blank, x, y, encoders)
        wrong += row.p is not None and row.p <= 0.05
    assert wrong <= 0.1 * draws  # .05 expected; with so few encoders up to .08 was seen


def _of_encoder(rng: np.random.Generator, layers: int) -> np.ndarray:
    trend = rng.standard_normal() * np.linspace(0, 2, layers)
    walk = np.cumsum(rng.standard_normal(layers)) / np.sqrt(layers)
    return rng.standard_normal() + trend + 0.5 * walk + 0.3 * rng.standard_normal(layers)


def _correlation_blank() -> Any:
    from featcache.studies.emergence.dials.correlations import _blank  # pyright: ignore[reportPrivateUsage]

    return _blank({"dial": "", "comparison": "", "dataset": "", "dose": 0.0, "dose_words": "", "draw": 0, "metric": ""})
