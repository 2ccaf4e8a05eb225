"""German captions of Flickr30k: Multi30k's, five a photo, written by people who saw the photo and no English caption.

Layout (a): data/task2 of the published repository (https://github.com/multi30k/dataset), below the root of the photos:
raw/<split>.<1-5>.de.gz, a caption a line, in the order of image_splits/<split>_images.txt, a photo a line; any of the
splits. Layout (b): multi30k.jsonl in that root, one object a line: {"image": "1000092795.jpg", "de": [five captions]}.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.flickr30k_layouts import CAPTIONS, file_number

LINES, TASK2 = "multi30k.jsonl", "data/task2"
SPLITS = ("train", "val", "test_2016")
_LARGEST = 1 << 28  # bytes of one file, unpacked; the largest published one has 2.4 MB


def read_german(root: Path) -> dict[str, list[str]]:
    """File name -> five German captions, not yet in normal form; empty where the root holds none.

    Raises:
        DataMissing: If a split of layout (a) lacks files.
        DataInvalid: If a file is malformed, its counts are wrong, or both layouts are there; names file and line.
    """
    lines, task2 = (root / LINES).is_file(), [split for split in SPLITS if _some_of(root, split)]
    if lines and task2:
        raise DataInvalid(
            f"flickr30k: {root} holds German captions twice, {LINES} and {TASK2}/\n  Move one of them away"
        )
    photos = _of_lines(root / LINES) if lines else (pair for split in task2 for pair in _of_split(root, split))
    captions: dict[str, list[str]] = {}
    for where, file, texts in photos:
        file_number(file)
        if file in captions:
            raise DataInvalid(f"flickr30k: {where}: the photo {file} stands more than once")
        captions[file] = texts
    return captions


def check_photos(german: dict[str, list[str]], known: dict[str, list[str]]) -> tuple[str, ...]:
    """Compares with the photos of the data set: a note counts those without German captions.

    Raises:
        DataInvalid: If a photo has German captions and is not in the data set.
    """
    strangers = [file for file in german if file not in known]
    if strangers:
        raise DataInvalid(
            f"flickr30k: {len(strangers)} photos with German captions are not in the data set, the first {strangers[0]}"
        )
    without = len(known) - len(german)
    return (f"{without} photos have no German captions",) if german and without else ()


def _of_lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for number, line in enumerate(_unpacked(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            record = json.loads(line)
            file, texts = record["image"], record["de"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataInvalid(
                f'flickr30k: {where} is not {{"image": "<file>", "de": [captions]}}: {line[:80]!r}'
            ) from error
        if not isinstance(file, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise DataInvalid(f"flickr30k: {where}: `image` is a file name and `de` a list of captions: {line[:80]!r}")
        if len(texts) != CAPTIONS:
            raise DataInvalid(f"flickr30k: {where}: {file} has {len(texts)} German captions, not {CAPTIONS}")
        yield where, file, texts


def _list_of(root: Path, split: str) -> Path:
    return root / TASK2 / "image_splits" / f"{split}_images.txt"


def _captions_of(root: Path, split: str) -> list[Path]:
    return [root / TASK2 / "raw" / f"{split}.{number}.de.gz" for number in range(1, CAPTIONS + 1)]


def _some_of(root: Path, split: str) -> bool:
    return any(path.is_file() for path in (_list_of(root, split), *_captions_of(root, split)))


def _of_split(root: Path, split: str) -> Iterator[tuple[str, str, list[str]]]:
    names, parts = _list_of(root, split), _captions_of(root, split)
    absent = [str(path) for path in (names, *parts) if not path.is_file()]
    if absent:
        raise missing("flickr30k", f"the German captions of {split} lack {len(absent)} files", tuple(absent))
    files = _unpacked(names).split()
    columns: list[list[str]] = []
    for path in parts:
        lines = _unpacked(path).removesuffix("\n").split("\n")
        if len(lines) != len(files):
            raise DataInvalid(
                f"flickr30k: {path.name} has {len(lines)} captions, and {names.name} names {len(files)} photos"
            )
        columns.append(lines)
    for number, (file, *texts) in enumerate(zip(files, *columns, strict=True), start=1):
        yield f"{names.name} line {number}", file, texts


def _unpacked(path: Path) -> str:
    """A file's text, unpacked if it is a .gz; DataInvalid if it cannot be, or is too long to be what it should."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DataInvalid(f"flickr30k: {path.name} holds more than {_LARGEST >> 20} MB")
        return content.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataInvalid(f"flickr30k: {path.name} cannot be read: {error}") from error
