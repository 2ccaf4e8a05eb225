"""espeak-ng by ctypes: one text to the samples that one voice speaks, the same ones in every process and thread.

The library of PyPI's espeakng-loader holds its state in globals, and what it spoke last changes what it speaks next:
phases of its oscillators go on, even past espeak_Terminate. So every text is spoken by a library that was loaded for it
and is unloaded behind it, which takes 4 ms and leaves 2 kB that the library does not give back.
"""

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from featcache.data.errors import DataInvalid, DataMissing

VERSION = "1.52.0"  # the one release whose voices the roots of views stand for
RATE = 22_050  # samples a second of all its voices
SPEEDS, PITCHES = range(80, 451), range(0, 100)  # words a minute; around the voice's own pitch, which is 50
LONGEST = 60  # seconds that are spoken of one text
LONGEST_TEXT = 4_000  # characters
_INSTALL = "Run: pip install 'featcache[speech]'"
_SEED = 1  # of the noise in consonants and of flutter
# espeak-ng/speak_lib.h
_RETRIEVAL_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: no thread, samples go to the callback
_NO_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: a missing folder of data is an error code
_UTF8, _BY_CHARACTER = 1, 1  # espeakCHARS_UTF8, POS_CHARACTER
_SPEED, _PITCH = 1, 3  # espeakRATE, espeakPITCH
_GO_ON, _STOP = 0, 1  # results of the callback
_VOICE = re.compile(r"(?P<language>[A-Za-z0-9-]+)(?:\+(?P<variant>[A-Za-z0-9]+))?")
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


def _new_lock() -> None:
    """A thread that held the lock when a process forked is not in the child."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


class _Files(NamedTuple):
    library: Path
    data: Path


def require_espeak() -> None:
    """Checks that espeak-ng is installed in the release that views are of.

    Raises:
        DataMissing: If it is not installed.
        DataInvalid: If it is another release.
    """
    with _lock, _loaded(_files()):
        pass


def speak(text: str, voice: str, *, speed: int, pitch: int) -> bytes:
    """What a voice speaks of a text.

    Args:
        text: Not empty, without control characters; SSML and phonemes in it are read as text.
        voice: "LANGUAGE" or "LANGUAGE+VARIANT", as in "en-us+f3"; `languages` and `variants` list them.
        speed: Words a minute, of `SPEEDS`.
        pitch: 0 to 99, 50 for the voice's own.

    Returns:
        Samples at `RATE`, 16 bits each in the order of this machine, of one channel.

    Raises:
        DataMissing: If espeak-ng is not installed.
        DataInvalid: If there is no such voice, the text is none that can be spoken, or lasts more than `LONGEST`.
    """
    _check(text, speed, pitch)
    files = _files()
    _check_voice(voice, files.data)
    with _lock, _loaded(files) as library:
        return _spoken(library, text, voice, speed, pitch)


@cache
def languages() -> tuple[str, ...]:
    """The languages and accents that espeak-ng speaks, as in "en-us"; DataMissing if it is not installed."""
    folder = _files().data
    files = [path for path in (folder / "lang").rglob("*") if path.is_file()]
    return tuple(sorted(path.name.lower() for path in files if (folder / f"{_dictionary(path)}_dict").is_file()))


@cache
def variants() -> tuple[str, ...]:
    """The variants that any language may be spoken in, as in "f3"; DataMissing if espeak-ng is not installed."""
    names = (path.name for path in (_files().data / "voices" / "!v").iterdir())
    return tuple(sorted(name for name in names if name.isalnum()))


def _dictionary(language: Path) -> str:
    """The dictionary of pronunciations that a language's file names, else the one called as the language."""
    stated: dict[str, str] = {}
    for line in language.read_text("utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) > 1:
            stated.setdefault(words[0], words[1])
    return stated.get("dictionary") or stated.get("language", language.name).partition("-")[0]


def _files() -> _Files:
    try:
        import espeakng_loader

        files = _Files(Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path()))
    except (ImportError, RuntimeError) as error:
        raise DataMissing(f"espeak-ng, which synthesises speech, is not installed: {error}\n  {_INSTALL}") from error
    if not files.library.is_file():
        raise DataMissing(f"espeak-ng, which synthesises speech, is not at {files.library}\n  {_INSTALL}")
    return files


