"""The one policy by which a picture of any mode becomes 8-bit RGB (docs/images.md)."""

import io
import math
import struct
from typing import TYPE_CHECKING, Any

from featcache.data.errors import DataInvalid

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

BACKGROUND = (255, 255, 255)  # under what is transparent
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_SIXTEEN = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_NUMBERS = frozenset({*_SIXTEEN, "I", "F"})  # modes of one channel that plain conversion to RGB clips
# Tags of TIFF.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 258, 262, 339, 274
# From pixels as stored to pixels as they are to be seen: names of PIL's transpositions.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# A transparent colour is declared in the file's own bits; PIL widens or narrows the pixels, and not the colour.
_TO_BYTES = {"L;2": (0, 85), "L;4": (0, 17), "RGB;16B": (8, 1)}  # raw mode -> (bits to drop, factor)


def to_rgb(image: "Image.Image", float_range: tuple[float, float] | None = None) -> "Image.Image":
    """A loaded RGB picture as it is to be seen: scaled by its type's range, on white, turned upright.

    Args:
        image: A picture of any mode of PIL's.
        float_range: Values of floating-point and 32-bit integer samples that are black and white; None refuses these.

    Raises:
        DataInvalid: If its values have no known range or leave the declared one, or its colours cannot be converted.

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("I;16", (2, 2), 0x8080)).getpixel((0, 0))
        (128, 128, 128)
        >>> to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    key = _transparent_colour(image)  # first: to look for an orientation may load the picture
    turn = _TURNS.get(_orientation(image))
    image.load()
    picture = _plain_rgb(image, float_range, key)
    if turn is not None:
        from PIL.Image import Transpose

        picture = picture.transpose(Transpose[turn])
    picture.info = {}  # it is upright and opaque now: nothing is to be applied a second time
    return picture


def differs(image: "Image.Image", content: bytes) -> bool:
    """Whether `to_rgb` gives other pixels than PIL's plain conversion to RGB, which ignores range, alpha and turn.

    Of a palette without transparency, and of CMYK without a profile, the plain conversion is the policy.

    Args:
        image: The picture as `PIL.Image.open` gives it: no pixel is decoded here.
        content: The bytes of its file.
    """
    if image.mode in _NUMBERS or _has_alpha(image) or _cmyk_profile(image):
        return True
    if image.format == "PNG" and not any(mark in content for mark in (b"eXIf", b"Raw profile", b"XML:com.adobe.xmp")):
        return False  # PIL would decode all of it to look for an orientation behind the pixels
    return _orientation(image) in _TURNS


def needs_range(image: "Image.Image") -> bool:
    """Whether a picture's samples are black and white only by declaration; no pixel is decoded."""
    return image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))


def _plain_rgb(image: "Image.Image", float_range: tuple[float, float] | None, key: Any) -> "Image.Image":
    if image.mode in _NUMBERS:
        return _from_numbers(image, float_range, key)
    if _has_alpha(image):
        return _on_background(image, key)
    if profile := _cmyk_profile(image):
        return _by_profile(image, profile)
    return image.convert("RGB")


# -- orientation ------------------------------------------------------------------------------------------------------


def _orientation(image: "Image.Image") -> Any:
    if image.format == "TIFF":
        return 1  # PIL turns a TIFF upright when it loads it
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return 1  # damaged metadata, as every viewer ignores them


# -- alpha ------------------------------------------------------------------------------------------------------------


def _has_alpha(image: "Image.Image") -> bool:
    if image.mode in _ALPHA or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _transparent_colour(image: "Image.Image") -> Any:
    """What a picture that is not loaded yet declares as transparent: a colour of its loaded pixels, or alphas."""
    key, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    drop, factor = _TO_BYTES.get(str(tiles[0].args), (0, 1)) if tiles else (0, 1)
    if isinstance(key, int):
        return (key >> drop) * factor
    return tuple((each >> drop) * factor for each in key) if isinstance(key, tuple) else key


def _on_background(image: "Image.Image", key: Any) -> "Image.Image":
    from PIL import Image

    if image.mode in ("L", "RGB"):
        image = image.copy()
        image.info["transparency"] = key
    layers = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")  # PIL has no other way from "La"
    return Image.alpha_composite(Image.new("RGBA", layers.size, (*BACKGROUND, 255)), layers).convert("RGB")


# -- numbers ----------------------------------------------------------------------------------------------------------


def _from_numbers(image: "Image.Image", float_range: tuple[float, float] | None, key: Any) -> "Image.Image":
    import numpy as np
    from PIL import Image

    tags: Any = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if not needs_range(image):
        bits = tags.get(_BITS, (16,))[0]
        low, high = 0.0, float(2**bits - 1)
    elif float_range is None:
        kind = "floating-point" if image.mode == "F" else "32-bit or signed integer"
        raise DataInvalid(
            f"{kind} samples state no black and white; declare the two values, as in --float-range 0:1 (never guessed "
            "from a picture's own minimum and maximum), or save it with 8 or 16 bits"
        )
    else:
        low, high = float_range
        if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (2,))[0] == 1:
            values = values.view(np.uint32)  # PIL reads unsigned samples into signed ones
    levels = _levels(values, low, high)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; PIL inverts only 8 bits
        levels = 255 - levels
    picture = Image.fromarray(levels).convert("RGB")
    if isinstance(key, int):
        picture.paste(BACKGROUND, mask=Image.fromarray(values == key))
    return picture


def _levels(values: "np.ndarray", low: float, high: float) -> "np.ndarray":
    """Values to the nearest of 256 levels from low (0) to high (255), uint8; DataInvalid if one is beyond them."""
    import numpy as np

    least, most = float(values.min()), float(values.max())
    if not math.isfinite(least) or not math.isfinite(most):
        raise DataInvalid("it holds values that are NaN or infinite")
    levels = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    if levels.min() < 0 or levels.max() > 255:
        raise DataInvalid(
            f"its values go from {least:g} to {most:g}, beyond the declared {low:g} to {high:g}; declare a range that "
            "holds all of them with --float-range"
        )
    return levels.astype(np.uint8)


# -- CMYK -------------------------------------------------------------------------------------------------------------


def _cmyk_profile(image: "Image.Image") -> bytes | None:
    return image.info.get("icc_profile") or None if image.mode == "CMYK" else None


def _by_profile(image: "Image.Image", profile: bytes) -> "Image.Image":
    """CMYK to sRGB by the file's own ICC profile, perceptual intent."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise DataInvalid(f"its CMYK colours cannot be converted by the profile it holds: {error}") from error
    assert converted is not None  # only inPlace=True returns nothing
    return converted
