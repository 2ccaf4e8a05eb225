"""WebDataset: samples in shards of tar, whose members of one key are the parts of a sample; img2dataset's layout too.

"000000012.jpg", "000000012.txt" and "000000012.json" are the image, the caption and what else is known of the sample
"000000012"; what stands behind the first dot of a member's name is its field. The id of an image is its key, or
"<shard>/<key>" where shards repeat keys. Images are read out of the archives by offsets.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from featcache.data.caption_files import COLUMNS, detect_text, is_label
from featcache.data.errors import DataInvalid
from featcache.data.gathered import Gathered, OwnData, counted_note
from featcache.data.images import IMAGE_SUFFIXES
from featcache.data.layouts import data_files, files_below
from featcache.data.options import OpenOptions
from featcache.data.splits import file_splits
from featcache.data.tar_index import Member, TarIndex, index_tar, is_packed, packed_error, read_from, read_member
from featcache.data.texts import whole_characters

_TEXTS = ("txt", "text", "caption", "cap")  # fields of captions; the first that a sample has is read
_CLASS, _JSON = "cls", "json"


@dataclass(frozen=True)
class _Sample:
    key: str
    shard: Path
    name: str  # of the shard, for messages
    split: str  # as the shard's name has it
    parts: dict[str, Member] = field(default_factory=lambda: {})  # field -> member


@dataclass(frozen=True)
class _Known:
    """What the texts of a sample say."""

    captions: tuple[str, ...]
    group: str
    split: str
    labels: Mapping[str, str]
    fields: frozenset[str]  # that have been read
    faults: tuple[str, ...]  # why a part of it cannot be read


def read_webdataset(root: Path, options: OpenOptions) -> OwnData:
    """Reads shards anywhere below a folder, or one: their headers and texts, and no image.

    Raises:
        DataMissing: If there is no shard.
        DataInvalid: If a shard is compressed or damaged, no sample has an image, it is not clear which field that is,
            or samples contradict each other.
    """
    base = root if root.is_dir() else root.parent
    packed = sorted(path.relative_to(base).as_posix() for path in files_below(root) if is_packed(path.name))
    if packed:
        raise packed_error(packed)
    return read_shards(*data_files(root, ".tar", "shard"), options)


def read_shards(
    shards: Sequence[Path], names: Sequence[str], options: OpenOptions, *, splits: Sequence[str] = ()
) -> OwnData:
    """Reads shards.

    Args:
        shards: The files, in order.
        names: Of each, its path as messages, ids and splits have it.
        options: The declarations.
        splits: Of each, its split; () where the names tell.

    Raises:
        DataInvalid: As `read_webdataset`.
    """
    of_shard, from_names = (splits, "the card") if splits else file_splits(names)
    indexes = [index_tar(path) for path in shards]
    every = [
        sample
        for path, name, split, index in zip(shards, names, of_shard, indexes, strict=True)
        for sample in _samples(path, name, split, index)
    ]
    samples = _with_image(every, options)
    known = list(_all_known(samples, options))
    _check_declared(known, options)
    images = _ids(samples)
    gathered = Gathered(tuple(dict.fromkeys(label for each in known for label in each.labels)))
    for sample, image, own in zip(samples, images, known, strict=True):
        here = f"{sample.name} sample {sample.key!r}"
        split = own.split or sample.split
        gathered.add_facts(image, here, group=own.group, split=split, labels=own.labels)
        for text in own.captions:
            gathered.add_caption(image, text, here)
    places = [(sample.shard, sample.parts[_image_of(sample, options)]) for sample in samples]
    source = f"folder with {len(shards):,} WebDataset shards" if len(shards) > 1 else "folder with a WebDataset shard"
    notes = [*_left_out(every, samples), *_faults(indexes, names), *_unread(samples, known)]
    layout = gathered.layout(source, images=images, splits=from_names or "the fields split", notes=notes)
    return OwnData(images, lambda row: read_member(*places[row]), layout)


def _samples(path: Path, name: str, split: str, index: TarIndex) -> Iterator[_Sample]:
    """The samples of a shard, in the order of their first members."""
    samples: dict[str, _Sample] = {}
    for member in index.members:
        folder, _, file = member.name.removeprefix("./").rpartition("/")
        stem, _, part = file.partition(".")
        if not stem or not part:  # hidden files, and such without a field
            continue
        key = f"{folder}/{stem}".lstrip("/")
        sample = samples.setdefault(key, _Sample(key, path, name, split))
        if part.lower() in sample.parts:
            raise DataInvalid(f"{name}: the member {member.name!r} stands twice\n  Keep one, or write the shard again")
        sample.parts[part.lower()] = member
    yield from samples.values()


def _with_image(samples: Sequence[_Sample], options: OpenOptions) -> list[_Sample]:
    there = [sample for sample in samples if _image_of(sample, options)]
    if not there:
        fields = Counter(part for sample in samples for part in sample.parts)
        listed = ", ".join(f"{part} ({count:,})" for part, count in fields.most_common(8)) or "none"
        wanted = "".join(options.columns("image")) or ", ".join(sorted(each.lstrip(".") for each in IMAGE_SUFFIXES))
        raise DataInvalid(
            f"no sample of the shards has an image; wanted a field {wanted}\n  Fields that they have: {listed}"
        )
    return there


def _image_of(sample: _Sample, options: OpenOptions) -> str:
    """The field of a sample's image; "" where it has none."""
    declared = options.columns("image")
    if declared:
        return declared[0].lower() if declared[0].lower() in sample.parts else ""
    images = [part for part in sample.parts if f".{part}" in IMAGE_SUFFIXES]
    if len(images) > 1:
        raise DataInvalid(
            f"{sample.name} sample {sample.key!r} has several images: {', '.join(images)}\n"
            f"  Say which to read: --column image={images[0]}"
        )
    return images[0] if images else ""


