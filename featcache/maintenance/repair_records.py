"""Repair of an array's JSON files: rewritten from one another and from the chunks, or taken from another cache."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from featcache.cache import Cache
from featcache.errors import Damaged
from featcache.limits import limit
from featcache.maintenance.verify import ChunkCheck, chunk_check
from featcache.store.array import FeatureArray
from featcache.store.digest import ArrayKey
from featcache.store.layout import Layout
from featcache.store.metadata import read_completion
from featcache.store.records import Complete, Record, key_json, layout_json, record_bytes, record_name, zarr_json
from featcache.store.schema import read_json


@dataclass(frozen=True)
class RecordRepair:
    """The repair of the JSON files of one array.

    Args:
        cache: The cache.
        array: The array.
        twin: The same array in another cache, complete there; None for none.
        on_step: Called with what was done.
    """

    cache: Cache
    array: FeatureArray
    twin: FeatureArray | None
    on_step: Callable[[str], None]

    def mend_key(self) -> ArrayKey:
        """key.json as it is, or written anew from what the other cache's says."""
        try:
            return self.array.key()
        except Damaged:
            if self.twin is None:
                raise
            self.array.folder.replace("key.json", key_json(self.twin.key()))
            self.on_step("key.json pulled")
            return self.array.key()

    def mend_layout(self) -> Layout | None:
        """The layout in plan.json, or else that of the other cache."""
        try:
            layout = self.array.layout()
        except Damaged:
            if self.twin is None:
                raise
            layout = None
        if layout is None and self.twin is not None:
            layout = self.twin.complete().layout
            self.array.folder.replace("plan.json", layout_json(layout))
            self.on_step("plan.json pulled")
        return layout

    def mend_complete(self, key: ArrayKey) -> Complete | None:
        """COMPLETE.json as it is, from the commit records, or from the other cache; None if there was none."""
        array = self.array
        if not array.is_complete:
            return None
        try:
            complete = read_completion(array.folder)
        except Damaged:
            complete = None
        if complete is not None and _is_of(complete, key):
            return complete
        layout = self._layout_of(key)
        records = self._whole_records(key, layout) if layout is not None else None
        if records is not None and layout is not None:
            complete = array.completion(layout)
            array.folder.replace("COMPLETE.json", complete.to_bytes())
            self.on_step("COMPLETE.json written again from the commit records")
            return complete
        if self.twin is None:
            raise Damaged(
                f"{array.folder}/COMPLETE.json and its records are both damaged; give a --from that has the array"
            )
        complete = self.twin.complete()
        array.folder.replace("COMPLETE.json", complete.to_bytes())
        self.on_step("COMPLETE.json pulled")
        return complete

    def _layout_of(self, key: ArrayKey) -> Layout | None:
        """As `mend_layout`; None if what there is cannot be the array's."""
        try:
            layout = self.mend_layout()
        except Damaged:
            return None
        return layout if layout is not None and layout.n == key.binds["rows"]["n"] else None

    def _whole_records(self, key: ArrayKey, layout: Layout) -> list[Record] | None:
        """The commit records, if there is one for every chunk and every chunk is as it says; else None."""
        check = chunk_check(self.cache, self.array, key, layout, deep=True)
        records: list[Record] = []
        for chunk in range(layout.chunks):
            try:
                record = self.array.record(chunk, layout)
            except Damaged:
                return None
            if record is None or check.bytes_problem(record):
                return None
            records.append(record)
        return records

    def mend_records(self, key: ArrayKey, layout: Layout, complete: Complete | None) -> None:
        """plan.json, zarr.json and commit records, from what is known to be right."""
        if complete is not None:
            self.rewrite("plan.json", layout_json(layout), " from COMPLETE.json")
            for record in complete.records:
                self.rewrite(record_name(record.chunk), record_bytes(record), " from COMPLETE.json")
        self.rewrite("zarr.json", zarr_json(key, layout), "")

    def mend_failed(self, check: ChunkCheck) -> None:
        """Lists as failed the rows that are NaN in the bytes, and no others: the root stays as it is."""
        complete = self.array.complete()
        mended = tuple(check.with_failed_rows(record) for record in complete.records)
        if mended == complete.records:
            return
        for record, before in zip(mended, complete.records, strict=True):
            if record != before:
                self.array.folder.replace(record_name(record.chunk), record_bytes(record))
        self.array.folder.replace("COMPLETE.json", replace(complete, records=mended).to_bytes())
        self.on_step("failed rows listed as the bytes have them")

    def rewrite(self, name: str, content: bytes, source: str) -> None:
        """Replaces a JSON file that does not mean what it should."""
        try:
            if read_json(self.array.folder, name, most=limit("json")) == json.loads(content):
                return
        except (FileNotFoundError, Damaged):
            pass
        self.array.folder.replace(name, content)
        self.on_step(f"{name} written again{source}")


def _is_of(complete: Complete, key: ArrayKey) -> bool:
    binds = key.binds
    return (complete.layout.n, complete.d, complete.dtype) == (binds["rows"]["n"], binds["d"], binds["dtype"])
