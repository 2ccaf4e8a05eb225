import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.encoders import EncodeOptions, Encoder, encoder_spec, load_encoder
from featcache.errors import ExtractionFailed, UsageError
from tests import hub

CAPTIONS = ["a dog", "Two men on the beach .", "a", "the dog, the dog and the old men; a café on the beach"]
TINY_VIT = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2}
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "gpt2": hub.gpt2_repo,
    "bert-base": hub.bert_repo,
    "distilbert": hub.distilbert_repo,
    "clip-vit-b32-text": hub.clip_repo,
    "clip-vit-b32": hub.clip_repo,
    "dinov2-small": hub.dinov2_repo,
    "dinov2-small-reg": lambda folder: hub.dinov2_repo(folder, registers=True),
    "dinov2-small-timm": lambda folder: hub.timm_repo(folder, "vit_small_patch14_dinov2", size=28, **TINY_VIT),
    "dinov2-small-reg-timm": lambda folder: hub.timm_repo(folder, "vit_small_patch14_reg4_dinov2", size=28, **TINY_VIT),
    "resnet18": lambda folder: hub.timm_repo(folder, "resnet18.a1_in1k", size=64),
    "wav2vec2-base": hub.wav2vec2_repo,
}
TEXT = ("gpt2", "bert-base", "distilbert", "clip-vit-b32-text")
TRANSFORMERS_IMAGE = ("clip-vit-b32", "dinov2-small", "dinov2-small-reg")
TIMM_VIT = ("dinov2-small-timm", "dinov2-small-reg-timm")


class Library:
    """Repositories and encoders, each made when first asked for."""

    def __init__(self, home: Path):
        self.home = home
        self._encoders: dict[str, Encoder] = {}

    def folder(self, name: str) -> Path:
        folder = self.home / name
        return folder if folder.is_dir() else BUILDERS[name](folder)

    def encoder(self, name: str, **options: Any) -> Encoder:
        if options:
            return load_encoder(
                encoder_spec(name), EncodeOptions(weights=self.folder(name), **options), memo=self.home / "memo"
            )
        if name not in self._encoders:
            chosen = EncodeOptions(weights=self.folder(name))
            self._encoders[name] = load_encoder(encoder_spec(name), chosen, memo=self.home / "memo")
        return self._encoders[name]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def rows(encoder: Encoder) -> list[Any]:
    items: dict[str, list[Any]] = {
        "text": CAPTIONS,
        "image": [photo(50, 41, 1), photo(33, 64, 2), photo(300, 200, 3)],
        "audio": [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (5000, 7000, 5000)],
    }
    return [encoder.prepare(item) for item in items[encoder.card.modality]]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b.to(torch.float32), rtol=tolerance, atol=tolerance)


# --- every kind of encoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_every_layer_has_the_cards_width_and_is_finite(library: Library, name: str) -> None:
    encoder = library.encoder(name)
    features = encoder.encode(rows(encoder), list(encoder.card.widths))
    assert list(features) == list(encoder.card.widths) and encoder.card.default in features
    for layer, values in features.items():
        assert values.shape == (len(rows(encoder)), encoder.card.widths[layer])
        assert values.dtype == torch.float32 and values.isfinite().all()
        assert layer.startswith("0.cls") or layer == "0.last-token" or values.std(0).max() > 0, "rows differ"


@pytest.mark.parametrize("name", BUILDERS)
def test_one_pass_for_all_layers_gives_the_bits_of_one_pass_for_each(library: Library, name: str) -> None:
    encoder = library.encoder(name)
    together = encoder.encode(rows(encoder), list(encoder.card.widths))
    for layer, values in together.items():
        assert torch.equal(encoder.encode(rows(encoder), [layer])[layer], values), layer


@pytest.mark.parametrize("name", BUILDERS)
def test_a_row_has_the_same_features_alone_and_among_others(library: Library, name: str) -> None:
    encoder = library.encoder(name)
    layers = list(encoder.card.widths)
    together = encoder.encode(rows(encoder), layers)
    for number, row in enumerate(rows(encoder)):
        alone = encoder.encode([row], layers)
        for layer in layers:
            close(alone[layer][0], together[layer][number])


@pytest.mark.parametrize("name", BUILDERS)
def test_preparing_in_many_threads_gives_what_one_thread_gives(library: Library, name: str) -> None:
    encoder = library.encoder(name)
    with ThreadPoolExecutor(8) as pool:
        many = [row for prepared in pool.map(lambda _: rows(encoder), range(16)) for row in prepared]
    for prepared, expected in zip(many, rows(encoder) * 16, strict=True):
        ids, wanted = (getattr(row, "ids", row) for row in (prepared, expected))
        assert torch.equal(ids, wanted)


