"""Is what thingsvision, platonic-rep and clip-retrieval leave behind read as they mean it?"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats import FORMATS, detect
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from tests.foreign import IDS, D, N, cache_rows, holds_nothing, npy, values, write_ids


def thingsvision(folder: Path, names: Sequence[str] = IDS) -> Path:
    """An output folder as thingsvision leaves it, without features."""
    out = folder / "out"
    out.mkdir()
    write_ids(out, names, "file_names.txt")
    return out


def take_thingsvision(folder: Path, source: Path, **options: Any) -> list[FeatureArray]:
    return import_features(Cache(folder / "cache"), source, dataset="photos", encoder="vgg16", layer="10.flat",
                           options=ImportOptions(**options))  # fmt: skip


def parts_of_steps(out: Path) -> None:
    for start, stop in ((0, 9), (9, 18), (18, N)):
        np.save(out / f"features_{start}-{stop}.npy", values()[start:stop])


def parts_of_splits(out: Path) -> None:
    for number, rows in enumerate(np.array_split(values(), 11), start=1):
        np.save(out / f"features_{number:02d}.npy", rows)


def whole_hdf5(out: Path) -> None:
    import h5py

    with h5py.File(out / "features.hdf5", "w") as file:
        file.create_dataset("features", data=values())


def split_hdf5(out: Path) -> None:
    import h5py

    with h5py.File(out / "features.hdf5", "w") as file:
        for number, rows in enumerate(np.array_split(values(), 11), start=1):
            file.create_dataset(f"features_{number:02d}", data=rows, chunks=True, compression="gzip")


@pytest.mark.parametrize(
    "write", [lambda out: npy(out, name="features.npy"), parts_of_steps, parts_of_splits, whole_hdf5, split_hdf5]
)
@pytest.mark.parametrize("cached", [False, True])
def test_every_layout_of_thingsvision_comes_in(tmp_path: Path, write: Callable[[Path], None], cached: bool) -> None:
    order = list(np.random.default_rng(1).permutation(N)) if cached else list(range(N))
    if cached:
        cache_rows(tmp_path, [IDS[row] for row in order])
    out = thingsvision(tmp_path)
    write(out)
    assert detect(out) == "thingsvision"
    take_thingsvision(tmp_path, out)
    features = Cache(tmp_path / "cache").load("photos", "vgg16/10.flat")
    assert features.ids.tolist() == [IDS[row] for row in order]
    np.testing.assert_array_equal(features.values, values()[order])


def test_a_module_folder_takes_the_names_from_the_folder_above(tmp_path: Path) -> None:
    out = thingsvision(tmp_path)
    (out / "features.10").mkdir()
    path = npy(out / "features.10", name="features.npy")
    assert detect(path) == "thingsvision"
    (array,) = take_thingsvision(tmp_path, path)
    assert array.key().provenance["from"] == "features.npy"
    np.testing.assert_array_equal(array.read(), values())


@pytest.mark.parametrize(
    ("cached", "seen"),
    [
        (IDS, [f"/home/them/flickr/{name}" for name in IDS]),
        ([f"images/{name}" for name in IDS], [f"/home/them/images/{name}" for name in IDS]),
        (
            [f"{row % 2}/{name}" for row, name in enumerate(IDS)],
            [f"../x/{row % 2}/{name}" for row, name in enumerate(IDS)],
        ),
        ([f"img/{name}" for name in IDS], [f"img/{name}" for name in IDS]),
    ],
)
def test_paths_as_the_tool_saw_them_find_the_rows_that_are_cached(
    tmp_path: Path, cached: Sequence[str], seen: Sequence[str]
) -> None:
    cache = cache_rows(tmp_path, cached)
    out = thingsvision(tmp_path, seen)
    npy(out, name="features.npy")
    take_thingsvision(tmp_path, out)
    assert cache.load("photos", "vgg16").ids.tolist() == list(cached)


def test_absolute_paths_of_another_machine_become_ids_below_their_common_folder(tmp_path: Path) -> None:
    out = thingsvision(tmp_path, [f"/home/them/{row % 2}/{name}" for row, name in enumerate(IDS)])
    npy(out, name="features.npy")
    (array,) = take_thingsvision(tmp_path, out)
    assert Cache(tmp_path / "cache").load_array(array).ids[1] == "1/photo 1.jpg"


def test_what_thingsvision_does_not_write_is_refused(tmp_path: Path) -> None:
    import h5py

    out = thingsvision(tmp_path)
    with pytest.raises(UsageError, match="holds no features.npy"):
        take_thingsvision(tmp_path, out, format="thingsvision")
    (out / "features.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataInvalid, match="features.hdf5 cannot be read as HDF5"):
        take_thingsvision(tmp_path, out)
    with h5py.File(out / "features.hdf5", "w") as file:
        file["rows"] = values()
    with pytest.raises(DataInvalid, match='has no data set "features"; it has rows'):
        take_thingsvision(tmp_path, out)
    npy(out, name="features.npy")
    with pytest.raises(UsageError, match="holds features.npy, features.hdf5; name one of the files"):
        take_thingsvision(tmp_path, out)
    (out / "file_names.txt").unlink()
    whole_hdf5(out)
    with pytest.raises(UsageError, match="no file_names.txt beside features.hdf5. .*--ids"):
        take_thingsvision(tmp_path, out / "features.hdf5")
    (out / "features.hdf5").unlink()
    (out / "file_names.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataInvalid, match="file_names.txt is not UTF-8"):
        take_thingsvision(tmp_path, out)
    assert holds_nothing(tmp_path)


def test_without_h5py_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = thingsvision(tmp_path)
    whole_hdf5(out)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'featcache\[share\]'"):
        take_thingsvision(tmp_path, out)


def test_parts_of_different_width_are_refused(tmp_path: Path) -> None:
    out = thingsvision(tmp_path)
    np.save(out / "features_01.npy", values(10, 4))
    np.save(out / "features_02.npy", values(20, 5))
    with pytest.raises(DataInvalid, match=r"features_02.npy is 5 wide \(float32\), features_01.npy is 4 wide"):
        take_thingsvision(tmp_path, out)


def test_a_damaged_hdf5_chunk_is_an_error_that_names_it(tmp_path: Path) -> None:
    import h5py

    out = thingsvision(tmp_path)
    with h5py.File(out / "features.hdf5", "w") as file:
        dataset = file.create_dataset("features", data=values(), chunks=(10, D), fletcher32=True)
        place = dataset.id.get_chunk_info(1).byte_offset
    with (out / "features.hdf5").open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff\xff")
    with pytest.raises(DataInvalid, match="features.hdf5/features cannot be read"):
        take_thingsvision(tmp_path, out)
    assert holds_nothing(tmp_path)


# -- platonic-rep -----------------------------------------------------------------------------------------------


def platonic(folder: Path, name: str, *, text: bool, dtype: str = "float32", **more: Any) -> tuple[Path, np.ndarray]:
    """A file as platonic-rep's extract_features.py saves it: [n, 4 layers, d]."""
    import torch

    feats = torch.from_numpy(values(N * 4).reshape(N, 4, D)).to(getattr(torch, dtype))
    content: dict[str, Any] = {"feats": feats, "num_params": 124}
    if text:
        mask = torch.ones(N, 9, dtype=torch.int64)
        content |= {"mask": mask, "loss": torch.tensor(3.5), "bpb": torch.tensor(0.75)}
    torch.save(content | more, folder / name)
    return folder / name, feats.float().numpy()


