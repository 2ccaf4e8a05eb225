"""Each way of reading a label off a space: what a plain restatement gives, on digits and beside a chart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.cifar import prompt_view
from featcache.data.views import Dataset, Overlay, View
from featcache.errors import UsageError
from featcache.metrics.probes.few_shot import centred_unit, draw_shots, few_shot_classes
from featcache.report.figures.probe import probe_figure
from featcache.report.inputs import kind_of
from featcache.studies.downstream.probe import probe
from featcache.studies.downstream.settings import ProbeSettings, parse_numbers
from featcache.studies.downstream.tables import TaskResult
from tests.alignment_cache import layered_cache, store_layers

QUICK = ProbeSettings(halves=20, penalties=(1.0, 1e-1, 1e-2), draws=3)


def stored(cache: Cache, x: np.ndarray, labels: list[str], splits: list[str], hashes: list[str] | None = None) -> None:
    """A data set "digits" of one view and one encoder."""
    ids = tuple(f"d{number:04}" for number in range(len(x)))
    contents = hashes or [*ids]
    view = View("images", "image", ids, ids, lambda row: contents[row].encode(), bytes)
    overlay = Overlay(ids, tuple(splits), {"digit": tuple(labels)})
    dataset = Dataset("digits", {"images": view}, overlay, "none", "made by a test")
    store_layers(cache, dataset, "images", "pixels", {"last.mean": x})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    cache = Cache(tmp_path_factory.mktemp("digits") / "cache")
    stored(cache, x[:600], [str(one) for one in y[:600]], [("train", "train", "test")[row % 3] for row in range(600)])
    return cache


@pytest.fixture(scope="module")
def probed(digits: Cache) -> TaskResult:
    return probe(digits, "digits", ["pixels"], [], QUICK)


def row_of(result: TaskResult, metric: str, space: str = "pixels"):
    (row,) = [row for row in result.rows if (row.space, row.metric) == (space, metric)]
    return row


def parts(cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    features = cache.load("digits", "pixels")
    y, test = np.array([int(one) for one in features.labels["digit"]]), features.splits == "test"
    return features.values[~test], y[~test], features.values[test], y[test]


# -- against scikit-learn ----------------------------------------------------------------------------------------------


def test_on_digits_every_k_is_scikit_learns_and_the_chosen_one_is_the_best_of_inner_folds(digits, probed) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, y, test, true = parts(digits)
    for k in (10, 20, 100, 200):
        votes = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
        expected = np.mean(votes.fit(train, y).predict(test) == true)
        assert row_of(probed, f"knn{k}_accuracy").value == pytest.approx(expected), k
    chosen = row_of(probed, "knn_accuracy")
    assert chosen.value == row_of(probed, f"knn{chosen.k}_accuracy").value
    assert "chosen by 5 inner folds of 10, 20, 100, 200" in chosen.convention
    assert chosen.k == 10 and row_of(probed, "knn_majority_accuracy").k == 10


def test_on_digits_the_ridge_probe_is_scikit_learns_at_the_penalty_that_it_names(digits, probed) -> None:
    from sklearn.linear_model import RidgeClassifier

    train, y, test, true = parts(digits)
    row = row_of(probed, "ridge_accuracy")
    penalty = float(row.convention.split("penalty ")[1].split()[0])
    alpha = penalty * float(np.sum((train - train.mean(axis=0)) ** 2)) / train.shape[1]
    expected = np.mean(RidgeClassifier(alpha=alpha).fit(train, y).predict(test) == true)
    assert row.value == pytest.approx(expected) and row.value > 0.85


def test_few_shots_are_the_mean_of_plain_solutions_over_the_same_draws(digits, probed) -> None:
    features = digits.load("digits", "pixels")
    y, pool = np.array([int(one) for one in features.labels["digit"]]), features.splits == "train"
    x = centred_unit(features.values.astype(np.float64), pool)
    for shots in (1, 5, 10):
        drawn = draw_shots(y, pool, shots, draws=3, seed=0)
        said = few_shot_classes(x, y, drawn, ~pool, classes=10)
        expected = np.mean([np.mean(one == y[~pool]) for one in said])
        assert row_of(probed, f"shot{shots}_accuracy").value == pytest.approx(expected)
    assert row_of(probed, "shot1_accuracy").value < row_of(probed, "shot10_accuracy").value


def test_differences_are_corrected_over_all_spaces_of_a_metric_whatever_penalty_each_has(probed) -> None:
    families = {(row.family, row.metric, row.convention, row.k) for row in probed.contrasts}
    assert len({metric for _, metric, *_ in families}) == len(families)
    assert {row.metric for row in probed.contrasts} >= {"ridge_accuracy", "shot1_accuracy", "knn_accuracy"}


# -- settings ----------------------------------------------------------------------------------------------------------


def test_numbers_of_neighbours_beyond_the_training_groups_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    cache, rng = Cache(tmp_path / "cache"), np.random.default_rng(0)
    splits = ["train"] * 30 + ["validation"] * 10 + ["test"] * 10
    stored(cache, rng.normal(size=(50, 4)), [str(row % 2) for row in range(50)], splits)
    result = probe(cache, "digits", ["pixels"], [], QUICK)
    assert {row.metric for row in result.rows if row.metric.startswith("knn") and row.metric[3].isdigit()} == {
        "knn10_accuracy",
        "knn20_accuracy",
    }
    with pytest.raises(Exception, match="31"):
        probe(cache, "digits", ["pixels"], [], replace(QUICK, k=(31,)))


def test_without_shots_there_are_none(digits: Cache) -> None:
    result = probe(digits, "digits", ["pixels"], [], replace(QUICK, shots=(), k=(5,)))
    assert not any("shot" in row.metric or row.metric == "knn5_accuracy" for row in result.rows)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"k": ()}, "k = none:"),
        ({"k": (5, 0)}, "k = 5,0:"),
        ({"shots": (0,)}, "shots = 0:"),
        ({"draws": 1}, "draws = 1"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(QUICK, **changed)


@pytest.mark.parametrize("text", ["", "1,,2", "1;2", "-1", "1.5", "ten"])
def test_what_is_no_list_of_numbers_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="as in --shots 1,5,10"):
        parse_numbers(text, "--shots")


def test_a_glob_names_the_layers_of_an_encoder_by_their_depth(tmp_path: Path) -> None:
    cache = layered_cache(tmp_path, photos=90)
    names = [row.space for row in probe(cache, "openmoji", ["vit/*.cls"], [], replace(QUICK, k=(3,), shots=())).rows]
    raw = [*dict.fromkeys(name for name in names if name.startswith("images/"))]
    assert raw == [f"images/vit/{layer}.cls" for layer in ("0", "2", "10", "last")]


# -- prompts in the space of an encoder --------------------------------------------------------------------------------


def clip_like(cache: Cache) -> tuple[np.ndarray, np.ndarray]:
    """Images of CIFAR's form and the 18 prompts a class, by two towers of one space; returns both."""
    rng, classes = np.random.default_rng(3), ("cat", "dog", "ship")
    ids = tuple(f"i{number:03}" for number in range(90))
    own = tuple(classes[number % 3] for number in range(90))
    splits = tuple(("train", "validation", "test")[number // 3 % 3] for number in range(90))
    images = View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes)
    views = {"images": images, "prompts": prompt_view(classes)}
    overlay = Overlay((*ids, *classes), (*splits, "", "", ""), {"class": (*own, *classes)})
    dataset = Dataset("cifar10", views, overlay, "none", "made by a test")
    centres = rng.normal(size=(3, 8))
    seen = centres[np.arange(90) % 3] + rng.normal(size=(90, 8))
    read = centres.repeat(18, axis=0) + rng.normal(size=(54, 8))
    store_layers(cache, dataset, "images", "tower", {"last.mean": seen})
    store_layers(cache, dataset, "images", "other", {"last.mean": seen[:, :5]})
    store_layers(cache, dataset, "prompts", "tower-text", {"last.mean": read})
    store_layers(cache, dataset, "prompts", "narrow", {"last.mean": read[:, :3]})
    return seen.astype(np.float32), read.astype(np.float32)


def test_raw_images_are_classified_by_prompts_of_their_space_as_a_slow_loop_does(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    seen, read = clip_like(cache)
    result = probe(cache, "cifar10", ["tower", "other"], [], replace(QUICK, k=(5,), prompts="tower-text"))
    hits = []
    for row in [row for row in range(90) if row // 3 % 3 == 2]:
        scores = []
        for c in range(3):
            vector = np.mean([read[p] / np.linalg.norm(read[p]) for p in range(18 * c, 18 * c + 18)], axis=0)
            scores.append(seen[row] @ vector / np.linalg.norm(vector))
        hits.append(int(np.argmax(scores)) == row % 3)
    row = row_of(result, "zero_shot_accuracy", "tower")
    assert row.value == pytest.approx(np.mean(hits)) and "54 prompts by prompts/tower-text" in row.convention
    assert not any(row.space == "other" and "zero_shot" in row.metric for row in result.rows)
    assert any("no zero-shot of other: not as wide" in note for note in result.notes)
    with pytest.raises(UsageError, match="is 3 wide, and no space is: tower 8, other 5"):
        probe(cache, "cifar10", ["tower", "other"], [], replace(QUICK, k=(5,), prompts="narrow"))
    with pytest.raises(UsageError, match="groups that are classified: no prompts"):
        probe(cache, "cifar10", ["tower"], [], replace(QUICK, k=(5,), prompts="images/other"))


# -- what leaks --------------------------------------------------------------------------------------------------------


def test_test_groups_that_stand_in_training_too_are_counted_in_a_caveat(tmp_path: Path) -> None:
    cache, rng = Cache(tmp_path / "cache"), np.random.default_rng(1)
    x, contents = rng.normal(size=(60, 40)), [f"picture {row}" for row in range(60)]
    for copy, original in ((50, 0), (51, 1)):
        x[copy], contents[copy] = x[original], contents[original]
    splits = ["train"] * 30 + ["validation"] * 15 + ["test"] * 15
    stored(cache, x, [str(row % 2) for row in range(60)], splits, contents)
    (caveat,) = [note for note in probe(cache, "digits", ["pixels"], [], QUICK).notes if "stand in training" in note]
    assert caveat.startswith("Caveat: 2 of 15 test groups") and "identical image: d0050 = d0000 of train" in caveat


def test_inner_folds_keep_groups_of_one_content_together(tmp_path: Path) -> None:
    from featcache.studies.downstream.groups import task_groups

    cache, rng = Cache(tmp_path / "cache"), np.random.default_rng(2)
    contents = [f"picture {row // 2}" for row in range(60)]  # each twice
    stored(cache, rng.normal(size=(60, 5)), ["a", "b"] * 30, ["train"] * 40 + ["test"] * 20, contents)
    groups = task_groups([cache.load("digits", "pixels")], "digit", folds=4)
    assert groups.folds is not None and (groups.folds[::2] == groups.folds[1::2]).all()


# -- words, table and chart --------------------------------------------------------------------------------------------


def test_the_command_prints_a_mark_a_verdict_and_draws_what_report_draws_of_its_table(digits, tmp_path: Path) -> None:
    out, figure = tmp_path / "probe.parquet", tmp_path / "probe.svg"
    words = ["probe", "digits", "pixels", "--labels", "digit", "--draws", "3", "--halves", "20", "--k", "5,10"]
    words += ["--cache", str(digits.root)]
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--figure", str(figure)])
    assert done.exit_code == 0, done.output
    assert "10-shot" in done.output and "▼ below" in done.output and "knn5" not in done.output
    assert "knn5" in CliRunner().invoke(app, [*words, "--verbose"]).output
    table = pl.read_parquet(out)
    assert kind_of(table) == "probe"
    page = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "page")])
    assert page.exit_code == 0, page.output
    assert (tmp_path / "page" / "figures" / "study-probe.svg").read_text() == figure.read_text()
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<title>What each space tells of label digit: digits</title>" in text and 'href="#study-probe"' in text
    said = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert {row["metric"] for row in said["scores"]} >= {"knn5_accuracy", "shot10_accuracy", "ridge_accuracy"}


