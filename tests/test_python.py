"""From Python: own modules over own rows are cached like entries, and features come as torch, polars and pairs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import featcache
from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.data.own_rows import make_dataset, make_view
from featcache.errors import ExtractionFailed, UsageError
from featcache.maintenance.verify import verify
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer import Adapter
from featcache.trainer.config import make_config
from tests.spine import tiny_cache

N = 40
RNG = np.random.default_rng


class Net(nn.Module):
    """Two layers by name, a batch norm and dropout that evaluation mode must still."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.norm(self.first(x)))
        return {"1.flat": hidden, "last.flat": self.last(hidden)}


@pytest.fixture
def rows() -> np.ndarray:
    return RNG(0).standard_normal((N, 6)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def numbers(values: Any, **more: Any) -> Any:
    view = make_view(values, "image", name="signals", ids=[f"row{at}" for at in range(N)], **more)
    return make_dataset("signals", [view], splits={f"row{at}": "train" if at % 4 else "test" for at in range(N)},
                        labels={"parity": {f"row{at}": str(at % 2) for at in range(N)}})  # fmt: skip


def test_an_own_module_is_extracted_once_and_equals_its_own_forward(rows: np.ndarray, cache: Cache) -> None:
    seen, net = list[int](), Net()
    features = featcache.extract(numbers(rows), net, name="net", batch=7, cache=cache, on_rows=seen.append)
    with torch.inference_mode():
        expected = Net().eval()(torch.from_numpy(rows))
    np.testing.assert_allclose(features.values, expected["last.flat"], atol=1e-6)
    np.testing.assert_allclose(cache.load("signals", "net/1.flat").values, expected["1.flat"], atol=1e-6)
    assert sum(seen) == N and (features.layer, features.ids[3], features.labels["parity"][3]) == (
        "last.flat",
        "row3",
        "1",
    )
    again = featcache.extract(numbers(rows), Net(), name="net", batch=7, cache=cache, on_rows=seen.append)
    assert sum(seen) == N and again.root == features.root
    assert not list(verify(cache, deep=True))


def test_other_weights_structure_preparation_or_rows_are_another_array(rows: np.ndarray, cache: Cache) -> None:
    def digest(call: Any = None, values: np.ndarray = rows, **more: Any) -> str:
        return featcache.extract(numbers(values), call or Net(), name="net", cache=cache, **more).digest

    halved = torch.nn.Hardtanh(-0.5, 0.5)  # prints what it does
    made = [digest(), digest(Net(1)), digest(prepare=halved), digest(identity="v2"), digest(values=rows + 1)]
    assert len(set(made)) == 5 and digest() == made[0]
    wide = Net()
    wide.last = nn.Linear(5, 4)
    assert digest(wide) not in made


def test_pictures_and_texts_are_prepared_by_the_caller(cache: Cache) -> None:
    pictures = [Image.fromarray(RNG(at).integers(0, 255, (9, 12, 3), dtype=np.uint8)) for at in range(6)]
    words = ["fox", "a whale", "owl", "two cats", "dog", "ant"]
    both = make_dataset("own", [make_view(pictures, "image"), make_view(words, "text")])

    def to_tensor(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)

    seen = featcache.extract(both, lambda batch: batch.mean(dim=(2, 3)), name="means", prepare=to_tensor,
                             identity="means of channels", cache=cache)  # fmt: skip
    np.testing.assert_allclose(seen.values, [np.asarray(one).mean(axis=(0, 1)) for one in pictures], rtol=1e-5)
    lengths = featcache.extract(both, lambda texts: torch.tensor([[float(len(text))] for text in texts]),
                                name="lengths", view="captions", identity="characters", cache=cache)  # fmt: skip
    assert lengths.values.ravel().tolist() == [float(len(word)) for word in words]
    assert seen.ids.tolist() == lengths.ids.tolist() == [f"{row:08d}" for row in range(6)]


def test_a_module_is_in_the_modes_afterwards_that_its_parts_were_in_before(rows: np.ndarray, cache: Cache) -> None:
    net = Net().train()
    net.norm.eval()
    modes = [part.training for part in net.modules()]
    assert modes.count(False) == 1
    featcache.extract(numbers(rows), net, name="net", cache=cache)
    assert [part.training for part in net.modules()] == modes
    with pytest.raises(UsageError):
        featcache.extract(numbers(rows), net, name="net", layers=["2"], cache=cache)
    assert [part.training for part in net.modules()] == modes


def test_what_is_printed_is_one_short_line(rows: np.ndarray) -> None:
    data = numbers(rows)
    assert repr(data) == "Dataset(signals: signals (40 rows, image); licence: the user's own)"
    assert repr(data.views["signals"]) == "View(signals: 40 rows, image)"


def test_only_features_are_paired(rows: np.ndarray, cache: Cache) -> None:
    features = featcache.extract(numbers(rows), Net(), name="net", cache=cache)
    with pytest.raises(UsageError, match="pair takes two Features, .* and got ndarray\n  Give what Cache.load"):
        featcache.pair(features, rows)  # type: ignore[arg-type]


def test_a_data_set_of_a_program_takes_no_name_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_DATASETS", str(tmp_path / "datasets.toml"))
    (tmp_path / "datasets.toml").write_text("[birds]\nroot = '.'\n[stamps]\nroot = 1\n")
    view = make_view(["a"], "text")
    for taken in ("openmoji", "birds", "stamps", "folder"):
        with pytest.raises(DataInvalid, match=f"{taken} is a data set already, .*\n  Choose another name"):
            make_dataset(taken, [view])
    for wrong in ("Bad Name", "org--birds", "a.b", ""):
        with pytest.raises(DataInvalid, match="cannot be the name of a data set: it has lower-case letters, digits"):
            make_dataset(wrong, [view])
    assert make_dataset("my-birds_2", [view]).name == "my-birds_2"


def test_map_style_data_sets_and_loaders_of_torch_are_rows(rows: np.ndarray, cache: Cache) -> None:
    source = TensorDataset(torch.from_numpy(rows), torch.arange(N))
    loader = DataLoader(source, batch_size=16, shuffle=True)
    made = [featcache.extract(numbers(each), Net(), name="net", cache=cache).digest for each in (rows, source, loader)]
    assert len(set(made)) == 1, "the order is the data set's, and a label beside a row plays no part"


@pytest.mark.parametrize(
    ("call", "more", "error", "words"),
    [
        (lambda x: x, {}, UsageError, "name what decides its features, identity="),
        (Net(), {"prepare": lambda row: row}, UsageError, "does not say what it does"),
        (lambda x: {"hidden": x}, {"identity": "i"}, UsageError, 'wanted a number or "last" and a pooling'),
        (lambda x: {"last.v2": x}, {"identity": "i"}, UsageError, "layer 'last.v2': wanted a number"),
        (lambda x: {"adapted.x": x}, {"identity": "i"}, UsageError, "layer 'adapted.x': wanted a number"),
        (lambda x: x[:, None], {"identity": "i"}, UsageError, r"wanted a tensor \[1, d\], a row each, got \[1, 1, 6\]"),
        (lambda x: x.mean(), {"identity": "i"}, UsageError, r"got \[\]"),
        (lambda x: {}, {"identity": "i"}, UsageError, "gave no layer"),
        (nn.Linear(7, 2), {}, ExtractionFailed, "cannot encode the first row of signals, 'row0'"),
        (Net(), {"layers": ["2"]}, UsageError, "net has no layer '2'"),
        (Net(), {"view": "photos"}, UsageError, "no view 'photos'; it has signals"),
        (Net(), {"name": None}, UsageError, "name="),
        (Net(), {"batch": 0}, UsageError, "batch 0"),
        ("minilm", {}, UsageError, "is an entry"),
    ],
)
def test_what_cannot_be_extracted_is_named_and_leaves_nothing(
    rows: np.ndarray, cache: Cache, call: Any, more: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        featcache.extract(numbers(rows), call, **{"name": "net", "cache": cache, **more})
    assert list(cache.arrays()) == []


def test_an_encoder_that_changes_its_widths_is_stopped(rows: np.ndarray, cache: Cache) -> None:
    def moody(batch: torch.Tensor) -> torch.Tensor:
        return batch if len(batch) == 1 else batch[:, :2]

    with pytest.raises(ExtractionFailed, match="same layers and widths"):
        featcache.extract(numbers(rows), moody, name="moody", identity="i", cache=cache)


def test_rows_of_several_shapes_are_named_and_leave_nothing(cache: Cache) -> None:
    ragged = make_dataset("ragged", [make_view([np.ones(3), np.ones(4)], "image")])
    with pytest.raises(ExtractionFailed, match=r"rows of shapes \[3\] and \[4\] cannot be stacked"):
        featcache.extract(ragged, lambda rows: rows, name="same", identity="i", cache=cache)
    assert list(cache.arrays()) == []
    with pytest.raises(UsageError, match="list is no data set.*make_dataset"):
        featcache.extract([np.ones(3)], lambda rows: rows, name="same", identity="i", cache=cache)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_view(iter("ab"), "text"), "wanted rows with a length and an index"),
        (lambda: make_view(["a"], "matrix"), "modality 'matrix': wanted one of image, text, audio"),  # type: ignore[arg-type]
        (lambda: make_view(["a", "b"], "text", ids=["x"]), "1 ids and 1 groups for 2 rows"),
        (lambda: make_view(["a", "b"], "text", ids=["x", "x"]), "stand more than once"),
        (lambda: make_view(["a", " "], "text").content(1), "wanted a text"),
        (lambda: make_dataset("d", []), "wanted one or more"),
        (lambda: make_dataset("d", [make_view(["a"], "text")], splits={"z": "test"}), "1 groups are in no view"),
        (lambda: make_dataset("d", [make_view(["a"], "text")], labels={"c": {"z": "1"}}), "c: 1 groups are in no"),
    ],
)
def test_rows_that_make_no_view_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(DataInvalid, match=words):
        make()


