"""What is written beside the chunks? Commit records, the completion record with its root, and Zarr's metadata."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
from blake3 import blake3

from featcache.errors import Damaged
from featcache.key import FORMAT, ArrayKey, canonical
from featcache.plan import Plan

CRC_BYTES = 4
CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Record:
    """What one committed chunk holds.

    Args:
        chunk: Chunk number.
        rows: Rows it holds; the rest of a short last chunk is NaN.
        bytes: Size of the chunk file, checksum included.
        crc32c: CRC-32C of the file's bytes before its last four, hex.
        blake3: blake3 of the whole file, hex.
        failed: Ids of rows that could not be encoded; those rows are NaN.
        writer: Random id of the process that wrote it.
    """

    chunk: int
    rows: int
    bytes: int
    crc32c: str
    blake3: str
    failed: tuple[str, ...] = ()
    writer: str = ""


@dataclass(frozen=True)
class Complete:
    """The content of COMPLETE.json: every commit record and the root over them."""

    digest: str
    root: str
    plan: Plan
    d: int
    dtype: str
    records: tuple[Record, ...] = field(default=())


def root_of(records: Iterable[Record]) -> str:
    """What was got: blake3 over (chunk, rows, bytes, blake3) of every chunk in order, 128 bits in hex."""
    value = [[record.chunk, record.rows, record.bytes, record.blake3] for record in records]
    return blake3(canonical(value)).hexdigest(length=16)


def chunk_name(chunk: int) -> str:
    """File name of a chunk: Zarr's default key encoding with "." as separator."""
    return f"c.{chunk}.0"


def zarr_metadata(key: ArrayKey, plan: Plan, d: int, dtype: str) -> dict[str, Any]:
    """The content of zarr.json: a plain Zarr v3 array that any reader opens."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [plan.n, d],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [plan.chunk_rows, d]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": CODECS,
        "attributes": {"featcache": {"format": FORMAT, "digest": key.digest}},
        "dimension_names": ["sample", "feature"],
        "storage_transformers": [],
    }


def read_json(path: Path) -> Any:
    """Parses a JSON file of the store.

    Raises:
        Damaged: If it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise Damaged(f"{path} is not valid JSON ({error}). Run: featcache verify") from error


def flat(block: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous block, without a copy."""
    return memoryview(cast("Any", block.view(np.uint8).reshape(-1)))


def crc_of(body: bytes | memoryview) -> bytes:
    """CRC-32C of bytes, four bytes little-endian, as Zarr's crc32c codec appends it."""
    # a NumPy view, since google_crc32c takes no writable buffer and bytes() would copy
    return google_crc32c.value(cast("Any", np.frombuffer(cast("Any", body), np.uint8))).to_bytes(CRC_BYTES, "little")


def record_of(found: bytes, chunk: int, rows: int, writer: str, failed: tuple[str, ...]) -> Record:
    """The record of a whole chunk file as it lies there."""
    return Record(chunk, rows, len(found), found[-CRC_BYTES:].hex(), blake3(found).hexdigest(), failed, writer)


def parse_record(value: Any, path: Path) -> Record:
    """A record from its JSON; Damaged if fields are missing or unknown."""
    try:
        return Record(**{**value, "failed": tuple(value["failed"])})
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} was changed: {error!r}. Run: featcache verify") from error
