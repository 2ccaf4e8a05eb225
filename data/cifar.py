"""cifar10 and cifar100: photos of 32 x 32 pixels with classes, and prompts that name the classes.

Read from the official binary archives, packed or unpacked; the pickled archives are not read, since a pickle can run
code. Image ids are "train-00000" to "train-49999" and "test-00000" to "test-09999" in file order, each its own group.
The last 5,000 training images are the validation split. Prompt ids are "<class>/<template>", and their group is the
class. The overlay covers both: every group has the label "class" (CIFAR-100 also "superclass"), and class groups stand
in no split.
"""

import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.data.datasets import DATASETS, missing
from featcache.data.errors import DataInvalid
from featcache.data.texts import decode_text, text_view
from featcache.data.views import Dataset, Overlay, View

if TYPE_CHECKING:
    from PIL import Image

SIDE = 32
PIXELS = 3 * SIDE * SIDE
# CLIP's 18 templates for CIFAR: nine phrases, once with "a" and once with "the".
PHRASES = (
    "a photo of {article} {name}.",
    "a blurry photo of {article} {name}.",
    "a black and white photo of {article} {name}.",
    "a low contrast photo of {article} {name}.",
    "a high contrast photo of {article} {name}.",
    "a bad photo of {article} {name}.",
    "a good photo of {article} {name}.",
    "a photo of {article} small {name}.",
    "a photo of {article} big {name}.",
)
ARTICLES = ("a", "the")


@dataclass(frozen=True)
class Archive:
    """The published form of one of the two data sets."""

    name: str  # of the data set
    packed: str  # file name of the archive
    folder: str  # within it
    train: tuple[str, ...]  # files of the training images
    test: tuple[str, ...]
    labels: dict[str, str]  # label column -> file with its names; one label byte a row each, in this order
    rows: tuple[int, int]  # images of one file, train and test
    validation: int = 5_000  # training images, from the end, that are the validation split


CIFAR10 = Archive(
    name="cifar10",
    packed="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    labels={"class": "batches.meta.txt"},
    rows=(10_000, 10_000),
)
CIFAR100 = Archive(
    name="cifar100",
    packed="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    labels={"superclass": "coarse_label_names.txt", "class": "fine_label_names.txt"},
    rows=(50_000, 10_000),
)


def open_cifar10(root: Path | None = None) -> Dataset:
    """CIFAR-10, as `open_archive`."""
    return open_archive(CIFAR10, root)


def open_cifar100(root: Path | None = None) -> Dataset:
    """CIFAR-100, as `open_archive`."""
    return open_archive(CIFAR100, root)


def open_archive(archive: Archive, root: Path | None) -> Dataset:
    """Opens one of the two from the packed archive, the unpacked folder, or a folder that holds either.

    Holds all images in memory (184 MB).

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images"; prompts: Radford et al. 2021,
        arXiv:2103.00020, data/prompts.md of the published code.
    """
    read, source = _reader(archive, root)
    names = {column: _names(read(file), file) for column, file in archive.labels.items()}
    train = [_BinaryFile(archive, file, read(file), archive.rows[0]) for file in archive.train]
    test = [_BinaryFile(archive, file, read(file), archive.rows[1]) for file in archive.test]
    batches = [*train, *test]
    train_rows, test_rows = sum(len(batch) for batch in train), sum(len(batch) for batch in test)
    ids = (*(f"train-{row:05d}" for row in range(train_rows)), *(f"test-{row:05d}" for row in range(test_rows)))
    starts = [(batch, row) for batch in batches for row in range(len(batch))]
    labels = {
        column: tuple(_name(names[column], batch.label(row, place), batch, row) for batch, row in starts)
        for place, column in enumerate(archive.labels)
    }
    images = View(
        name="images",
        modality="image",
        ids=ids,
        groups=ids,
        content=lambda row: starts[row][0].pixels(starts[row][1]),
        decode=decode_planar,
        decoding={"layout": "planar RGB", "side": SIDE},
    )
    learnt = ("train",) * (train_rows - archive.validation) + ("validation",) * archive.validation
    overlay = _overlay(ids, (*learnt, *("test",) * test_rows), labels, names["class"])
    views = {"images": images, "prompts": prompt_view(names["class"])}
    return Dataset(archive.name, views, overlay, licence=DATASETS[archive.name].licence, source=source)


