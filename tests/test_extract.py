"""Do a view's rows become the right features, once, whatever happens on the way?"""

import os
import random
import shutil
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, encoder_spec
from featcache.errors import Ambiguous, ExtractionFailed, FeaturesNotCached, Overflow, UsageError
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.job import Job, plan_job
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from tests.fakes import FakeEncoder, expected, fake_card, text_dataset
from tests.test_store import run_killed


@pytest.fixture(autouse=True)
def describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


def plan(cache: Cache, dataset: Dataset, **choices: Any) -> Job:
    return plan_job(cache, dataset, encoder_spec("minilm"), EncodeOptions(), **choices)


def small_chunks(job: Job) -> Job:
    return replace(job, chunk_rows=7)


def run(
    cache: Cache, dataset: Dataset, encoder: FakeEncoder | None = None, layers: list[str] | None = None, **choices: Any
) -> Extracted:
    job = small_chunks(plan(cache, dataset, layers=layers))
    return extract(cache, job, encoder=encoder or FakeEncoder(), **choices)  # pyright: ignore[reportArgumentType]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("c.*"))}


def test_every_layer_of_every_row_is_cached_in_row_order(tmp_path: Path) -> None:
    cache, dataset, encoder = Cache(tmp_path), text_dataset(), FakeEncoder()
    done = run(cache, dataset, encoder)
    assert (done.rows, done.reused, done.layers) == (50, 0, ("0.mean", "1.mean", "last.mean"))
    for layer, d in encoder.card.widths.items():
        features = cache.load("tiny", "fake", layer=layer)
        wanted = np.stack([expected(dataset.views["captions"].read(row), layer, d) for row in range(50)])
        np.testing.assert_array_equal(features.values, wanted.astype(np.float16))
        assert features.ids.tolist() == list(dataset.views["captions"].ids)
        assert features.splits.tolist()[:4] == ["train", "train", "validation", "test"]
        assert features.labels["parity"].tolist()[:2] == ["even", "odd"]


def test_one_pass_gives_all_layers_and_a_second_run_computes_nothing(tmp_path: Path) -> None:
    cache, encoder = Cache(tmp_path), FakeEncoder()
    run(cache, text_dataset(), encoder)
    assert len(encoder.rows) == 50
    again = run(cache, text_dataset(), encoder)
    assert (again.rows, again.reused, len(encoder.rows)) == (0, 50, 50)


