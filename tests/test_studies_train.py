"""Trainings of any number of sides, end to end on a cache: table, contrasts, embeddings, and what runs share."""

import json
import shutil
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import polars as pl
import pytest
import torch

from featcache.cache import Cache
from featcache.data.views import View
from featcache.errors import FeaturesNotCached, UsageError
from featcache.studies.adapters.embed import embed, embedding_layer, run_name, weights_hash
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.defaults import Selection
from featcache.trainer.joints import simplex
from featcache.trainer.run import apply, load_run
from featcache.trainer.run_files import changed_files
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset
from tests.trainer_planted import planted_sides

PHOTOS = 150
SIDES = ("images", "captions", "names-de")
QUICK = FitConfig(epochs=12, batch=32, width=8, k=5, lr=1e-2, permutations=39, halves=20, untrained=2, missing="mask")


def changed(**update):
    return QUICK.model_copy(update=update)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Images, three captions each, and names of two thirds of them, that share a latent; a reference of images."""
    cache, dataset = Cache(tmp_path_factory.mktemp("three") / "cache"), tiny_dataset(PHOTOS, 3)
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((PHOTOS, 6))
    named = np.array([photo for photo in range(PHOTOS) if photo % 3])
    ids = tuple(f"n{photo}" for photo in named)
    groups = tuple(dataset.views["images"].groups[photo] for photo in named)
    view = View("names-de", "text", ids, groups, lambda row: ids[row].encode(), bytes.decode)
    dataset = replace(dataset, views={**dataset.views, "names-de": view})
    for encoder, name, rows, d, noise in (
        ("vit", "images", latent, 12, 0.3),
        ("lm", "captions", latent.repeat(3, axis=0), 10, 0.5),
        ("bert2", "names-de", latent[named], 9, 0.3),
        ("big", "images", latent, 16, 0.1),
    ):
        values = rows @ rng.standard_normal((6, d)) + noise * rng.standard_normal((len(rows), d))
        store_layers(cache, dataset, name, encoder, {"last.mean": values})
    return cache


@pytest.fixture(scope="module")
def bench(cached):
    return Workbench.load(cached, Selection("openmoji", ("vit", "lm", "bert2"), "big"))


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    return train(bench, QUICK, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def two():
    return planted_sides(160)


def of(table, **wanted):
    return table.filter(*(pl.col(name) == value for name, value in wanted.items()))


# -- three sides, one of them missing for a third ---------------------------------------------------------------------


def test_sides_are_called_by_their_views_and_training_uses_groups_that_have_two(finished):
    assert finished.sides == [*SIDES]
    split = load_run(finished.path).config["split"]
    assert split["groups"] == {"images": 150, "captions": 150, "names-de": 100, "reference": 150}
    assert split["n"] == {"train": 90, "validation": 20, "test": 20}
    assert split["training_groups_with"] == {"images": 90, "captions": 90, "names-de": 60}
    assert split["paired"] == 150 and split["unused"] == 20


def test_the_table_has_every_direction_every_joint_and_every_mixture(finished):
    table = finished.table("metrics")
    directions = {f"{a}→{b}" for a, b in permutations(SIDES, 2)}
    for stage in ("trained", "untrained"):
        recall = of(table, stage=stage, split="test", metric="R@10")
        assert set(recall["direction"]) == directions and len(recall) == 6
        assert set(recall["n"]) == {20, 60}
    joints = {"joint", *(f"joint:{a}+{b}" for a, b in combinations(SIDES, 2))}
    for stage in ("trained", "untrained"):
        spaces = of(table, stage=stage, split="test", metric="mutual_knn", against="reference")
        assert set(spaces["space"]) == joints | {*SIDES} and set(spaces["n"]) == {20}
    tried = of(table, stage="mixed", split="validation", metric="cka_debiased")
    assert [tuple(json.loads(text).values()) for text in tried["weights"]] == simplex(3)
    assert set(of(table, split="validation", metric="R@10", epoch=2)["direction"]) == directions
    contrasts = finished.table("contrasts")
    assert set(of(contrasts, contrast="joint of all − best joint of a pair")["metric"]) == {
        "mutual_knn",
        "cka_debiased",
    }


def test_all_directions_are_found(finished):
    recall = of(finished.table("metrics"), stage="trained", split="test", metric="R@5")
    assert (recall["value"] > 2 * recall["chance"]).all()


def test_pictures_show_every_raw_side_the_reference_and_the_joint(finished):
    spaces = [*(f"raw {side}" for side in SIDES), "reference", "joint"]
    assert finished.table("map")["space"].unique(maintain_order=True).to_list() == spaces
    assert finished.table("kernels")["space"].unique(maintain_order=True).to_list() == spaces


def test_same_seed_same_bytes_with_three_sides_and_gaps(cached, finished, tmp_path):
    other = Workbench.load(cached, Selection("openmoji", ("vit", "lm", "bert2"), "big"))
    again = train(other, QUICK, tmp_path / "again")
    for path in finished.path.iterdir():
        if path.name not in ("config.json", "manifest.json"):
            assert (again.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_embeddings_are_cached_by_the_name_of_their_side(cached, finished, tmp_path):
    cache = Cache(shutil.copytree(cached.root, tmp_path / "cache"))
    arrays = embed(cache, finished)
    assert [(array.view, array.layer) for array in arrays] == [
        ("images", "adapted.images"),
        ("captions", "adapted.captions"),
        ("names-de", "adapted.names-de"),
    ]
    sources = [cache.load("openmoji", name) for name in ("vit", "lm", "bert2")]
    for side, array, source in zip(SIDES, arrays, sources, strict=True):
        assert array.encoder == run_name(finished) == f"linear-s0-{weights_hash(finished.path)[:8]}"
        assert array.ids.tolist() == source.ids.tolist()
        np.testing.assert_array_equal(array.values, apply(finished, source, side=side))
        named = cache.load("openmoji", f"{run_name(finished)}/{embedding_layer(side)}")
        np.testing.assert_array_equal(named.values, array.values)
    before = sorted(path for path in cache.root.rglob("*") if path.is_file())
    assert [array.root for array in embed(cache, finished)] == [array.root for array in arrays]
    assert sorted(path for path in cache.root.rglob("*") if path.is_file()) == before


def test_a_side_may_have_any_name_and_its_own_adapter_and_its_embeddings_load_by_it(cached, tmp_path):
    cache = Cache(shutil.copytree(cached.root, tmp_path / "cache"))
    selection = Selection("openmoji", ("Photo.1=vit", "lm", "b/2=bert2"), None)
    features = Workbench.load(cache, selection)
    assert [*features.sides] == ["Photo.1", "captions", "b/2"]
    kinds = {"Photo.1": "mlp", "captions": "linear", "b/2": "identity"}
    run = train(features, changed(adapter=kinds, width=9, pair_weights={"captions+Photo.1": 2.0}), tmp_path / "run")
    adapters = load_run(run.path).adapters()
    assert {side: adapters[side].kind for side in run.sides} == kinds
    assert [embedding_layer(side) for side in run.sides] == ["adapted.photo-1", "adapted.captions", "adapted.b-2"]
    for side, array in zip(run.sides, embed(cache, run), strict=True):
        assert array.encoder.startswith("mixed-s0-")
        np.testing.assert_array_equal(
            cache.load("openmoji", f"{array.encoder}/{embedding_layer(side)}").values, array.values
        )


def test_a_frozen_side_of_another_width_leaves_no_folder(bench, tmp_path):
    kinds = {"images": "linear", "captions": "linear", "names-de": "identity"}
    with pytest.raises(UsageError, match="identity leaves 9 dimensions, but the joint space has 8"):
        train(bench, changed(adapter=kinds), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# -- what trainings share ---------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Arrays that were searched, pairings and mixtures that were made."""
    from featcache.metrics.measure import space
    from featcache.studies.adapters import results
    from featcache.studies.adapters import train as training

    counts = {"searched": [], "paired": 0, "mixed": 0}
    neighbors, pair, mix = space.neighbors, training.pair_sides, results.mixture

    def search(values, **options):
        counts["searched"].append(values)
        return neighbors(values, **options)

    def pair_once(*arguments):
        counts["paired"] += 1
        return pair(*arguments)

    def mix_once(*arguments):
        counts["mixed"] += 1
        return mix(*arguments)

    monkeypatch.setattr(space, "neighbors", search)
    monkeypatch.setattr(training, "pair_sides", pair_once)
    monkeypatch.setattr(results, "mixture", mix_once)
    return counts


