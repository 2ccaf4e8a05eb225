"""Which files of other tools can be taken into the cache, and how is one told from another?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from featcache.errors import UsageError

if TYPE_CHECKING:
    from featcache.interchange.formats.contents import Contents, ImportOptions

    Reader = Callable[[Path, str | None, ImportOptions], list[Contents]]


@dataclass(frozen=True)
class Format:
    """One kind of file or folder that can be imported.

    Args:
        name: What the user types.
        reader: "module:function"; imported when a file is read.
        what: One line.
    """

    name: str
    reader: str
    what: str

    def load_reader(self) -> "Reader":
        """Imports the reader."""
        module, function = self.reader.split(":")
        return getattr(import_module(module), function)


_ALL = (
    Format("npy", "featcache.interchange.formats.arrays:read_plain", "one .npy of rows, with --ids"),
    Format(
        "thingsvision",
        "featcache.interchange.formats.arrays:read_thingsvision",
        "features.npy or .hdf5, and file_names.txt",
    ),
    Format(
        "platonic-rep",
        "featcache.interchange.formats.platonic_rep:read_platonic_rep",
        "a .pt with every layer of one model",
    ),
    Format(
        "clip-retrieval",
        "featcache.interchange.formats.clip_retrieval:read_clip_retrieval",
        "img_emb/, text_emb/, metadata/",
    ),
)
FORMATS: Mapping[str, Format] = MappingProxyType({format.name: format for format in _ALL})


def read_source(source: Path, layer: str | None, options: "ImportOptions") -> "list[Contents]":
    """What a file or folder holds, one entry a modality; values are not read yet.

    Args:
        source: A file, or a folder as the tool left it.
        layer: Layer and pooling; None takes what the format says, or every layer it holds.
        options: What the file does not say itself.

    Raises:
        UsageError: If there is no such file, its format is unknown, or something must be said that was not.
        DataInvalid: If the file is not what its format says.
    """
    if not source.exists():
        raise UsageError(f"there is no {source}")
    name = options.format or detect(source, has_ids=options.ids is not None)
    if name not in FORMATS:
        raise UsageError(f"cannot import {name!r}; known formats:{_known()}")
    return FORMATS[name].load_reader()(source, layer, options)


def detect(source: Path, *, has_ids: bool = False) -> str:
    """The format of a file or folder, from its name and what lies beside it.

    Args:
        source: A file or folder that exists.
        has_ids: Ids are given apart: a .npy is then nothing but rows.

    Raises:
        UsageError: If it is of no known format.
    """
    if source.is_dir():
        if any((source / name).is_dir() for name in ("img_emb", "text_emb")):
            return "clip-retrieval"
        if any(source.glob("features*.npy")) or any(source.glob("features*.h*5")):
            return "thingsvision"
    suffix = source.suffix.lower()
    if suffix == ".pt":
        return "platonic-rep"
    if suffix in (".h5", ".hdf5"):
        return "thingsvision"
    if suffix == ".npy":
        from featcache.interchange.formats.arrays import file_names_beside

        return "npy" if has_ids or file_names_beside(source) is None else "thingsvision"
    raise UsageError(f"{source.name} is of no known format; say which with --format:{_known()}")


def _known() -> str:
    return "".join(f"\n  {format.name}: {format.what}" for format in FORMATS.values())