def test_text_is_batched_by_length_inside_a_chunk_only(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    run(Cache(tmp_path), text_dataset(), encoder)
    for start in range(0, 49, 7):
        chunk = encoder.rows[start : start + 7]
        assert sorted(chunk, key=len, reverse=True) == chunk
        assert {int(text.split()[0][1:]) for text in chunk} == set(range(start, start + 7))


def test_some_layers_first_and_the_rest_later_give_the_same_bytes_as_all_at_once(tmp_path: Path) -> None:
    run(Cache(tmp_path / "once"), text_dataset())
    later = Cache(tmp_path / "later")
    run(later, text_dataset(), layers=["last"])
    run(later, text_dataset())
    assert snapshot(tmp_path / "once") == snapshot(tmp_path / "later")


def test_an_interrupted_extraction_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class Interrupted(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if len(self.rows) >= 24:
                raise KeyboardInterrupt
            return super().encode(prepared, layers)

    run(Cache(tmp_path / "whole"), text_dataset())
    cache = Cache(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run(cache, text_dataset(), Interrupted())
    with pytest.raises(FeaturesNotCached, match=r"incomplete .*3 of 8 chunks"):
        cache.load("tiny", "fake")
    rest = FakeEncoder()
    done = run(cache, text_dataset(), rest)
    assert (done.rows, done.reused, len(rest.rows)) == (29, 21, 29)
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")


def test_changed_content_or_weights_is_another_array_and_then_the_name_is_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.extraction.job

    cache = Cache(tmp_path)
    run(cache, text_dataset())
    run(cache, text_dataset(change=3))
    with pytest.raises(Ambiguous, match=r"rows\.root"):
        cache.load("tiny", "fake")
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card(version=2))
    other = Cache(tmp_path)
    run(other, text_dataset(), FakeEncoder(fake_card(version=2)))
    digests = {entry.digest for entry in other.entries("*/*/*/last.mean")}
    assert len(digests) == 3
    for digest in digests:
        assert len(other.load("tiny", f"fake@{digest[:10]}")) == 50


def test_new_labels_cost_no_extraction(tmp_path: Path) -> None:
    cache, dataset, encoder = Cache(tmp_path), text_dataset(), FakeEncoder()
    run(cache, dataset, encoder)
    before = cache.load("tiny", "fake").overlay
    overlay = replace(dataset.overlay, labels={"colour": ("red",) * 50})
    run(cache, replace(dataset, overlay=overlay), encoder)
    features = cache.load("tiny", "fake")
    assert set(features.labels) == {"colour"}
    assert features.overlay != before
    assert len(encoder.rows) == 50


def test_a_value_beyond_float16_is_an_error_that_names_the_row_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(Overflow, match=r"rows 'r\d+'.*--dtype float32"):
        run(Cache(tmp_path), text_dataset(), FakeEncoder(scale=1e6))


def test_a_feature_that_is_not_a_number_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(ExtractionFailed, match=r"fake/0.mean: features of rows 'r\d+'.* are NaN"):
        run(Cache(tmp_path), text_dataset(), FakeEncoder(scale=float("nan")))


def test_a_row_that_cannot_be_prepared_is_named_and_what_was_committed_stays(tmp_path: Path) -> None:
    class Refusing(FakeEncoder):
        def prepare(self, item: Any) -> Any:
            if item.startswith("w33"):
                raise ExtractionFailed("the caption has no tokens")
            return item

    cache = Cache(tmp_path)
    with pytest.raises(ExtractionFailed, match=r"captions row 'r33' \(number 33\): the caption has no tokens"):
        run(cache, text_dataset(), Refusing())
    assert cache.entries()[0].committed >= 3


def test_unknown_layers_views_and_modalities_are_refused_with_what_there_is(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="no layer '7'; it has 0.mean, 1.mean, last.mean"):
        plan(cache, text_dataset(), layers=["7"])
    with pytest.raises(UsageError, match="no view 'photos'; it has captions"):
        plan(cache, text_dataset(), view="photos")
    with pytest.raises(UsageError, match="encodes image, but captions of tiny is text"):
        plan_job(cache, text_dataset(), encoder_spec("efficientnet-lite0"), EncodeOptions(), view="captions")


def test_a_full_disk_is_refused_before_the_first_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    cache = Cache(tmp_path)
    with pytest.raises(ExtractionFailed, match=r"kept in reserve .*has 0 MB free. Free 68 MB, take fewer --layers"):
        run(cache, text_dataset())
    assert not cache.entries()


def test_a_disk_that_fills_up_is_a_named_error_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featcache.storage.durable

    cache, real, calls = Cache(tmp_path), featcache.storage.durable.write_once, [0]

    def full(target: Path, *parts: Any) -> bool:
        calls[0] += 1
        if calls[0] > 20:
            raise OSError(28, "No space left on device")
        return real(target, *parts)

    monkeypatch.setattr(featcache.storage.durable, "write_once", full)
    with pytest.raises(ExtractionFailed, match="No space left on device. What was committed stays"):
        run(cache, text_dataset())
    monkeypatch.setattr(featcache.storage.durable, "write_once", real)
    assert run(cache, text_dataset()).reused > 0
    assert len(cache.load("tiny", "fake")) == 50


def test_decoded_images_go_through_in_row_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job

    texts = text_dataset(20).views["captions"]
    view = View("images", "image", texts.ids, texts.groups, texts.content, bytes.decode)
    dataset = replace(text_dataset(20), views={"images": view})
    card = replace(fake_card(), modality="image")
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: card)
    encoder = FakeEncoder(card)
    job = plan_job(Cache(tmp_path), dataset, encoder_spec("efficientnet-lite0"), EncodeOptions())
    extract(Cache(tmp_path), small_chunks(job), encoder=encoder)  # pyright: ignore[reportArgumentType]
    assert encoder.rows == [view.read(row) for row in range(20)]


# -- several processes ------------------------------------------------------------------------------------------------


def test_of_chosen_chunks_only_those_are_computed_and_the_last_to_come_completes(tmp_path: Path) -> None:
    run(Cache(tmp_path / "one"), text_dataset())
    cache, encoders = Cache(tmp_path / "three"), [FakeEncoder() for _ in range(3)]
    parts = [
        run(cache, text_dataset(), encoder, chunks=lambda chunk, part=part: chunk % 3 == part)
        for part, encoder in enumerate(encoders)
    ]
    assert [(part.rows, part.reused, part.complete) for part in parts] == [
        (21, 0, False),
        (15, 0, False),
        (14, 0, True),
    ]
    assert [len(encoder.rows) for encoder in encoders] == [21, 15, 14]
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "three")


