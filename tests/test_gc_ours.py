"""Does gc delete what is ours and nobody needs, only in a cache, and never what only looks like it?"""

import json
import os
import shutil
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.errors import NewerFormat, UsageError
from featcache.maintenance.gc import clean, leftovers
from featcache.maintenance.verify import verify
from featcache.storage.durable import replace as replace_file
from featcache.storage.processes import this_process
from featcache.store import leases as module
from featcache.store.leases import DEAD_SECONDS, FOLDER, lease, leases
from featcache.store.mark import MARK, is_cache, write_mark
from featcache.store.rows import write_rows
from tests.spine import tiny_cache, tiny_dataset
from tests.writers import now, strange_writer

HEX = [f"{number:032x}" for number in range(10)]
FIXTURE = Path(__file__).parent / "fixtures" / "v01" / "cache"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = tiny_cache(tmp_path)
    write_mark(cache.root)
    return cache


def kept(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if not path.is_dir() and FOLDER not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


def lay(root: Path, names: dict[str, bytes]) -> None:
    for name, content in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


# -- where ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_cache_is_not_looked_at(tmp_path: Path) -> None:
    lay(tmp_path, {"rows-2026.csv": b"1", f"data/rows-{HEX[0]}.json": b'{"overlay": "0"}', f".tmp-{HEX[1]}": b"1"})
    before = kept(tmp_path)
    for function in (leftovers, clean):
        with pytest.raises(UsageError, match=r"not known to be a cache: it has no \.featcache file"):
            function(Cache(tmp_path))
    assert kept(tmp_path) == before


def test_a_cache_of_0_1_counts_by_a_key_under_its_own_names_and_a_key_elsewhere_counts_for_nothing(
    tmp_path: Path,
) -> None:
    old = Path(shutil.copytree(FIXTURE, tmp_path / "old"))
    assert is_cache(old) and leftovers(Cache(old)).found == ()
    for name in os.listdir(old):
        if not name.startswith("."):
            (old / name).rename(old / "renamed")
    assert not is_cache(old)
    write_mark(old)
    assert is_cache(old)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "1"}', '{"format": true}', "{"])
def test_a_mark_that_says_nothing_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MARK).write_text(content)
    assert not is_cache(tmp_path)


def test_a_link_is_no_mark_and_a_newer_mark_is_an_error(tmp_path: Path) -> None:
    marked, linked = tmp_path / "a", tmp_path / "b"
    marked.mkdir()
    linked.mkdir()
    write_mark(marked)
    (linked / MARK).symlink_to(marked / MARK)
    assert is_cache(marked) and not is_cache(linked)
    (marked / MARK).write_text('{"format": 2}')
    with pytest.raises(NewerFormat):
        leftovers(Cache(marked))


def test_the_mark_changes_no_array_and_is_no_foreign_file(cache: Cache) -> None:
    with lease(cache.folder, "extract"):
        pass
    assert (cache.root / MARK).is_file() and list(verify(cache, deep=True)) == []
    assert {name for name in kept(cache.root) if name.startswith(".")} == {MARK}


# -- what -------------------------------------------------------------------------------------------------------------

NOT_OURS = {
    "rows-2026.csv": b"1",
    "overlay-final.png": b"1",
    ".tmp-draft.txt": b"1",
    ".tmp-1": b"1",
    f".aside-c.0.0-{HEX[0]}": b"at the top nothing is set aside",
    f"openmoji/rows-{HEX[0]}.parquet": b"no Parquet",
    f"openmoji/images/rows-{HEX[0]}.json": b'{"overlay": 5}',
    f"openmoji/images/rows-{HEX[1]}.json": b'{"my": "notes"}',
    f"openmoji/images/overlay-{HEX[1]}.parquet": b"PAR1PAR1",
    "openmoji/images/rows-2026.json": b'{"overlay": "00000000000000000000000000000000"}',
    "openmoji/images/.aside-note.txt": b"1",
    "openmoji/images/.doomed-plan/x": b"1",
    f"notes/a/b/c/d/e/.tmp-{HEX[3]}": b"as deep as an array, and none",
    f"openmoji/images/x/y/.tmp-{HEX[4]}": b"no writer writes there",
    f".hidden/.tmp-{HEX[5]}": b"1",
    f"{FOLDER}/todo.json": b"{}",
    f"{FOLDER}/{HEX[6]}": b"not a lease",
}


def test_what_only_looks_like_ours_stays(cache: Cache) -> None:
    lay(cache.root, NOT_OURS)
    assert leftovers(cache).found == ()
    assert clean(cache).found == ()
    assert NOT_OURS.keys() <= {path.relative_to(cache.root).as_posix() for path in cache.root.rglob("*")}


