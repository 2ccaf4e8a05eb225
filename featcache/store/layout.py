"""The layout of an array: rows per chunk, batch size and order, fixed before the first chunk is written."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

TARGET_BYTES, TARGET_BYTES_OF_HUGE = 1_500_000, 48_000_000
LEAST_ROWS, MOST_ROWS, MOST_ROWS_OF_HUGE = 256, 8_192, 65_536
HUGE = 1_000_000
_DISK_BLOCK = 4096
_RECORD_BYTES, _ID_BYTES = 2048, 4096  # at most, in JSON: a record without ids; an id with what is noted of its row


def chunk_rows(n: int, row_bytes: int) -> int:
    """Rows of one chunk: about 1.5 MB for n rows of so many bytes, split evenly so that the last is hardly padded.

    Above a million rows it is about 48 MB: in a bucket every chunk and its record cost a request, and a listing names
    a thousand.

    Example:
        >>> chunk_rows(155_070, 768 * 2)
        970
        >>> chunk_rows(100, 768 * 2)
        100
        >>> chunk_rows(10_000_000, 768 * 2)
        31250
    """
    target, most = (TARGET_BYTES_OF_HUGE, MOST_ROWS_OF_HUGE) if n > HUGE else (TARGET_BYTES, MOST_ROWS)
    target = min(max(target // row_bytes, LEAST_ROWS), most)
    chunks = -(-n // target)
    rows = -(-n // chunks)
    if rows * row_bytes % _DISK_BLOCK == 0 and rows > LEAST_ROWS:  # the checksum would take a block of its own
        rows = -(-n // (chunks + 1))
    return rows


@dataclass(frozen=True)
class Layout:
    """How one array is cut into chunks and batches, kept in plan.json; equal for all arrays that one pass fills."""

    n: int  # rows of the array
    chunk_rows: int  # of one chunk; the last may hold fewer
    batch_size: int  # rows of one forward; batches never cross a chunk's border
    order: Literal["row", "cost"]  # inside a chunk; "cost" is longest first, so that little is padded
    threads: int  # of the CPU that compute it: another number may give other last bits

    def __post_init__(self) -> None:
        if not all(type(value) is int and value > 0 for value in (self.n, self.chunk_rows, self.batch_size)):
            raise ValueError(f"not a plan: {self.n} rows, {self.chunk_rows} a chunk, {self.batch_size} a batch")

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n // self.chunk_rows)

    def span(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk and the first row behind it."""
        start = chunk * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n)

    @property
    def record_json_bytes(self) -> int:
        """Bytes that the JSON of a commit record may have, were every row of its chunk to be listed."""
        return _RECORD_BYTES + self.chunk_rows * _ID_BYTES

    @property
    def completion_json_bytes(self) -> int:
        """Bytes that COMPLETE.json may have."""
        return (1 + self.chunks) * _RECORD_BYTES + self.n * _ID_BYTES

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        return asdict(self)
