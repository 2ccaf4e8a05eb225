"""Every changed, missing or cut byte of a cache is an error, and never other features."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from featcache.cache import Cache
from featcache.errors import Damaged, FeaturesNotCached, NewerFormat
from featcache.features import Features
from featcache.maintenance.verify import Problem, verify
from tests.fakes import fake_card, text_dataset
from tests.test_extract import run

ARRAY = "tiny/captions/fake/last.mean/*"
CHUNKS = 8
FILES = {
    "zarr.json": f"{ARRAY}/zarr.json",
    "key.json": f"{ARRAY}/key.json",
    "plan.json": f"{ARRAY}/plan.json",
    "a record": f"{ARRAY}/commits/3.json",
    "COMPLETE.json": f"{ARRAY}/COMPLETE.json",
    "a chunk": f"{ARRAY}/c.3.0",
    "the last chunk": f"{ARRAY}/c.7.0",
    "the row table": "tiny/captions/rows-*.parquet",
    "the splits": "tiny/overlay-*.parquet",
    "the pointer to the splits": "tiny/captions/rows-*.json",
}
# reading needs them not, or they hold nothing that is not held elsewhere: the features come out right without them
SPARE = {"plan.json", "a record"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    with mock.patch("featcache.extraction.job.describe", lambda spec, options, memo: fake_card()):
        run(Cache(folder), text_dataset(), layers=["last"])
    assert not list(verify(Cache(folder), deep=True))
    return folder


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Cache:
    return Cache(shutil.copytree(pristine, tmp_path / "cache"))


@pytest.fixture
def right(pristine: Path) -> Features:
    return load(Cache(pristine))


def load(cache: Cache) -> Features:
    return cache.load("tiny", "fake/last.mean")


def assert_same(loaded: Features, right: Features) -> None:
    assert loaded.values.tobytes() == right.values.tobytes()
    for name in ("ids", "groups", "splits"):
        assert getattr(loaded, name).tolist() == getattr(right, name).tolist()
    assert {name: column.tolist() for name, column in loaded.labels.items()} == {
        name: column.tolist() for name, column in right.labels.items()
    }
    for name in ("dataset", "view", "encoder", "layer", "digest", "root", "overlay", "encoder_hash"):
        assert getattr(loaded, name) == getattr(right, name)


def refused(cache: Cache, right: Features) -> bool:
    """Whether loading is refused as damage; if it is not, the features must be the right ones."""
    try:
        loaded = load(cache)
    except (Damaged, NewerFormat):  # a format number may be flipped to a higher one
        return True
    assert_same(loaded, right)
    return False


def check(cache: Cache, right: Features, name: str, *, harmless: bool = False) -> None:
    """Damage to one file is named by verify, and by load unless the right features come out all the same."""
    problems = list(verify(cache, deep=True))
    is_refused = refused(cache, right)
    assert problems or (harmless and not is_refused)
    assert all(problem.where.startswith("tiny/captions/fake/last.mean/") for problem in problems)
    if "chunk" in name and problems:
        number = {"a chunk": 3, "the last chunk": 7}[name]
        assert is_refused and {problem.chunk for problem in problems} == {number}
        assert all(f"chunk {number}" in problem.what for problem in problems)


def sweeps(quick: tuple[int, ...], slow: tuple[int, ...]) -> list[Any]:
    """(file, *size) of a default and a slow sweep over every file."""
    return [
        pytest.param(name, *size, marks=[pytest.mark.slow] if size is slow else [], id=f"{name} {size[0]}")
        for size in (quick, slow)
        for name in FILES
    ]


def file_of(cache: Cache, name: str) -> Path:
    [path] = cache.root.glob(FILES[name])
    return path


def flips(content: bytes, places: int, seed: int) -> Iterator[tuple[int, int]]:
    """(place, bit) of some bytes, the first and the last of them always; every bit comes up."""
    chance = random.Random(seed)
    chosen = sorted({0, len(content) - 1, *chance.sample(range(len(content)), min(places, len(content)))})
    for number, place in enumerate(chosen):
        yield place, (number + seed) % 8


def is_harmless(name: str, content: bytes, place: int) -> bool:
    """Whether nothing can depend on a byte: provenance, names (the folders count), white space; metadata of Parquet."""
    if name == "key.json":
        names = range(content.index(b'"names"'), content.index(b'"binds"'))
        return place in names or place > content.index(b'"provenance"') or content[place : place + 1].isspace()
    return name in ("the row table", "the splits") or content[place : place + 1].isspace()


@pytest.mark.parametrize(("name", "places", "seeds"), sweeps((24, 1), (80, 8)))
def test_a_flipped_bit_is_named_or_without_consequence(
    cache: Cache, right: Features, name: str, places: int, seeds: int
) -> None:
    path = file_of(cache, name)
    content = path.read_bytes()
    for seed in range(seeds):
        for place, bit in flips(content, places, seed):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            check(cache, right, name, harmless=is_harmless(name, content, place))


@pytest.mark.parametrize(("name", "places"), sweeps((16,), (400,)))
def test_a_byte_that_became_another_is_named_or_without_consequence(
    cache: Cache, right: Features, name: str, places: int
) -> None:
    path, chance = file_of(cache, name), random.Random(5)
    content = path.read_bytes()
    letters = b'0123456789-e."{}[], az\0\xff'  # those that keep JSON valid among them
    for _ in range(places):
        place, byte = chance.randrange(len(content)), chance.choice(letters)
        if byte != content[place]:
            path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            check(cache, right, name, harmless=is_harmless(name, content, place))


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "one byte long": lambda content: content + b"\0",
    "all zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "an empty object": lambda content: b"{}",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", CUTS)
def test_a_file_that_was_cut_or_replaced_is_named(cache: Cache, right: Features, name: str, cut: str) -> None:
    path = file_of(cache, name)
    path.write_bytes(CUTS[cut](path.read_bytes()))
    harmless = (
        cut == "one byte long" and "parquet" in FILES[name]
    )  # Parquet is read from its end; what is before counts
    check(cache, right, name, harmless=harmless)
    assert harmless or name in SPARE or refused(cache, right)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_named(cache: Cache, right: Features, name: str) -> None:
    file_of(cache, name).unlink()
    if name == "COMPLETE.json":  # that is what an array looks like whose writer was stopped: it is taken up again
        with pytest.raises(FeaturesNotCached, match="incomplete"):
            load(cache)
        return
    check(cache, right, name)
    assert name in SPARE or refused(cache, right)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named(cache: Cache, name: str) -> None:
    path = file_of(cache, name)
    path.unlink()
    path.mkdir()
    assert all(isinstance(problem, Problem) for problem in verify(cache, deep=True))
    assert list(verify(cache, deep=True))


def test_all_damage_in_one_cache_is_named_not_only_the_first(cache: Cache) -> None:
    for chunk in range(0, CHUNKS, 2):
        [path] = cache.root.glob(f"{ARRAY}/c.{chunk}.0")
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert {problem.chunk for problem in verify(cache, deep=True)} == set(range(0, CHUNKS, 2))


def test_a_bit_of_the_padding_or_the_checksum_of_the_last_chunk_is_named(cache: Cache, right: Features) -> None:
    path = file_of(cache, "the last chunk")
    content = path.read_bytes()
    assert len(content) == 7 * 8 * 2 + 4
    for place in [*range(1 * 8 * 2, len(content), 5), *range(len(content) - 4, len(content))]:  # one row, six of NaN
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        check(cache, right, "the last chunk")
        assert refused(cache, right)


NO_PLANS: list[dict[str, object]] = [
    {"chunk_rows": 0},
    {"n": 1e9},
    {"chunk_rows": -7},
    {"n": 0},
    {"batch_size": "4"},
]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("COMPLETE.json", change) for change in NO_PLANS),
        *(("plan.json", change) for change in NO_PLANS[2:]),
        *(("plan.json", change) for change in NO_PLANS[:2]),
    ],
)
def test_a_plan_that_cannot_be_is_named(cache: Cache, right: Features, name: str, change: dict[str, object]) -> None:
    path = file_of(cache, name)
    value = json.loads(path.read_bytes())
    (value if name == "plan.json" else value["plan"]).update(change)
    path.write_text(json.dumps(value))
    check(cache, right, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key.json", {"format": 0}),
        ("key.json", {"format": None}),
        ("key.json", {"digest": "0" * 32}),
        ("COMPLETE.json", {"format": 0}),
        ("COMPLETE.json", {"format": None}),
        ("COMPLETE.json", {"digest": "0" * 32}),
    ],
)
def test_a_format_or_digest_that_is_not_the_arrays_is_named(
    cache: Cache, right: Features, name: str, value: dict[str, object]
) -> None:
    path = file_of(cache, name)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | value))
    check(cache, right, name)


def test_the_layer_is_named_after_the_folder_whatever_key_json_says(cache: Cache, right: Features) -> None:
    path = file_of(cache, "key.json")
    path.write_bytes(path.read_bytes().replace(b'"layer": "last.mean"', b'"layer": "last.meen"', 1))
    check(cache, right, "key.json", harmless=True)


@pytest.mark.parametrize("codec", [b"crc32d", b"bites"])
def test_a_codec_that_nobody_knows_is_damage(cache: Cache, right: Features, codec: bytes) -> None:
    path = file_of(cache, "zarr.json")
    path.write_bytes(path.read_bytes().replace(b"crc32c" if codec == b"crc32d" else b"bytes", codec))
    check(cache, right, "zarr.json")
    assert refused(cache, right)


@pytest.mark.parametrize("name", ["the row table", "the splits"])
@pytest.mark.parametrize("to", ["Binary", "null"])
def test_a_column_that_is_not_text_is_damage(cache: Cache, right: Features, name: str, to: str) -> None:
    import polars as pl

    path = file_of(cache, name)
    frame = pl.read_parquet(path)
    last = frame.columns[-1]
    changed = pl.col(last).cast(pl.Binary) if to == "Binary" else pl.lit(None, pl.String).alias(last)
    frame.with_columns(changed).write_parquet(path)
    check(cache, right, name)
    assert refused(cache, right)
