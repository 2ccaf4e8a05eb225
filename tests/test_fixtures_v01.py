"""Does this version read what version 0.1 wrote, and find the same numbers in it? See tests/fixtures/v01/README.md."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featcache.cache import Cache
from featcache.data import open_dataset
from featcache.derived.graphs import graph
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Damaged
from featcache.extraction.job import plan_job
from featcache.features import Features
from featcache.maintenance.verify import verify
from featcache.metrics import cka, mutual_knn, paired
from featcache.metrics.measure.row import ContrastRow, Row, columns
from featcache.studies.adapters.embed import embed
from featcache.studies.adapters.train import Workbench, train
from featcache.studies.alignment.align import align
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged, RunExists
from featcache.trainer.run import apply, load_run
from featcache.trainer.run_files import MANIFEST, changed_files

FIXTURE = Path(__file__).parent / "fixtures" / "v01"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
SCORES: dict[str, dict[str, Any]] = {row["metric"]: row for row in EXPECTED["align"]["alignment"]}
SIDES = {"x": "efficientnet-lite0", "y": "minilm"}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixture: its folders are cache, run and images."""
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(FIXTURE, tmp_path / "v01"))


@pytest.fixture
def cache(old: Path) -> Cache:
    return Cache(old / "cache")


def pair(cache: Cache) -> tuple[Features, Features]:
    return cache.load("shapes", SIDES["x"]), cache.load("shapes", SIDES["y"])


def files(folder: Path) -> set[str]:
    """What is kept below a folder, but for what stands beside the format."""
    present = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in present if not path.parts[0].startswith(".")}


def test_the_cache_holds_the_arrays_that_0_1_wrote_and_no_other(cache: Cache) -> None:
    present = {(e.view, e.encoder, e.layer, e.digest, e.root, e.dtype, (e.n, e.d)) for e in cache.entries()}
    names = ("view", "encoder", "layer", "digest", "root", "dtype")
    assert present == {(*(array[name] for name in names), tuple(array["shape"])) for array in EXPECTED["arrays"]}
    assert all(entry.complete and not entry.damaged for entry in cache.entries())


@pytest.mark.parametrize("array", EXPECTED["arrays"], ids=lambda array: f"{array['encoder']}/{array['layer']}")
def test_every_array_is_read_with_its_checksums_and_has_the_values_of_0_1(cache: Cache, array: dict[str, Any]) -> None:
    name = f"{array['view']}/{array['encoder']}/{array['layer']}@{array['digest']}"
    dtype = array["loaded_as"] if array["dtype"].startswith("float") else None
    features = cache.load("shapes", name, dtype=dtype)
    for what in ("view", "encoder", "layer", "digest", "root", "overlay", "encoder_hash"):
        assert getattr(features, what) == array[what]
    assert features.values.dtype == array["loaded_as"] and list(features.values.shape) == array["shape"]
    assert features.values[0, :4].tolist() == array["first"]
    assert hashlib.sha256(features.values.tobytes()).hexdigest() == array["sha256"]


@pytest.mark.parametrize("view", ["images", "captions"])
def test_rows_keep_the_ids_groups_splits_and_labels_that_0_1_gave_them(cache: Cache, view: str) -> None:
    wanted = EXPECTED["views"][view]
    features = cache.load("shapes", SIDES["x" if view == "images" else "y"])
    assert features.view == view
    for what in ("ids", "groups", "splits"):
        assert getattr(features, what).tolist() == wanted[what]
    assert {name: column.tolist() for name, column in features.labels.items()} == wanted["labels"]
    assert cache.find("shapes", features.name).key().binds["rows"]["root"] == wanted["rows_root"]


def test_every_byte_is_as_0_1_recorded_it_and_a_flipped_one_is_named(cache: Cache) -> None:
    assert list(verify(cache, deep=True)) == []
    chunk = next((cache.root / "shapes/images/efficientnet-lite0/2.mean").glob("*/c.0.0"))
    flipped = bytearray(chunk.read_bytes())
    flipped[7] ^= 1
    chunk.write_bytes(flipped)
    with pytest.raises(Damaged, match="chunk 0"):
        cache.load("shapes", "efficientnet-lite0/2.mean")


