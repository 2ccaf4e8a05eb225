"""Encoders by id: what a generated entry gives is what the library itself gives, layer by layer."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, describe, described, encoder_spec, load_encoder
from featcache.encoders.families import described_kinds
from featcache.errors import UndescribedEncoder, WeightsInvalid, WeightsMissing
from tests import families, hub
from tests.test_encoders_features import BUILDERS, close, photo

CAPTIONS = ["a dog", "Two men on the beach", "a", "the dog the dog and the old men on the beach of the two dog men"]
EVERY: dict[str, Callable[[Path], Path]] = {**families.TEXT, **families.IMAGE, **families.AUDIO, **families.PAIRS}


class Made:
    """Repositories, entries and encoders of families, each made when first asked for."""

    def __init__(self, home: Path):
        self.home = home
        self._made: dict[str, list[Encoder]] = {}
        self._specs: dict[str, list[EncoderSpec]] = {}

    def folder(self, family: str) -> Path:
        folder = self.home / family.replace(" ", "-")
        return folder if folder.is_dir() else EVERY[family](folder)

    def specs(self, family: str) -> list[EncoderSpec]:
        if family not in self._specs:
            self._specs[family] = described(f"hf:{self.folder(family)}", memo=self.home / "memo")
        return self._specs[family]

    def encoders(self, family: str) -> list[Encoder]:
        if family not in self._made:
            memo = self.home / "memo"
            self._made[family] = [load_encoder(spec, EncodeOptions(), memo=memo) for spec in self.specs(family)]
        return self._made[family]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("families"))


def rows(encoder: Encoder) -> list[Any]:
    items: dict[str, list[Any]] = {
        "text": CAPTIONS,
        "image": [photo(50, 41, 1), photo(33, 64, 2)],
        "audio": [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (5000, 7000)],
    }
    return [encoder.prepare(item) for item in items[encoder.card.modality]]


def library_states(folder: Path, spec: EncoderSpec, inputs: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """The network that the library itself chooses for a repository, and what it gives for one row."""
    import transformers

    kind: Any = transformers.AutoModel
    if spec.part:  # a part of what AutoModel makes
        plain = getattr(kind.from_pretrained(folder, dtype=torch.float32).eval(), spec.part)
        with torch.no_grad():
            return plain, plain(**inputs, output_hidden_states=True)
    if "Encoder" in str(spec.model) or folder.name in families.PAIRS:  # what AutoModel makes of these has two parts
        kind = getattr(transformers, str(spec.model))
    plain = kind.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return plain, plain(**inputs, output_hidden_states=True)


def pooled(hidden: torch.Tensor, prefix: int) -> dict[str, torch.Tensor]:
    """Every pooling of one row's states, [t, d] or [d, h, w], written out."""
    if hidden.ndim == 3:
        return {"mean": hidden.mean((1, 2))}
    means = {"mean": hidden.mean(0), "patch-mean": hidden[prefix:].mean(0)}
    return {**means, "cls": hidden[0], "last-token": hidden[-1]}


# --- against the library ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EVERY)
def test_features_are_the_librarys_own_for_every_layer_and_pooling(made: Made, family: str) -> None:
    for spec, encoder in zip(made.specs(family), made.encoders(family), strict=True):
        for row in rows(encoder):
            ((_, inputs, positions),) = encoder._preprocessor.batches([row], "cpu")
            given = dict(inputs)
            given.pop("attention_mask", None)
            plain, output = library_states(made.folder(family), spec, given)
            features = encoder.encode([row], list(encoder.card.widths))
            layers = {layer.rpartition(".")[0] for layer in features} - {"lm"}
            real = slice(None) if positions.mask is None else positions.mask[0]
            states = {str(number): state[0][real] for number, state in enumerate(output.hidden_states)}
            blocks = len(output.hidden_states) - 1
            last = states[str(blocks)] if spec.last == "block" else output.last_hidden_state[0][real]
            states["last"] = plain.vision_model.post_layernorm(last) if spec.final_norm else last
            if spec.last == "output" and not normed_apart(plain, output):
                del states[str(blocks)]  # transformers gives the normed states in the place of the last block's
            assert layers >= states.keys() - ({str(blocks)} if spec.last == "block" else set())
            for layer in layers & states.keys():
                for pooling, wanted in pooled(states[layer], spec.prefix_tokens or 0).items():
                    if pooling in spec.pooling:
                        close(features[f"{layer}.{pooling}"][0], wanted)
            if spec.embedding:
                names = ("image_embeds", "audio_embeds", "text_embeds", "pooler_output")
                own = next(value for name in names if (value := getattr(output, name, None)) is not None)
                close(features["last.embedding"][0], own.flatten())


