"""Towers of open_clip by their ids: the features are those of its own forward, and what is no such tower is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.encoders import EncodeOptions, Encoder, EncoderSpec, described, load_encoder
from featcache.errors import UndescribedEncoder, UnknownEncoder, WeightsInvalid, WeightsMissing
from tests import families, hub

open_clip: Any = pytest.importorskip("open_clip")

CAPTIONS = [
    "a dog",
    "Two &amp; more men on the BEACH!",
    "a",
    "the dog and the old men of the café on the beach with two dogs",
]
PAIRS: dict[str, dict[str, Any]] = {
    "clip": {},
    "with QuickGELU": {"quick_gelu": True},
    "with a text tower apart": {"custom_text": True},
    "squashed": {"pixels": {"resize_mode": "squash"}},
    "without a norm before": {"image": {"no_ln_pre": True}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pairs")
    return {name: families.open_clip_repo(home / name.replace(" ", "-"), **made) for name, made in PAIRS.items()}


def loaded(folder: Path) -> tuple[list[EncoderSpec], list[Encoder]]:
    memo = folder.parent / "memo"
    specs = described(f"open_clip:{folder}", memo=memo)
    return specs, [load_encoder(spec, EncodeOptions(), memo=memo) for spec in specs]


def photos() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((31, 50), (64, 33))]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def block_states(blocks: Sequence[Any], run: Any) -> list[torch.Tensor]:
    """What enters the first block and leaves each, [t, d], by hooks of the test's own."""
    states: list[torch.Tensor] = []
    handles = [blocks[0].register_forward_pre_hook(lambda module, args: states.append(args[0][0]))]
    handles += [block.register_forward_hook(lambda module, args, output: states.append(output[0])) for block in blocks]
    run()
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("name", PAIRS)
def test_the_image_tower_gives_open_clips_own_features_of_open_clips_own_pixels(
    folders: dict[str, Path], name: str
) -> None:
    (spec, _), (encoder, _) = loaded(folders[name])
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folders[name]}")
    plain.eval()
    for photo in photos():
        pixels = transform(photo)[None]
        features = encoder.encode([encoder.prepare(photo)], list(encoder.card.widths))
        with torch.no_grad():
            states = block_states(plain.visual.transformer.resblocks, lambda at=pixels: plain.encode_image(at))
            close(features["last.embedding"], plain.encode_image(pixels))
            last = plain.visual.ln_post(states[-1])
        for layer, hidden in [*((str(number), state) for number, state in enumerate(states)), ("last", last)]:
            close(features[f"{layer}.cls"][0], hidden[0])
            close(features[f"{layer}.patch-mean"][0], hidden[1:].mean(0))
    assert spec.default == "last.embedding" and encoder.card.modality == "image"


@pytest.mark.parametrize("name", PAIRS)
def test_the_text_tower_gives_open_clips_own_features_and_padding_changes_nothing(
    folders: dict[str, Path], name: str
) -> None:
    (_, spec), (_, encoder) = loaded(folders[name])
    plain = open_clip.create_model(f"local-dir:{folders[name]}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folders[name]}", context_length=12)(CAPTIONS)
    rows = [encoder.prepare(caption) for caption in CAPTIONS]
    together = encoder.encode(rows, list(encoder.card.widths))
    with torch.no_grad():
        close(together["last.embedding"], plain.encode_text(tokens))
    for number, row in enumerate(rows):
        length = len(row.ids)
        assert row.ids.tolist() == tokens[number, :length].tolist() and not tokens[number, length:].any()
        alone = encoder.encode([row], list(encoder.card.widths))
        with torch.no_grad():
            text = getattr(plain, "text", plain)
            states = block_states(text.transformer.resblocks, lambda at=number: plain.encode_text(tokens[at : at + 1]))
            last = text.ln_final(states[-1])
        for layer, hidden in [*((str(at), state) for at, state in enumerate(states)), ("last", last)]:
            for pooling, wanted in {"mean": hidden[:length].mean(0), "last-token": hidden[length - 1]}.items():
                close(together[f"{layer}.{pooling}"][number], wanted)
                close(alone[f"{layer}.{pooling}"][0], wanted)
    assert encoder.flag(rows[3]) == "truncated" and encoder.flag(rows[0]) is None
    assert spec.max_tokens == 12 and spec.name.endswith("-text")


@pytest.mark.parametrize(
    ("made", "tower", "message"),
    [
        ({"image": {"pool_type": "avg"}}, "", "its image tower pools by avg"),
        ({"image": {"attentional_pool": True}}, "", "its image tower pools by attention"),
        ({"image": {"layers": [1, 1, 1, 1], "image_size": 64}}, "", "its image tower is a ModifiedResNet"),
        ({"text": {"pool_type": "last"}, "custom_text": True}, "#text", "its text tower pools by last"),
        ({"pixels": {"resize_mode": "longest"}}, "#image", "resized by their longest edge"),
        ({"text": {"hf_tokenizer_name": "org/words"}}, "#text", "a tokenizer of its own; take #image"),
    ],
)
def test_a_tower_that_cannot_be_described_is_refused_by_what_it_is(
    tmp_path: Path, made: dict[str, Any], tower: str, message: str
) -> None:
    folder = families.open_clip_repo(tmp_path / "pair", **made)
    with pytest.raises(UndescribedEncoder, match=message) as caught:
        described(f"open_clip:{folder}{tower}", memo=tmp_path)
    assert "Declare it in" in str(caught.value)


def test_settings_that_open_clip_cannot_build_are_invalid(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {}, "text_cfg": {"width": 7}}}')
    with pytest.raises(WeightsInvalid, match="open_clip cannot build what"):
        described(f"open_clip:{tmp_path}", memo=tmp_path)


def test_an_architecture_and_a_tag_are_a_repository_of_the_hub(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    hub.into_cache(folders["clip"], tmp_path / "hub", repo)
    for id in ("open_clip:ViT-B-32/laion2b_s34b_b79k", f"open_clip:{repo}"):
        image, text = described(id, memo=tmp_path / "memo")
        assert (image.source.repo, image.source.revision, text.source.repo) == (repo, hub.COMMIT, repo)
    encoder = load_encoder(image, EncodeOptions(), memo=tmp_path / "memo")
    assert encoder.card.provenance["commit"] == hub.COMMIT
    assert encoder.card.binds == loaded(folders["clip"])[1][0].card.binds
    with pytest.raises(UndescribedEncoder, match="its settings are open_clip's; name it open_clip:"):
        described(f"hf:{repo}", memo=tmp_path / "memo")


@pytest.mark.parametrize("place", ["ViT-B-32/no_such_tag", "ViT-B-32", "ViT-B-33"])
def test_weights_that_open_clip_does_not_have_are_answered_with_near_ones(tmp_path: Path, place: str) -> None:
    with pytest.raises(UnknownEncoder, match=r"Nearest: .+\n  An id is open_clip:ARCHITECTURE/TAG"):
        described(f"open_clip:{place}", memo=tmp_path)


def test_weights_of_other_names_are_refused_by_them(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(folders["clip"], tmp_path / "pair"))
    tensors = load_file(folder / "open_clip_model.safetensors")
    save_file({f"x.{name}": tensor for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    with pytest.raises(WeightsInvalid, match="missing: "):
        loaded(folder)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"lacks open_clip_model\.safetensors"):
        loaded(folder)
