"""The published layouts of Flickr30k: which photos, captions and splits each holds.

Layout (a), "folder": flickr30k-images/*.jpg, results_20130124.token and dataset_flickr30k.json (Karpathy's splits).
Layout (b), "split Parquet": nlphuji/flickr30k, whose rows carry Karpathy's split and his text.
Layout (c), "plain Parquet": lmms-lab/flickr30k, which has no split column, beside dataset_flickr30k.json.

The layouts spell captions differently: token files put spaces around marks and keep lower-case starts, the plain
Parquet has lost its commas, Karpathy's file has neither flaw and the split Parquet equals it. So the declared text of
a photo in Karpathy's file is his, in every layout; only photos that he left out keep the text of their own layout.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.parquet_images import Cell, ParquetImages, parquet_schema, read_columns

IMAGES, TOKENS, KARPATHY = "flickr30k-images", "results_20130124.token", "dataset_flickr30k.json"
PARQUET_FOLDERS = ("TEST/test", "data", "default/test", ".")
CAPTIONS = 5
_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
_FILE = re.compile(r"(\d+)\.jpg")


@dataclass(frozen=True)
class Flickr30kFiles:
    """What the files of a layout hold, before it is put in order."""

    kind: str  # "folder", "split Parquet" or "plain Parquet"
    captions: dict[str, list[str]]  # file name -> its five captions as declared, not yet in normal form
    splits: dict[str, str]  # file name -> split; files in no published split are absent
    content: Callable[[str], bytes]  # file name -> the bytes of the photo
    notes: tuple[str, ...] = ()


def read_files(root: Path) -> Flickr30kFiles:
    """Detects which layout a folder has and reads its lists, but no photo; errors as of an opener.

    A photo folder or token file decides for (a); else the first of PARQUET_FOLDERS with Parquet files, whose columns
    decide between (b) and (c).
    """
    if (root / IMAGES).is_dir() or (root / TOKENS).is_file():
        return _read_folder(root)
    for folder in PARQUET_FOLDERS:
        files = sorted((root / folder).glob("*.parquet"))
        if files:
            return _read_parquet(root, files)
    looked = (f"{root}/{IMAGES}/", f"{root}/{TOKENS}", *(f"{root}/{folder}/*.parquet" for folder in PARQUET_FOLDERS))
    raise missing("flickr30k", "the root holds no known layout", looked)


def file_number(file: str) -> int:
    """The number that a photo is called, by which photos are ordered; DataInvalid if the name is not digits and ".jpg".

    Example:
        >>> file_number("1000092795.jpg")
        1000092795
    """
    match = _FILE.fullmatch(file)
    if match is None:
        raise DataInvalid(f"flickr30k: {file!r} is no Flickr30k file name (digits and .jpg)")
    return int(match[1])


def read_karpathy(root: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Reads dataset_flickr30k.json: file name -> captions, file name -> split ("restval" counts as train)."""
    path = root / KARPATHY
    if not path.is_file():
        raise missing("flickr30k", "Karpathy's splits are not there", (str(path),))
    try:
        document = json.loads(path.read_text("utf-8"))
        named, images = document.get("dataset"), document["images"]
        rows = [(row["filename"], row["split"], [sentence["raw"] for sentence in row["sentences"]]) for row in images]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataInvalid(f"flickr30k: {path.name} is not in Karpathy's format: {error!r}") from error
    if named != "flickr30k":
        raise DataInvalid(f"flickr30k: {path.name} says it describes {named!r}, not 'flickr30k'")
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for file, split, texts in rows:
        if split not in _SPLITS:
            raise DataInvalid(f"flickr30k: {path.name}: {file} has the unknown split {split!r}")
        _add(captions, file, texts, path.name)
        splits[file] = _SPLITS[split]
    return captions, splits


def _read_folder(root: Path) -> Flickr30kFiles:
    for part in (IMAGES, TOKENS):
        if not (root / part).exists():
            raise missing("flickr30k", f"the folder layout lacks {part}", (str(root / part),))
    tokens = _read_tokens(root / TOKENS)
    declared, splits = read_karpathy(root)
    _check_known(declared, tokens, TOKENS)
    on_disk = {path.name for path in (root / IMAGES).iterdir() if path.suffix.lower() == ".jpg"}
    absent = sorted(set(tokens) - on_disk)
    if absent:
        what = f"{len(absent)} photos that {TOKENS} lists are not there, the first {absent[0]}"
        raise missing("flickr30k", what, (str(root / IMAGES / absent[0]),))
    extra = sorted(on_disk - set(tokens))
    if extra:
        raise DataInvalid(f"flickr30k: {len(extra)} photos in {IMAGES}/ have no captions in {TOKENS}: {extra[0]} first")
    captions, notes = _declared(tokens, declared, TOKENS)
    return Flickr30kFiles("folder", captions, splits, lambda file: (root / IMAGES / file).read_bytes(), notes=notes)


