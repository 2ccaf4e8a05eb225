"""Entries of timm's networks, generated from the network itself and from the settings of a repository."""

from difflib import get_close_matches
from typing import Any

from featcache.encoder_ids import EncoderId
from featcache.encoders.families import find_family
from featcache.encoders.repository import Repository
from featcache.errors import NoTowers, UndescribedEncoder, UnknownEncoder, WeightsInvalid, WeightsMissing


def timm_repository(wanted: EncoderId) -> str:
    """The repository of a name of timm, such as "timm/resnet18.a1_in1k"; without a tag, of timm's own choice.

    Raises:
        UnknownEncoder: If timm has no weights of that name; lists the nearest.
        WeightsMissing: If timm is not installed.
    """
    timm = _timm(wanted)
    place = wanted.place.removeprefix("timm/")
    if "/" in place:
        return place
    try:
        config = timm.get_pretrained_cfg(place, allow_unregistered=False)
    except RuntimeError:  # no such network, or no such tag of it
        config = None
    if config is None:
        names: list[str] = timm.list_pretrained()
        near = [name for name in names if name.startswith(place)][:4] or get_close_matches(place, names, 4, 0.4)
        raise UnknownEncoder(
            f"timm {timm.__version__} has no weights of {place!r}\n"
            f"  Nearest: {', '.join(near) or 'none'}\n  Run: featcache encoders add timm:{(near or ['NAME'])[0]}"
        )
    tag = f".{config.tag}" if config.tag else ""
    named = f"timm/{config.architecture}{tag}"
    return named if config.hf_hub_id in (None, "timm/") else config.hf_hub_id


def describe_timm(repository: Repository, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of the entry of a repository.

    Args:
        repository: Its settings.
        config: Its config.json.

    Raises:
        UndescribedEncoder: If the network cannot be described without guessing.
        WeightsMissing: If timm is not installed.
        WeightsInvalid: If timm cannot build the network.
    """
    from featcache.encoders.vision import entry_of_settings, settings_from_timm

    if repository.id.tower in ("text", "audio"):
        raise NoTowers(f"timm has no encoders of {repository.id.tower}; leave out #{repository.id.tower}")
    timm = _timm(repository.id)
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UndescribedEncoder("its config.json names no architecture of timm")
    if not timm.is_model(architecture):
        raise UndescribedEncoder(f"timm {timm.__version__} has no {architecture}; a newer one may: pip install -U timm")
    pretrained = config.get("pretrained_cfg") or {}
    tagged = f"{architecture}.{pretrained.get('tag')}"
    arch = tagged if timm.models.is_model_pretrained(tagged) else architecture
    network = _network(timm, arch, config, repository)
    family = find_family("timm", type(network).__name__, network)
    fields = _of_tokens(network) if family.tokens else _of_maps(network)
    pixels = settings_from_timm({**network.pretrained_cfg, **pretrained})
    table = {
        "library": "timm",
        "modality": "image",
        "source": repository.source,
        "arch": arch,
        "blocks": family.blocks[0] if len(family.blocks) == 1 else family.blocks,
        **fields,
        "dtype": "float16",
        "preprocessing": entry_of_settings(pixels),
        "licence": repository.licence,
    }
    return [table]


def _timm(wanted: EncoderId) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise WeightsMissing(
            f"{wanted.text} needs {error.name}, which is not installed\n  Run: pip install 'featcache[encoders]'"
        ) from error
    return timm


def _network(timm: Any, arch: str, config: dict[str, Any], repository: Repository) -> Any:
    """The architecture, without memory for its tensors."""
    import torch

    sizes = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    arguments = {**sizes, **(config.get("model_args") or {})}
    try:
        with torch.device("meta"):
            return timm.create_model(arch, pretrained=False, **arguments)
    except (RuntimeError, TypeError) as error:
        raise WeightsInvalid(f"timm cannot build {arch} with {arguments} for {repository.id.text}: {error}") from error


def _of_tokens(network: Any) -> dict[str, Any]:
    """Of a network of tokens: its poolings, and its own vector of a photo where that is more than a pooling."""
    from torch import nn

    has_class = getattr(network, "cls_token", None) is not None
    own = {"token": "cls", "avg": "patch-mean"}.get(network.global_pool)
    attention = getattr(network, "attn_pool", None) is not None
    fc_norm = getattr(network, "fc_norm", None)
    fields: dict[str, Any] = {
        "last": "block" if isinstance(network.norm, nn.Identity) else "output",
        "pooling": [*(["cls"] if has_class else []), "patch-mean"],
        "prefix_tokens": int(network.num_prefix_tokens),
        "default": f"last.{own}" if own in ("cls", "patch-mean") else "last.patch-mean",
    }
    if attention:
        return {**fields, "embedding": {"projection": "attn_pool"}, "default": "last.embedding"}
    if own and fc_norm is not None and not isinstance(fc_norm, nn.Identity):
        return {**fields, "embedding": {"pooling": own, "projection": "fc_norm"}}
    return fields


def _of_maps(network: Any) -> dict[str, Any]:
    """Of a network of maps: whether something follows its last block."""
    from torch import nn

    behind = [getattr(network, name, nn.Identity()) for name in ("conv_head", "bn2", "norm_pre", "final_conv")]
    after = any(not isinstance(module, nn.Identity) for module in behind)
    return {"last": "output" if after else "block", "pooling": ["mean"], "default": "last.mean"}
