"""Malformed records, tables and headers by a grammar, drawn by Hypothesis from a seed."""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    255,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**12,
    10**30,
    0.5,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
)
TEXTS = (
    "",
    "..",
    "../../x",
    "/etc/passwd",
    "a/b",
    "\0",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "c.0.0",
    "last.mean",
    "float16",
)
TEXTS += ("float64", "object", ">f4", "int8", "0" * 32, "f" * 64, "Z" * 64, "x" * 5000, "nan", "1e5", "True")
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
)
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def examples(strategy: st.SearchStrategy[T], count: int, seed: int) -> list[T]:
    """So many draws of a strategy, the same for the same seed."""
    drawn: list[T] = []

    def collect(value: T) -> None:
        drawn.append(value)

    for turn in range(20):
        if len(drawn) >= count:
            break
        once = settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        seeded(seed * 100 + turn)(once(given(strategy)(collect)))()
    return drawn[:count]


# -- JSON -------------------------------------------------------------------------------------------------------------


@st.composite
def mangled_json(draw: Draw, content: bytes) -> bytes:
    """JSON with one or two values, names or parts of another kind; now and then no JSON at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(RAW))(content)
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        value = _changed(draw, value)
    return json.dumps(value).encode()


RAW: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: b"",
    lambda content: b"null",
    lambda content: b"[]",
    lambda content: b"\xff\xfe" + content,
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: content.decode().encode("utf-16"),
    lambda content: b"[" * 200_000,
    lambda content: b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    lambda content: b"[" + content + b"]",
    lambda content: content + content,
    lambda content: content.replace(b":", b"", 1),
    lambda content: content.replace(b"1", b"1" * 5_000, 1),
    lambda content: content.replace(b'"', b"'"),
    lambda content: content[: len(content) // 2],
    lambda content: content.rstrip()[:-1] + b',"format":2}',
    lambda content: content.rstrip()[:-1] + b',"format":1,"format":1}',
    lambda content: content.rstrip()[:-1] + b',"\xff":1}',
    lambda content: b" " * 1_000_000 + content,
    lambda content: bytes(len(content)),
)


def _changed(draw: Draw, value: Any) -> Any:
    """A copy with one part changed."""
    paths = list(_paths(value))
    path = draw(st.sampled_from(paths))
    if not path:
        return draw(JUNK)
    value = deepcopy(value)
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    how = draw(st.sampled_from(("junk", "junk", "junk", "gone", "renamed", "wrapped", "as text", "near")))
    last, old = path[-1], holder[path[-1]]
    if how == "gone" or (how == "renamed" and isinstance(holder, dict)):
        del holder[last]
        if how == "renamed":
            holder[draw(st.sampled_from(TEXTS))] = old
    else:
        holder[last] = {"wrapped": [old], "as text": str(old), "near": _near(draw, old)}.get(how, draw(JUNK))
    return value


def _near(draw: Draw, old: Any) -> Any:
    """Almost the same: what a careless writer would write."""
    if isinstance(old, bool) or old is None:
        return int(bool(old))
    if isinstance(old, int | float):
        return draw(st.sampled_from((old + 1, old - 1, -old, float(old), old * 1000)))
    if isinstance(old, str):
        return draw(st.sampled_from((old + "x", old[:-1], old.upper(), old[::-1], old + "\n", " " + old)))
    if isinstance(old, list):
        return draw(st.sampled_from((old[:-1], old + old, old[::-1])))
    return {**old, "extra": 1}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Sequence[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for name, part in parts for inner in _paths(part, (*path, name)))]


# -- bytes and tables -------------------------------------------------------------------------------------------------


@st.composite
def mangled_bytes(draw: Draw, content: bytes, *, first: int = 0, last: int | None = None) -> bytes:
    """A file with some bytes of a part of it overwritten, cut out, or put twice."""
    changed, end = bytearray(content), len(content) if last is None else last
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(first, max(first, min(end, len(changed)) - 1)))
        size = draw(st.integers(1, 8))
        how = draw(st.sampled_from(("other", "other", "zero", "full", "out", "twice")))
        there = bytes(changed[at : at + size])
        new = {"zero": bytes(size), "full": b"\xff" * size, "out": b"", "twice": there + there}
        changed[at : at + size] = new.get(how, draw(st.binary(min_size=size, max_size=size)))
    return bytes(changed)


@st.composite
def mangled_table(draw: Draw, content: bytes) -> "tuple[str, Any]":
    """How a Parquet table is to be changed: bytes, or a change of its columns that `change_table` makes later."""
    if draw(st.booleans()):
        return "bytes", draw(
            st.one_of(mangled_bytes(content), mangled_bytes(content, first=max(0, len(content) - 400)))
        )
    changes = ("drop", "rename", "cast", "null", "repeat", "nest", "empty", "shuffle", "extra", "one")
    return draw(st.sampled_from(changes)), (
        draw(st.integers(0, 7)),
        draw(st.sampled_from(TEXTS)),
        draw(st.integers(0, 5)),
    )


def change_table(content: bytes, change: "tuple[str, Any]") -> bytes:
    """Makes the change of a table that `mangled_table` has drawn; in a child, for polars runs threads."""
    import polars as pl

    how, what = change
    if how == "bytes":
        return what
    column, text, kind = what
    frame = pl.read_parquet(io.BytesIO(content))
    name = frame.columns[column % len(frame.columns)]
    kinds = (pl.Int64, pl.Binary, pl.Float32, pl.Boolean, pl.Date, pl.Categorical)
    changes: dict[str, Callable[[], pl.DataFrame]] = {
        "drop": lambda: frame.drop(name),
        "rename": lambda: frame.rename({name: text or "x"}),
        "cast": lambda: frame.with_columns(pl.Series(name, [None] * len(frame), dtype=kinds[kind])),
        "null": lambda: frame.with_columns(
            pl.when(pl.int_range(pl.len()) == kind).then(None).otherwise(name).alias(name)
        ),
        "repeat": lambda: pl.concat([frame, frame.head(1)]),
        "nest": lambda: frame.with_columns(pl.struct(name).alias(name)),
        "empty": lambda: frame.clear(),
        "shuffle": lambda: frame.reverse(),
        "extra": lambda: frame.with_columns(pl.lit(text).alias(f"label.{text}"[:200])),
        "one": lambda: frame.with_columns(pl.lit(text).alias(name)),
    }
    file = io.BytesIO()
    changes[how]().write_parquet(file)
    return file.getvalue()


# -- files of other tools ---------------------------------------------------------------------------------------------

DESCRIPTIONS = (
    "<f4",
    ">f4",
    "<f8",
    "|O",
    "<c8",
    "<i8",
    "|S4",
    "<U3",
    "<M8[s]",
    "|V8",
    "|b1",
    "<f2",
    "f",
    "",
    "(3,)<f4",
)
SHAPES = ("(40, 6)", "(6, 40)", "(240,)", "()", "(0, 6)", "(40, 0)", "(-1, 6)", "(10**12, 6)", "(1000000000000, 6)")
SHAPES += ("(40, 6.0)", "[40, 6]", "40", "(40, 6, 1)", "(True, 240)", "(None, 6)", "(2**63, 2**63)", "(" * 200, "'a'")


@st.composite
def mangled_npy(draw: Draw, content: bytes) -> bytes:
    """A .npy whose header says other things than its rows, or cannot be parsed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mangled_bytes(content, last=128))
    fields = {
        "'descr'": draw(st.sampled_from(("'<f4'", *(repr(each) for each in DESCRIPTIONS), "[('a', '<f4')]", "1"))),
        "'fortran_order'": draw(st.sampled_from(("False", "True", "0", "None", "'x'", "print(1)"))),
        "'shape'": draw(st.sampled_from(SHAPES)),
    }
    if draw(st.integers(0, 4)) == 0:
        del fields[draw(st.sampled_from([*fields]))]
    text = (
        "{"
        + ", ".join(f"{name}: {value}" for name, value in fields.items())
        + draw(st.sampled_from(("}", ", }", "", "]")))
    )
    version = draw(st.sampled_from(((1, 0), (2, 0), (3, 0), (9, 9), (0, 0))))
    header = text.encode() + b" " * draw(st.integers(0, 70)) + b"\n"
    size = len(header) + draw(st.sampled_from((0, 0, 0, 0, -3, 5, 60_000)))
    packed = struct.pack("<H" if version[0] == 1 else "<I", max(0, size) % (65_536 if version[0] == 1 else 2**32))
    return b"\x93NUMPY" + bytes(version) + packed + header + content[128:]


