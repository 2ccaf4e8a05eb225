"""Is a caption file read whichever delimiter and encoding it has, and is a line that is at fault named?"""

import csv
import io
import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.data.caption_files import CAPTION_FILES, DELIMITERS, STEMS, SUFFIXES, read_caption_file
from featcache.data.errors import DataInvalid

HEADER = ["image", "caption", "split"]
CELLS = [
    ["a.jpg", 'Ein "Café", im Süden; heiß | klein\tund alt', "train"],
    ["b/zwei.png", "two\nlines", "test"],
    ["c.jpg", "  spaces stay  ", ""],
]


def csv_text(rows, delimiter=",", line="\r\n") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=line).writerows(rows)
    return out.getvalue()


def read(folder, content: bytes, name="captions.csv"):
    (folder / name).write_bytes(content)
    return read_caption_file(folder / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.txt"])
def test_every_delimiter_and_encoding_gives_the_same_rows(tmp_path, delimiter, encoding, name):
    table = read(tmp_path, csv_text([HEADER, *CELLS], delimiter).encode(encoding), name)
    assert table.columns == ("image", "caption", "split")
    assert [[row[column] for column in table.columns] for row in table.rows] == CELLS
    assert bool(table.notes) == (encoding in ("latin-1", "cp1252"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    captions=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), min_size=1),
    delimiter=st.sampled_from([*DELIMITERS]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_caption_that_was_written_is_read(tmp_path, captions, delimiter, encoding):
    rows = [["image", "caption"], *([f"{place}.jpg", caption] for place, caption in enumerate(captions))]
    table = read(tmp_path, csv_text(rows, delimiter).encode(encoding))
    assert [row["caption"] for row in table.rows] == captions


def test_empty_lines_are_passed_over_and_a_delimiter_at_the_end_is_none(tmp_path):
    table = read(tmp_path, b"image;caption;\n\na.jpg;one;\n;;\n\nb.jpg;two;\n\n")
    assert table.rows == [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two"}]
    assert read(tmp_path, b"image,caption,split\na.jpg,one\n").rows[0]["split"] == "", "a short row"
    assert read(tmp_path, b"image,caption\ra.jpg,one\r").rows[0]["caption"] == "one", "an old Mac's line ends"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"image,caption\na.jpg,one\nb.jpg,a dog, running\n",
            'line 3 has 3 cells, its header 2 .*perhaps b.jpg,"a dog',
        ),
        (b'image,caption\na.jpg,"one\ntwo"\nb.jpg,x,y\n', "line 4 has 3 cells"),
        (b'image;caption\na.jpg;"6 pipe\nb.jpg;two\n', "line 2: unexpected end of data\n  To mend: close each"),
        (b'image;caption\na.jpg;"6 pipe\nb.jpg;two"\n', "line 2: a quotation mark opens a cell of 2 lines"),
        (b'image,caption\na.jpg,"x" y\n', "line 2: ',' expected after '\"'"),
        (
            b"a.jpg,one\nb.jpg,two\n",
            "no column 'image'; its first row names: a.jpg, one\n  To mend: name the",
        ),
        (b"image,colour\na.jpg,red\n", "no column 'caption'; its first row names: image, colour"),
        (b"image,caption,caption\na.jpg,x,y\n", "the column 'caption' stands twice"),
        ("image,caption\na.jpg,Собака бежит\n".encode("cp1251"), "line 2: in no encoding .*\n  Save it as UTF-8"),
        ("image,caption\na.jpg,狗在跑\n".encode("gbk"), "line 2: in no encoding"),
        (b"\xff\xfei\x00m", "cannot be read as utf-16: .*\n  Save it as UTF-8"),
        (b"", "captions.csv has no rows"),
        (b"image,caption\n", "captions.csv has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_line_with_the_remedy(tmp_path, content, message):
    with pytest.raises(DataInvalid, match=f"(?s){message}"):
        read(tmp_path, content)


def test_an_encoding_that_was_guessed_is_said_with_an_example(tmp_path):
    table = read(tmp_path, "image,caption\na.jpg,one\nb.jpg,Ein Café\n".encode("latin-1"))
    assert table.notes == ("captions.csv is not UTF-8 and was read as Windows-1252 (Latin-1), as in 'b.jpg,Ein Café'",)


@pytest.mark.parametrize("image", ["file_name", "Filename", " image_path ", "IMAGE"])
@pytest.mark.parametrize("caption", ["text", "Caption", "description"])
def test_columns_go_by_the_names_of_other_tools(tmp_path, image, caption):
    table = read(tmp_path, f"{image},{caption}\na.jpg,one\n".encode())
    assert table.rows == [{"image": "a.jpg", "caption": "one"}] and table.notes == ()


def test_columns_that_are_not_read_are_named_and_a_misspelt_one_with_what_was_meant(tmp_path):
    table = read(tmp_path, b"image,caption,author,splits,text\na.jpg,one,me,train,x\n")
    assert table.columns == ("image", "caption")
    assert table.notes == ("captions.csv: columns that are not read: author, splits (did you mean split?), text",)


def test_labels_are_label_columns_category_and_class(tmp_path):
    table = read(tmp_path, b"image,category,label.size,class\na.jpg,bird,2,x\n")
    assert set(table.labels) == {"category", "label.size", "class"}
    assert table.rows == [{"image": "a.jpg", "category": "bird", "class": "x", "label.size": "2"}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_formats_go_by_the_same_columns_and_lists_of_captions_are_several(tmp_path, suffix):
    rows = [{"file_name": "a.jpg", "captions": ["one", "two"], "objects": {"n": 1}, "id": None}]
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-16")
    else:
        pl.DataFrame(rows, schema_overrides={"id": pl.String}).write_parquet(path)
    table = read_caption_file(path)
    assert [(row["image"], row["caption"], row["id"]) for row in table.rows] == [
        ("a.jpg", "one", ""),
        ("a.jpg", "two", ""),
    ]
    assert table.notes == (f"metadata.{suffix}: columns that are not read: objects",)


def test_every_name_of_a_caption_file_has_a_reader(tmp_path):
    assert {name.partition(".")[0] for name in CAPTION_FILES} == set(STEMS)
    for name in CAPTION_FILES:
        assert (tmp_path / name).suffix in SUFFIXES
        frame = pl.DataFrame({"image": ["a.jpg"], "caption": ["one"]})
        if name.endswith(".parquet"):
            frame.write_parquet(tmp_path / name)
        elif name.endswith(".jsonl"):
            frame.write_ndjson(tmp_path / name)
        else:
            frame.write_csv(tmp_path / name, separator="\t")
        assert read_caption_file(tmp_path / name).rows == [{"image": "a.jpg", "caption": "one"}]