def test_features_come_as_torch_rows_blocks_and_frames(rows: np.ndarray, cache: Cache) -> None:
    features = featcache.extract(numbers(rows), Net(), name="net", cache=cache)
    sampled = features.rows("parity")
    values, classes = next(iter(DataLoader(sampled, batch_size=N)))
    assert torch.equal(values, features.tensor()) and sampled.classes == ("0", "1")
    assert classes.tolist() == [at % 2 for at in range(N)]
    assert torch.equal(torch.cat([*features.rows().blocks(7)]), features.tensor())
    assert torch.equal(features.rows()[3], features.tensor()[3])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no label 'colour' in signals; it has parity"):
        features.rows("colour")
    frame = features.frame(values=True)
    assert frame.columns == ["id", "group", "split", "parity", "features"]
    np.testing.assert_array_equal(np.stack(frame["features"].to_list()), features.values)
    test = cache.load("signals", "net", split="test")
    assert test.ids.tolist() == [f"row{at}" for at in range(0, N, 4)] and set(test.splits) == {"test"}
    with pytest.raises(UsageError, match="no row of signals is in split 'validation'; there are test, train"):
        cache.load("signals", "net", split="validation")


def test_two_modalities_are_paired_by_group(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path, photos=20, captions=3)
    images, captions = cache.load("openmoji", "efficientnet-lite0"), cache.load("openmoji", "minilm")
    assert not (images.ids == captions.ids[: len(images)]).any(), "ids are of no help"
    x, y = featcache.pair(images, captions)
    assert x.groups.tolist() == y.groups.tolist() and len(x) == 20
    slow = np.stack([captions.values[captions.groups == group].astype(float).mean(axis=0) for group in x.groups])
    np.testing.assert_allclose(y.values, slow, rtol=1e-3, atol=1e-6)
    x, y = featcache.pair(images, captions, pairing="all")
    assert len(x) == 60 and x.groups.tolist() == y.groups.tolist() and y.ids.tolist() == captions.ids.tolist()
    with pytest.raises(UsageError, match="pair features of one data set"):
        from dataclasses import replace

        featcache.pair(images, replace(captions, dataset="other"))


