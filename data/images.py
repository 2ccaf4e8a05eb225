"""Image files: their bytes, decoded to RGB pictures."""

import io
import struct
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from featcache.data.errors import DataInvalid
from featcache.data.views import View

if TYPE_CHECKING:
    from PIL import Image

# Bound in the root of every view that `decode_rgb` decodes.
DECODING = MappingProxyType({"decoder": "pillow", "mode": "RGB", "orientation": "as stored"})


def decode_rgb(content: bytes) -> "Image.Image":
    """Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF file to a loaded RGB picture, as timm and transformers do by default.

    The EXIF orientation is not applied, and transparency is dropped rather than composited, because the published
    numbers of the encoders were made so. Of an animation the first frame is taken.

    Raises:
        DataInvalid: If the bytes are no image, end early, or unpack to more pixels than Pillow's bomb limit.

    Example:
        >>> from PIL import Image
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (4, 3), 255).save(buffer, format="PNG")
        >>> picture = decode_rgb(buffer.getvalue())
        >>> picture.mode, picture.size, picture.getpixel((0, 0))
        ('RGB', (4, 3), (255, 255, 255))
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content))
        _refuse_bomb(image.width * image.height, Image.MAX_IMAGE_PIXELS)
        if image.mode == "P" and "transparency" in image.info:
            # Same pixels as the direct way, without Pillow's warning about palettes with transparency.
            image = image.convert("RGBA")
        return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataInvalid(f"refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise DataInvalid(f"not a whole image file ({len(content)} bytes): no format that Pillow reads") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError) as error:
        raise DataInvalid(f"not a whole image file ({len(content)} bytes): {error}") from error


def image_view(name: str, ids: tuple[str, ...], groups: tuple[str, ...], content: Callable[[int], bytes]) -> View:
    """A view of image files, decoded by `decode_rgb`."""
    return View(
        name=name,
        modality="image",
        ids=ids,
        groups=groups,
        content=content,
        decode=decode_rgb,
        decoding=dict[str, Any](DECODING),
    )


def _refuse_bomb(pixels: int, limit: int | None) -> None:
    # Pillow only warns between one and two times its limit; a filter that turns the warning into an error would not
    # be safe from threads.
    if limit is not None and pixels > limit:
        raise DataInvalid(f"{pixels} pixels exceed the limit of {limit}, refused as a decompression bomb")
