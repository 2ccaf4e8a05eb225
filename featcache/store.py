"""How does one array lie on disk, and how is it written and read? Store format 1 (docs/format.md)."""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from blake3 import blake3

from featcache.durable import TEMPORARY, make_folders, sync_folder, write_once
from featcache.errors import Damaged, ExtractionFailed, FeaturesNotCached, NewerFormat, UsageError
from featcache.key import FORMAT, ArrayKey, canonical
from featcache.plan import Plan
from featcache.records import (
    CODECS,
    CRC_BYTES,
    Complete,
    Record,
    chunk_name,
    crc_of,
    flat,
    parse_record,
    read_json,
    record_of,
    root_of,
    zarr_metadata,
)

ASIDE = ".aside-"


class FeatureArray:
    """One array of the cache: a folder that is a Zarr v3 array, with key, plan and commit records beside the chunks.

    Args:
        path: The array's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = path / "commits"

    def __repr__(self) -> str:
        return f"FeatureArray({str(self.path)!r})"

    # -- what it is -------------------------------------------------------------------------------------------------

    def key(self) -> ArrayKey:
        """What was asked.

        Raises:
            NewerFormat: If a newer featcache wrote it.
            Damaged: If key.json does not agree with the folder's name.
        """
        path = self.path / "key.json"
        try:
            value = read_json(path)
            self._refuse_newer(int(value["format"]))
            key = ArrayKey.from_json(value)
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing. Run: featcache verify") from error
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} lacks or misstates {error}. Run: featcache verify") from error
        if key.digest != self.path.name:
            raise Damaged(f"{path} was changed: its content has digest {key.digest}. Run: featcache verify")
        return key

    def _refuse_newer(self, found: int) -> None:
        if found > FORMAT:
            raise NewerFormat(
                f"{self.path} is store format {found}; this featcache reads up to {FORMAT}. "
                "Run: pip install --upgrade featcache"
            )

    def plan(self) -> Plan | None:
        """The plan, or None before there is one."""
        path = self.path / "plan.json"
        if not path.exists():
            return None
        value = read_json(path)
        try:
            return Plan(**value)
        except TypeError as error:
            raise Damaged(f"{path} was changed: {error}. Run: featcache verify") from error

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(self, key: ArrayKey, wanted: Plan) -> Plan:
        """Makes the folder with key, Zarr metadata and plan, or joins the array that is already there.

        Returns:
            The plan in force: the wanted one, or the one an earlier or other process wrote first.
        """
        make_folders(self.commits)
        write_once(self.path / "key.json", json.dumps(key.to_json(), indent=1, ensure_ascii=False).encode())
        self.key()
        write_once(self.path / "plan.json", json.dumps(wanted.to_json(), indent=1).encode())
        plan = self.plan()
        assert plan is not None  # written or found on the line above
        if plan.n != wanted.n:
            raise Damaged(f"{self.path}/plan.json says {plan.n} rows, the data set has {wanted.n}")
        metadata = zarr_metadata(key, plan, key.binds["d"], key.binds["dtype"])
        write_once(self.path / "zarr.json", json.dumps(metadata, indent=1).encode())
        return plan

    def commit(self, plan: Plan, chunk: int, block: np.ndarray, *, writer: str, failed: Sequence[str] = ()) -> Record:
        """Makes one chunk durable, then its record. When this returns, the chunk survives anything.

        Args:
            plan: The plan in force.
            chunk: Chunk number.
            block: [rows, d] in the stored dtype; may be shorter than a chunk only if it is the last.
            writer: Random id of this process.
            failed: Ids of rows that are NaN because they could not be encoded.
        """
        start, stop = plan.span(chunk)
        if len(block) != stop - start:
            raise UsageError(f"chunk {chunk} holds rows {start} to {stop}, got {len(block)}")
        full = block
        if len(block) < plan.chunk_rows:
            full = np.full((plan.chunk_rows, block.shape[1]), np.nan, block.dtype)
            full[: len(block)] = block
        body = flat(np.ascontiguousarray(full))
        crc = crc_of(body)
        digest = blake3(body).update(crc).hexdigest()
        record = Record(chunk, len(block), len(body) + CRC_BYTES, crc.hex(), digest, tuple(failed), writer)
        target = self.path / chunk_name(chunk)
        if not write_once(target, body, crc):
            record = self._adopt(record, target, body, crc)
        write_once(self.commits / f"{chunk}.json", canonical(asdict(record)))
        return self.record(chunk) or record

    def _adopt(self, mine: Record, target: Path, body: memoryview, crc: bytes) -> Record:
        """Another process, or an earlier life of this one, left a chunk of that name: keep it if it is whole."""
        found = target.read_bytes()
        whole = len(found) == mine.bytes and crc_of(found[:-CRC_BYTES]) == found[-CRC_BYTES:]
        if whole:
            return record_of(found, mine.chunk, mine.rows, mine.writer, mine.failed)
        target.rename(self.path / f"{ASIDE}{target.name}-{uuid.uuid4().hex}")
        if not write_once(target, body, crc):
            raise ExtractionFailed(f"{target} is being written by another process; run the same command again")
        return mine

    def adopt_orphans(self, plan: Plan) -> list[int]:
        """Records whole chunks that lost their writer between chunk and record; sets damaged ones aside.

        Returns:
            The chunks that were adopted.
        """
        adopted: list[int] = []
        for chunk in sorted(set(range(plan.chunks)) - self.committed()):
            target = self.path / chunk_name(chunk)
            if not target.exists():
                continue
            found = target.read_bytes()
            start, stop = plan.span(chunk)
            if self._is_whole(plan, found, stop - start):
                sync_folder(self.path)  # the link may not have been durable yet
                record = record_of(found, chunk, stop - start, "adopted", ())
                write_once(self.commits / f"{chunk}.json", canonical(asdict(record)))
                adopted.append(chunk)
            else:
                target.rename(self.path / f"{ASIDE}{target.name}-{uuid.uuid4().hex}")
        return adopted

    def _is_whole(self, plan: Plan, found: bytes, rows: int) -> bool:
        """Whether a chunk found without record can be adopted: right size, right CRC-32C, no row that failed."""
        d, dtype = int(self.key().binds["d"]), np.dtype(self.key().binds["dtype"])
        body, crc = found[:-CRC_BYTES], found[-CRC_BYTES:]
        if len(body) != plan.chunk_rows * d * dtype.itemsize or crc_of(body) != crc:
            return False
        return bool(np.isfinite(np.frombuffer(body, dtype)[: rows * d]).all())

    def finish(self, plan: Plan) -> Complete:
        """Writes COMPLETE.json once every chunk is committed.

        Raises:
            Damaged: If another process completed the array with other bytes.
        """
        records = [self.record(chunk) for chunk in range(plan.chunks)]
        missing = [chunk for chunk, record in enumerate(records) if record is None]
        if missing:
            raise FeaturesNotCached(
                f"{self.path}: {len(missing)} of {plan.chunks} chunks are missing, first {missing[0]}"
            )
        whole = cast("list[Record]", records)
        key = self.key()
        binds = key.binds
        value = {
            "format": FORMAT,
            "digest": key.digest,
            "root": root_of(whole),
            "plan": plan.to_json(),
            "d": binds["d"],
            "dtype": binds["dtype"],
            "records": [asdict(record) for record in whole],
        }
        write_once(self.path / "COMPLETE.json", canonical(value))
        complete = self.complete()
        if complete.root != value["root"]:
            raise Damaged(f"{self.path}: COMPLETE.json was written by another process for other bytes")
        return complete

    # -- what is there ----------------------------------------------------------------------------------------------

    def committed(self) -> set[int]:
        """Chunk numbers that have a commit record."""
        if not self.commits.is_dir():
            return set()
        names = (entry.name for entry in os.scandir(self.commits))
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}

    def record(self, chunk: int) -> Record | None:
        """The commit record of a chunk, or None."""
        path = self.commits / f"{chunk}.json"
        try:
            value = read_json(path)
        except FileNotFoundError:
            return None
        return parse_record(value, path)

    @property
    def is_complete(self) -> bool:
        """Whether COMPLETE.json is there."""
        return (self.path / "COMPLETE.json").exists()

    def complete(self) -> Complete:
        """The checked content of COMPLETE.json.

        Raises:
            FeaturesNotCached: If the array is not complete.
            Damaged: If the records do not give the recorded root, or belong to another array.
            NewerFormat: If a newer featcache wrote it.
        """
        path = self.path / "COMPLETE.json"
        try:
            value = read_json(path)
        except FileNotFoundError as error:
            raise FeaturesNotCached(f"{self.path} is not complete. Run the same featcache extract again") from error
        try:
            self._refuse_newer(int(value["format"]))
            plan = Plan(**value["plan"])
            records = tuple(parse_record(record, path) for record in value["records"])
            complete = Complete(value["digest"], value["root"], plan, value["d"], value["dtype"], records)
            row_bytes = complete.d * np.dtype(complete.dtype).itemsize
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} was changed: {error!r}. Run: featcache verify") from error
        expected = [(c, plan.span(c)[1] - plan.span(c)[0], plan.chunk_rows * row_bytes + 4) for c in range(plan.chunks)]
        if (
            complete.digest != self.path.name
            or root_of(records) != complete.root
            or [(record.chunk, record.rows, record.bytes) for record in records] != expected
        ):
            raise Damaged(f"{path} was changed: its records do not give its root. Run: featcache verify")
        return complete

    def check(self) -> None:
        """Checks what can be checked without reading chunks: key, plan, records, root, and every chunk's size.

        Raises:
            Damaged: If something is missing or not as recorded.
            NewerFormat: If a newer featcache wrote it.
        """
        self.key()
        plan = self.plan()
        if plan is None:
            return
        self._codecs()
        records = self.complete().records if self.is_complete else [self.record(c) for c in sorted(self.committed())]
        for record in records:
            if record is not None:
                self._check_size(record)

    def _check_size(self, record: Record) -> None:
        where = f"chunk {record.chunk} of {self.path}"
        try:
            size = (self.path / chunk_name(record.chunk)).stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{where} is missing. Run: featcache verify") from error
        if size != record.bytes:
            raise Damaged(f"{where} has {size} bytes, recorded {record.bytes}. Run: featcache verify")

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, start: int = 0, stop: int | None = None, *, verify: bool = True) -> np.ndarray:
        """Rows start to stop in the stored dtype, read straight from the chunk files.

        Args:
            start: First row.
            stop: First row behind the last; None for all.
            verify: Check the CRC-32C of every chunk that is touched.

        Returns:
            [stop - start, d].

        Raises:
            Damaged: If a chunk is missing, short, flipped, or holds a NaN that no record lists.
        """
        complete = self.complete()
        plan = complete.plan
        stop = plan.n if stop is None else stop
        if not 0 <= start <= stop <= plan.n:
            raise UsageError(f"rows {start} to {stop} of an array of {plan.n}")
        if self._codecs() != CODECS:
            from featcache.zarr_reader import open_zarr

            return np.asarray(open_zarr(self.path)[start:stop])
        out = np.empty((stop - start, complete.d), np.dtype(complete.dtype))
        for chunk in range(start // plan.chunk_rows, -(-stop // plan.chunk_rows)):
            first, behind = plan.span(chunk)
            low, high = max(start, first), min(stop, behind)
            if high > low:
                self._read_chunk(complete.records[chunk], out[low - start : high - start], low - first, verify)
        return out

    def _codecs(self) -> Any:
        path = self.path / "zarr.json"
        try:
            return read_json(path)["codecs"]
        except (FileNotFoundError, KeyError, TypeError) as error:
            raise Damaged(f"{path} is missing or was changed. Run: featcache verify") from error

    def _read_chunk(self, record: Record, out: np.ndarray, skip: int, verify: bool) -> None:
        """Fills out [rows, d] from row `skip` of a chunk on."""
        path = self.path / chunk_name(record.chunk)
        where = f"chunk {record.chunk} of {self.path}"
        body_bytes = record.bytes - CRC_BYTES
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != record.bytes:
                    raise Damaged(f"{where} has {size} bytes, recorded {record.bytes}. Run: featcache verify")
                if not verify:
                    file.seek(skip * out.shape[1] * out.dtype.itemsize)
                    _read_exactly(file, flat(out), where)
                    return
                whole = (
                    out if out.nbytes == body_bytes else np.empty((body_bytes // out[0].nbytes, len(out[0])), out.dtype)
                )
                _read_exactly(file, flat(whole), where)
                stored = file.read(CRC_BYTES)
        except FileNotFoundError as error:
            raise Damaged(f"{where} is missing. Run: featcache verify") from error
        # the stored checksum must be the recorded one too: a chunk swapped with another passes its own
        if stored.hex() != record.crc32c or crc_of(flat(whole)) != stored:
            raise Damaged(f"{where} has flipped bits (CRC-32C). Run: featcache verify")
        if whole is not out:
            out[:] = whole[skip : skip + len(out)]


def _read_exactly(file: Any, view: memoryview, where: str) -> None:
    """Fills the whole view; one read returns at most 2 GiB."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise Damaged(f"{where} ends early. Run: featcache verify")
        done += count


def stray_files(path: Path, plan: Plan) -> list[str]:
    """Names in an array's folder that format 1 does not know; temporary files and files set aside are not strays."""
    known = {"zarr.json", "key.json", "plan.json", "COMPLETE.json", "commits"}
    known |= {chunk_name(chunk) for chunk in range(plan.chunks)}
    names = {entry.name for entry in os.scandir(path)}
    return sorted(name for name in names - known if not name.startswith((TEMPORARY, ASIDE)))