def test_mutual_knn_and_cka_of_two_spaces_are_the_numbers_of_0_1(cache: Cache) -> None:
    x, y = pair(cache)
    both = paired(x.values, y.values, x.groups.tolist(), y.groups.tolist())
    assert both.n == SCORES["mutual_knn"]["n"] == 48
    assert mutual_knn(both.x, both.y, k=SCORES["mutual_knn"]["k"]) == pytest.approx(
        SCORES["mutual_knn"]["value"], rel=0, abs=1e-12
    )
    assert cka(both.x, both.y) == pytest.approx(SCORES["cka_linear"]["value"], rel=0, abs=1e-12)
    assert cka(both.x, both.y, debiased=True) == pytest.approx(SCORES["cka_debiased"]["value"], rel=0, abs=1e-12)


def test_an_alignment_has_the_scores_and_nulls_of_0_1_and_takes_both_graphs_from_its_cache(
    cache: Cache, searches: list[int]
) -> None:
    before = files(cache.root)
    rows = align(*pair(cache), cache=cache, metrics=tuple(SCORES))
    assert [row.metric for row in rows] == list(SCORES)
    for row in rows:
        wanted = SCORES[row.metric]
        for what in ("convention", "n", "k", "null"):
            assert getattr(row, what) == wanted[what], what
        assert (row.d, row.d_against) == (wanted["d_x"], wanted["d_y"])
        for what in ("value", "chance", "calibrated", "threshold", "p", "null_low", "null_high"):
            assert getattr(row, what) == pytest.approx(wanted[what], rel=0, abs=1e-9), what
    assert rows[0].backend == "cache" and searches == [] and files(cache.root) == before


@pytest.mark.parametrize("side", ["x", "y"])
def test_a_graph_that_0_1_kept_is_found_and_is_the_one_that_a_search_finds(
    cache: Cache, searches: list[int], side: str
) -> None:
    features = cache.load("shapes", SIDES[side])
    kept = graph(cache, features, k=10)
    assert (kept.origin, searches) == ("cached, 10 deep", [])
    for array in cache.arrays(layer="graph.cosine"):
        cache.remove(array)
    made = graph(cache, features, k=10)
    assert (made.origin, searches) == ("searched and cached", [10])
    np.testing.assert_array_equal(kept.neighbors.ids, made.neighbors.ids)
    known = {array["digest"] for array in EXPECTED["arrays"]}
    assert {array.digest for array in cache.arrays(layer="graph.cosine")} < known, "kept under the digest of 0.1"


def test_the_run_opens_with_its_settings_in_the_words_of_this_version(old: Path) -> None:
    run, wanted = load_run(old / "run"), EXPECTED["run"]
    assert run.format == 1 and run.sides == ["x", "y"]
    for what in ("config_hash", "selected_epoch"):
        assert run.config[what] == wanted[what]
    assert run.config["versions"]["featcache"] == "0.1.0"
    recorded = json.loads((old / "run" / "config.json").read_text(encoding="utf-8"))
    assert run.config["sides"] == {side: recorded["features"][side] for side in SIDES}
    assert run.config["reference"] == recorded["features"]["reference"] and "features" not in run.config
    settings = FitConfig.model_validate(run.config["config"])
    assert (settings.missing, settings.pair_weights, settings.width) == ("drop", {}, 16)


