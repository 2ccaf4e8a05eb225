"""Keys and digests: the digest of an array is a hash of its key, which holds everything that decides its values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from blake3 import blake3

from featcache.errors import NewerFormat

FORMAT = 1
_NAMES = ("dataset", "view", "encoder", "layer")


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; NaN and infinities are refused.

    Example:
        >>> canonical({"b": 1, "a": [None, "é"]}).decode()
        '{"a":[null,"é"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def refuse_newer(what: str, version: Any) -> None:
    """Raises NewerFormat if a format that was read is newer than ours; `what` ends before its number."""
    if type(version) is int and version > FORMAT:
        raise NewerFormat(
            f"{what} {version}; this featcache reads up to {FORMAT}. Run: pip install --upgrade featcache"
        )


def own_hash(value: Mapping[str, Any]) -> str:
    """The hash that a JSON object has of itself: blake3 of all but its field "blake3", 128 bits in hex."""
    return blake3(canonical({name: part for name, part in value.items() if name != "blake3"})).hexdigest(length=16)


class ArrayName(NamedTuple):
    """The names on the way from the cache's root to an array's folder."""

    dataset: str
    view: str
    encoder: str
    layer: str
    digest: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def remove_command(self) -> str:
        """The command that removes the array."""
        return f"featcache rm {self.dataset} {self.view}/{self.encoder}/{self.layer}@{self.digest[:12]}"

    @property
    def is_graph(self) -> bool:
        """Whether the array holds neighbours of features, which nobody names to get features."""
        return self.layer.startswith("graph.")


@dataclass(frozen=True)
class ArrayKey:
    """The names of one array, what its digest binds, and where it came from.

    Args:
        dataset: Data set name (a folder, not part of the digest).
        view: View name (a folder, not part of the digest).
        encoder: Encoder name (a folder, not part of the digest).
        layer: Layer and pooling, such as "last.mean".
        binds: What the digest binds: rows (modality, decoding, root, n), encoder, layer, dtype, d, format.
        provenance: What is worth knowing and binds nothing: repository, revision, versions, licences.
        made_as: Names (data set, view, encoder, layer) that it was made under, where they are others.
        renamed: Names that `featcache mv` last gave it, where it did.
    """

    dataset: str
    view: str
    encoder: str
    layer: str
    binds: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=lambda: {})
    made_as: tuple[str, ...] | None = None
    renamed: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Names of data set, view, encoder and layer."""
        return self.dataset, self.view, self.encoder, self.layer

    @property
    def other_name(self) -> str | None:
        """The name that key.json gives it, where its folder has another and no renaming is recorded; else None."""
        known = self.renamed or self.made_as or self.names
        return None if self.names in (known, self.made_as or self.names) else "/".join(known)

    def under(self, *names: str) -> "ArrayKey":
        """The same key under other names, those that it was made under noted."""
        made_as = self.made_as or self.names
        return replace(self, **dict(zip(_NAMES, names, strict=True)), made_as=None if made_as == names else made_as)

    @property
    def digest(self) -> str:
        """blake3 of the canonical JSON of `binds`, 128 bits in hex."""
        return blake3(canonical(self.binds)).hexdigest(length=16)

    @property
    def itemsize(self) -> int:
        """Bytes of one stored value."""
        return 2 if self.binds["dtype"] == "float16" else 4

    @property
    def path(self) -> str:
        """Where the array lies below the cache root."""
        return f"{self.dataset}/{self.view}/{self.encoder}/{self.layer}/{self.digest}"

    def to_json(self) -> dict[str, Any]:
        """The content of key.json."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "digest": self.digest,
            "names": dict(zip(_NAMES, self.made_as or self.names, strict=True)),
            "binds": self.binds,
            "provenance": self.provenance,
        }
        if self.renamed is not None:
            value["renamed"] = dict(zip(_NAMES, self.renamed, strict=True))
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ArrayKey":
        """The key under the names that it was made under: the inverse of `to_json`, but for a key that was renamed."""
        renamed = value.get("renamed")
        return cls(
            **value["names"],
            binds=value["binds"],
            provenance=value["provenance"],
            renamed=renamed and tuple(renamed[name] for name in _NAMES),
        )


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Fields in which two nested mappings differ: dotted name -> (value in a, value in b); None where absent.

    Example:
        >>> differences({"x": {"y": 1, "z": 2}}, {"x": {"y": 1, "z": 3}})
        {'x.z': (2, 3)}
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for name in sorted(a.keys() | b.keys()):
        left, right = a.get(name), b.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            fields |= differences(left, right, f"{prefix}{name}.")
        elif left != right:
            fields[prefix + name] = (left, right)
    return fields