def test_a_part_that_fails_leaves_the_arrays_to_the_others(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(ExtractionFailed):
        run(cache, text_dataset(), FakeEncoder(scale=float("nan")), chunks=lambda chunk: chunk == 0)
    assert len(cache.entries()) == 3


# -- the disk beside the encoder --------------------------------------------------------------------------------------


class Gate:
    """A disk that takes its time: commits wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.begun = threading.Event(), list[int]()
        real = FeatureArray.commit

        def commit(array: FeatureArray, plan: Layout, chunk: int, block: Any, **rest: Any) -> Any:
            self.begun.append(chunk)
            assert self.open.wait(20)
            return real(array, plan, chunk, block, **rest)

        monkeypatch.setattr(FeatureArray, "commit", commit)


def test_the_next_chunk_is_encoded_while_one_is_on_its_way_to_the_disk_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reported = Gate(monkeypatch), list[int]()

    class Watched(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if len(self.rows) < 14:
                assert not reported, "a chunk was reported before it was durable"
            if len(self.rows) == 11:  # the second chunk's last batch: the first is still on its way
                assert set(gate.begun) == {0}
                threading.Timer(0.2, gate.open.set).start()
            if len(self.rows) >= 14:
                assert gate.open.is_set(), "a third chunk was begun with two on their way"
            return super().encode(prepared, layers)

    extract(
        Cache(tmp_path),
        small_chunks(plan(Cache(tmp_path), text_dataset())),
        encoder=Watched(),  # pyright: ignore[reportArgumentType]
        on_rows=reported.append,
    )
    assert reported == [7] * 7 + [1]


def test_a_chunk_on_its_way_arrives_though_the_next_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    class Failing(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if len(self.rows) >= 7:
                threading.Timer(0.2, gate.open.set).start()
                raise ExtractionFailed("the second chunk")
            return super().encode(prepared, layers)

    cache = Cache(tmp_path)
    with pytest.raises(ExtractionFailed, match="the second chunk"):
        run(cache, text_dataset(), Failing())
    assert [array.committed() for array in cache.arrays()] == [{0}] * 3


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
import featcache.extraction.job
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_extract import Cache, extract, plan, small_chunks
featcache.extraction.job.describe = lambda spec, options, memo: fake_card()
class Slow(FakeEncoder):
    def encode(self, prepared, layers):
        time.sleep(0.004)
        return super().encode(prepared, layers)
encoder = Slow()
cache = Cache(sys.argv[1])
job = small_chunks(plan(cache, text_dataset()))
import torch
print("ready", flush=True)
done = extract(cache, job, encoder=encoder, on_rows=lambda rows: print(rows, flush=True))
print("done", done.rows, flush=True)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_time_and_run_again_the_bytes_are_the_same(tmp_path: Path, kills: int) -> None:
    run(Cache(tmp_path / "whole"), text_dataset())
    wanted = snapshot(tmp_path / "whole")
    chance = random.Random(3)
    for attempt in range(kills):
        folder = tmp_path / f"killed-{attempt}"
        lines = run_killed(CHILD, folder, chance.uniform(0.0, 0.12))
        durable = sum(int(line) for line in lines if line.isdigit())
        again = run_killed(CHILD, folder, None)
        assert again[-1] in {f"done {rows}" for rows in (50 - durable, 50 - durable - 7, 50 - durable - 1, 0)}
        assert snapshot(folder) == wanted
        assert not [name for name in os.listdir(folder) if name.endswith(".lock")]
