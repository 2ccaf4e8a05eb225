"""NumPy and HDF5 files of rows: plain .npy with ids, and the output folder of thingsvision.

thingsvision writes `features.npy`, numbered parts of it, or `features.hdf5` with the data set "features", and the names
of the images in `file_names.txt`, in that folder or, where it made a folder for each module, in the one above.

Source:
    github.com/ViCCo-Group/thingsvision, thingsvision/utils/storing/helpers.py, utils/data/helpers.py,
    core/extraction/base.py; Muttenthaler and Hebart 2021, doi 10.3389/fninf.2021.679838.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.data.errors import DataInvalid
from featcache.errors import UsageError
from featcache.interchange.formats.contents import (
    Contents,
    ImportOptions,
    MatrixPart,
    matrix_part,
    rows_of,
    stack,
    wanted_layer,
)
from featcache.interchange.formats.files import named_damage
from featcache.interchange.formats.hdf5 import open_hdf5, own_dataset
from featcache.interchange.formats.npy import map_npy
from featcache.interchange.formats.row_names import RowNames, contents_with_ids, read_row_names, text_lines

_NAMES = "file_names.txt"
_PART = re.compile(r"features(?:_(\d+)(?:-\d+)?)?\.npy")
_DATASET = re.compile(r"features(?:_(\d+))?")


def read_plain(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """One .npy of rows; ids come from a file of their own. Errors as `read_source`; objects are never unpickled."""
    if options.ids is None:
        raise UsageError(f"{source.name} does not say which row is which. Say it with a .txt, .csv, ...: --ids FILE")
    matrix = stack([npy_part(source)], wanted_layer(layer, source))
    return [contents_with_ids("npy", source, matrix, options)]


def read_thingsvision(source: Path, layer: str | None, options: ImportOptions) -> list[Contents]:
    """The features of one module, from thingsvision's output folder or one file in it. Errors as `read_source`."""
    layer = wanted_layer(layer, source)
    files = _feature_files(source) if source.is_dir() else [source]
    parts = [part for file in files for part in _parts(file)]
    if options.ids is not None:
        names, are_paths = read_row_names(options.ids, options.id_column), False
    else:
        listing = file_names_of(files[0])
        if listing is None:
            raise UsageError(f"there is no {_NAMES} beside {files[0].name}. Give the ids of its rows: --ids FILE")
        names, are_paths = RowNames(text_lines(listing)), True
    matrix = stack(parts, layer)
    return [
        Contents(
            kind="thingsvision",
            source=source,
            files=tuple(files),
            ids=names.ids,
            matrices=(matrix,),
            default=layer,
            groups=names.groups,
            are_paths=are_paths,
            modality="image",
        )
    ]


def file_names_of(file: Path) -> Path | None:
    """The list of image names that thingsvision left for a feature file, if there is one."""
    folder = file.absolute().parent
    return next((path for path in (folder / _NAMES, folder.parent / _NAMES) if path.is_file()), None)


def npy_part(path: Path) -> MatrixPart:
    """The rows of a .npy, mapped anew for every read: a thousand parts would else hold a thousand descriptors."""
    array = map_npy(path)
    return matrix_part(path.name, array.shape, array.dtype.name, lambda rows: rows_of(map_npy(path), rows))


def _feature_files(folder: Path) -> list[Path]:
    """The feature files of a folder in row order."""
    numbered: dict[int, Path] = {}
    whole = [path for path in (folder / f"features{suffix}" for suffix in (".npy", ".h5", ".hdf5")) if path.is_file()]
    for path in folder.glob("features_*.npy"):
        match = _PART.fullmatch(path.name)
        if match and numbered.setdefault(int(match[1]), path) != path:
            raise DataInvalid(f"{folder}: {path.name} and {numbered[int(match[1])].name} have the same number")
    candidates = whole + list(numbered.values())[:1]  # parts count as one
    if len(candidates) > 1:
        raise UsageError(f"{folder} holds {', '.join(path.name for path in candidates)}; name one of the files")
    if not candidates:
        names = ", ".join(sorted(path.name for path in folder.glob("features*")))
        raise UsageError(f"{folder} holds no features.npy, numbered parts of it, or features.hdf5; it has {names}")
    return whole or [numbered[number] for number in sorted(numbered)]


def _parts(file: Path) -> list[MatrixPart]:
    if file.suffix.lower() not in (".h5", ".hdf5"):
        return [npy_part(file)]
    parts: dict[int, MatrixPart] = {}
    with open_hdf5(file) as opened:
        for name in opened:
            match = _DATASET.fullmatch(name)
            if match:
                parts[int(match[1] or 0)] = _hdf5_part(file, name, own_dataset(opened, name, file))
        if not parts:
            raise DataInvalid(f'{file.name} has no data set "features"; it has {", ".join(opened) or "none"}')
    return [parts[number] for number in sorted(parts)]


def _hdf5_part(file: Path, name: str, dataset: Any) -> MatrixPart:
    def read(rows: NDArray[np.int64]) -> np.ndarray:
        # a chunk may be damaged, or compressed by a filter that is not there
        with open_hdf5(file) as opened, named_damage(f"{file.name}/{name}", "cannot be read"):
            return rows_of(own_dataset(opened, name, file), rows)

    return matrix_part(f"{file.name}/{name}", dataset.shape, dataset.dtype.name, read)
