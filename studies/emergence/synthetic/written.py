"""The tables of the study of encoders trained apart, read back from its folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.errors import UsageError
from featcache.studies.emergence.synthetic.encoders import EmergenceTables
from featcache.studies.tables import read_table

if TYPE_CHECKING:
    import polars as pl

SETTING = ("generator", "width", "architecture")  # of encoders that are compared with each other
CELL = ("uniqueness", "phi_depth")
MODEL = (*SETTING, *CELL, "depth", "seed")
_MODELS = {**dict.fromkeys(MODEL, int), "generator": str, "architecture": str} | {
    "modality": int, "steps": int, "accuracy": float, "test_accuracy": float, "bayes_accuracy": float
}  # fmt: skip
_ALIGNMENT = {**dict.fromkeys(MODEL, int), "generator": str, "architecture": str} | {
    "metric": str, "layer0": int, "layer1": int, "value": float
}  # fmt: skip
DECOMPOSITIONS = ("broja", "common", "i_min")
_PARTS = ("redundancy", "unique1", "unique2", "synergy")
_ORACLES = {"generator": str, "uniqueness": int, "posterior_cka": float} | {
    f"{name}_{part}": float for name in DECOMPOSITIONS for part in _PARTS
}
COLUMNS = {"models": _MODELS, "alignment": _ALIGNMENT, "oracles": _ORACLES}


def is_emergence(folder: Path) -> bool:
    """Whether a folder holds the tables of a study of encoders trained apart."""
    return all((folder / f"{name}.parquet").is_file() for name in COLUMNS)


def read_emergence(folder: Path) -> EmergenceTables:
    """Reads models.parquet, alignment.parquet and oracles.parquet.

    Args:
        folder: Where they lie.

    Raises:
        UsageError: If one is missing, cannot be read, or lacks a column; says which command writes them.
        BeyondLimit: If one is larger than is read unasked.
    """
    tables = {name: _checked(folder / f"{name}.parquet", columns) for name, columns in COLUMNS.items()}
    return EmergenceTables(folder, **tables)


def _checked(path: Path, columns: dict[str, type]) -> "pl.DataFrame":
    if not path.is_file():
        raise UsageError(f"no table at {path}\n  Write it: featcache emergence synthetic")
    table = read_table(path)
    for name, kind in columns.items():
        dtype = table.schema.get(name)
        if dtype is None or not _is(dtype, kind):
            have = "is missing" if dtype is None else f"is {dtype}"
            raise UsageError(
                f"{path}: column {name} {have}, wanted {kind.__name__}\n  Write it again: featcache emergence synthetic"
            )
    return table


def _is(dtype: "pl.DataType", kind: type) -> bool:
    import polars as pl

    if kind is str:
        return dtype == pl.String
    return dtype.is_integer() if kind is int else dtype.is_numeric() or dtype == pl.Null