def raw_spaces(bench, config):
    evaluation = bench.evaluation(config)
    return [
        space
        for split in evaluation.splits.values()
        for space in (*split.raw.values(), *([split.reference] if split.reference else []))
    ]


def times_searched(counts, space):
    return sum(values is space.values for values in counts["searched"])


def test_trainings_of_one_process_share_pairing_raw_graphs_and_mixtures(two, counted, tmp_path):
    shared = Workbench(*two)
    config = changed(missing="drop", epochs=3)
    train(shared, config, tmp_path / "first")
    assert (counted["paired"], counted["mixed"]) == (1, 21 + 2)
    raw = raw_spaces(shared, config)
    assert len(raw) == 6
    first = [times_searched(counted, space) for space in raw]
    searches = len(counted["searched"])
    others = [
        config.model_copy(update=change) for change in ({"adapter": "mlp"}, {"seed": 1}, {"lr": 1e-3}, {"width": 4})
    ]
    for number, other in enumerate(others):
        train(shared, other, tmp_path / f"other{number}")
    assert (counted["paired"], counted["mixed"]) == (1, 21 + 2), "neither paired nor mixed again"
    assert [times_searched(counted, space) for space in raw] == first, "no raw graph searched again"
    each = (len(counted["searched"]) - searches) / len(others)
    tables = 3 + 3  # of test and of training groups
    pictures = 4 * 3  # of test at milestones: epochs 0 to 3
    searched = (3 + 1) * 3 + tables + 2 * 3 + pictures
    assert each == searched, "an epoch, each table, each untrained draw and each milestone: joint and both sides"
    for space in raw:
        assert times_searched(counted, space) <= 2, "once plainly, and once deeper for halves"


