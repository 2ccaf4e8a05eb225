"""How often the rule for near-identical images finds copies, and how often it calls two different pictures one.

    .venv/bin/python benchmarks/leaks.py [--root FLICKR30K] [--pictures 2500] [--copies 250]

Rates behind the table of docs/runs.md: drawings of openmoji (those of one family left out, which are drawn alike), and
with --root photos of Flickr30k, by the packaged encoders, each alone and where both must agree. About ten minutes.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from featcache.data import open_dataset
from featcache.data.openmoji import family_of
from featcache.data.views import Dataset, View
from featcache.encoders import EncodeOptions, Encoder, encoder_spec, load_encoder
from featcache.metrics import near_duplicates

ENCODERS = ("efficientnet-lite0", "efficientnet-lite2")
Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def resized(share: float) -> Change:
    return lambda image: image.resize(
        (round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC
    )


def cut(share: float) -> Change:
    """Without a border of that share on every side."""
    return lambda image: ImageOps.crop(image, round(image.width * share))


def shifted(share: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, (round(image.width * share), round(image.height * share)))
        return canvas

    return change


def warmer(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda v: v * 1.06), green, blue.point(lambda v: v * 0.94)))


CHANGES: dict[str, Change] = {
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "JPEG 25": jpeg(25),
    "size × .75": resized(0.75),
    "size × .5": resized(0.5),
    "border of 2 % cut": cut(0.02),
    "border of 5 % cut": cut(0.05),
    "shifted by 2 %": shifted(0.02),
    "shifted by 5 %": shifted(0.05),
    "brightness × 1.1": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "saturation × .7": lambda image: ImageEnhance.Color(image).enhance(0.7),
    "contrast × 1.2": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "warmer by 6 %": warmer,
    "turned by 2°": lambda image: image.rotate(2, Image.Resampling.BICUBIC, fillcolor="white"),
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def encode(encoder: Encoder, images: Sequence[Image.Image]) -> np.ndarray:
    prepared, layer = [encoder.prepare(image) for image in images], encoder.card.default
    parts = [encoder.encode(prepared[start : start + 16], (layer,)) for start in range(0, len(prepared), 16)]
    return np.concatenate([part[layer].numpy() for part in parts])


def families(dataset: Dataset) -> np.ndarray:
    """Pictures that are drawn alike on purpose, which a rule may well call near-identical."""
    if dataset.name != "openmoji":
        return np.arange(len(dataset.views["images"]))
    captions = dataset.views["captions"]
    names = [str(captions.read(row)).partition(":")[0] for row in range(len(captions))]
    kinds = dataset.overlay.labels["subgroup"]
    return np.unique([family_of(*pair) for pair in zip(names, kinds, strict=True)], return_inverse=True)[1]


def near(queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Whether each query is near-identical: to its original (row `own`), or to anything where that is None."""
    result = near_duplicates(queries, gallery, size=len(gallery))
    return result.near if own is None else result.near & (result.nearest == own)


def different(values: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Whether each picture is called near-identical to one of another family."""
    flags = np.zeros(len(values), bool)
    for one in np.unique(family):
        inside = family == one
        flags[inside] = near(values[inside], values[~inside], None)
    return flags


def show(name: str, flags: dict[str, np.ndarray]) -> None:
    both = np.logical_and.reduce([*flags.values()])
    rates = "  ".join(f"{one.mean():.3f}" for one in (*flags.values(), both))
    print(f"{name:28} {rates}", flush=True)


def measure(dataset: Dataset, pictures: int, copies: int) -> None:
    view: View = dataset.views["images"]
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(view))[:pictures])
    own = rng.permutation(len(rows))[:copies]
    with TemporaryDirectory() as memo:
        encoders = {name: load_encoder(encoder_spec(name), EncodeOptions(), memo=Path(memo)) for name in ENCODERS}
    images = [view.read(int(row)) for row in rows]
    gallery = {name: encode(encoder, images) for name, encoder in encoders.items()}
    print(f"\n{dataset.name}, {len(rows):,} pictures, {len(own)} copies: {', '.join(ENCODERS)}, both")
    family = families(dataset)[rows]
    show("different pictures (false)", {name: different(values, family) for name, values in gallery.items()})
    for name, change in CHANGES.items():
        changed = [change(images[row]) for row in own]
        show(name, {key: near(encode(encoder, changed), gallery[key], own) for key, encoder in encoders.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="Folder of Flickr30k.")
    parser.add_argument("--pictures", type=int, default=2_500)
    parser.add_argument("--copies", type=int, default=250)
    options = parser.parse_args()
    measure(open_dataset("openmoji"), options.pictures, options.copies)
    if options.root is not None:
        measure(open_dataset("flickr30k", root=options.root), options.pictures, options.copies)


if __name__ == "__main__":
    main()
