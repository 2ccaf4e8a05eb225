"""Tokenizers that transformers has in Python alone, and fast ones whose class does more than they do."""

import json
from pathlib import Path
from typing import Any

import pytest

from featcache.encoders import EncodeOptions, describe, described, load_encoder
from featcache.errors import WeightsInvalid, WeightsMissing
from tests import families


def siglip_of_sentencepiece(folder: Path) -> Path:
    """SigLIP as the Hub has its first version, with spiece.model."""
    import sentencepiece

    families.siglip_repo(folder, words=80)
    (folder / "tokenizer.json").unlink()
    words = folder / "words.txt"
    words.write_text("\n".join(["a dog on the beach", "two old men and a red apple", "it is of the sea"] * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(folder / "spiece"), vocab_size=80, model_type="unigram", pad_id=-1,
        bos_id=-1, eos_id=1, unk_id=2, hard_vocab_limit=False, normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    stated = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 16, "eos_token": "</s>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


def test_a_tokenizer_in_python_alone_is_used_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from transformers import AutoTokenizer

    folder = siglip_of_sentencepiece(tmp_path / "siglip")
    (spec,) = described(f"hf:{folder}#text", memo=tmp_path)
    text = load_encoder(spec, EncodeOptions(), memo=tmp_path)
    slow: Any = AutoTokenizer.from_pretrained(folder)
    for caption in ("A DOG, on the beach!", "  the old  men", "sea"):
        assert text.prepare(caption).ids.tolist() == slow(caption).input_ids
    long = text.prepare("a dog on the beach " * 9)
    assert len(long.ids) == 16 and long.truncated and long.ids[-1] == slow.eos_token_id


class Changing:
    """What transformers would load: a tokenizer that changes a word before its fast form reads them."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer

        self.loaded: Any = AutoTokenizer.from_pretrained(folder)

    def __call__(self, text: str, **settings: Any) -> Any:
        return self.loaded(text.replace("red", "dog"), **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loaded, name)


def test_a_class_that_does_more_than_its_fast_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    folder = families.TEXT["bert"](tmp_path / "bert")
    (spec,) = described(f"hf:{folder}", memo=tmp_path)
    loaded = Changing(folder)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *args, **settings: loaded)
    with pytest.raises(WeightsInvalid, match="Changing of .* does more to a text than its fast tokenizer"):
        describe(spec, EncodeOptions(), memo=tmp_path)


def test_a_tokenizer_whose_library_is_not_installed_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def missing(*args: Any, **settings: Any) -> Any:
        raise ImportError("SiglipTokenizer requires the SentencePiece library but it was not found")

    folder = families.siglip_repo(tmp_path / "siglip")
    (spec,) = described(f"hf:{folder}#text", memo=tmp_path)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(WeightsMissing, match="Run: pip install --upgrade sentencepiece"):
        describe(spec, EncodeOptions(), memo=tmp_path)
