"""A tiny network with random weights of every family that an id describes, saved as its library saves it, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hub import _seed_and_quieten, _write_json, clip_repo, dinov2_repo, wav2vec2_repo

WORDS = ("a", "dog", "two", "men", "on", "the", "beach", ".", "old", "and", "of", "café")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
VOCABULARY = len(WORDS) + len(SPECIAL)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
_IDS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer_files(folder: Path, *, longest: int = 32, side: str = "right", **stated: Any) -> None:
    """A tokenizer of words, which puts <s> and </s> around a text: tokenizer.json and tokenizer_config.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer: Any = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=longest,
        padding_side=side,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **stated,
    ).save_pretrained(folder)


def text_repo(
    folder: Path, kind: str, config: str, *, arguments: Any = None, side: str = "right", **sizes: Any
) -> Path:
    """A network of texts with the tokenizer of words.

    Args:
        folder: Where to.
        kind: transformers' class.
        config: Its configuration's class.
        arguments: Of the class.
        side: The tokenizer's padding side.
        sizes: Of the configuration, over small ones.
    """
    network = _network(kind, config, {**_IDS, **SMALL, **sizes}, **(arguments or {}))
    network.save_pretrained(folder)
    tokenizer_files(folder, side=side)
    return folder


def image_repo(
    folder: Path, kind: str, config: str, *, processor: str = "ViTImageProcessor", size: Any = None, **sizes: Any
) -> Path:
    """A network of 28 px photos with its preprocessor_config.json."""
    _network(kind, config, sizes).save_pretrained(folder)
    stated: dict[str, Any] = {
        "image_processor_type": processor,
        "do_resize": True,
        "size": size or {"height": 28, "width": 28},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    _write_json(folder / "preprocessor_config.json", stated | ({"crop_pct": 0.875} if "ConvNext" in processor else {}))
    return folder


def _network(kind: str, config: str, sizes: dict[str, Any], **arguments: Any) -> Any:
    import torch
    import transformers

    _seed_and_quieten(0)
    network = getattr(transformers, kind)(getattr(transformers, config)(**sizes), **arguments)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim == 1 or "token" in name:  # norms and biases all alike, or zeros, would hide a missed one
                value.add_(torch.randn_like(value) * 0.2)
        for name, value in network.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return network


_VIT: dict[str, Any] = {**SMALL, "image_size": 28, "patch_size": 14}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
_CONVNEXT: dict[str, Any] = {"processor": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
_GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 64}
_T5: dict[str, Any] = {"d_model": 32, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 16}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 1}
_AUDIO: dict[str, Any] = {**SMALL, "conv_dim": (16,) * 7, "vocab_size": 8}
_HEADS: dict[str, Any] = {"head_dim": 16, "num_key_value_heads": 1}

