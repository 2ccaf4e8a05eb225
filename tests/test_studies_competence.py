"""Competence: mean alignment with the others is that of every pair, and performance is a probe's or what is given."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.cache import Cache
from featcache.commands import app as program
from featcache.errors import UsageError
from featcache.metrics import mutual_knn
from featcache.studies.competence import competence, parse_performance, rank_correlation
from tests.spine import store, tiny_cache, tiny_dataset

NAMES = ("efficientnet-lite0", "efficientnet-lite2", "noise")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache, dataset = tiny_cache(tmp_path_factory.mktemp("cache"), captions=1), tiny_dataset(160, 1)
    values = np.random.default_rng(5).standard_normal((160, 12)).astype(np.float16)
    store(cache, dataset, dataset.views["images"], "noise", values)
    return cache


def test_an_encoders_alignment_is_the_mean_of_its_scores_with_every_other_on_test(cache: Cache) -> None:
    given = dict(zip(NAMES, (0.7, 0.9, 0.1), strict=True))
    result = competence(cache, "openmoji", NAMES, performance=given, k=5)
    arrays = {name: cache.load("openmoji", name) for name in NAMES}
    test = {name: each.values[each.splits == "test"].astype(np.float32) for name, each in arrays.items()}
    for row in result.rows:
        own = row.encoder.split("/")[1]
        scores = [mutual_knn(test[own], test[other], k=5) for other in NAMES if other != own]
        assert row.value == pytest.approx(np.mean(scores)) and row.n == 32 and row.performance == given[own]
    assert [row.performance for row in result.rows] == [0.9, 0.7, 0.1]
    assert result.correlation == rank_correlation([0.9, 0.7, 0.1], [row.value for row in result.rows])


def test_performance_is_probed_where_none_is_given(cache: Cache, tmp_path: Path) -> None:
    words = ["competence", "openmoji", *NAMES, "absent", "--skip-uncached", "--k", "5", "--cache", str(cache.root)]
    result = CliRunner().invoke(program.app, [*words, "--out", str(tmp_path / "rows.parquet")])
    said = " ".join(result.stdout.split())
    assert result.exit_code == 0 and "Not cached, left out: absent" in said and "Spearman's correlation" in said
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert set(rows["encoder"]) == {f"images/{name}/last.mean" for name in NAMES}
    assert rows["performance"].is_between(0, 1).all() and rows["performance_of"][0].startswith("probe_accuracy")


def test_what_says_nothing_is_refused(cache: Cache) -> None:
    with pytest.raises(UsageError, match="ranks over fewer than 3"):
        competence(cache, "openmoji", NAMES[:2])
    with pytest.raises(UsageError, match="no performance of noise"):
        competence(cache, "openmoji", NAMES, performance={"efficientnet-lite0": 1.0, "efficientnet-lite2": 2.0})
    for wrong in ("resnet18", "resnet18=good", "=0.5"):
        with pytest.raises(UsageError, match="wanted ENCODER=NUMBER"):
            parse_performance([wrong])
