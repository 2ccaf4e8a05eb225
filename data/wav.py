"""WAV files of spoken digits: their bytes, decoded to a mono waveform of samples in [-1, 1).

Apart from `sound`, for it needs no library that has to be installed, and refuses what would be converted there.
"""

import io
import wave

import numpy as np
from jaxtyping import Float

from featcache.data.errors import DataInvalid

_BYTES = 2  # of a sample
_FULL_SCALE = 32_768


def decode_wav(content: bytes, *, rate: int) -> Float[np.ndarray, " samples"]:
    """A WAV file of one channel of 16-bit samples to its waveform, float32 in [-1, 1); nothing is converted.

    Args:
        content: The file.
        rate: Samples a second that it must have.

    Raises:
        DataInvalid: If it is no such file, of another rate, ends before its samples do, or has none.

    Example:
        >>> buffer = io.BytesIO()
        >>> with wave.open(buffer, "wb") as file:
        ...     file.setparams((1, 2, 8_000, 0, "NONE", ""))
        ...     file.writeframes(np.array([0, 16_384, -32_768], "<i2").tobytes())
        >>> decode_wav(buffer.getvalue(), rate=8_000).tolist()
        [0.0, 0.5, -1.0]
    """
    if not content:
        raise DataInvalid("an empty file, and no WAV")
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getparams()
            frames = file.readframes(form.nframes)
    except (wave.Error, EOFError, ValueError) as error:
        raise DataInvalid(f"not a whole WAV file of PCM samples ({len(content)} bytes): {error}") from error
    wanted = {"channels": (form.nchannels, 1), "bits a sample": (8 * form.sampwidth, 8 * _BYTES)}
    wanted["samples a second"] = (form.framerate, rate)
    odd = [f"{has} {what}, wanted {wants}" for what, (has, wants) in wanted.items() if has != wants]
    if odd:
        raise DataInvalid("; ".join(odd))
    if not form.nframes:
        raise DataInvalid("a WAV file without samples")
    if len(frames) < _BYTES * form.nframes:
        raise DataInvalid(f"cut off: it states {form.nframes} samples and holds {len(frames) // _BYTES}")
    return np.frombuffer(frames, "<i2").astype(np.float32) / _FULL_SCALE
