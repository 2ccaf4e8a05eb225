"""Tidy tables of measured rows, with the columns that say what was measured, how and when; written and read back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from featcache.data.parquet_sizes import parquet_sizes
from featcache.errors import BeyondLimit, Damaged, UsageError
from featcache.features import Features
from featcache.limits import check_limit
from featcache.storage.outputs import parquet_bytes, write_output
from featcache.trainer.run_files import read_plain

if TYPE_CHECKING:
    import polars as pl

_CELL_BYTES = 16  # of a cell in memory, beside the bytes of its page


def identity(features: Features) -> dict[str, str | int]:
    """Names, digest, root and width of a cached array.

    Args:
        features: The array.
    """
    names = {what: getattr(features, what) for what in ("view", "encoder", "layer", "digest", "root")}
    return {**names, "d": features.width}


def context_columns(settings: Any, provenance: Mapping[str, str], **arrays: Features) -> dict[str, str | int]:
    """Columns that every row of a table shares: how rows were paired, which arrays they are of, when and by what.

    Args:
        settings: A `featcache.studies.alignment.align.AlignSettings`.
        provenance: From `featcache.provenance`, once for all rows.
        arrays: Role -> array; its fields take the role as prefix.
    """
    first = next(iter(arrays.values()))
    how = {
        "dataset": first.dataset,
        "overlay": first.overlay,
        "pairing": settings.pairing,
        "split": settings.split or "",
    }
    which = {f"{role}_{what}": value for role, each in arrays.items() for what, value in identity(each).items()}
    which = {name: value for name, value in which.items() if not name.endswith("_d")}  # the rows say it
    return how | {"seed": settings.seed} | which | dict(provenance)


def table(rows: Sequence[Any], context: Sequence[Mapping[str, str | int]]) -> "pl.DataFrame":
    """Measured rows as a tidy table.

    Args:
        rows: Dataclasses of one kind, with plain fields.
        context: Further columns of each row: the same for all.
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
        schema |= {name: kinds[type(value)] for name, value in context[0].items()}
    plain = [
        {field.name: getattr(row, field.name) for field in fields(row)} | dict(more)
        for row, more in zip(rows, context, strict=True)
    ]
    return pl.DataFrame(plain, schema=schema)


def write_table(frame: "pl.DataFrame", path: Path) -> None:
    """Writes a table as Parquet, in place of what may stand there.

    Args:
        frame: The table.
        path: Ends in .parquet.

    Raises:
        UsageError: If it ends in something else.
        OutputFailed: If it cannot be written.
    """
    check_table_path(path)
    write_output(path, parquet_bytes(frame))


def read_table(path: Path) -> "pl.DataFrame":
    """Reads a table that anybody may have written: what it unpacks to is checked before anything is decoded.

    Args:
        path: A Parquet file.

    Raises:
        UsageError: If there is no such file, or it cannot be read.
        BeyondLimit: If it is or unpacks to more than the limit of a table.
    """
    import polars as pl

    try:
        content = read_plain(path, "table")
        sizes = parquet_sizes(content)
        check_limit("table", sizes.bytes + _CELL_BYTES * sizes.rows * sizes.columns, path)
        return pl.read_parquet(content)
    except FileNotFoundError as error:
        raise UsageError(f"no table at {path}\n  Name a .parquet file that is there") from error
    except BeyondLimit:
        raise
    # a panic of polars is no Exception
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, Damaged) as error:
        raise UsageError(
            f"{path} cannot be read as a table: {error}\n  Write it again with the command it is of"
        ) from error


def check_table_path(path: Path | None) -> None:
    """Refuses, before anything is measured, a name that no table is written to.

    Raises:
        UsageError: If it does not end in .parquet.
    """
    if path is not None and path.suffix != ".parquet":
        raise UsageError(f"{path}: the table is written as Parquet; name a file that ends in .parquet")
