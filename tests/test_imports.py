"""Do rows that another tool made come in whole, or not at all?"""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.errors import FeatcacheError, FeaturesNotCached, Overflow, UsageError
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from featcache.store.layout import Layout
from tests.foreign import IDS, D, N, holds_nothing, npy, take_npy, values, write_ids


def ids_txt(folder: Path) -> Path:
    return write_ids(folder)


def ids_txt_of_windows(folder: Path) -> Path:
    path = folder / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(IDS).encode())
    return path


def ids_npy(folder: Path) -> Path:
    np.save(folder / "ids.npy", np.array(IDS))
    return folder / "ids.npy"


def ids_csv(folder: Path) -> Path:
    import polars as pl

    pl.DataFrame({"other": range(N), "id": IDS}).write_csv(folder / "ids.csv")
    return folder / "ids.csv"


def ids_parquet(folder: Path) -> Path:
    import polars as pl

    pl.DataFrame({"name": IDS}).write_parquet(folder / "ids[1].parquet")
    return folder / "ids[1].parquet"


@pytest.mark.parametrize("make", [ids_txt, ids_txt_of_windows, ids_npy, ids_csv, ids_parquet])
def test_rows_get_their_names_from_any_kind_of_id_file(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    take_npy(tmp_path, ids=make(tmp_path))
    features = Cache(tmp_path / "cache").load("photos", "theirs")
    assert features.ids.tolist() == features.groups.tolist() == list(IDS)
    assert set(features.splits) == {""}
    assert features.view == "images"
    np.testing.assert_array_equal(features.values, values())


@pytest.mark.parametrize("n", [1, 257, 4000])
def test_values_of_many_chunks_come_in_bit_for_bit(tmp_path: Path, n: int) -> None:
    made = values(n, 300, "float16")
    ids = write_ids(tmp_path, [f"r{row}" for row in range(n)])
    (array,) = take_npy(tmp_path, np.asfortranarray(made), ids=ids)
    assert array.read().tobytes() == made.tobytes()
    assert list(verify(Cache(tmp_path / "cache"))) == []


def test_big_endian_rows_are_stored_as_the_same_numbers(tmp_path: Path) -> None:
    (array,) = take_npy(tmp_path, values().astype(">f4"))
    np.testing.assert_array_equal(array.read(), values())


def test_the_key_binds_the_file_and_the_ids_and_names_no_path(tmp_path: Path) -> None:
    (array,) = take_npy(tmp_path)
    key = array.key()
    imported = key.binds["encoder"]["imported"]
    assert imported["kind"] == "npy"
    assert imported["blake3"] == blake3((tmp_path / "rows.npy").read_bytes()).hexdigest()
    assert key.provenance["from"] == "rows.npy"
    assert str(tmp_path) not in (array.path / "key.json").read_text()
    (again,) = take_npy(tmp_path)
    assert again.path == array.path
    (other,) = take_npy(tmp_path, ids=write_ids(tmp_path, IDS[::-1]))
    assert other.key().digest != key.digest
    np.testing.assert_array_equal(other.read(), values()[::-1])  # in the order of the rows that are cached by now


def test_an_import_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = values(1200, 400)
    ids = write_ids(tmp_path, [f"r{row}" for row in range(1200)])
    commit = FeatureArray.commit
    written: list[int] = []

    def failing(self: FeatureArray, plan: Layout, chunk: int, *args: Any, **kwargs: Any) -> Any:
        if len(written) == 1:
            raise OSError(28, "No space left on device")
        written.append(chunk)
        return commit(self, plan, chunk, *args, **kwargs)

    monkeypatch.setattr(FeatureArray, "commit", failing)
    with pytest.raises(OSError, match="No space left"):
        take_npy(tmp_path, made, ids=ids)
    with pytest.raises(FeaturesNotCached):
        Cache(tmp_path / "cache").load("photos", "theirs")
    monkeypatch.setattr(FeatureArray, "commit", commit)
    (array,) = take_npy(tmp_path, made, ids=ids)
    np.testing.assert_array_equal(array.read(), made)


def test_groups_come_from_a_column(tmp_path: Path) -> None:
    import polars as pl

    groups = [f"g{row // 3}" for row in range(N)]
    pl.DataFrame({"id": IDS, "group": groups}).write_csv(tmp_path / "ids.csv")
    take_npy(tmp_path, ids=tmp_path / "ids.csv")
    assert Cache(tmp_path / "cache").load("photos", "theirs").groups.tolist() == groups


def test_float64_is_rounded_only_if_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float64, which is not stored. Round it: --dtype float32"):
        take_npy(tmp_path, values(dtype="float64"))
    assert holds_nothing(tmp_path)
    (array,) = take_npy(tmp_path, values(dtype="float64"), dtype="float32")
    np.testing.assert_array_equal(array.read(), values(dtype="float64").astype(np.float32))


def test_a_value_past_the_range_of_the_stored_type_is_named(tmp_path: Path) -> None:
    made = values()
    made[7, 1] = 70_000
    with pytest.raises(Overflow, match="row 'photo 7.jpg' of last.cls passes the range of float16. .*--dtype float32"):
        take_npy(tmp_path, made, dtype="float16")
    assert holds_nothing(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    made = values()
    made[11, 3] = bad
    with pytest.raises(DataInvalid, match=r"row 'photo 11.jpg' \(number 11\) of last.cls holds NaN or infinity"):
        take_npy(tmp_path, made)
    assert holds_nothing(tmp_path)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_no_pickle_is_ever_opened(tmp_path: Path) -> None:
    import torch

    trace = tmp_path / "trace"
    np.save(tmp_path / "object.npy", np.array([[Bomb(trace)]], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb(trace)))
    np.savez(tmp_path / "zip.npz", rows=np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    np.save(tmp_path / "ids.npy", np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    torch.save({"feats": torch.ones(N, 2, D), "more": Bomb(trace)}, tmp_path / "vit_pool-none.pt")
    (tmp_path / "bare_pool-none.pt").write_bytes(pickle.dumps({"feats": Bomb(trace)}))
    cache = Cache(tmp_path / "cache")
    ids = write_ids(tmp_path)
    for name in ("object.npy", "pickle.npy", "zip.npy", "vit_pool-none.pt", "bare_pool-none.pt"):
        layer = "last.cls" if name.endswith(".npy") else None
        with pytest.raises(DataInvalid, match=rf"{name} cannot be read as .*unpickled"):
            import_features(cache, tmp_path / name, dataset="photos", encoder="e", layer=layer,
                            options=ImportOptions(ids=ids, modality="image"))  # fmt: skip
    with pytest.raises(DataInvalid, match="ids.npy cannot be read as .npy"):
        take_npy(tmp_path, ids=tmp_path / "ids.npy")
    assert not trace.exists()
    assert holds_nothing(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(N, np.float32), r"shape \[30\]"),
        (np.ones((N, 2, 2), np.float32), r"shape \[30, 2, 2\]"),
        (np.ones((0, D), np.float32), r"shape \[0, 6\]"),
        (np.ones((N, 0), np.float32), r"shape \[30, 0\]"),
        (np.ones((N, D), np.int64), "holds int64"),
        (np.ones((N, D), np.complex64), "holds complex64"),
        (np.array([["a"]]), "holds str"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        take_npy(tmp_path, array)
    assert holds_nothing(tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 100, 200])
def test_a_short_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = npy(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataInvalid, match="rows.npy (cannot be read as .npy|claims 720 bytes)"):
        import_features(Cache(tmp_path / "cache"), path, dataset="photos", encoder="e", layer="last.cls",
                        options=ImportOptions(ids=write_ids(tmp_path), modality="image"))  # fmt: skip
    assert holds_nothing(tmp_path)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS[:-1], "rows.npy has 30 rows, but there are 29 ids"),
        ((*IDS[:-1], IDS[3]), "1 ids stand more than once, the first 'photo 3.jpg'"),
        ((*IDS[:-1], ""), "entry of row 29 among the ids is empty"),
    ],
)
def test_ids_that_do_not_fit_are_named(tmp_path: Path, ids: Sequence[str], message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        take_npy(tmp_path, ids=write_ids(tmp_path, ids))
    assert holds_nothing(tmp_path)


def test_what_the_file_does_not_say_must_be_said(tmp_path: Path) -> None:
    cache, path, ids = Cache(tmp_path / "cache"), npy(tmp_path), write_ids(tmp_path)

    def refuse(message: str, *, source: Path = path, **names: Any) -> None:
        given = {"ids": ids, "modality": "image"} | names.pop("options", {})
        arguments = {"dataset": "photos", "encoder": "e", "layer": "last.cls"} | names
        with pytest.raises(UsageError, match=message):
            import_features(cache, source, **arguments, options=ImportOptions(**given))

    refuse("does not say which layer .*--layer", layer=None)
    refuse("'middle' is not a layer", layer="middle")
    refuse("does not say which row is which. .*--ids", options={"ids": None})
    refuse("does not say what its rows show: --modality", options={"modality": None})
    refuse("there is no file .*nowhere.txt with ids", options={"ids": tmp_path / "nowhere.txt"})
    refuse("there is no .*nowhere.npy", source=tmp_path / "nowhere.npy")
    refuse("known formats:\n  featcache: ", options={"format": "zip"})
    refuse("is of no known format; say which with --format", source=ids)
    refuse("stored as float16 or float32, not int8", options={"dtype": "int8"})
    refuse("rows show image, text or audio, not video", options={"modality": "video"})
    refuse("cannot be the name of a data set", dataset="../up")
    refuse("cannot be the name of an encoder", encoder="a/b")
    refuse("cannot be the name of a view", view=".x")
    refuse("has no columns; --id-column is for", options={"id_column": "x"})
    refuse("no column 'x'; name one with --id-column: other, id", options={"ids": ids_csv(tmp_path), "id_column": "x"})
    assert holds_nothing(tmp_path)


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    """Random bytes under every name that is known."""
    noise = np.random.default_rng(0).bytes(3000)
    ids = write_ids(tmp_path)
    for name in ("x.npy", "features.h5", "x_pool-avg.pt", "x.csv", "x.parquet"):
        (tmp_path / name).write_bytes(noise)
        source, given = (npy(tmp_path), tmp_path / name) if name in ("x.csv", "x.parquet") else (tmp_path / name, ids)
        with pytest.raises((FeatcacheError, DataInvalid), match=name[:4]):
            import_features(Cache(tmp_path / "cache"), source, dataset="d", encoder="e",
                            layer=None if name.endswith("pt") else "last.cls",
                            options=ImportOptions(ids=given, modality="image"))  # fmt: skip
    assert holds_nothing(tmp_path)
