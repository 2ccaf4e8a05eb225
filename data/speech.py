"""Speech that is synthesised from texts: waveforms at 16 kHz, and views of texts as one or many voices speak them.

A row's content is not the sound but what is spoken and how, in a few bytes of JSON, so that its hash binds both and no
file is kept; decoding it synthesises the waveform.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.espeak import RATE as RECORDED
from featcache.data.espeak import VERSION, require_espeak, speak
from featcache.data.views import View

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

RATE = 16_000  # samples a second of a waveform: networks for speech take 16 kHz
VOICE, SPEED, PITCH = "en-us", 175, 50  # espeak-ng's own speed, in words a minute, and the voice's own pitch
# Variants of voices, which go with any language, as in "de+david". Of espeak-ng's each was taken that is the farthest
# from those before by embeddings of speakers: of eight texts each, the nearest other voice stands at a cosine of .73.
VARIANTS = ("m3", "f2", "david", "iven2", "steph3", "Marco", "anika", "Alicia", "Hugo", "Jacky")
# Silence is not trimmed: espeak-ng puts none before a text, and some milliseconds behind it.
DECODING = MappingProxyType(
    {"synthesiser": f"espeak-ng {VERSION}", "recorded": RECORDED, "rate": RATE, "resampling": "soxr HQ"}
)
_FIELDS = {"text": str, "voice": str, "speed": int, "pitch": int}


@dataclass(frozen=True)
class Utterance:
    """A text and how it is spoken.

    Args:
        text: What is spoken.
        voice: As `featcache.data.espeak.speak`.
        speed: Words a minute, 80 to 450.
        pitch: 0 to 99, 50 for the voice's own.
    """

    text: str
    voice: str = VOICE
    speed: int = SPEED
    pitch: int = PITCH

    @property
    def content(self) -> bytes:
        """Its one form as bytes: JSON with sorted keys and no spaces, in UTF-8.

        Example:
            >>> Utterance("red apple").content
            b'{"pitch":50,"speed":175,"text":"red apple","voice":"en-us"}'
        """
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def read_utterance(content: bytes) -> Utterance:
    """The utterance of a row's content.

    Raises:
        DataInvalid: If the bytes are no utterance's.

    Example:
        >>> read_utterance(Utterance("red apple", "en-us+f3").content).voice
        'en-us+f3'
    """
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DataInvalid(f"no utterance: {error}") from error
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != _FIELDS:
        raise DataInvalid(f"no utterance: wanted JSON with {', '.join(_FIELDS)}, got {content[:60]!r}")
    return Utterance(**fields)


def synthesise(utterance: Utterance) -> "Float[np.ndarray, ' samples']":
    """The waveform of an utterance: the same samples in every process and thread, whatever was spoken before.

    Returns:
        [samples] float32 at 16 kHz, one channel, in [-1, 1] but for the ripple of resampling; as loud as the voice is.

    Raises:
        DataMissing: If espeak-ng or soxr is not installed.
        DataInvalid: As `featcache.data.espeak.speak`.
    """
    import numpy as np

    spoken = speak(utterance.text, utterance.voice, speed=utterance.speed, pitch=utterance.pitch)
    return _resampled(np.frombuffer(spoken, np.int16).astype(np.float32) / 2**15)


def decode_speech(content: bytes) -> "Float[np.ndarray, ' samples']":
    """The waveform of a row's content; errors as `read_utterance` and `synthesise`."""
    return synthesise(read_utterance(content))


def require_speech() -> None:
    """Checks that what synthesises speech is installed; DataMissing, with the command that installs it, if not."""
    import numpy as np

    require_espeak()
    _resampled(np.zeros(RECORDED // 100, np.float32))


def is_spoken(view: View) -> bool:
    """Whether a view's rows are utterances, so that its voices may be chosen."""
    return view.decode is decode_speech


def is_speakable(text: str) -> bool:
    """Whether a text holds something to be spoken: a letter or a digit.

    Example:
        >>> is_speakable("1st place"), is_speakable("!?")
        (True, False)
    """
    return any(letter.isalnum() for letter in text)


def speech_view(name: str, ids: Sequence[str], groups: Sequence[str], utterances: Sequence[Utterance]) -> View:
    """A view of utterances held in memory; rows without a letter or digit are left out, and nothing is synthesised yet.

    Args:
        name: Of the view.
        ids: [n] as of `View`.
        groups: [n] as of `View`.
        utterances: [n] what is spoken.

    Raises:
        DataInvalid: If no row is left.
    """
    rows = [row for row in zip(ids, groups, utterances, strict=True) if is_speakable(row[2].text)]
    kept = tuple(utterance for _, _, utterance in rows)
    return View(
        name=name,
        modality="audio",
        ids=tuple(row_id for row_id, _, _ in rows),
        groups=tuple(group for _, group, _ in rows),
        content=lambda row: kept[row].content,
        decode=decode_speech,
        decoding=dict(DECODING),
    )


def _resampled(samples: "Float[np.ndarray, ' recorded']") -> "Float[np.ndarray, ' samples']":
    try:
        import soxr
    except ImportError as error:
        raise DataMissing(
            "soxr, which resamples speech, is not installed\n  Run: pip install 'featcache[speech]'"
        ) from error
    return soxr.resample(samples, RECORDED, RATE, quality="HQ")
