"""Are Parquet files with images a data set by their columns, guessed where clear, and asked for where not?"""

import json
from pathlib import Path

import polars as pl
import pytest

from featcache import data
from featcache.data.open import dataset_source
from tests.own_data import captions_of, open_own, picture, split_by_group, write_pictures, write_table


def test_rows_are_images_and_captions_counted_in_the_series_of_their_files(tmp_path: Path) -> None:
    write_table(tmp_path / "data/train-00000-of-00002.parquet", range(2))
    write_table(tmp_path / "data/train-00001-of-00002.parquet", range(2, 3))
    write_table(tmp_path / "data/test-00000-of-00001.parquet", range(3, 5))
    dataset = open_own(tmp_path)
    images = dataset.views["images"]
    assert images.ids == ("test/0", "test/1", "train/0", "train/1", "train/2")
    assert [images.content(row) for row in (4, 0)] == [picture(2), picture(3)]
    assert captions_of(dataset)["train/2#0"] == "a picture of 2"
    assert [*split_by_group(dataset).values()] == ["test", "test", "train", "train", "train"]
    assert dataset.source == "folder with 3 Parquet files" and dataset.notes == ("splits: the names of the files",)


def test_files_that_lack_of_a_series_are_said(tmp_path: Path) -> None:
    write_table(tmp_path / "data/train-00001-of-00003-0a1b.parquet", range(2))
    assert open_own(tmp_path).notes[0] == "1 of 3 files of train are there"


def test_one_file_is_a_data_set_by_its_path(tmp_path: Path) -> None:
    dataset = dataset_source(str(write_table(tmp_path / "My Table.parquet", range(3)))).open()
    assert dataset.name == "my-table" and dataset.views["images"].ids == ("My Table/0", "My Table/1", "My Table/2")
    assert dataset.source == "folder with a Parquet file"


def test_img2datasets_parquet_is_told_by_its_only_column_of_bytes(tmp_path: Path) -> None:
    columns = {"url": ["u", "v"], "key": ["007", "008"], "jpg": [picture(0), picture(1)], "caption": ["one", "two"]}
    pl.DataFrame({**columns, "sha256": ["x", "y"], "width": [40, 40]}).write_parquet(tmp_path / "00000.parquet")
    dataset = open_own(tmp_path)
    assert dataset.views["images"].ids == ("007", "008") and captions_of(dataset) == {"007#0": "one", "008#0": "two"}


def test_lists_and_numbered_columns_are_several_captions_of_one_image(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", range(2), caption=[["one", "eins"], ["two"]])
    assert [*captions_of(open_own(tmp_path))] == ["a/0#0", "a/0#1", "a/1#0"]
    frame = pl.read_parquet(tmp_path / "a.parquet").drop("caption")
    frame.with_columns(caption_1=pl.lit("second"), caption_0=pl.lit("first")).write_parquet(tmp_path / "a.parquet")
    assert [*captions_of(open_own(tmp_path)).values()] == ["first", "second"] * 2


def test_rows_that_repeat_the_name_of_an_image_are_its_captions(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [0, 0, 1], image_id=[7, 7, 9], caption=["one", "eins", "two"])
    dataset = open_own(tmp_path)
    assert dataset.views["images"].ids == ("7", "9")
    assert captions_of(dataset) == {"7#0": "one", "7#1": "eins", "9#0": "two"}
    assert dataset.notes[0] == "1 row repeats the image_id of an earlier one and is a caption of its image"
    write_table(tmp_path / "a.parquet", [0, 0, 1], id=[7, 7, 9])
    assert open_own(tmp_path).views["images"].ids == ("a/0", "a/1", "a/2"), "a column id may be another thing's"


def test_numbers_that_begin_anew_in_each_split_are_no_names_of_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}.parquet", range(2), image_id=[0, 1])
    assert open_own(tmp_path).views["images"].ids == ("test/0", "test/1", "train/0", "train/1")
    with pytest.raises(data.DataInvalid, match="train.parquet row 0: group '0' has another split"):
        open_own(tmp_path, "id=image_id")


