"""Frozen encoders as data: entries, options, cards, and the encoder that runs. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.encoders.card import Card
    from featcache.encoders.encoder import Encoder
    from featcache.encoders.load import describe, load_encoder
    from featcache.encoders.spec import EncodeOptions, EncoderSpec, encoder_spec, encoder_specs, user_encoders_path

_WHERE = {
    "Card": "card",
    "EncodeOptions": "spec",
    "Encoder": "encoder",
    "EncoderSpec": "spec",
    "describe": "load",
    "encoder_spec": "spec",
    "encoder_specs": "spec",
    "load_encoder": "load",
    "user_encoders_path": "spec",
}

__all__ = [
    "Card",
    "EncodeOptions",
    "Encoder",
    "EncoderSpec",
    "describe",
    "encoder_spec",
    "encoder_specs",
    "load_encoder",
    "user_encoders_path",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
