"""Rows that can be encoded and deserve a look: near-constant pictures, silent clips, what was cut."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featcache.data.views import View
from featcache.extraction.loader import Batch
from featcache.store.records import FLAGS, Flags

if TYPE_CHECKING:
    from featcache.extraction.running import RunningEncoder


def row_flags(encoder: "RunningEncoder", batch: Batch) -> dict[int, str]:
    """Row number -> flag of the rows of a batch that have one, of the view or the encoder; only the pass can know."""
    flags = {number: encoder.flag(row) for number, row in zip(batch.numbers, batch.prepared, strict=True)}
    return {number: flag for number, flag in flags.items() if flag is not None} | batch.flags


def flagged_ids(view: View, flags: Mapping[int, str]) -> Flags:
    """The fields of a commit record: flag -> ids of the rows that have it, in row order."""
    return {
        flag: tuple(view.ids[row] for row in sorted(flags) if flags[row] == flag)
        for flag in FLAGS
        if flag in flags.values()
    }
