"""Opening of data sets by name."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

from featcache.data.datasets import DATASETS, DatasetEntry, missing
from featcache.data.errors import DataInvalid, DataMissing, UnknownDataset
from featcache.data.options import OpenOptions
from featcache.data.views import Dataset


@dataclass(frozen=True)
class DatasetSource:
    """What a data set is opened from: values that pickle carries to another process."""

    name: str  # as for `open_dataset`
    root: Path | None = None
    options: OpenOptions = field(default_factory=OpenOptions)

    def open(self) -> Dataset:
        """The data set; errors as `open_dataset`."""
        return open_dataset(self.name, root=self.root, options=self.options)

    def absolute(self) -> "DatasetSource":
        """The same from any working folder."""
        return replace(self, root=self.root and self.root.expanduser().resolve())


def is_folder_path(text: str) -> bool:
    """Whether a data set is named by a folder: a text that starts like a path, or a folder that is there.

    The name of a data set never stands for a folder beside it; "./openmoji" does.

    Example:
        >>> is_folder_path("./photos"), is_folder_path("~/photos"), is_folder_path("openmoji")
        (True, True, False)
    """
    if text in (".", "..") or text.startswith(("./", "../", "/", "~")):
        return True
    return text not in DATASETS and ":" not in text and Path(text).is_dir()


def dataset_source(text: str, root: Path | None = None, options: OpenOptions | None = None) -> DatasetSource:
    """What a user's word for a data set opens: a name, "folder:NAME", or the path of a folder of the user's.

    Raises:
        DataInvalid: If a path comes with a root.
        DataMissing: If a path leads to no folder; names the nearest one beside it.
    """
    options = options or OpenOptions()
    if not is_folder_path(text):
        return DatasetSource(text, root, options)
    if root is not None:
        raise DataInvalid(f"{text} is a folder already; leave out --root {root}")
    if not Path(text).expanduser().is_dir():
        raise DataMissing(_no_folder(text))
    return DatasetSource("folder", Path(text), options)


def dataset_name(text: str) -> str:
    """What the cache calls a data set that is named, or is a folder of the user's, there or not.

    Raises:
        DataInvalid: If the folder cannot be called so.

    Example:
        >>> dataset_name("./photos/My Birds/"), dataset_name("folder:birds"), dataset_name("openmoji")
        ('my-birds', 'birds', 'openmoji')
    """
    if is_folder_path(text):
        from featcache.data.folder import folder_name

        return folder_name(Path(text))
    return text.removeprefix("folder:")


def open_dataset(name: str, *, root: Path | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens a data set by name; reads lists and names, no pixels.

    Args:
        name: A key of `DATASETS`, or "folder:NAME" to choose the name of a folder of your own.
        root: The folder (or, for CIFAR, archive) that holds the data; see `DATASETS[name].ways`.
        options: What else is declared of a folder of your own; other data sets take none.

    Raises:
        UnknownDataset: No data set of that name; the message lists the nearest and all names.
        DataMissing: The files or packages are not there; the message lists the ways to get them.
        DataInvalid: The files contradict their format or each other, or the data set takes no root.

    Example:
        >>> open_dataset("openmojy")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        featcache.data.errors.UnknownDataset: no data set called 'openmojy'; did you mean openmoji?
          There are: openmoji, ...
          Run: featcache datasets
    """
    kind, colon, alias = name.partition(":")
    entry = DATASETS.get(kind)
    if entry is None or (colon and kind != "folder"):
        raise UnknownDataset(_unknown(name))
    options = options or OpenOptions()
    if kind != "folder" and options != OpenOptions():
        raise DataInvalid(f"{kind} takes no {' or '.join(options.given())}: only a folder of your own does")
    if root is not None:
        root = _checked_root(entry, Path(root))
    elif entry.needs_root:
        raise missing(entry.name, "no --root given", ())
    if kind == "folder":
        from featcache.data.folder import open_folder

        return open_folder(root, alias=alias if colon else None, options=options)
    return entry.load_opener()(root)


def _checked_root(entry: DatasetEntry, root: Path) -> Path:
    if not entry.takes_root:
        raise DataInvalid(f"{entry.name} comes from installed packages and takes no --root; leave out --root {root}")
    root = root.expanduser()
    if not root.exists():
        raise missing(entry.name, "the root does not exist", (str(root),))
    return root


def _no_folder(text: str) -> str:
    path = Path(text).expanduser()
    what = f"{text} is a file, and no folder" if path.exists() else f"there is no folder {text}"
    parent = path.parent
    siblings = [each.name for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []
    near = [f"{text.rstrip('/')[: -len(path.name)]}{name}" for name in difflib.get_close_matches(path.name, siblings)]
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"{what}{guess}\n  Looked at: {path.absolute()}\n"
        "  Give the path of a folder that holds images, as in featcache extract ./my_images"
    )


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no data set called {name!r}{guess}\n  There are: {', '.join(DATASETS)}\n  Run: featcache datasets"