@pytest.mark.parametrize("name", BUILDERS)
def test_batches_are_powers_of_two_and_grow_with_memory(library: Library, name: str) -> None:
    encoder = library.encoder(name)
    sizes = [encoder.batch_size(1 << power) for power in range(8, 40, 4)]
    assert (
        sizes == sorted(sizes)
        and sizes[0] == 1
        and sizes[-1] == {"image": 64, "text": 64, "audio": 8}[encoder.card.modality]
    )
    assert all(size & (size - 1) == 0 for size in sizes)


def test_no_rows_give_empty_features_and_an_unknown_layer_is_refused(library: Library) -> None:
    encoder = library.encoder("resnet18")
    assert encoder.encode([], ["last.mean"])["last.mean"].shape == (0, 512)
    with pytest.raises(UsageError, match="has no last.cls\n  It has: 0.mean, 1.mean"):
        encoder.encode(rows(encoder), ["last.cls"])


# --- against the libraries' own forward passes ------------------------------------------------------------------


def reference(library: Library, name: str, kind: Any) -> Any:
    return kind.from_pretrained(library.folder(name), attn_implementation="eager").eval()


@pytest.mark.parametrize("name", TEXT)
def test_text_layers_are_transformers_hidden_states(library: Library, name: str) -> None:
    from transformers import AutoTokenizer, BertModel, CLIPTextModel, DistilBertModel, GPT2Model

    kinds = {"gpt2": GPT2Model, "bert-base": BertModel, "distilbert": DistilBertModel}
    kinds |= {"clip-vit-b32-text": CLIPTextModel}
    encoder, plain = library.encoder(name), reference(library, name, kinds[name])
    tokenizer = AutoTokenizer.from_pretrained(library.folder(name))
    for caption, row in zip(CAPTIONS, rows(encoder), strict=True):
        inputs = tokenizer(
            [caption], return_tensors="pt", truncation=True, max_length=plain.config.max_position_embeddings
        )
        assert row.ids.tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            output = plain(**inputs, output_hidden_states=True)
        features = encoder.encode([row], list(encoder.card.widths))
        states = {str(number): state[0] for number, state in enumerate(output.hidden_states[:-1])}
        states["last"] = output.last_hidden_state[0]
        for layer, hidden in states.items():
            wanted = {"mean": hidden.mean(0), "cls": hidden[0], "last-token": hidden[-1]}
            for pooling in encoder_spec(name).pooling:
                close(features[f"{layer}.{pooling}"][0], wanted[pooling])


def test_gpt2_last_is_after_the_final_norm_and_its_last_block_is_before(library: Library) -> None:
    from transformers import GPT2Model

    encoder, plain = library.encoder("gpt2"), reference(library, "gpt2", GPT2Model)
    row = rows(encoder)[1]
    features = encoder.encode([row], ["2.last-token", "last.last-token"])
    with torch.no_grad():
        wanted = plain(row.ids[None], output_hidden_states=True).hidden_states[-1][0, -1]
        close(plain.ln_f(features["2.last-token"])[0], wanted)
    close(features["last.last-token"][0], wanted)


def test_the_end_token_is_what_clips_text_tower_pools(library: Library) -> None:
    from transformers import CLIPTextModel

    encoder, plain = library.encoder("clip-vit-b32-text"), reference(library, "clip-vit-b32-text", CLIPTextModel)
    row = rows(encoder)[0]
    with torch.no_grad():
        close(encoder.encode([row], ["last.last-token"])["last.last-token"], plain(row.ids[None]).pooler_output)


@pytest.mark.parametrize("name", TRANSFORMERS_IMAGE)
def test_image_layers_are_transformers_hidden_states_of_transformers_pixels(library: Library, name: str) -> None:
    from transformers import CLIPVisionModel, Dinov2Model, Dinov2WithRegistersModel

    kinds = {"clip-vit-b32": CLIPVisionModel, "dinov2-small": Dinov2Model, "dinov2-small-reg": Dinov2WithRegistersModel}
    encoder, plain = library.encoder(name), reference(library, name, kinds[name])
    prefix = 4 if name.endswith("reg") else 1
    for size in [(50, 41), (41, 50), (32, 32), (97, 33)]:
        image = photo(*size)
        pixels = pil_pixels(library.folder(name), image)
        with torch.no_grad():
            output = plain(pixels, output_hidden_states=True)
        features = encoder.encode([encoder.prepare(image)], list(encoder.card.widths))
        states = {str(number): state[0] for number, state in enumerate(output.hidden_states)}
        last = output.last_hidden_state[0]
        states["last"] = plain.post_layernorm(last) if name == "clip-vit-b32" else last
        for layer, hidden in states.items():
            close(features[f"{layer}.cls"][0], hidden[0])
            close(features[f"{layer}.patch-mean"][0], hidden[prefix:].mean(0))
        if name == "clip-vit-b32":
            close(features["last.cls"], output.pooler_output)


