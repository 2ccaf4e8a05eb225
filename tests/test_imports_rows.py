"""Do imported features find the rows that are cached, and pair with what is there?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache.data.errors import DataInvalid
from featcache.errors import Ambiguous, UsageError
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.importing import import_features
from tests.foreign import IDS, N, cache_rows, npy, take_npy, values, write_ids
from tests.spine import tiny_cache


def test_an_import_takes_the_rows_that_are_cached_in_their_order(tmp_path: Path) -> None:
    shuffled = list(np.random.default_rng(3).permutation(N))
    cache = cache_rows(tmp_path, [IDS[row] for row in shuffled], groups=[f"g{row}" for row in shuffled])
    ours = cache.load("photos", "ours/last.mean")
    take_npy(tmp_path, modality=None)
    theirs = cache.load("photos", "theirs")
    assert theirs.ids.tolist() == ours.ids.tolist()
    assert theirs.groups.tolist() == ours.groups.tolist()
    assert theirs.splits.tolist() == ours.splits.tolist()
    assert theirs.overlay == ours.overlay
    np.testing.assert_array_equal(theirs.values, values()[shuffled])


def test_a_missing_or_extra_id_is_named(tmp_path: Path) -> None:
    cache = cache_rows(tmp_path, IDS)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        DataInvalid, match=r"photos/images \(30 rows\): 1 of its rows are missing, the first 'photo 29.jp"
    ) as error:
        take_npy(tmp_path, values(N - 1), ids=write_ids(tmp_path, IDS[:-1]))
    assert "not in it" not in str(error.value)
    with pytest.raises(
        DataInvalid, match="2 of its rows are missing, the first 'photo 28.jpg'; 3 rows are not in it, the fi"
    ):
        take_npy(tmp_path, values(N + 1), ids=write_ids(tmp_path, [*IDS[:-2], "x", "y", "z"]))
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} == {"rows.npy", "ids.txt"}
    assert len(list(cache.arrays())) == 1


def test_groups_that_contradict_the_cached_ones_are_refused(tmp_path: Path) -> None:
    import polars as pl

    cache_rows(tmp_path, IDS)
    pl.DataFrame({"id": IDS, "group": [*IDS[:-1], "other"]}).write_csv(tmp_path / "ids.csv")
    with pytest.raises(
        DataInvalid, match="row 'photo 29.jpg' is in group 'other', but in 'photo 29.jpg' in photos/imag"
    ):
        take_npy(tmp_path, ids=tmp_path / "ids.csv")


def test_two_views_with_the_same_ids_ask_for_a_choice(tmp_path: Path) -> None:
    cache = cache_rows(tmp_path, IDS, view="names-de", modality="text")
    cache_rows(tmp_path, IDS, view="names-fr", modality="text")
    with pytest.raises(
        UsageError, match="names-de, names-fr of photos have the ids of rows.npy; say which with --view"
    ):
        take_npy(tmp_path, modality=None)
    options = ImportOptions(ids=write_ids(tmp_path))
    (array,) = import_features(cache, npy(tmp_path), dataset="photos", encoder="e", layer="last.cls", view="names-fr",
                               options=options)  # fmt: skip
    assert array.key().view == "names-fr"
    with pytest.raises(UsageError, match="photos/names-fr shows text, rows.npy image"):
        import_features(cache, npy(tmp_path), dataset="photos", encoder="e", layer="last.cls", view="names-fr",
                        options=ImportOptions(ids=write_ids(tmp_path), modality="image"))  # fmt: skip


def test_rows_whose_content_is_known_come_before_imported_ones_and_two_of_those_are_refused(tmp_path: Path) -> None:
    (early,) = take_npy(tmp_path)
    cache = cache_rows(tmp_path, IDS)
    (late,) = take_npy(tmp_path)
    assert late.key().binds["rows"]["root"] != early.key().binds["rows"]["root"]
    assert late.key().binds["rows"] == cache.find("photos", "ours/last.mean").key().binds["rows"]
    cache_rows(tmp_path, IDS, content="changed")
    with pytest.raises(Ambiguous, match="other content under the same ids .*featcache rm"):
        take_npy(tmp_path)


def test_new_rows_share_the_splits_of_the_data_set_where_these_cover_them(tmp_path: Path) -> None:
    import polars as pl

    cache = cache_rows(tmp_path, IDS)
    captions = [f"{row_id}#{number}" for row_id in IDS for number in range(2)]
    pl.DataFrame({"id": captions, "group": np.repeat(IDS, 2)}).write_csv(tmp_path / "ids.csv")
    take_npy(tmp_path, values(2 * N), ids=tmp_path / "ids.csv", modality="text")
    theirs, ours = cache.load("photos", "captions/theirs"), cache.load("photos", "ours/last.mean")
    assert theirs.overlay == ours.overlay
    assert theirs.labels["kind"].tolist() == np.repeat(IDS, 2).tolist()


def test_an_import_pairs_with_what_was_extracted(tmp_path: Path) -> None:
    from featcache.studies.alignment.align import align

    cache = tiny_cache(tmp_path)
    images, captions = cache.load("openmoji", "efficientnet-lite0"), cache.load("openmoji", "minilm")
    np.save(tmp_path / "theirs.npy", captions.values[::-1])
    options = ImportOptions(ids=write_ids(tmp_path, captions.ids[::-1].tolist()))
    import_features(cache, tmp_path / "theirs.npy", dataset="openmoji", encoder="theirs", layer="last.mean",
                    options=options)  # fmt: skip
    theirs = cache.load("openmoji", "theirs")
    assert theirs.values.tobytes() == captions.values.tobytes()
    expected, other = (
        [replace(score, seconds=0, against="") for score in align(images, text, permutations=19)]
        for text in (captions, theirs)
    )
    assert other == expected
