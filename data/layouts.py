"""Layouts of data of the user's own: which there are, and which of them a folder or a file has."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

from featcache.data.caption_files import CAPTION_FILES
from featcache.data.datasets import missing
from featcache.data.errors import DataInvalid
from featcache.data.gathered import OwnData
from featcache.data.images import IMAGE_SUFFIXES
from featcache.data.options import OpenOptions
from featcache.data.sound import SOUND_SUFFIXES
from featcache.data.tar_index import is_packed

# layout -> "module:function" below featcache.data; the function takes the root and the options
LAYOUTS = MappingProxyType(
    {
        "images": "folder_layouts:read_images",
        "coco": "coco_lists:read_coco",
        "webdataset": "webdataset:read_webdataset",
        "parquet": "parquet_rows:read_parquet",
    }
)
OF_FILES = MappingProxyType({".tar": "webdataset", ".parquet": "parquet"})
_LISTS = ("dataset_*.json", "annotations/dataset_*.json", "captions_*.json", "annotations/captions_*.json")
_PACKED = "compressed shards"
_PEEKED = 2**16  # bytes of a JSON that tell whether it lists images


def read_own(root: Path, options: OpenOptions) -> OwnData:
    """Reads data of the user's own in the layout that the options name, or that the root tells.

    Raises:
        DataMissing: If there is nothing to read, or a list names images that are not there.
        DataInvalid: If files contradict their format, each other or the options.
    """
    layout = options.layout or detect_layout(root)
    if layout not in LAYOUTS:
        raise DataInvalid(f"--layout {layout}: wanted one of {', '.join(LAYOUTS)}")
    if options.column and layout not in ("webdataset", "parquet"):
        raise DataInvalid(f"--column is for Parquet files and WebDataset shards; {root} has neither\n  Leave it out")
    module, function = LAYOUTS[layout].split(":")
    room = importlib.import_module(f"featcache.data.{module}")
    read: Callable[[Path, OpenOptions], OwnData] = getattr(room, function)
    return read(root, options)


def detect_layout(root: Path) -> str:
    """The layout of a folder or a file, by the names of the files in it.

    A caption file in the folder, or an image or a sound anywhere below, makes it a folder of images (or sounds), unless
    a list in COCO's form is there; then tar files are shards of WebDataset, then Parquet files hold the images.
    Compressed tar files are shards too, which are refused when they are read.

    Raises:
        DataInvalid: If it is a file of another kind.
    """
    if root.is_file():
        if is_packed(root.name):
            return "webdataset"
        if root.suffix not in OF_FILES:
            raise DataInvalid(f"{root} is a file, and no folder; of files, {' and '.join(OF_FILES)} are read")
        return OF_FILES[root.suffix]
    if any((root / name).is_file() for name in CAPTION_FILES):
        return "images"
    if any(map(_lists_images, caption_lists(root))):
        return "coco"
    suffixes: set[str] = set()
    for path in files_below(root):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES or suffix in SOUND_SUFFIXES or path.name in CAPTION_FILES:
            return "images"
        suffixes.add(_PACKED if is_packed(path.name) else suffix)
    return next(
        (layout for suffix, layout in [*OF_FILES.items(), (_PACKED, "webdataset")] if suffix in suffixes), "images"
    )


def caption_lists(root: Path) -> list[Path]:
    """JSON files in a folder, or its folder annotations/, that are called like COCO's lists of captions, by name.

    Those that list images, as far as their beginning tells; all if none does.
    """
    named = [path for pattern in _LISTS for path in root.glob(pattern) if path.is_file()] if root.is_dir() else []
    return sorted(list(filter(_lists_images, named)) or named, key=lambda path: path.name)


def _lists_images(path: Path) -> bool:
    with path.open("rb") as file:
        beginning = file.read(_PEEKED)
    return b'"images"' in beginning or b'"annotations"' in beginning


def files_below(root: Path) -> Iterator[Path]:
    """Files anywhere below a folder in no order, or the one file; hidden files and folders are passed over."""
    if root.is_file():
        yield root
        return
    for path in root.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts) and path.is_file():
            yield path


def data_files(root: Path, suffix: str, what: str) -> tuple[list[Path], list[str]]:
    """Files of a suffix below a folder, or one, by path, and the path of each as messages, ids and splits have it.

    Caption files are none.

    Raises:
        DataMissing: If there is none; `what` says of which kind.
        DataInvalid: If one is a link that leads out of the folder.
    """
    found = sorted(path for path in files_below(root) if path.suffix == suffix and path.name not in CAPTION_FILES)
    inside = root.resolve()
    for path in found:
        if not path.resolve().is_relative_to(inside):
            raise DataInvalid(f"{path.name!r} is a link that leads out of {root}; copy the file into the folder")
    if not found:
        raise missing("folder", f"no {what}", (f"{root}/**/*{suffix}",))
    base = root if root.is_dir() else root.parent
    return found, [path.relative_to(base).as_posix() for path in found]
