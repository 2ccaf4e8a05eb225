"""Sampled queries score what the whole graphs give them, whatever the blocks, the parts and the order of the arrays."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.views import View
from featcache.errors import UsageError
from featcache.extraction.shards import Shard
from featcache.metrics import mutual_knn_graphs, neighbors
from featcache.metrics.certainty.intervals import query_interval
from featcache.studies.alignment.align import align
from featcache.studies.alignment.sample_parts import missing_parts, part_path, read_parts, write_part
from featcache.studies.alignment.sampled import SampleSettings, galleries, sampled_scores
from featcache.trainer.errors import NotPaired
from tests.alignment_cache import store_layers
from tests.spine import tiny_cache, tiny_dataset

X, Y = "efficientnet-lite0", "captions/minilm"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Cache:
    """160 photos with five captions each."""
    return tiny_cache(tmp_path_factory.mktemp("sample"))


def scored(cache: Cache, settings: SampleSettings, x: str = X, y: str = Y, **options):
    return sampled_scores(galleries(cache, "openmoji", [x, y], settings.pairing), settings, **options)


@pytest.mark.parametrize("pairing", ["mean", "first"])
@pytest.mark.parametrize("block", [1, 7, 64, 5000])
def test_all_groups_as_queries_score_what_align_does(cache, pairing, block) -> None:
    scores = scored(cache, SampleSettings(10_000, 5, pairing, block=block))
    features = [cache.load("openmoji", name) for name in (X, Y)]
    (row,) = align(*features, metrics=("mutual_knn",), k=5, pairing=pairing, null="none")
    assert scores.scores.mean() == pytest.approx(row.value, abs=1e-15) and scores.population == row.n
    pair = galleries(cache, "openmoji", [X, Y], pairing)
    whole = scores.row(pair, 5)
    assert whole.ci_low == whole.value == whole.ci_high  # every query was asked


def test_some_queries_have_the_interval_of_those_rows_in_memory(cache) -> None:
    settings = SampleSettings(40, 5, "first", seed=3)
    scores = scored(cache, settings)
    x, y = (cache.load("openmoji", name).values.astype(np.float32) for name in (X, Y))
    drawn = np.sort(np.random.default_rng(3).permutation(160)[:40])
    expected = query_interval("mutual_knn", x, y[::5], queries=drawn, k=5)
    row = scores.row(galleries(cache, "openmoji", [X, Y], "first"), 5)
    assert (row.value, row.ci_low, row.ci_high) == (expected.value, expected.low, expected.high)
    assert row.n == 40 and row.chance == 5 / 159
    assert scores.groups.tolist() == [f"p{number:03}" for number in drawn]


def test_arrays_in_another_order_and_with_other_groups_meet_on_the_common_ones(tmp_path) -> None:
    cache, dataset = Cache(tmp_path / "cache"), tiny_dataset(90, 1)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((90, 6))
    order = rng.permutation(90)[:70]
    names = tuple(f"n{row}" for row in order)
    groups = tuple(dataset.views["images"].groups[row] for row in order)
    view = View("names", "text", names, groups, lambda row: names[row].encode(), bytes.decode)
    dataset = replace(dataset, views={**dataset.views, "names": view})
    x, y = latent + 0.3 * rng.standard_normal((90, 6)), latent[order] @ rng.standard_normal((6, 8))
    store_layers(cache, dataset, "images", "vit", {"last.mean": x})
    store_layers(cache, dataset, "names", "lm", {"last.mean": y})
    scores = scored(cache, SampleSettings(1000, 4, block=11), "vit", "names/lm")
    common = np.sort(order)
    place = {row: at for at, row in enumerate(order)}
    values = (cache.load("openmoji", "vit").values[common], cache.load("openmoji", "names/lm").values)
    a, b = (neighbors(one, k=4).ids for one in (values[0], values[1][[place[row] for row in common]]))
    np.testing.assert_array_equal(scores.scores, mutual_knn_graphs(a, b))
    assert scores.population == 70


def test_rows_of_a_group_that_stand_apart_are_not_averaged_but_the_first_is_taken(tmp_path) -> None:
    cache, dataset = Cache(tmp_path / "cache"), tiny_dataset(30, 2)
    captions = dataset.views["captions"]
    mixed = np.random.default_rng(0).permutation(60)
    ids, groups = (tuple(np.array(each, object)[mixed].tolist()) for each in (captions.ids, captions.groups))
    view = replace(captions, ids=ids, groups=groups)
    dataset = replace(dataset, views={**dataset.views, "captions": view})
    rng = np.random.default_rng(1)
    store_layers(cache, dataset, "images", "vit", {"last.mean": rng.standard_normal((30, 5))})
    store_layers(cache, dataset, "captions", "lm", {"last.mean": rng.standard_normal((60, 5))})
    with pytest.raises(NotPaired, match="stand apart in captions/lm.*\n  .*--pairing first"):
        galleries(cache, "openmoji", ["vit", "lm"], "mean")
    scores = scored(cache, SampleSettings(1000, 3, "first", block=8), "vit", "lm")
    features = [cache.load("openmoji", name) for name in ("vit", "lm")]
    (row,) = align(*features, metrics=("mutual_knn",), k=3, pairing="first", null="none")
    assert scores.scores.mean() == pytest.approx(row.value, abs=1e-15)


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_together_are_the_whole(cache, tmp_path, count) -> None:
    settings = SampleSettings(50, 5, seed=1)
    pair, whole = galleries(cache, "openmoji", [X, Y], "mean"), scored(cache, settings)
    for index in reversed(range(count)):
        assert Shard(index, count) in missing_parts(tmp_path, count)
        part = sampled_scores(pair, settings, part=(index, count))
        write_part(tmp_path, Shard(index, count), part, pair, settings)
    assert missing_parts(tmp_path, count) == []
    together = read_parts(tmp_path, count, pair, settings)
    np.testing.assert_array_equal(together.scores, whole.scores)
    assert together.groups.tolist() == whole.groups.tolist() and together.population == whole.population


def test_parts_of_other_settings_are_refused_by_name(cache, tmp_path) -> None:
    settings = SampleSettings(20, 5)
    pair = galleries(cache, "openmoji", [X, Y], "mean")
    write_part(tmp_path, Shard(0, 1), sampled_scores(pair, settings), pair, settings)
    assert len(read_parts(tmp_path, 1, pair, replace(settings, block=3)).scores) == 20
    with pytest.raises(UsageError, match="part-0-of-1.parquet is of other arrays or settings"):
        read_parts(tmp_path, 1, pair, replace(settings, seed=9))
    part_path(tmp_path, Shard(0, 1)).write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        read_parts(tmp_path, 1, pair, settings)


# -- the command -------------------------------------------------------------------------------------------------------


def run(cache: Cache, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["sample", "openmoji", X, Y, *words, "--cache", str(cache.folder)])
    assert result.exit_code == code, result.output
    return str(result.exception) if code else result.output


def test_the_command_says_estimate_interval_and_what_they_are_of(cache, tmp_path) -> None:
    output = run(cache, "--queries", "50", "--k", "5", "--out", str(tmp_path / "sample.parquet"))
    assert output.startswith("mutual-kNN .") and "50 queries of 160 groups" in output
    table = pl.read_parquet(tmp_path / "sample.parquet")
    assert table["command"].item() == "sample" and table["population"].item() == 160
    assert table["x_encoder"].item() == X and table["y_view"].item() == "captions"
    given = json.loads(run(cache, "--queries", "50", "--k", "5", "--json"))
    assert given["value"] == table["value"].item() and given["population"] == 160


def test_shards_say_what_is_missing_and_the_last_shows_all(cache, tmp_path) -> None:
    words = ("--queries", "50", "--k", "5")
    whole = run(cache, *words).splitlines()[0]
    parts = ("--parts", str(tmp_path / "parts"))
    assert "Part 1/2 written: 25 queries. Missing: 0/2" in run(cache, *words, "--shard", "1/2", *parts)
    assert run(cache, *words, "--shard", "0/2", *parts).splitlines()[0] == whole


def test_parts_that_cannot_be_kept_are_refused_before_anything_is_searched(cache, tmp_path, monkeypatch) -> None:
    words = ("--queries", "20", "--k", "5", "--shard", "0/2", "--parts")
    parts, file = tmp_path / "parts", tmp_path / "file"
    file.write_text("x")
    run(cache, *words, str(parts))
    before = part_path(parts, Shard(0, 2)).read_bytes()
    monkeypatch.setattr("featcache.studies.alignment.sampled.neighbors_in", None)  # whatever searches, fails
    assert "no folder can stand there (File exists)\n  Name a folder" in run(cache, *words, str(file), code=1)
    other = ("--queries", "21", *words[2:])
    assert "part-0-of-2.parquet is of other arrays or settings" in run(cache, *other, str(parts), code=1)
    assert part_path(parts, Shard(0, 2)).read_bytes() == before and file.read_text() == "x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "0/2"), "--shard and --parts go together"),
        (("--shard", "2/2", "--parts", "p"), "shards count from 0"),
        (("--k", "160"), "160 groups: wanted more than k = 160"),
        (("--queries", "2", "--shard", "2/3", "--parts", "p"), "leave none for part 2 of 3"),
    ],
)
def test_what_cannot_be_sampled_is_said(cache, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["sample", "openmoji", X, Y, *words, "--cache", str(cache.folder)])
    assert result.exit_code != 0 and message in str(result.exception)
