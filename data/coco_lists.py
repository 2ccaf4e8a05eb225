"""Captions listed in one of the two forms of JSON that COCO's are, beside their images.

Karpathy's form (dataset_coco.json, dataset_flickr8k.json: "images" with "filename", "split" and "sentences") states
splits; the official one (captions_train2017.json: "images" and "annotations") has them in the names of its files.
Images lie anywhere below the folder and have the id "<file name>", captions "<file name>#<number>", counted in the
order of their own numbers; each image is its group.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.gathered import Gathered, OwnData, blank_note, counted_note
from featcache.data.image_names import absent_note
from featcache.data.images import IMAGE_SUFFIXES
from featcache.data.layouts import caption_lists, files_below
from featcache.data.limits import check_data_limit
from featcache.data.options import OpenOptions
from featcache.data.splits import file_splits, named_split
from featcache.data.texts import whole_characters

_OF_KARPATHY = {"restval": "train"}  # his name of a split -> ours; the others are the same


@dataclass(frozen=True)
class _Listed:
    """An image of a list."""

    name: str  # of its file
    folder: str  # that the list names; "" for none
    split: str
    captions: tuple[str, ...]
    here: str  # for messages


def read_coco(root: Path, options: OpenOptions) -> OwnData:
    """Reads the lists of a folder and finds their images.

    Raises:
        DataMissing: If there is no list, or images of it are not there and `options` do not allow it.
        DataInvalid: If a list is in neither form, contradicts itself, or names an image that two files could be.
    """
    lists, notes = _chosen(root)
    listed = sorted(_all_listed(lists), key=lambda each: each.name)
    where = lists[0].name if len(lists) == 1 else f"{len(lists)} lists such as {lists[0].name}"
    paths, more = _find(root, listed, where, allow_missing=options.allow_missing)
    gathered, blank = Gathered(()), list[str]()
    there = [each for each in listed if each.name in paths]
    for each in there:
        gathered.add_facts(each.name, each.here, split=each.split)
        for text in each.captions:
            if text.strip():
                gathered.add_caption(each.name, text.strip(), each.here)
            else:
                blank.append(each.name)
    images = tuple(each.name for each in there)
    notes += more
    notes += blank_note(blank)
    layout = gathered.layout(f"folder with {where}", images=images, splits="the lists", notes=notes)
    if not layout.splits:
        alone = len(lists) == 1 and bool(named_split(lists[0].stem.removeprefix("captions_")))
        why = f"{where} is one split alone, which counts as none" if alone else f"{where} names no two splits"
        layout = replace(layout, unsplit=why)
    files = [paths[image] for image in images]
    return OwnData(images, lambda row: files[row].read_bytes(), layout)


def _chosen(root: Path) -> tuple[list[Path], list[str]]:
    """Karpathy's list, which has splits, else all official ones, and a note of those passed over."""
    lists = caption_lists(root)
    if not lists:
        raise missing("coco", "no list of captions", (f"{root}/dataset_*.json", f"{root}/annotations/captions_*.json"))
    karpathy = [path for path in lists if path.name.startswith("dataset_")]
    if len(karpathy) > 1:
        raise DataInvalid(f"{root} has {' and '.join(path.name for path in karpathy)}; keep one")
    others = [path.name for path in lists if path not in karpathy] if karpathy else []
    return karpathy or lists, [f"not read: {', '.join(others)}, for {karpathy[0].name} is there"] if others else []


def _all_listed(lists: Sequence[Path]) -> list[_Listed]:
    splits, _ = file_splits([path.name for path in lists])
    listed: list[_Listed] = []
    places: dict[str, str] = {}
    for path, split in zip(lists, splits, strict=True):
        document = _document(path)
        read = _karpathy if path.name.startswith("dataset_") else _official
        try:
            listed += read(document, path.name, split)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataInvalid(f"{path.name} is in neither form of COCO's captions: {error!r}") from error
    for each in listed:
        if each.name in places:
            raise DataInvalid(f"{each.here}: {each.name!r} stands in {places[each.name]} too\n  Keep one")
        places[each.name] = each.here
    if not listed:
        raise DataInvalid(f"{lists[0].name} lists no image")
    return listed


