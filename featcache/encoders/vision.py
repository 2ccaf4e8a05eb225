"""Preprocessing of images: a pure function of settings that the digest binds, computed by PIL."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.data.pixels import to_rgb
from featcache.encoders.spec import EncoderSpec, Preprocessing
from featcache.encoders.weights import WeightFiles
from featcache.errors import ExtractionFailed, WeightsInvalid

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from featcache.encoders.backbone import Backbone
    from featcache.encoders.pooling import Inputs

_MOST_STRETCHED = 1000
NEAR_CONSTANT = 8  # levels of 255: a picture none of whose channels spans more shows nothing that anybody sees


@dataclass(frozen=True)
class ImageSettings:
    """Resize, crop, normalise: what timm's and transformers' own transforms do, as declared values."""

    resize: int | tuple[int, int]  # shorter edge in pixels, or the longer one (`fit`), or (height, width)
    crop: tuple[int, int]  # (height, width) in pixels of the central crop
    offset: str  # how half a pixel of the crop's corner is rounded: "even" (timm) or "down" (transformers)
    interpolation: str  # filter of PIL's resize
    mean: tuple[float, ...]  # of each channel, pixels scaled to [0, 1]
    std: tuple[float, ...]
    fit: str = "cover"  # the shorter edge is resized and the rest cropped; "contain": the longer, padded with black

    def binds(self) -> dict[str, Any]:
        """The settings as JSON, the image library among them: other libraries give other pixels."""
        return {
            "backend": "pil",
            "mode": "RGB",
            "resize": self.resize if isinstance(self.resize, int) else list(self.resize),
            "crop": list(self.crop),
            "crop_offset": self.offset,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.fit == "cover" else {"fit": self.fit}),
        }


def settings_from_entry(entry: Preprocessing) -> ImageSettings:
    """Settings as an entry of encoders.toml declares them."""
    crop = (entry.crop, entry.crop) if isinstance(entry.crop, int) else entry.crop
    return ImageSettings(
        resize=entry.resize,
        crop=crop,
        offset=entry.offset,
        interpolation=entry.interpolation,
        mean=entry.mean,
        std=entry.std,
        fit=entry.fit,
    )


def entry_of_settings(settings: ImageSettings) -> dict[str, Any]:
    """Settings as an entry of encoders.toml declares them; the inverse of `settings_from_entry`."""
    height, width = settings.crop
    return {
        "resize": settings.resize,
        "fit": settings.fit,
        "crop": height if height == width else settings.crop,
        "interpolation": settings.interpolation,
        "mean": settings.mean,
        "std": settings.std,
        "offset": settings.offset,
    }


def settings_from_timm(config: Mapping[str, Any]) -> ImageSettings:
    """Settings from a timm `pretrained_cfg`, as timm's own evaluation transform reads it.

    Raises:
        WeightsInvalid: If the crop mode is not one of "center" and "squash".

    Source:
        timm.data.transforms_factory.transforms_imagenet_eval.
    """
    from timm.data.config import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(config))
    _, height, width = data["input_size"]
    # `or`: timm reads a crop_pct of None or 0 as its default
    edges = (math.floor(height / (data["crop_pct"] or 0.875)), math.floor(width / (data["crop_pct"] or 0.875)))
    mode = data["crop_mode"] or "center"
    if mode not in ("center", "squash"):
        raise WeightsInvalid(f"crop mode {mode!r} of the timm configuration is not supported: center, squash")
    shorter = mode == "center" and edges[0] == edges[1]
    return ImageSettings(
        resize=edges[0] if shorter else edges,
        crop=(height, width),
        offset="even",
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def settings_from_transformers(folder: Path) -> ImageSettings:
    """Settings from a repository's preprocessor_config.json, with the defaults of its class.

    Raises:
        WeightsInvalid: If the settings ask for anything but resize, central crop, scaling by 1/255, normalising.
    """
    from transformers import AutoImageProcessor

    path = folder / "preprocessor_config.json"
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, json.JSONDecodeError) as error:
        raise WeightsInvalid(f"{path} declares no image processor that transformers knows: {error}") from error
    size, crop = _size_and_crop(processor, path)
    if isinstance(crop, int) or not processor.do_resize or not processor.do_normalize:
        raise WeightsInvalid(f"{path}: only resize, central crop of fixed size and normalising are supported")
    if abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise WeightsInvalid(f"{path}: pixels are scaled by {processor.rescale_factor}, only 1/255 is supported")
    return ImageSettings(
        resize=size,
        crop=crop,
        offset="down",
        interpolation=_filter_name(processor.resample),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


_SQUASHED = 384  # pixels: from this edge on, ConvNeXt's processor squashes a photo, and crops nothing


def _size_and_crop(processor: Any, path: Path) -> tuple[int | tuple[int, int], int | tuple[int, int]]:
    size = _edges(processor.size, path)
    fraction = getattr(processor, "crop_pct", None)
    if fraction and isinstance(size, int):  # ConvNeXt and ResNet state the side of the crop, and what it is of the edge
        square = (size, size)
        return (square if size >= _SQUASHED else int(size / fraction)), square
    return size, _edges(processor.crop_size, path) if processor.do_center_crop else size


def _edges(size: Any, path: Path) -> int | tuple[int, int]:
    values = {name: value for name, value in dict(size).items() if value is not None}
    if values.keys() == {"shortest_edge"}:
        return int(values["shortest_edge"])
    if values.keys() == {"height", "width"}:
        return int(values["height"]), int(values["width"])
    raise WeightsInvalid(f"{path}: size {values} is not supported: shortest_edge, or height and width")


def _filter_name(resample: Any) -> str:
    from PIL.Image import Resampling

    return Resampling(int(resample)).name.lower()


def prepare_image(image: "Image", settings: ImageSettings) -> "Tensor":
    """Resizes and crops one photo of any mode, made RGB as `to_rgb` does.

    Returns:
        [h, w, 3] uint8; scaling and normalising wait for the batch, where they cost less.

    Raises:
        DataInvalid: If its samples have no known range.
        ExtractionFailed: If one edge is more than a thousand times the other.
    """
    import numpy as np
    import torch
    from PIL.Image import Resampling

    if image.mode != "RGB" or image.info:  # not from a view of ours, which gives RGB that is upright and opaque
        image = to_rgb(image)
    if max(image.size) > _MOST_STRETCHED * min(image.size):
        raise ExtractionFailed(
            f"a picture of {image.width} × {image.height} pixels: too narrow to be resized by its shorter edge"
        )
    image = image.resize(_resized(image.size, settings), Resampling[settings.interpolation.upper()])
    height, width = settings.crop
    if image.width < width or image.height < height:
        image = _padded(image, max(image.width, width), max(image.height, height))
    left, top = (_corner(image.width - width, settings.offset), _corner(image.height - height, settings.offset))
    image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def _resized(size: tuple[int, int], settings: ImageSettings) -> tuple[int, int]:
    """(width, height) after the resize.

    The longer edge is rounded down, as torchvision and transformers do; the shorter one to the nearest, as
    albumentations does.
    """
    width, height = size
    resize = settings.resize
    if not isinstance(resize, int):
        return resize[1], resize[0]
    if settings.fit == "contain":
        scale = resize / max(size)
        return max(1, round(width * scale)), max(1, round(height * scale))
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def _corner(excess: int, offset: str) -> int:
    return round(excess / 2) if offset == "even" else excess // 2


def _padded(image: "Image", width: int, height: int) -> "Image":
    """Black on the sides that are short, the odd pixel on the right and below."""
    from PIL import Image

    canvas = Image.new("RGB", (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


@dataclass(frozen=True)
class ImagePreprocessor:
    """Settings of an image encoder, applied."""

    settings: ImageSettings

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {"preprocessing": self.settings.binds()}

    def prepare(self, item: "Image") -> "Tensor":
        """[h, w, 3] uint8."""
        return prepare_image(item, self.settings)

    @property
    def longest(self) -> int:
        """Every photo costs the same."""
        return 1

    def cost(self, prepared: "Tensor") -> int:
        """The same for every photo."""
        return 1

    def flag(self, prepared: "Tensor") -> str | None:
        """Whether no channel spans more than `NEAR_CONSTANT` levels, as the encoder sees it."""
        pixels = prepared.numpy()
        # first over rows, whose bytes lie side by side, then over the few columns: 50 times the speed of both at once
        rows = pixels.reshape(len(pixels), -1)
        most, least = (each.reshape(-1, pixels.shape[-1]) for each in (rows.max(0), rows.min(0)))
        spans = most.max(0).astype(int) - least.min(0)
        return "near_constant" if spans.max() <= NEAR_CONSTANT else None

    def batches(self, prepared: "Sequence[Tensor]", device: str) -> "list[Inputs]":
        """One batch of all photos: [b, 3, h, w] float32, normalised.

        In channels-last memory, which is what stacked photos are, and 2-3x faster on a CPU.
        """
        import torch

        from featcache.encoders.pooling import Inputs, Positions

        pixels = torch.stack(list(prepared)).to(device).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        mean = torch.tensor(self.settings.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.settings.std, device=device).view(1, -1, 1, 1)
        return [Inputs(list(range(len(prepared))), {"pixel_values": pixels.sub_(mean).div_(std)}, Positions())]

    def sample(self) -> "Tensor":
        """A plain picture."""
        from PIL import Image

        return self.prepare(Image.new("RGB", (320, 240), (120, 60, 30)))


@dataclass(frozen=True)
class PromptedImages(ImagePreprocessor):
    """Photos for a vision-language model, each with the same prompt around it."""

    prompt: str
    tokens: tuple[int, ...]  # of the prompt, its image token repeated once for each patch
    image_token: int
    tokenizer: str  # hash of its files

    def binds(self) -> dict[str, Any]:
        """As `Preprocessor`."""
        return {**super().binds(), "prompt": {"text": self.prompt, "ids": list(self.tokens), "files": self.tokenizer}}

    def batches(self, prepared: "Sequence[Tensor]", device: str) -> "list[Inputs]":
        """One batch of all photos, with the tokens of the prompt."""
        import torch

        from featcache.encoders.pooling import Inputs, Positions

        (plain,) = super().batches(prepared, device)
        ids = torch.tensor(self.tokens, device=device)
        tokens = ids.expand(len(prepared), -1)
        inputs = {**plain.tensors, "input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        return [Inputs(plain.rows, inputs, Positions(patches=ids == self.image_token))]


def load_image_preprocessor(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> ImagePreprocessor:
    """Settings from the entry, else from what the repository declares; WeightsInvalid if that is not supported."""
    images = ImagePreprocessor(_settings(spec, files, backbone))
    return images if spec.prompt is None else _prompted(spec, spec.prompt, files, backbone, images)


def _prompted(
    spec: EncoderSpec, prompt: str, files: WeightFiles, backbone: "Backbone", images: ImagePreprocessor
) -> PromptedImages:
    """The prompt's tokens, with as many image tokens as the network makes of a photo."""
    import torch
    from transformers import AutoTokenizer

    from featcache.encoders.text import hash_tokenizer

    network: Any = backbone.module
    token = getattr(network.config, "image_token_id", None)
    if token is None or not hasattr(network, "get_image_features") or files.folder is None:
        raise WeightsInvalid(f"{spec.model} reads no photo at an image token, which the `prompt` of {spec.name} needs")
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise WeightsInvalid(f"no tokenizer can be made of the files in {files.folder}: {error}") from error
    ids = tokenizer(prompt).input_ids
    if ids.count(token) != 1:
        raise WeightsInvalid(
            f"the prompt of {spec.name} holds the image token {ids.count(token)} times, and not once: {prompt!r}"
        )
    (sample,) = images.batches([images.sample()], "cpu")
    with torch.inference_mode():
        features = network.get_image_features(pixel_values=sample.tensors["pixel_values"])
    patches = len(getattr(features, "pooler_output", features)[0])
    at = ids.index(token)
    tokens = (*ids[:at], *[token] * patches, *ids[at + 1 :])
    return PromptedImages(images.settings, prompt, tokens, token, hash_tokenizer(files))


def _settings(spec: EncoderSpec, files: WeightFiles, backbone: "Backbone") -> ImageSettings:
    if spec.preprocessing is not None:
        return settings_from_entry(spec.preprocessing)
    if spec.library == "timm":
        return settings_from_timm(backbone.pretrained)
    if files.folder is None:
        raise WeightsInvalid(f"{spec.name} has neither `preprocessing` nor a repository that declares it")
    return settings_from_transformers(files.folder)