def _check(text: str, speed: int, pitch: int) -> None:
    if not text.strip() or any(ord(letter) < 32 for letter in text):
        raise DataInvalid(f"{text[:40]!r} is no text to speak: it is empty or holds control characters")
    if len(text) > LONGEST_TEXT:
        raise DataInvalid(f"a text of {len(text):,} characters; no more than {LONGEST_TEXT:,} are spoken")
    if speed not in SPEEDS:
        raise DataInvalid(f"a speed of {speed}: wanted {SPEEDS[0]} to {SPEEDS[-1]} words a minute")
    if pitch not in PITCHES:
        raise DataInvalid(f"a pitch of {pitch}: wanted {PITCHES[0]} to {PITCHES[-1]}")


def _check_voice(voice: str, data: Path) -> None:
    """espeak-ng itself takes a variant that there is not for none."""
    match = _VOICE.fullmatch(voice)
    if match is None:
        raise DataInvalid(f"{voice!r} is no voice: wanted LANGUAGE or LANGUAGE+VARIANT, as in en-us or en-us+f3")
    for what, name, known in (("language", match["language"], languages()), ("variant", match["variant"], variants())):
        if name is not None and name not in known:
            near = get_close_matches(name, known, n=1)
            nearest = f"; did you mean {near[0]}?" if near else ""
            raise DataInvalid(
                f"espeak-ng has no {what} {name!r}, of the voice {voice!r}{nearest}\n"
                f"  It has {', '.join(known[:: max(1, len(known) // 20)])} and more; all are in {data}"
            )


@contextmanager
def _loaded(files: _Files) -> Iterator[Any]:
    """The library in its initial state; unloaded at the end, so that the next one is too."""
    with _own_copy(files.library) as path:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise DataMissing(f"espeak-ng cannot be loaded: {error}\n  {_INSTALL}") from error
        try:
            if library.espeak_Initialize(_RETRIEVAL_SYNCHRONOUS, 0, os.fsencode(files.data), _NO_EXIT) != RATE:
                raise DataMissing(f"espeak-ng does not start with its data in {files.data}\n  {_INSTALL}")
            library.espeak_Info.restype = ctypes.c_char_p
            if (release := library.espeak_Info(None).decode()) != VERSION:
                raise DataInvalid(f"espeak-ng {release} is installed, but views are of {VERSION}\n  {_INSTALL}")
            yield library
            library.espeak_Terminate()
        finally:
            _unload(library)


@contextmanager
def _own_copy(library: Path) -> Iterator[Path]:
    """The library's file, or a copy where another part of the process, or a process that it forked from, has it loaded.

    One file is one library with one state, however often it is loaded.
    """
    try:
        other = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:  # is not loaded
        yield library
        return
    _unload(other)
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="featcache-espeak-") as folder:
        yield Path(shutil.copy(library, folder))


def _unload(library: Any) -> None:
    _dlclose()(library._handle)


@cache
def _dlclose() -> Any:
    close = ctypes.CDLL(None).dlclose
    close.argtypes = (ctypes.c_void_p,)
    return close


def _spoken(library: Any, text: str, voice: str, speed: int, pitch: int) -> bytes:
    parts: list[bytes] = []
    length = 0

    @_CALLBACK
    def on_samples(samples: int | None, count: int, _: int | None) -> int:
        nonlocal length
        if samples and count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
            length += count
        return _STOP if length > LONGEST * RATE else _GO_ON

    library.espeak_SetSynthCallback(on_samples)
    library.espeak_ng_SetRandSeed(ctypes.c_long(_SEED))
    failed = library.espeak_SetVoiceByName(voice.encode())
    failed = failed or library.espeak_SetParameter(_SPEED, speed, 0) or library.espeak_SetParameter(_PITCH, pitch, 0)
    content = text.encode("utf-8")
    size = ctypes.c_size_t(len(content) + 1)
    failed = failed or library.espeak_Synth(content, size, 0, _BY_CHARACTER, 0, _UTF8, None, None)
    if failed:
        raise DataInvalid(f"espeak-ng failed with code {failed} over {text[:40]!r} in the voice {voice}")
    if length > LONGEST * RATE:
        raise DataInvalid(f"{text[:40]!r} takes more than {LONGEST} seconds to speak; shorten it, or raise the speed")
    samples = b"".join(parts)
    if not any(samples):
        raise DataInvalid(f"the voice {voice} has no sound for {text[:40]!r}")
    return samples
