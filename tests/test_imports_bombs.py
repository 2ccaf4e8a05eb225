"""A file that claims more than it holds, or more than is imported, is refused before memory is taken for it."""

import gzip
import io
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import torch

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.errors import BeyondLimit, FeatcacheError
from featcache.interchange.exporting import FORMATS, export_features
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from tests.foreign import D, N, holds_nothing, take_npy, values, write_ids
from tests.small_caches import store


def take(source: Path, **options: Any) -> None:
    names = {"dataset": "photos", "encoder": "theirs"}
    if source.suffix not in FORMATS or source.name.startswith("features"):
        names["layer"] = None if "pool" in source.name else "last.cls"
        options = {"ids": options.get("ids") or write_ids(source.parent), "modality": "image"}
    import_features(Cache(source.parent / "cache"), source, **names, options=ImportOptions(**options))


def header(descr: str, shape: tuple[int, ...], length: int | None = None) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + (len(text) if length is None else length).to_bytes(4, "little") + text


# -- matrices ----------------------------------------------------------------------------------------------------------


def npy_of_terabytes(folder: Path) -> Path:
    path = folder / "rows.npy"
    path.write_bytes(header("<f4", (10**12, 8)) + bytes(64))
    return path


def npy_with_a_header_of_gigabytes(folder: Path) -> Path:
    path = folder / "rows.npy"
    path.write_bytes(header("<f4", (N, D), length=4 * 10**9))
    os.truncate(path, 5 * 10**9)
    return path


def sparse_npy(folder: Path) -> Path:
    path = folder / "rows.npy"
    path.write_bytes(header("<f4", (10**9, 100)))
    os.truncate(path, 400 * 10**9 + 4096)
    return path


def expanded_tensor(folder: Path) -> Path:
    torch.save(torch.ones(1, 1).expand(2 * 10**6, 10**6), folder / "rows.pt")
    return folder / "rows.pt"


def expanded_layers(folder: Path) -> Path:
    torch.save({"feats": torch.ones(N, 1, D).expand(N, 10**9, D)}, folder / "vit_pool-none.pt")
    return folder / "vit_pool-none.pt"


def sparse_tensor(folder: Path) -> Path:
    torch.save(torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6), check_invariants=False), folder / "rows.pt")
    return folder / "rows.pt"


def tensor_of_nothing(folder: Path) -> Path:
    torch.save(torch.empty(10**6, 10**6, device="meta"), folder / "rows.pt")
    return folder / "rows.pt"


def packed_pt(folder: Path) -> Path:
    whole = io.BytesIO()
    torch.save(torch.zeros(10_000_000, 1), whole)
    path = folder / "rows.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    return path


def hdf5(folder: Path, **options: Any) -> Path:
    with h5py.File(folder / "features.h5", "w") as file:
        file.create_dataset("features", dtype="f4", **options)
    return folder / "features.h5"


def hdf5_without_data(folder: Path) -> Path:
    return hdf5(folder, shape=(10**9, 1000), fillvalue=1.0)


def hdf5_without_most_chunks(folder: Path) -> Path:
    path = hdf5(folder, shape=(10**9, 1000), chunks=(100, 1000), fillvalue=1.0)
    with h5py.File(path, "r+") as file:
        file["features"][:100] = 1.0
    return path


def hdf5_that_unpacks_hugely(folder: Path) -> Path:
    """More than deflate alone reaches."""
    path = hdf5(folder, shape=(100_000, 256), chunks=(100_000, 256), compression="gzip", compression_opts=9)
    with h5py.File(path, "r+") as file:
        file["features"].id.write_direct_chunk((0, 0), zlib.compress(bytes(100_000), 9))
    return path


MATRICES = [
    npy_of_terabytes,
    npy_with_a_header_of_gigabytes,
    sparse_npy,
    expanded_tensor,
    expanded_layers,
    sparse_tensor,
    tensor_of_nothing,
    packed_pt,
    hdf5_without_data,
    hdf5_without_most_chunks,
    hdf5_that_unpacks_hugely,
]


