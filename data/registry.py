"""Which data sets exist, what does each hold, and how is one opened by name?"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from data.errors import DataInvalid, DataMissing, UnknownDataset
from data.views import Dataset

Opener = Callable[[Path | None], Dataset]


@dataclass(frozen=True)
class DatasetEntry:
    """One data set that `open_dataset` knows.

    Args:
        name: What the user types.
        opener: "module:function"; imported when the data set is opened. The function takes the root, or None.
        description: One line.
        licence: Terms of the data, one line.
        views: Names of the views, the default of each modality first; "names-*" stands for one view a language.
        needs_root: True where the data can only come from a folder of the user's.
        takes_root: False where the data comes from installed packages and a root would mean nothing.
        ways: How to get the data, one way a line.
    """

    name: str
    opener: str
    description: str
    licence: str
    views: tuple[str, ...]
    needs_root: bool
    ways: tuple[str, ...]
    takes_root: bool = True

    def load_opener(self) -> Opener:
        """Imports the opener."""
        module, function = self.opener.split(":")
        return getattr(importlib.import_module(module), function)


_ENTRIES = (
    DatasetEntry(
        name="openmoji",
        opener="data.openmoji:open_openmoji",
        description="about 1,180 emoji: drawings, English descriptions, names in 13 more languages",
        licence="OpenMoji drawings: CC BY-SA 4.0; names: Unicode CLDR (Unicode licence)",
        views=("images", "captions", "names-*"),
        needs_root=False,
        takes_root=False,
        ways=("pip install 'featcache[demo]'",),
    ),
    DatasetEntry(
        name="flickr30k",
        opener="data.flickr30k:open_flickr30k",
        description="31,783 photos of people and animals in action, five English captions each",
        licence="non-commercial research and education only; the photos belong to their Flickr users",
        views=("images", "captions"),
        needs_root=False,
        ways=(
            "online and without --root: the Parquet files of the Hub repository nlphuji/flickr30k are downloaded "
            "(4.3 GB; needs pip install 'featcache[encoders]')",
            "--root DIR with flickr30k-images/, results_20130124.token (both from "
            "https://shannon.cs.illinois.edu/DenotationGraph/) and dataset_flickr30k.json (in caption_datasets.zip "
            "from https://cs.stanford.edu/people/karpathy/deepimagesent/)",
            "--root DIR with a copy of nlphuji/flickr30k at refs/convert/parquet: DIR/TEST/test/*.parquet",
            "--root DIR with a copy of lmms-lab/flickr30k (DIR/data/*.parquet) beside dataset_flickr30k.json",
        ),
    ),
    DatasetEntry(
        name="cifar10",
        opener="data.cifar:open_cifar10",
        description="60,000 photos of 32 x 32 pixels in 10 classes, and 18 prompts a class",
        licence="no licence stated by the authors; cite Krizhevsky 2009",
        views=("images", "prompts"),
        needs_root=True,
        ways=(
            "--root DIR with cifar-10-binary.tar.gz, packed or unpacked, from https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
    ),
    DatasetEntry(
        name="cifar100",
        opener="data.cifar:open_cifar100",
        description="60,000 photos of 32 x 32 pixels in 100 classes of 20 superclasses, and 18 prompts a class",
        licence="no licence stated by the authors; cite Krizhevsky 2009",
        views=("images", "prompts"),
        needs_root=True,
        ways=(
            "--root DIR with cifar-100-binary.tar.gz, packed or unpacked, from https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
    ),
    DatasetEntry(
        name="wit_1024",
        opener="data.wit:open_wit_1024",
        description="1,024 Wikipedia images with captions, the data of the platonic representation hypothesis",
        licence="text CC BY-SA 3.0; each image has its own licence on Wikimedia Commons",
        views=("images", "captions"),
        needs_root=False,
        ways=(
            "online and without --root: the Hub repository minhuh/prh, revision wit_1024, is downloaded "
            "(needs pip install 'featcache[encoders]')",
            "--root DIR with a copy of that revision: DIR/data/*.parquet (columns image, text)",
        ),
    ),
    DatasetEntry(
        name="folder",
        opener="data.folder:open_folder",
        description="any folder of images with captions.csv, captions.jsonl or captions.parquet; folder:NAME names it",
        licence="yours",
        views=("images", "captions"),
        needs_root=True,
        ways=(
            "--root DIR with images anywhere below it and one of captions.csv, captions.jsonl, captions.parquet "
            "(columns image, caption; optional id, group, split, label*)",
        ),
    ),
)
DATASETS = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def open_dataset(name: str, *, root: Path | None = None) -> Dataset:
    """Opens a data set by name; reads lists and names, no pixels.

    Args:
        name: A key of `DATASETS`, or "folder:NAME" to choose the name of a folder of your own.
        root: The folder (or, for CIFAR, archive) that holds the data; see `DATASETS[name].ways`.

    Returns:
        The data set with its views, splits, labels, licence and source.

    Raises:
        UnknownDataset: No data set of that name; the message lists the nearest and all names.
        DataMissing: The files or packages are not there; the message lists the ways to get them.
        DataInvalid: The files contradict their format or each other, or the data set takes no root.

    Example:
        >>> open_dataset("openmojy")
        Traceback (most recent call last):
            ...
        data.errors.UnknownDataset: no data set called 'openmojy'; did you mean openmoji?
          There are: openmoji, flickr30k, cifar10, cifar100, wit_1024, folder
          Run: featcache datasets
    """
    kind, colon, alias = name.partition(":")
    entry = DATASETS.get(kind)
    if entry is None or (colon and kind != "folder"):
        raise UnknownDataset(_unknown(name))
    if root is not None:
        root = _checked_root(entry, Path(root))
    elif entry.needs_root:
        raise missing(entry.name, "no --root given", ())
    if kind == "folder" and colon:
        from data.folder import open_folder

        return open_folder(root, alias=alias)
    return entry.load_opener()(root)


def missing(name: str, what: str, looked: tuple[str, ...]) -> DataMissing:
    """The error for data that is not there: what was wanted, where it was looked for, every way to get it.

    Args:
        name: A key of `DATASETS`.
        what: What was not found.
        looked: Places that were looked at, one a line.
    """
    lines = [f"{name}: {what}"]
    lines += [f"  Looked at: {place}" for place in looked]
    lines += [f"  To get it: {way}" for way in DATASETS[name].ways]
    return DataMissing("\n".join(lines))


def _checked_root(entry: DatasetEntry, root: Path) -> Path:
    if not entry.takes_root:
        raise DataInvalid(f"{entry.name} comes from installed packages and takes no --root; leave out --root {root}")
    root = root.expanduser()
    if not root.exists():
        raise missing(entry.name, "the root does not exist", (str(root),))
    return root


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no data set called {name!r}{guess}\n  There are: {', '.join(DATASETS)}\n  Run: featcache datasets"