def test_trainings_that_measure_otherwise_share_the_pairing_alone(two, counted, tmp_path):
    shared = Workbench(*two)
    config = changed(missing="drop", epochs=1)
    train(shared, config, tmp_path / "first")
    train(shared, config.model_copy(update={"permutations": 50}), tmp_path / "second")
    assert (counted["paired"], counted["mixed"]) == (1, 2 * (21 + 2))
    train(shared, config.model_copy(update={"split_seed": 1}), tmp_path / "third")
    assert (counted["paired"], counted["mixed"]) == (2, 3 * (21 + 2))


def test_what_is_shared_changes_no_byte(two, tmp_path):
    config = changed(missing="drop", epochs=2, seed=3)
    shared = Workbench(*two)
    train(shared, changed(missing="drop", epochs=2, adapter="mlp"), tmp_path / "before")
    runs = [train(bench, config, tmp_path / name) for bench, name in ((shared, "shared"), (Workbench(*two), "alone"))]
    for name in ("adapters.safetensors", "metrics.parquet", "contrasts.parquet", "map.parquet", "kernels.parquet"):
        assert (runs[0].path / name).read_bytes() == (runs[1].path / name).read_bytes(), name


# -- a control --------------------------------------------------------------------------------------------------------


def test_a_control_is_compared_with_and_is_part_of_what_the_run_is(two, tmp_path):
    shared, config = Workbench(*two), changed(missing="drop", epochs=8)
    control = train(shared, config.model_copy(update={"shuffle_pairs": True, "epochs": 2}), tmp_path / "control")
    run = train(shared, config, tmp_path / "run", control=control)
    title = "joint: trained − pairs shuffled"
    rows = of(run.table("contrasts"), contrast=title)
    assert set(rows["metric"]) == {"mutual_knn", "cka_debiased"} and set(rows["family"]) == {"headline"}
    assert run.config["control"] == control.config["config_hash"]
    assert train(shared, config, run.path, control=control).already_there
    assert title not in set(control.table("contrasts")["contrast"])


def test_only_a_run_of_the_same_sides_and_splits_with_shuffled_pairs_is_a_control(two, tmp_path):
    (sides, reference), config = two, changed(missing="drop", epochs=1)
    shuffled = config.model_copy(update={"shuffle_pairs": True})
    bench = Workbench(sides, reference)
    plain = train(bench, config, tmp_path / "plain")
    with pytest.raises(UsageError, match=r"(?s)is no control.*--shuffle-pairs"):
        train(bench, config, tmp_path / "run", control=plain)
    control = train(bench, shuffled, tmp_path / "control")
    others = [
        Workbench({"a": sides["x"], "y": sides["y"]}, reference),
        Workbench({**sides, "y": replace(sides["y"], digest="other")}, reference),
        Workbench(
            {name: replace(side, overlay="f" * 64) for name, side in sides.items()},
            replace(reference, overlay="f" * 64),
        ),
    ]
    for other in others:
        with pytest.raises(UsageError, match="was trained on x, y of other features"):
            train(other, config, tmp_path / "run", control=control)
    assert not (tmp_path / "run").exists()


# -- without a reference ----------------------------------------------------------------------------------------------


def test_without_a_reference_a_run_is_whole_and_has_no_contrasts(cached, tmp_path):
    bench = Workbench.load(cached, Selection("openmoji", ("vit", "lm", "bert2"), None))
    run = train(bench, QUICK, tmp_path / "run")
    config = load_run(run.path).config
    assert config["reference"] is None and changed_files(run.path) == []
    assert config["split"]["groups"] == {"images": 150, "captions": 150, "names-de": 100}
    table = run.table("metrics")
    assert "reference" not in set(table["against"]) and not len(run.table("contrasts"))
    aligned = table.filter(pl.col("metric") == "mutual_knn")
    assert set(zip(aligned["space"], aligned["against"], strict=True)) == set(combinations(SIDES, 2))
    assert len(of(table, stage="trained", split="test", metric="R@10")) == 6
    assert "reference" not in set(run.table("map")["space"])
    with pytest.raises(UsageError, match="needs a reference"):
        train(bench, changed(select="alignment"), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_reference_decides_no_weight(cached, bench, finished, tmp_path):
    """Every group of the sides is in the reference here, so that the trainings see the same rows."""
    alone = train(Workbench(bench.sides, None), QUICK, tmp_path / "run")
    weights = [run.adapters().state_dict() for run in (alone, finished)]
    assert alone.config["selected_epoch"] == finished.config["selected_epoch"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_default_of_several_views_is_loaded_from_its_own(cached):
    selection = Selection("openmoji", ("vit", "lm"), "big", ("images", "captions", "images"))
    bench = Workbench.load(cached, selection)
    assert bench.reference is not None and bench.reference.view == "images" and [*bench.sides] == ["images", "captions"]
    with pytest.raises(FeaturesNotCached, match="big"):
        Workbench.load(cached, replace(selection, views=("images", "captions", "captions")))
