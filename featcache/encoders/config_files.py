"""Configuration files of networks: read, compared with an entry, and hashed without what changes no feature."""

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

from featcache.encoders.spec import EncoderSpec
from featcache.encoders.weights import WeightFiles
from featcache.errors import WeightsInvalid
from featcache.store.digest import canonical

# Fields of a config.json that change no feature.
_VOLATILE = {
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "torch_dtype",
    "dtype",
    "architectures",
    "use_cache",
}


def read_config(folder: Path | None, name: str = "config.json") -> dict[str, Any]:
    """A folder's configuration; empty where there is no folder, WeightsInvalid if it is no JSON object."""
    if folder is None:
        return {}
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsInvalid(f"{folder}/{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise WeightsInvalid(f"{folder}/{name} is not a JSON object")
    return config


def check_type(kind: Any, spec: EncoderSpec, files: WeightFiles) -> None:
    """WeightsInvalid if the folder's configuration is of another type than a class of transformers."""
    if files.folder is None:
        return
    stated = read_config(files.folder).get("model_type")
    wanted = {kind.config_class.model_type}
    # A tower's class reads its part of the whole model's configuration: "clip" for "clip_vision_model".
    wanted |= {name.removesuffix(end) for name in wanted for end in ("_vision_model", "_text_model", "_audio_model")}
    if stated not in wanted:
        raise WeightsInvalid(
            f"{files.folder}/config.json is of type {stated!r}; {spec.name} wants {sorted(wanted)[0]!r}"
        )


def config_hash(spec: EncoderSpec, files: WeightFiles) -> str:
    """Hash of what the configuration says about features; a GGUF file's is part of its tensors' hash."""
    if files.folder is None and not spec.config:
        return "gguf"
    config = spec.config if files.folder is None else _without_volatile(read_config(files.folder))
    return blake3(canonical(config)).hexdigest()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_volatile(inner) for name, inner in value.items() if name not in _VOLATILE}
    return value