@st.composite
def mangled_zip(draw: Draw, content: bytes, *, member: Callable[[bytes], st.SearchStrategy[bytes]]) -> bytes:
    """A zip (.npz, .pt) of which a member is changed, missing, or there twice, or whose directory is damaged."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mangled_bytes(content, first=max(0, len(content) - 300)))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = draw(st.sampled_from([*members]))
    how = draw(st.sampled_from(("changed", "changed", "changed", "gone", "renamed", "emptied")))
    there = members.pop(name)
    if how == "renamed":
        members[draw(st.sampled_from(("x.npy", "../x", "/x", "features")))] = there
    elif how != "gone":
        members[name] = b"" if how == "emptied" else draw(member(there))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for each, inside in members.items():
            file.writestr(each, inside)
    return out.getvalue()


@st.composite
def mangled_safetensors(draw: Draw, content: bytes) -> bytes:
    """A .safetensors whose header is changed: types, shapes, offsets, metadata, its own size."""
    size = int.from_bytes(content[:8], "little")
    header = draw(mangled_json(content[8 : 8 + size]))
    said = len(header) + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 10**12)))
    return max(0, said).to_bytes(8, "little") + header + content[8 + size :]


@st.composite
def mangled_ids(draw: Draw, content: bytes) -> bytes:
    """A text of ids with lines missing, twice, empty, endless or not text."""
    lines = content.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    junk = (b"", b"\0", b"\xff\xfe", b"x" * 100_000, b'"', b'a,"b', b"\r", b"\x1b[2J", "\u2028".encode(), lines[0])
    how = draw(st.sampled_from(("line", "line", "gone", "more", "reversed", "raw", "utf-16")))
    if how == "gone":
        del lines[at]
    elif how == "reversed":
        lines = lines[::-1]
    elif how in ("line", "more"):
        lines[at : at + (how == "line")] = [draw(st.sampled_from(junk))]
    text = b"\n".join(lines) + b"\n"
    return draw(mangled_bytes(text)) if how == "raw" else text.decode().encode("utf-16") if how == "utf-16" else text


H5_CHANGES = ("gone", "type", "shape", "scalar", "group", "text", "chunks", "endian", "compound", "empty", "nan")


@st.composite
def mangled_h5(draw: Draw, content: bytes) -> "tuple[str, Any]":
    """How an HDF5 file is to be changed: bytes, or a change that `change_h5` makes later."""
    if draw(st.integers(0, 2)) == 0:
        return "bytes", draw(mangled_bytes(content, last=4000))
    return draw(st.sampled_from(H5_CHANGES)), draw(st.integers(0, 20))


def change_h5(content: bytes, change: "tuple[str, Any]") -> bytes:
    """Makes the change that `mangled_h5` has drawn."""
    import h5py

    how, which = change
    if how == "bytes":
        return which
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, each: names.append(name) if isinstance(each, h5py.Dataset) else None)
        name = names[which % len(names)]
        old = np.asarray(file[name][()])
        del file[name]
        made: dict[str, Callable[[], Any]] = {
            "type": lambda: np.zeros(old.shape, np.complex64),
            "shape": lambda: np.zeros((*old.shape, 2), np.float32),
            "scalar": lambda: np.float32(1),
            "text": lambda: np.full(old.shape or (1,), b"\xff\xfe"),
            "endian": lambda: np.zeros(old.shape, ">f4"),
            "compound": lambda: np.zeros(old.shape, [("a", "f4"), ("b", "i8")]),
            "nan": lambda: np.full(old.shape, np.nan, np.float32),
        }
        if how == "group":
            file.create_group(name)
        elif how == "empty":
            file[name] = h5py.Empty("f4")
        elif how == "chunks":
            file.create_dataset(name, (0,), np.float32, maxshape=(None,), chunks=(7,))
        elif how != "gone":
            file[name] = made[how]()
    return buffer.getvalue()
