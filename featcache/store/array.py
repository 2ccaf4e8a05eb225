"""One feature array in store format 1 (docs/format.md): writing, completing and checking its files."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from featcache.errors import Damaged, ExtractionFailed, FeaturesNotCached, NewerFormat, UsageError
from featcache.limits import limit
from featcache.storage.base import Folder
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from featcache.store.checked import CheckedArrays
from featcache.store.digest import ArrayKey, ArrayName
from featcache.store.failed import failed_rows
from featcache.store.layout import Layout
from featcache.store.metadata import ArrayMetadata, read_completion, read_key, read_layout, read_metadata
from featcache.store.reader import Reader
from featcache.store.records import (
    ADOPTED,
    ARRIVING,
    CODECS,
    CRC_BYTES,
    PARTIAL,
    Complete,
    Flags,
    Record,
    chunk_bytes,
    chunk_name,
    chunk_parts,
    crc_of,
    key_json,
    layout_json,
    parse_complete,
    parse_layout,
    parse_record,
    record_bytes,
    record_name,
    record_of,
    root_of,
    zarr_json,
)
from featcache.store.schema import read_json, require_form


class FeatureArray:
    """One array of the cache: a folder that is a Zarr v3 array, with key, layout and commit records.

    Args:
        folder: The array's folder: on a disk, or in a bucket.
    """

    def __init__(self, folder: Folder | Path) -> None:
        self.folder = open_folder(folder)

    def __repr__(self) -> str:
        return f"FeatureArray({str(self.folder)!r})"

    @property
    def path(self) -> Path:
        """The folder on disk; UsageError if the array lies elsewhere."""
        if not isinstance(self.folder, LocalFolder):
            raise UsageError(
                f"{self.folder} is not on this disk. Pull it first: featcache pull REMOTE {'/'.join(self.name[:-1])}"
            )
        return self.folder.path

    @property
    def name(self) -> ArrayName:
        """Its names, from its path alone."""
        return ArrayName(*self.folder.parts[-5:])

    @property
    def digest(self) -> str:
        """Digest of its key: the folder's name."""
        return self.folder.name

    # -- key and layout ---------------------------------------------------------------------------------------------

    def key(self) -> ArrayKey:
        """The content of key.json, under the names of the folders where it lies.

        Raises:
            NewerFormat: If a newer featcache wrote it.
            Damaged: If key.json is not of its form, or does not agree with the folder's digest and layer.
        """
        return read_key(self.folder)

    def layout(self) -> Layout | None:
        """The content of plan.json, as `read_layout`; None before it is written."""
        return read_layout(self.folder)

    def metadata(self) -> ArrayMetadata:
        """Key, layout and completion record, checked against each other; as `read_metadata`."""
        return read_metadata(self.folder)

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(self, key: ArrayKey, wanted: Layout) -> Layout:
        """Makes the folder with key, Zarr metadata and layout, or joins the array that is already there.

        Returns:
            The layout in force: the wanted one, or the one that an earlier or other process wrote first.
        """
        parse_layout(wanted.to_json(), f"{self.folder}/plan.json")  # a writer keeps to what readers believe
        if self.folder.exists("zarr.json"):  # the last that is written here: what is there need not be written again
            self.key()
            layout = self.layout()
            if layout is not None and layout.n == wanted.n and self.folder.exists("key.json"):
                return layout
        (self.folder / "commits").make()
        self.folder.write_once("key.json", key_json(key))
        self.key()
        self.folder.write_once("plan.json", layout_json(wanted))
        layout = self.layout()
        assert layout is not None  # the line above left one there
        if layout.n != wanted.n:
            raise Damaged(f"{self.folder}/plan.json says {layout.n} rows, the data set has {wanted.n}")
        self.folder.write_once("zarr.json", zarr_json(key, layout))
        return layout

    def commit(
        self,
        layout: Layout,
        chunk: int,
        block: np.ndarray,
        *,
        writer: str,
        ids: Sequence[str] | None = None,
        flags: Flags | None = None,
    ) -> Record:
        """Makes one chunk durable, then its record. When this returns, the chunk survives anything.

        Args:
            layout: The layout in force.
            chunk: Chunk number.
            block: [rows, d] in the stored dtype; may be shorter than a chunk only if it is the last. A row that is NaN
                throughout is one that failed.
            writer: Random id of this process.
            ids: Ids of the chunk's rows, for the record to list those that failed; None where none may fail.
            flags: Ids of rows that deserve a look, for the record to list; None for none.

        Raises:
            UsageError: If the block has the wrong length, or holds a NaN and there are no ids.
        """
        start, stop = layout.span(chunk)
        if len(block) != stop - start:
            raise UsageError(f"chunk {chunk} holds rows {start} to {stop}, got {len(block)}")
        body, crc = chunk_parts(layout, block)
        failed = failed_rows(block, ids)
        if failed is None:
            raise UsageError(f"chunk {chunk} of {self.folder} holds a NaN in a row that did not fail")
        record = record_of(chunk, body, crc, rows=len(block), failed=failed, writer=writer, flags=flags)
        name = chunk_name(chunk)
        if not self.folder.write_once(name, body, crc):
            existing = self._record_from_bytes(layout, chunk, writer, ids)
            if existing is None:
                self.folder.set_aside(name)
                if not self.folder.write_once(name, body, crc):
                    raise ExtractionFailed(
                        f"{self.folder}/{name} is being written by another process; run the same command again"
                    )
            record = replace(existing, **(flags or {})) if existing else record
        if self.folder.write_once(record_name(chunk), record_bytes(record)):
            return record
        return self.record(chunk) or record

    def _record_from_bytes(self, layout: Layout, chunk: int, writer: str, ids: Sequence[str] | None) -> Record | None:
        """The record of a chunk file whose writer did not record it; None if the file is damaged.

        The failed rows are those of the file, which need not be those that failed here.
        """
        binds = self.key().binds
        d, dtype, (start, stop) = binds["d"], np.dtype(binds["dtype"]), layout.span(chunk)
        size = chunk_bytes(layout, d, dtype.name)
        try:
            content = self.folder.read(chunk_name(chunk), most=size)
        except Damaged:  # a larger file, or none
            return None
        body, crc = content[:-CRC_BYTES], content[-CRC_BYTES:]
        if len(content) != size or crc_of(body) != crc:
            return None
        failed = failed_rows(np.frombuffer(body, dtype).reshape(-1, d)[: stop - start], ids)
        if failed is None:
            return None
        return record_of(chunk, body, crc, rows=stop - start, failed=failed, writer=writer)

    def adopt_orphans(self, layout: Layout, ids: Sequence[str] | None = None) -> list[int]:
        """Records whole chunks that lost their writer between chunk and record; sets damaged ones aside.

        Args:
            layout: The layout in force.
            ids: Ids of all rows, for the records to list those that failed; None where none may fail.

        Returns:
            The chunks that were adopted.
        """
        adopted: list[int] = []
        names = self.folder.names()
        for chunk in sorted(set(range(layout.chunks)) - self.committed()):
            name = chunk_name(chunk)
            if name not in names:
                continue
            record = self._record_from_bytes(layout, chunk, ADOPTED, ids[slice(*layout.span(chunk))] if ids else None)
            if record is None:
                self.folder.set_aside(name)
                continue
            self.folder.sync()  # the chunk's name may not have been durable yet
            self.folder.write_once(record_name(chunk), record_bytes(record))
            adopted.append(chunk)
        return adopted

    def finish(self, layout: Layout) -> Complete:
        """Writes COMPLETE.json once every chunk is committed.

        Raises:
            FeaturesNotCached: If a chunk is missing.
            Damaged: If another process completed the array with other bytes.
        """
        wanted = self.completion(layout)
        if {self.arriving(), partial.root if (partial := self.partial()) else None} - {None, wanted.root}:
            raise Damaged(
                f"{self.folder}: a pull has brought a part of it, and the other chunks have other bytes than where it "
                f"came from. Pull it with --prefer remote, or remove it: {self.name.remove_command}"
            )
        self.folder.write_once("COMPLETE.json", wanted.to_bytes())
        complete = self.complete()
        if complete.root != wanted.root:
            raise Damaged(f"{self.folder}: COMPLETE.json was written by another process for other bytes")
        self.folder.remove(PARTIAL, ARRIVING)
        return complete

    def completion(self, layout: Layout) -> Complete:
        """What COMPLETE.json has to say by the commit records; FeaturesNotCached if one is missing."""
        records = self.folder.map(lambda chunk: self.record(chunk, layout), range(layout.chunks))
        missing = [chunk for chunk, record in enumerate(records) if record is None]
        if missing:
            raise FeaturesNotCached(
                f"{self.folder}: {len(missing)} of {layout.chunks} chunks are missing, first {missing[0]}"
            )
        whole = tuple(cast("list[Record]", records))
        (self.folder / "commits").sync()  # the record of a killed writer may not be durable yet
        binds = self.key().binds
        wanted = Complete(
            digest=self.digest,
            root=root_of(whole),
            layout=layout,
            d=binds["d"],
            dtype=binds["dtype"],
            records=whole,
        )
        parse_complete(json.loads(wanted.to_bytes()), self.digest, f"{self.folder}/commits")
        return wanted

    # -- records ----------------------------------------------------------------------------------------------------

    def committed(self) -> set[int]:
        """Chunk numbers that have a commit record."""
        names = (self.folder / "commits").names()
        return {int(name[:-5]) for name in names if re.fullmatch(r"(0|[1-9][0-9]*)\.json", name)}

    def record(self, chunk: int, layout: Layout | None = None) -> Record | None:
        """The commit record of a chunk, or None; with the layout, of no more bytes than that allows."""
        most = limit("json") if layout is None else layout.record_json_bytes
        try:
            value = read_json(self.folder, record_name(chunk), most=most)
        except FileNotFoundError:
            return None
        record = parse_record(value, f"{self.folder}/{record_name(chunk)}")
        if record.chunk != chunk:
            raise Damaged(f"{self.folder}/{record_name(chunk)} is of chunk {record.chunk}. Run: featcache verify")
        return record

    @property
    def is_complete(self) -> bool:
        """Whether COMPLETE.json is there."""
        return self.folder.exists("COMPLETE.json")

    @property
    def is_begun(self) -> bool:
        """Whether no chunk is recorded yet: key, layout and metadata may still be on their way."""
        return not (self.is_complete or self.committed() or self.folder.exists(PARTIAL))

    def complete(self) -> Complete:
        """The checked content of COMPLETE.json.

        Raises:
            FeaturesNotCached: If the array is not complete.
            Damaged: If the records do not give the recorded root, or belong to another array.
            NewerFormat: If a newer featcache wrote it.
        """
        return self._whole()[1]

    def _whole(self) -> tuple[ArrayMetadata, Complete]:
        """The metadata of a complete array; as `complete`."""
        try:
            metadata = self.metadata()
        except Damaged:
            if self.is_complete:
                raise
            raise self._incomplete() from None  # one that has only just been begun
        if metadata.complete is None:
            raise self._incomplete()
        return metadata, metadata.complete

    def _incomplete(self) -> FeaturesNotCached:
        if self.folder.exists(PARTIAL):
            return FeaturesNotCached(
                f"only some rows of {self.folder} were pulled: ask for rows that are there, or pull the rest"
            )
        return FeaturesNotCached(f"{self.folder} is not complete. Run the same featcache extract again")

    def partial(self) -> Complete | None:
        """The checked content of PARTIAL.json, which a pull of some rows leaves; None if there is none."""
        return self.metadata().partial if self.folder.exists(PARTIAL) else None

    def arriving(self) -> str | None:
        """Root of the bytes that a push or pull, under way or interrupted, fills the array with; None for none.

        A transfer that died behind its last step, once COMPLETE.json was there, is not under way.
        """
        try:
            root = require_form("arriving", read_json(self.folder, ARRIVING), f"{self.folder}/{ARRIVING}")["root"]
        except (FileNotFoundError, Damaged):
            return None
        try:
            complete = read_completion(self.folder)
        except (Damaged, NewerFormat):
            return root
        return None if complete is not None and complete.root == root else root

    def check(self) -> None:
        """Checks what can be checked without reading chunks: key, layout, records, root, and every chunk's size.

        Raises:
            Damaged: If something is missing or not as recorded.
            NewerFormat: If a newer featcache wrote it.
        """
        self.key()
        if self.layout() is None:
            return
        chunks = sorted(self.committed())
        if chunks or self.is_complete:  # zarr.json is the last file that create writes: a killed one may lack it
            self._codecs()
        records = self.complete().records if self.is_complete else self.folder.map(self.record, chunks)
        sizes = dict(self.folder.files())
        for record in records:
            if record is None:
                continue
            size, where = sizes.get(chunk_name(record.chunk)), f"chunk {record.chunk} of {self.folder}"
            if size is None:
                raise Damaged(f"{where} is missing. Run: featcache verify")
            if size != record.bytes:
                raise Damaged(f"{where} has {size} bytes, recorded {record.bytes}. Run: featcache verify")

    # -- reading ----------------------------------------------------------------------------------------------------

    def open(
        self,
        *,
        partial: bool = False,
        checked: CheckedArrays | None = None,
        ids: Callable[[ArrayKey], Sequence[str]] | None = None,
    ) -> Reader:
        """A reader of its rows; the records are checked once, here.

        Args:
            partial: Also open an array of which only some chunks were pulled.
            checked: Memory of the arrays that were checked before.
            ids: Gives the ids of the rows of a key, asked once a row may have failed; None where they are not known.

        Raises:
            FeaturesNotCached: If the array is not complete.
            Damaged: If its records do not give its root, or contradict its key or layout.
        """
        if partial and not self.is_complete:
            metadata = self.metadata()
            if metadata.partial is not None:
                return Reader(self.folder, metadata, frozenset(self.committed()), ids=ids)
        metadata, complete = self._whole()
        foreign = self._codecs() != CODECS
        if foreign:
            from featcache.store.zarr_reader import open_zarr

            open_zarr(self.folder, complete)
        return Reader(self.folder, metadata, None, foreign=foreign, checked=checked, ids=ids)

    def read(
        self, start: int = 0, stop: int | None = None, *, verify: bool = True, dtype: str | None = None
    ) -> np.ndarray:
        """Rows start to stop of a complete array; arguments and errors as for `Reader.read`."""
        return self.open().read(start, stop, verify=verify, dtype=dtype)

    def _codecs(self) -> Any:
        path = f"{self.folder}/zarr.json"
        try:
            return require_form("zarr", read_json(self.folder, "zarr.json"), path)["codecs"]
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing. Run: featcache verify") from error