def pil_pixels(folder: Path, image: Image.Image) -> torch.Tensor:
    """What transformers' own PIL processor makes of a photo."""
    import json

    import transformers

    settings = json.loads((folder / "preprocessor_config.json").read_text())
    named = settings.get("image_processor_type", "CLIPImageProcessor")
    # transformers 5 has a PIL class beside the torchvision one; before, the plain name was the PIL class.
    kind = getattr(transformers, f"{named}Pil", None) or getattr(transformers, named)
    return kind.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("name", ["resnet18", *TIMM_VIT])
def test_timm_layers_are_those_of_timms_forward_on_timms_pixels(library: Library, name: str) -> None:
    import timm
    from timm.data.transforms_factory import create_transform

    encoder = library.encoder(name)
    plain: Any = timm.create_model(f"local-dir:{library.folder(name)}", pretrained=True).eval()
    config = timm.data.resolve_data_config(model=plain)  # type: ignore[attr-defined]
    transform = create_transform(**config)
    for size in [(300, 241), (69, 101), (64, 64)]:
        image = photo(*size)
        pixels = transform(image)[None]  # type: ignore[operator,index]
        with torch.no_grad():
            last = plain.forward_features(pixels)[0]
        features = encoder.encode([encoder.prepare(image)], list(encoder.card.widths))
        if name == "resnet18":
            close(features["last.mean"][0], last.mean((1, 2)), 1e-4)
            continue
        prefix = 5 if "reg" in name else 1
        close(features["last.cls"][0], last[0])
        close(features["last.patch-mean"][0], last[prefix:].mean(0))
        with torch.no_grad():
            _, states = plain.forward_intermediates(pixels, output_fmt="NLC", return_prefix_tokens=True)
        for number, (patches, tokens) in enumerate(states, start=1):
            close(features[f"{number}.cls"][0], tokens[0, 0])
            close(features[f"{number}.patch-mean"][0], patches[0].mean(0))


def test_audio_layers_are_transformers_hidden_states(library: Library) -> None:
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    encoder, plain = library.encoder("wav2vec2-base"), reference(library, "wav2vec2-base", Wav2Vec2Model)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(library.folder("wav2vec2-base"))
    wave = np.random.default_rng(5).standard_normal(6000).astype(np.float32) + 0.5
    with torch.no_grad():
        values = extractor(wave, sampling_rate=16000, return_tensors="pt")["input_values"]
        output = plain(values, output_hidden_states=True)
    features = encoder.encode([encoder.prepare(wave)], list(encoder.card.widths))
    for layer, hidden in zip(features, output.hidden_states, strict=True):
        close(features[layer], hidden.mean(1), 1e-4)


def test_audio_that_cannot_be_encoded_is_refused(library: Library) -> None:
    encoder = library.encoder("wav2vec2-base")
    assert encoder.encode([encoder.prepare(np.ones(400))], ["last.mean"])["last.mean"].isfinite().all()
    for wave, message in [
        (np.ones(399), "399 samples"),
        (np.ones(16000 * 31), "at most 30 s"),
        (np.ones((2, 9)), "mono"),
        (np.full(500, np.nan), "finite"),
    ]:
        with pytest.raises(ExtractionFailed, match=message):
            encoder.prepare(wave)


# --- text -------------------------------------------------------------------------------------------------------


def test_bits_per_byte_are_those_of_reading_the_text_token_by_token(library: Library) -> None:
    from transformers import GPT2LMHeadModel

    encoder, plain = library.encoder("gpt2"), reference(library, "gpt2", GPT2LMHeadModel)
    measured = encoder.encode(rows(encoder), ["lm.bits-per-byte"])["lm.bits-per-byte"][:, 0]
    for caption, row, value in zip(CAPTIONS, rows(encoder), measured, strict=True):
        bits = math.log2(50257)
        for place in range(1, len(row.ids)):
            with torch.no_grad():
                probabilities = plain(row.ids[None, :place]).logits[0, -1].double().softmax(0)
            bits -= math.log2(probabilities[row.ids[place]].item())
        assert value.item() == pytest.approx(bits / len(caption.encode()), rel=1e-5)
    assert len(rows(encoder)[2].ids) == 1 and measured[2].item() == pytest.approx(math.log2(50257))


