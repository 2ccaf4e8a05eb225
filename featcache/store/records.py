"""The files of an array other than its chunks: commit records, COMPLETE.json with the root, and Zarr metadata."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import google_crc32c
import numpy as np
from blake3 import blake3

from featcache.errors import Damaged
from featcache.limits import check_limit
from featcache.store.digest import FORMAT, ArrayKey, canonical, own_hash
from featcache.store.layout import Layout
from featcache.store.schema import require_form

CRC_BYTES = 4
ARRIVING, PARTIAL, REUSED = "ARRIVING.json", "PARTIAL.json", "REUSED.json"
FLOATS = ("float16", "float32")
IDS = "int32"  # what neighbour graphs are made of: row numbers
NO_ID = -1
CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Record:
    """The commit record of one chunk; checksums in hex."""

    chunk: int
    rows: int  # the rest of a short last chunk is NaN
    bytes: int  # size of the chunk file, checksum included
    crc32c: str  # of the file's bytes before its last four
    blake3: str  # of the whole file
    failed: tuple[str, ...] = ()  # ids of rows that could not be encoded; those rows are NaN
    writer: str = ""  # random id of the process that wrote it
    # Ids of rows that the encoder saw and that deserve a look, by what is the matter (`FLAGS`); left out where empty.
    near_constant: tuple[str, ...] = ()  # pictures that hardly vary
    truncated: tuple[str, ...] = ()  # texts cut at the token limit


FLAGS = ("near_constant", "truncated")
_IDS = ("failed", *FLAGS)
ADOPTED = "adopted"  # writer of a record made anew for a chunk that lost its own: its rows carry no flags
Flags = Mapping[str, tuple[str, ...]]  # fields of `FLAGS`


@dataclass(frozen=True)
class Complete:
    """The content of COMPLETE.json: every commit record and the root over them."""

    digest: str
    root: str
    layout: Layout
    d: int
    dtype: str
    records: tuple[Record, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the rows that could not be encoded, in row order of their chunks."""
        return tuple(row for record in self.records for row in record.failed)

    def flagged(self, flag: str) -> tuple[str, ...]:
        """Ids of the rows with a flag of `FLAGS`, in row order of their chunks."""
        return tuple(row for record in self.records for row in getattr(record, flag))

    def to_bytes(self) -> bytes:
        """The content of COMPLETE.json."""
        value = {
            "format": FORMAT,
            "digest": self.digest,
            "root": self.root,
            "plan": self.layout.to_json(),
            "d": self.d,
            "dtype": self.dtype,
            "records": [record_json(record) for record in self.records],
        }
        return canonical(value)


def root_of(records: Iterable[Record]) -> str:
    """Root of the stored values: blake3 over (chunk, rows, bytes, blake3) of every chunk in order, 128 bits in hex."""
    value = [[record.chunk, record.rows, record.bytes, record.blake3] for record in records]
    return blake3(canonical(value)).hexdigest(length=16)


def chunk_name(chunk: int) -> str:
    """File name of a chunk: Zarr's default key encoding with "." as separator."""
    return f"c.{chunk}.0"


def zarr_metadata(key: ArrayKey, layout: Layout, d: int, dtype: str) -> dict[str, Any]:
    """The content of zarr.json: a plain Zarr v3 array that any reader opens."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [layout.n, d],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [layout.chunk_rows, d]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if dtype in FLOATS else NO_ID,
        "codecs": CODECS,
        "attributes": {"featcache": {"format": FORMAT, "digest": key.digest}},
        "dimension_names": ["sample", "feature"],
        "storage_transformers": [],
    }


def flat(block: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous block, without a copy."""
    return memoryview(cast("Any", block.view(np.uint8).reshape(-1)))


def crc_of(body: bytes | memoryview) -> bytes:
    """CRC-32C of bytes, four bytes little-endian, as Zarr's crc32c codec appends it."""
    # a NumPy view, since google_crc32c takes no writable buffer and bytes() would copy
    return google_crc32c.value(cast("Any", np.frombuffer(cast("Any", body), np.uint8))).to_bytes(CRC_BYTES, "little")


def record_of(
    chunk: int,
    body: bytes | memoryview,
    crc: bytes,
    *,
    rows: int,
    failed: tuple[str, ...],
    writer: str,
    flags: Flags | None = None,
) -> Record:
    """The record of a chunk file of that body and checksum; the other arguments as in `Record`."""
    return Record(
        chunk=chunk,
        rows=rows,
        bytes=len(body) + len(crc),
        crc32c=crc.hex(),
        blake3=blake3(body).update(crc).hexdigest(),
        failed=failed,
        writer=writer,
        **(flags or {}),
    )


