"""What export writes, import reads: values bit for bit, with ids, groups, splits, labels, failed rows and the key."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.exporting import FORMATS, export_features
from featcache.interchange.formats import detect
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from featcache.maintenance.verify import verify
from featcache.store.array import FeatureArray
from featcache.studies.adapters.embed import run_name
from tests.foreign import D, N, holds_nothing, npy, values, write_ids
from tests.test_exports import FAILED, cached
from tests.test_studies_embedding_splits import a_dataset, compared, groups_of, published, trained

suffixes = pytest.mark.parametrize("suffix", FORMATS)
LABEL = "rot, gr\u00fcn\n\U0001f600"


def exported(folder: Path, suffix: str, dtype: str = "float16") -> tuple[Cache, FeatureArray, Path]:
    """A cache with finite values, 3 of 43 rows failed, and an export of it."""
    cache, array = cached(folder / "cache", dtype=dtype, finite=True)
    return cache, array, export_features(cache, array, folder / f"out{suffix}")


def take(cache: Cache, path: Path, **options: Any) -> FeatureArray:
    [array] = import_features(cache, path, dataset="tiny", encoder="back", options=ImportOptions(**options))
    return array


@suffixes
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_export_comes_back_into_an_empty_cache_bit_for_bit(tmp_path: Path, suffix: str, dtype: str) -> None:
    cache, array, path = exported(tmp_path, suffix, dtype)
    assert detect(path) == "featcache"
    there = Cache(tmp_path / "there")
    back, ours = there.load_array(take(there, path)), cache.load_array(array)
    assert back.values.dtype == dtype and back.values.tobytes() == ours.values.tobytes()
    assert (back.view, back.layer) == (ours.view, ours.layer)
    for what in ("ids", "groups", "splits"):
        assert getattr(back, what).tolist() == getattr(ours, what).tolist()
    assert {name: column.tolist() for name, column in back.labels.items()} == {
        name: column.tolist() for name, column in ours.labels.items()
    }
    provenance = there.find("tiny", "back").key().provenance
    assert provenance["exported"] == json.loads(json.dumps(array.key().to_json()))
    assert provenance["exported_root"] == array.complete().root
    assert list(verify(there)) == []


@suffixes
def test_an_export_comes_back_beside_its_source_bound_to_the_same_rows_failed_ones_too(
    tmp_path: Path, suffix: str
) -> None:
    cache, array, path = exported(tmp_path, suffix)
    back = take(cache, path)
    assert back.key().binds["rows"] == array.key().binds["rows"]
    assert set(back.complete().failed) == set(FAILED)
    assert cache.load_array(back).values.tobytes() == cache.load_array(array).values.tobytes()
    assert take(cache, path).complete().root == back.complete().root, "imported once"


def test_a_file_of_another_tool_under_the_same_suffix_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", rows=values())
    with pytest.raises(DataInvalid, match=r"other.npz is no whole export of featcache: it lacks 'key.json'"):
        take(Cache(tmp_path / "cache"), tmp_path / "other.npz")
    assert holds_nothing(tmp_path)


@suffixes
def test_a_cut_export_is_refused_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    _, _, path = exported(tmp_path, suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataInvalid, match=f"out{suffix}"):
        take(Cache(tmp_path / "there"), path)
    assert not (tmp_path / "there").exists()


def external_link(file: Any, secret: Path) -> None:
    import h5py

    file["values"] = h5py.ExternalLink(str(secret), "values")


def soft_link(file: Any, secret: Path) -> None:
    import h5py

    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    file["values"] = h5py.SoftLink("/elsewhere/values")


def external_storage(file: Any, secret: Path) -> None:
    file.create_dataset("values", (N, D), "float32", external=[(str(secret), 0, N * D * 4)])


def virtual(file: Any, secret: Path) -> None:
    import h5py

    layout = h5py.VirtualLayout((N, D), "float32")
    layout[:] = h5py.VirtualSource(str(secret), "values", (N, D))
    file.create_virtual_dataset("values", layout)


@pytest.mark.parametrize("make", [external_link, soft_link, external_storage, virtual])
@pytest.mark.parametrize("tool", ["featcache", "thingsvision"])
def test_an_hdf5_file_that_would_read_other_files_is_refused(tmp_path: Path, make: Any, tool: str) -> None:
    import h5py

    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["values"] = values()
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        make(file, secret)
        if tool == "featcache":
            file["key.json"] = "{}"
        else:
            file.move("values", "features")
    with pytest.raises(DataInvalid, match=r"(a link|external storage|a virtual data set), which can read any file"):
        import_features(Cache(tmp_path / "cache"), path, dataset="photos", encoder="e", layer="last.cls",
                        options=ImportOptions(ids=write_ids(tmp_path), modality="image"))  # fmt: skip
    assert holds_nothing(tmp_path)


def test_an_exported_embedding_still_knows_what_its_run_was_trained_on(tmp_path: Path) -> None:
    from featcache.studies.adapters.embed import embed

    cache, run = trained(tmp_path)
    embed(cache, run)
    arrays = []
    for side in ("images", "captions"):
        path = tmp_path / f"{side}.npz"
        export_features(cache, cache.find("openmoji", f"{run_name(run)}/adapted.{side}"), path)
        arrays += import_features(Cache(tmp_path / "there"), path, dataset="openmoji", encoder="back")
    images, captions = (Cache(tmp_path / "there").load_array(array) for array in arrays)
    assert compared(images, captions) == groups_of(a_dataset(published), "test")


# -- a tensor alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tensor_alone_comes_in_with_ids(tmp_path: Path, dtype: str) -> None:
    import torch

    rows = torch.from_numpy(values()).to(getattr(torch, dtype))
    torch.save(rows, tmp_path / "rows.pt")
    assert detect(tmp_path / "rows.pt") == "pt"
    options = ImportOptions(ids=write_ids(tmp_path), modality="image")
    [array] = import_features(
        Cache(tmp_path / "cache"),
        tmp_path / "rows.pt",
        dataset="photos",
        encoder="e",
        layer="last.cls",
        options=options,
    )
    np.testing.assert_array_equal(array.read(), rows.float().numpy())


def test_a_tensor_without_ids_or_of_another_shape_is_a_clear_error(tmp_path: Path) -> None:
    import torch

    torch.save(torch.ones(N, 2, D), tmp_path / "rows.pt")
    cache, options = Cache(tmp_path / "cache"), ImportOptions(ids=write_ids(tmp_path), modality="image")
    with pytest.raises(UsageError, match="rows.pt is one tensor and does not say which row is which.*--ids FILE"):
        import_features(cache, tmp_path / "rows.pt", dataset="photos", encoder="e", layer="last.cls")
    with pytest.raises(DataInvalid, match=r"rows.pt has shape \[30, 2, 6\]; wanted \[rows, features\]"):
        import_features(cache, tmp_path / "rows.pt", dataset="photos", encoder="e", layer="last.cls", options=options)
    assert holds_nothing(tmp_path)


class Payload:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("alone", [True, False])
def test_a_malicious_pt_is_never_answered_with_how_to_run_it(tmp_path: Path, alone: bool) -> None:
    import torch

    from featcache.encoders.tensors import read_tensors
    from featcache.errors import WeightsInvalid

    torch.save(Payload() if alone else {"feats": torch.ones(2, 2, 2), "x": Payload()}, tmp_path / "bad_pool-none.pt")
    with pytest.raises(DataInvalid) as caught:
        take(Cache(tmp_path / "cache"), tmp_path / "bad_pool-none.pt")
    with pytest.raises(WeightsInvalid) as weights:
        read_tensors(tmp_path / "bad_pool-none.pt")
    for error in (caught, weights):
        said = str(error.value)
        assert "it holds print beside tensors" in said and "could run anything" in said
        assert "weights_only" not in said and "trust" not in said and "add_safe_globals" not in said


def test_an_array_that_is_no_export_keeps_its_own_format(tmp_path: Path) -> None:
    assert detect(npy(tmp_path), has_ids=True) == "npy"