def test_a_run_is_an_estimator(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path, photos=40, captions=2)
    load = partial(cache.load, "openmoji")
    sides = {"images": load("efficientnet-lite0"), "captions": load("minilm")}
    bench = Workbench(sides, load("efficientnet-lite2"))
    train(bench, make_config(epochs=1, batch=8, width=6, k=3, permutations=39, halves=20), tmp_path / "run")
    adapter = Adapter.load(tmp_path / "run")
    assert repr(adapter) == f"Adapter({tmp_path / 'run'}: {', '.join(adapter.sides)})"
    assert adapter.sides == ["images", "captions"]
    joint = adapter.transform(sides["images"])
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        adapter.transform(sides["images"].values.astype(np.float32), side="images"), joint, atol=1e-6
    )
    with torch.inference_mode():
        raw = adapter.module("images")(sides["images"].tensor().float())
    np.testing.assert_allclose(nn.functional.normalize(raw, dim=1), joint, atol=1e-5)
    for bad, words in ((None, "side= one of images, captions"), ("audio", "side= one of")):
        with pytest.raises(UsageError, match=words):
            adapter.transform(np.zeros((2, 3), np.float32), side=bad)
    with pytest.raises(UsageError, match="was trained on"):
        adapter.transform(np.zeros((2, 3), np.float32), side="images")
