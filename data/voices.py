"""Voices that carry information by a known dose: tied to a label with that probability, else drawn at random.

Whatever the dose, each row's voice is any of `VARIANTS` with the same probability: doses differ in what the voice
depends on, and in nothing else. A draw is a hash of the seed and the row's id, so that it depends on no other row, and
a row that is tied at one dose is tied at every higher one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from blake3 import blake3

from featcache.data.speech import VARIANTS, Utterance, read_utterance
from featcache.data.views import View

LABEL = "voice"  # label column of `voice_label`
_DRAWS = 2**64


def voice_label(group: str) -> str:
    """A label that nothing else of a group tells: one of `VARIANTS`, uniform, the same for every seed and dose.

    Example:
        >>> voice_label("1F34E") == voice_label("1F34E"), voice_label("1F34E") in VARIANTS
        (True, True)
    """
    return _voice(_draw("label", group))


def class_voices(classes: Mapping[str, str], *, seed: int) -> dict[str, str]:
    """Voices that tell the class of each group, as far as every voice speaks for as many groups as any other.

    Groups stand in the order of their classes, and at random within a class; the first tenth of them has the first
    voice of a random order, and so on. So a class has voices in proportion to its size, and a voice has one class but
    where two classes meet.

    Args:
        classes: Group -> class.
        seed: Of both orders.

    Returns:
        Group -> one of `VARIANTS`; the counts of any two differ by one at most.
    """
    voices = sorted(VARIANTS, key=lambda voice: _draw("order", seed, voice))
    ordered = sorted(classes, key=lambda group: (classes[group], _draw("place", seed, group)))
    return {group: voices[place * len(voices) // len(ordered)] for place, group in enumerate(ordered)}


def dosed_voices(tied: Mapping[str, str], percent: int, *, seed: int) -> dict[str, str]:
    """The voice of each row at a dose: its tied one with that probability, else one that is drawn uniformly.

    Args:
        tied: Row id -> the voice that the row has where it is tied.
        percent: 0 to 100.
        seed: Of which rows are tied, and of the other voices.

    Returns:
        Row id -> one of `VARIANTS`.

    Example:
        >>> dosed_voices({"1F34E": "m1", "1F34F": "f2"}, 100, seed=0)
        {'1F34E': 'm1', '1F34F': 'f2'}
    """
    return {
        row: voice if 100 * _draw("tied", seed, row) < percent * _DRAWS else _voice(_draw("drawn", seed, row))
        for row, voice in tied.items()
    }


def spoken_by(view: View, voices: Mapping[str, str]) -> list[Utterance]:
    """The utterances of a view, each in its own language by another voice.

    Args:
        view: Of `featcache.data.speech.speech_view`.
        voices: Row id -> variant.
    """
    utterances = [read_utterance(view.content(row)) for row in range(len(view))]
    languages = [each.voice.partition("+")[0] for each in utterances]
    return [
        replace(each, voice=f"{language}+{voices[row_id]}")
        for each, language, row_id in zip(utterances, languages, view.ids, strict=True)
    ]


def tied_voices(view: View, classes: Mapping[str, str] | None, *, seed: int) -> dict[str, str]:
    """Row id -> the voice of its group: that of its class, or where there are no classes that of `voice_label`."""
    groups: Sequence[str] = tuple(dict.fromkeys(view.groups))
    if classes is None:
        of = {group: voice_label(group) for group in groups}
    else:
        of = class_voices({group: classes[group] for group in groups}, seed=seed)
    return {row_id: of[group] for row_id, group in zip(view.ids, view.groups, strict=True)}


def _voice(draw: int) -> str:
    return VARIANTS[draw * len(VARIANTS) // _DRAWS]


def _draw(*key: object) -> int:
    """A whole number from 0 to `_DRAWS` - 1, of a hash."""
    digest = blake3("\0".join(["featcache voices", *map(str, key)]).encode()).digest(length=8)
    return int.from_bytes(digest, "big")