def take_platonic(folder: Path, path: Path, layer: str | None = None, **options: Any) -> list[FeatureArray]:
    return import_features(Cache(folder / "cache"), path, dataset="wit_1024", encoder="gpt2", layer=layer,
                           options=ImportOptions(**options))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "view", "layers"),
    [
        ("gpt2_pool-avg.pt", True, "captions", ["0.mean", "1.mean", "2.mean", "last.mean"]),
        ("a_b_pool-none_prompt-True.pt", True, "captions", [*(f"{i}.last-token" for i in range(3)), "last.last-token"]),
        ("vit_tiny.augreg_pool-none.pt", False, "images", ["1.cls", "2.cls", "3.cls", "4.cls"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_layer_of_platonic_rep_gets_our_name(
    tmp_path: Path, name: str, text: bool, view: str, layers: list[str], dtype: str
) -> None:
    path, feats = platonic(tmp_path, name, text=text, dtype=dtype)
    arrays = take_platonic(tmp_path, path)
    assert [array.key().layer for array in arrays] == layers
    for number, array in enumerate(arrays):
        assert array.key().view == view
        stored = array.read()
        assert stored.dtype == ("float16" if dtype == "float16" else "float32")
        np.testing.assert_array_equal(stored, feats[:, number])
    features = Cache(tmp_path / "cache").load("wit_1024", "gpt2")
    assert features.layer == layers[-1]
    assert features.ids[:2].tolist() == ["0000", "0001"]  # as data set wit_1024 names its rows
    facts = arrays[0].key().provenance
    assert facts["num_params"] == 124
    assert facts.get("bpb") == (0.75 if text else None)


def test_one_layer_can_be_chosen(tmp_path: Path) -> None:
    path, feats = platonic(tmp_path, "gpt2_pool-avg.pt", text=True)
    (array,) = take_platonic(tmp_path, path, "1.mean")
    np.testing.assert_array_equal(array.read(), feats[:, 1])
    assert len(list(Cache(tmp_path / "cache").arrays())) == 1
    with pytest.raises(UsageError, match="has no layer 9.mean; it has 0.mean, 1.mean, 2.mean, last.mean"):
        take_platonic(tmp_path, path, "9.mean")


def test_a_bad_value_in_the_last_layer_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    import torch

    feats = torch.ones(N, 3, D)
    feats[5, 2, 0] = torch.nan
    torch.save({"feats": feats, "num_params": 1}, tmp_path / "vit_pool-none.pt")
    with pytest.raises(DataInvalid, match=r"row '0005' \(number 5\) of 3.cls"):
        take_platonic(tmp_path, tmp_path / "vit_pool-none.pt")
    assert holds_nothing(tmp_path)


def test_the_old_format_of_torch_is_read_too(tmp_path: Path) -> None:
    import torch

    torch.save({"feats": torch.ones(N, 2, D)}, tmp_path / "vit_pool-none.pt", _use_new_zipfile_serialization=False)
    assert len(take_platonic(tmp_path, tmp_path / "vit_pool-none.pt")) == 2


def test_what_platonic_rep_does_not_write_is_refused(tmp_path: Path) -> None:
    import torch

    path, _ = platonic(tmp_path, "gpt2.pt", text=True)
    with pytest.raises(UsageError, match="its name does not tell the pooling of text features"):
        take_platonic(tmp_path, path)
    path, _ = platonic(tmp_path, "vit_pool-avg.pt", text=False)
    with pytest.raises(UsageError, match="its name does not tell the pooling of image features"):
        take_platonic(tmp_path, path)
    path, _ = platonic(tmp_path, "gpt2_pool-avg.pt", text=True)
    with pytest.raises(UsageError, match="holds text features, not image"):
        take_platonic(tmp_path, path, modality="image")
    for content, message in [
        ({"feats": torch.ones(N, D)}, r'wanted "feats" \[rows, layers, features\], got \[30, 6\]'),
        ({"feats": [1, 2]}, "got list"),
        ({"other": torch.ones(N, 2, D)}, "got NoneType; it holds other"),
        ({"feats": torch.ones(N, 2, D, dtype=torch.int32)}, "holds int32"),
    ]:
        torch.save(content, tmp_path / "x_pool-none.pt")
        with pytest.raises(DataInvalid, match=message):
            take_platonic(tmp_path, tmp_path / "x_pool-none.pt")
    for cut in (0, 3, 400):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataInvalid, match="cannot be read as tensors alone"):
            take_platonic(tmp_path, path)
    assert holds_nothing(tmp_path)


# -- clip-retrieval ---------------------------------------------------------------------------------------------


def clip_retrieval(
    folder: Path, *, parts: Sequence[int] = (0, 1, 2, 10), text: bool = True, column: str = "image_path"
) -> Path:
    """An output folder as clip-retrieval writes it: parts in the order of their numbers hold the rows in order."""
    import polars as pl

    out = folder / "embeddings"
    for name in ("img_emb", "text_emb", "metadata"):
        (out / name).mkdir(parents=True)
    for number, rows in zip(parts, np.array_split(np.arange(N), len(parts)), strict=True):
        np.save(out / "img_emb" / f"img_emb_{number}.npy", values(dtype="float16")[rows])
        if text:
            np.save(out / "text_emb" / f"text_emb_{number}.npy", values(dtype="float16", seed=1)[rows])
        frame = pl.DataFrame({column: [f"/data/{IDS[row]}" for row in rows], "caption": ["a"] * len(rows)})
        frame.write_parquet(out / "metadata" / f"metadata_{number}.parquet")
    return out


def take_clip(folder: Path, source: Path, **options: Any) -> list[FeatureArray]:
    return import_features(Cache(folder / "cache"), source, dataset="photos", encoder="clip",
                           options=ImportOptions(**options))  # fmt: skip


def test_parts_of_clip_retrieval_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    out = clip_retrieval(tmp_path)
    images, captions = take_clip(tmp_path, out)
    cache = Cache(tmp_path / "cache")
    np.testing.assert_array_equal(images.read(), values(dtype="float16"))
    np.testing.assert_array_equal(captions.read(), values(dtype="float16", seed=1))
    a, b = cache.load("photos", "images/clip"), cache.load("photos", "captions/clip")
    assert a.ids.tolist() == b.ids.tolist() == list(IDS)
    assert a.groups.tolist() == b.groups.tolist()
    assert a.overlay == b.overlay
    assert a.layer == "last.projected"


def test_one_modality_of_clip_retrieval_finds_the_rows_that_are_cached(tmp_path: Path) -> None:
    cache = cache_rows(tmp_path, IDS[::-1])
    (array,) = take_clip(tmp_path, clip_retrieval(tmp_path, text=False))
    assert cache.load_array(array).ids.tolist() == list(IDS[::-1])
    np.testing.assert_array_equal(array.read(), values(dtype="float16")[::-1])


def test_a_view_can_be_named_for_one_modality_only(tmp_path: Path) -> None:
    out, cache = clip_retrieval(tmp_path), Cache(tmp_path / "cache")
    with pytest.raises(UsageError, match="holds image and text; with --view, say which: --modality image"):
        import_features(cache, out, dataset="photos", encoder="clip", view="alt")
    (array,) = import_features(cache, out, dataset="photos", encoder="clip", view="alt",
                               options=ImportOptions(modality="text"))  # fmt: skip
    assert array.key().view == "alt"


def test_keys_and_named_columns_serve_as_ids(tmp_path: Path) -> None:
    out = clip_retrieval(tmp_path, column="key")
    assert len(take_clip(tmp_path, out)) == 2
    other = clip_retrieval(tmp_path / "other", column="name")
    with pytest.raises(
        UsageError, match="none of the columns image_path, key; name one with --id-column: name, caption"
    ):
        take_clip(tmp_path / "other", other)
    assert len(take_clip(tmp_path / "other", other, id_column="name")) == 2


def test_parts_of_clip_retrieval_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    out = clip_retrieval(tmp_path)
    (out / "metadata" / "metadata_10.parquet").rename(out / "metadata" / "metadata_3.parquet")
    with pytest.raises(DataInvalid, match="part 3 of img_emb is missing"):
        take_clip(tmp_path, out)
    (out / "metadata" / "metadata_3.parquet").unlink()
    with pytest.raises(DataInvalid, match="part 10 of metadata is missing"):
        take_clip(tmp_path, out)
    (out / "img_emb" / "img_emb_10.npy").unlink()
    (out / "text_emb" / "text_emb_10.npy").unlink()
    np.save(out / "text_emb" / "text_emb_1.npy", values(2, dtype="float16"))
    with pytest.raises(DataInvalid, match="text_emb_1.npy has 2 rows, metadata_1.parquet 8"):
        take_clip(tmp_path, out)
    (out / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataInvalid, match="metadata_0.parquet cannot be read as PARQUET"):
        take_clip(tmp_path, out)
    (out / "img_emb" / "img_emb_01.npy").write_bytes(b"")
    with pytest.raises(DataInvalid, match="have the same number"):
        take_clip(tmp_path, out)
    with pytest.raises(UsageError, match="holds no img_emb/img_emb_0.npy or text_emb/text_emb_0.npy"):
        take_clip(tmp_path, tmp_path, format="clip-retrieval")
    assert holds_nothing(tmp_path)


# -- the table --------------------------------------------------------------------------------------------------


def exported(folder: Path) -> Path:
    from featcache.interchange.exporting import export_features

    folder.mkdir()
    cache = cache_rows(folder, IDS)
    return export_features(cache, cache.find("photos", "ours/last.mean"), folder / "ours.npz")


def tensor_alone(folder: Path) -> Path:
    import torch

    torch.save(torch.from_numpy(values()), folder / "alone.pt")
    return folder / "alone.pt"


def test_every_format_of_the_table_is_detected_and_read(tmp_path: Path) -> None:
    thing = thingsvision(tmp_path)
    npy(thing, name="features.npy")
    sources = {
        "npy": (npy(tmp_path), "last.cls", ImportOptions(ids=write_ids(tmp_path), modality="image")),
        "thingsvision": (thing, "last.cls", ImportOptions()),
        "platonic-rep": (platonic(tmp_path, "vit_pool-none.pt", text=False)[0], None, ImportOptions()),
        "clip-retrieval": (clip_retrieval(tmp_path), None, ImportOptions()),
        "featcache": (exported(tmp_path / "ours"), None, ImportOptions()),
        "pt": (tensor_alone(tmp_path), "last.cls", ImportOptions(ids=write_ids(tmp_path), modality="image")),
    }
    assert sources.keys() == FORMATS.keys()
    for name, (source, layer, options) in sources.items():
        assert detect(source) == name
        cache = Cache(tmp_path / name)
        for array in import_features(cache, source, dataset="d", encoder="e", layer=layer, options=options):
            assert array.key().provenance["kind"] == name
            assert array.is_complete
        assert list(verify(cache)) == []
