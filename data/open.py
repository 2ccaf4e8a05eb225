"""Opening of data sets by name."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

from featcache.data.datasets import DATASETS, declared_dataset, declared_datasets, is_taken, missing
from featcache.data.declared import Declared, check_stated, user_datasets_path
from featcache.data.entries import DatasetEntry
from featcache.data.errors import DataInvalid, DataMissing, UnknownDataset
from featcache.data.hub_names import HUB, cached_name, parse_hub_name
from featcache.data.options import OpenOptions
from featcache.data.tar_index import is_packed
from featcache.data.views import Dataset

_BY_PLACE = ("folder", "hub")  # entries that stand for data by its place, and for no data set


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
    """Whether a data set is named by a path: a text that starts like one, or a folder or file of data that is there.

    The name of a data set never stands for a folder beside it; "./openmoji" does.

    Example:
        >>> is_folder_path("./photos"), is_folder_path("~/photos"), is_folder_path("openmoji")
        (True, True, False)
    """
    if text in (".", "..") or text.startswith(("./", "../", "/", "~")):
        return True
    return ":" not in text and _is_data(Path(text)) and not is_taken(text)


def _is_data(path: Path) -> bool:
    return path.is_dir() or ((path.suffix in (".tar", ".parquet") or is_packed(path.name)) and path.is_file())


def dataset_source(text: str, root: Path | None = None, options: OpenOptions | None = None) -> DatasetSource:
    """What a user's word for a data set opens: a name, "folder:NAME", "hub:ORG/NAME", or the path of data of theirs.

    Raises:
        DataInvalid: If a path comes with a root.
        DataMissing: If a path leads to no folder; names the nearest one beside it.
    """
    options = options or OpenOptions()
    if not is_folder_path(text):
        return DatasetSource(text, root, options)
    if root is not None:
        raise DataInvalid(f"{text} is a folder already; leave out --root {root}")
    if not _is_data(Path(text).expanduser()):
        raise DataMissing(_no_folder(text))
    return DatasetSource("folder", Path(text), options)


def dataset_name(text: str) -> str:
    """What the cache calls a data set that is named, or is a folder of the user's, there or not.

    Raises:
        DataInvalid: If the folder cannot be called so, or the name of one on the Hub has another form.

    Example:
        >>> dataset_name("./photos/My Birds/"), dataset_name("folder:birds"), dataset_name("hub:Org/Birds")
        ('my-birds', 'birds', 'org--birds')
    """
    if is_folder_path(text):
        from featcache.data.folder import folder_name

        return folder_name(Path(text))
    return cached_name(text)


def open_dataset(name: str, *, root: Path | None = None, options: OpenOptions | None = None) -> Dataset:
    """Opens a data set by name; reads lists and names, no pixels.

    Args:
        name: A key of `DATASETS` or of the user's own entries, "folder:NAME" to choose the name of a folder of your
            own, or "hub:ORG/NAME[:CONFIG][@REVISION]".
        root: The folder (or, for CIFAR, archive) that holds the data; see `DATASETS[name].ways`.
        options: What else is declared of data of your own; other data sets take none.

    Raises:
        UnknownDataset: No data set of that name; the message lists the nearest and all names.
        DataMissing: The files or packages are not there; the message lists the ways to get them.
        DataInvalid: The files contradict their format or each other, the data set takes no root, or the file of the
            user's own entries is not valid.

    Example:
        >>> open_dataset("openmojy")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        featcache.data.errors.UnknownDataset: no data set called 'openmojy'; did you mean openmoji?
          There are: openmoji, ...
          Run: featcache datasets
    """
    kind, colon, alias = name.partition(":")
    options = options or OpenOptions()
    declared = None if kind in _BY_PLACE else declared_dataset(name)
    if declared is not None:
        return _open_declared(declared, root, options)
    entry = DATASETS.get(kind)
    if entry is None or (colon and kind not in _BY_PLACE):
        raise _unknown(name)
    refused = [] if entry.takes_options else [option for option in options.given() if option not in entry.options]
    if refused:
        raise DataInvalid(f"{kind} takes no {' or '.join(refused)}: only a folder of your own does")
    if root is not None:
        root = _checked_root(entry, Path(root), copied=name.startswith(HUB))
    elif entry.needs_root:
        raise missing(entry.name, "no --root given", ())
    if kind == "hub":
        return _open_hub(name, root, options)
    if kind == "folder":
        return entry.load_opener()(root, alias=alias if colon else None, options=options)
    takes_some = entry.takes_options or bool(entry.options)
    return entry.load_opener()(root, options=options) if takes_some else entry.load_opener()(root)


def _open_hub(name: str, root: Path | None, options: OpenOptions) -> Dataset:
    """A data set of the Hub, downloaded, or from a copy of its files."""
    if name == "hub":
        raise missing("hub", "no repository is named", ())
    parsed = parse_hub_name(name)
    if root is None:
        return DATASETS["hub"].load_opener()(parsed, options)
    return replace(_open_root(root, options), name=parsed.cached)


def _open_root(root: Path, options: OpenOptions) -> Dataset:
    """Data of the user's own that gets another name than its folder's."""
    return DATASETS["folder"].load_opener()(root, alias="unnamed", options=options)


def _open_declared(declared: Declared, root: Path | None, options: OpenOptions) -> Dataset:
    """A data set of the user's own entries; what the command declares goes before what the entry does."""
    entry, given = declared.entry, options.given()
    try:
        opened = _at_its_place(declared, root, options.over(declared.options))
    except DataInvalid as error:
        option = str(error).partition(" ")[0]
        if not option.startswith("--") or option in given:
            raise
        raise DataInvalid(f"{error}\n  It is declared so for {entry.name} in {user_datasets_path()}") from None
    try:
        check_stated(entry, opened.views, opened.overlay.labels)
    except DataInvalid as error:
        raise DataInvalid(f"data set {entry.name!r} in {user_datasets_path()} is not valid\n  {error}") from None
    return replace(opened, name=entry.name, licence=entry.licence)


