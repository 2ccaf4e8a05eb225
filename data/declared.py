"""Data sets that users declare in a TOML file of their own: where each lies, how it is read, its terms."""

import os
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.entries import DatasetEntry
from featcache.data.errors import DataInvalid
from featcache.data.hub_names import HUB, parse_hub_name
from featcache.data.options import OpenOptions, parse_columns

if TYPE_CHECKING:
    from pydantic import BaseModel

VARIABLE = "FEATCACHE_DATASETS"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Declared:
    """A data set of the user's own."""

    entry: DatasetEntry
    hub: str | None  # "hub:ORG/NAME[:CONFIG][@REVISION]", or None where it has a root
    root: Path | None
    options: OpenOptions


def user_datasets_path() -> Path:
    """The TOML file of the user's own data sets: $FEATCACHE_DATASETS, else datasets.toml in the config folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("featcache") / "datasets.toml"


def read_declared() -> tuple[Path, dict[str, Declared]]:
    """The file of the user's own data sets, there or not, and its entries by name; read again once it has changed.

    Raises:
        DataInvalid: If it is not valid, or was named and is not there.
    """
    path = user_datasets_path()
    try:
        status = path.stat()
    except OSError:
        if os.environ.get(VARIABLE):
            raise DataInvalid(
                f"${VARIABLE} names {path}, and there is no such file\n  Create it, or unset it"
            ) from None
        return path, {}
    return path, _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(4)
def _read(path: Path, _written: int, _size: int) -> dict[str, Declared]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path} is not valid TOML: {error}") from error
    return {name: _declared(name, table, path) for name, table in tables.items()}


def _declared(name: str, table: Any, path: Path) -> Declared:
    from pydantic import ValidationError

    where = f"data set {name!r} in {path} is not valid"
    if not isinstance(table, dict):
        raise DataInvalid(f"{where}\n  It stands outside a table; a data set is a table [name]")
    if not _NAME.fullmatch(name) or "--" in name:
        raise DataInvalid(f"{where}\n  A name has lower-case letters, digits, '_' and single '-'")
    try:
        fields: Any = _form().model_validate(table)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, each['loc'])) or 'entry'}: {each['msg']}" for each in error.errors()]
        raise DataInvalid("\n".join([where, *lines])) from None
    try:
        return _checked(name, fields, path)
    except DataInvalid as error:
        raise DataInvalid(f"{where}\n  {error}") from None


def _checked(name: str, fields: Any, path: Path) -> Declared:
    if (fields.root is None) == (fields.hub is None):
        raise DataInvalid("it needs exactly one of `root` (a folder or file) and `hub` (ORG/NAME[:CONFIG][@REVISION])")
    hub = None if fields.hub is None else HUB + fields.hub.removeprefix(HUB)
    if hub is not None:
        parse_hub_name(hub)
    columns = [
        f"{role}={column}"
        for role, named in fields.columns.items()
        for column in (named if isinstance(named, tuple) else (named,))
    ]
    options = OpenOptions(
        float_range=fields.float_range,
        split=fields.split,
        seed=fields.seed,
        layout=fields.layout,
        column=parse_columns(columns),
        allow_missing=fields.allow_missing,
    )
    entry = DatasetEntry(
        name=name,
        opener="folder:open_folder" if hub is None else "hub_parquet:open_hub",
        description=fields.description or f"your own, declared in {path}",
        licence=fields.licence,
        views=("images", "captions"),
        needs_root=False,
        takes_options=True,
        ways=(f"its place is declared in {path}; --root DIR names another",),
        made_from=fields.made_from,
        may_show=fields.may_show,
        citation=fields.citation,
    )
    # A path is meant from the file that names it, wherever the command runs.
    root = None if fields.root is None else path.parent.resolve() / Path(fields.root).expanduser()
    return Declared(entry, hub, root, options)


@lru_cache(1)
def _form() -> "type[BaseModel]":
    """The form of an entry; made when it is first needed, for pydantic takes a while to import."""
    from pydantic import BaseModel, ConfigDict, Field

    class Entry(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        root: str | None = None
        hub: str | None = None
        layout: str | None = None
        columns: dict[str, str | tuple[str, ...]] = Field(default_factory=lambda: {})
        split: str | None = None
        seed: int = Field(default=0, ge=0)
        float_range: tuple[float, float] | None = None
        allow_missing: bool = False
        description: str = ""
        licence: str = Field(default="yours", min_length=1)
        citation: str = ""
        made_from: dict[str, tuple[str, ...]] = Field(default_factory=lambda: {})
        may_show: dict[str, str] = Field(default_factory=lambda: {})

    return Entry
