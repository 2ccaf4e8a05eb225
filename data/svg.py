"""SVG drawings, rendered by resvg."""

import io
import zlib
from functools import cache
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from featcache.data.errors import DataInvalid

if TYPE_CHECKING:
    from PIL import Image

SIZE = 512  # pixels of the longer side of a drawing whose data set declares no other
_GZIP = b"\x1f\x8b"
_MOST_BYTES = 64 * 2**20  # of an unpacked .svgz
_LINKING = frozenset({"image", "use", "feImage"})  # elements that draw what their href names
_BACKGROUND = "#ffffff"


def is_svg(content: bytes) -> bool:
    """Whether bytes are XML, packed or not, which no other image format begins like."""
    return content[:2] == _GZIP or content[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1] == b"<"


def decode_svg(content: bytes) -> "Image.Image":
    """Renders an SVG or SVGZ file of anybody's on white, its longer side `SIZE` pixels.

    Text is drawn in the fonts of this machine.

    Raises:
        DataInvalid: If it is no SVG, draws other files or HTML, has text where there are no fonts, or resvg is not
            installed.

    Example:
        >>> wide = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path fill="red" d="M0 0h1v1"/></svg>'
        >>> picture = decode_svg(wide)
        >>> picture.size, picture.getpixel((200, 9)), picture.getpixel((500, 9))
        ((512, 256), (255, 0, 0), (255, 255, 255))
    """
    content = _unpacked(content)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataInvalid(f"not an SVG drawing: {error}") from error
    has_text = _checked(root)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # another encoding, which its first line declares and the parser has followed
        text = ElementTree.tostring(root, "unicode")
    if has_text and not _has_fonts():
        raise DataInvalid("the drawing holds text, and this machine has no fonts; convert its text to paths")
    return render_svg(text, SIZE, fonts=has_text)


def render_svg(text: str, size: int, *, fonts: bool = False) -> "Image.Image":
    """Renders an SVG on white to RGB, within size x size pixels; safe from threads.

    Args:
        text: The drawing.
        size: Pixels of the longer side.
        fonts: Draw text, in this machine's fonts; without them the pixels depend on the SVG alone.

    Raises:
        DataInvalid: If resvg cannot draw it, or is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DataInvalid(
            "an SVG drawing, which the package resvg-py renders. Run: pip install resvg-py; then the same command again"
        ) from error
    from PIL import Image

    try:
        # Both sides: by one alone, a narrow drawing would take any amount of memory.
        png = resvg_py.svg_to_bytes(
            svg_string=text, width=size, height=size, background=_BACKGROUND, skip_system_fonts=not fonts
        )
    except ValueError as error:
        raise DataInvalid(f"not an SVG that resvg can draw: {error}") from error
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")  # opaque: the background lies under all of it


def _unpacked(content: bytes) -> bytes:
    if content[:2] != _GZIP:
        return content
    unpacker = zlib.decompressobj(31)
    try:
        text = unpacker.decompress(content, _MOST_BYTES)
    except zlib.error as error:
        raise DataInvalid(f"not a whole SVGZ drawing: {error}") from error
    if unpacker.unconsumed_tail:
        raise DataInvalid(f"unpacks to more than {_MOST_BYTES} bytes, refused as a decompression bomb")
    if not unpacker.eof:
        raise DataInvalid("not a whole SVGZ drawing: it ends early")
    return text


def _checked(root: ElementTree.Element) -> bool:
    """Whether a drawing has text; DataInvalid if it draws what its bytes do not hold, or what resvg leaves out."""
    if _name(root) != "svg":
        raise DataInvalid(f"not an SVG drawing: its outermost element is {_name(root)!r}")
    for element in root.iter():
        if _name(element) in _LINKING:
            for key, value in element.attrib.items():
                if key.rpartition("}")[2] == "href" and not value.strip().startswith(("#", "data:")):
                    raise DataInvalid(f"the drawing takes in another file, {value.strip()[:80]!r}; embed it")
        if _name(element) != "switch" and any(_name(child) == "foreignObject" for child in element):
            raise DataInvalid("the drawing holds HTML (foreignObject), which resvg does not draw; convert it to paths")
    return any(_name(element) == "text" and "".join(element.itertext()).strip() for element in root.iter())


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]  # of a comment the tag is a function


@cache
def _has_fonts() -> bool:
    probe = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text y="9">A</text></svg>'
    return render_svg(probe, 9, fonts=True).tobytes() != render_svg(probe, 9).tobytes()
