"""Caption files: CSV of any common delimiter and encoding, JSON lines or Parquet, read as rows of named cells."""

import codecs
import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.data.errors import DataInvalid
from featcache.data.images import IMAGE_SUFFIXES
from featcache.data.parquet_images import parquet_schema
from featcache.data.sound import SOUND_SUFFIXES

# the first that is there is read: our own names, then those of the Hub's ImageFolder
STEMS = ("captions", "metadata")
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
CAPTION_FILES = tuple(
    f"{stem}{suffix}" for stem in STEMS for suffix in SUFFIXES if (stem, suffix) != ("metadata", ".txt")
)
# column -> the names it goes by in other tools, in the order of preference; case does not matter
COLUMNS = {
    "image": ("image", "file_name", "filename", "image_path", "image_name", "filepath", "path", "file", "img"),
    "audio": ("audio", "audio_path", "audio_file", "audio_name", "sound_file", "wav"),
    "caption": ("caption", "captions", "text", "description", "sentence", "comment"),
    "id": ("id",),
    "group": ("group",),
    "split": ("split",),
    "category": ("category",),
    "class": ("class",),
}
_PLACE = "\0place"  # of a row in its file; no column is called so
LABEL = "label"  # columns that start so are labels, as "category" and "class" are
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class CaptionTable:
    """The rows of a caption file, every cell a string and "" where there is none.

    Args:
        name: The file's name, for messages.
        columns: Those that are read: keys of `COLUMNS`, and labels as the file names them.
        rows: Column -> cell.
        places: Where each row stands in the file, for messages: "line 7", or "row 7" of a file without lines.
        notes: What the user should know of how it was read.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[dict[str, str]]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns."""
        return tuple(column for column in self.columns if is_label(column))


def is_label(column: str) -> bool:
    """Whether a column holds labels."""
    return column.startswith(LABEL) or column in ("category", "class")


def read_caption_file(path: Path, name: str = "") -> CaptionTable:
    """Reads a caption file.

    Args:
        path: The file; its ending says its format. CSV is told by its header: the delimiter is the one by which the
            header names columns that are known.
        name: What messages call it; "" for its own name.

    Raises:
        DataInvalid: If it cannot be read; names the line where one is at fault, and the remedy.
    """
    name = name or path.name
    try:
        if path.suffix in (".csv", ".tsv", ".txt"):
            return _read_csv(path, name)
        return _read_frame(path, name)
    except OSError as error:
        raise DataInvalid(f"{name} cannot be read: {error}") from error


