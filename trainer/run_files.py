"""Files of a run folder: read only as the manifest knows them, and only where they have their form."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

from featcache.errors import Damaged, UsageError
from featcache.limits import check_limit, limit
from featcache.metrics.measure.row import ContrastRow, Row, schema
from featcache.storage.plain import open_plain
from featcache.trainer import run_format1
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged

if TYPE_CHECKING:
    import polars as pl

FORMAT = 2
MANIFEST = "manifest.json"
TABLES = ("metrics", "contrasts", "map", "kernels")
FILES = ("config.json", "adapters.safetensors", *(f"{name}.parquet" for name in TABLES))
LEAKS = "leaks.parquet"  # no part of FILES: a run written before leaks were looked for has none
PICTURES = ("stages", "spaces", "agreement", "neighbors", "answers", "kernel_rows")  # nor these tables
_POINT = {"px": "Float64", "py": "Float64"}
_COLUMNS = {  # that are read of the tables that no row class declares, as studies/adapters/pictures writes them
    "map": {"id": "String", "label": "String", "space": "String", **_POINT},
    "kernels": {"space": "String", "row": "Int64", "col": "Int64", "value": "Float64"},
    "leaks": dict.fromkeys(("id", "split", "match_id", "match_split", "group", "kind"), "String"),
    "stages": {"id": "String", "label": "String", "epoch": "Int64", "space": "String", **_POINT},
    "spaces": {"space": "String", "epoch": "Int64", **_POINT, "stress": "Float64"},
    "agreement": {"a": "String", "a_epoch": "Int64", "b": "String", "b_epoch": "Int64", "value": "Float64"},
    "neighbors": {"id": "String", "label": "String", "space": "String", "rank": "Int64", "neighbor": "String"},
    "answers": {
        **dict.fromkeys(("direction", "query", "group", "label"), "String"),
        **{"first_right": "Int64", "margin": "Float64", "rank": "Int64"},
        **{"answer": "String", "answer_group": "String", "right": "Boolean"},
    },
    "kernel_rows": {
        **{"space": "String", "row": "Int64", "col": "Int64"},
        **{"row_id": "String", "row_label": "String", "value": "Float64"},
    },
}
_MAY_LACK = ("epoch", "a_epoch", "b_epoch", "margin")  # columns of PICTURES that may have no value
_PIECE = 2**20
_LARGEST = 1e6  # of a coordinate, a cosine or a margin: far beyond any
# what comes of a file that has another content than the trainer writes
_NO_SENSE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, Damaged)


class _Array(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    view: str
    encoder: str
    layer: str
    digest: str
    root: str
    encoder_hash: str | None = None


class _Leaks(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    rows: dict[str, dict[str, int]]
    groups: dict[str, int]
    of: dict[str, int]
    texts: dict[str, int]
    looked_at: dict[str, list[int]]
    encoders: dict[str, list[str]]
    look_alike: dict[str, float]


class _Split(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    n: dict[str, int] = {}
    hashes: dict[str, str] = {}
    left_out: dict[str, int] = {}
    drawn_validation: list[str] = []
    leaks: _Leaks | None = None


class _Config(BaseModel):
    """config.json in the words of format 2, as far as anything reads it."""

    model_config = ConfigDict(extra="allow")

    config: FitConfig
    config_hash: str
    dataset: str
    overlay: str
    sides: dict[str, _Array]
    reference: _Array | None
    control: str | None = None
    split: _Split = _Split()
    widths: dict[str, int] = {}
    selected_epoch: int | None = None
    chosen: dict[str, Any] = {}
    seconds: float | None = None
    versions: dict[str, Any] = {}


def damaged(path: Path, what: str) -> RunDamaged:
    """The error of a run folder, with what is wrong in it."""
    return RunDamaged(f"the run folder {path} is damaged: {what}\n  Train it again with --overwrite")


def read_config(path: Path) -> tuple[dict[str, Any], int]:
    """The configuration of a run, in the words of format 2, and the format of its folder.

    Every file of the folder must be what the manifest says; a run of featcache 0.1 has none.

    Raises:
        RunDamaged: If a file is missing or changed, or config.json is not of its form.
    """
    config = parsed_config(path)
    version = config.get("format")
    if type(version) is not int or version not in (1, FORMAT):
        raise damaged(path, f"format {version!r}, this version reads 1 and {FORMAT}")
    missing = [name for name in _files(path, version) if not (path / name).is_file()]
    if missing:
        raise damaged(path, f"{', '.join(missing)} missing")
    changed = changed_files(path) or []
    missing = [name for name in changed if not (path / name).is_file()]
    if changed:
        what = f"{', '.join(missing)} missing" if missing else f"{', '.join(changed)} changed since it was written"
        raise damaged(path, what)
    try:
        config = with_defaults(config if version == FORMAT else run_format1.upgraded(config))
        _Config.model_validate(config)
    except (UsageError, ValidationError, *_NO_SENSE) as error:
        raise damaged(path, f"config.json cannot be read: {_first_line(error)}") from error
    return config, version


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with what runs were before it was recorded: a hit was a row of the own group, no leak was dropped."""
    return {"leaks": "kept", **config, "config": {"hits": "group", **config["config"]}}