# family -> what saves a member; several of one family where its members differ
TEXT: dict[str, Callable[[Path], Path]] = {
    "bert": lambda to: text_repo(to, "BertForMaskedLM", "BertConfig", max_position_embeddings=32),
    "roberta": lambda to: text_repo(to, "RobertaForMaskedLM", "RobertaConfig", max_position_embeddings=34),
    "xlm-roberta": lambda to: text_repo(to, "XLMRobertaModel", "XLMRobertaConfig", max_position_embeddings=34),
    "camembert": lambda to: text_repo(to, "CamembertModel", "CamembertConfig", max_position_embeddings=34),
    "roberta-prelayernorm": lambda to: text_repo(
        to, "RobertaPreLayerNormModel", "RobertaPreLayerNormConfig", max_position_embeddings=34
    ),
    "mpnet": lambda to: text_repo(to, "MPNetModel", "MPNetConfig", max_position_embeddings=34),
    "distilbert": lambda to: text_repo(
        to, "DistilBertModel", "DistilBertConfig", dim=32, n_layers=3, n_heads=2, hidden_dim=48
    ),
    "electra": lambda to: text_repo(to, "ElectraForPreTraining", "ElectraConfig", embedding_size=16),
    "deberta": lambda to: text_repo(
        to, "DebertaModel", "DebertaConfig", relative_attention=True, pos_att_type=["c2p", "p2c"]
    ),
    "deberta-v2": lambda to: text_repo(
        to, "DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"]
    ),
    "modernbert": lambda to: text_repo(to, "ModernBertModel", "ModernBertConfig", cls_token_id=1, sep_token_id=2),
    "gpt2": lambda to: text_repo(to, "GPT2LMHeadModel", "GPT2Config", **_GPT2),
    "gpt2 without its head": lambda to: text_repo(to, "GPT2Model", "GPT2Config", **_GPT2),
    "gpt_neo": lambda to: text_repo(
        to,
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        num_layers=3,
        num_heads=2,
        attention_types=[[["global", "local", "global"], 1]],
    ),
    "gptj": lambda to: text_repo(to, "GPTJForCausalLM", "GPTJConfig", rotary_dim=8, **_GPT2),
    "bloom": lambda to: text_repo(to, "BloomForCausalLM", "BloomConfig", n_layer=3, n_head=2),
    "falcon": lambda to: text_repo(to, "FalconForCausalLM", "FalconConfig"),
    "falcon with ALiBi": lambda to: text_repo(to, "FalconForCausalLM", "FalconConfig", alibi=True),
    "mpt": lambda to: text_repo(to, "MptForCausalLM", "MptConfig", d_model=32, n_heads=2, n_layers=3, max_seq_len=64),
    "gpt_neox": lambda to: text_repo(to, "GPTNeoXForCausalLM", "GPTNeoXConfig"),
    "opt": lambda to: text_repo(to, "OPTForCausalLM", "OPTConfig", ffn_dim=48, word_embed_proj_dim=32),
    "opt with norms behind blocks": lambda to: text_repo(
        to, "OPTForCausalLM", "OPTConfig", ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "llama": lambda to: text_repo(to, "LlamaForCausalLM", "LlamaConfig", **_GROUPED),
    "llama padded on the left": lambda to: text_repo(to, "LlamaForCausalLM", "LlamaConfig", side="left", **_GROUPED),
    "llama with a tied head": lambda to: text_repo(
        to, "LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=True, **_GROUPED
    ),
    "mistral": lambda to: text_repo(to, "MistralForCausalLM", "MistralConfig", sliding_window=4, **_GROUPED),
    "qwen2": lambda to: text_repo(to, "Qwen2ForCausalLM", "Qwen2Config", **_GROUPED),
    "qwen3": lambda to: text_repo(to, "Qwen3ForCausalLM", "Qwen3Config", **_HEADS),
    "gemma": lambda to: text_repo(to, "GemmaForCausalLM", "GemmaConfig", **_HEADS),
    "gemma2": lambda to: text_repo(to, "Gemma2ForCausalLM", "Gemma2Config", **_HEADS),
    "gemma3_text": lambda to: text_repo(to, "Gemma3ForCausalLM", "Gemma3TextConfig", **_HEADS),
    "phi": lambda to: text_repo(to, "PhiForCausalLM", "PhiConfig"),
    "phi3": lambda to: text_repo(to, "Phi3ForCausalLM", "Phi3Config", **_GROUPED),
    "olmo": lambda to: text_repo(to, "OlmoForCausalLM", "OlmoConfig"),
    "olmo2": lambda to: text_repo(to, "Olmo2ForCausalLM", "Olmo2Config"),
    "stablelm": lambda to: text_repo(to, "StableLmForCausalLM", "StableLmConfig", num_key_value_heads=2),
    "smollm3": lambda to: text_repo(to, "SmolLM3ForCausalLM", "SmolLM3Config", **_GROUPED),
    "granite": lambda to: text_repo(to, "GraniteForCausalLM", "GraniteConfig", **_GROUPED),
    "t5": lambda to: text_repo(to, "T5ForConditionalGeneration", "T5Config", **_T5),
    "mt5": lambda to: text_repo(to, "MT5EncoderModel", "MT5Config", **_T5),
    "umt5": lambda to: text_repo(to, "UMT5EncoderModel", "UMT5Config", **_T5),
}
IMAGE: dict[str, Callable[[Path], Path]] = {
    "vit": lambda to: image_repo(to, "ViTForImageClassification", "ViTConfig", **_VIT),
    "deit": lambda to: image_repo(to, "DeiTModel", "DeiTConfig", **_VIT),
    "vit_msn": lambda to: image_repo(to, "ViTMSNModel", "ViTMSNConfig", **_VIT),
    "dinov2": dinov2_repo,
    "dinov2_with_registers": lambda to: dinov2_repo(to, registers=True),
    "dinov3_vit": lambda to: image_repo(to, "DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=3, **_VIT),
    "beit": lambda to: image_repo(to, "BeitModel", "BeitConfig", **_VIT),
    "beit with a norm behind its blocks": lambda to: image_repo(
        to, "BeitModel", "BeitConfig", use_mean_pooling=False, **_VIT
    ),
    "data2vec-vision": lambda to: image_repo(to, "Data2VecVisionModel", "Data2VecVisionConfig", **_VIT),
    "convnext": lambda to: image_repo(to, "ConvNextForImageClassification", "ConvNextConfig", **_CONVNEXT, **_STAGES),
    "convnextv2": lambda to: image_repo(to, "ConvNextV2Model", "ConvNextV2Config", **_CONVNEXT, **_STAGES),
    "dinov3_convnext": lambda to: image_repo(
        to, "DINOv3ConvNextModel", "DINOv3ConvNextConfig", size={"height": 64, "width": 64}, **_STAGES
    ),
    "resnet": lambda to: image_repo(to, "ResNetModel", "ResNetConfig", embedding_size=8, **_CONVNEXT, **_STAGES),
}
# Networks whose features take no norm over time: rows of unequal length run together, padded and masked.
_STABLE = {
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config"),
    "hubert": ("HubertModel", "HubertConfig"),
    "wavlm": ("WavLMModel", "WavLMConfig"),
}


def _stable(kind: str, config: str) -> Callable[[Path], Path]:
    return lambda to: audio_repo(to, kind, config, do_stable_layer_norm=True, feat_extract_norm="layer")


AUDIO: dict[str, Callable[[Path], Path]] = {
    "wav2vec2": wav2vec2_repo,
    "hubert": lambda to: audio_repo(to, "HubertModel", "HubertConfig"),
    "wavlm": lambda to: audio_repo(to, "WavLMModel", "WavLMConfig"),
    **{f"{family} with norms before blocks": _stable(*names) for family, names in _STABLE.items()},
    "unispeech": lambda to: audio_repo(to, "UniSpeechModel", "UniSpeechConfig"),
    "unispeech-sat": lambda to: audio_repo(to, "UniSpeechSatModel", "UniSpeechSatConfig"),
    "data2vec-audio": lambda to: audio_repo(to, "Data2VecAudioModel", "Data2VecAudioConfig"),
    "whisper": lambda to: whisper_repo(to),
}


def audio_repo(folder: Path, kind: str, config: str, **sizes: Any) -> Path:
    """A network of waveforms at 16 kHz."""
    wav2vec2_repo(folder)  # for its preprocessor_config.json
    _network(kind, config, {**_AUDIO, **sizes}).save_pretrained(folder)
    return folder


def whisper_repo(folder: Path) -> Path:
    """Whisper with its decoder, of a window of 1.5 s."""
    from transformers import WhisperFeatureExtractor

    sizes = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    small = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "vocab_size": 9}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    every: dict[str, Any] = {**sizes, **small, **tokens, "max_source_positions": 75}
    _network("WhisperForConditionalGeneration", "WhisperConfig", every).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def siglip_repo(folder: Path, *, head: bool = True, side: str = "right", words: int = VOCABULARY) -> Path:
    """SigLIP with both towers; captions are padded to 16 tokens, by a fast tokenizer as SigLIP 2 has it."""
    text = {**SMALL, **_IDS, "vocab_size": words, "max_position_embeddings": 16, "projection_size": 32}
    sizes: dict[str, Any] = {"text_config": text, "vision_config": {**_VIT, "vision_use_head": head}}
    image_repo(folder, "SiglipModel", "SiglipConfig", processor="SiglipImageProcessor", **sizes)
    tokenizer_files(folder, longest=16, side=side)
    return folder


