"""Run A against run B: the engine's own contrasts on the same test groups, and errors where scores do not compare."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands import app as program
from featcache.errors import FeaturesNotCached, UsageError
from featcache.metrics import retrieval
from featcache.metrics.certainty.halves import Halves
from featcache.metrics.measure.contrasts import Contrast, HalfScores, contrast_row
from featcache.metrics.measure.row import CLEAN, ContrastRow
from featcache.report.figures.comparison import comparison_figure
from featcache.report.page.comparison import comparison_answer, comparison_html, comparison_question
from featcache.studies.adapters.comparison import Comparison, compare_runs
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.run import Run, apply, load_run
from featcache.trainer.run_files import write_manifest
from tests.spine import tiny_cache

QUICK = FitConfig(epochs=4, batch=32, width=8, k=5, lr=1e-2, permutations=39, halves=20, untrained=2)
SELECTION = Selection("openmoji", ("efficientnet-lite0", "minilm"), "efficientnet-lite2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return tiny_cache(tmp_path_factory.mktemp("compared"), captions=3)


@pytest.fixture(scope="module")
def bench(cache: Cache) -> Workbench:
    return Workbench.load(cache, SELECTION)


@pytest.fixture(scope="module")
def trained(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    place = tmp_path_factory.mktemp("runs")
    settings = {"a": {}, "b": {"seed": 1}, "barely": {"epochs": 1, "lr": 1e-6}, "k": {"k": 6}}
    return {
        name: load_run(train(bench, QUICK.model_copy(update=one), place / name).path) for name, one in settings.items()
    }


@pytest.fixture(scope="module")
def comparison(cache: Cache, trained: dict[str, Run]) -> Comparison:
    return compare_runs(cache, trained["a"], trained["b"])


def find(comparison: Comparison, name: str, metric: str) -> ContrastRow:
    return next(row for row in comparison.contrasts if (row.contrast, row.metric, row.split) == (name, metric, "test"))


def test_scores_are_those_that_the_runs_recorded_and_differences_are_theirs(
    comparison: Comparison, trained: dict[str, Run]
) -> None:
    recorded = {}
    for label, run in (("A", trained["a"]), ("B", trained["b"])):
        table = run.table("metrics").filter(stage="trained")
        table = table.filter(
            table["split"].is_in(["test", CLEAN])
        )  # some of the rows are alike in the cache of the test
        for row in table.filter(against="reference").to_dicts():
            what = row["space"] if row["space"] == "joint" else f"adapted {row['space']}"
            recorded[f"{label} {what}", row["metric"], "", row["split"]] = row["value"]
        for row in table.filter(table["metric"].str.starts_with("R@")).to_dicts():
            recorded[label, row["metric"], row["direction"], row["split"]] = row["value"]
    scores = {(row.space, row.metric, row.direction, row.split): row.value for row in comparison.rows}
    assert scores == pytest.approx(recorded) and {split for *_, split in scores} == {"test", CLEAN}
    for row in comparison.contrasts:
        direction = row.contrast.removesuffix(": A − B") if row.metric.startswith("R@") else ""
        a, b = (recorded[space, row.metric, direction, row.split] for space in (row.whole, row.parts))
        assert row.value == pytest.approx(a - b)


def test_what_is_compared_stands_in_one_order(comparison: Comparison) -> None:
    names = ["joint", "adapted images", "adapted captions"]
    ways = ["images→captions", "captions→images"]
    wanted = [(f"{name}: A − B", metric) for name in names for metric in ("mutual_knn", "cka_debiased")]
    wanted += [(f"{way}: A − B", f"R@{k}") for way in ways for k in (1, 5, 10)]
    wanted = [(*one, split) for split in ("test", CLEAN) for one in wanted]
    assert [(row.contrast, row.metric, row.split) for row in comparison.contrasts] == wanted
    assert {row.family for row in comparison.contrasts} == {"A − B"}
    assert comparison.notes == [
        "A and B differ in their seed only: the difference is of these two trainings, not of recipes"
    ]


def test_turned_round_every_difference_has_the_other_sign_and_the_opposite_verdict(
    cache: Cache, trained: dict[str, Run]
) -> None:
    forth = compare_runs(cache, trained["a"], trained["barely"]).contrasts
    back = compare_runs(cache, trained["barely"], trained["a"]).contrasts
    opposite = {"above": "below", "below": "above"}
    assert [one.value for one in forth] == pytest.approx([-(one.value or 0.0) for one in back])
    assert [one.p_holm for one in forth] == pytest.approx([one.p_holm for one in back])
    assert [opposite.get(one.verdict, one.verdict) for one in forth] == [one.verdict for one in back]
    assert any(one.verdict in opposite for one in forth)


def test_a_copy_of_a_run_differs_from_it_in_nothing(cache: Cache, trained: dict[str, Run], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained["a"].path, tmp_path / "copy"))
    rows = compare_runs(cache, trained["a"], load_run(copy)).contrasts
    assert {(row.value, row.verdict) for row in rows} == {(0.0, "cannot tell")}


def test_the_same_features_give_the_same_rows_in_the_same_order(cache: Cache, trained: dict[str, Run]) -> None:
    forth = compare_runs(cache, trained["a"], trained["b"])
    again = compare_runs(cache, trained["a"], trained["b"])
    assert (forth.rows, forth.contrasts) == (again.rows, again.contrasts)


def test_recall_is_differenced_over_queries_of_whole_groups(cache: Cache, trained: dict[str, Run]) -> None:
    comparison = compare_runs(cache, trained["a"], trained["barely"])
    sides = trained["a"].config["sides"]
    arrays = {side: cache.load("openmoji", f"{one['view']}/{one['encoder']}") for side, one in sides.items()}
    hits = []
    for run in (trained["a"], trained["barely"]):
        test = {side: features.splits == "test" for side, features in arrays.items()}
        rows = {side: apply(run, features, side=side)[test[side]] for side, features in arrays.items()}
        groups = {side: features.groups[test[side]] for side, features in arrays.items()}
        codes = {"query_groups": groups["captions"], "gallery_groups": groups["images"]}
        result = retrieval(rows["captions"], rows["images"], ks=(5,), **codes)
        hits.append(result.ranks <= 5)
    row = find(comparison, "captions→images: A − B", "R@5")
    per_query = hits[0].astype(float) - hits[1]
    assert row.value == pytest.approx(per_query.mean()) and row.n == len(per_query)
    # delete-half of a mean: the variance is that of the mean over groups
    means = per_query.reshape(-1, 3).mean(axis=1)
    error = means.std(ddof=1) / len(means) ** 0.5
    assert ((row.ci_high or 0) - (row.ci_low or 0)) / 2 == pytest.approx(2.1 * error, rel=0.5)


# -- what is refused ------------------------------------------------------------------------------------------------


def changed(run: Run, place: Path, **changes: object) -> Run:
    """A copy of a run whose config.json says something else."""
    shutil.copytree(run.path, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))
    (place / "manifest.json").unlink()
    write_manifest(place)
    return load_run(place)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("data set", {"dataset": "other"}),
        ("overlay", {"overlay": "ff" * 32}),
        (
            "reference",
            {"reference": {"view": "images", "encoder": "x", "layer": "last.mean", "digest": "a", "root": "b"}},
        ),
        ("test groups", {"split": {"n": {}, "hashes": {"test": "00"}}}),
    ],
)
def test_runs_that_do_not_share_what_scores_compare_on_are_refused_by_name(
    cache: Cache, trained: dict[str, Run], tmp_path: Path, what: str, changes: dict[str, object]
) -> None:
    other = changed(trained["b"], tmp_path / "other", **changes)
    with pytest.raises(UsageError, match=rf"do not share the {what}.*(\n|.)*(Train|Name)"):
        compare_runs(cache, trained["a"], other)


def test_other_k_one_run_twice_and_no_reference_are_refused(
    cache: Cache, trained: dict[str, Run], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="do not share the k: 5 and 6"):
        compare_runs(cache, trained["a"], trained["k"])
    with pytest.raises(UsageError, match="is named twice"):
        compare_runs(cache, trained["a"], trained["a"])
    bare = changed(trained["b"], tmp_path / "bare", reference=None)
    with pytest.raises(UsageError, match="has no reference.*\n.*--reference ENCODER"):
        compare_runs(cache, trained["a"], bare)


def test_features_that_are_not_cached_are_named_with_the_command(trained: dict[str, Run], tmp_path: Path) -> None:
    with pytest.raises(FeaturesNotCached, match="featcache extract"):
        compare_runs(Cache(tmp_path / "empty"), trained["a"], trained["b"])


# -- page, figure and command ---------------------------------------------------------------------------------------


def test_question_and_answer_follow_the_verdict_on_the_joint_spaces(comparison: Comparison) -> None:
    assert comparison_question(comparison) == "Is A (a) closer to efficientnet-lite2/last.mean than B (b)?"
    for verdict, answer in (("above", "Yes, by"), ("below", "No: B is closer, by"), ("cannot tell", "Cannot tell, by")):
        rows = [replace(row, verdict=verdict) for row in comparison.contrasts]
        assert comparison_answer(replace(comparison, contrasts=rows)).startswith(
            f"{answer} mutual-kNN: the joint space of A"
        )


def test_the_figure_and_the_table_have_every_difference(comparison: Comparison) -> None:
    figure = comparison_figure(comparison)
    metrics = ("mutual_knn", "cka_debiased", "R@10")
    drawn = [row for row in comparison.contrasts if row.metric in metrics and row.split == "test"]
    drawn.sort(key=lambda row: metrics.index(row.metric))
    assert [row["value"] for row in figure.rows] == [row.value for row in drawn]
    page = comparison_html(comparison, picture="<figure></figure>")
    assert page.count('<tr><th scope="row"') == len(comparison.contrasts) and "<figure></figure>" in page
    assert "not about other seeds" in page


def test_hostile_names_stay_text(comparison: Comparison) -> None:
    bad = "<script></style>" + "x" * 10_000
    hostile = replace(comparison, a=bad, b=f"{bad}2", reference=bad, notes=[bad])
    assert "<script" not in comparison_html(hostile) and "<script" not in comparison_figure(hostile).svg


def test_the_command_compares_two_runs_and_refuses_others(
    cache: Cache, trained: dict[str, Run], tmp_path: Path
) -> None:
    a, b = (str(trained[name].path) for name in ("a", "b"))
    words = ["report", a, b, "--compare", "--cache", str(cache.root), "--out", str(tmp_path / "page")]
    result = CliRunner().invoke(program.app, words)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Is A (a) closer to efficientnet-lite2/last.mean than B (b)?" in page
    assert (tmp_path / "page" / "figures" / "comparison.csv").is_file()
    with pytest.raises(UsageError, match="takes two runs, A and B; got 1"):
        CliRunner().invoke(program.app, ["report", a, "--compare"], catch_exceptions=False)


# -- the size of verdicts -------------------------------------------------------------------------------------------
# That of alignment is shown in tests/test_measure_size.py: A and B are two spaces of one engine. What follows is of
# recall. Equality there means equal in law, which two trained adapters hardly are, even of two seeds: the verdict is
# about these two, and a difference of seeds is a true one.


def hits_of_equals(seed: int, groups: int, *, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits of two retrievers on three queries a group that are as good as each other but for `gain`."""
    rng = np.random.default_rng(seed)
    ease = rng.standard_normal(groups).repeat(3)
    a, b = (ease + rng.standard_normal(groups).repeat(3) + rng.standard_normal(3 * groups) for _ in range(2))
    return a + gain > 0, b > 0, np.arange(groups).repeat(3)


def recall_verdict(seed: int, groups: int, **options: float) -> str:
    a, b, codes = hits_of_equals(seed, groups, **options)
    halves = Halves(len(codes), codes, repeats=100, seed=seed)
    shares = halves.masks / halves.masks.sum(axis=1, keepdims=True)
    on_halves = {"A": shares @ a, "B": shares @ b}
    scores = HalfScores(halves, {"A": a.mean(), "B": b.mean()}, on_halves, {"A": 0, "B": 0}, {}, of_graphs=False)
    row = contrast_row(Contrast("A", ("B",)), scores, ContrastRow("", "", "", "", "", "R@10"), sign=1, alpha=0.05)
    return "different" if row.p is not None and row.p <= 0.05 else "alike"


def test_retrievers_as_good_as_each_other_are_called_different_at_most_as_often_as_alpha_says() -> None:
    data_sets = 300
    different = sum(recall_verdict(seed, 230) == "different" for seed in range(data_sets))
    assert different <= binom.ppf(0.99, data_sets, 0.05)
    assert sum(recall_verdict(seed, 230, gain=0.6) == "different" for seed in range(30)) > 20
