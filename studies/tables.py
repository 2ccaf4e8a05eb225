"""What must stand beside a measured number so that it can be read, and measured again, later?"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from featcache.errors import UsageError
from featcache.features import Features

if TYPE_CHECKING:
    import polars as pl

LIBRARIES = ("featcache", "numpy", "torch", "numba", "scikit-learn")


def identity(features: Features) -> dict[str, str | int]:
    """Names, digest, root and width of a cached array.

    Args:
        features: The array.
    """
    names = {what: getattr(features, what) for what in ("view", "encoder", "layer", "digest", "root")}
    return {**names, "d": features.width}


def beside(asked: Any, settled: Mapping[str, str], **arrays: Features) -> dict[str, str | int]:
    """What stands beside each row of a table: how rows were paired, which arrays they are of, and when and by what.

    Args:
        asked: A `featcache.studies.alignment.align.Asked`.
        settled: From `circumstances`, once for all rows.
        arrays: Role -> array; its fields take the role as prefix.
    """
    first = next(iter(arrays.values()))
    how = {"dataset": first.dataset, "overlay": first.overlay, "pairing": asked.pairing, "split": asked.split or ""}
    which = {f"{role}_{what}": value for role, each in arrays.items() for what, value in identity(each).items()}
    which = {name: value for name, value in which.items() if not name.endswith("_d")}  # the rows say it
    return how | {"seed": asked.seed} | which | dict(settled)


def circumstances() -> dict[str, str]:
    """Versions of the libraries that decide numbers, this project's commit ("" if unknown), and the time."""
    versions = ", ".join(f"{name} {found}" for name in LIBRARIES if (found := library_version(name)))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions, "commit": commit() or "", "measured": now}


def library_version(library: str) -> str | None:
    """Version of an installed library; None if it is not installed (run from a source tree)."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """This project's commit; None where it is an installed copy, which may lie inside some other repository."""
    project = Path(__file__).resolve().parents[1]
    if not (project / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()


def table(rows: Sequence[Any], beside: Sequence[Mapping[str, str | int]]) -> "pl.DataFrame":
    """Measured rows as a tidy table.

    Args:
        rows: Dataclasses of one kind, with plain fields.
        beside: What stands beside each row: the same columns for all.
    """
    import polars as pl

    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
    schema: dict[str, Any] = {}
    if rows:
        hints = get_type_hints(type(rows[0]))
        for field in fields(rows[0]):
            kind = next(
                each for each in (*getattr(hints[field.name], "__args__", ()), hints[field.name]) if each in kinds
            )
            schema[field.name] = kinds[kind]
        schema |= {name: kinds[type(value)] for name, value in beside[0].items()}
    plain = [
        {field.name: getattr(row, field.name) for field in fields(row)} | dict(more)
        for row, more in zip(rows, beside, strict=True)
    ]
    return pl.DataFrame(plain, schema=schema)


def write_table(frame: "pl.DataFrame", path: Path) -> None:
    """Writes a table as Parquet, in place of what may stand there.

    Args:
        frame: The table.
        path: Ends in .parquet.

    Raises:
        UsageError: If it ends in something else, or cannot be written.
    """
    check_table_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}. Name another file") from error


def check_table_path(path: Path | None) -> None:
    """Refuses, before anything is measured, a name that no table is written to.

    Raises:
        UsageError: If it does not end in .parquet.
    """
    if path is not None and path.suffix != ".parquet":
        raise UsageError(f"{path}: the table is written as Parquet; name a file that ends in .parquet")
