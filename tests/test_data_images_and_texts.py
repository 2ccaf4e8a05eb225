"""Are image bytes and captions decoded as declared, and bad ones refused?"""

import io
import unicodedata

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.images import decode_rgb, image_view
from featcache.data.parquet_images import Cell, ParquetImages, read_columns
from featcache.data.texts import decode_text, normal_caption, text_view


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_opaque_mode_decodes_to_what_pillow_converts_to_rgb(mode):
    image = Image.new("RGB", (5, 4), (200, 30, 60)).convert(mode)
    assert decode_rgb(file_of(image)).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("content", [b"", b"not an image", file_of(Image.effect_noise((64, 64), 50))[:-1500]])
def test_bytes_that_are_no_whole_image_are_refused(content):
    with pytest.raises(DataInvalid, match="not a whole image file"):
        decode_rgb(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [15, 5])
def test_a_decompression_bomb_is_refused_whether_pillow_warns_or_raises(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataInvalid, match="decompression bomb"):
        decode_rgb(file_of(Image.new("RGB", (4, 4))))


def test_a_bad_image_is_refused_by_the_id_of_its_row():
    view = image_view("images", ("a.png", "b.png"), ("a", "b"), lambda row: b"broken")
    with pytest.raises(DataInvalid, match=r"images row 'b.png' \(number 1\)"):
        view.read(1)


@given(st.text())
def test_the_normal_form_of_a_caption_is_idempotent(text):
    once = normal_caption(text)
    assert normal_caption(once) == once


@given(st.text(alphabet=st.sampled_from("aé\u0301 .!?\t\u00a0\u2028,")))
def test_the_normal_form_is_composed_and_keeps_every_mark(text):
    once = normal_caption(text)
    assert unicodedata.is_normalized("NFC", once) and once == once.strip() and "  " not in once
    assert "".join(once.split()) == "".join(unicodedata.normalize("NFC", text).split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in the yard .", "in the yard."),
        ("in the yard.", "in the yard."),
        ("Really ? !", "Really?!"),
        ("at 5 p.m. and then", "at 5 p.m. and then"),
        (" no mark\n", "no mark"),
        ("a . b", "a . b"),
        (".", "."),
        ("cafe\u0301 .", "café."),
    ],
)
def test_a_caption_loses_spaces_before_its_final_marks_only(text, expected):
    assert normal_caption(text) == expected


def test_an_empty_text_is_refused_by_id():
    with pytest.raises(DataInvalid, match="'b' has an empty text"):
        text_view("captions", ["a", "b"], ["g", "g"], ["words", " \t"])


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(DataInvalid, match="not UTF-8"):
        decode_text(b"\xff")


def parquet(path, contents, row_group_size=None):
    struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    frame = pl.DataFrame(
        {"image": [{"bytes": content, "path": None} for content in contents]}, schema={"image": struct}
    )
    frame.write_parquet(path, row_group_size=row_group_size)
    return path


def test_parquet_images_equal_what_was_written_and_storage_order_reads_each_slice_once(tmp_path):
    contents = [f"photo {row}".encode() for row in range(23)]
    files = [parquet(tmp_path / "0.parquet", contents[:13], 5), parquet(tmp_path / "1.parquet", contents[13:], 5)]
    images = ParquetImages(files, "image", slice_rows=5, kept=2)
    cells = [Cell(0, row) for row in range(13)] + [Cell(1, row) for row in range(10)]
    assert [images.read(cell) for cell in cells] == contents
    assert images.slices_read == 3 + 2


def test_parquet_images_read_by_threads_in_any_order_are_the_right_ones(tmp_path):
    contents = [f"photo {row}".encode() for row in range(60)]
    images = ParquetImages([parquet(tmp_path / "0.parquet", contents)], "image", slice_rows=7, kept=2)
    rows = tuple(str(row) for row in range(60))
    view = image_view("images", rows, rows, lambda row: images.read(Cell(0, 59 - row)))
    flat = image_view("images", rows, rows, lambda row: contents[59 - row])
    assert view.root == flat.root


def test_an_empty_image_cell_is_refused_by_file_and_row(tmp_path):
    images = ParquetImages([parquet(tmp_path / "0.parquet", [b"x", b""])], "image")
    with pytest.raises(DataInvalid, match="0.parquet: row 1 has no image bytes"):
        images.read(Cell(0, 1))


def test_a_column_without_image_bytes_is_refused(tmp_path):
    pl.DataFrame({"image": ["a.jpg"]}).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(DataInvalid, match="'image' should hold image bytes but is String"):
        ParquetImages([tmp_path / "0.parquet"], "image")


def test_a_lacking_column_and_a_file_that_is_no_parquet_are_refused(tmp_path):
    pl.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(DataInvalid, match="has no column caption; it has text"):
        read_columns(tmp_path / "0.parquet", ["caption"])
    (tmp_path / "1.parquet").write_bytes(b"PAR0" * 10)
    with pytest.raises(DataInvalid, match="1.parquet cannot be read as Parquet"):
        read_columns(tmp_path / "1.parquet", ["caption"])
    with pytest.raises(DataMissing, match="2.parquet is not there"):
        read_columns(tmp_path / "2.parquet", ["caption"])
