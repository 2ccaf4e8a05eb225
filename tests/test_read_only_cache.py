"""A cache that nobody may write to serves whatever it holds: nothing is written where nothing is missing."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.views import Overlay
from featcache.encoders.card import read_card, write_card
from featcache.errors import ExtractionFailed
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.storage import durable, local
from featcache.store import leases
from featcache.studies.alignment.align import align_cached
from featcache.studies.alignment.settings import AlignSettings
from tests.alignment_cache import layered_cache
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_extract import describe_the_fake, run

assert describe_the_fake  # a fixture of every test here: extraction with the fake encoder


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every disk read-only from here on."""

    def refuse(*given: Any, **named: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system", "somewhere")

    def now() -> None:
        for name in ("_write_temporary", "make_folders"):
            monkeypatch.setattr(durable, name, refuse)
        for module in (leases, local):
            for name in ("make_folders", "write_once", "replace"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, refuse)
        monkeypatch.setattr(Path, "touch", refuse)
        monkeypatch.setattr(Path, "mkdir", refuse)

    return now


def test_extract_of_what_is_cached_writes_nothing(tmp_path: Path, lock: Callable[[], None]) -> None:
    cache, dataset = Cache(tmp_path), text_dataset()
    run(cache, dataset)
    lock()
    done = run(cache, dataset)
    assert (done.rows, done.reused, done.complete) == (0, 50, True)
    assert np.isfinite(cache.load("tiny", "fake").values).all()


def test_extract_of_new_splits_or_labels_still_has_to_write(tmp_path: Path, lock: Callable[[], None]) -> None:
    cache, dataset = Cache(tmp_path), text_dataset()
    run(cache, dataset)
    groups = dataset.overlay.groups
    lock()
    with pytest.raises(ExtractionFailed, match="cannot write to .*Read-only file system"):
        run(cache, replace(dataset, overlay=Overlay(groups, ("test",) * len(groups))))


def test_extract_of_what_is_missing_says_that_it_cannot_write(tmp_path: Path, lock: Callable[[], None]) -> None:
    lock()
    with pytest.raises(ExtractionFailed, match="Read-only file system"):
        run(Cache(tmp_path), text_dataset(), FakeEncoder())


def test_align_measures_and_keeps_no_graph(tmp_path: Path, lock: Callable[[], None]) -> None:
    cache = layered_cache(tmp_path)
    settings = AlignSettings(("mutual_knn",), k=5, null="none")
    lock()
    result = align_cached(cache, "openmoji", "vit", "lm", settings)
    assert result.values[0].value is not None
    assert all("Read-only file system" in space.origins["cosine"] for space in result.common.spaces)


def test_a_pull_that_has_nothing_to_bring_writes_nothing(tmp_path: Path, lock: Callable[[], None]) -> None:
    here, there = layered_cache(tmp_path / "here"), layered_cache(tmp_path / "there")
    lock()
    assert transfer(plan_transfer(there, here, ["*"])).arrays == 0


def test_the_live_writers_of_such_a_cache_are_known_without_a_clock_file(
    tmp_path: Path, lock: Callable[[], None]
) -> None:
    cache = layered_cache(tmp_path)
    (cache.root / leases.FOLDER).mkdir(exist_ok=True)
    lock()
    assert leases.leases(cache.root)[0] == []


def test_what_is_known_of_weights_need_not_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.encoders import card

    def refuse(*given: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(card, "make_folders", refuse)
    write_card(tmp_path / "cards" / "x.json", fake_card())
    assert read_card(tmp_path / "cards" / "x.json") is None