def _first_line(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error) or repr(error)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])[:120]}: {first['msg'][:200]}"


def _files(path: Path, version: int) -> tuple[str, ...]:
    return (*FILES, MANIFEST) if version == FORMAT else run_format1.FILES


def parsed_config(path: Path) -> dict[str, Any]:
    """config.json of a run folder as it stands, unchecked; RunDamaged if it is missing, or no JSON object."""
    try:
        config = json.loads(read_plain(path / "config.json", "json"))
        if not isinstance(config, dict):
            raise ValueError(f"wanted an object, got {type(config).__name__}")
        return config
    except FileNotFoundError as error:
        raise damaged(path, "config.json missing") from error
    except _NO_SENSE as error:
        raise damaged(path, f"config.json cannot be read: {error}") from error


def read_plain(path: Path, kind: str) -> bytes:
    """The bytes of a plain file that is not larger than the limit of its kind ("json" or "table")."""
    with open_plain(path) as file:
        check_limit(kind, os.fstat(file.fileno()).st_size, path)
        return file.readall()


def changed_files(path: Path) -> list[str] | None:
    """Files of a run folder that are not what its manifest says; None where it has no manifest (format 1).

    Raises:
        RunDamaged: If the manifest cannot be read.
    """
    if not (path / MANIFEST).exists():
        return None if parsed_config(path).get("format") == 1 else [MANIFEST]
    recorded = _recorded(path)
    names = dict.fromkeys((*FILES, *recorded))
    try:
        return [name for name in names if recorded.get(name) is None or _hash_file(path / name) != recorded[name]]
    except _NO_SENSE as error:
        raise damaged(path, f"{MANIFEST} cannot be read: {error}") from error


def _recorded(path: Path) -> dict[str, Any]:
    """File name -> blake3 as the manifest has it; RunDamaged if it cannot be read."""
    try:
        recorded = json.loads(read_plain(path / MANIFEST, "json"))["blake3"]
        if not isinstance(recorded, dict) or any(Path(name).name != name for name in recorded):
            raise ValueError("it names no files of the folder")
        return recorded
    except _NO_SENSE as error:
        raise damaged(path, f"{MANIFEST} cannot be read: {error}") from error


def _hash_file(path: Path) -> str | None:
    """blake3 of a file, hex; None if there is none, or it is larger than any of a run."""
    if not path.is_file() or path.stat().st_size > limit("table"):
        return None
    hasher = blake3()
    with open_plain(path) as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def write_manifest(folder: Path) -> None:
    """Writes the blake3 of every file of a run folder: the last that is written."""
    hashes = {path.name: _hash_file(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"blake3": hashes})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _holds(stored: "pl.DataType", wanted: "pl.DataType") -> bool:
    return stored == wanted or (stored.is_numeric() and wanted.is_numeric() and stored.is_float() == wanted.is_float())


def _lacks_values(column: "pl.Series") -> bool:
    if column.dtype.is_float() and not (column.is_finite() & (column.abs() < _LARGEST)).all():  # which looks past null
        return True
    return column.name not in _MAY_LACK and column.null_count() > 0


def read_table(path: Path, name: str, version: int) -> "pl.DataFrame":
    """A table of a run; "metrics" and "contrasts" with the columns and types that `metrics.measure.row` declares.

    A table that runs may lack, and this one does, is empty.

    Raises:
        RunDamaged: If it cannot be read, lacks a column, or a column is of another type.
    """
    import polars as pl

    file = f"{name}.parquet"
    if name in (*PICTURES, Path(LEAKS).stem) and (version == 1 or file not in _recorded(path)):
        return pl.DataFrame(schema={column: getattr(pl, dtype) for column, dtype in _COLUMNS[name].items()})
    try:
        if version == 1:
            return run_format1.table(path, name)
        frame = pl.read_parquet(read_plain(path / file, "table"))
        kind = {"metrics": Row, "contrasts": ContrastRow}.get(name)
        if kind is not None:
            declared = schema(kind)
            frame = frame.select(list(declared))
        else:  # these may have more columns
            declared = {column: getattr(pl, dtype) for column, dtype in _COLUMNS.get(name, {}).items()}
            absent = [column for column in declared if column not in frame.columns]
            if absent:
                raise ValueError(f"no column {absent[0]}")
        other = [column for column, dtype in declared.items() if not _holds(frame.schema[column], dtype)]
        if other:
            raise ValueError(f"column {other[0]} holds {frame.schema[other[0]]}, wanted {declared[other[0]]}")
        lacking = [column for column in declared if name in PICTURES and _lacks_values(frame[column])]
        if lacking:
            raise ValueError(f"column {lacking[0]} has rows without a value, or values that are none")
        return frame
    # a panic of polars is no Exception
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, *_NO_SENSE) as error:
        raise damaged(path, f"{file} cannot be read: {error}") from error
