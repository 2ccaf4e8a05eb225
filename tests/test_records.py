"""Every JSON file of the store has one strict form: whatever is in it, only errors of ours come out, at every door."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.errors import Damaged, FeatcacheError
from featcache.maintenance.gc import leftovers, rename, usage
from featcache.maintenance.repair import Sources, repair
from featcache.maintenance.verify import verify
from featcache.sharing.transfer import plan_transfer, transfer
from featcache.store.array import FeatureArray
from featcache.store.digest import canonical
from tests.faults import without_syncs
from tests.small_caches import DATASET, LAYOUT, N, edit, key, store, values

RECORDS = ("key.json", "plan.json", "zarr.json", "commits/3.json", "COMPLETE.json", "PARTIAL.json", "ARRIVING.json")


WRITING = ("push onto", "finish", "mv", "repair", "rm")


def doors(cache: Cache, whole: Cache, elsewhere: Path) -> dict[str, Callable[[], object]]:
    """Everything that reads a cache's records; `whole` is another cache with the same array."""
    array = cache.array(key().path)
    return {
        "ls": lambda: cache.entries(),
        "load": lambda: cache.load(DATASET.name, "fake"),
        "load rows": lambda: cache.load(DATASET.name, "fake", rows=(0, 9)),
        "take": lambda: cache.reader(array).take(np.array([3])),
        "verify": lambda: list(verify(cache, deep=True)),
        "pull": lambda: transfer(plan_transfer(cache, Cache(elsewhere / "pulled"))),
        "push onto": lambda: transfer(plan_transfer(whole, cache)),
        "gc": lambda: leftovers(cache),
        "du": lambda: usage(cache),
        "check": array.check,
        "finish": lambda: array.finish(LAYOUT),
        "mv": lambda: rename(cache, f"{DATASET.name}/captions/fake", f"{DATASET.name}/captions/moved"),
        "repair": lambda: repair(cache, "*", Sources(remote=whole)),
        "rm": lambda: cache.remove(array),
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    array = store(Cache(folder / "whole"), failed=[9])
    root = array.complete().root
    array.folder.replace("ARRIVING.json", json.dumps({"root": root}).encode())
    return folder


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Cache:
    return Cache(shutil.copytree(pristine / "whole", tmp_path / "cache"))


# -- a grammar of what may stand in a record ---------------------------------------------------------------------------


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, -1, 1, 384.0, 1e300, 10**12, 10**30, 2**63, -(2**63), "", "1", "../../x", "\x1b[2J", "a" * 300]
    ),
    st.sampled_from([[], {}, [[]], [{}], {"": None}, [None] * 9, {"n": 1}, {"root": 5}, [[[[[]]]]]]),
    st.text(max_size=9),
    st.floats(allow_nan=False, allow_infinity=False),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _places(child, (*path, name))


def _mutated(value: Any, place: tuple[Any, ...], how: str, junk: Any) -> Any:
    """The value with one place of it removed, replaced, wrapped or joined by something that nobody writes."""
    if not place:
        return {"replace": junk, "wrap": [value], "extra": junk, "remove": None}[how]
    inner = value
    for step in place[:-1]:
        inner = inner[step]
    if how == "remove":
        del inner[place[-1]]
    elif how == "extra" and isinstance(inner, dict):
        inner["of nobody"] = junk
    else:
        inner[place[-1]] = [inner[place[-1]]] if how == "wrap" else junk
    return value


