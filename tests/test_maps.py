"""Maps of cached spaces: points, neighbours and texts equal plain restatements; what may not be shown is not."""

import io
import json
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from featcache.cache import Cache
from featcache.data.open import open_dataset
from featcache.data.own_rows import make_dataset, make_view
from featcache.data.views import Dataset
from featcache.errors import FeaturesNotCached, LibraryMissing, UsageError
from featcache.metrics.errors import ZeroRow
from featcache.own import extract
from featcache.studies import maps
from featcache.studies.maps import MapSettings, map_spaces
from tests.alignment_cache import layered_cache, store_layers
from tests.test_cli import featcache

PHOTOS = 24


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return layered_cache(tmp_path_factory.mktemp("maps"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cache, Dataset]:
    """A folder of the user's with captions, and features of both views."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    folder = root / "birds"
    folder.mkdir()
    lines = ["image,caption"]
    for number in range(PHOTOS):
        colour = tuple(rng.integers(0, 255, 3).tolist())
        Image.new("RGB", (90 + number, 40), colour).save(folder / f"{number:02}.png")
        lines += [f"{number:02}.png,bird {number} {way}" for way in ("sits", "flies")]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    dataset, cache = open_dataset("folder", root=folder), Cache(root / "cache")
    for view in dataset.views.values():
        values = rng.normal(size=(len(view), 6))
        store_layers(cache, dataset, view.name, "net", {"0.mean": values, "last.mean": values + 1})
    return folder, cache, dataset


def drawn(cache: Cache, dataset: str, names: list[str], out: Path, **settings) -> tuple[pl.DataFrame, maps.MapResult]:
    result = map_spaces(cache, dataset, names, MapSettings(**settings), out=out / "map.parquet")
    return pl.read_parquet(result.path), result


def nearest(values: np.ndarray, groups: list[str], k: int) -> tuple[list[list[int]], np.ndarray]:
    """A plain loop: the k rows of the largest cosine of other groups."""
    rows = values / np.linalg.norm(values, axis=1, keepdims=True)
    ids, distances = [], []
    for i, row in enumerate(rows):
        others = [(1 - float(rows[j] @ row), j) for j in range(len(rows)) if groups[j] != groups[i]]
        best = sorted(others)[:k]
        ids.append([j for _, j in best])
        distances.append([distance for distance, _ in best])
    return ids, np.array(distances)


# -- points and neighbours ---------------------------------------------------------------------------------------------


def test_rows_of_one_view_are_points_with_the_neighbours_of_a_plain_loop(cache: Cache, tmp_path: Path) -> None:
    table, result = drawn(cache, "openmoji", ["lm"], tmp_path, k=4, texts=False)
    features = cache.load("openmoji", "lm")
    assert table["id"].to_list() == features.ids.tolist() and result.what == "rows of captions"
    assert table["group"].to_list() == features.groups.tolist()
    assert table["kind"].to_list() == features.labels["kind"].tolist()
    ids, distances = nearest(features.values.astype(np.float64), features.groups.tolist(), 4)
    assert table["neighbors"].struct.field("ids").to_list() == ids
    np.testing.assert_allclose(table["neighbors"].struct.field("distances").to_list(), distances, atol=1e-6)


def test_points_are_the_principal_plane_of_scikit_learn_on_unit_rows(cache: Cache, tmp_path: Path) -> None:
    pca = pytest.importorskip("sklearn.decomposition").PCA(2)
    table, _ = drawn(cache, "openmoji", ["vit/10.cls"], tmp_path, k=4, texts=False)
    values = cache.load("openmoji", "vit/10.cls").values.astype(np.float64)
    points = pca.fit_transform(values / np.linalg.norm(values, axis=1, keepdims=True))
    np.testing.assert_allclose(np.abs(table.select("x", "y").to_numpy()), np.abs(points), atol=1e-5)


def test_arrays_of_several_views_have_a_point_a_group_at_the_mean_of_its_rows(cache: Cache, tmp_path: Path) -> None:
    table, result = drawn(cache, "openmoji", ["vit", "lm", "vit"], tmp_path, k=3, texts=False)
    text = cache.load("openmoji", "lm")
    names = cache.load("openmoji", "vit").groups.tolist()
    means = np.stack([text.values[text.groups == name].astype(np.float64).mean(axis=0) for name in names])
    ids, _ = nearest(means, names, 3)
    assert table["id"].to_list() == names and result.what == "groups"
    assert table["lm_neighbors"].struct.field("ids").to_list() == ids
    assert [*result.commands] == ["vit", "lm"] and "group" not in table.columns


def test_layers_of_one_encoder_are_told_apart_and_the_commands_name_columns_that_are_there(
    cache: Cache, tmp_path: Path
) -> None:
    table, result = drawn(cache, "openmoji", ["vit/0.cls", "vit/10.cls"], tmp_path, k=3, texts=False)
    assert [*result.commands] == ["vit.0.cls", "vit.10.cls"]
    for command in result.commands.values():
        program, path, *options = shlex.split(command)
        assert program == "embedding-atlas" and Path(path) == result.path
        given = dict(zip(options[::2], options[1::2], strict=True))
        assert [*given] == ["--x", "--y", "--neighbors"] and set(given.values()) <= set(table.columns)


def test_the_record_beside_the_table_has_digests_roots_settings_and_versions(cache: Cache, tmp_path: Path) -> None:
    drawn(cache, "openmoji", ["vit"], tmp_path, k=3, texts=False, seed=7)
    record, features = json.loads((tmp_path / "map.json").read_text()), cache.load("openmoji", "vit")
    assert record["arrays"][0]["digest"] == features.digest and record["arrays"][0]["root"] == features.root
    assert record["settings"]["seed"] == 7 and record["dataset"] == "openmoji" and "featcache" in record["versions"]


def test_umap_draws_the_exact_graph_alike_for_a_seed(cache: Cache, tmp_path: Path) -> None:
    pytest.importorskip("umap")
    first, _ = drawn(cache, "openmoji", ["vit"], tmp_path, projection="umap", texts=False)
    again, _ = drawn(cache, "openmoji", ["vit"], tmp_path, projection="umap", texts=False)
    assert first.equals(again) and first["x"].is_finite().all()
    plane, _ = drawn(cache, "openmoji", ["vit"], tmp_path, texts=False)
    assert plane["neighbors"].equals(first["neighbors"]) and not plane["x"].equals(first["x"])


# -- texts and pictures ------------------------------------------------------------------------------------------------


def test_texts_and_thumbnails_of_the_users_own_stand_beside_points_when_they_are_asked_for(own, tmp_path) -> None:
    folder, cache, dataset = own
    settings = {"k": 3, "texts": True, "thumbnails": True, "root": folder}
    table, result = drawn(cache, dataset.name, ["images/net"], tmp_path, **settings)
    assert table["text"].to_list() == [f"bird {number} sits" for number in range(PHOTOS)]  # a group's first
    assert "--text text --image image" in result.commands["net"]
    for number, image in enumerate(table["image"].to_list()):
        with Image.open(io.BytesIO(image["bytes"])) as small:
            assert small.format == "WEBP" and small.width == 64, number
    captions, _ = drawn(cache, dataset.name, ["captions/net"], tmp_path, k=3, texts=True, root=folder)
    assert captions["text"].to_list()[:3] == ["bird 0 sits", "bird 0 flies", "bird 1 sits"]  # each row its own


def test_the_users_own_texts_and_pictures_are_not_shown_unasked(own, tmp_path: Path) -> None:
    folder, cache, dataset = own
    table, result = drawn(cache, dataset.name, ["captions/net"], tmp_path, k=3, root=folder)
    assert not {"text", "image"} & set(table.columns) and "--texts" in result.notes[0]
    with pytest.raises(UsageError, match="point at pictures of your own\n  Add --root DIR"):
        drawn(cache, dataset.name, ["images/net"], tmp_path, k=3, thumbnails=True)


def test_a_row_that_is_not_what_was_encoded_has_no_text(own, tmp_path: Path) -> None:
    folder, cache, dataset = own
    changed = tmp_path / folder.name
    changed.mkdir()
    for path in folder.iterdir():
        text = path.read_bytes()
        (changed / path.name).write_bytes(
            text.replace(b"bird 0 sits", b"bird 0 sings") if path.suffix == ".csv" else text
        )
    table, _ = drawn(cache, dataset.name, ["captions/net"], tmp_path, k=3, texts=True, root=changed)
    assert table["text"].to_list()[:2] == ["", "bird 0 flies"]


def test_rows_of_a_program_have_no_texts_on_disk(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    data = make_dataset("words", [make_view([f"word {number}" for number in range(9)], "text")])
    extract(data, lambda texts: torch.eye(9)[: len(texts)] + 1, name="net", identity="i", batch=9, cache=cache)
    table, result = drawn(cache, "words", ["net"], tmp_path, k=3)
    assert "text" not in table.columns and "words is of a program (rows of a program)" in result.notes[0]
    with pytest.raises(UsageError, match="its rows have no texts on this disk\n  Leave out --texts"):
        drawn(cache, "words", ["net"], tmp_path, k=3, texts=True)


def test_a_label_that_is_called_like_a_column_of_ours_takes_the_place_of_none(tmp_path: Path) -> None:
    cache, names = Cache(tmp_path / "cache"), [f"r{number}" for number in range(9)]
    taken = ("id", "group", "split", "x", "neighbors", "text", "image", "features", "net.last.flat_x", "label_group")
    labels = {label: dict.fromkeys(names, f"of {label}") for label in taken}
    data = make_dataset("words", [make_view(names, "text", ids=names)], labels=labels)
    extract(data, lambda texts: {f"{layer}.flat": torch.eye(9)[: len(texts)] + 1 for layer in (1, "last")},
            name="net", identity="i", batch=9, cache=cache)  # fmt: skip
    table, _ = drawn(cache, "words", ["net/1.flat", "net/last.flat"], tmp_path, k=3, texts=False)
    assert table["id"].to_list() == names and "group" not in table.columns
    assert table["label_label_group"].to_list() == ["of group"] * 9, "label_group is a label itself"
    assert table["label_group"].to_list() == ["of label_group"] * 9
    assert table["label_net.last.flat_x"].to_list() == ["of net.last.flat_x"] * 9
    assert table["label_x"].to_list() == ["of x"] * 9 and table["x"].dtype.is_float()
    frame = cache.load("words", "net").frame(values=True)
    assert frame["group"].to_list() == names and frame["label_label_group"].to_list() == ["of group"] * 9
    assert frame["label_features"].to_list() == ["of features"] * 9 and frame["x"].to_list() == ["of x"] * 9


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_mapped_is_refused(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, settings, error, says in (
        (["vat"], {}, FeaturesNotCached, "vat"),
        (["vit"], {"k": 60}, UsageError, "60 points have no 60 neighbours"),
        (["vit"], {"texts": True}, UsageError, "has no texts|nothing of openmoji can be shown"),
    ):
        with pytest.raises(error, match=says):
            drawn(cache, "openmoji", names, tmp_path, **settings)
    with pytest.raises(UsageError, match="ends in .parquet"):
        map_spaces(cache, "openmoji", ["vit"], MapSettings(), out=tmp_path / "map.csv")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(LibraryMissing, match=r"pip install 'featcache\[map\]'"):
        drawn(cache, "openmoji", ["vit"], tmp_path, projection="umap")
    assert not (tmp_path / "map.parquet").exists()


def test_a_zero_row_has_no_place_and_is_named(own, tmp_path: Path) -> None:
    _, _, dataset = own
    cache = Cache(tmp_path / "cache")
    values = np.random.default_rng(0).normal(size=(PHOTOS, 4))
    values[5] = 0
    store_layers(cache, dataset, "images", "net", {"last.mean": values})
    with pytest.raises(ZeroRow, match="5"):
        drawn(cache, dataset.name, ["net"], tmp_path, k=3, texts=False)


def test_the_command_takes_a_folder_for_the_data_set_and_prints_how_to_open_the_file(own) -> None:
    folder, cache, _ = own
    words = ("map", "./birds", "images/net", "captions/net", "--neighbors", "3", "--texts", "--thumbnails")
    done = featcache(*words, "--cache", str(cache.root), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert f"{PHOTOS} points, groups: map.parquet" in done.stdout
    assert "embedding-atlas map.parquet --x x --y y --neighbors neighbors --text text --image image" in done.stdout
    said = json.loads(featcache(*words, "--cache", str(cache.root), "--json", cwd=folder.parent).stdout)
    assert said["points"] == PHOTOS and len(said["commands"]) == 2
