"""Frozen encoders as data: entries, options, cards, and the encoder that runs. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.encoders.by_id import described, described_again, encoders_of, fitting
    from featcache.encoders.card import Card
    from featcache.encoders.encoder import Encoder
    from featcache.encoders.load import describe, load_encoder
    from featcache.encoders.spec import (
        EncodeOptions,
        EncoderSpec,
        encoder_spec,
        encoder_specs,
        invalid_entries,
        user_encoders_path,
    )
    from featcache.encoders.user_file import add_entries, entry_toml

_WHERE = {
    "Card": "card",
    "EncodeOptions": "spec",
    "Encoder": "encoder",
    "EncoderSpec": "spec",
    "add_entries": "user_file",
    "describe": "load",
    "described": "by_id",
    "described_again": "by_id",
    "encoder_spec": "spec",
    "encoder_specs": "spec",
    "encoders_of": "by_id",
    "entry_toml": "user_file",
    "fitting": "by_id",
    "invalid_entries": "spec",
    "load_encoder": "load",
    "user_encoders_path": "spec",
}

__all__ = [
    "Card",
    "EncodeOptions",
    "Encoder",
    "EncoderSpec",
    "add_entries",
    "describe",
    "described",
    "described_again",
    "encoder_spec",
    "encoder_specs",
    "encoders_of",
    "entry_toml",
    "fitting",
    "invalid_entries",
    "load_encoder",
    "user_encoders_path",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