def _ids(samples: Sequence[_Sample]) -> tuple[str, ...]:
    keys = tuple(sample.key for sample in samples)
    if len(set(keys)) == len(keys):
        return keys
    return tuple(f"{sample.name.removesuffix('.tar')}/{sample.key}" for sample in samples)


# -- texts ------------------------------------------------------------------------------------------------------------


def _all_known(samples: Sequence[_Sample], options: OpenOptions) -> Iterator[_Known]:
    for shard, own in groupby(samples, key=lambda sample: sample.shard):
        with shard.open("rb") as archive:
            for sample in own:
                yield _read(archive, sample, options)


def _read(archive: BinaryIO, sample: _Sample, options: OpenOptions) -> _Known:
    """Reads the texts of a sample; what cannot be read is left out, and says so."""
    faults: list[str] = []
    texts = {part: _text(archive, sample, part, faults) for part in _wanted(sample, options)}
    values = _values(sample, texts, faults)
    declared = options.columns("caption")
    fields = declared or [*_TEXTS, *(f"{_JSON}.{name}" for name in COLUMNS["caption"])]
    there = [name for name in fields if values.get(name)]
    labels = options.columns("label") or [_CLASS, *(name for name in values if is_label(name.removeprefix("json.")))]
    return _Known(
        captions=tuple(line for name in (there if declared else there[:1]) for line in values[name]),
        group=_one(values, options.columns("group") or (f"{_JSON}.group",)),
        split=_one(values, options.columns("split") or (f"{_JSON}.split",)),
        labels={_label_name(name): values[name][0] for name in labels if values.get(name)},
        fields=frozenset(values),
        faults=tuple(faults),
    )


def _check_declared(known: Sequence[_Known], options: OpenOptions) -> None:
    """Refuses a declared field that no sample has."""
    fields = sorted({name for each in known for name in each.fields})
    for role, name in options.column:
        if role != "image" and name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            guess = f"; did you mean --column {role}={near[0]}?" if near else ""
            raise DataInvalid(
                f"no sample of the shards has a field {name}{guess}\n  They have: {', '.join(fields[:40])}"
            )


def _wanted(sample: _Sample, options: OpenOptions) -> list[str]:
    """The fields of a sample that are read as text."""
    wanted = {*_TEXTS, _CLASS, _JSON, *(name for role, name in options.column if role != "image")}
    return [part for part in sample.parts if part in wanted]


def _text(archive: BinaryIO, sample: _Sample, part: str, faults: list[str]) -> str:
    member = sample.parts[part]
    try:
        if member.fault:
            raise DataInvalid(member.fault)
        return detect_text(read_from(archive, member), f"{sample.key}.{part}")[0]
    except DataInvalid as error:
        faults.append(f"{sample.name}: {member.name!r}: {str(error).partition(chr(10))[0]}")
        return ""


def _values(sample: _Sample, texts: Mapping[str, str], faults: list[str]) -> dict[str, list[str]]:
    """Field -> its lines that are not empty, "json.NAME" -> the values of that name in the field json."""
    values = {part: [line.strip() for line in text.splitlines() if line.strip()] for part, text in texts.items()}
    if values.pop(_JSON, None):
        try:
            document = json.loads(texts[_JSON])
            if not isinstance(document, dict):
                raise ValueError(f"it is a {type(document).__name__}")
            values |= {f"{_JSON}.{name}": _strings(value) for name, value in document.items()}
        except (ValueError, RecursionError) as error:
            faults.append(f"{sample.name}: {sample.parts[_JSON].name!r} is no JSON object: {error}")
    return values


def _strings(value: Any) -> list[str]:
    each = value if isinstance(value, list) else [value]
    plain = [whole_characters(str(one)).strip() for one in each if isinstance(one, str | int | float)]
    return [text for text in plain if text]


def _one(values: Mapping[str, list[str]], fields: Sequence[str]) -> str:
    return next((values[name][0] for name in fields if values.get(name)), "")


def _label_name(part: str) -> str:
    return "class" if part == _CLASS else part.removeprefix(f"{_JSON}.")


# -- notes ------------------------------------------------------------------------------------------------------------


def _left_out(every: Sequence[_Sample], samples: Sequence[_Sample]) -> list[str]:
    kept = {(sample.name, sample.key) for sample in samples}
    bare = [f"{sample.name}: {sample.key}" for sample in every if (sample.name, sample.key) not in kept]
    return counted_note(bare, "sample has no image and is left out", "samples have no image and are left out")


def _faults(indexes: Sequence[TarIndex], names: Sequence[str]) -> list[str]:
    """What is known to be broken of the shards before anything is decoded."""
    broken = [
        f"{name}: {member.name!r} ({member.fault})"
        for name, index in zip(names, indexes, strict=True)
        for member in index.members
        if member.fault
    ]
    notes = counted_note(broken, "member of the shards is broken", "members of the shards are broken")
    open_ended = [name for name, index in zip(names, indexes, strict=True) if not index.ends]
    return notes + counted_note(open_ended, "shard lacks the mark of its end, as one cut short does",
                            "shards lack the mark of their end, as one cut short does")  # fmt: skip


def _unread(samples: Sequence[_Sample], known: Sequence[_Known]) -> list[str]:
    faults = [fault for each in known for fault in each.faults]
    return counted_note(faults, "text cannot be read and is left out", "texts cannot be read and are left out")