def decode_planar(content: bytes) -> "Image.Image":
    """1,024 red, 1,024 green and 1,024 blue bytes, row by row, to an RGB picture; DataInvalid for another length."""
    from PIL import Image

    if len(content) != PIXELS:
        raise DataInvalid(f"{len(content)} bytes are no planar RGB picture of {SIDE} x {SIDE} ({PIXELS} bytes)")
    plane = SIDE * SIDE
    channels = [Image.frombytes("L", (SIDE, SIDE), content[at : at + plane]) for at in range(0, PIXELS, plane)]
    return Image.merge("RGB", channels)


def prompt_view(classes: tuple[str, ...]) -> View:
    """CLIP's 18 prompts a class; the group of a prompt is its class.

    Example:
        >>> view = prompt_view(("aquarium_fish",))
        >>> len(view), view.ids[7], view.read(7), view.read(9)
        (18, 'aquarium_fish/07', 'a photo of a small aquarium fish.', 'a photo of the aquarium fish.')
    """
    rows = [
        (f"{name}/{number:02d}", name, phrase.format(article=article, name=name.replace("_", " ")))
        for name in classes
        for number, (article, phrase) in enumerate(product(ARTICLES, PHRASES))
    ]
    ids, groups, texts = zip(*rows, strict=True)
    return text_view("prompts", ids, groups, texts)


class _BinaryFile:
    """One binary file: rows of label bytes and 3,072 pixel bytes."""

    def __init__(self, archive: Archive, file: str, content: bytes, rows: int):
        self.file = file
        self._content = content
        self._labels = len(archive.labels)
        self._stride = self._labels + PIXELS
        self._rows = rows
        if len(content) != rows * self._stride:
            raise DataInvalid(
                f"{archive.name}: {file} has {len(content)} bytes, not {rows * self._stride} "
                f"({rows} rows of {self._stride}); get {archive.packed} again"
            )

    def __len__(self) -> int:
        return self._rows

    def label(self, row: int, place: int) -> int:
        return self._content[row * self._stride + place]

    def pixels(self, row: int) -> bytes:
        start = row * self._stride + self._labels
        return self._content[start : start + PIXELS]


def _overlay(
    ids: tuple[str, ...], splits: tuple[str, ...], labels: dict[str, tuple[str, ...]], classes: tuple[str, ...]
) -> Overlay:
    # A class is labelled with itself, and with the superclass of any of its images.
    above = dict(zip(labels["class"], labels.get("superclass", labels["class"]), strict=True))
    of_class = {"class": classes, "superclass": tuple(above.get(name, "") for name in classes)}
    columns = {column: (*values, *of_class[column]) for column, values in labels.items()}
    return Overlay((*ids, *classes), (*splits, *("",) * len(classes)), columns)


def _reader(archive: Archive, root: Path | None) -> tuple[Callable[[str], bytes], str]:
    """File name -> bytes, from whatever stands at the root."""
    if root is None:
        raise missing(archive.name, "no root given", ())
    folders = [root / archive.folder, root]
    unpacked = next((folder for folder in folders if (folder / archive.train[0]).is_file()), None)
    if unpacked:
        return lambda file: _read_plain(archive, unpacked / file), f"unpacked {archive.packed}"
    packed = root if root.is_file() else root / archive.packed
    if packed.is_file():
        members = _read_packed(archive, packed)
        return lambda file: _member(archive, members, file), archive.packed
    looked = (str(packed), *(f"{folder}/{archive.train[0]}" for folder in folders))
    raise missing(archive.name, "neither archive nor unpacked folder", looked)


def _read_plain(archive: Archive, path: Path) -> bytes:
    if not path.is_file():
        raise missing(archive.name, f"{path.name} is not there", (str(path),))
    return path.read_bytes()


def _read_packed(archive: Archive, packed: Path) -> dict[str, bytes]:
    """The wanted members of the archive by file name; nothing is written, links and folders are passed over."""
    wanted = {f"{archive.folder}/{file}": file for file in (*archive.train, *archive.test, *archive.labels.values())}
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(packed, "r:*") as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                stream = tar.extractfile(member) if file and member.isreg() else None
                if file and stream:
                    members[file] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataInvalid(f"{archive.name}: {packed} is not a whole archive: {error}") from error
    return members


def _member(archive: Archive, members: dict[str, bytes], file: str) -> bytes:
    if file not in members:
        raise missing(archive.name, f"the archive has no regular file {archive.folder}/{file}", ())
    return members[file]


def _names(content: bytes, file: str) -> tuple[str, ...]:
    names = tuple(line.strip() for line in decode_text(content).splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise DataInvalid(f"{file} names a class more than once")
    return names


def _name(names: tuple[str, ...], label: int, batch: _BinaryFile, row: int) -> str:
    if label >= len(names):
        raise DataInvalid(f"{batch.file} row {row}: label {label}, but only {len(names)} classes have names")
    return names[label]
