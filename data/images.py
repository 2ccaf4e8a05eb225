"""Image files: their bytes, decoded to RGB pictures by the policy of docs/images.md."""

import io
import struct
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from featcache.data.errors import DataInvalid
from featcache.data.pixels import BACKGROUND, differs, needs_range, to_rgb
from featcache.data.svg import SIZE, decode_svg, is_svg
from featcache.data.views import View

if TYPE_CHECKING:
    from PIL import Image

# Bound in the root of every view that `decode_rgb` decodes, as it was before there was a policy: a row that plain
# conversion to RGB shows rightly keeps its hash, and any other binds the policy in its own (`bound_policy`).
DECODING = MappingProxyType({"decoder": "pillow", "mode": "RGB", "orientation": "as stored"})
POLICY = 1  # to be counted up when `to_rgb` or `decode_svg` gives other pixels
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .svg .svgz .tif .tiff .webp".split()
)
# Not read: a folder that holds one is told so.
OTHER_SUFFIXES = frozenset(
    ".ai .arw .cr2 .cr3 .dng .eps .exr .hdr .ico .jp2 .jxl .nef .pfm .psd .qoi .tga .xcf".split()
)
# what PIL raises of a file that is damaged, or no picture
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def decode_rgb(content: bytes, float_range: tuple[float, float] | None = None) -> "Image.Image":
    """Decodes an image file to a loaded RGB picture as it is to be seen; of an animation, the first frame.

    Args:
        content: A JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, SVG, AVIF or HEIF file.
        float_range: As for `to_rgb`.

    Raises:
        DataInvalid: If the bytes are no image, end early, unpack to more pixels than Pillow's bomb limit, need a
            package that is not installed, or hold values without a known range.

    Example:
        >>> from PIL import Image
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (4, 3), 255).save(buffer, format="PNG")
        >>> picture = decode_rgb(buffer.getvalue())
        >>> picture.mode, picture.size, picture.getpixel((0, 0))
        ('RGB', (4, 3), (255, 255, 255))
    """
    if is_svg(content):
        return decode_svg(content)
    from PIL import Image, UnidentifiedImageError

    try:
        image = _open(content)
        _refuse_bomb(image.width * image.height, Image.MAX_IMAGE_PIXELS)
        return to_rgb(image, float_range)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataInvalid(f"refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise DataInvalid(_why_unread(content)) from error
    except _BROKEN as error:
        raise DataInvalid(f"not a whole image file ({len(content)} bytes): {error}") from error


def bound_policy(content: bytes, float_range: tuple[float, float] | None = None) -> str:
    """What else the content hash of an image file binds of how it is decoded; "" for plain conversion to RGB.

    Reads the header alone; what cannot be read binds nothing.
    """
    if is_svg(content):
        return f"pictures {POLICY}: svg of {SIZE} pixels on {BACKGROUND}"
    from PIL import Image

    try:
        image = _open(content)
        if not differs(image, content):
            return ""
    except (Image.DecompressionBombWarning, Image.DecompressionBombError, *_BROKEN):
        return ""
    declared = f", {float(float_range[0])} to {float(float_range[1])}" if needs_range(image) and float_range else ""
    return f"pictures {POLICY}: on {BACKGROUND}{declared}"


def image_view(
    name: str,
    ids: tuple[str, ...],
    groups: tuple[str, ...],
    content: Callable[[int], bytes],
    *,
    float_range: tuple[float, float] | None = None,
) -> View:
    """A view of image files, decoded by `decode_rgb`."""
    return View(
        name=name,
        modality="image",
        ids=ids,
        groups=groups,
        content=content,
        decode=partial(decode_rgb, float_range=float_range),
        decoding=dict[str, Any](DECODING),
        bound=partial(bound_policy, float_range=float_range),
    )


def _open(content: bytes) -> "Image.Image":
    """Header of an image file, no pixel decoded."""
    from PIL import Image

    if _brands(content) & _HEIF_BRANDS and not _brands(content) & _AVIF_BRANDS:
        _register_heif()
    return Image.open(io.BytesIO(content))


def _brands(content: bytes) -> set[bytes]:
    """Brands of a file of the ISO base media format, which HEIF and AVIF are."""
    if content[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(content[:4], "big"), 256)
    return {content[8:12], *(content[at : at + 4] for at in range(16, end, 4))}


@cache
def _register_heif() -> None:
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        pass  # PIL then knows no such format, and `_why_unread` says what to install


def _why_unread(content: bytes) -> str:
    brands = _brands(content)
    again = "; then the same command again. Or convert it to JPEG or PNG"
    if brands & _AVIF_BRANDS:
        return f"an AVIF picture, which this Pillow does not read. Run: pip install --upgrade 'pillow>=11.3'{again}"
    if brands & _HEIF_BRANDS:
        return f"a HEIC or HEIF picture, which the package pillow-heif reads. Run: pip install pillow-heif{again}"
    if content[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF of a kind that Pillow does not read (damaged, or floating-point colour); save it as PNG"
    return f"not a whole image file ({len(content)} bytes): no format that Pillow reads"


def _refuse_bomb(pixels: int, limit: int | None) -> None:
    # Pillow only warns between one and two times its limit; a filter that turns the warning into an error would not
    # be safe from threads.
    if limit is not None and pixels > limit:
        raise DataInvalid(f"{pixels} pixels exceed the limit of {limit}, refused as a decompression bomb")
