"""Do the plain libraries read back, from every format, exactly what the cache holds?"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.views import Dataset, Overlay, View
from featcache.errors import Damaged, FeaturesNotCached, UsageError
from featcache.interchange.exporting import FORMATS, export_features
from featcache.store.array import FeatureArray
from featcache.store.digest import FORMAT, ArrayKey
from featcache.store.layout import Layout
from featcache.store.records import chunk_name
from featcache.store.rows import write_rows

N, D, ROWS = 43, 5, 8
FAILED = ("r9", "r10", "r42")
Read = tuple[np.ndarray, dict[str, list[str]], list[str], dict[str, Any], str]


def read_hdf5(path: Path) -> Read:
    import h5py

    with h5py.File(path) as opened:
        file: Any = opened
        texts: dict[str, Any] = {name: file[name].asstr()[()] for name in file if name != "values"}
        key, root, failed = texts.pop("key.json"), texts.pop("root"), texts.pop("failed")
        columns = {name: column.tolist() for name, column in texts.items()}
        assert file["values"].chunks is None
        return file["values"][()], columns, failed.tolist(), json.loads(key), root


def read_npz(path: Path) -> Read:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name].tolist() for name in file.files}
        values = file["values"]
    del columns["values"]
    key, root, failed = columns.pop("key.json"), columns.pop("root"), columns.pop("failed")
    return values, columns, failed, json.loads(key), root


def read_parquet(path: Path) -> Read:
    import polars as pl

    metadata = pl.read_parquet_metadata(path)
    table = pl.read_parquet(path)
    values = table["values"].to_numpy()
    columns = {name: table[name].to_list() for name in table.columns if name != "values"}
    return values, columns, json.loads(metadata["failed"]), json.loads(metadata["key.json"]), metadata["root"]


def read_safetensors(path: Path) -> Read:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the handle is no mapping
    values = tensors.pop("values")
    columns = {name: json.loads(tensor.tobytes()) for name, tensor in tensors.items()}
    failed = columns.pop("failed")
    return values, columns, failed, json.loads(metadata["key.json"]), metadata["root"]


READERS: dict[str, Callable[[Path], Read]] = {
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".safetensors": read_safetensors,
}
suffixes = pytest.mark.parametrize("suffix", FORMATS)


def values(dtype: str) -> np.ndarray:
    """Values whose bits are easily lost: negative zero, subnormal, infinity, the largest."""
    made = np.random.default_rng(0).standard_normal((N, D)).astype(dtype)
    info = np.finfo(made.dtype)
    made[0] = [-0.0, info.smallest_subnormal, info.max, info.min, np.inf]
    return made


def cached(
    folder: Path,
    *,
    dtype: str = "float16",
    failed: tuple[str, ...] = FAILED,
    label: str = "rot, grün\n😀",
    n: int = N,
    finite: bool = False,
) -> tuple[Cache, FeatureArray]:
    """A cache with one array, some rows of which failed."""
    ids = tuple(f"r{row}" for row in range(n))
    groups = tuple(f"grüppe {row // 2}" for row in range(n))
    view = View("captions", "text", ids, groups, lambda row: ids[row].encode(), bytes.decode)
    vars(view)["hashes"] = tuple("h" for _ in ids)
    unique = tuple(dict.fromkeys(groups))
    splits = tuple(("train", "test", "")[number % 3] for number in range(len(unique)))
    labels = {"colour": tuple(label if number % 2 else "" for number in range(len(unique)))}
    dataset = Dataset("tiny", {"captions": view}, Overlay(unique, splits, labels), "public domain", "made by a test")
    cache = Cache(folder)
    write_rows(cache.folder / "tiny" / "captions", view, dataset.overlay)
    rows = {"modality": "text", "decoding": {}, "root": view.root, "n": n}
    binds = {"format": FORMAT, "rows": rows, "encoder": {"test": 1}, "layer": "last.mean", "dtype": dtype, "d": D}
    key = ArrayKey("tiny", "captions", "fake", "last.mean", binds, {"note": "naïve"})
    array = cache.array(key.path)
    plan = array.create(key, Layout(n, min(ROWS, n), 4, "row", 1))
    block = np.resize(values(dtype), (n, D))
    block[~np.isfinite(block)] = 0.5 if finite else np.inf
    block[[row for row, row_id in enumerate(ids) if row_id in failed]] = np.nan
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        array.commit(plan, chunk, block[start:stop], writer="w", ids=ids[start:stop])
    array.finish(plan)
    return cache, array


def test_every_suffix_has_a_round_trip() -> None:
    assert READERS.keys() == FORMATS.keys()


@suffixes
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("failed", [(), FAILED])
def test_what_is_exported_is_read_back_bit_for_bit(
    tmp_path: Path, suffix: str, dtype: str, failed: tuple[str, ...]
) -> None:
    cache, array = cached(tmp_path / "cache", dtype=dtype, failed=failed)
    path = export_features(cache, array, tmp_path / f"out{suffix}")
    values, columns, left_out, key, root = READERS[suffix](path)
    features = cache.load_array(array)
    assert values.dtype == dtype
    assert values.shape == (N - len(failed), D)
    assert values.tobytes() == features.values.tobytes()
    assert columns == {
        "ids": features.ids.tolist(),
        "groups": features.groups.tolist(),
        "splits": features.splits.tolist(),
        "label.colour": features.labels["colour"].tolist(),
    }
    assert left_out == list(failed)
    assert key == array.key().to_json()
    assert root == array.complete().root
    assert [entry for entry in os.listdir(tmp_path) if entry != "cache"] == [path.name]


@suffixes
def test_the_same_array_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    cache, array = cached(tmp_path / "cache")
    first = export_features(cache, array, tmp_path / f"a{suffix}")
    time.sleep(0.01)
    assert first.read_bytes() == export_features(cache, array, tmp_path / f"b{suffix}").read_bytes()


@suffixes
def test_an_array_of_which_every_row_failed_exports_no_rows(tmp_path: Path, suffix: str) -> None:
    cache, array = cached(tmp_path / "cache", failed=("r0", "r1", "r2"), n=3)
    values, columns, failed, _, _ = READERS[suffix](export_features(cache, array, tmp_path / f"out{suffix}"))
    assert values.shape == (0, D)
    assert columns["ids"] == []
    assert failed == ["r0", "r1", "r2"]


def test_torch_reads_the_safetensors_file(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    cache, array = cached(tmp_path / "cache", failed=())
    tensor = load_file(export_features(cache, array, tmp_path / "out.safetensors"))["values"]
    assert tensor.dtype == torch.float16
    assert tensor.numpy().tobytes() == array.read().tobytes()


def test_an_existing_file_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    cache, array = cached(tmp_path / "cache")
    path = tmp_path / "out.npz"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="out.npz is there already. Replace it with --overwrite"):
        export_features(cache, array, path)
    assert path.read_bytes() == b"mine"
    export_features(cache, array, path, overwrite=True)
    assert READERS[".npz"](path)[4] == array.complete().root


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, array = cached(tmp_path / "cache")
    path = tmp_path / "out.npz"
    opened = FeatureArray.open

    def open_late(self: FeatureArray, **options: Any) -> Any:
        path.write_bytes(b"another process")
        return opened(self, **options)

    monkeypatch.setattr(FeatureArray, "open", open_late)
    with pytest.raises(UsageError, match="is there already"):
        export_features(cache, array, path)
    assert path.read_bytes() == b"another process"
    assert sorted(os.listdir(tmp_path)) == ["cache", "out.npz"]


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    cache, array = cached(tmp_path / "cache")
    for name in ("out.pkl", "out", "out.npy"):
        with pytest.raises(UsageError, match=r"known are \.h5, \.hdf5, \.npz, \.parquet, \.safetensors"):
            export_features(cache, array, tmp_path / name)
    with pytest.raises(UsageError, match="there is no folder .*nowhere"):
        export_features(cache, array, tmp_path / "nowhere" / "out.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(UsageError, match="folder.h5 is a folder"):
        export_features(cache, array, tmp_path / "folder.h5", overwrite=True)


@suffixes
def test_a_damaged_chunk_is_named_and_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    cache, array = cached(tmp_path / "cache")
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    chunk = array.path / chunk_name(3)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:7] + bytes([whole[7] ^ 1]) + whole[8:])
    with pytest.raises(Damaged, match="chunk 3 of .* flipped bits"):
        export_features(cache, array, path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["cache", path.name]


@suffixes
def test_a_nan_that_no_commit_lists_is_refused(tmp_path: Path, suffix: str) -> None:
    cache, array = cached(tmp_path / "cache", failed=())
    plan = array.layout()
    assert plan is not None
    other = cache.array(array.key().path.replace("/fake/", "/other/"))
    key = array.key()
    other.create(ArrayKey("tiny", "captions", "other", "last.mean", key.binds), plan)
    block = values("float16")
    block[13] = np.nan
    ids = [f"r{row}" for row in range(plan.n)]
    for chunk in range(plan.chunks):
        start, stop = plan.span(chunk)
        other.commit(plan, chunk, block[start:stop], writer="w", ids=ids[start:stop])
    record = other.path / "commits" / f"{13 // plan.chunk_rows}.json"
    record.write_text(record.read_text().replace('"r13"', ""))
    other.finish(plan)
    with pytest.raises(Damaged, match="row 'r13' is NaN and no commit lists it"):
        export_features(cache, other, tmp_path / f"out{suffix}")
    assert os.listdir(tmp_path) == ["cache"]


def test_an_incomplete_array_is_not_exported(tmp_path: Path) -> None:
    cache, array = cached(tmp_path / "cache")
    (array.path / "COMPLETE.json").unlink()
    with pytest.raises(FeaturesNotCached):
        export_features(cache, array, tmp_path / "out.h5")


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_text_that_a_format_would_cut_is_refused(tmp_path: Path, suffix: str) -> None:
    cache, array = cached(tmp_path / "cache", label="cut\0")
    with pytest.raises(UsageError, match=r"cannot hold the character NUL of 'cut\\x00' in label.colour"):
        export_features(cache, array, tmp_path / f"out{suffix}")
    assert os.listdir(tmp_path) == ["cache"]
    path = export_features(cache, array, tmp_path / "out.parquet")
    assert "cut\0" in read_parquet(path)[1]["label.colour"]


def test_without_a_library_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    cache, array = cached(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'featcache\[share\]'"):
        export_features(cache, array, tmp_path / "out.h5")
    monkeypatch.delattr(pl, "Float16")
    with pytest.raises(UsageError, match="pip install -U polars"):
        export_features(cache, array, tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == ["cache"]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from featcache.cache import Cache
from featcache.interchange.exporting import export_features
from featcache.store.array import FeatureArray
opened = FeatureArray.open
class Slow:
    def __init__(self, reader): self.reader, self.key = reader, reader.key
    def read(self, start, stop):
        print("block", flush=True)
        time.sleep(0.2)
        return self.reader.read(start, stop)
FeatureArray.open = lambda self, **options: Slow(opened(self, **options))
cache = Cache(sys.argv[1])
export_features(cache, next(cache.arrays()), Path(sys.argv[3]), overwrite=True)
"""


@suffixes
def test_a_killed_export_leaves_the_old_file_whole(tmp_path: Path, suffix: str) -> None:
    cached(tmp_path / "cache")
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), str(Path(__file__).parents[1]), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "block\n"
        assert process.stdout.readline() == "block\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