def test_a_table_of_other_columns_is_not_ours(cache: Cache) -> None:
    import polars as pl

    for name, columns in {
        f"images/rows-{HEX[0]}.parquet": ["id", "price"],
        f"overlay-{HEX[0]}.parquet": ["group", "split", "x"],
    }.items():
        pl.DataFrame(dict.fromkeys(columns, ["a"])).write_parquet(cache.root / "openmoji" / name)
    assert leftovers(cache).found == ()


def test_a_folder_under_removal_that_holds_what_is_not_ours_is_named_and_stays(cache: Cache) -> None:
    layer = cache.find("openmoji", "minilm").path.parent
    doomed = layer / f".doomed-{HEX[0]}"
    lay(doomed, {"c.0.0": b"1", "commits/0.json": b"{}", "commits/my notes.txt": b"1"})
    for function in (leftovers, clean):
        (left,) = function(cache).found
        assert (left.path, left.holder) == (doomed, "a file that is not ours: commits/my notes.txt")
    (doomed / "commits/my notes.txt").unlink()
    assert clean(cache).found[0].holder is None and not doomed.exists()


def test_rm_leaves_other_removals_and_hidden_folders_beside_an_array_alone(cache: Cache) -> None:
    array = cache.find("openmoji", "minilm")
    lay(array.path.parent, {".doomed-plan/thesis.tex": b"1"})
    cache.remove(array)
    assert (array.path.parent / ".doomed-plan/thesis.tex").is_file() and not array.folder.there()


# -- links ------------------------------------------------------------------------------------------------------------


def litter_names(dataset: str = "openmoji") -> dict[str, bytes]:
    digest = HEX[7]
    return {
        f"{dataset}/.tmp-{HEX[0]}": b"1",
        f"{dataset}/view/rows-{HEX[1]}.json": json.dumps({"overlay": HEX[2]}).encode(),
        f"{dataset}/view/enc/last.mean/{digest}/.aside-c.0.0-{HEX[3]}": b"1",
        f"{dataset}/view/enc/last.mean/.doomed-{HEX[4]}/c.0.0": b"1",
    }


@pytest.mark.parametrize("level", ["openmoji", "openmoji/view", "openmoji/view/enc/last.mean"])
def test_nothing_is_deleted_through_a_link_out_of_the_cache(cache: Cache, tmp_path: Path, level: str) -> None:
    outside = tmp_path / "outside"
    lay(outside, litter_names("linked"))
    target = outside / level.replace("openmoji", "linked")
    link = cache.root / level.replace("openmoji", "linked")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    before = kept(outside)
    assert leftovers(cache).found == () and clean(cache).found == ()
    assert kept(outside) == before


def test_links_with_our_names_stay_as_they_are(cache: Cache, tmp_path: Path) -> None:
    lay(tmp_path, {"mine.txt": b"1", "folder/c.0.0": b"1"})
    layer = cache.find("openmoji", "minilm").path.parent
    (cache.root / f".tmp-{HEX[0]}").symlink_to(tmp_path / "mine.txt")
    (layer / f".doomed-{HEX[1]}").symlink_to(tmp_path / "folder")
    inside = layer / f".doomed-{HEX[2]}"
    inside.mkdir()
    (inside / "c.0.0").symlink_to(tmp_path / "mine.txt")
    assert [each.holder for each in clean(cache).found] == ["a file that is not ours: c.0.0"]
    assert {"mine.txt", "folder/c.0.0"} <= kept(tmp_path)


def test_leases_in_a_linked_folder_are_neither_read_nor_deleted(cache: Cache, tmp_path: Path) -> None:
    value = this_process().to_json() | {"started": "1", "what": "x", "began": 1.0}
    lay(tmp_path / "mine", {HEX[0]: json.dumps(value).encode()})
    shutil.rmtree(cache.root / FOLDER, ignore_errors=True)
    (cache.root / FOLDER).symlink_to(tmp_path / "mine")
    for function in (leftovers, clean):
        with pytest.raises(UsageError, match=r"\.leases is a link"):
            function(cache)
    with pytest.raises(UsageError, match=r"\.leases is a link"), lease(cache.folder, "extract"):
        pass
    assert kept(tmp_path / "mine") == {HEX[0]}


# -- who holds it -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARGIN_SECONDS", 0.0)


def test_what_a_live_writer_may_have_made_stays_and_older_litter_goes(no_margin: None, cache: Cache) -> None:
    array = cache.find("openmoji", "minilm").path
    old, new = array / f".tmp-{HEX[0]}", array / f".tmp-{HEX[1]}"
    old.write_bytes(b"1")
    began = now(cache.root)
    while began <= old.stat().st_ctime:  # a file system's clock ticks every few milliseconds
        began = now(cache.root)
    strange_writer(cache.root, began)
    new.write_bytes(b"1")
    assert {each.path.name: each.holder for each in clean(cache).found} == {
        old.name: None,
        new.name: "push, process 4 on lab2",
    }
    assert not old.exists() and new.exists()