def normed_apart(plain: Any, output: Any) -> bool:
    """Whether transformers' last hidden state is not what `last_hidden_state` is."""
    return not torch.equal(output.hidden_states[-1], output.last_hidden_state)


@pytest.mark.parametrize("family", EVERY)
def test_a_row_has_the_same_features_alone_and_padded_among_others(made: Made, family: str) -> None:
    for encoder in made.encoders(family):
        layers = list(encoder.card.widths)
        together = encoder.encode(rows(encoder), layers)
        for number, row in enumerate(rows(encoder)):
            alone = encoder.encode([row], layers)
            for layer in layers:
                close(alone[layer][0], together[layer][number])


def test_every_family_that_is_described_is_tested() -> None:
    of_towers = {"clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model"}
    of_towers |= {"clap_audio_model", "clap_text_model"}
    assert set(described_kinds("transformers")) - of_towers == {family.partition(" ")[0] for family in EVERY}


# --- timm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.TIMM)
def test_timms_features_are_those_of_timms_own_forward(tmp_path: Path, family: str) -> None:
    import timm

    architecture, arguments = families.TIMM[family]
    size = 28 if "img_size" in arguments else 64
    folder = hub.timm_repo(tmp_path / "timm", architecture, size=size, **arguments)
    (spec,) = described(f"timm:{folder}", memo=tmp_path / "memo")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    plain: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(plain).__name__ == family.partition(" ")[0]
    for row in rows(encoder):
        ((_, inputs, _),) = encoder._preprocessor.batches([row], "cpu")
        with torch.no_grad():
            last = plain.forward_features(inputs["pixel_values"])
            own = plain.forward_head(last, pre_logits=True)
            states = plain.forward_intermediates(inputs["pixel_values"], intermediates_only=True)
        features = encoder.encode([row], list(encoder.card.widths))
        prefix = int(getattr(plain, "num_prefix_tokens", 0))
        for pooling, wanted in pooled(last[0], prefix).items():
            if pooling in spec.pooling:
                close(features[f"last.{pooling}"][0], wanted)
        blocks = len(encoder._backbone.blocks)
        for number, state in enumerate(states[-blocks:], start=1):  # [1, d, h, w] of the patches, or of the map
            if len(states) >= blocks and f"{number}.{spec.pooling[-1]}" in features:
                close(features[f"{number}.{spec.pooling[-1]}"][0], state[0].mean((1, 2)))
        if family not in ("ConvNeXt", "EfficientNet", "VisionTransformerDistilled"):  # their heads do more than to pool
            close(features[spec.default if spec.embedding is None else "last.embedding"], own)


def test_every_family_of_timm_that_is_described_is_tested() -> None:
    assert set(described_kinds("timm")) == {family.partition(" ")[0] for family in families.TIMM}


# --- sentence-transformers --------------------------------------------------------------------------------------