def old_rows(old: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(old / "run" / "metrics.parquet").to_dicts()


def test_the_runs_table_is_that_of_0_1_row_for_row_in_todays_columns(old: Path) -> None:
    """The old columns decide the new ones by the rules that this test restates."""
    wanted = EXPECTED["run"]["metrics"]
    recorded, table = old_rows(old), load_run(old / "run").table("metrics")
    assert (len(recorded), [*recorded[0]]) == (table.height, wanted["columns"]) == (wanted["rows"], wanted["columns"])
    assert (recorded[0], recorded[-1]) == (wanted["first"], wanted["last"])
    assert table.columns == [*columns(Row)]
    for before, row in zip(recorded, table.to_dicts(), strict=True):
        same = ("value", "n", "k", "chance", "null_low", "null_high", "ci_low", "ci_high")
        same += ("stage", "split", "epoch", "direction")
        assert {name: row[name] for name in same} == {name: before[name] for name in same}
        assert row["metric"] == {"cka": "cka_linear"}.get(before["metric"], before["metric"])
        if before["metric"] == "loss":
            assert (row["space"], row["against"]) == ("joint", "")
        elif before["direction"]:
            assert (row["space"], row["against"]) == tuple(before["direction"].split("→"))
        elif before["against"] == "pair":
            assert (row["space"], row["against"]) == ("x", "y")
        else:
            space = "mixed" if before["stage"] == "mixed" else before["space"]
            assert (row["space"], row["against"]) == (space, "reference")
        assert row["higher_is_better"] == (before["metric"] not in ("loss", "median_rank"))
        weights = json.loads(row["weights"] or "{}")
        assert weights == ({} if before["w"] is None else {"x": before["w"], "y": pytest.approx(1 - before["w"])})
        assert (row["null"] == "none") == (before["null_low"] is None)
        assert (row["interval"], bool(row["estimand"])) == (
            ("none", False) if before["ci_low"] is None else ("as recorded", True)
        )


def test_spaces_of_the_old_table_are_called_as_those_of_todays(old: Path) -> None:
    table = load_run(old / "run").table("metrics")
    spaces = {(row["stage"], row["space"]) for row in table.to_dicts() if row["against"] == "reference"}
    assert spaces == {
        ("raw", "x"), ("raw", "y"), ("mixed", "mixed"),
        *((stage, space) for stage in ("trained", "untrained") for space in ("x", "y", "joint")),
    }  # fmt: skip


def test_the_old_run_has_no_contrasts_and_its_pictures_as_they_were(old: Path) -> None:
    run = load_run(old / "run")
    contrasts = run.table("contrasts")
    assert contrasts.height == 0 and contrasts.columns == [*columns(ContrastRow)]
    for name in ("map", "kernels"):
        assert run.table(name).equals(pl.read_parquet(old / "run" / f"{name}.parquet"))


def test_what_the_old_run_recorded_of_its_bytes_is_nothing(old: Path) -> None:
    assert changed_files(old / "run") is None and not (old / "run" / MANIFEST).exists()
    (old / "run" / "metrics.parquet").unlink()
    with pytest.raises(RunDamaged, match="metrics.parquet missing"):
        load_run(old / "run")


@pytest.mark.parametrize("part", ["features", "config"])
def test_an_old_configuration_without_a_part_is_damage(old: Path, part: str) -> None:
    path = old / "run" / "config.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in recorded.items() if name != part}), encoding="utf-8")
    with pytest.raises(RunDamaged, match="config.json cannot be read"):
        load_run(old / "run")


@pytest.mark.parametrize("side", ["x", "y"])
def test_the_runs_adapters_make_the_embeddings_of_0_1(old: Path, cache: Cache, side: str) -> None:
    wanted = EXPECTED["run"]["embeddings"][side]
    embedded = apply(load_run(old / "run"), cache.load("shapes", wanted["encoder"]), side=side)
    assert embedded.dtype == np.float32 and list(embedded.shape) == wanted["shape"]
    for row, values in wanted["rows"].items():
        assert np.allclose(embedded[int(row)], values, rtol=0, atol=1e-6)
    [name] = {array["encoder"] for array in EXPECTED["arrays"] if array["layer"] == f"adapted.{side}"}
    assert np.allclose(embedded, cache.load("shapes", f"{name}/adapted.{side}").values, rtol=0, atol=1e-6)


def test_embedding_again_finds_what_0_1_kept_of_it(old: Path, cache: Cache) -> None:
    before = files(cache.root)
    arrays = embed(cache, load_run(old / "run"))
    assert files(cache.root) == before
    known = {array["layer"]: array["sha256"] for array in EXPECTED["arrays"]}
    for features in arrays:
        assert hashlib.sha256(features.values.tobytes()).hexdigest() == known[features.layer]


def test_training_into_the_folder_of_0_1_is_refused_with_the_reason_and_replaces_it_when_asked(
    old: Path, cache: Cache
) -> None:
    x, y = pair(cache)
    features = Workbench({"x": x, "y": y}, cache.load("shapes", "efficientnet-lite1"))
    settings = {**load_run(old / "run").config["config"], "permutations": 39, "halves": 20, "untrained": 2}
    config, before = FitConfig.model_validate(settings), files(old / "run")
    with pytest.raises(RunExists, match=r"(?s)a run of featcache 0.1 stands in .* not measured as this .*--overwrite"):
        train(features, config, old / "run")
    assert files(old / "run") == before and load_run(old / "run").format == 1
    assert train(features, config, old / "run", overwrite=True).format == 2
    assert changed_files(old / "run") == []


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", "efficientnet-lite1", "minilm"])
def test_extracting_the_same_images_and_captions_again_finds_them_cached(old: Path, cache: Cache, encoder: str) -> None:
    dataset = open_dataset("folder:shapes", root=old / "images")
    job = plan_job(cache, dataset, encoder_spec(encoder), EncodeOptions(), layers=["last"])
    digests = {array["digest"] for array in EXPECTED["arrays"] if array["encoder"] == encoder}
    assert job.done and {target.key.digest for target in job.targets} <= digests