def test_the_chart_shows_every_space_in_a_panel_a_way_and_chance(probed: TaskResult) -> None:
    figure = probe_figure([vars(row) for row in probed.rows], "digits", "label digit")
    assert figure is not None
    ways = [*dict.fromkeys(row["way"] for row in figure.rows)]
    assert ways == ["logistic", "ridge", "k-NN", "1-shot", "5-shot", "10-shot"]
    assert {row["label"] for row in figure.rows} == {"pixels", "random pixels"}
    majority = row_of(probed, "probe_accuracy", "majority class").value
    assert all(row["chance"] == majority for row in figure.rows if row["way"] == "ridge")
    assert probe_figure([], "digits", "label digit") is None
    told = figure.spec["title"]
    assert told["text"] == "What each space tells of label digit: digits" == figure.title
    assert f"accuracy on split test, {figure.rows[0]['n']:,} groups" in told["subtitle"][0]
    assert "most frequent class" in figure.svg and "permuted labels" in figure.svg


def test_no_control_heads_the_caption_of_a_probe(probed: TaskResult) -> None:
    rows = [vars(row) | ({"value": 0.999} if row.stage == "random" else {}) for row in probed.rows]
    figure = probe_figure(rows, "digits", "label digit")
    assert figure is not None and figure.caption.startswith("By the logistic probe pixels reaches")