def sentence_folder(
    folder: Path, network: Path, *, pooling: str, normalize: bool = True, dense: Sequence[Any] = (), **stated: Any
) -> Path:
    """A folder as sentence-transformers saves it, with linear layers of these activations behind the pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    layers = [
        Dense(32 - 4 * at, 28 - 4 * at, bias=at % 2 == 0, activation_function=each) for at, each in enumerate(dense)
    ]
    modules: list[Any] = [Transformer(str(network)), Pooling(32, pooling), *layers]
    modules += [Normalize()] if normalize else []
    SentenceTransformer(modules=modules, device="cpu", **stated).save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize(
    ("family", "pooling", "normalize", "stated"),
    [
        ("bert", "mean", True, {}),
        ("bert", "cls", False, {}),
        ("roberta", "cls", True, {"prompts": {"query": "old men : "}, "default_prompt_name": "query"}),
        ("mpnet", "mean", True, {}),
        ("modernbert", "cls", True, {}),
        ("llama padded on the left", "lasttoken", True, {}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_embedding_of_a_sentence_transformers_folder_is_what_it_encodes(
    made: Made, tmp_path: Path, family: str, pooling: str, normalize: bool, stated: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer

    network = made.folder(family)
    folder = sentence_folder(tmp_path / "st", network, pooling=pooling, normalize=normalize, **stated)
    (spec,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    assert spec.default == "last.embedding" and spec.bits_per_byte is False
    wanted = SentenceTransformer(str(folder), device="cpu").encode(CAPTIONS, convert_to_tensor=True)
    close(encoder.encode(rows(encoder), ["last.embedding"])["last.embedding"], wanted)


def prompted_apart(folder: Path) -> None:
    stated = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(stated))
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "mean", "include_prompt": false}')


@pytest.mark.parametrize("activations", [[torch.nn.Tanh()], [torch.nn.Identity(), torch.nn.GELU()]])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_linear_layers_behind_the_pooling_are_part_of_the_embedding_and_of_the_digest(
    made: Made, tmp_path: Path, activations: list[Any]
) -> None:
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformer

    folder = sentence_folder(tmp_path / "st", made.folder("bert"), pooling="mean", dense=activations)
    (spec,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    encoder = load_encoder(spec, EncodeOptions(), memo=tmp_path / "memo")
    wanted = SentenceTransformer(str(folder), device="cpu").encode(CAPTIONS, convert_to_tensor=True)
    close(encoder.encode(rows(encoder), ["last.embedding"])["last.embedding"], wanted)
    random = load_encoder(spec, EncodeOptions(random=True), memo=tmp_path / "memo")
    assert random.card.widths == encoder.card.widths and random.card.binds != encoder.card.binds
    file = folder / "2_Dense" / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    assert describe(spec, EncodeOptions(), memo=tmp_path / "memo").binds != encoder.card.binds
    save_file({"other": torch.zeros(3)}, file)
    with pytest.raises(WeightsInvalid, match="holds other, and not one linear layer"):
        describe(spec, EncodeOptions(), memo=tmp_path / "memo")
    file.unlink()
    with pytest.raises(WeightsMissing, match=r"lacks 2_Dense/model\.safetensors"):
        describe(spec, EncodeOptions(), memo=tmp_path / "memo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda to: modules(to, "Dense"), "its layer in 2_Dense is more than a linear one with identity, tanh, relu"),
        (lambda to: modules(to, "LSTM"), "Transformer, Pooling, LSTM, Normalize, and only"),
        (lambda to: (to / "1_Pooling/config.json").write_text('{"pooling_mode": "max"}'), "pools by max; one of"),
        (lambda to: (to / "1_Pooling/config.json").unlink(), "Pooling has no config.json"),
        (
            lambda to: (to / "1_Pooling/config.json").write_text(
                '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}'
            ),
            "pools by cls and mean",
        ),
        (lambda to: (to / "sentence_bert_config.json").write_text('{"do_lower_case": true}'), "do_lower_case"),
        (prompted_apart, "include_prompt"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sentence_transformers_folder_that_no_entry_describes_is_refused(
    made: Made, tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    folder = sentence_folder(tmp_path / "st", made.folder("bert"), pooling="mean")
    change(folder)
    with pytest.raises(UndescribedEncoder, match=message) as caught:
        described(f"hf:{folder}", memo=tmp_path / "memo")
    assert "Declare it in" in str(caught.value)


def modules(folder: Path, kind: str) -> None:
    stated = json.loads((folder / "modules.json").read_text())
    stated.insert(2, {"idx": 2, "name": "2", "path": f"2_{kind}", "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(stated))


# --- the digest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert-base", "distilbert", "gpt2", "dinov2-small", "dinov2-small-reg"])
def test_the_digest_binds_the_same_as_of_a_packaged_entry(tmp_path: Path, name: str) -> None:
    folder = BUILDERS[name](tmp_path / "repo")
    if name == "gpt2":  # whose configuration on the Hub names the class with the head
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    assert_same_binds(folder, "hf", name)


@pytest.mark.parametrize("name", ["resnet18", "dinov2-small-timm", "dinov2-small-reg-timm"])
def test_the_digest_binds_the_same_as_of_a_packaged_entry_of_timm(tmp_path: Path, name: str) -> None:
    assert_same_binds(BUILDERS[name](tmp_path / "repo"), "timm", name)


def assert_same_binds(folder: Path, library: str, name: str) -> None:
    memo = folder.parent / "memo"
    (spec,) = described(f"{library}:{folder}", memo=memo)
    packaged = describe(encoder_spec(name), EncodeOptions(weights=folder), memo=memo)
    generated = describe(spec, EncodeOptions(), memo=memo)
    assert (generated.binds, generated.dtype) == (packaged.binds, packaged.dtype)
    assert packaged.widths.items() <= generated.widths.items()


# --- one wrong guess each ---------------------------------------------------------------------------------------


def test_siglip_has_no_token_before_its_patches_and_its_head_is_what_it_pools_with(made: Made) -> None:
    image, text = made.specs("siglip")
    assert image.prefix_tokens == 0 and "cls" not in image.pooling and image.default == "last.embedding"
    assert (text.pad_to, text.max_tokens) == (16, 16)


def test_siglip_without_its_head_is_pooled_over_its_patches(tmp_path: Path) -> None:
    folder = families.siglip_repo(tmp_path / "siglip", head=False)
    (image,) = described(f"hf:{folder}#image", memo=tmp_path)
    assert image.embedding is None and image.default == "last.patch-mean"


@pytest.mark.parametrize("side", ["left", "right"])
def test_siglips_padding_is_part_of_what_its_text_tower_reads(tmp_path: Path, side: str) -> None:
    from transformers import AutoTokenizer, SiglipTextModel

    folder = families.siglip_repo(tmp_path / "siglip", side=side)
    (spec,) = described(f"hf:{folder}#text", memo=tmp_path)
    text = load_encoder(spec, EncodeOptions(), memo=tmp_path)
    assert text.card.binds["tokenizer"]["padding"] == f"{side}, read, to 16"
    tokens = AutoTokenizer.from_pretrained(folder)(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt")
    plain: Any = SiglipTextModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = plain(tokens["input_ids"]).pooler_output
    close(text.encode(rows(text), ["last.embedding"])["last.embedding"], wanted)


def test_a_tower_whose_settings_misstate_its_projection_is_described_without_it(tmp_path: Path) -> None:
    folder = hub.clip_repo(tmp_path / "clip", projected=512)
    image, text = described(f"hf:{folder}", memo=tmp_path)
    assert (image.model, text.model) == ("CLIPVisionModel", "CLIPTextModel")
    assert image.embedding is None and text.embedding is None


def test_the_norm_behind_the_last_block_is_told_from_one_within_it(made: Made) -> None:
    last = {family: made.specs(family)[0].last for family in ("bert", "roberta-prelayernorm", "gpt2", "beit", "deit")}
    assert last == {
        "bert": "block",
        "roberta-prelayernorm": "output",
        "gpt2": "output",
        "beit": "block",
        "deit": "output",
    }
    assert made.specs("wav2vec2")[0].last == "block"
    assert made.specs("wav2vec2 with norms before blocks")[0].last == "output"


def test_a_network_saved_without_its_head_has_no_bits_per_byte(made: Made) -> None:
    (bare,), (whole,) = made.specs("gpt2 without its head"), made.specs("gpt2")
    assert (bare.model, bare.bits_per_byte) == ("GPT2Model", False)
    assert (whole.model, whole.bits_per_byte) == ("GPT2LMHeadModel", True)


def test_a_tied_head_gives_the_bits_of_the_library(made: Made) -> None:
    from transformers import AutoModelForCausalLM

    (encoder,) = made.encoders("llama with a tied head")
    plain: Any = AutoModelForCausalLM.from_pretrained(made.folder("llama with a tied head")).eval()
    row = rows(encoder)[1]
    with torch.no_grad():
        logits = plain(row.ids[None]).logits[0].log_softmax(-1)
    bits = -logits[:-2].gather(1, row.ids[1:-1, None]).sum().item() / np.log(2) / row.size
    assert encoder.encode([row], ["lm.bits-per-byte"])["lm.bits-per-byte"].item() == pytest.approx(bits, rel=1e-5)


def test_roberta_has_two_positions_less_than_its_table(made: Made) -> None:
    assert [made.specs(family)[0].max_tokens for family in ("roberta", "mpnet", "bert")] == [32, 32, 32]
    (encoder,) = made.encoders("roberta")
    assert encoder.encode([encoder.prepare("dog " * 99)], ["last.mean"])["last.mean"].isfinite().all()


def test_deit_has_two_tokens_before_its_patches(made: Made) -> None:
    assert made.specs("deit")[0].prefix_tokens == 2 and made.specs("dinov3_vit")[0].prefix_tokens == 4