def _read_tokens(path: Path) -> dict[str, list[str]]:
    """File name -> five captions by number, of a token file ("<file>#<0-4><tab><caption>")."""
    captions_by_number: dict[str, dict[int, str]] = {}
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataInvalid(f"flickr30k: {path.name} is not UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([^#\t]+)#([0-4])\t(.*)", line.rstrip("\r"))
        if match is None:
            raise DataInvalid(
                f"flickr30k: {path.name} line {number} is not '<file>#<0-4><tab><caption>': {line[:80]!r}"
            )
        file, place, text = match[1], int(match[2]), match[3]
        if place in captions_by_number.setdefault(file, {}):
            raise DataInvalid(f"flickr30k: {path.name} line {number}: the id {file}#{place} stands more than once")
        if not text.strip():
            raise DataInvalid(f"flickr30k: {path.name} line {number}: {file}#{place} has an empty caption")
        captions_by_number[file][place] = text
    captions: dict[str, list[str]] = {}
    for file, texts in captions_by_number.items():
        _add(captions, file, [texts[place] for place in sorted(texts)], path.name)
    return captions


def _read_parquet(root: Path, files: Sequence[Path]) -> Flickr30kFiles:
    with_split = "split" in parquet_schema(files[0])
    columns = ["filename", "caption", *(["split"] if with_split else [])]
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    cells: dict[str, Cell] = {}
    for number, path in enumerate(files):
        for row, record in enumerate(read_columns(path, columns).iter_rows(named=True)):
            file = record["filename"]
            _add(captions, file, record["caption"], f"{path.name} row {row}")
            cells[file] = Cell(number, row)
            if with_split:
                splits[file] = _split_of(record["split"], file, path.name)
    photos = ParquetImages(files, "image")
    if with_split:
        return Flickr30kFiles("split Parquet", captions, splits, lambda file: photos.read(cells[file]))
    declared, splits = read_karpathy(root)
    _check_known(declared, captions, "the Parquet files")
    captions, notes = _declared(captions, declared, "the Parquet files")
    return Flickr30kFiles("plain Parquet", captions, splits, lambda file: photos.read(cells[file]), notes=notes)


def _split_of(split: Any, file: str, where: str) -> str:
    if split not in _SPLITS:
        raise DataInvalid(f"flickr30k: {where}: {file} has the unknown split {split!r}")
    return _SPLITS[split]


def _add(captions: dict[str, list[str]], file: Any, texts: Any, where: str) -> None:
    """Files the captions of one photo, once its name, its uniqueness and their number are checked."""
    file_number(str(file))
    if file in captions:
        raise DataInvalid(f"flickr30k: {where}: the photo {file} stands more than once")
    if not isinstance(texts, list) or len(texts) != CAPTIONS:
        count = len(texts) if isinstance(texts, list) else 0
        raise DataInvalid(f"flickr30k: {where}: {file} has {count} captions, not {CAPTIONS}")
    captions[file] = ["" if text is None else str(text) for text in texts]


def _check_known(declared: Iterable[str], listed: dict[str, list[str]], where: str) -> None:
    strangers = [file for file in declared if file not in listed]
    if strangers:
        raise DataInvalid(
            f"flickr30k: {KARPATHY} and {where} do not match: {len(strangers)} photos of the former are not in the "
            f"latter, the first {strangers[0]}"
        )


def _declared(
    listed: dict[str, list[str]], declared: dict[str, list[str]], where: str
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Karpathy's text where he has the photo, the layout's own where not; a note counts other wordings."""
    other = [
        f"{file}#{place}"
        for file, texts in declared.items()
        for place, (text, own) in enumerate(zip(texts, listed[file], strict=True))
        if _letters(text) != _letters(own)
    ]
    notes: list[str] = []
    if other:
        notes.append(f"{len(other)} captions are worded otherwise in {where} than in {KARPATHY}, the first {other[0]}")
    alone = Counter(file in declared for file in listed)[False]
    if alone:
        notes.append(f"{alone} photos are in no Karpathy split (labelled other); their captions come from {where}")
    return {**listed, **declared}, tuple(notes)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()
