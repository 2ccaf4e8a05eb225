"""Every format to import, cut, flipped and made up: what comes in is whole, else an error names the file."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.data.errors import DataInvalid
from featcache.errors import BeyondLimit, Damaged, Overflow, UsageError
from featcache.interchange.exporting import export_features
from featcache.interchange.formats import read_source
from featcache.interchange.formats.contents import ImportOptions
from featcache.interchange.formats.row_names import read_row_names
from tests.foreign import N, npy, take_npy, values, write_ids
from tests.small_caches import store

OURS = (DataInvalid, BeyondLimit, Damaged, UsageError, Overflow)
MUTANTS = 40  # of each format, in the default run


def pt(folder: Path) -> Path:
    torch.save(torch.from_numpy(values()), folder / "rows.pt")
    return folder / "rows.pt"


def old_pt(folder: Path) -> Path:
    torch.save(torch.from_numpy(values()), folder / "rows.pt", _use_new_zipfile_serialization=False)
    return folder / "rows.pt"


def platonic(folder: Path) -> Path:
    content = {"feats": torch.ones(N, 2, 3), "num_params": 5, "bpb": torch.tensor(0.5)}
    torch.save(content, folder / "lm_pool-avg.pt")
    return folder / "lm_pool-avg.pt"


def export(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        cache = Cache(folder / "theirs")
        return export_features(cache, store(cache), folder / f"rows{suffix}")

    return make


def ids(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        names, path = [f"photo {row}" for row in range(N)], folder / f"ids{suffix}"
        if suffix == ".parquet":
            pl.DataFrame({"id": names, "group": [row // 2 for row in range(N)]}).write_parquet(path)
        elif suffix == ".csv":
            pl.DataFrame({"id": names, "group": names}).write_csv(path)
        elif suffix == ".npy":
            np.save(path, np.array(names))
        else:
            write_ids(folder, names)
        return path

    return make


FORMATS: dict[str, Callable[[Path], Path]] = {
    "npy": npy,
    "pt": pt,
    "old pt": old_pt,
    "platonic-rep": platonic,
    ".npz": export(".npz"),
    ".parquet": export(".parquet"),
    ".safetensors": export(".safetensors"),
    **{f"ids {suffix}": ids(suffix) for suffix in (".npy", ".csv", ".parquet", ".txt")},
}


def mutant(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped or set, a piece cut out, doubled or moved; mostly near an end, where headers lie."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.choice([chance.randrange(min(len(changed), 300)), chance.randrange(len(changed)),
                               len(changed) - 1 - chance.randrange(min(len(changed), 600))])  # fmt: skip
        kind = chance.randrange(5)
        if kind == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[place] = chance.choice(b"\x00\x7f\x80\xff'{(9-")
        elif kind == 2:
            del changed[place : place + chance.choice([1, 3, 16, 10**6])]
        elif kind == 3:
            changed[place:place] = changed[place : place + chance.randrange(1, 40)]
        else:
            changed[place : place + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
        if not changed:
            return b""
    return bytes(changed)


def read_all(path: Path, ids_file: Path) -> None:
    """Reads a file as an import does: every value, every id."""
    if path.name.startswith("ids"):
        names = read_row_names(path)
        assert all(isinstance(name, str) for name in (*names.ids, *(names.groups or ())))
        return
    options = ImportOptions(ids=ids_file if path.name in ("rows.npy", "rows.pt") else None, modality="image")
    layer = "last.cls" if path.suffix in (".npy", ".pt") and "pool" not in path.name else None
    for contents in read_source(path, layer, options):
        for matrix in contents.matrices:
            block = matrix.take(np.arange(matrix.n))
            assert block.shape == (matrix.n, matrix.d) and block.dtype.kind == "f"


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutant_of_a_file_is_read_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path)
    content, names = path.read_bytes(), write_ids(tmp_path, name="names.txt")
    read_all(path, names)
    chance, refused = random.Random(name), 0
    for number in range(MUTANTS):
        path.unlink()  # a map of the last one may still be open
        path.write_bytes(mutant(content, chance))
        try:
            read_all(path, names)
        except OURS as error:
            refused += 1
            assert path.name in str(error) or isinstance(error, UsageError), (number, error)
    assert refused > MUTANTS / 10 or name == "ids .txt"


def test_mutants_of_hdf5_files_are_read_or_errors_of_ours(tmp_path: Path) -> None:
    """In a process of its own, since a fault of libhdf5 would end this one."""
    code = f"""
import random, sys
from pathlib import Path
from tests.test_imports_fuzz import OURS, export, mutant, read_all
path = export(".h5")(Path({str(tmp_path)!r}))
content, chance, refused = path.read_bytes(), random.Random("hdf5"), 0
for number in range({MUTANTS}):
    path.write_bytes(mutant(content, chance))
    try:
        read_all(path, path)
    except OURS as error:
        refused += 1
        assert path.name in str(error), error
print("refused", refused)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("refused") and int(done.stdout.split()[1]) > MUTANTS / 10, done.stderr[-2000:]


_HEADERS = st.one_of(
    st.text("{}()[]'\",:<>fiOUV0123456789 \\\n#TrueFalsNodchrpxé\t", max_size=120),
    st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
        st.sampled_from(["'<f4'", "'|O'", "'>f8'", "[('a', '<f4')]", "'<U0'", "None", "'<M8[ns]'", "{}", "'f4,,'"]),
        st.sampled_from(["False", "True", "1", "None"]),
        st.sampled_from(
            ["(30, 6)", "()", "(-1, 6)", "(1e3,)", "(True, 6)", f"({10**30}, 6)", "('a',)", "None", "(0, 6)"]
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(_HEADERS, st.sampled_from([1, 2, 3, 9]), st.integers(0, 2000))
def test_a_header_of_a_npy_that_is_made_up_is_an_error_of_ours(text: str, version: int, size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        head = text.encode("latin-1", "replace")
        path = Path(folder, "rows.npy")
        width = 2 if version == 1 else 4
        path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + len(head).to_bytes(width, "little") + head + bytes(size))
        try:
            read_all(path, write_ids(Path(folder)))
        except OURS as error:
            assert "rows.npy" in str(error)


COLUMNS = {
    "a struct": pl.Series("id", [{"a": 1}] * N),
    "a list": pl.Series("id", [["a"]] * N),
    "dates": pl.Series("id", ["2026-01-01"] * N).str.to_date(),
    "floats": pl.Series("id", [0.5] * N),
    "bytes": pl.Series("id", [b"a"] * N),
    "nothing": pl.Series("id", [None] * N),
    "a category": pl.Series("id", ["a"] * N, dtype=pl.Categorical),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_ids_of_another_type_are_named(name: str, tmp_path: Path) -> None:
    pl.DataFrame([COLUMNS[name]]).write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(OURS, match=r"ids\.parquet"):
        take_npy(tmp_path, ids=tmp_path / "ids.parquet")


def test_a_panic_of_polars_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("range end index 12 out of range")

    table = ids(".parquet")(tmp_path)
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(DataInvalid, match=r"ids\.parquet cannot be read as PARQUET: range end index 12 out of range"):
        read_row_names(table)
    monkeypatch.undo()
    rows = export(".parquet")(tmp_path)
    [contents] = read_source(rows, None, ImportOptions())
    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(DataInvalid, match=r"rows\.parquet cannot be read: range end"):
        contents.matrices[0].take(np.arange(3))
