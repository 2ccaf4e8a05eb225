"""What a Parquet file claims to hold, read from its footer and page headers before anything is decoded.

A page of some kilobytes may unpack to gigabytes, and no library at hand says so ahead of decoding: polars shows no
sizes, and pyarrow would be a dependency of 100 MB. The headers are structs in Thrift's compact protocol
(https://github.com/apache/parquet-format), of which this reads the few numbers that matter.
"""

from dataclasses import dataclass
from typing import Any

_MAGIC = b"PAR1"
# PLAIN, PLAIN_DICTIONARY, RLE, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY: no value is longer than its page. With
# DELTA_BYTE_ARRAY, a value may be as long as all before it, and one page decode to its square.
_ENCODINGS = frozenset({0, 2, 3, 6, 8})
_MOST_NESTING = 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


@dataclass(frozen=True)
class ParquetSizes:
    """The sizes that a file claims."""

    rows: int
    columns: int
    bytes: int  # of all pages, unpacked


def parquet_sizes(content: bytes) -> ParquetSizes:
    """Reads the sizes of a Parquet file.

    Args:
        content: The whole file.

    Raises:
        ValueError: If it is no Parquet file, or its headers contradict each other.
    """
    if len(content) < 12 or content[:4] != _MAGIC or content[-4:] != _MAGIC:
        raise ValueError("it is no Parquet file")
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    if start < 4:
        raise ValueError("its footer is longer than the file")
    try:
        footer = _Thrift(content, start, len(content) - 8).struct()
        groups = footer[4]
        rows = sum(_number(group[3]) for group in groups)
        size = sum(_pages(content[:start], column[3], _number(group[3])) for group in groups for column in group[1])
        columns = max((len(group[1]) for group in groups), default=0)
        if rows != footer[3]:
            raise ValueError(f"its row groups have {rows} rows, its footer says {footer[3]}")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer cannot be read ({error!r})") from error
    return ParquetSizes(rows, columns, size)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _pages(content: bytes, column: dict[int, Any], rows: int) -> int:
    """Bytes of a column chunk's pages, unpacked.

    Args:
        content: The file without its footer.
        column: ColumnMetaData: 2 encodings, 7 compressed bytes, 9 and 11 offsets of data and dictionary.
        rows: Rows of the row group.
    """
    if not set(column[2]) <= _ENCODINGS:
        raise ValueError(f"it is encoded as {sorted(column[2])}, which no row table is")
    at = _number(column[9])
    if column.get(11):
        at = min(at, _number(column[11]))
    end, values, size = at + _number(column[7]), 0, 0
    if end > len(content):
        raise ValueError("a column is longer than the file")
    while at < end:
        reader = _Thrift(content, at, end)
        header = reader.struct()  # PageHeader: 2 and 3 bytes, 5 and 8 data pages, 7 a dictionary
        size += _number(header[2])
        data = header.get(5) or header.get(8)
        dictionary = header.get(7)
        values += _number(data[1]) if data else 0
        if dictionary and _number(dictionary[1]) > header[2]:
            raise ValueError("a dictionary claims more values than bytes")
        at = reader.at + _number(header[3])
    if values != rows:
        raise ValueError(f"a column has {values} values in {rows} rows")
    return size


class _Thrift:
    """A reader of structs in Thrift's compact protocol: field number -> value; text and bytes are left out."""

    def __init__(self, content: bytes, at: int, end: int) -> None:
        self.content, self.at, self.end = content, at, end

    def _byte(self) -> int:
        if self.at >= self.end:
            raise ValueError("a header ends too early")
        self.at += 1
        return self.content[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
        raise ValueError("a number has too many bytes")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 0x0F
            number = number + step if step else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_NESTING:
            raise ValueError("a header is nested too deeply")
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list, a truth value takes a byte
            return self._byte()
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_DOUBLE, _BINARY):
            self._skip(8 if kind == _DOUBLE else self._varint())
            return None
        if kind == _MAP:
            raise ValueError("a header holds a map")
        return self._integer()

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        length, kind = head >> 4, head & 0x0F
        if length == 15:
            length = self._varint()
        if length > self.end - self.at:  # each takes a byte at least
            raise ValueError("a list is longer than its header")
        return [self._value(kind, depth + 1) for _ in range(length)]

    def _skip(self, count: int) -> None:
        if count > self.end - self.at:
            raise ValueError("a text is longer than its header")
        self.at += count