@st.composite
def mutations(draw: st.DrawFn, original: Any) -> bytes:
    """A JSON file that is nearly one of ours."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(_places(value))))
        how = draw(st.sampled_from(["remove", "replace", "wrap", "extra"]))
        value = _mutated(value, place, how, draw(_JUNK))
    return json.dumps(value).encode()


RAW = [b"", b"{", b"[" * 100_000, b"9" * 10_000, b"\xff\xfe\x00", b"NaN", b'{"n": Infinity}', b"1e999", b'"\\ud800"']


def _knock(pristine: Path, tmp_path: Path, name: str, content: bytes) -> None:
    """Asks every door of a cache with that content of a record; nothing but an answer or an error of ours comes out."""
    home, cache = tmp_path / "knock", Cache(tmp_path / "knock" / "cache")
    with without_syncs():
        for door in doors(cache, cache, home):
            if door in WRITING or not home.exists():
                shutil.rmtree(home, ignore_errors=True)
                shutil.copytree(pristine / "whole", cache.root)
                path = cache.array(key().path).path
                if name == "PARTIAL.json":
                    (path / "COMPLETE.json").unlink()
                (path / name).write_bytes(content)
            try:
                doors(cache, Cache(pristine / "whole"), home)[door]()
            except FeatcacheError as error:
                assert str(error)
        shutil.rmtree(home)


def _original(pristine: Path, name: str) -> Any:
    return json.loads((pristine / "whole" / key().path / name.replace("PARTIAL", "COMPLETE")).read_bytes())


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "examples", [pytest.param(5, id="quick"), pytest.param(300, marks=pytest.mark.slow, id="thorough")]
)
def test_only_errors_of_ours_come_of_a_record_that_nobody_writes(
    name: str, examples: int, pristine: Path, tmp_path: Path
) -> None:
    @settings(max_examples=examples, deadline=None, database=None)
    @given(mutations(_original(pristine, name)))
    def sweep(content: bytes) -> None:
        _knock(pristine, tmp_path, name, content)

    sweep()


@pytest.mark.parametrize("name", RECORDS)
def test_only_errors_of_ours_come_of_what_is_no_json(name: str, pristine: Path, tmp_path: Path) -> None:
    for content in RAW:
        _knock(pristine, tmp_path, name, content)


# -- what was found ----------------------------------------------------------------------------------------------------


def _binds(**change: Any) -> Callable[[Any], Any]:
    return lambda value: value["binds"].update(change)


JUNK: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no provenance": (lambda value: value.update(provenance=None), "provenance: Input should be a valid dictionary"),
    "a width of 384.0": (_binds(d=384.0), "binds.d: Input should be a valid integer"),
    "a width of true": (_binds(d=True), "binds.d"),
    "no rows": (lambda value: value["binds"].pop("rows") and None, "binds.rows: Field required"),
    "rows without a count": (lambda value: value["binds"]["rows"].pop("n") and None, "binds.rows.n: Field required"),
    "a type of objects": (_binds(dtype="object"), "binds.dtype"),
    "a type that is a list": (_binds(dtype=["float16"]), "binds.dtype"),
    "an encoder of text": (_binds(encoder="resnet18"), "binds.encoder"),
    "a source that is a list": (_binds(encoder={"from": []}), "binds.encoder.from"),
    "no names": (lambda value: value.pop("names") and None, "names: Field required"),
    "notes that are no list": (lambda value: value["provenance"].update(dataset={"notes": 5}), "notes"),
}


@pytest.mark.parametrize("what", JUNK)
def test_a_key_that_is_not_of_its_form_is_refused_by_its_field_and_never_pulled(
    what: str, cache: Cache, tmp_path: Path
) -> None:
    change, says = JUNK[what]
    array = rekeyed(cache, change)
    with pytest.raises(Damaged, match=says):
        array.key()
    with pytest.raises(Damaged, match=says):
        transfer(plan_transfer(cache, Cache(tmp_path / "mine"), [f"{DATASET.name}/*/fake"]))
    assert not (tmp_path / "mine").exists()


def rekeyed(cache: Cache, change: Callable[[Any], Any]) -> FeatureArray:
    """The array with another key, under the digest that this key has: it agrees with itself."""
    array = cache.array(key().path)
    value = json.loads((array.path / "key.json").read_bytes())
    change(value)
    digest = blake3(canonical(value["binds"])).hexdigest(length=16)
    value["digest"] = digest
    (array.path / "key.json").write_bytes(canonical(value))
    edit(array.path / "COMPLETE.json", lambda complete: complete.update(digest=digest))
    target = array.path.with_name(digest)
    if target != array.path:
        array.path.rename(target)
    return cache.array("/".join([*array.name[:-1], digest]))


@pytest.mark.parametrize("what", JUNK)
def test_one_bad_array_never_keeps_others_from_being_listed_moved_pushed_or_removed(
    what: str, cache: Cache, tmp_path: Path
) -> None:
    bad, good = rekeyed(cache, JUNK[what][0]), store(cache, "0.mean")
    listed = {entry.layer: entry.damaged for entry in cache.entries()}
    assert listed == {"last.mean": True, "0.mean": False}
    assert [row.arrays for row in usage(cache)] == [2] and isinstance(leftovers(cache).found, tuple)
    with pytest.raises(Damaged, match="1 of 2 arrays were refused; the others are there"):
        transfer(plan_transfer(cache, Cache(tmp_path / "there")))
    there = Cache(tmp_path / "there")
    assert len(there.load(DATASET.name, "fake/0.mean")) == N and [a.name for a in there.arrays()] == [good.name]
    with pytest.raises(Damaged, match="1 of 2 arrays were renamed; the others are where they were"):
        rename(cache, f"{DATASET.name}/captions/fake", f"{DATASET.name}/captions/other")
    assert len(cache.load(DATASET.name, "other/0.mean")) == N and bad.folder.there()
    cache.remove(bad)
    assert [array.name.encoder for array in cache.arrays()] == ["other"]


def test_a_damaged_chunk_keeps_only_its_own_array_from_travelling(cache: Cache, tmp_path: Path) -> None:
    store(cache, "0.mean")
    path = cache.array(key().path).path / "c.2.0"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(Damaged, match="(?s)chunk 2 of .* is not what was recorded.*1 of 2 arrays were refused"):
        transfer(plan_transfer(cache, Cache(tmp_path / "there")))
    there = Cache(tmp_path / "there")
    assert len(there.load(DATASET.name, "fake/0.mean")) == N
    assert not there.array(key().path).is_complete


@pytest.mark.parametrize("field", ["batch_size", "threads", "order"])
def test_completion_plan_and_key_are_compared_on_load(cache: Cache, field: str) -> None:
    array = cache.array(key().path)
    edit(array.path / "plan.json", lambda plan: plan.update({field: "cost" if field == "order" else 9}))
    with pytest.raises(Damaged, match="is not of the plan in plan.json"):
        cache.load(DATASET.name, "fake")
    with pytest.raises(Damaged, match="is not of the plan in plan.json"):
        cache.reader(array)
    assert [entry.damaged for entry in cache.entries()] == [True]


def test_an_array_opens_as_long_as_records_of_before_do(cache: Cache) -> None:
    """The forms of key, plan, record and completion hold what featcache 0.1 wrote; see also test_fixtures_v01."""
    array = cache.array(key().path)
    metadata = array.metadata()
    assert metadata.complete is not None and metadata.complete.records[1].failed == ("r9",)
    np.testing.assert_array_equal(cache.load(DATASET.name, "fake").values, np.delete(values(), 9, axis=0))


# -- the mark of a transfer --------------------------------------------------------------------------------------------


def test_a_mark_of_a_transfer_that_died_behind_its_last_step_is_removed_by_the_next(
    pristine: Path, cache: Cache
) -> None:
    array = cache.array(key().path)
    assert array.folder.exists("ARRIVING.json") and array.arriving() is None
    sent = transfer(plan_transfer(Cache(pristine / "whole"), cache))
    assert sent.chunks == 0 and not array.folder.exists("ARRIVING.json")


def test_a_mark_that_stayed_keeps_nobody_from_mending_an_array(cache: Cache, pristine: Path) -> None:
    array = cache.array(key().path)
    edit(array.path / "COMPLETE.json", lambda value: value.update(d=5))
    assert repair(cache, "*", Sources(remote=Cache(pristine / "whole"))) == []
    assert not array.folder.exists("ARRIVING.json") and list(verify(cache, deep=True)) == []


def test_a_mark_of_other_bytes_is_still_one(cache: Cache) -> None:
    array = cache.array(key().path)
    edit(array.path / "ARRIVING.json", lambda value: value.update(root="0" * 32))
    assert array.arriving() == "0" * 32


# -- repair from a twin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("content", [b"{", b'{"n": 0}', None])
def test_a_damaged_plan_is_taken_from_the_other_cache(
    content: bytes | None, whole: bool, cache: Cache, pristine: Path
) -> None:
    array = cache.array(key().path)
    array.folder.remove("ARRIVING.json")
    if whole:
        (array.path / "COMPLETE.json").write_bytes(b"{}")
    else:
        array.folder.remove("COMPLETE.json", "commits/7.json", "c.7.0")
    (array.path / "plan.json").unlink()
    if content is not None:
        (array.path / "plan.json").write_bytes(content)
    steps: list[str] = []
    left = repair(cache, "*", Sources(remote=Cache(pristine / "whole")), on_step=lambda where, what: steps.append(what))
    assert left == [] and "plan.json pulled" in steps
    assert array.layout() == LAYOUT and array.is_complete == whole
    assert list(verify(cache, deep=True)) == []


def test_repair_writes_a_key_anew_and_copies_nobodys_bytes(cache: Cache, pristine: Path, tmp_path: Path) -> None:
    other = Cache(shutil.copytree(pristine / "whole", tmp_path / "other"))
    twin = other.array(key().path).path / "key.json"
    twin.write_bytes(twin.read_bytes() + b" " * 100_000)
    path = cache.array(key().path).path / "key.json"
    path.write_bytes(b"{}")
    assert repair(cache, "*", Sources(remote=other)) == []
    assert path.stat().st_size < 2_000


# -- beside a writer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_an_array_that_a_pull_has_only_begun_is_no_damage(there: int, cache: Cache, tmp_path: Path) -> None:
    source = cache.array(key().path)
    begun = Cache(tmp_path / "begun")
    shutil.copytree(cache.root / DATASET.name, begun.root / DATASET.name)
    array = begun.array(key().path)
    shutil.rmtree(array.path)
    (array.path / "commits").mkdir(parents=True)
    for name in ("key.json", "plan.json", "zarr.json")[:there]:
        shutil.copy(source.path / name, array.path / name)
    assert list(verify(begun, deep=True)) == []
    assert [(entry.damaged, entry.complete) for entry in begun.entries()] == [(False, False)]


def test_verify_beside_a_pull_finds_nothing_wrong_at_any_step(cache: Cache, tmp_path: Path) -> None:
    from tests.faults import watched

    target, problems, steps = Cache(tmp_path / "target"), list[Any](), list[int]()
    looking = False

    def look(_: Any) -> None:
        nonlocal looking
        if not looking and (target.root / DATASET.name).exists():
            looking = True
            steps.append(len(list(target.arrays())))
            problems.extend(verify(target, deep=True))
            looking = False

    with without_syncs(), watched(target.root, after=look):
        transfer(plan_transfer(cache, target))
    assert problems == [] and sum(steps) > 20
