"""Entries of transformers' networks, generated from the settings of a repository."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from featcache.encoders.described_sentences import sentence_fields
from featcache.encoders.families import Family, find_family
from featcache.encoders.repository import Repository
from featcache.errors import NoTowers, UndescribedEncoder, WeightsInvalid, WeightsMissing

_MOST_TOKENS = 1024  # of a row: captions are shorter, and attention over a whole context would need small batches
_STATED = 1_000_000  # a tokenizer's length above it is transformers' way to say that it has none


def describe_transformers(repository: Repository, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of the entries of a repository, one a tower.

    Args:
        repository: Its settings.
        config: Its config.json.

    Raises:
        UndescribedEncoder: If the network cannot be described without guessing.
        WeightsMissing: If transformers is not installed, or is too old for the network.
        WeightsInvalid: If its settings cannot be read.
    """
    settings = _read_settings(repository, config)
    family = find_family("transformers", settings.model_type, settings)
    if not family.towers:
        if repository.id.tower is not None:
            raise NoTowers(f"a {settings.model_type} has no towers; leave out #{repository.id.tower}")
        return [_described(repository, config, settings, family)]
    tables: list[dict[str, Any]] = []
    for tower in family.towers:
        part = getattr(settings, tower)
        of_tower = find_family("transformers", part.model_type, part)
        if repository.id.tower not in (None, of_tower.fields["modality"]):
            continue
        if getattr(part, "projection_dim", None) != getattr(settings, "projection_dim", None):
            of_tower = _without_projection(of_tower)  # the tower's class would look for one of another size
        tables.append(_described(repository, config, part, of_tower))
    if not tables:
        raise NoTowers(
            f"a {settings.model_type} has no tower of {repository.id.tower}; leave out #{repository.id.tower}"
        )
    return tables


def _without_projection(family: Family) -> Family:
    fields = {name: value for name, value in family.fields.items() if name != "embedding"}
    return replace(family, fields={**fields, "model": fields["model"].removesuffix("WithProjection")})


def _read_settings(repository: Repository, config: dict[str, Any]) -> Any:
    """The configuration with the defaults of its class."""
    try:
        from transformers import CONFIG_MAPPING
    except ModuleNotFoundError as error:
        raise WeightsMissing(
            f"{repository.id.text} needs {error.name}, which is not installed\n  Run: pip install 'featcache[encoders]'"
        ) from error
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        own = "it runs code of its repository, which featcache never does"
        newer = "the installed transformers does not have it; a newer one may: pip install --upgrade transformers"
        raise UndescribedEncoder(f"of the type {kind!r}, {own if 'auto_map' in config else newer}")
    if "quantization_config" in config:
        raise UndescribedEncoder(
            "its weights are quantised (quantization_config), and features would depend on the kernel; "
            "take the repository that it was made from"
        )
    try:
        find_family("transformers", kind, None)  # first whether there is one at all
    except UndescribedEncoder as error:
        raise UndescribedEncoder(f"{error}{_what_there_is(repository)}") from None
    try:
        return CONFIG_MAPPING[kind].from_pretrained(repository.folder, local_files_only=True)
    except Exception as error:  # whatever a class makes of settings that anybody may have written
        raise WeightsInvalid(f"{repository.folder}/config.json cannot be read as {kind!r}: {error}") from error


