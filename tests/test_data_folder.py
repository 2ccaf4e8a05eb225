"""Does any folder with a caption file become a data set, and is each mistake in it named?"""

import json

import polars as pl
import pytest
from PIL import Image

from featcache import data

ROWS = [
    {"image": "b/two.png", "caption": 'two, and "more"', "split": "test", "label": "even", "label_size": "1"},
    {"image": "a.jpg", "caption": "one", "split": "train", "label": "odd", "label_size": "2"},
    {"image": "b/two.png", "caption": "  zwei é", "split": "test", "label": "even", "label_size": "1"},
]
FORMATS = ("csv", "jsonl", "parquet")


def photos(root, names=("a.jpg", "b/two.png")):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3 + number, 2)).save(root / name)
    return root


def write(root, rows, kind="csv"):
    path = root / f"captions.{kind}"
    if kind == "csv":
        pl.DataFrame(rows).write_csv(path)
    elif kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path):
    (tmp_path / "My Holiday 2024").mkdir()
    return photos(tmp_path / "My Holiday 2024")


def open_(root, name="folder") -> data.Dataset:
    return data.open_dataset(name, root=root)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_three_formats_give_one_data_set(kind, root):
    dataset = open_(write(root, ROWS, kind))
    images, texts = dataset.views["images"], dataset.views["captions"]
    assert images.ids == images.groups == ("a.jpg", "b/two.png")
    assert texts.ids == ("a.jpg#0", "b/two.png#0", "b/two.png#1")
    assert [texts.read(row) for row in range(3)] == ["one", 'two, and "more"', "  zwei é"]
    assert texts.groups == ("a.jpg", "b/two.png", "b/two.png")
    assert dataset.overlay.splits == ("train", "test")
    assert dataset.overlay.labels == {"label": ("odd", "even"), "label_size": ("2", "1")}
    assert images.read(1).size == (4, 2) and dataset.name == "my-holiday-2024" and dataset.notes == ()


def test_images_and_captions_are_all_that_is_needed(root):
    dataset = open_(write(root, [{"image": "a.jpg", "caption": "one"}, {"image": "b/two.png", "caption": "two"}]))
    assert set(dataset.views) == {"images", "captions"} and dataset.overlay.labels == {}
    assert all(split in ("train", "validation", "test") for split in dataset.overlay.splits)


def test_ids_and_groups_of_the_file_are_kept(root):
    rows = [
        {"image": image, "caption": "words", "id": number, "group": "same"}
        for number, image in enumerate(("b/two.png", "a.jpg"))
    ]
    dataset = open_(write(root, rows, "jsonl"))
    assert dataset.views["captions"].ids == ("1", "0")
    assert dataset.views["images"].groups == ("same", "same") and dataset.overlay.groups == ("same",)


def test_images_without_caption_are_kept_with_a_note(root):
    photos(root, ("c.webp", ".hidden/d.png"))
    dataset = open_(write(root, ROWS))
    assert dataset.views["images"].ids == ("a.jpg", "b/two.png", "c.webp")
    assert dataset.notes == ("1 image has no caption, the first c.webp",)
    assert dataset.overlay.splits == ("train", "test", "") and dataset.overlay.labels["label"][2] == ""


def test_a_name_can_be_chosen(root):
    write(root, ROWS)
    assert open_(root, "folder:my_trip-1").name == "my_trip-1"
    with pytest.raises(data.DataInvalid, match="try folder:my-trip"):
        open_(root, "folder:My Trip")
    with pytest.raises(data.DataInvalid, match="try folder:mine"):
        open_(root, "folder:")


def test_a_folder_cannot_take_the_name_of_another_data_set(tmp_path):
    (tmp_path / "flickr30k").mkdir()
    with pytest.raises(data.DataInvalid, match="choose a name: folder:my-flickr30k"):
        open_(write(photos(tmp_path / "flickr30k"), ROWS))