def clap_repo(folder: Path, *, fusion: bool = False) -> Path:
    """CLAP with both towers; its swin of two stages sees 10 s at 48 kHz as 64 x 64 pixels."""
    from transformers import ClapFeatureExtractor

    text = {**SMALL, "vocab_size": VOCABULARY, "pad_token_id": 0, "max_position_embeddings": 34, "projection_dim": 24}
    swin = {"patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 32}
    audio = {**swin, "spec_size": 256, "num_mel_bins": 64, "projection_dim": 24, "num_hidden_layers": 2}
    fused = {"enable_fusion": True, "fusion_type": "aff_2d"} if fusion else {}
    sizes: dict[str, Any] = {"text_config": text, "audio_config": {**audio, **fused}, "projection_dim": 24}
    _network("ClapModel", "ClapConfig", sizes).save_pretrained(folder)
    tokenizer_files(folder, longest=32)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


PAIRS: dict[str, Callable[[Path], Path]] = {"clip": clip_repo, "siglip": siglip_repo, "clap": clap_repo}


# --- timm -------------------------------------------------------------------------------------------------------

_TOKENS = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "VisionTransformer": ("vit_small_patch14_dinov2.lvd142m", _TOKENS),
    "VisionTransformer with registers": ("vit_small_patch14_reg4_dinov2.lvd142m", _TOKENS),
    "VisionTransformer that pools patches": ("vit_base_patch16_224.mae", {**_TOKENS, "global_pool": "avg"}),
    "VisionTransformer that pools by attention": ("vit_base_patch16_siglip_224.webli", _TOKENS),
    "VisionTransformer with norms before blocks": ("vit_base_patch16_clip_224.openai", _TOKENS),
    "VisionTransformerDistilled": ("deit_tiny_distilled_patch16_224.fb_in1k", _TOKENS),
    "Eva": ("eva02_tiny_patch14_224.mim_in22k", _TOKENS),
    "Eva as DINOv3": ("vit_small_patch16_dinov3.lvd1689m", _TOKENS),
    "Beit": ("beit_base_patch16_224.in22k_ft_in22k_in1k", _TOKENS),
    "ResNet": ("resnet18.a1_in1k", {}),
    "ConvNeXt": ("convnext_atto.d2_in1k", {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]}),
    "EfficientNet": ("tf_efficientnet_lite0.in1k", {}),
    "RegNet": ("regnety_002.pycls_in1k", {}),
}


# --- open_clip --------------------------------------------------------------------------------------------------


def open_clip_repo(folder: Path, *, image: Any = None, text: Any = None, pixels: Any = None, **model: Any) -> Path:
    """A pair of towers as open_clip pushes it: open_clip_config.json and open_clip_model.safetensors.

    Args:
        folder: Where to.
        image: Settings of the image tower, over small ones.
        text: Of the text tower.
        pixels: Of what is done to a photo.
        model: Of the pair.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    of_image = {"image_size": 28, "layers": 3, "width": 32, "head_width": 16, "patch_size": 14, **(image or {})}
    of_text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **(text or {})}
    settings = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": of_image, "text_cfg": of_text, **model},
        "preprocess_cfg": {
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.25],
            "interpolation": "bicubic",
            **(pixels or {}),
        },
    }
    _write_json(folder / "open_clip_config.json", settings)
    _seed_and_quieten(0)
    network: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / _OPEN_CLIP_WEIGHTS)
    return folder


_OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