def test_the_change_time_counts_where_the_modification_time_was_put_back(no_margin: None, cache: Cache) -> None:
    strange_writer(cache.root, now(cache.root) - 5)
    copied = cache.root / f".tmp-{HEX[0]}"
    copied.write_bytes(b"1")
    os.utime(copied, (1.0, 1.0))
    assert [each.holder for each in clean(cache).found] == ["push, process 4 on lab2"]


def test_an_unbound_table_stays_however_old_while_anybody_writes(no_margin: None, cache: Cache) -> None:
    new = tiny_dataset(3)
    write_rows(cache.folder / "openmoji" / "images", new.views["images"], new.overlay)
    note = strange_writer(cache.root, now(cache.root) + 1e6)
    assert {each.holder for each in clean(cache).found} == {"push, process 4 on lab2"}
    note.unlink()
    assert len(clean(cache).found) == 3 and leftovers(cache).found == ()


def test_a_silent_writer_of_another_host_keeps_its_files_until_its_lease_is_broken(cache: Cache) -> None:
    beat = now(cache.root) - DEAD_SECONDS - 1
    note = strange_writer(cache.root, beat - 1, beat=beat)
    (cache.root / f".tmp-{HEX[0]}").write_bytes(b"1")
    for function in (leftovers, clean):
        left = function(cache)
        assert [each.holder for each in left.found] == ["push, process 4 on lab2, silent"]
        assert [(each.owner.host, each.owner.number, each.what, each.beat) for each in left.silent] == [
            ("lab2", 4, "push", pytest.approx(beat))
        ]
    broken = clean(cache, break_leases=True)
    assert [each.holder for each in broken.found] == [None, None]
    assert not note.exists() and not (cache.root / f".tmp-{HEX[0]}").exists()
    assert leftovers(cache) == clean(cache) and leftovers(cache).silent == ()


def test_breaking_leases_breaks_none_of_a_live_writer(cache: Cache) -> None:
    strange_writer(cache.root, now(cache.root) - 1)
    (cache.root / f".tmp-{HEX[0]}").write_bytes(b"1")
    assert [each.holder for each in clean(cache, break_leases=True).found] == ["push, process 4 on lab2"]


def test_what_a_reader_or_writer_of_leases_left_goes_once_it_is_old(cache: Cache) -> None:
    names = [f"clock-{HEX[0]}", f".tmp-{HEX[1]}"]
    lay(cache.root / FOLDER, dict.fromkeys(names, b""))
    assert leftovers(cache).found == ()
    beat = now(cache.root) - DEAD_SECONDS - 1
    for name in names:
        os.utime(cache.root / FOLDER / name, (beat, beat))
    with lease(cache.folder, "extract"):  # so that there is a clock to tell by
        assert {each.path.name for each in clean(cache).found} == set(names)
    assert os.listdir(cache.root / FOLDER) == []


# -- a cache that can only be read ------------------------------------------------------------------------------------


def test_a_cache_that_can_only_be_read_is_listed_and_cleaning_it_is_a_named_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache.root / f".tmp-{HEX[0]}").write_bytes(b"1")
    strange_writer(cache.root, 1.0, beat=2.0)

    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    assert {each.path.name for each in leftovers(cache).found} == {f".tmp-{HEX[0]}"}
    with pytest.raises(UsageError, match=r"cannot be cleaned, for it cannot be written to: Read-only file system"):
        clean(cache)
    assert (cache.root / f".tmp-{HEX[0]}").exists()


def test_what_cannot_be_deleted_is_named_and_the_rest_goes(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f".tmp-{HEX[0]}", f".tmp-{HEX[1]}"]
    lay(cache.root, dict.fromkeys(names, b"1"))
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.name == names[0]:
            raise PermissionError(13, "Permission denied", str(self))
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    left = clean(cache).found
    assert [(each.path.name, each.failed) for each in left] == [(names[0], True), (names[1], False)]
    assert left[0].holder == "not deleted: Permission denied"


def test_the_memo_of_encoders_is_written_under_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.encoders import card

    held = list[str]()

    def watched(path: Path, content: bytes) -> None:
        held.extend(each.what for each in leases(tmp_path / "cache")[0])
        replace_file(path, content)

    monkeypatch.setattr(card, "replace_file", watched)
    path = tmp_path / "cache" / ".encoders" / "cards" / f"{HEX[0]}.json"
    card.write_card(path, card.Card("a", "text", {}, {}, "last.mean", "float16", {}))
    assert held == ["remember an encoder"] and path.is_file()
