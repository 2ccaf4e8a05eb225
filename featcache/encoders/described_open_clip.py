"""Entries of the two towers of a network of open_clip, generated from a repository's open_clip_config.json."""

from difflib import get_close_matches
from typing import Any

from featcache.encoder_ids import EncoderId
from featcache.encoders.open_clip_towers import build_pair
from featcache.encoders.repository import Repository
from featcache.errors import NoTowers, UndescribedEncoder, UnknownEncoder, WeightsMissing

_SQUASHED = {"shortest": False, "squash": True}  # resize_mode -> whether both edges are resized


def open_clip_repository(wanted: EncoderId) -> str:
    """The repository of an architecture and the tag of its weights; of a repository's name, itself.

    Raises:
        UnknownEncoder: If open_clip has no such weights; lists the nearest.
        UndescribedEncoder: If they are in no repository of the Hub.
        WeightsMissing: If open_clip is not installed.
    """
    _require(wanted)
    import open_clip

    architecture, _, tag = wanted.place.partition("/")
    if architecture not in open_clip.list_models():
        if "/" in wanted.place:
            return wanted.place
        known = open_clip.list_models()
    else:
        known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known or architecture not in open_clip.list_models():
        near = get_close_matches(tag or architecture, known, n=4, cutoff=0.1)
        lacking = f"weights {tag!r} of {architecture}" if tag else f"{architecture!r} with a tag of its weights"
        raise UnknownEncoder(
            f"open_clip {open_clip.__version__} has no {lacking}\n  Nearest: {', '.join(near) or 'none'}\n"
            "  An id is open_clip:ARCHITECTURE/TAG, as in open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    repository = (open_clip.get_pretrained_cfg(architecture, tag) or {}).get("hf_hub", "").strip("/")
    if not repository:
        raise UndescribedEncoder("its weights are in no repository of the Hub, but at an address of their own")
    return repository


def describe_open_clip(repository: Repository, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of the entries of a repository, one a tower.

    Args:
        repository: Its settings.
        config: Its open_clip_config.json.

    Raises:
        UndescribedEncoder: If a tower cannot be described without guessing.
        WeightsMissing: If open_clip is not installed.
        WeightsInvalid: If open_clip cannot build the network.
    """
    _require(repository.id)
    if repository.id.tower == "audio":
        raise NoTowers("open_clip has no encoders of audio; leave out #audio")
    network = build_pair(repository.folder, device="meta")
    towers = {"image": _image_fields, "text": _text_fields}
    return [
        {
            "library": "open_clip",
            "modality": modality,
            "source": repository.source,
            **fields(network, config),
            "dtype": "float16",
            "licence": repository.licence,
        }
        for modality, fields in towers.items()
        if repository.id.tower in (None, modality)
    ]


def _require(wanted: EncoderId) -> None:
    from importlib.util import find_spec

    if find_spec("open_clip") is None:
        raise WeightsMissing(
            f"{wanted.text} needs open_clip, which is not installed\n  Run: pip install 'featcache[open-clip]'"
        )


def _image_fields(network: Any, config: dict[str, Any]) -> dict[str, Any]:
    from open_clip.transformer import VisionTransformer

    tower = network.visual
    if not isinstance(tower, VisionTransformer):
        raise UndescribedEncoder(
            f"its image tower is a {type(tower).__name__}, and only open_clip's own VisionTransformer is described; "
            "take #text, or the tower by hf: or timm:"
        )
    if tower.pool_type != "tok" or tower.attn_pool is not None:
        raise UndescribedEncoder(f"its image tower pools by {'attention' if tower.attn_pool else tower.pool_type}")
    return {
        "blocks": "visual.transformer.resblocks",
        "last": "output",
        "final_norm": "visual.ln_post",
        "pooling": ["cls", "patch-mean"],
        "prefix_tokens": 1,
        "embedding": {"pooling": "cls", "projection": "visual.proj"},
        "default": "last.embedding",
        "preprocessing": _pixels(tower, config.get("preprocess_cfg") or {}),
    }


def _pixels(tower: Any, stated: dict[str, Any]) -> dict[str, Any]:
    from open_clip.transform import PreprocessCfg

    settings = PreprocessCfg(**{name: value for name, value in stated.items() if name != "size"})
    height, width = tower.image_size
    squashed = _SQUASHED.get(settings.resize_mode)
    if squashed is None or (height != width and not squashed):
        raise UndescribedEncoder(f"its photos are resized by their {settings.resize_mode} edge to {height} × {width}")
    return {
        "resize": (height, width) if squashed else height,
        "crop": height if height == width else (height, width),
        "interpolation": settings.interpolation,
        "mean": settings.mean,
        "std": settings.std,
    }


def _text_fields(network: Any, config: dict[str, Any]) -> dict[str, Any]:
    from open_clip.transformer import TextTransformer

    tower = getattr(network, "text", network)  # CLIP's own parts, or a tower apart
    settings = (config.get("model_cfg") or {}).get("text_cfg") or {}
    if settings.get("hf_tokenizer_name") or settings.get("tokenizer_kwargs"):
        raise UndescribedEncoder("its text tower has a tokenizer of its own; take #image, or the tower by hf:")
    if tower is not network and not isinstance(tower, TextTransformer):
        raise UndescribedEncoder(f"its text tower is a {type(tower).__name__}; take #image")
    pooling = tower.text_pool_type if tower is network else tower.pool_type
    if pooling != "argmax" or getattr(tower, "cls_emb", None) is not None:
        raise UndescribedEncoder(f"its text tower pools by {pooling}, and not at the end token; take #image")
    before = "" if tower is network else "text."
    return {
        "blocks": f"{before}transformer.resblocks",
        "last": "output",
        "final_norm": f"{before}ln_final",
        "pooling": ["last-token", "mean"],
        "embedding": {"pooling": "last-token", "projection": f"{before}text_projection"},
        "default": "last.embedding",
        "max_tokens": int(tower.context_length),
    }
