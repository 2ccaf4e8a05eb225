"""Cards: what an encoder produces and what the digest binds of it, remembered by its files."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from featcache.encoders.spec import EncodeOptions, EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.errors import UsageError
from featcache.storage.durable import make_folders, unless_read_only
from featcache.storage.durable import replace as replace_file
from featcache.store.digest import canonical, own_hash
from featcache.store.leases import memo_lease

_MEMO_FORMAT = 2  # with a hash of the card


@dataclass(frozen=True)
class Card:
    """An encoder, as far as keys and tables need to know it."""

    name: str  # of its entry
    modality: str
    # Everything about the encoder that the digest binds: hash of its tensors, what gives them their meaning,
    # preprocessing or tokenizer, compute type. Never a path, time, version or device.
    binds: dict[str, Any]
    widths: dict[str, int]  # "layer.pooling" -> width, in layer order, for everything that it can produce
    default: str  # the "layer.pooling" that is meant when none is named
    dtype: str  # stored
    provenance: dict[str, Any]  # repository, commit, package, files, library versions, licence


def narrow(card: Card, spec: EncoderSpec, options: EncodeOptions) -> Card:
    """The card of what the entry keeps, in the type that the options store.

    Raises:
        UsageError: If the entry names a layer that the encoder does not have; lists those it has.
    """
    parts = {name: name.rpartition(".")[0] for name in card.widths}
    unknown = [layer for layer in spec.layers or () if layer not in parts.values()]
    if unknown:
        raise UsageError(
            f"{card.name} has no layer {', '.join(unknown)}\n  It has: {', '.join(dict.fromkeys(parts.values()))}"
        )
    widths = {name: card.widths[name] for name, layer in parts.items() if spec.layers is None or layer in spec.layers}
    hidden = [name for name in widths if not name.startswith("lm.")] or list(widths)
    default = card.default if card.default in widths else hidden[-1]
    return replace(card, widths=widths, default=default, dtype=options.dtype or card.dtype)


def memo_path(spec: EncoderSpec, options: EncodeOptions, files: WeightFiles, memo: Path) -> Path:
    """Where the card of these files, this entry and these libraries is remembered."""
    settings = [
        _MEMO_FORMAT,
        spec.model_dump(mode="json", exclude={"layers", "citation"}),
        files.fingerprint(),
        files.provenance,
        [options.seed] if options.random else None,
        options.autocast,
        library_versions(spec),
    ]
    return memo / "cards" / f"{blake3(canonical(settings)).hexdigest(length=16)}.json"


def library_versions(spec: EncoderSpec) -> dict[str, str | None]:
    """Versions of the libraries that compute the features, without importing them; None where not installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    library = "open_clip_torch" if spec.library == "open_clip" else spec.library
    for name in ("torch", library, "tokenizers" if spec.modality == "text" else "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def read_card(path: Path) -> Card | None:
    """A remembered card; None if there is none, or it is not what was written: then it is made again."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.pop("blake3") != own_hash(value):
            return None
        return Card(**value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def write_card(path: Path, card: Card) -> None:
    """Remembers a card; the inverse of `read_card`."""
    value = asdict(card)
    with unless_read_only(), memo_lease(path.parent.parent):
        make_folders(path.parent)
        # everything that is computed with the encoder is named by its card: a flipped bit would name it otherwise
        replace_file(path, json.dumps({**value, "blake3": own_hash(value)}, indent=1, ensure_ascii=False).encode())
