"""Loading of encoders: the card of an entry and its options, and the encoder ready to run."""

from pathlib import Path
from typing import TYPE_CHECKING

from featcache.encoders.card import Card, memo_path, narrow, read_card, write_card
from featcache.encoders.memory import keep_freed_memory
from featcache.encoders.spec import EncodeOptions, EncoderSpec
from featcache.encoders.weights import locate
from featcache.errors import WeightsInvalid

if TYPE_CHECKING:
    from featcache.encoders.encoder import Encoder


def describe(spec: EncoderSpec, options: EncodeOptions, *, memo: Path) -> Card:
    """What an encoder produces and what the digest binds of it.

    The first call loads the network. Its card is remembered under the path, size and modification time of every file,
    so that later calls import neither torch nor an encoder library, and take milliseconds.

    Args:
        spec: The encoder's entry.
        options: How to run it; device and compilation change no card.
        memo: Folder of what is remembered: cards, and the commits of first use.

    Raises:
        WeightsMissing: If weights or a library are not there; lists the ways to get them.
        WeightsInvalid: If they are not what the entry declares.
        UsageError: If the entry keeps a layer that the encoder does not have.
    """
    files = locate(spec, options, memo=memo)
    path = memo_path(spec, options, files, memo)
    card = read_card(path)
    if card is None:
        from dataclasses import replace

        from featcache.encoders.encoder import build

        card = build(spec, replace(options, device="cpu", compile=False), files).card
        write_card(path, card)
    return narrow(card, spec, options)


def load_encoder(spec: EncoderSpec, options: EncodeOptions, *, memo: Path) -> "Encoder":
    """An encoder, ready to run on the device of the options.

    On the CPU the process keeps freed memory from here on (`keep_freed_memory`).

    Raises:
        UsageError: If the device is not there, or as `describe`.
        WeightsMissing: As `describe`.
        WeightsInvalid: As `describe`, or if the weights changed since the card was made.
    """
    from featcache.encoders.encoder import build

    if options.device == "cpu":
        keep_freed_memory()
    files = locate(spec, options, memo=memo)
    path = memo_path(spec, options, files, memo)
    remembered = read_card(path)
    encoder = build(spec, options, files)
    if remembered is None:
        write_card(path, encoder.card)
    elif remembered.binds != encoder.card.binds:
        path.unlink(missing_ok=True)
        raise WeightsInvalid(
            f"the files of {spec.name} changed while their size and time stayed the same\n"
            f"  Files: {', '.join(str(file) for file in (*files.tensors, *files.settings))}\n"
            "  What was remembered of them is forgotten now: run the command again"
        )
    encoder.card = narrow(encoder.card, spec, options)
    return encoder