def _what_there_is(repository: Repository) -> str:
    """The class that transformers has for a repository and its lists of modules, for who declares it; "" for none."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModel

    try:
        settings = AutoConfig.from_pretrained(repository.folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModel.from_config(settings, trust_remote_code=False)
    except Exception:  # whatever a class makes of settings that it was not asked to describe
        return ""
    lists = [name for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    return f"\n  Its class is {type(network).__name__}, and its lists of modules are {', '.join(lists[:4]) or 'none'}"


def _described(repository: Repository, config: dict[str, Any], settings: Any, family: Family) -> dict[str, Any]:
    fields = {**family.fields, **_of_class(config, family)}
    kind = _class(fields["model"])
    fields["attention"] = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    try:
        fields["blocks"] = _blocks(kind, settings, family, fields)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise WeightsInvalid(
            f"{fields['model']} cannot be built of {repository.folder}/config.json: {error}"
        ) from error
    of_modality = {"text": _of_text, "image": _of_image, "audio": _of_audio}[fields["modality"]]
    fields |= of_modality(repository, settings, family, fields)
    return {"library": "transformers", "source": repository.source, **fields, "licence": repository.licence}


def _of_class(config: dict[str, Any], family: Family) -> dict[str, Any]:
    """The language model with its head where the repository was saved with one; else the network below it."""
    if family.base is None:
        return {}
    with_head = family.fields["model"] in (config.get("architectures") or ())
    return {"bits_per_byte": True} if with_head else {"model": family.base}


def _class(name: str) -> Any:
    import transformers

    from featcache.encoders.modules import network_class

    kind = network_class(name)
    if kind is None:
        raise WeightsMissing(
            f"transformers {transformers.__version__} has no {name}\n  Run: pip install --upgrade transformers"
        )
    return kind


def _blocks(kind: Any, settings: Any, family: Family, fields: dict[str, Any]) -> str:
    """The first of the family's paths that the installed library's network has; the network takes no memory."""
    import torch
    from torch import nn

    with torch.device("meta"):
        network = kind(settings, **fields.get("model_args", {}))
    modules = dict(network.named_modules())
    for path in family.blocks:
        ends = [module for name, module in modules.items() if name == path or name.endswith(f".{path}")]
        if len(ends) == 1 and isinstance(ends[0], nn.ModuleList):
            return path
    raise UndescribedEncoder(
        f"the installed transformers keeps the blocks of {kind.__name__} at none of {family.blocks}"
    )


# --- text -------------------------------------------------------------------------------------------------------


def _of_text(repository: Repository, settings: Any, family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    lengths = list(_lengths(repository, settings, family))
    text: dict[str, Any] = {"max_tokens": min([_MOST_TOKENS, *lengths])}
    if family.padded:
        text["pad_to"] = text["max_tokens"]
    modules = repository.read_json("modules.json")
    if modules is None:
        return text
    return text | sentence_fields(repository, modules, fields, text["max_tokens"], base=family.base)


def _lengths(repository: Repository, settings: Any, family: Family) -> Iterator[int]:
    """What limits the tokens of a text: positions that were trained, and what the tokenizer states."""
    positions = getattr(settings, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        yield positions - family.offset
    stated = (repository.read_json("tokenizer_config.json") or {}).get("model_max_length")
    if isinstance(stated, int) and 0 < stated < _STATED:
        yield stated


# --- images and audio -------------------------------------------------------------------------------------------


def _of_image(repository: Repository, settings: Any, family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    from featcache.encoders.vision import entry_of_settings, settings_from_transformers

    if not (repository.folder / "preprocessor_config.json").is_file():
        raise UndescribedEncoder("it has no preprocessor_config.json, which says what is done to a photo; declare it")
    image: dict[str, Any] = {"preprocessing": entry_of_settings(settings_from_transformers(repository.folder))}
    if "patch-mean" in fields["pooling"]:
        registers = int(getattr(settings, "num_register_tokens", 0) or 0)
        image["prefix_tokens"] = 1 + registers if family.prefix_tokens is None else family.prefix_tokens
    return image


def _of_audio(repository: Repository, settings: Any, family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    stated = repository.read_json("preprocessor_config.json") or {}
    if "sound" in fields:
        return _of_spectrograms(stated, fields["sound"]["features"])
    if not {"sampling_rate", "do_normalize"} <= stated.keys():
        raise UndescribedEncoder("its preprocessor_config.json does not state sampling_rate and do_normalize")
    return {}


# What preprocessor_config.json has to state for features that featcache computes.
_SPECTROGRAMS: dict[str, dict[str, Any]] = {
    "whisper": {"sampling_rate": 16_000, "n_fft": 400, "hop_length": 160},
    "clap": {"feature_extractor_type": "ClapFeatureExtractor"},
}


def _of_spectrograms(stated: dict[str, Any], features: str) -> dict[str, Any]:
    unlike = [name for name, value in _SPECTROGRAMS[features].items() if stated.get(name) != value]
    if unlike:
        wanted = ", ".join(f"{name} {_SPECTROGRAMS[features][name]}" for name in unlike)
        raise UndescribedEncoder(f"its preprocessor_config.json does not state {wanted}, as {features} has them")
    return {}
