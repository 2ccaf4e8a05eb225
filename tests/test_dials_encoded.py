"""Perturbed and graded captions, encoded by a small language model, cached and measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.graded_captions import read_graded
from featcache.data.perturbations import Perturbation, delete_characters
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import EncodeOptions
from featcache.errors import FeaturesNotCached, UsageError
from featcache.studies.emergence.dials.correlations import BITS
from featcache.studies.emergence.dials.doses import DialSettings, DialViews
from featcache.studies.emergence.dials.graded_captions import (
    extract_graded,
    graded_captions,
    graded_similarities,
    similarity_table,
)
from featcache.studies.emergence.dials.perturbed import cached_perturbations, extract_perturbed, perturbed
from tests import hub
from tests.alignment_cache import store_layers
from tests.test_dials_data import graded_rows, write_graded

FAST = DialSettings(k=5, rows=None, permutations=39, repeats=20)

# -- perturbations ----------------------------------------------------------------------------------------------------


ROWS = 24
TEXTS = [f"a dog number {row} runs along the {('beach', 'street', 'river')[row % 3]}" for row in range(ROWS)]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> EncodeOptions:
    """A language model of two blocks, with random weights."""
    return EncodeOptions(weights=hub.gpt2_repo(tmp_path_factory.mktemp("gpt2")))


def captioned(n: int = ROWS) -> Dataset:
    ids = tuple(f"r{row:02}" for row in range(n))
    images = View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes)
    splits = tuple(("train", "train", "validation", "test")[row // 3 % 4] for row in range(n))
    labels = {"place": tuple(("beach", "street", "river")[row % 3] for row in range(n))}
    views = {"images": images, "captions": text_view("captions", ids, ids, TEXTS[:n])}
    return Dataset("tiny", views, Overlay(ids, splits, labels), "none", "a test")


def test_a_perturbed_view_is_encoded_cached_and_measured_by_percentage(tmp_path: Path, gpt2: EncodeOptions) -> None:
    cache, dataset, said = Cache(tmp_path / "cache"), captioned(), list[str]()
    rng = np.random.default_rng(0)
    store_layers(cache, dataset, "images", "vit", {"0.cls": rng.random((ROWS, 6)), "last.cls": rng.random((ROWS, 6))})
    perturbations = [Perturbation("delete", percent) for percent in (20, 50)]
    with pytest.raises(UsageError, match="no perturbed view of images or captions of tiny is cached"):
        cached_perturbations(cache, "tiny", ("images", "captions"))
    done = extract_perturbed(cache, dataset, "captions", ["gpt2"], perturbations, options=gpt2, on_step=said.append)
    assert [each.view for each in done] == ["captions-delete20-s0", "captions-delete50-s0"] and done[0].rows == ROWS
    assert said[0] == "gpt2 over captions-delete20-s0"
    assert extract_perturbed(cache, dataset, "captions", ["gpt2"], perturbations[:1], options=gpt2)[0].rows == 0
    with pytest.raises(FeaturesNotCached):  # the view itself is the first dose
        perturbed(cache, DialViews("tiny"), settings=FAST)
    _encode(cache, dataset, "captions", gpt2)
    result = perturbed(cache, DialViews("tiny"), settings=replace(FAST, rows=20), out=tmp_path / "out", labels="place")
    assert sorted(set(result.alignment["dose"])) == [0.0, 0.2, 0.5] and result.alignment["n"].unique().to_list() == [20]
    assert set(result.alignment["y_view"]) == {"captions", "captions-delete20-s0", "captions-delete50-s0"}
    assert set(result.alignment["dial"]) == {"delete"} and len(result.alignment) == 3 * 2 * 8
    assert result.paths["bits"] == tmp_path / "out/perturbed/tiny/delete/bits.parquet"
    # bits per byte are those of the perturbed texts
    assert result.bits is not None and result.bits["bits_per_byte"].n_unique() == 3
    noted = result.correlations.filter(y=BITS)["note"].unique().to_list()
    assert noted == ["1 causal language models cached (gpt2): no coefficient below 6"]
    assert result.performance is not None and set(result.performance["side"]) == {"x", "y"}
    stored = cache.load("tiny", "captions-delete50-s0/gpt2/last.mean")
    assert stored.hashes[3] != cache.load("tiny", "captions/gpt2/last.mean").hashes[3]
    own = Dataset("tiny", {"captions": text_view("captions", dataset.overlay.groups, dataset.overlay.groups, [
        delete_characters(text, 50, seed=0, row=row) for text, row in zip(TEXTS, dataset.overlay.groups, strict=True)
    ])}, dataset.overlay, "none", "a test")  # fmt: skip
    other = Cache(tmp_path / "other")
    _encode(other, own, "captions", gpt2)
    assert np.array_equal(other.load("tiny", "captions/gpt2/last.mean").values, stored.values)


def _encode(cache: Cache, dataset: Dataset, view: str, options: EncodeOptions) -> None:
    from featcache.encoders import encoder_spec
    from featcache.extraction.extract import extract
    from featcache.extraction.job import plan_job

    extract(cache, plan_job(cache, dataset, encoder_spec("gpt2"), options, view=view))


def test_cached_perturbations_are_those_of_a_view_and_an_edge(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), dict[str, View]()
    ids = ("a", "b")
    for name in ("images-noise20-s0", "images-noise5-s0", "images-noise5-e8-s0", "captions-delete9-s1"):
        modality = "image" if name.startswith("images") else "text"
        made[name] = View(name, modality, ids, ids, lambda row: ids[row].encode(), bytes)
    dataset = Dataset("tiny", made, Overlay(ids, ("", "")), "none", "a test")
    for name in made:
        store_layers(cache, dataset, name, "vit", {"last.mean": np.eye(2)})
    noise = [Perturbation("noise", percent) for percent in (5, 20)]
    assert cached_perturbations(cache, "tiny", ("images", "captions")) == noise
    assert cached_perturbations(cache, "tiny", ("images",), edge=8) == [Perturbation("noise", 5, edge=8)]
    assert cached_perturbations(cache, "tiny", ("captions",)) == [Perturbation("delete", 9, 1)]
    with pytest.raises(UsageError, match="perturbed views: captions-delete9-s1, images-noise20-s0"):
        cached_perturbations(cache, "tiny", ("images",), edge=7)


def test_one_dial_has_one_kind_of_perturbation(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for pair in (
        [Perturbation("delete", 5), Perturbation("noise", 5)],
        [Perturbation("noise", 5), Perturbation("noise", 10, edge=8)],
    ):
        with pytest.raises(UsageError, match="one dial has perturbations of one kind"):
            perturbed(cache, DialViews("tiny"), pair)


# -- graded captions --------------------------------------------------------------------------------------------------


def test_graded_captions_are_compared_with_the_originals_grade_by_grade(tmp_path: Path, gpt2: EncodeOptions) -> None:
    cache, folder = Cache(tmp_path / "cache"), write_graded(tmp_path, graded_rows(16))
    with pytest.raises(FeaturesNotCached, match="no features of gpt2 on graded captions"):
        graded_captions(cache, "gpt2", "gpt2")
    with pytest.raises(UsageError, match="grade 15: there are 0, 10"):
        extract_graded(cache, folder, ["gpt2"], grades=(15,))
    with pytest.raises(UsageError, match="encodes images, and the photos of WIT are not there"):
        extract_graded(cache, folder, ["efficientnet-lite0"])
    assert [each.rows for each in extract_graded(cache, folder, ["gpt2"], grades=(0, 30, 100), options=gpt2)] == [
        16
    ] * 3
    result = graded_captions(cache, "gpt2", "gpt2", replace(FAST, k=3), out=tmp_path / "out")
    assert set(result.alignment["comparison"]) == {"text–text"} and result.performance is None
    fixed = result.alignment.filter(fixed="xy").sort("dose")
    assert fixed["dose"].to_list() == [0.0, 0.3, 1.0] and fixed["value"][0] == 1.0  # the originals with themselves
    assert fixed["dose_words"].to_list()[1] == "30% rewritten" and fixed["y_view"].to_list()[1] == "captions-grade30"
    assert result.paths["alignment"].parent == tmp_path / "out/graded/wit_graded/gpt2-gpt2"
    assert result.bits is not None and len(result.bits) == 3
    table = similarity_table(graded_similarities(cache, "gpt2", read_graded(folder / "data.json")))
    assert table["grade"].to_list() == [30, 100] and table["recorded"].to_list() == pytest.approx([0.85, 0.5])
    a, b = (cache.load("wit_graded", f"{view}/gpt2").values.astype(float) for view in ("captions", "captions-grade30"))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert table["measured"][0] == pytest.approx(cosines.mean()) and table["gap"][0] == pytest.approx(
        np.abs(cosines - 0.85).mean()
    )


def test_with_photos_graded_captions_are_compared_with_them(tmp_path: Path, gpt2: EncodeOptions) -> None:
    cache, folder = Cache(tmp_path / "cache"), write_graded(tmp_path, graded_rows(16))
    extract_graded(cache, folder, ["gpt2"], grades=(0, 100), options=gpt2)
    ids = tuple(f"{row:04d}" for row in range(16))
    photos = View("images", "image", ids, ids, lambda row: ids[row].encode(), bytes)
    whole = Dataset("wit_graded", {"images": photos}, Overlay(ids, ("",) * 16), "none", "a test")
    store_layers(cache, whole, "images", "vit", {"last.cls": np.random.default_rng(0).random((16, 6))})
    result = graded_captions(cache, "gpt2", "vit", replace(FAST, k=3))
    assert set(result.alignment["comparison"]) == {"image–text"} and set(result.alignment["x_view"]) == {"images"}