def detect_text(content: bytes, name: str) -> tuple[str, str]:
    """The text of a file in UTF-8, UTF-16, UTF-32 or Windows-1252 (which holds Latin-1), and a note for the last.

    Raises:
        DataInvalid: If it is in none of them, or looks like another 8-bit encoding.

    Example:
        >>> detect_text("a;é".encode("utf-16"), "x.csv")
        ('a;é', '')
        >>> detect_text("a;café".encode("latin-1"), "x.csv")
        ('a;café', "x.csv is not UTF-8 and was read as Windows-1252 (Latin-1), as in 'a;café'")
    """
    encoding = next((encoding for mark, encoding in _BOMS if content.startswith(mark)), None)
    encoding = encoding or _unmarked_utf16(content) or "utf-8"
    try:
        return content.decode(encoding), ""
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise DataInvalid(f"{name} cannot be read as {encoding}: {error}\n  Save it as UTF-8") from error
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataInvalid(_unknown_encoding(name, line, content.splitlines()[line - 1])) from error
    accented = [(number, line) for number, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    for number, line in accented:
        # of a word in a Latin script few letters are accented; Cyrillic, Greek or Chinese read so are nothing else
        if any(_mostly_accented(word) for word in line.split()):
            raise DataInvalid(_unknown_encoding(name, number, line.encode("cp1252")))
    shown = accented[0][1].strip()[:60]
    return text, f"{name} is not UTF-8 and was read as Windows-1252 (Latin-1), as in {shown!r}"


def _mostly_accented(word: str) -> bool:
    letters = [letter for letter in word if letter.isalpha()]
    return len(word) > 3 and 2 * sum(not letter.isascii() for letter in word) > max(len(letters), 1) + 1


def _unknown_encoding(name: str, line: int, content: bytes) -> str:
    return f"{name} line {line}: in no encoding that is told from the bytes ({content[:24]!r})\n  Save it as UTF-8"


def _unmarked_utf16(content: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of Latin text is zero."""
    head = content[:400]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 < len(head):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


# -- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, name: str) -> CaptionTable:
    text, note = detect_text(path.read_bytes(), name)
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = _delimiter(header)
    records = list(_records(text, delimiter, name))
    if not records:
        raise DataInvalid(f"{name} has no rows")
    columns = [cell.strip() for cell in records[0][1]]
    while columns and not columns[-1] and not any(any(cells[len(columns) - 1 :]) for _, cells in records[1:]):
        columns.pop()  # a delimiter at the end of every line
    kept, notes = _known_columns(columns, name)
    rows: list[dict[str, str]] = []
    lines = [line for line, _ in records[1:]]
    for line, cells in records[1:]:
        if any(cells[len(columns) :]):
            raise DataInvalid(_too_many(name, line, cells, columns, delimiter))
        cells = [*cells, *[""] * (len(columns) - len(cells))]
        rows.append({column: cells[place] for column, place in kept.items()})
    return _table(name, kept, rows, [f"line {line}" for line in lines], [*filter(None, [note]), *notes])


def _delimiter(header: str) -> str:
    """The delimiter by which most columns of a header are known; of equals the one that cuts it into more."""

    def known(delimiter: str) -> tuple[int, int]:
        columns = next(csv.reader([header], delimiter=delimiter), [])
        return len(_matched([column.strip() for column in columns])), len(columns)

    return max(DELIMITERS, key=known)


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of every record that is not empty.

    Raises:
        DataInvalid: Names the line of a quotation mark that is not closed, or stands inside of quotes.
    """
    # the reader takes CR, LF and both, and keeps line breaks within quotes as they are
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = 'close each quotation mark, and write one inside quotes twice, as in "6"" pipe"'
            raise DataInvalid(f"{name} line {first}: {error}\n  To mend: {remedy}") from error
        _check_closed(cells, delimiter, name, first)
        if any(cell.strip() for cell in cells):
            yield first, cells
        first = reader.line_num + 1


def _check_closed(cells: Sequence[str], delimiter: str, name: str, line: int) -> None:
    """Refuses a cell that has swallowed further records, because a quotation mark was not closed."""
    for cell in cells:
        inner = cell.splitlines()[1:] if "\n" in cell or "\r" in cell else []
        if any(part.count(delimiter) and _looks_like_image(part.split(delimiter)[0]) for part in inner):
            raise DataInvalid(
                f"{name} line {line}: a quotation mark opens a cell of {len(inner) + 1} lines, which holds further rows"
                "\n  To mend: close it, or write it twice inside quotes"
            )


def _looks_like_image(text: str) -> bool:
    return Path(text.strip()).suffix.lower() in IMAGE_SUFFIXES | SOUND_SUFFIXES


def _too_many(name: str, line: int, cells: Sequence[str], columns: Sequence[str], delimiter: str) -> str:
    whole = delimiter.join(cells[len(columns) - 1 :]).replace('"', '""')
    mended = delimiter.join([*cells[: len(columns) - 1], f'"{whole}"'])
    return (
        f"{name} line {line} has {len(cells)} cells, its header {len(columns)} ({', '.join(columns)}), cut at each "
        f"{DELIMITERS[delimiter]}\n  To mend: a cell that holds a {DELIMITERS[delimiter]} stands in quotes"
        + (f", perhaps {mended[:100]}" if len(mended) <= 100 else "")
    )


# -- JSON lines and Parquet -------------------------------------------------------------------------------------------


def _read_frame(path: Path, name: str) -> CaptionTable:
    import polars as pl

    notes: list[str] = []
    lines: list[int] = []
    try:
        if path.suffix == ".jsonl":
            text, note = detect_text(path.read_bytes(), name)
            notes += filter(None, [note])
            lines = [number for number, line in enumerate(text.split("\n"), 1) if line.strip()]
            frame = pl.read_ndjson(text.encode(), infer_schema_length=None)
        else:
            parquet_schema(path)
            frame = pl.read_parquet(path, glob=False)
        kept, more = _known_columns(frame.columns, name)
        frame = frame.select(pl.nth(place).alias(column) for column, place in kept.items()).with_row_index(_PLACE)
        lists = [column for column in ("caption",) if isinstance(frame.schema.get(column), pl.List)]
        frame = frame.explode(lists) if lists else frame  # {"image": …, "captions": [one, two]}
        numbers = [int(number) for number in frame[_PLACE]]
        rows = frame.select(pl.exclude(_PLACE).cast(pl.String).fill_null("")).to_dicts()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:  # a panic is no Exception
        raise DataInvalid(f"{name} cannot be read: {error}") from error
    places = [f"line {lines[number]}" if lines else f"row {number + 1}" for number in numbers]
    return _table(name, kept, rows, places, [*notes, *more])


# -- columns ----------------------------------------------------------------------------------------------------------


def _table(
    name: str, kept: Iterable[str], rows: list[dict[str, str]], places: Sequence[str], notes: Sequence[str]
) -> CaptionTable:
    if not rows:
        raise DataInvalid(f"{name} has no rows")
    return CaptionTable(name, tuple(kept), rows, tuple(places), tuple(notes))


def _matched(columns: Sequence[str]) -> dict[str, int]:
    """Column that is read -> its place among those of the file."""
    places: dict[str, int] = {}
    lower = [column.lower() for column in columns]
    for column, names in COLUMNS.items():
        place = next((lower.index(name) for name in names if name in lower), None)
        if place is not None:
            places[column] = place
    return places | {column: place for place, column in enumerate(columns) if column.startswith(LABEL)}


def _known_columns(columns: Sequence[str], name: str) -> tuple[dict[str, int], list[str]]:
    """Column that is read -> its place, and a note that names the others.

    Raises:
        DataInvalid: If none names images, nothing else is known, or two have one name.
    """
    places = _matched(columns)
    twice = sorted({column for column in columns if columns.count(column) > 1 and column in places})
    if twice:
        raise DataInvalid(f"{name}: the column {twice[0]!r} stands twice; rename one")
    rest = [column for place, column in enumerate(columns) if place not in places.values() and column]
    named = "image" in places or "audio" in places
    if not named or len(places) == 1:
        lacking = "caption" if named else "image"
        header = ", ".join(columns)[:200]
        raise DataInvalid(
            f"{name} has no column {lacking!r}; its first row names: {header}\n"
            f"  To mend: name the columns in the first row, as in image,caption; {describe_columns()}"
        )
    known = [*COLUMNS, LABEL]
    near = {column: difflib.get_close_matches(column.lower(), known, 1, 0.75) for column in rest}
    listed = ", ".join(column + (f" (did you mean {near[column][0]}?)" if near[column] else "") for column in rest)
    return places, [f"{name}: columns that are not read: {listed}"] if rest else []


def describe_columns() -> str:
    """The names of columns, in a sentence."""
    image, caption = (", ".join(COLUMNS[column][1:]) for column in ("image", "caption"))
    return f"image may be called {image}; caption {caption}"
