"""imagenet: ILSVRC 2012 from a folder of the user's, whole or some of its classes, in the layouts that are in use.

Ids are paths below the folder that holds train/ and val/ ("train/n01440764/n01440764_10026.JPEG"), each its own group.
Labels: "wnid", "index" (0 to 999: the sorted wnids, the order of every published head) and, where a file names them,
"name". Images of val/ are the test split, those of train/ the training split but for a twentieth, drawn by a hash of
the id, which is validation.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.images import image_view
from featcache.data.splits import split_by_hash
from featcache.data.views import Dataset, Overlay

CLASSES = 1_000
_SHARES = (Fraction(19, 20), Fraction(1, 20), Fraction(0))  # of the images of train/
_WNID = re.compile(r"n\d{8}")
_SUFFIXES = (".jpeg", ".jpg", ".png")
_BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # where train/ and val/ may stand below the root
_TABLES_AT = ("", "ILSVRC", "ILSVRC2012_devkit_t12/data")  # where the files of classes may stand, below any parent
SYNSETS, SOLUTION, SYNSET_LABELS, TRUTH, META = (
    "LOC_synset_mapping.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    "meta.mat",
)


@dataclass(frozen=True)
class Layout:
    """What was found of the two parts.

    Args:
        base: Folder that ids are relative to.
        train: Folder of class folders, or None.
        val: Folder of class folders or images, or None.
        tables: Folders that may hold files of classes.
    """

    base: Path
    train: Path | None
    val: Path | None
    tables: tuple[Path, ...]

    def table(self, name: str) -> Path | None:
        """A file of classes, the first of that name."""
        return next((folder / name for folder in self.tables if (folder / name).is_file()), None)


@dataclass
class _Rows:
    ids: list[str] = field(default_factory=lambda: [])
    wnids: list[str] = field(default_factory=lambda: [])
    splits: list[str] = field(default_factory=lambda: [])

    def add(self, row_id: str, wnid: str, split: str) -> None:
        self.ids.append(row_id)
        self.wnids.append(wnid)
        self.splits.append(split)


def open_imagenet(root: Path | None = None) -> Dataset:
    """Opens the images below a folder; reads names of files and lists, no pixel.

    Raises:
        DataMissing: If neither class folders nor val/ are there, or what says the classes of a flat val/ or the numbers
            of fewer than 1,000 classes.
        DataInvalid: If a folder is named by no wnid, a class is not one of the list, a class folder is empty, or a list
            does not fit the images.

    Source:
        Russakovsky et al. 2015, arXiv:1409.0575.
    """
    if root is None:
        raise missing("imagenet", "no root given", ())
    layout = _layout(root)
    names = _names(layout)
    rows, notes = _Rows(), list[str]()
    if layout.train is None:
        notes.append("no train/: every image is of the test split, so nothing can be trained or probed on them alone")
    else:
        _read_train(layout, rows)
    if layout.val is None:
        notes.append("no val/: there is no test split")
    else:
        _read_val(layout, rows)
    index = _index(layout, names, rows.wnids)
    used = len(set(rows.wnids))
    if used < CLASSES:
        notes.append(f"{used:,} of {CLASSES:,} classes have images; their numbers are those of all {CLASSES:,}")
    ids = tuple(rows.ids)
    labels = {"wnid": tuple(rows.wnids), "index": tuple(str(index[wnid]) for wnid in rows.wnids)}
    if names:
        labels["name"] = tuple(names[wnid] for wnid in rows.wnids)
    images = image_view("images", ids, ids, lambda row: (layout.base / ids[row]).read_bytes())
    return Dataset(
        name="imagenet",
        views={"images": images},
        overlay=Overlay(ids, tuple(rows.splits), labels),
        licence=DATASETS["imagenet"].licence,
        source="ILSVRC 2012 in a local folder",
        notes=tuple(notes),
    )


def _layout(root: Path) -> Layout:
    folders = [root / below if below else root for below in _BELOW]
    for base in folders:
        train, val = base / "train", base / "val"
        if train.is_dir() or val.is_dir():
            parents = [base, *(each for each in base.parents if each == root or root in each.parents)]
            tables = tuple(parent / at if at else parent for parent in parents for at in _TABLES_AT)
            return Layout(base, train if train.is_dir() else None, val if val.is_dir() else None, tables)
    if any(_WNID.fullmatch(each.name) for each in root.iterdir() if each.is_dir()):
        return Layout(root, root, None, (root, root.parent))
    looked = tuple(str(folder / part) for folder in folders for part in ("train", "val")) + (f"{root}/n########",)
    raise missing("imagenet", "neither train/, val/ nor folders named by a wnid such as n01440764", looked)


def _read_train(layout: Layout, rows: _Rows) -> None:
    assert layout.train is not None
    for wnid, files in _class_folders(layout.train).items():
        for file in files:
            row_id = file.relative_to(layout.base).as_posix()
            rows.add(row_id, wnid, split_by_hash(f"imagenet split {row_id}", _SHARES))


def _read_val(layout: Layout, rows: _Rows) -> None:
    assert layout.val is not None
    if any(each.is_dir() for each in layout.val.iterdir()):
        for wnid, files in _class_folders(layout.val).items():
            for file in files:
                rows.add(file.relative_to(layout.base).as_posix(), wnid, "test")
        return
    files = _images(layout.val)
    if not files:
        raise DataInvalid(f"imagenet: {layout.val} holds neither class folders nor images")
    of = _flat_classes(layout, files)
    for file in files:
        wnid = of.get(file.stem)
        if wnid is None:
            raise DataInvalid(f"imagenet: the list of classes does not name {file.name} of {layout.val}")
        rows.add(file.relative_to(layout.base).as_posix(), wnid, "test")


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class -> its images, both sorted."""
    loose = _images(folder)
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    wrong = [each.name for each in folders if not _WNID.fullmatch(each.name)]
    if loose or wrong:
        what = f"folders that are named by no wnid, the first {wrong[0]!r}" if wrong else "images of no class"
        raise DataInvalid(f"imagenet: {folder} holds {what}; wanted folders such as n01440764, and nothing else")
    classes = {each.name: _images(each) for each in folders}
    empty = [name for name, files in classes.items() if not files]
    if empty or not classes:
        what = f"{len(empty)} class folders without an image, the first {empty[0]}" if empty else "no class folder"
        raise DataInvalid(f"imagenet: {folder} holds {what}; unpack it again, or remove the folders")
    return classes


