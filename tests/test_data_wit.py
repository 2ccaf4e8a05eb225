"""Is wit_1024 read as published, and refused when it is not?"""

import io

import polars as pl
import pytest
from PIL import Image

from featcache import data


def table(rows: int, **columns) -> pl.DataFrame:
    pictures = []
    for row in range(rows):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2), (row % 256, row // 256, 0)).save(buffer, format="PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    struct = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    texts = [[f"caption {row}", "another"] for row in range(rows)]
    return pl.DataFrame({"image": pl.Series(pictures, dtype=struct), "text": texts}).with_columns(
        pl.Series(name, values) for name, values in columns.items()
    )


def open_(root) -> data.Dataset:
    return data.open_dataset("wit_1024", root=root)


@pytest.mark.parametrize("folder", [".", "data"])
def test_rows_keep_the_order_of_the_files_and_captions_are_the_first(folder, tmp_path):
    (tmp_path / folder).mkdir(exist_ok=True)
    whole = table(1024)
    whole[:700].write_parquet(tmp_path / folder / "train-00000-of-00002.parquet")
    whole[700:].write_parquet(tmp_path / folder / "train-00001-of-00002.parquet")
    dataset = open_(tmp_path)
    images, texts = dataset.views["images"], dataset.views["captions"]
    assert images.ids == texts.ids == dataset.overlay.groups and images.ids[1023] == "1023"
    assert texts.read(900) == "caption 900" and texts.read(3) == "caption 3"
    assert images.read(900).getpixel((0, 0)) == (900 % 256, 3, 0)
    assert set(dataset.overlay.splits) == {""}


def test_a_text_column_of_plain_strings_reads_too(tmp_path):
    table(1024, text=[f"caption {row}" for row in range(1024)]).write_parquet(tmp_path / "0.parquet")
    assert open_(tmp_path).views["captions"].read(5) == "caption 5"


def test_another_number_of_rows_is_refused(tmp_path):
    table(3).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(data.DataInvalid, match="3 rows in 1 files"):
        open_(tmp_path)


@pytest.mark.parametrize("text", [[["a"], []], [["a"], None], [["a"], [" "]]])
def test_a_row_without_caption_is_refused_by_file_and_row(text, tmp_path):
    table(2, text=text).write_parquet(tmp_path / "0.parquet")
    with pytest.raises(data.DataInvalid, match="0.parquet row 1 has no caption"):
        open_(tmp_path)


def test_a_lacking_column_is_refused(tmp_path):
    table(2).drop("text").write_parquet(tmp_path / "0.parquet")
    with pytest.raises(data.DataInvalid, match="has no column text"):
        open_(tmp_path)


def test_without_a_root_it_comes_from_the_hub(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "c0ffee").mkdir()
    table(1024).write_parquet(tmp_path / "c0ffee" / "0.parquet")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(tmp_path / "c0ffee"))
    assert data.open_dataset("wit_1024").source == "Hub minhuh/prh@c0ffee (wit_1024)"
