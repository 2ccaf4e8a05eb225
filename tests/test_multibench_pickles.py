"""Pickles of arrays are read as NumPy wrote them, and nothing else that a pickle can hold is."""

import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.multibench_pickles import read_pickle

PROTOCOLS = (2, 3, 4, 5)


class Hostile:
    """Asks whoever unpickles it for a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def content() -> dict[Any, Any]:
    rng = np.random.default_rng(0)
    return {
        "train": {
            "float64": rng.normal(size=(20, 50, 5)),
            "float32 fortran": np.asfortranarray(rng.normal(size=(4, 5, 6)).astype("f4")),
            "strided": rng.normal(size=(6, 8))[::2, 1::2],
            "big-endian": np.arange(3, dtype=">f4"),
            "integers": np.arange(-3, 3, dtype="i8").reshape(2, 3, 1),
            "bools": np.array([True, False]),
            "objects": np.array([["a", b"b", "ü", None]] * 3, dtype=object),
            "texts": np.array(["x", "yy"]),
            "bytes": np.array([b"x", b"yyy"]),
            "empty": np.zeros((0, 3)),
            "zero dimensions": np.array(3.0),
            "scalar": np.float32(3),
            "plain": [1, -2, 2**40, 1.5, None, "t", b"", (1, 2, 3, 4), True],
        },
        1: {},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_plain_containers_come_back_as_they_were_pickled(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content(), protocol))
    read = read_pickle(path)
    assert read[1] == {} and [*read["train"]] == [*content()["train"]]
    for name, value in content()["train"].items():
        got = read["train"][name]
        if isinstance(value, np.ndarray):
            assert got.dtype == value.dtype and got.shape == value.shape and (got == value).all(), name
        else:
            assert got == value and type(got) is type(value), name


def test_names_of_numpy_1_are_known(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps(np.arange(4), 2).replace(b"numpy._core.", b"numpy.core."))
    assert read_pickle(path).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (Hostile(os.system, "echo run"), "posix.system"),
        (Hostile(eval, "1"), "builtins.eval"),
        (Hostile(exec, "1"), "builtins.exec"),
        (Hostile(getattr, "a", "upper"), "builtins.getattr"),
        (Hostile(subprocess.check_output, "true"), r"(subprocess|commands)\.check_output"),
        (Hostile(np.load, "x.npy"), "numpy.load"),
        (Hostile(bytearray, 10**12), "builtins.bytearray"),
        (Hostile(pickle.loads, b"."), r"_?[cC]?[pP]ickle\.loads"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (Path("x"), "pathlib.PosixPath"),
    ],
    ids=["os.system", "eval", "exec", "getattr", "subprocess", "np.load", "bytearray", "loads", "masked", "path"],
)
def test_whatever_else_a_pickle_wants_is_refused_by_its_name(
    tmp_path: Path, hostile: Any, name: str, protocol: int
) -> None:
    path = tmp_path / "hostile.pkl"
    nested = {"train": {"text": np.zeros(2), "id": np.array([["a", hostile]], dtype=object)}}
    for held in (hostile, [hostile], {"train": hostile}, nested):
        path.write_bytes(pickle.dumps(held, protocol))
        wanted = name.replace("builtins", "__builtin__" if protocol < 3 else "builtins")
        with pytest.raises(DataInvalid, match=rf"hostile\.pkl: holds {wanted}|escaped text of protocol 0"):
            read_pickle(path)


def test_one_that_would_run_a_command_does_not(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"train": np.array([Hostile(os.system, f"touch {trace}")], dtype=object)}))
    with pytest.raises(DataInvalid, match=r"holds posix\.system .*\n  Get the file again"):
        read_pickle(path)
    assert not trace.exists()


TEXT = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5
HAND_MADE = {
    "an instance of protocol 0": (b"(S'echo'\nios\nsystem\n.", "holds os.system"),
    "a name with control characters": (b"\x80\x04cos\x1b\nsys\x07tem\n.", r"holds os\?\.sys\?tem"),
    "a class is made": (b"\x80\x04cnumpy\nndarray\n)\x81.", "holds opcode NEWOBJ"),
    "an extension code": (b"\x80\x02\x82\x01.", "holds opcode EXT1"),
    "a persistent id": (b"Pabc\n.", "holds opcode PERSID"),
    "an unknown opcode": (b"\x80\x04\xf0.", "holds opcode 240"),
    "a name kept as content": (b"\x80\x04}X\x01\x00\x00\x00acnumpy\ndtype\ns.", "holds dtype itself"),
    "a state of a name": (b"\x80\x04cnumpy\ndtype\nN}X\x04\x00\x00\x00nameNs\x86b.", "holds a state of a Name"),
    "a call of a list": (b"\x80\x04]]\x85R.", "holds a call of list"),
    "a key whose hash never ends": (b"\x80\x04})" + b"2\x86" * 60 + b"Ns.", "a key of type tuple"),
    "a claim of 2**60 bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "cut short: byte 11 claims"),
    "a frame of 2**60 bytes": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}.", "cut short"),
    "a whole number of a gigabyte": (b"\x80\x02\x8b" + struct.pack("<I", 2**30) + b"\x00.", "a whole number of"),
    "a shape without its content": (
        pickle.dumps(np.zeros(4), 4).replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"), "holds other than 2,147,483,647",
    ),
    "one text encoded ten thousand times": (
        b"\x80\x02" + TEXT + b"q\x000c_codecs\nencode\nq\x010X\x06\x00\x00\x00latin1q\x020]"
        + b"h\x01h\x00h\x02\x86Ra" * 10_000 + b".", "unpacks to more than its",
    ),
    "parts of a number": (
        pickle.dumps(np.zeros(2, dtype=[("a", "f4")]), 4), "numbers of another kind than is read",
    ),
    "dates": (pickle.dumps(np.zeros(2, dtype="M8[s]"), 4), "numbers of another kind than is read"),
    "a newer protocol": (b"\x80\x09}.", "a newer protocol"),
    "a stack that is empty": (b"\x80\x04.", "not a whole pickle"),
    "no text": (b"\x80\x04\x8c\x02\xff\xfe.", "not a whole pickle"),
    "no end": (b"\x80\x04}", "cut short"),
    "nothing": (b"", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", HAND_MADE)
def test_hand_made_ones_are_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    made, reason = HAND_MADE[case]
    (tmp_path / "made.pkl").write_bytes(made)
    with pytest.raises(DataInvalid, match=reason):
        read_pickle(tmp_path / "made.pkl")


def test_a_memo_of_four_billion_places_takes_one(tmp_path: Path) -> None:
    (tmp_path / "memo.pkl").write_bytes(b"\x80\x04}r\xff\xff\xff\xff0j\xff\xff\xff\xff.")
    assert read_pickle(tmp_path / "memo.pkl") == {}


def test_a_file_of_nothing_but_lists_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.data.multibench_pickles.MOST_STEPS", 10_000)
    (tmp_path / "lists.pkl").write_bytes(b"\x80\x04" + b"]" * 20_000 + b".")
    with pytest.raises(DataInvalid, match="more than 10,000 steps"):
        read_pickle(tmp_path / "lists.pkl")


def test_larger_files_than_the_limit_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps(np.zeros(1000)))
    with pytest.raises(DataInvalid, match="no more than 1,000 are read"):
        read_pickle(path, most_bytes=1000)
    with pytest.raises(DataMissing, match="is not there"):
        read_pickle(tmp_path / "other.pkl")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps({"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", None], dtype=object)}, protocol)
    path = tmp_path / "cut.pkl"
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(DataInvalid):
            read_pickle(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_file_with_any_bytes_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is wrong is DataInvalid; memory is bounded by the file, so no change of it takes long."""
    held = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", None], dtype=object), "c": [1, "d"]}
    whole = bytearray(pickle.dumps(held, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.pkl"
    path.write_bytes(whole)
    try:
        read_pickle(path)
    except DataInvalid:
        pass