def changed(**cells):
    return [ROWS[1], {**ROWS[0], **cells}]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(caption=" "), r"{2} \('b/two.png'\): the caption is empty\n  To mend: write one, or remove the row"),
        (changed(caption=None), r"{2} \('b/two.png'\): the caption is empty\n  To mend: write one, or remove the row"),
        (changed(image=""), "{2} .* plain path"),
        (changed(image="../other/two.png"), "{2} .* plain path"),
        (changed(image="/etc/two.png"), "{2} .* plain path"),
        (changed(image="C:\\\\two.png"), "{2} .* plain path"),
        (changed(split="holdout"), "{2} .* unknown split 'holdout'; known: train, training, validation, val, valid,"),
        ([{**row, "id": "same"} for row in ROWS[:2]], "{2} .* the id 'same' is used before"),
        ([{**row, "id": ""} for row in ROWS[:2]], "{1} .* the id '' is empty"),
        ([*ROWS[:2], {**ROWS[2], "split": "train"}], "{3}: group 'b/two.png' has another split or label"),
        ([*ROWS[:2], {**ROWS[2], "label": "odd"}], "{3}: group 'b/two.png' has another split or label"),
        ([{**ROWS[0], "group": "g"}, {**ROWS[2], "group": "h"}], "{2}: 'b/two.png' is in group 'h' and 'g'"),
        ([{"image": "a.jpg", "words": "one"}], "has no column 'caption'; its first row names: image, words"),
        ([{"words": "one", "caption": "one"}], "has no column 'image'; its first row names: words, caption"),
    ],
)
def test_a_bad_row_is_refused_by_its_place_in_the_file(kind, rows, message, root):
    for number in (1, 2, 3):
        place = {"csv": f"line {number + 1}", "jsonl": f"line {number}", "parquet": f"row {number}"}[kind]
        message = message.replace(f"{{{number}}}", f"captions.{kind} {place}")
    with pytest.raises(data.DataInvalid, match=message):
        open_(write(root, rows, kind))


def test_a_line_is_counted_in_the_file_whatever_stands_before_it(root):
    (root / "captions.csv").write_text('\nimage,caption\na.jpg,"one\ntwo"\n\nb/two.png, \n', encoding="utf-8")
    with pytest.raises(data.DataInvalid, match=r"captions.csv line 6 \('b/two.png'\).*empty\n  To mend: write one"):
        open_(root)
    (root / "captions.csv").unlink()
    lines = '{"image": "a.jpg", "captions": ["one", "two"]}\n\n{"image": "b/two.png", "captions": ["", "two"]}\n'
    (root / "captions.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(data.DataInvalid, match=r"captions.jsonl line 3 \('b/two.png'\).*empty"):
        open_(root)


def test_images_that_are_not_there_are_counted_and_named(root):
    rows = [*ROWS, {**ROWS[0], "image": "gone.jpg"}, {**ROWS[0], "image": "gone.jpg"}]
    with pytest.raises(data.DataMissing, match=r"csv line 5 \('gone.jpg'\): .* no such image below the folder; near"):
        open_(write(root, rows))
    rows += [{**ROWS[0], "image": "far.jpg"}]
    with pytest.raises(data.DataMissing, match=r"line 5 \('gone.jpg'\): .*, nor for 1 more"):
        open_(write(root, rows))


def test_a_link_that_leads_out_of_the_folder_is_refused(root, tmp_path):
    photos(tmp_path, ("outside.png",))
    (root / "inside.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(data.DataInvalid, match="'inside.png' is a link that leads out"):
        open_(write(root, ROWS))


def test_two_caption_files_are_refused(root):
    write(write(root, ROWS), ROWS, "jsonl")
    with pytest.raises(data.DataInvalid, match="captions.csv and captions.jsonl; keep one"):
        open_(root)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b""),
        ("csv", b"image,caption\n"),
        ("jsonl", b"{nonsense"),
        ("parquet", b"PAR"),
    ],
)
def test_a_caption_file_that_cannot_be_read_is_refused(kind, content, root):
    (root / f"captions.{kind}").write_bytes(content)
    with pytest.raises(data.DataInvalid, match=f"captions.{kind} (cannot be read|has no rows)"):
        open_(root)


def test_a_broken_image_is_refused_when_read_by_its_id(root):
    (root / "a.jpg").write_bytes(b"broken")
    with pytest.raises(data.DataInvalid, match="images row 'a.jpg'"):
        open_(write(root, ROWS)).views["images"].read(0)
