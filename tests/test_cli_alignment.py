"""The commands of alignment, when typed, print, write and refuse what they say."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.metrics import METRICS
from featcache.metrics.measure.row import Row
from featcache.report.answer import against_unrelated
from tests.alignment_cache import PHOTOS, layered_cache
from tests.test_cli import featcache

COMMANDS = ("align", "grid", "curve", "ceiling")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layered_cache(tmp_path_factory.mktemp("typed")).root


def run(place: Path, *words: str | Path) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, [*map(str, words), "--cache", str(place)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def in_json(place: Path, *words: str | Path) -> Any:
    return json.loads(run(place, *words, "--json"))


def test_align_prints_score_chance_calibrated_p_and_how_they_were_made(tmp_path: Path) -> None:
    place = layered_cache(tmp_path).root
    printed = run(place, "align", "openmoji", "vit", "lm", "--k", "5", "--permutations", "39", "--verbose")
    assert "openmoji: vit/last.cls (images, d = 10) and lm/last.mean (captions, d = 8)" in printed
    assert "60 rows, one row a group: the mean of its rows" in printed
    columns = ("metric", "score", "chance", "null range", "calibrated", "p", "n", "k", "convention", "null from")
    [head] = [line for line in printed.splitlines() if line.startswith("metric")]
    assert re.findall(r"\S+(?: \S+)*", head) == [*columns, "computed by", "time"]
    for name in ("mutual_knn", "cka_debiased"):
        [line] = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert "0.025" in line and "39 permutations" in line and f" {PHOTOS} " in line
    assert "Neighbour graph of x (cosine): searched and cached." in printed
    again = run(place, "align", "openmoji", "vit", "lm", "--k", "4", "-v")
    assert "Neighbour graph of x (cosine): cached, 5 deep." in again


def test_align_opens_with_the_answer_and_leaves_out_how_it_was_computed(place: Path) -> None:
    words = ("align", "openmoji", "vit", "lm", "--k", "5", "--permutations", "39")
    rows = in_json(place, *words)["alignment"]
    answer, *lines = run(place, *words).splitlines()
    score, chance = (f"{rows[0][name]:.3f}".removeprefix("0") for name in ("value", "chance"))
    assert rows[0]["value"] > rows[0]["null_high"]
    assert answer == f"mutual-kNN {score}, chance {chance}: above unrelated features (p ≤ .025)"
    [head] = [line for line in lines if line.startswith("metric")]
    assert re.findall(r"\S+(?: \S+)*", head) == ["metric", "score", "chance", "calibrated", "p", "n", "k"]
    assert sum(line.startswith(("mutual_knn ", "cka_debiased ")) for line in lines) == 2
    assert not any("permutations" in line.partition("≤:")[0] or "Neighbour graph" in line for line in lines)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"null_low": 0.1, "null_high": 0.3}, "within what unrelated features score"),
        ({"null_low": 0.01, "null_high": 0.1}, "above unrelated features"),
        ({"null_low": 0.3, "null_high": 0.4}, "below unrelated features"),
        (
            {"null_low": 0.1, "null_high": 0.1, "null": "99 permutations within a"},
            "above pairs shuffled within equal a",
        ),
        ({}, ""),
    ],
)
def test_a_score_is_placed_by_the_range_of_its_null(row: dict[str, Any], words: str) -> None:
    assert against_unrelated(Row("x", "y", "mutual_knn", 0.2, **row)) == words


def test_a_null_of_too_few_permutations_is_said_with_how_to_get_more(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.metrics.measure.null_policy.PERMUTED_ROWS", 10)
    text = run(place, "align", "openmoji", "vit", "lm", "--metric", "rsa")
    assert ": 19 permutations are too few to place it (p" in text.splitlines()[0]
    few = run(place, "align", "openmoji", "vit", "lm", "--metric", "rsa", "--permutations", "19")
    assert "more: --null permutation." in text
    assert "--null permutation" not in few


def test_align_names_options_that_are_not_the_default_and_the_direction_of_a_distance(place: Path) -> None:
    words = ("--metric", "procrustes", "--metric", "cka_rbf:sigma=2", "--metric", "cka_rbf", "--permutations", "19")
    printed = run(place, "align", "openmoji", "vit", "lm", *words)
    assert printed.splitlines()[0].startswith("procrustes ") and printed.splitlines()[0].endswith(
        "lower is more aligned"
    )
    assert re.search(r"^cka_rbf sigma=2 ", printed, re.MULTILINE) and re.search(r"^cka_rbf  ", printed, re.MULTILINE)


def test_align_of_every_metric_measures_what_it_can_and_says_what_it_cannot(place: Path) -> None:
    words = ("align", "openmoji", "vit", "lm", "--metric", "all", "--k", "5", "--permutations", "19")
    result = in_json(place, *words)
    assert [row["metric"] for row in result["alignment"]] == list(METRICS)
    unfit = {row["metric"] for row in result["alignment"] if row["value"] is None}
    assert unfit == {name for name, metric in METRICS.items() if metric.same_width}
    printed = run(place, *words, "--null", "none")
    assert all(f"Not measured: {name}: " in printed for name in unfit)
    assert "Lower is more aligned: procrustes" in printed


def test_align_says_which_metric_has_no_interval_and_shows_the_others(place: Path) -> None:
    words = ("--k", "5", "--permutations", "19", "--interval", "queries", "--queries", "20")
    printed = " ".join(run(place, "align", "openmoji", "vit", "lm", *words).split())
    assert "cka_debiased: no interval: cka_debiased is no mean over rows" in printed and "Not measured" not in printed


def test_align_permutes_within_a_label_and_says_so(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "within.parquet"
    words = ("align", "openmoji", "vit", "lm", "--k", "5", "--permutations", "39", "--null", "within:kind")
    printed = run(place, *words, "--out", out, "-v")
    assert printed.count("39 permutations within kind") == 2
    assert "above pairs shuffled within equal kind (p ≤ .025)" in printed.splitlines()[0]
    within, plain = (in_json(place, *line)["alignment"] for line in (words, words[:-2]))
    for row, other in zip(within, plain, strict=True):
        assert row["value"] == other["value"] and row["chance"] != other["chance"] and row["p"] == 1 / 40
        assert (row["null"], other["null"]) == ("39 permutations within kind", "39 permutations")
    assert set(pl.read_parquet(out)["null"]) == {"39 permutations within kind"}


def test_align_writes_one_tidy_row_a_metric(place: Path, tmp_path: Path) -> None:
    words = ("align", "openmoji", "vit", "lm/1.mean", "--split", "train", "--interval", "samples", "--repeats", "20")
    out = tmp_path / "made" / "align.parquet"
    printed = run(place, *words, "--k", "5", "--permutations", "19", "--seed", "3", "--out", out)
    assert (
        f"Table: {out}" in printed
        and "95 % interval" in printed
        and printed.count("Interval: expected score of new samples at gallery size 36.") == 1
    )
    frame = pl.read_parquet(out)
    result = in_json(place, *words, "--k", "5", "--permutations", "19", "--seed", "3")
    for row, shown in zip(frame.to_dicts(), result["alignment"], strict=True):
        different = {"seconds", "backend"}
        assert {name: row[name] for name in shown if name not in different} == {
            name: value for name, value in shown.items() if name not in different
        }
        assert (row["split"], row["seed"], row["pairing"], row["y_layer"]) == ("train", 3, "mean", "1.mean")
        assert row["x_digest"] == result["x"]["digest"] and row["y_root"] == result["y"]["root"]
        assert row["versions"] and row["measured"] and row["ci_low"] < row["value"] < row["ci_high"]


def test_all_layers_print_the_best_pair_with_its_null_and_the_whole_grid(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "layers.parquet"
    words = ("align", "openmoji", "vit", "lm", "--layers", "all", "--k", "5", "--permutations", "39")
    printed = run(place, *words, "--out", out)
    assert "vit/last.cls" in printed and "lm/1.mean" in printed and "best pair of 39 permutations" in printed
    assert re.search(r"images/vit \\ captions/lm +0\.mean +1\.mean +last\.mean", printed)
    assert len(re.findall(r"^(?:0|2|10|last)\.cls(?: +\d\.\d{3}){3}$", printed, re.MULTILINE)) == 4
    frame = pl.read_parquet(out)
    assert frame.height == 12 and frame["best"].sum() == 1 and frame["x_digest"].n_unique() == 4
    [best] = frame.filter("best").to_dicts()
    assert (best["x_layer"], best["y_layer"], best["p"]) == ("last.cls", "1.mean", 1 / 40)
    result = in_json(place, *words)
    assert len(result["layers"]) == 12 and len(result["arrays"]) == 7


def test_a_layer_that_is_named_is_the_only_one_of_its_side(place: Path) -> None:
    result = in_json(place, "align", "openmoji", "vit/2.cls", "lm", "--layers", "all", "--k", "5", "--null", "none")
    assert {(row["layer_x"], row["p"]) for row in result["layers"]} == {("2.cls", None)} and len(result["layers"]) == 3


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_grid_compares_several_encoders_and_draws_them(place: Path, tmp_path: Path, suffix: str) -> None:
    figure, out = tmp_path / "drawn" / f"grid.{suffix}", tmp_path / "grid.parquet"
    words = ("grid", "openmoji", "vit", "lm", "big", "--k", "5", "--permutations", "19")
    printed = run(place, *words, "--figure", figure, "--out", out)
    assert f"Figure: {figure}" in printed and printed.count("mutual_knn") == 3 and "null of best" not in printed
    assert "null of best" in run(place, *words, "--verbose")
    assert pl.read_parquet(out).height == 4 * 3 + 4 + 3
    assert figure.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<svg")


def test_curve_falls_with_the_gallery_and_writes_every_draw(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve.parquet"
    words = ("curve", "openmoji", "vit", "lm", "--k", "3", "--sizes", "20,40,60", "--repeats", "3")
    printed = run(place, *words, "--out", out)
    assert "mutual_knn at k = 3, from graphs" in printed and "mutual_knn at all 60 rows" in printed
    frame = pl.read_parquet(out)
    sizes = frame.filter(pl.col("k") == 3).group_by("size").agg(pl.col("chance").first()).sort("size")
    assert sizes["size"].to_list() == [20, 40, 60] and sizes["chance"].is_sorted(descending=True)
    result = in_json(place, *words)
    assert len(result["gallery"]) == 7 and result["depth"] >= 3 and result["x"]["encoder"] == "vit"


def test_ceiling_shows_ridge_from_each_side_and_the_mixtures(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "ceiling.parquet"
    words = ("ceiling", "openmoji", "vit", "lm/1.mean", "big", "--k", "3", "--folds", "3")
    printed = run(place, *words, "--out", out)
    assert "against big/last.cls (images, d = 12)" in printed
    assert re.search(r"held-out score +from x +from y +from both +chance", printed) and "r2 " in printed
    assert re.search(r"^same folds +raw y +w=0\.1 .*raw x$", printed, re.MULTILINE)
    assert re.search(r"^w +0 +0\.1 .* 1$", printed, re.MULTILINE)
    frame = pl.read_parquet(out)
    assert set(frame["kind"]) == {"ridge", "mixing"} and "mixed w=0.5" in set(frame["source"])
    assert {"x", "y", "both", "raw x", "raw y"} < set(frame["source"].drop_nulls())
    assert frame["reference_encoder"].unique().to_list() == ["big"]
    assert in_json(place, *words)["reference"]["layer"] == "last.cls"


BAD = [
    ("align", ("openmoji", "vit", "lm", "--metric", "mutual_nn"), 1, ("BadChoice", "mutual_nn", "cka_debiased")),
    ("align", ("openmoji", "vit", "lm", "--metric", "mutual_knn:q=3"), 1, ("no option q", "metric")),
    ("align", ("openmoji", "vit", "lm", "--k", "60"), 1, ("TooFewRows", "60")),
    ("align", ("openmoji", "vit", "gpt2"), 1, ("FeaturesNotCached", "lm", "featcache extract openmoji gpt2")),
    ("align", ("openmoji", "vit", "lm", "--null", "closed", "--metric", "lcs_knn"), 1, ("lcs_knn", "closed form")),
    ("align", ("openmoji", "vit", "lm", "--interval", "queries"), 1, ("BadChoice", "queries")),
    ("align", ("openmoji", "vit", "lm", "--null", "within:colour"), 1, ("NotPaired", "no label 'colour'", "kind")),
    ("align", ("openmoji", "vit", "lm", "--null", "within:"), 1, ("BadChoice", "within:LABEL")),
    ("align", ("openmoji", "vit", "lm", "--layers", "all", "--null", "within:kind"), 1, ("UsageError", "one pair")),
    ("align", ("openmoji", "vit", "lm", "--out", "a.csv"), 1, ("a.csv", ".parquet")),
    ("align", ("openmoji", "vit", "lm", "--pairing", "median"), 2, ("'mean', 'first', 'random', 'all'",)),
    ("align", ("openmoji", "vit", "lm", "--layers", "all", "--interval", "samples"), 1, ("UsageError", "interval")),
    ("grid", ("openmoji", "vit"), 1, ("two encoders or more", "images/vit")),
    ("grid", ("openmoji", "vit", "vit"), 1, ("each once", "images/vit, images/vit")),
    ("grid", ("openmoji", "vit", "gpt2"), 1, ("FeaturesNotCached", "featcache extract openmoji gpt2")),
    ("grid", ("openmoji", "vit", "lm", "--figure", "a.gif"), 1, ("a.gif", ".png or .svg")),
    ("curve", ("openmoji", "vit", "lm", "--metric", "cka_linear"), 1, ("cka_linear", "take mutual_knn")),
    ("curve", ("openmoji", "vit", "lm", "--sizes", "20,many"), 1, ("'20,many'", "500,1000")),
    ("curve", ("openmoji", "vit", "lm", "--sizes", "100"), 1, ("size 100", "60")),
    ("ceiling", ("openmoji", "vit", "lm", "gpt2"), 1, ("FeaturesNotCached", "featcache extract openmoji gpt2")),
    ("ceiling", ("openmoji", "vit", "lm", "big", "--folds", "61"), 1, ("folds = 61", "60")),
    ("ceiling", ("openmoji", "vit", "lm", "big", "--folds", "2"), 2, ("--folds", "equal to 3")),
    ("ceiling", ("openmoji", "vit", "lm"), 2, ("REFERENCE",)),
]


def test_every_command_has_a_mistake_that_is_tried() -> None:
    assert {command for command, *_ in BAD} == set(COMMANDS)


@pytest.mark.parametrize(("command", "words", "code", "expected"), BAD)
def test_a_mistake_is_one_clear_message(
    place: Path, command: str, words: tuple[str, ...], code: int, expected: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(app, [command, *words, "--cache", str(place)])
    assert done.exit_code == code
    printed = done.stderr if code == 2 else f"{type(done.exception).__name__}: {done.exception}"
    for part in expected:
        assert part in " ".join(printed.replace("│", " ").split())


def test_a_typed_mistake_leaves_nothing_behind_and_shows_no_traceback(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "cache")
    before = sorted(path for path in tmp_path.rglob("*") if ".verified" not in str(path))
    words = ("align", "openmoji", "vit", "lm", "--metric", "nosuch", "--out", "made.parquet", "--cache", "cache")
    done = featcache(*words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("BadChoice: ") and "Traceback" not in done.stderr
    assert sorted(path for path in tmp_path.rglob("*") if ".verified" not in str(path)) == before


def test_graphs_are_listed_verified_pushed_and_serve_a_colleague(tmp_path: Path) -> None:
    mine, theirs = layered_cache(tmp_path).root, tmp_path / "theirs"
    run(mine, "align", "openmoji", "vit", "lm", "--k", "6", "--null", "none")
    listed = run(mine, "ls", "openmoji/*/*/graph.cosine")
    assert "openmoji/images/vit.last.cls/graph.cosine" in listed and "int32" in listed
    assert "every byte is as recorded" in run(mine, "verify", "--deep")
    run(mine, "push", theirs, "openmoji")
    printed = run(theirs, "align", "openmoji", "vit", "lm", "--k", "5", "--null", "none", "-v")
    assert "Neighbour graph of x (cosine): cached, 6 deep." in printed
    assert "Neighbour graph of y (cosine): cached, 6 deep." in printed
