"""Arrays are brought to common rows such that a cached graph and a search agree, ties included."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.studies.alignment.common_rows import common_rows
from tests.alignment_cache import store_layers
from tests.spine import tiny_dataset


@pytest.fixture
def tied(tmp_path: Path) -> Cache:
    """Sixty photos whose captions are of twelve texts, in another order than the photos."""
    rng, dataset = np.random.default_rng(0), tiny_dataset(60, 1)
    store_layers(Cache(tmp_path / "cache"), dataset, "images", "vit", {"last.cls": rng.standard_normal((60, 6))})
    turned = rng.permutation(60)
    view = dataset.views["captions"]
    view = replace(view, ids=tuple(view.ids[row] for row in turned), groups=tuple(view.groups[row] for row in turned))
    other = replace(dataset, views={**dataset.views, "captions": view})
    texts = rng.standard_normal((12, 5))
    store_layers(Cache(tmp_path / "cache"), other, "captions", "lm", {"last.mean": texts[turned % 12]})
    return Cache(tmp_path / "cache")


@pytest.mark.parametrize("k", [3, 7])
def test_equal_captions_in_another_order_have_the_same_neighbours_with_and_without_a_cache(tied: Cache, k: int) -> None:
    arrays = [tied.load("openmoji", "vit"), tied.load("openmoji", "lm")]
    for order in (arrays, arrays[::-1]):
        alone, kept = (common_rows(order, cache=cache) for cache in (None, tied))
        for a, b in zip(alone.spaces, kept.spaces, strict=True):
            np.testing.assert_array_equal(a.graph(k).ids, b.graph(k).ids)


def test_only_rows_in_the_order_of_their_array_have_a_graph_in_the_cache(tied: Cache) -> None:
    spaces = common_rows([tied.load("openmoji", "vit"), tied.load("openmoji", "lm")], cache=tied).spaces
    for space in spaces:
        space.graph(3)
    assert [space.origins["cosine"] for space in spaces] == [
        "searched and cached",
        "searched, not cached: only graphs of whole arrays in their own order are",
    ]