def _images(folder: Path) -> list[Path]:
    return sorted(
        each for each in folder.iterdir() if each.suffix.lower() in _SUFFIXES and not each.name.startswith(".")
    )


# -- classes -----------------------------------------------------------------------------------------------------------


def _names(layout: Layout) -> dict[str, str]:
    """Wnid -> name of all 1,000 classes, from LOC_synset_mapping.txt; empty without it."""
    path = layout.table(SYNSETS)
    if path is None:
        return {}
    pairs = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = {wnid: name.strip() for wnid, _, name in pairs}
    bad = [wnid for wnid in names if not _WNID.fullmatch(wnid)]
    if bad or len(names) != CLASSES:
        what = f"{bad[0]!r} is no wnid" if bad else f"{len(names)} classes, not {CLASSES:,}"
        raise DataInvalid(f"imagenet: {path}: {what}; wanted lines such as 'n01440764 tench, Tinca tinca'")
    return names


def _index(layout: Layout, names: Mapping[str, str], wnids: Sequence[str]) -> dict[str, int]:
    """Wnid -> its place among all 1,000 sorted."""
    there = set(wnids)
    unknown = sorted(there - names.keys()) if names else []
    if unknown:
        raise DataInvalid(
            f"imagenet: {len(unknown)} classes are not among the {CLASSES:,} of {SYNSETS}, the first {unknown[0]}"
        )
    every = sorted(names or there)
    if len(every) > CLASSES:
        raise DataInvalid(f"imagenet: {len(every):,} classes; ILSVRC 2012 has {CLASSES:,}")
    if len(every) < CLASSES:
        what = f"{len(every)} of {CLASSES:,} classes are there, and no {SYNSETS} says what numbers they have"
        raise missing("imagenet", what, tuple(str(folder / SYNSETS) for folder in layout.tables))
    return {wnid: number for number, wnid in enumerate(every)}


def _flat_classes(layout: Layout, files: Sequence[Path]) -> dict[str, str]:
    """Stem of an image of a flat val/ -> its wnid, from whichever list there is."""
    solution, labels, truth = (layout.table(name) for name in (SOLUTION, SYNSET_LABELS, TRUTH))
    if solution is not None:
        lines = solution.read_text(encoding="utf-8").splitlines()[1:]
        return {
            stem: answer.split()[0] for stem, _, answer in (line.partition(",") for line in lines) if answer.split()
        }
    if labels is not None:
        return _in_order(labels, labels.read_text(encoding="utf-8").split(), files)
    if truth is not None:
        meta = layout.table(META)
        if meta is None:
            raise missing(
                "imagenet", f"{TRUTH} counts classes as {META} does, which is not there", (str(truth.parent),)
            )
        numbers = _devkit_classes(meta)
        try:
            return _in_order(truth, [numbers[int(number)] for number in truth.read_text("utf-8").split()], files)
        except (KeyError, ValueError) as error:
            raise DataInvalid(f"imagenet: {truth}: {error} is no class of {meta}") from error
    looked = tuple(str(folder / name) for folder in layout.tables for name in (SOLUTION, SYNSET_LABELS, TRUTH))
    raise missing("imagenet", f"{layout.val} is flat, and no list says the classes of its images", looked)


def _in_order(path: Path, wnids: Sequence[str], files: Sequence[Path]) -> dict[str, str]:
    """Line n is of the image number n, counted from 1, which its name ends with."""
    numbers = {file.stem: re.search(r"(\d+)$", file.stem) for file in files}
    of = {stem: int(number[1]) for stem, number in numbers.items() if number}
    if any(not 1 <= number <= len(wnids) for number in of.values()) or len(of) < len(files):
        raise DataInvalid(
            f"imagenet: {path} has {len(wnids):,} lines; wanted one for each image, named as ILSVRC2012_val_00000001"
        )
    return {stem: wnids[number - 1] for stem, number in of.items()}


def _devkit_classes(meta: Path) -> dict[int, str]:
    """Number of a class in the development kit, which is no place among sorted wnids -> wnid."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if not int(one["num_children"])}
    except (KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise DataInvalid(f"imagenet: {meta} is not the development kit's list of classes: {error}") from error
