"""Formats of other tools that can be imported: a table of them, and how one is told from another."""

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
    """One kind of file or folder that can be imported."""

    name: str  # what the user types
    reader: str  # "module:function" in this package; imported when a file is read
    what: str  # one line

    def load_reader(self) -> "Reader":
        """Imports the reader."""
        module, function = self.reader.split(":")
        return getattr(import_module(f"{__name__}.{module}"), function)


_ALL = (
    Format("featcache", "exports:read_export", "what featcache export wrote: .h5, .npz, .parquet or .safetensors"),
    Format("npy", "arrays:read_plain", "one .npy of rows, with --ids"),
    Format("pt", "torch_file:read_tensor", "a .pt of one tensor of rows, with --ids"),
    Format("thingsvision", "arrays:read_thingsvision", "features.npy or .hdf5, and file_names.txt"),
    Format("platonic-rep", "platonic_rep:read_platonic_rep", "a .pt with every layer of one model"),
    Format("clip-retrieval", "clip_retrieval:read_clip_retrieval", "img_emb/, text_emb/, metadata/"),
)
FORMATS: Mapping[str, Format] = MappingProxyType({format.name: format for format in _ALL})


def read_source(source: Path, layer: str | None, options: "ImportOptions") -> "list[Contents]":
    """What a file, or a folder as the tool left it, holds, one entry a modality; values are not read yet.

    `layer` is layer and pooling; None takes what the format says, or every layer it holds. Readers take the same.

    Raises:
        UsageError: If there is no such file, its format is unknown, or something must be said that was not.
        DataInvalid: If the file is not what its format says.
    """
    from featcache.interchange.formats.files import plain_size

    if not source.exists():
        raise UsageError(f"there is no {source}")
    if not source.is_dir():
        plain_size(source)
    name = options.format or detect(source, has_ids=options.ids is not None)
    if name not in FORMATS:
        raise UsageError(f"cannot import {name!r}; known formats:{_known()}")
    return FORMATS[name].load_reader()(source, layer, options)


def detect(source: Path, *, has_ids: bool = False) -> str:
    """The format of a file or folder that exists, from its name and what lies beside it.

    With ids given apart (`has_ids`), a .npy is nothing but rows. UsageError if it is of no known format.
    """
    if source.is_dir():
        if any((source / name).is_dir() for name in ("img_emb", "text_emb")):
            return "clip-retrieval"
        if any(source.glob("features*.npy")) or any(source.glob("features*.h*5")):
            return "thingsvision"
    suffix = source.suffix.lower()
    if suffix == ".pt":
        from featcache.interchange.formats.torch_file import is_tensor

        return "pt" if is_tensor(source) else "platonic-rep"
    if suffix in (".h5", ".hdf5"):
        from featcache.interchange.formats.exports import is_export

        return "featcache" if is_export(source) else "thingsvision"
    if suffix in (".npz", ".parquet", ".safetensors"):
        return "featcache"
    if suffix == ".npy":
        from featcache.interchange.formats.arrays import file_names_of

        return "npy" if has_ids or file_names_of(source) is None else "thingsvision"
    raise UsageError(f"{source.name} is of no known format; say which with --format:{_known()}")


def _known() -> str:
    return "".join(f"\n  {format.name}: {format.what}" for format in FORMATS.values())