def _document(path: Path) -> dict[str, Any]:
    check_data_limit("captions", path.stat().st_size, path.name)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{path.name} is no JSON: {error}\n  To mend: get the file again") from error
    if not isinstance(document, dict):
        raise DataInvalid(f"{path.name} is in neither form of COCO's captions: it is no object")
    return document


def _karpathy(document: Mapping[str, Any], where: str, split: str) -> Iterator[_Listed]:
    for number, image in enumerate(document["images"]):
        sentences = sorted(image["sentences"], key=lambda sentence: int(sentence.get("sentid", 0)))
        texts = tuple(whole_characters(str(sentence["raw"])) for sentence in sentences)
        own = str(image.get("split", split))
        name, folder = _plain(image["filename"]), str(image.get("filepath", ""))
        yield _Listed(name, folder, _OF_KARPATHY.get(own, own), texts, f"{where} image {number}")


def _official(document: Mapping[str, Any], where: str, split: str) -> Iterator[_Listed]:
    texts: dict[Any, list[tuple[int, str]]] = {image["id"]: [] for image in document["images"]}
    for number, annotation in enumerate(document["annotations"]):
        if annotation["image_id"] not in texts:
            raise DataInvalid(f"{where} annotation {number}: there is no image {annotation['image_id']} in the list")
        texts[annotation["image_id"]].append(
            (int(annotation.get("id", 0)), whole_characters(str(annotation["caption"])))
        )
    for number, image in enumerate(document["images"]):
        captions = tuple(text for _, text in sorted(texts[image["id"]], key=lambda own: own[0]))
        yield _Listed(_plain(image["file_name"]), "", split, captions, f"{where} image {number}")


def _plain(name: Any) -> str:
    """The name of a file without its folders."""
    last = whole_characters(str(name)).replace("\\", "/").rpartition("/")[2]
    if last in ("", ".", ".."):
        raise DataInvalid(f"{name!r} names no image")
    return last


def _find(
    root: Path, listed: Sequence[_Listed], where: str, *, allow_missing: bool
) -> tuple[dict[str, Path], list[str]]:
    """File name -> the image, and notes on images without a file and on files in no list."""
    places: dict[str, list[Path]] = {}
    inside = root.resolve()
    for path in files_below(root):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.resolve().is_relative_to(inside):
            places.setdefault(path.name, []).append(path)
    paths: dict[str, Path] = {}
    absent: list[str] = []
    for each in listed:
        there = places.get(each.name, [])
        there = [path for path in there if path.parent.name == Path(each.folder).name] or there
        if len(there) > 1:
            both = " and ".join(sorted(path.relative_to(root).as_posix() for path in there)[:3])
            raise DataInvalid(f"{each.here}: {each.name!r} could be {both}\n  Keep one")
        if there:
            paths[each.name] = there[0]
        else:
            absent.append(f"{each.folder}/{each.name}".lstrip("/"))
    if absent and not (allow_missing and paths):
        raise _not_there(root, where, absent, len(listed))
    extra = sorted(places.keys() - {each.name for each in listed})
    notes = [absent_note(where, absent)] if absent else []
    one, many = (f"{images} in no list and left out" for images in ("image is", "images are"))
    return paths, notes + counted_note(extra, one, many)


def _not_there(root: Path, where: str, absent: Sequence[str], count: int) -> DataMissing:
    rest = "" if len(absent) == count else ", or add --allow-missing to leave them out"
    return DataMissing(
        f"{where}: {len(absent):,} of {count:,} images are not below {root}, the first {absent[0]}\n"
        f"  To mend: put them anywhere below it{rest}"
    )
