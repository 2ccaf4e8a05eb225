"""Health of a cached array: rows that came out alike or constant, and rows that the encoding pass flagged."""

from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from featcache.cache import Cache
from featcache.store.array import FeatureArray
from featcache.store.records import ADOPTED, FLOATS


@dataclass(frozen=True)
class Health:
    """What of an array's rows deserves a look; ids in row order."""

    rows: int
    identical: tuple[tuple[str, ...], ...] = ()  # sets of rows of equal features whose contents differ
    constant: tuple[str, ...] = ()  # rows whose features are all one number
    near_constant: tuple[str, ...] = ()  # pictures that hardly vary, as the encoder sees them; silent recordings
    truncated: tuple[str, ...] = ()  # texts cut at the encoder's token limit, recordings cut at its window
    adopted: int = 0  # rows of chunks that were recorded after a crash, of which the two fields above say nothing
    modality: str = field(default="", compare=False)  # of the rows

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to show."""
        return self == Health(self.rows)


def array_health(cache: Cache, array: FeatureArray) -> Health | None:
    """Looks at every row of a complete array, chunk by chunk: in memory are one chunk and eight bytes a row.

    Rows that failed are left out, as loading does. Where the contents were never seen (imported features), no rows are
    called identical: they may be the same content twice.

    Returns:
        None for an array of row numbers.

    Raises:
        FeaturesNotCached: If the array is not complete.
        Damaged: If chunks or rows are not as recorded.
    """
    key = array.key()
    if key.binds["dtype"] not in FLOATS:
        return None
    reader, table = cache.reader(array), cache.rows(key)
    complete = reader.complete
    prints, constant = np.zeros(len(reader), np.uint64), np.zeros(len(reader), bool)
    for start, block in reader.blocks(complete.layout.chunk_rows):
        span = slice(start, start + len(block))
        bits = _bits(block)
        constant[span] = (bits == bits[:, :1]).all(axis=1)
        prints[span] = [int.from_bytes(blake3(row.data).digest(length=8)) for row in bits.view(np.uint8)]
    failed = set(complete.failed)
    good = np.array([row_id not in failed for row_id in table.ids], bool)
    groups = _equal_rows(prints, good & np.array([bool(each) for each in table.hashes], bool))
    differing = [rows for rows in groups if len({table.hashes[row] for row in rows}) > 1]
    wide = key.binds["d"] > 1  # one number, such as bits per byte, is neither constant nor telling when it recurs
    return Health(
        rows=len(reader),
        identical=tuple(tuple(table.ids[row] for row in rows) for rows in differing) if wide else (),
        constant=tuple(table.ids[row] for row in np.flatnonzero(constant & good).tolist()) if wide else (),
        near_constant=complete.flagged("near_constant"),
        truncated=complete.flagged("truncated"),
        adopted=sum(record.rows for record in complete.records if record.writer == ADOPTED),
        modality=key.binds["rows"]["modality"],
    )


def _bits(block: np.ndarray) -> np.ndarray:
    """The numbers' bits [rows, d], which compare much faster than halves do; minus zero has those of zero."""
    bits = np.array(block.view(f"u{block.dtype.itemsize}"))
    bits[bits == 1 << (8 * block.dtype.itemsize - 1)] = 0
    return bits


def _equal_rows(prints: np.ndarray, among: np.ndarray) -> list[list[int]]:
    """Sets of two or more row numbers with the same fingerprint, by their first row."""
    rows = np.flatnonzero(among)
    order = rows[np.argsort(prints[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(prints[order])) + 1
    return sorted(part.tolist() for part in np.split(order, ends) if len(part) > 1)
