"""Probes of a run's spaces: what a slow restatement predicts, on test once, and never from a view made of the label."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache import data
from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.cifar import prompt_view
from featcache.data.datasets import label_hint, made_from_labels
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View
from featcache.errors import FeaturesNotCached, UsageError
from featcache.features import Features
from featcache.metrics.probes.logistic import choose_logistic
from featcache.metrics.probes.zero_shot import class_vectors
from featcache.store.rows import write_rows
from featcache.studies.adapters.embed import JOINT, embed
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.downstream.probe import probe
from featcache.studies.downstream.settings import ProbeSettings
from featcache.studies.downstream.sources import LabelRule
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.errors import NotPaired
from featcache.trainer.run import apply, load_run
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset

PHOTOS = 150
QUICK = FitConfig(epochs=6, batch=32, width=8, k=5, lr=1e-2, permutations=39, halves=20, untrained=2)
PROBE = ProbeSettings(k=(5,), halves=20, penalties=(1.0, 1e-2))
CLASSES = ("cat", "dog", "ship")


def encoders(latent, photo_of_caption, rng):
    """Values by (view, encoder) of encoders that see the same latent."""
    for view, encoder, rows, d in (
        ("images", "vit", latent, 12),
        ("captions", "lm", latent[photo_of_caption], 10),
        ("images", "big", latent, 16),
    ):
        yield (
            view,
            encoder,
            rows @ rng.standard_normal((latent.shape[1], d)) + 0.3 * rng.standard_normal((len(rows), d)),
        )


def photos_data(cache, name="photos"):
    dataset = tiny_dataset(PHOTOS, 3, name=name)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((PHOTOS, 6))
    latent[:, :2] += np.array([[2, 0], [0, 2], [-2, 0], [0, -2]])[np.arange(PHOTOS) % 4]  # the label "kind"
    for view, encoder, values in encoders(latent, np.arange(PHOTOS).repeat(3), rng):
        store_layers(cache, dataset, view, encoder, {"last.mean": values})
    return dataset


def cifar_data(cache):
    """Images of three classes with prompts, of the encoders that `photos` has."""
    n, rng = 90, np.random.default_rng(1)
    ids = tuple(f"i{number:03}" for number in range(n))
    prompts = prompt_view(CLASSES)
    images = View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes)
    splits = tuple(("train", "validation", "test")[number // 3 % 3] for number in range(n))
    own = tuple(CLASSES[number % 3] for number in range(n))
    overlay = Overlay((*ids, *CLASSES), (*splits, "", "", ""), {"class": (*own, *CLASSES)})
    dataset = Dataset("cifar10", {"images": images, "prompts": prompts}, overlay, "none", "made by a test")
    store_layers(cache, dataset, "images", "vit", {"last.mean": rng.standard_normal((n, 12))})
    store_layers(cache, dataset, "prompts", "lm", {"last.mean": rng.standard_normal((len(prompts), 10))})
    return dataset


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("probe") / "cache")
    photos_data(cache)
    cifar_data(cache)
    return cache


@pytest.fixture(scope="module")
def run(cached, tmp_path_factory):
    bench = Workbench.load(cached, Selection("photos", ("vit", "lm"), "big"))
    return train(bench, QUICK, tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="module")
def probed(cached, run):
    return probe(cached, "photos", [], [run], PROBE)


def value(result, space, metric):
    (row,) = [row for row in result.rows if (row.space, row.metric) == (space, metric)]
    return row.value


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# -- on the data set of the run ----------------------------------------------------------------------------------------


def test_every_space_of_a_run_stands_beside_its_controls(probed):
    stages = {row.space: row.stage for row in probed.rows}
    assert stages == {
        "raw images": "raw",
        "random images": "random",
        "raw captions": "raw",
        "random captions": "random",
        "adapted images": "trained",
        "adapted captions": "trained",
        "joint": "trained",
        "untrained images": "untrained",
        "untrained captions": "untrained",
        "untrained joint": "untrained",
        "reference": "reference",
        "majority class": "chance",
    }
    assert (probed.classes, dict(probed.counts)) == (4, {"train": 90, "validation": 30, "test": 30})
    judged = {row.whole for row in probed.contrasts}
    assert probed.baseline == "raw images" and judged == stages.keys() - {"raw images", "majority class"}
    assert {row.verdict for row in probed.contrasts} <= {
        "above",
        "below",
        "cannot tell",
        "cannot tell after correction",
    }


def test_the_linear_probe_is_fitted_on_train_and_chosen_on_validation(cached, run, probed):
    opened = load_run(run)
    image, text = cached.load("photos", "vit"), cached.load("photos", "lm")
    groups = image.groups.tolist()
    rows = apply(opened, text)
    means = unit(np.stack([rows[text.groups == group].mean(axis=0) for group in groups]))
    spaces = {
        "raw images": image.values.astype(np.float64),
        "raw captions": np.stack([text.values[text.groups == group].mean(axis=0) for group in groups]),
        "adapted captions": means,
        "joint": unit(unit(apply(opened, image)) + means),
    }
    y = np.array([int(kind.split()[1]) for kind in image.labels["kind"].tolist()])
    at = {split: np.flatnonzero(image.splits == split) for split in ("train", "validation", "test")}
    for name, values in spaces.items():
        train, validation = values[at["train"]], values[at["validation"]]
        fitted = choose_logistic(train, y[at["train"]], (validation, y[at["validation"]]), penalties=PROBE.penalties)
        expected = np.mean(fitted.classes(values[at["test"]]) == y[at["test"]])
        assert value(probed, name, "probe_accuracy") == pytest.approx(expected), name
    assert value(probed, "raw images", "probe_accuracy") > 0.7  # the label is there


def test_untrained_spaces_are_those_of_the_runs_first_weights(cached, run):
    from featcache.trainer.fit import untrained_adapters
    from featcache.trainer.sides import pair_sides

    opened = load_run(run)
    sides = {"images": cached.load("photos", "vit"), "captions": cached.load("photos", "lm")}
    expected = untrained_adapters(pair_sides(sides, cached.load("photos", "big"), QUICK), QUICK)
    for name, tensor in opened.untrained().state_dict().items():
        assert (tensor == expected.state_dict()[name]).all(), name


def test_a_view_that_is_declared_to_be_made_from_the_label_enters_no_space(cached, run):
    result = probe(cached, "photos", [], [run], replace(PROBE, label_views=("captions",)))
    left = {row.space: row.note for row in result.rows if row.value is None}
    assert left.keys() == {"raw captions", "adapted captions", "joint", "untrained captions", "untrained joint"}
    assert "view captions is made from the label kind" in left["joint"]
    assert "adapted images stands for it" in left["joint"]
    caveats = [note for note in result.notes if note.startswith("Caveat")]
    assert any("joint" in note for note in caveats)
    assert any("told it the label of the training groups" in note for note in caveats)
    assert value(result, "adapted images", "probe_accuracy") > 0.7
    with pytest.raises(UsageError, match="is made from the label kind, and there is no other"):
        probe(cached, "photos", ["lm"], [], replace(PROBE, label_views=("captions",)))


def test_a_view_that_is_said_to_be_made_from_the_label_has_to_be_one(cached, run, tmp_path, monkeypatch):
    wrong = replace(PROBE, label_views=("captoins",))
    for arrays, runs in (([], [run]), (["lm"], [])):
        with pytest.raises(UsageError, match="no such view; did you mean captions.*\n  Its views: captions, images"):
            probe(cached, "photos", arrays, runs, wrong)
    with pytest.raises(UsageError, match="cifar10 has no such view; did you mean prompts"):
        probe(cached, "cifar10", ["vit"], [], replace(PROBE, label_views=("promts",)))
    monkeypatch.setenv("FEATCACHE_DATASETS", str(tmp_path / "datasets.toml"))
    (tmp_path / "datasets.toml").write_text("[photos]\nroot = '.'\nmade_from = {captions = ['knid']}\n")
    with pytest.raises(UsageError, match="made_from: no label 'knid'; did you mean kind"):
        probe(cached, "photos", ["lm"], [], PROBE)
    (tmp_path / "datasets.toml").write_text("[photos]\nroot = '.'\nmade_from = {captoins = ['kind']}\n")
    with pytest.raises(data.DataInvalid, match="made_from: no view 'captoins'"):
        probe(cached, "photos", ["lm"], [], PROBE)


def test_a_perturbed_view_of_one_that_is_made_from_the_label_is_too():
    rule = LabelRule("photos", "kind", ("captions",))
    assert rule.forbids(Features(np.ones((1, 1)), *[np.array(["a"], object)] * 3, view="captions-delete10-s0"))


def test_arrays_alone_are_probed_too(cached):
    result = probe(cached, "photos", ["vit", "big"], [], PROBE)
    assert result.baseline == "vit"
    assert {row.space for row in result.rows} == {"vit", "random vit", "big", "random big", "majority class"}


def test_two_runs_are_told_apart_and_share_their_raw_sides(cached, run, tmp_path):
    bench = Workbench.load(cached, Selection("photos", ("vit", "lm"), "big"))
    other = train(bench, QUICK.model_copy(update={"seed": 1}), tmp_path / "other").path
    names = {row.space for row in probe(cached, "photos", [], [run, other], PROBE).rows}
    assert {"raw images", "run: joint", "other: joint", "run: untrained joint", "run: reference"} <= names
    assert "other: reference" not in names  # the same array


# -- on other data: CIFAR ----------------------------------------------------------------------------------------------


def test_on_cifar_the_joint_is_the_adapted_image_side_and_prompts_classify_by_zero_shot(cached, run):
    result = probe(cached, "cifar10", [], [run], PROBE)
    left = {row.space for row in result.rows if row.value is None}
    assert left == {"raw captions", "adapted captions", "joint", "untrained captions", "untrained joint"}
    assert any(note.startswith("Caveat: joint: no joint of two sides") for note in result.notes)
    images, prompts = cached.load("cifar10", "vit"), cached.load("cifar10", "lm")
    opened = load_run(run)
    for space, adapters in (("adapted images", opened.adapters()), ("untrained images", opened.untrained())):
        rows, texts = apply(opened, images, adapters=adapters), apply(opened, prompts, adapters=adapters)
        vectors = [unit(texts[prompts.groups == name].astype(np.float64)).mean(axis=0) for name in CLASSES]
        scores = rows @ np.stack([vector / np.linalg.norm(vector) for vector in vectors]).T
        hits = np.array(CLASSES)[scores.argmax(axis=1)] == images.labels["class"]
        assert value(result, space, "zero_shot_accuracy") == pytest.approx(hits[images.splits == "test"].mean())
    assert class_vectors(np.stack(vectors), np.arange(3)).shape == (3, 8)


def test_only_prompts_of_every_class_make_a_zero_shot_classifier(cached, run, tmp_path):
    cache = Cache(tmp_path / "cache")
    dataset = cifar_data(cache)
    overlay = dataset.overlay
    labels = (*overlay.labels["class"][:-1], "")  # the prompts of the last class lose it
    changed = replace(dataset, overlay=Overlay(overlay.groups, overlay.splits, {"class": labels}))
    for view in changed.views.values():
        write_rows(cache.folder / "cifar10" / view.name, view, changed.overlay)
    result = probe(cache, "cifar10", [], [run], PROBE)
    assert "no zero-shot by captions: 1 of 3 classes have no prompt" in list(result.notes)
    assert not any("zero_shot" in row.metric for row in result.rows)


def test_prompts_of_own_data_classify_the_adapted_images_of_a_run_on_it(tmp_path: Path) -> None:
    cache, rng, n = Cache(tmp_path / "cache"), np.random.default_rng(1), 90
    ids, prompts = tuple(f"i{number:03}" for number in range(n)), prompt_view(CLASSES)
    texts = [f"caption {number}" for number in range(n)]
    views = {
        "images": View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes),
        "captions": text_view("captions", ids, ids, texts),
        "prompts": prompts,
        "titles": text_view("titles", CLASSES, tuple(f"t {name}" for name in CLASSES), CLASSES),
    }
    splits = tuple(("train", "train", "test")[number // 3 % 3] for number in range(n))
    labels = (*(CLASSES[number % 3] for number in range(n)), *CLASSES, *CLASSES)
    groups = (*ids, *CLASSES, *views["titles"].groups)
    dataset = Dataset("mine", views, Overlay(groups, (*splits, *[""] * 6), {"kind": labels}), "none", "made by a test")
    for view, encoder, rows, d in (("images", "vit", n, 12), ("captions", "lm", n, 10), ("titles", "lm", 3, 10)):
        store_layers(cache, dataset, view, encoder, {"last.mean": rng.standard_normal((rows, d))})
    bench = Workbench.load(cache, Selection("mine", ("images/vit", "captions/lm"), None))
    path = train(bench, QUICK, tmp_path / "run").path
    result = probe(cache, "mine", [], [path], PROBE)
    wanted = "no zero-shot by titles/lm/last.mean: nothing says that it is made from the label kind"
    assert any(note.startswith(wanted) and "--label-view titles" in note for note in result.notes)
    told = probe(cache, "mine", [], [path], replace(PROBE, label_views=("titles",)))
    assert {row.space for row in told.rows if row.metric == "zero_shot_accuracy"} == {
        "adapted images", "untrained images"
    }  # fmt: skip
    store_layers(cache, dataset, "prompts", "lm", {"0.mean": rng.standard_normal((54, 10))})
    assert "no zero-shot by prompts/lm/0.mean: the side has last.mean" in probe(cache, "mine", [], [path], PROBE).notes
    store_layers(cache, dataset, "prompts", "lm", {"last.mean": rng.standard_normal((54, 10))})
    for settings in (PROBE, replace(PROBE, prompts="prompts/lm/last.mean")):
        result, opened = probe(cache, "mine", [], [path], settings), load_run(path)
        images, rows = cache.load("mine", "vit"), cache.load("mine", "prompts/lm/last.mean")
        embedded = apply(opened, rows, side="captions")
        vectors = [unit(embedded[rows.groups == name].astype(np.float64)).mean(axis=0) for name in CLASSES]
        scores = apply(opened, images) @ np.stack([vector / np.linalg.norm(vector) for vector in vectors]).T
        hits = np.array(CLASSES)[scores.argmax(axis=1)] == images.labels["kind"]
        found = value(result, "adapted images", "zero_shot_accuracy")
        assert found == pytest.approx(hits[images.splits == "test"].mean())
    spaces = {row.space for row in result.rows if row.metric == "zero_shot_accuracy"}
    assert spaces == {"adapted images", "untrained images", "raw captions"}  # as wide as the prompts that were named


@pytest.mark.parametrize("entry", data.DATASETS.values(), ids=lambda entry: entry.name)
def test_the_views_that_an_entry_says_are_made_from_labels_are_its_own(entry):
    assert {*entry.made_from, *entry.hints_at} <= set(entry.views)


def test_prompts_and_described_emoji_are_made_from_their_labels():
    assert made_from_labels("cifar10", "prompts") == ("class",)
    assert made_from_labels("openmoji", "captions") == ("group", "subgroup")
    assert made_from_labels("mine", "captions") == () and label_hint("mine", "captions", "kind") == ""
    assert "may say the group" in label_hint("openmoji", "names-de", "group")


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_probed_is_refused_with_what_there_is(cached, run):
    for arrays, runs, settings, error, says in (
        ([], [], PROBE, UsageError, "nothing to probe"),
        (["vit"], [], replace(PROBE, label="sort"), UsageError, "no label 'sort' in photos; it has kind"),
        (["vat"], [], PROBE, FeaturesNotCached, "vat"),
    ):
        with pytest.raises(error, match=says):
            probe(cached, "photos", arrays, runs, settings)


def test_a_cached_joint_is_the_runs_own_and_is_probed_by_its_run_alone(run, tmp_path):
    cache = Cache(tmp_path / "cache")
    photos_data(cache)
    opened = load_run(run)
    *sides, joint = embed(cache, opened, joint=True)
    images, captions = (each.values for each in sides)
    means = unit(captions.reshape(PHOTOS, 3, -1).mean(axis=1))
    np.testing.assert_allclose(joint.values, unit(unit(images) + means), atol=1e-5)
    assert (joint.view, joint.layer) == ("images", JOINT) and joint.ids.tolist() == sides[0].ids.tolist()
    assert joint.run_splits.tolist() == sides[0].run_splits.tolist() and "train" in joint.run_splits
    with pytest.raises(UsageError, match="is a joint space"):
        probe(cache, "photos", [f"{joint.encoder}/{JOINT}"], [], PROBE)
    with pytest.raises(UsageError, match="no row of captions"):
        bare = tiny_dataset(PHOTOS + 5, 3, name="photos")
        values = np.zeros((PHOTOS + 5, 12), np.float32) + 1
        store_layers(cache, replace(bare, name="more"), "images", "vit", {"last.mean": values})
        captions_of = replace(tiny_dataset(PHOTOS, 3, name="more"))
        rows = np.ones((3 * PHOTOS, 10), np.float32)
        store_layers(cache, captions_of, "captions", "lm", {"last.mean": rows})
        embed(cache, opened, dataset="more", joint=True)


def test_a_run_on_splits_that_have_changed_since_is_refused(tmp_path):
    cache = Cache(tmp_path / "cache")
    dataset = photos_data(cache)
    bench = Workbench.load(cache, Selection("photos", ("vit", "lm"), None))
    path = train(bench, QUICK, tmp_path / "run").path
    turned = tuple({"train": "test", "test": "train"}.get(split, split) for split in dataset.overlay.splits)
    for view in dataset.views.values():
        overlay = replace(dataset.overlay, splits=turned)
        write_rows(cache.folder / "photos" / view.name, view, overlay)
    with pytest.raises(UsageError, match="have changed since .* was trained"):
        probe(cache, "photos", [], [path], PROBE)


def test_without_a_validation_split_inner_folds_choose_and_test_must_be_there(tmp_path):
    cache = Cache(tmp_path / "cache")
    dataset = tiny_dataset(60, 1, name="photos")
    for splits, says in ((("train", "train", "test"), None), (("train", "other", "train"), "has no test groups")):
        overlay = replace(dataset.overlay, splits=tuple(splits[photo % 3] for photo in range(60)))
        values = np.random.default_rng(0).standard_normal((60, 4))
        store_layers(cache, replace(dataset, overlay=overlay), "images", "vit", {"last.mean": values})
        if says is None:
            result = probe(cache, "photos", ["vit"], [], PROBE)
            assert dict(result.counts) == {"train": 40, "validation": 0, "test": 20}
            assert any("5 inner folds of the training groups" in note for note in result.notes)
            assert "by 5 inner folds" in next(row.convention for row in result.rows if row.metric == "ridge_accuracy")
        else:
            with pytest.raises(NotPaired, match=says):
                probe(cache, "photos", ["vit"], [], PROBE)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_accuracies_and_writes_every_row(cached, run, tmp_path):
    out = tmp_path / "probe.parquet"
    words = ["probe", "photos", "--run", str(run), "--k", "5", "--halves", "20", "--label-view", "captions"]
    words += ["--out", str(out), "--cache", str(cached.root)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Caveat: joint: no joint of two sides" in done.output and "Minus raw images" in done.output
    table = pl.read_parquet(out)
    assert set(table["table"]) == {"score", "difference"} and set(table["command"]) == {"probe"}
    left = table.filter(pl.col("value").is_null() & (pl.col("table") == "score"))
    assert "joint" in set(left["space"])
    assert table.filter(pl.col("space") == "raw images")["arrays"][0].startswith("images/vit/last.mean@")
    said = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert said["classes"] == 4 and said["baseline"] == "raw images" and said["scores"] and said["differences"]