def test_a_token_put_before_the_text_predicts_its_first_token(library: Library) -> None:
    from featcache.encoders.text import Tokens, bits_per_byte

    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(4, 9), torch.randn(1, 3, 4)
    row = Tokens(torch.tensor([8, 2, 5]), torch.tensor([True, False, False]), 6)
    logits = head(hidden[0]).log_softmax(-1)
    wanted = -(logits[0, 2] + logits[1, 5]).item() / math.log(2) / 6
    assert bits_per_byte(hidden, [row], head, None).item() == pytest.approx(wanted, rel=1e-5)
    capped = bits_per_byte(hidden, [row], head, 0.01).item()
    assert capped == pytest.approx(2 * math.log2(9) / 6, rel=1e-2), "a low cap makes every token equally likely"


def test_a_long_caption_keeps_what_the_model_can_take(library: Library) -> None:
    encoder = library.encoder("gpt2")
    row = encoder.prepare("dog " * 500)
    assert encoder.cost(row) == len(row.ids) == 64, "the positions that this small network has"
    assert row.size == len("dog" + " dog" * 63), "bits per byte count the bytes that were kept"
    assert encoder.encode([row], ["lm.bits-per-byte"])["lm.bits-per-byte"].isfinite().all()


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("caption", ["", "\ud800", None])
def test_a_caption_without_tokens_is_refused(library: Library, name: str, caption: Any) -> None:
    with pytest.raises(ExtractionFailed, match="no tokens|not a text"):
        library.encoder(name).prepare(caption)


def test_the_end_token_fills_gpt2s_padding(library: Library) -> None:
    encoder = library.encoder("gpt2")
    ((_, inputs, layout),) = encoder._preprocessor.batches(rows(encoder)[:2], "cpu")
    assert inputs["input_ids"][0].tolist()[-1] == 50256 and inputs["attention_mask"][0].tolist()[-1] == 0
    assert layout.mask is not None and layout.mask.sum(1).tolist() == [len(row.ids) for row in rows(encoder)[:2]]


# --- how it runs ------------------------------------------------------------------------------------------------


def test_images_of_other_modes_are_read_as_rgb(library: Library) -> None:
    encoder = library.encoder("dinov2-small")
    grey = photo(40, 40).convert("L")
    assert torch.equal(encoder.prepare(grey), encoder.prepare(grey.convert("RGB")))


def test_an_image_smaller_than_the_crop_is_centred_on_black() -> None:
    from featcache.encoders.vision import ImageSettings, prepare_image

    settings = ImageSettings(4, (8, 6), "even", "bicubic", (0.5,) * 3, (0.5,) * 3)
    pixels = prepare_image(Image.new("RGB", (10, 10), (255, 255, 255)), settings)
    assert pixels.shape == (8, 6, 3)
    assert pixels[2:6, 1:5].min() == 255 and pixels.sum() == 4 * 4 * 3 * 255


@pytest.mark.parametrize("name", ["gpt2", "dinov2-small", "resnet18"])
def test_autocast_is_bound_in_the_card_and_close_to_float32(library: Library, name: str) -> None:
    full, short = library.encoder(name), library.encoder(name, autocast="bfloat16")
    assert short.card.binds["compute"] == "autocast bfloat16" and full.card.binds["compute"] == "float32"
    layer = full.card.default
    a, b = full.encode(rows(full), [layer])[layer], short.encode(rows(short), [layer])[layer]
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["bert-base", "dinov2-small"])
def test_compiled_blocks_give_the_same_card_and_features(library: Library, name: str) -> None:
    plain, compiled = library.encoder(name), library.encoder(name, compile=True)
    assert compiled.card == plain.card
    layers = list(plain.card.widths)
    a, b = plain.encode(rows(plain), layers), compiled.encode(rows(compiled), layers)
    for layer in layers:
        close(a[layer], b[layer], 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gpt2", "dinov2-small", "resnet18", "wav2vec2-base"])
def test_a_gpu_gives_the_same_card_and_features(library: Library, name: str) -> None:
    plain, gpu = library.encoder(name), library.encoder(name, device="cuda")
    assert gpu.card == plain.card
    layers = list(plain.card.widths)
    a, b = plain.encode(rows(plain), layers), gpu.encode(rows(gpu), layers)
    for layer in layers:
        close(a[layer], b[layer], 1e-3)