def _at_its_place(declared: Declared, root: Path | None, options: OpenOptions) -> Dataset:
    if root is None and declared.hub is not None:
        return _open_hub(declared.hub, None, options)
    place = (root or declared.root or Path()).expanduser()
    if not place.exists():
        raise DataMissing(
            f"{declared.entry.name}: its root does not exist\n  Looked at: {place}\n"
            f"  It is declared in {user_datasets_path()}; --root DIR names another"
        )
    return _open_root(place, options)


def _checked_root(entry: DatasetEntry, root: Path, *, copied: bool) -> Path:
    if not entry.takes_root and not copied:
        where = "the Hub" if entry.name == "hub" else "installed packages"
        raise DataInvalid(f"{entry.name} comes from {where} and takes no --root; leave out --root {root}")
    root = root.expanduser()
    if not root.exists():
        raise missing(entry.name, "the root does not exist", (str(root),))
    return root


def _no_folder(text: str) -> str:
    path = Path(text).expanduser()
    what = f"{text} is a file, and no folder, .tar or .parquet" if path.exists() else f"there is no folder {text}"
    parent = path.parent
    siblings = [each.name for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []
    near = [f"{text.rstrip('/')[: -len(path.name)]}{name}" for name in difflib.get_close_matches(path.name, siblings)]
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"{what}{guess}\n  Looked at: {path.absolute()}\n"
        "  Give the path of a folder that holds images, as in featcache extract ./my_images"
    )


def _unknown(name: str) -> UnknownDataset | DataInvalid:
    """The error of a name that there is not; DataInvalid where an entry of the user's that is not valid may have it."""
    file = declared_datasets()
    names = [*DATASETS, *file.entries]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    text = f"no data set called {name!r}{guess}\n  There are: {', '.join(names)}\n  Run: featcache datasets"
    return DataInvalid("\n".join([text, *map(str, file.invalid.values())])) if file.invalid else UnknownDataset(text)