def test_splits_groups_and_labels_are_columns_and_the_hubs_names_of_classes_are_read(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", range(3))
    more = {"split": ["train", "train", "val"], "group": ["x", "x", "y"], "label": [1, 1, 0], "fine_label": [5, 5, 6]}
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "caption": {"dtype": "string"}}
    frame = pl.read_parquet(path).with_columns(pl.Series(name, values) for name, values in more.items())
    frame.write_parquet(path, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    dataset = open_own(tmp_path)
    assert split_by_group(dataset) == {"x": "train", "y": "validation"}
    assert dataset.overlay.labels == {"label": ("dog", "cat"), "fine_label": ("5", "6")}
    frame.with_columns(label=pl.Series([0, 1, 0])).write_parquet(path)
    with pytest.raises(data.DataInvalid, match="a.parquet row 1: group 'x' has another split or label"):
        open_own(tmp_path)


def test_columns_can_be_declared(tmp_path: Path) -> None:
    more = {"mask": [picture(7), picture(8)], "alt": ["one", None], "note": ["zwei", " "], "name": ["p", "q"]}
    write_table(tmp_path / "a.parquet", range(2), **more, kind=["k", "l"], part=["train", "test"])
    columns = ("image=mask", "caption=alt", "caption=note", "id=name", "label=kind", "split=part", "group=name")
    dataset = open_own(tmp_path, *columns)
    assert dataset.views["images"].ids == ("p", "q") and dataset.views["images"].content(0) == picture(7)
    assert captions_of(dataset) == {"p#0": "one", "p#1": "zwei"}
    assert dataset.overlay.labels == {"kind": ("k", "l")} and split_by_group(dataset) == {"p": "train", "q": "test"}
    assert "2 captions are empty and left out: q; q" in dataset.notes


def test_columns_that_are_not_read_are_named_whether_a_caption_is_declared_or_not(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", range(3), alt=["x"] * 3, author=["y"] * 3)
    assert "columns that are not read: alt, author" in open_own(tmp_path).notes
    assert "columns that are not read: caption, author" in open_own(tmp_path, "caption=alt").notes


def test_where_no_column_is_called_a_caption_the_texts_are_named(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", range(2))
    pl.read_parquet(path).rename({"caption": "prompt"}).write_parquet(path)
    dataset = open_own(tmp_path)
    assert [*dataset.views] == ["images"] and len(dataset.views["images"]) == 2
    assert dataset.notes[0].endswith("texts are in prompt: to read one, add --column caption=prompt")
    pl.read_parquet(path).drop("prompt").write_parquet(path)
    assert open_own(tmp_path).views["images"].ids == ("a/0", "a/1"), "a file of images alone has no column to read"


@pytest.mark.parametrize(
    ("columns", "more", "says"),
    [
        ((), {"mask": [b"1", b"2"], "depth": [b"3", b"4"]}, None),
        (
            (),
            {"image": [b"1", b"2"], "jpg": [b"3", b"4"]},
            "several columns of bytes: image, jpg\n.*--column image=image",
        ),
        ((), {"image": ["u", "v"]}, r"no column of image bytes; addresses of images \(image\) are not followed"),
        ((), {"image": [1, 2]}, r"no column of image bytes.*\n  It has: image \(Int64\), caption \(String\)"),
        (("image=imgae",), {}, "has no column 'imgae'; did you mean --column image=image"),
        (("image=caption",), {}, "column 'caption' holds no image bytes but String\n  Columns of bytes: image"),
        (("caption=image",), {}, "column 'image' holds no texts but .*\n  Columns of texts: caption"),
        (("id=key",), {"key": ["a", None]}, "a.parquet row 1 has no id in column 'key'"),
    ],
)
def test_columns_that_are_not_clear_or_not_there_are_asked_for(
    columns: tuple[str, ...], more: dict[str, list[object]], says: str | None, tmp_path: Path
) -> None:
    write_table(tmp_path / "a.parquet", range(2), **more)
    if says is None:
        assert open_own(tmp_path, *columns).views["images"].content(0) == picture(0)
        return
    with pytest.raises(data.DataInvalid, match=says):
        open_own(tmp_path, *columns)


def test_files_of_several_kinds_are_refused_and_a_broken_one_is_named(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", range(2), label=[0, 1])
    write_table(tmp_path / "b.parquet", range(2))
    with pytest.raises(data.DataInvalid, match="b.parquet has no column 'label', which a.parquet has"):
        open_own(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(data.DataInvalid, match="b.parquet cannot be read as Parquet"):
        open_own(tmp_path)


def test_texts_that_unpack_to_more_than_the_limit_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "a.parquet", range(3), caption=["x" * 50_000_000] * 3)
    assert path.stat().st_size < 200_000, "a bomb is small"
    monkeypatch.setenv("FEATCACHE_MAX_TEXTS_BYTES", "10000000")
    with pytest.raises(data.DataInvalid, match=r"a.parquet has [\d,]+ bytes of texts in Parquet.*\n.*run: export"):
        open_own(tmp_path)


def test_a_row_without_an_image_fails_alone_when_it_is_read(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", range(3))
    empty = pl.Series([{"bytes": picture(0)}, None, {"bytes": b""}], dtype=pl.Struct({"bytes": pl.Binary}))
    pl.read_parquet(path).with_columns(image=empty).write_parquet(path)
    images = open_own(tmp_path).views["images"]
    assert len(images.hashes) == 3 and images.read(0).size == (40, 40)
    for row in (1, 2):
        with pytest.raises(data.DataInvalid, match=f"images row 'a/{row}' .*not a whole image file .0 bytes."):
            images.read(row)


def test_images_beside_parquet_files_are_what_is_read_and_the_note_says_how_to_read_the_other(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", range(3))
    write_pictures(tmp_path, "1.jpg")
    dataset = open_own(tmp_path)
    assert dataset.views["images"].ids == ("1.jpg",)
    assert "not read, since there are images: 1 .parquet; --layout parquet reads them instead" in dataset.notes
    assert len(open_own(tmp_path, layout="parquet").views["images"]) == 3
    with pytest.raises(data.DataInvalid, match="--layout zarr: wanted one of images, coco, webdataset, parquet"):
        open_own(tmp_path, layout="zarr")
    with pytest.raises(data.DataInvalid, match="--column is for Parquet files and WebDataset shards"):
        open_own(tmp_path, "image=jpg")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "out.parquet", range(2))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.parquet").symlink_to(tmp_path / "out.parquet")
    with pytest.raises(data.DataInvalid, match="'x.parquet' is a link that leads out"):
        open_own(tmp_path / "in")


@pytest.mark.parametrize(
    ("text", "says"),
    [("image", "wanted ROLE=NAME"), ("imge=x", "did you mean image=x"), ("image=", "wanted ROLE=NAME")],
)
def test_a_declaration_of_another_form_is_refused_with_the_roles(text: str, says: str) -> None:
    from featcache.data.options import parse_columns

    with pytest.raises(
        data.DataInvalid, match=f"--column {text}: .*image, caption, id, group, split, label.*"
    ) as caught:
        parse_columns([text])
    assert says in str(caught.value)
    with pytest.raises(data.DataInvalid, match="id has one column"):
        parse_columns(["id=a", "id=b"])
