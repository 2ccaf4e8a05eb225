"""What a Parquet file claims to hold, read from its footer and page headers before anything is decoded.

A page of some kilobytes may unpack to gigabytes, and no library at hand says so ahead of decoding: polars shows no
sizes, and pyarrow would be a dependency of 100 MB. The headers are structs in Thrift's compact protocol
(https://github.com/apache/parquet-format), of which this reads the few numbers that matter.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_MAGIC = b"PAR1"
# PLAIN, PLAIN_DICTIONARY, RLE, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY: no value is longer than its page. With
# DELTA_BYTE_ARRAY, a value may be as long as all before it, and one page decode to its square.
_ENCODINGS = frozenset({0, 2, 3, 6, 8})
_OF_NUMBERS = frozenset({4, 5, 9})  # BIT_PACKED, DELTA_BINARY_PACKED, BYTE_STREAM_SPLIT: of numbers, of 8 bytes at most
_MOST_NESTING = 16
_LONGEST_NAME = 1024  # bytes of a column's name
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


@dataclass(frozen=True)
class ParquetSizes:
    """The sizes that a file claims."""

    rows: int
    columns: int
    bytes: int  # of all pages, unpacked
    values: int
    group_bytes: int  # of the largest row group's pages, unpacked
    group_values: int


def parquet_sizes(content: bytes | memoryview, columns: Collection[str] | None = None) -> ParquetSizes:
    """Reads the sizes of a Parquet file.

    Args:
        content: The whole file.
        columns: The columns that are to be read, which may hold lists and be encoded as numbers are; None for all, of
            plain texts.

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
        sizes = [_group_sizes(content[:start], group, columns) for group in groups]
        width = max((len(group[1]) for group in groups), default=0)
        if rows != footer[3]:
            raise ValueError(f"its row groups have {rows} rows, its footer says {footer[3]}")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer cannot be read ({error!r})") from error
    size, values = (sum(each[part] for each in sizes) for part in (0, 1))
    group_bytes, group_values = max(sizes, key=lambda each: each[0] + each[1], default=(0, 0))
    return ParquetSizes(rows, width, size, values, group_bytes, group_values)


def _group_sizes(
    content: bytes | memoryview, group: dict[int, Any], columns: Collection[str] | None
) -> tuple[int, int]:
    """Bytes of a row group's pages, unpacked, and its values; of some columns only, where they are named."""
    rows, size, values = _number(group[3]), 0, 0
    for column in group[1]:
        path = column[3][3]  # the names on the way to the column
        if columns is None or path[0] in {name.encode() for name in columns}:
            of_column = _pages(content, column[3], None if columns is not None and len(path) > 1 else rows,
                               _ENCODINGS if columns is None else _ENCODINGS | _OF_NUMBERS)  # fmt: skip
            size, values = size + of_column[0], values + of_column[1]
    return size, values


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _pages(
    content: bytes | memoryview, column: dict[int, Any], rows: int | None, encodings: frozenset[int]
) -> tuple[int, int]:
    """Bytes of a column chunk's pages, unpacked, and its values.

    Args:
        content: The file without its footer.
        column: ColumnMetaData: 2 encodings, 7 compressed bytes, 9 and 11 offsets of data and dictionary.
        rows: Rows of the row group, each of which is one value; None for lists.
        encodings: Those that are known not to make more of a page than its bytes and 16 more a value.
    """
    if not set(column[2]) <= encodings:
        raise ValueError(f"it is encoded as {sorted(column[2])}, which unpacks to what nothing says beforehand")
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
    if rows is not None and values != rows:
        raise ValueError(f"a column has {values} values in {rows} rows")
    return size, values


class _Thrift:
    """A reader of structs in Thrift's compact protocol: field number -> value; long texts are left out."""

    def __init__(self, content: bytes | memoryview, at: int, end: int) -> None:
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
            start = self._skip(8 if kind == _DOUBLE else self._varint())
            return bytes(self.content[start : self.at]) if self.at - start <= _LONGEST_NAME else None
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

    def _skip(self, count: int) -> int:
        if count > self.end - self.at:
            raise ValueError("a text is longer than its header")
        self.at += count
        return self.at - count
