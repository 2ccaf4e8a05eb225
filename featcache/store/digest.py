"""Keys and digests: the digest of an array is a hash of its key, which holds everything that decides its values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from blake3 import blake3

FORMAT = 1


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; NaN and infinities are refused.

    Example:
        >>> canonical({"b": 1, "a": [None, "é"]}).decode()
        '{"a":[null,"é"],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


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
    """

    dataset: str
    view: str
    encoder: str
    layer: str
    binds: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=lambda: {})

    @property
    def digest(self) -> str:
        """blake3 of the canonical JSON of `binds`, 128 bits in hex."""
        return blake3(canonical(self.binds)).hexdigest(length=16)

    @property
    def path(self) -> str:
        """Where the array lies below the cache root."""
        return f"{self.dataset}/{self.view}/{self.encoder}/{self.layer}/{self.digest}"

    def to_json(self) -> dict[str, Any]:
        """The content of key.json."""
        names = {"dataset": self.dataset, "view": self.view, "encoder": self.encoder, "layer": self.layer}
        return {
            "format": FORMAT,
            "digest": self.digest,
            "names": names,
            "binds": self.binds,
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ArrayKey":
        """The inverse of `to_json`."""
        return cls(**value["names"], binds=value["binds"], provenance=value["provenance"])


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