def record_json(record: Record) -> dict[str, Any]:
    """A record as JSON, without the flags that no row has: such a record has the bytes that it always had."""
    return {name: value for name, value in asdict(record).items() if value or name not in FLAGS}


def record_bytes(record: Record) -> bytes:
    """The content of commits/<chunk>.json."""
    return canonical(record_json(record))


def parse_record(value: Any, where: str) -> Record:
    """A record from its JSON; Damaged if it is not of its form, or lists a row twice."""
    return _record(require_form("record", value, where), where)


def _record(value: Mapping[str, Any], where: str) -> Record:
    record = Record(**{**value, **{name: tuple(value[name]) for name in _IDS if name in value}})
    listed = [getattr(record, name) for name in _IDS]
    if any(len(set(ids)) < len(ids) or len(ids) > record.rows for ids in listed):
        raise Damaged(f"{where} was changed: it lists more rows than there are. Run: featcache verify")
    return record


def parse_layout(value: Any, where: str) -> Layout:
    """A layout from the JSON of plan.json.

    Raises:
        Damaged: If it is not of its form, or its chunks are longer than the array.
        BeyondLimit: If it has more rows or chunks than are believed.
    """
    layout = Layout(**require_form("plan", value, where))
    check_limit("rows", layout.n, where)
    check_limit("chunks", layout.chunks, where)
    if layout.chunk_rows > layout.n:
        raise Damaged(f"{where} was changed: chunks of {layout.chunk_rows} of {layout.n} rows. Run: featcache verify")
    return layout


def parse_complete(value: Any, digest: str, where: str) -> Complete:
    """The checked content of COMPLETE.json.

    Args:
        value: Its JSON.
        digest: The digest of the array it lies in.
        where: Where it lies, for messages.

    Raises:
        Damaged: If the records do not give the root, do not fit the layout, or belong to another array.
        BeyondLimit: As `parse_layout`.
    """
    require_form("completion", value, where)
    layout = parse_layout(value["plan"], where)
    complete = Complete(
        digest=value["digest"],
        root=value["root"],
        layout=layout,
        d=value["d"],
        dtype=value["dtype"],
        records=tuple(_record(record, where) for record in value["records"]),
    )
    size = chunk_bytes(layout, complete.d, complete.dtype)
    spans = [layout.span(chunk) for chunk in range(layout.chunks)]
    expected = [(chunk, stop - start, size) for chunk, (start, stop) in enumerate(spans)]
    if (
        complete.digest != digest
        or root_of(complete.records) != complete.root
        or [(record.chunk, record.rows, record.bytes) for record in complete.records] != expected
    ):
        raise Damaged(f"{where} was changed: its records do not give its root. Run: featcache verify")
    return complete


def chunk_bytes(layout: Layout, d: int, dtype: str) -> int:
    """Size of every chunk file of an array, checksum included."""
    return layout.chunk_rows * d * np.dtype(dtype).itemsize + CRC_BYTES


def empty_rows(rows: int, d: int, dtype: np.dtype[Any] | str) -> np.ndarray:
    """Rows that hold nothing [rows, d]: NaN, or -1 where the array holds row numbers."""
    return np.full((rows, d), np.nan if np.dtype(dtype).kind == "f" else NO_ID, dtype)


def is_empty(block: np.ndarray) -> np.ndarray:
    """Where a block of features or row numbers holds nothing [rows, d]."""
    return np.asarray(np.isnan(block)) if block.dtype.kind == "f" else np.asarray(block == NO_ID)


def chunk_parts(layout: Layout, block: np.ndarray) -> tuple[memoryview, bytes]:
    """The bytes of a chunk file: rows [rows, d] in the stored dtype, padded where the array ends, and their CRC-32C."""
    full = block
    if len(block) < layout.chunk_rows:
        full = empty_rows(layout.chunk_rows, block.shape[1], block.dtype)
        full[: len(block)] = block
    body = flat(np.ascontiguousarray(full))
    return body, crc_of(body)


def record_name(chunk: int | str) -> str:
    """Name of a chunk's commit record, below the array's folder."""
    return f"commits/{chunk}.json"


def zarr_json(key: ArrayKey, layout: Layout) -> bytes:
    """The bytes of zarr.json."""
    return json.dumps(zarr_metadata(key, layout, key.binds["d"], key.binds["dtype"]), indent=1).encode()


def key_json(key: ArrayKey) -> bytes:
    """The bytes of key.json, with a hash of all that it says: the digest binds `binds` alone."""
    value = key.to_json()
    return json.dumps({**value, "blake3": own_hash(value)}, indent=1, ensure_ascii=False).encode()


def layout_json(layout: Layout) -> bytes:
    """The bytes of plan.json."""
    return json.dumps(layout.to_json(), indent=1).encode()