@pytest.mark.parametrize("bomb", MATRICES)
def test_a_matrix_that_claims_more_than_its_file_holds_is_refused_at_once(
    bomb: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = bomb(tmp_path)
    began = time.monotonic()
    refusal = rf"{path.name}.*(claims|chunks|sparse|compressed|beside tensors)"  # and not that the ids are fewer
    with pytest.raises((DataInvalid, BeyondLimit), match=refusal) as caught:
        take(path)
    assert "memory" not in str(caught.value)
    assert time.monotonic() - began < 5 and holds_nothing(tmp_path)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_whole_hdf5_chunks_are_read_compressed_or_not(compression: str | None, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.create_dataset("features", data=np.zeros((N, D), "f4"), chunks=(7, D), compression=compression)
    take(tmp_path / "features.h5")


def test_more_than_the_limit_of_imports_names_the_variable_that_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = N * D * 4 + 128  # with numpy's header
    monkeypatch.setenv("FEATCACHE_MAX_IMPORT_BYTES", str(size - 1))
    with pytest.raises(BeyondLimit, match=f"rows.npy .* {size} bytes .* export FEATCACHE_MAX_IMPORT_BYTES={size}"):
        take_npy(tmp_path)
    assert holds_nothing(tmp_path)
    monkeypatch.setenv("FEATCACHE_MAX_IMPORT_BYTES", str(size))
    take_npy(tmp_path)


# -- texts -------------------------------------------------------------------------------------------------------------


def exported(folder: Path, suffix: str) -> Path:
    cache = Cache(folder / "theirs")
    return export_features(cache, store(cache), folder / f"rows{suffix}")


def hdf5_of_one_text_for_all(folder: Path) -> Path:
    """A text of 1 MB on the heap, which 50,000 descriptors name."""
    path = exported(folder, ".h5")
    with h5py.File(path, "r+") as file:
        n = 50_000
        del file["splits"]
        file.create_dataset(
            "splits", data=np.array([b"x" * 1_000_000] + [b""] * (n - 1), object), dtype=h5py.string_dtype()
        )
        offset = file["splits"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset : offset + 16 * n] = content[offset : offset + 16] * n
    path.write_bytes(content)
    return path


def parquet_of_one_text_for_all(folder: Path) -> Path:
    path = exported(folder, ".parquet")
    metadata = pl.read_parquet_metadata(path)
    pl.read_parquet(path).with_columns(splits=pl.lit("x" * 1_000_000)).write_parquet(
        path, compression="zstd", metadata=metadata
    )
    return path


def npz_that_unpacks(folder: Path) -> Path:
    path = exported(folder, ".npz")
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    members["splits.npy"] = header("<U40000000", (50,)) + bytes(10**8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def csv_of_ids_packed(folder: Path) -> Path:
    path = folder / "ids.csv"
    path.write_bytes(gzip.compress(b"id\n" + b"x" * 50_000_000))
    return path


def parquet_of_ids_that_unpacks(folder: Path) -> Path:
    pl.DataFrame({"id": ["x" * 1_000_000] * N}).write_parquet(folder / "ids.parquet", compression="zstd")
    return folder / "ids.parquet"


def txt_of_ids(folder: Path) -> Path:
    (folder / "ids.txt").write_bytes(b"")
    os.truncate(folder / "ids.txt", 200 * 10**9)
    return folder / "ids.txt"


def npy_of_ids(folder: Path) -> Path:
    (folder / "ids.npy").write_bytes(header("<U0", (10**12,)))
    return folder / "ids.npy"


@pytest.mark.parametrize("bomb", [hdf5_of_one_text_for_all, parquet_of_one_text_for_all, npz_that_unpacks])
def test_an_export_whose_texts_unpack_to_more_than_tables_may_is_refused(
    bomb: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bomb(tmp_path)
    monkeypatch.setenv("FEATCACHE_MAX_TABLE_BYTES", "20000000")
    with pytest.raises((DataInvalid, BeyondLimit), match=path.name.partition(".")[0]) as caught:
        take(path)
    assert "fits into memory" not in str(caught.value)


@pytest.mark.parametrize("bomb", [csv_of_ids_packed, parquet_of_ids_that_unpacks, txt_of_ids, npy_of_ids])
def test_ids_that_unpack_to_more_than_tables_may_are_refused(
    bomb: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = bomb(tmp_path)
    monkeypatch.setenv("FEATCACHE_MAX_TABLE_BYTES", "20000000")
    with pytest.raises((DataInvalid, BeyondLimit), match=ids.name) as caught:
        take_npy(tmp_path, ids=ids)
    assert "fits into memory" not in str(caught.value) and holds_nothing(tmp_path)


# -- pipes and devices -------------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize(
    "name", ["rows.npy", "rows.pt", "features.h5", "rows.npz", "rows.parquet", "rows.safetensors", "folder"]
)
def test_a_pipe_or_a_device_is_never_opened(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        np.save(path / "features_0-1.npy", values())
        make(path / "features_1-2.npy")
        (path / "file_names.txt").write_text("a\n")
    else:
        make(path)
    with pytest.raises((DataInvalid, FeatcacheError), match="pipe or a device"):
        take(path)


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("name", ["ids.txt", "ids.csv", "ids.npy", "ids.parquet"])
def test_ids_are_not_read_from_a_pipe_or_a_device(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises((DataInvalid, FeatcacheError), match=name):
        take_npy(tmp_path, ids=tmp_path / name)


def test_an_export_names_no_folder_outside_the_cache(tmp_path: Path) -> None:
    """The view in the key of an export becomes a folder."""
    path = exported(tmp_path, ".safetensors")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    key = json.loads(head["__metadata__"]["key.json"])
    key["names"]["view"] = "../../../outside"
    head["__metadata__"]["key.json"] = json.dumps(key)
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises((DataInvalid, FeatcacheError), match="outside"):
        take(path)
    assert not (tmp_path.parent / "outside").exists() and not (tmp_path / "outside").exists()


def test_a_chunk_that_is_far_larger_than_its_data_set_is_not_unpacked(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "features.h5", "w") as file:
        wide = {"chunks": (1000, 25_000), "maxshape": (None, None), "compression": "gzip"}
        file.create_dataset("features", data=np.ones((N, D), "f4"), **wide)
    began = time.monotonic()
    with pytest.raises(DataInvalid, match="has chunks of 100,000,000 bytes. Have it written"):
        take(tmp_path / "features.h5")
    assert time.monotonic() - began < 5 and holds_nothing(tmp_path)


def test_a_flipped_bit_in_a_tensor_of_a_pt_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    values = torch.arange(N * D, dtype=torch.float32).reshape(N, D)
    torch.save(values, path)
    content = bytearray(path.read_bytes())
    content[content.find(values.numpy().tobytes()) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataInvalid, match="is not what its checksum says"):
        take(path)
    assert holds_nothing(tmp_path)
