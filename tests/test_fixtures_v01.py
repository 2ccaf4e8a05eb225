"""Does this version read what version 0.1 wrote, and find the same numbers in it? See tests/fixtures/v01/README.md."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
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
from featcache.studies.adapters.embed import embed
from featcache.studies.adapters.train import train
from featcache.studies.alignment.align import align
from featcache.trainer.config import FitConfig
from featcache.trainer.run import apply, load_run

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
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not path.parts[0].startswith(".")}


def test_the_cache_holds_the_arrays_that_0_1_wrote_and_no_other(cache: Cache) -> None:
    found = {(e.view, e.encoder, e.layer, e.digest, e.root, e.dtype, (e.n, e.d)) for e in cache.entries()}
    names = ("view", "encoder", "layer", "digest", "root", "dtype")
    assert found == {(*(array[name] for name in names), tuple(array["shape"])) for array in EXPECTED["arrays"]}
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
    found = align(*pair(cache), cache=cache)
    assert [row.metric for row in found] == list(SCORES)
    for row in found:
        wanted = SCORES[row.metric]
        for what in ("convention", "n", "d_x", "d_y", "k", "null"):
            assert getattr(row, what) == wanted[what], what
        for what in ("value", "chance", "calibrated", "threshold", "p", "null_low", "null_high"):
            assert getattr(row, what) == pytest.approx(wanted[what], rel=0, abs=1e-9), what
    assert found[0].backend == "cache" and searches == [] and files(cache.root) == before


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


def test_the_run_opens_with_the_settings_and_numbers_of_0_1(old: Path) -> None:
    run, wanted = load_run(old / "run"), EXPECTED["run"]
    for what in ("config_hash", "selected_epoch"):
        assert run.config[what] == wanted[what]
    assert run.config["versions"]["featcache"] == "0.1.0"
    table = run.metrics()
    assert (table.height, table.columns) == (wanted["metrics"]["rows"], wanted["metrics"]["columns"])
    assert table.row(0, named=True) == wanted["metrics"]["first"]
    assert table.row(-1, named=True) == wanted["metrics"]["last"]


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
    found = embed(cache, load_run(old / "run"))
    assert files(cache.root) == before
    known = {array["layer"]: array["sha256"] for array in EXPECTED["arrays"]}
    for features in found:
        assert hashlib.sha256(features.values.tobytes()).hexdigest() == known[features.layer]


def test_training_the_same_again_finds_the_run_of_0_1(old: Path, cache: Cache) -> None:
    run = load_run(old / "run")
    reference = cache.load("shapes", "efficientnet-lite1")
    again = train(*pair(cache), reference, FitConfig.model_validate(run.config["config"]), old / "run")
    assert again.already_there


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", "efficientnet-lite1", "minilm"])
def test_extracting_the_same_images_and_captions_again_finds_them_cached(old: Path, cache: Cache, encoder: str) -> None:
    dataset = open_dataset("folder:shapes", root=old / "images")
    job = plan_job(cache, dataset, encoder_spec(encoder), EncodeOptions(), layers=["last"])
    digests = {array["digest"] for array in EXPECTED["arrays"] if array["encoder"] == encoder}
    assert job.done and {target.key.digest for target in job.targets} <= digests
