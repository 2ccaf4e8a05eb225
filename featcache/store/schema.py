"""The form of every JSON file of the store: strict, and the same wherever one is read."""

import errno
import json
from collections.abc import Mapping
from typing import Any, Literal

# not pydantic's models: they take 0.1 s to import and build, which every command that opens a cache would pay
from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as core

from featcache.errors import BeyondLimit, Damaged
from featcache.limits import check_limit, limit
from featcache.storage.base import Folder

SMALL_JSON = 4 * 2**20  # bytes of a file of one key, plan or pointer; ours have some kilobytes

# what a file itself may be the reason of; too many open files, or a server away, say nothing about it
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG)


def _form(
    fields: Mapping[str, core.CoreSchema], *, optional: Mapping[str, core.CoreSchema] | None = None, more: bool = False
) -> core.CoreSchema:
    """An object with these fields; with `more` it may hold others, which a digest binds or nothing depends on."""
    declared = {name: core.typed_dict_field(schema, required=True) for name, schema in fields.items()}
    declared |= {name: core.typed_dict_field(schema, required=False) for name, schema in (optional or {}).items()}
    return core.typed_dict_schema(declared, extra_behavior="ignore" if more else "forbid")


_TEXT = core.str_schema()
_COUNT = core.int_schema(ge=1)
_ROOT = core.str_schema(pattern=r"^[0-9a-f]{32,64}$")
_OBJECT = core.dict_schema(_TEXT, core.any_schema())
_DTYPE = core.literal_schema(["float16", "float32", "int32"])
_FORMAT = core.int_schema(ge=1, le=1)  # as `featcache.store.digest.FORMAT`; a newer one is told apart before

_ROWS = _form({"modality": _TEXT, "decoding": _OBJECT, "root": _ROOT, "n": _COUNT}, more=True)
_SOURCE = _form({"digest": _TEXT, "root": _TEXT}, more=True)
_ENCODER = _form({}, optional={"made_by": _OBJECT, "from": _SOURCE, "compute": _TEXT}, more=True)
_BINDS = _form(
    {"format": _FORMAT, "rows": _ROWS, "encoder": _ENCODER, "layer": _TEXT, "dtype": _DTYPE, "d": _COUNT}, more=True
)
_PROVENANCE = _form(
    {},
    optional={
        "default_layer": core.nullable_schema(_TEXT),
        "dataset": _form({}, optional={"notes": core.nullable_schema(core.list_schema(_TEXT))}, more=True),
        "encoder": _form({}, optional={"versions": core.nullable_schema(_OBJECT)}, more=True),
    },
    more=True,
)
_NAMES = _form({"dataset": _TEXT, "view": _TEXT, "encoder": _TEXT, "layer": _TEXT})
_PLAN = _form(
    {
        "n": _COUNT,
        "chunk_rows": _COUNT,
        "batch_size": _COUNT,
        "order": core.literal_schema(["row", "cost"]),
        "threads": _COUNT,
    }
)
_RECORD = _form(
    {
        "chunk": core.int_schema(ge=0),
        "rows": _COUNT,
        "bytes": _COUNT,
        "crc32c": core.str_schema(pattern=r"^[0-9a-f]{8}$"),
        "blake3": core.str_schema(pattern=r"^[0-9a-f]{64}$"),
        "failed": core.list_schema(_TEXT),
        "writer": _TEXT,
    },
    optional={"near_constant": core.list_schema(_TEXT), "truncated": core.list_schema(_TEXT)},
)
_FORMS: dict[str, core.CoreSchema] = {
    "key": _form(
        {"format": _FORMAT, "digest": _ROOT, "names": _NAMES, "binds": _BINDS, "provenance": _PROVENANCE},
        optional={"renamed": _NAMES, "blake3": core.str_schema(pattern=r"^[0-9a-f]{32}$")},
        more=True,
    ),
    "plan": _PLAN,
    "record": _RECORD,
    "completion": _form(
        {
            "format": _FORMAT,
            "digest": _ROOT,
            "root": _ROOT,
            "plan": _PLAN,
            "d": _COUNT,
            "dtype": _DTYPE,
            "records": core.list_schema(_RECORD),
        }
    ),
    "arriving": _form({"root": _ROOT}, more=True),
    "pointer": _form({"overlay": _ROOT}, more=True),
    "zarr": _form({"codecs": core.list_schema(_OBJECT)}, more=True),
}
_VALIDATORS = {name: SchemaValidator(form) for name, form in _FORMS.items()}

Form = Literal["key", "plan", "record", "completion", "arriving", "pointer", "zarr"]


def read_json(folder: Folder, name: str, *, most: int = SMALL_JSON) -> Any:
    """Parses a JSON file of the store.

    Args:
        folder: The folder that it lies in.
        name: Its name.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: If there is no such file.
        Damaged: If it is not JSON, or cannot be read.
        BeyondLimit: If it is larger.
    """
    try:
        content = folder.read(name, most=min(most, limit("json")))
    except BeyondLimit:
        check_limit("json", folder.size(name) or 0, f"{folder}/{name}")
        raise
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise Damaged(f"{folder}/{name} cannot be read: {error.strerror}. Run: featcache verify") from error
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{folder}/{name} is not valid JSON ({error}). Run: featcache verify") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def require_form(form: Form, value: Any, where: str) -> Any:
    """Returns what was parsed of a file, once it has the file's form.

    Raises:
        Damaged: If a field is missing, unknown, or of another kind; names the field.
    """
    try:
        _VALIDATORS[form].validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise Damaged(f"{where} was changed: {place[:120]}: {first['msg'][:200]}. Run: featcache verify") from error
    except RecursionError as error:
        raise Damaged(f"{where} was changed: it is nested too deeply. Run: featcache verify") from error
    return value
