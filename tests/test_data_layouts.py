"""Is the layout of a folder told from its files, are splits a hash of the group, and is what was guessed said?"""

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from featcache import data
from featcache.data.images import IMAGE_SUFFIXES, OTHER_SUFFIXES
from featcache.data.open import dataset_name, dataset_source
from featcache.data.options import OpenOptions
from featcache.data.splits import LEAST_GROUPS, parse_split, small_split_note, split_groups, split_of
from featcache.trainer.config import FitConfig


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3 + number, 2)).save(root / name)
    return root


def table(root: Path, *rows: str, name: str = "captions.csv") -> Path:
    (root / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def open_(root: Path, **options: object) -> data.Dataset:
    return data.open_dataset("folder", root=root, options=OpenOptions(**options))  # pyright: ignore[reportArgumentType]


def captions_of(dataset: data.Dataset) -> dict[str, str]:
    view = dataset.views["captions"]
    return {view.ids[row]: view.read(row) for row in range(len(view))}


def split_by_group(dataset: data.Dataset) -> dict[str, str]:
    return dict(zip(dataset.overlay.groups, dataset.overlay.splits, strict=True))


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_images_alone_are_a_data_set_of_one_view(tmp_path):
    dataset = open_(images(tmp_path, "a.png", "b.png"))
    assert [*dataset.views] == ["images"] and dataset.source == "folder of images" and dataset.overlay.labels == {}
    assert "no captions: the data set has images alone" in dataset.notes


def test_a_text_file_beside_each_image_holds_its_captions_a_line_each(tmp_path):
    images(tmp_path, "00000/1.jpg", "00001/2.jpg", "00001/3.jpg")
    (tmp_path / "00000/1.txt").write_text("one\n\n eins \n", encoding="utf-8-sig")
    (tmp_path / "00001/2.txt").write_bytes("für zwei".encode("latin-1"))
    (tmp_path / "LICENCE.txt").write_text("not a caption")
    dataset = open_(tmp_path)
    assert captions_of(dataset) == {"00000/1.jpg#0": "one", "00000/1.jpg#1": "eins", "00001/2.jpg#0": "für zwei"}
    assert dataset.source == "folder with 2 .txt files" and dataset.overlay.labels == {}, "shards are no classes"
    assert {"1 image has no caption, the first 00001/3.jpg"} <= set(dataset.notes)
    assert any("00001/2.txt is not UTF-8" in note for note in dataset.notes)


def test_class_folders_are_the_category_and_top_folders_the_splits(tmp_path):
    names = [f"{split}/{kind}/{n}.png" for split in ("train", "val", "test") for kind in ("cat", "dog") for n in (1, 2)]
    dataset = open_(images(tmp_path, *names))
    assert dataset.overlay.labels == {"category": ("cat", "cat", "dog", "dog") * 3}
    assert split_by_group(dataset) == {
        name: {"train": "train", "val": "validation", "test": "test"}[name.split("/")[0]] for name in names
    }
    assert {"category: the 2 folders of the images", "splits: the folders test, train, val"} <= set(dataset.notes)
    assert dataset.source == "folder of class folders"


def test_one_folder_of_images_or_some_images_in_none_are_no_classes(tmp_path):
    assert open_(images(tmp_path / "one", "photos/a.png", "photos/b.png")).overlay.labels == {}
    assert open_(images(tmp_path / "two", "cat/a.png", "dog/b.png", "c.png")).overlay.labels == {}


def test_top_folders_are_no_splits_where_an_image_lies_outside_and_that_is_said(tmp_path):
    dataset = open_(images(tmp_path, "train/a.png", "test/b.png", "c.png"))
    assert any("train are not taken for splits, for c.png and others" in note for note in dataset.notes)


def test_the_metadata_of_an_image_folder_of_the_hub_is_read_in_each_split_s_folder(tmp_path):
    images(tmp_path, "train/a.png", "train/b.png", "test/a.png")
    table(tmp_path / "train", "file_name,text", "a.png,one", "b.png,two", name="metadata.csv")
    rows = [json.dumps({"file_name": "a.png", "text": "three", "extra": [1]})]
    table(tmp_path / "test", *rows, name="metadata.jsonl")
    dataset = open_(tmp_path)
    assert captions_of(dataset) == {"test/a.png#0": "three", "train/a.png#0": "one", "train/b.png#0": "two"}
    assert split_by_group(dataset) == {"test/a.png": "test", "train/a.png": "train", "train/b.png": "train"}
    assert dataset.source == "folder with 2 files such as test/metadata.jsonl"
    assert "test/metadata.jsonl: columns that are not read: extra" in dataset.notes


def test_our_own_caption_file_comes_before_the_hub_s_and_that_is_said(tmp_path):
    images(tmp_path, "a.png")
    table(tmp_path, "image,caption", "a.png,ours")
    table(tmp_path, "file_name,text", "a.png,theirs", name="metadata.csv")
    dataset = open_(tmp_path)
    assert captions_of(dataset) == {"a.png#0": "ours"}
    assert "metadata.csv is not read: captions.csv is there" in dataset.notes


def test_a_table_of_labels_needs_no_captions(tmp_path):
    images(tmp_path, "a.png", "b.png")
    dataset = open_(table(tmp_path, "image,category,split", "a.png,cat,train", "b.png,dog,dev"))
    assert [*dataset.views] == ["images"] and dataset.overlay.labels == {"category": ("cat", "dog")}
    assert dataset.overlay.splits == ("train", "validation")


def test_pictures_of_other_formats_are_counted_and_not_left_out_in_silence(tmp_path):
    images(tmp_path, "a.png")
    (tmp_path / "b.psd").write_bytes(b"")
    (tmp_path / "notes.doc").write_bytes(b"")
    assert ".psd" in OTHER_SUFFIXES - IMAGE_SUFFIXES
    assert "left out, since such image formats are not read: 1 .psd" in open_(tmp_path).notes
    (tmp_path / "a.png").unlink()
    with pytest.raises(data.DataMissing, match=r"no images below the folder, but files that are not read: 1 .psd"):
        open_(tmp_path)


# -- names of images --------------------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "Café.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub/a.png", "sub/a.png"),
        ("sub/a.png", "sub\\a.png"),
        ("sub/a.png", "./sub/a.png"),
        ("sub/a.png", " sub/a.png "),
        ("sub/a.png", "{root}/sub/a.png"),
        ("sub/a.png", "Sub/A.PNG"),
        ("sub/a.png", "a.png"),
        ("sub/a.PNG", "a.png"),
        ("sub/a.png", "a"),
        (NFC, NFD),
        (NFD, NFC),
    ],
)
def test_an_image_is_told_by_its_path_or_by_what_is_unique_of_it(tmp_path, file, name):
    images(tmp_path, file, "other.png")
    dataset = open_(table(tmp_path, "image,caption,split", f"{name.format(root=tmp_path)},one,train"))
    assert dataset.views["captions"].ids == (f"{file}#0",) and dataset.views["captions"].groups == (file,)
    plain = name.strip().replace("\\", "/").removeprefix("./").removeprefix("{root}/") == file
    assert plain == (not any("names" in note for note in dataset.notes)), "what is not the path itself is said"


def test_a_name_that_fits_two_images_is_refused_with_both(tmp_path):
    images(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(data.DataInvalid, match="line 2 .*'a.png' fits 2 images: x/a.png, y/a.png"):
        open_(table(tmp_path, "image,caption", "a.png,one"))


def test_a_name_without_an_image_is_refused_with_the_nearest(tmp_path):
    images(tmp_path, "photos/dog.png")
    with pytest.raises(data.DataMissing, match="below the folder; nearest: 'photos/dog.png'") as caught:
        open_(table(tmp_path, "image,caption", "photos/dogs.png,one"))
    assert "captions.csv line 2 ('photos/dogs.png')" in str(caught.value) and "\n  To mend: " in str(caught.value)
    with pytest.raises(data.DataMissing, match="nearest: 'photos/dog.png'"):
        open_(table(tmp_path, "image,caption", "d0g.png,one"))
    (tmp_path / "b.psd").write_bytes(b"")
    with pytest.raises(data.DataMissing, match=r"'b.psd' is a file of a format that is not read \(.psd\)"):
        open_(table(tmp_path, "image,caption", "b.psd,one"))


# -- splits -----------------------------------------------------------------------------------------------------------

GROUPS = [f"{number}.png" for number in range(1000)]


def test_without_splits_groups_are_split_by_a_hash_as_the_options_say(tmp_path):
    names = [f"{number}.png" for number in range(40)]
    images(tmp_path, *names)
    default = open_(tmp_path)
    shares = parse_split("80/10/10")
    assert shares and split_by_group(default) == {name: split_of(name, shares, 0) for name in sorted(names)}
    assert "no split column: 80/10/10 by a hash of the group, seed 0" in default.notes
    other = open_(tmp_path, split="50/25/25", seed=7)
    assert "splits: 50/25/25 by a hash of the group, seed 7" in other.notes
    assert other.overlay.splits != default.overlay.splits and other.views["images"].root == default.views["images"].root
    assert set(open_(tmp_path, split="none").overlay.splits) == {""}


def test_adding_an_image_moves_none(tmp_path):
    before = split_by_group(open_(images(tmp_path, *GROUPS[:50])))
    after = split_by_group(open_(images(tmp_path, "0000.png", "new/x.png")))
    assert {group: after[group] for group in before} == before and len(after) == 52


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_are_those_that_were_asked_for(seed):
    splits = split_groups(GROUPS, "60/30/10", seed)
    counts = [splits.count(split) for split in ("train", "validation", "test")]
    assert sum(counts) == 1000 and all(
        abs(count - want) < 60 for count, want in zip(counts, (600, 300, 100), strict=True)
    )


def test_a_split_column_holds_unless_the_options_say_otherwise(tmp_path):
    images(tmp_path, "a.png", "b.png")
    table(tmp_path, "image,caption,split", "a.png,one,Train", "b.png,two,valid")
    assert open_(tmp_path).overlay.splits == ("train", "validation")
    assert set(open_(tmp_path, split="none").overlay.splits) == {""}
    anew = open_(tmp_path, split="0.5/0.25/0.25", seed=3)
    assert anew.overlay.splits == split_groups(["a.png", "b.png"], "50/25/25", 3)
    assert any("column split of captions.csv is not used" in note for note in anew.notes)
    with pytest.raises(data.DataInvalid, match=r"--seed 3 would change nothing: splits come from column split"):
        open_(tmp_path, seed=3)
    with pytest.raises(data.DataInvalid, match="--seed 3 would change nothing: --split none"):
        open_(tmp_path, split="none", seed=3)


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "0/50/50", "80/10/10/0", "-1/1/1", "", "80/10/-10", "nan/1/1"])
def test_shares_of_another_form_are_refused(tmp_path, text):
    with pytest.raises(data.DataInvalid, match="as in 80/10/10, or none"):
        open_(images(tmp_path, "a.png"), split=text)


def test_rows_of_one_group_share_a_split(tmp_path):
    images(tmp_path, *GROUPS[:30])
    rows = [f"{name},words,{number % 5}" for number, name in enumerate(GROUPS[:30])]
    dataset = open_(table(tmp_path, "image,caption,group", *rows))
    assert len(dataset.overlay.groups) == 5 and set(dataset.overlay.groups) == {"0", "1", "2", "3", "4"}


def test_a_set_too_small_for_training_is_told_shares_that_are_enough(tmp_path):
    assert FitConfig().k + 1 == LEAST_GROUPS
    groups = GROUPS[:60]
    note = small_split_note(groups, split_groups(groups, "80/10/10", 0))
    words = note.partition("extract with ")[2].partition(", or")[0].split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    splits = split_groups(groups, options["--split"], int(options.get("--seed", 0)))
    assert all(splits.count(split) >= LEAST_GROUPS for split in ("train", "validation", "test"))
    assert "more than these rows give" in small_split_note(GROUPS[:8], split_groups(GROUPS[:8], "80/10/10", 0))
    assert small_split_note(GROUPS, split_groups(GROUPS, "80/10/10", 0)) == ""


# -- the path as a name -----------------------------------------------------------------------------------------------


def test_a_path_names_a_folder_and_its_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(images(tmp_path, "My Images/a.png", "openmoji/a.png").resolve())
    for text in (
        "./My Images",
        "My Images",
        "My Images/",
        str(tmp_path / "My Images"),
        "../" + tmp_path.name + "/My Images",
    ):
        source = dataset_source(text)
        assert source.name == "folder" and source.open().name == dataset_name(text) == "my-images", text
    assert dataset_source("openmoji").name == dataset_name("openmoji") == "openmoji", "a data set's name stays its own"
    assert dataset_source("folder:x", tmp_path).root == tmp_path and dataset_name("folder:x") == "x"
    with pytest.raises(data.DataInvalid, match="leave out --root"):
        dataset_source("./My Images", tmp_path)
    with pytest.raises(data.DataInvalid, match="folder:my-openmoji --root DIR"):
        dataset_source("./openmoji").open()
    with pytest.raises(data.DataInvalid, match="openmoji takes no --split or --seed"):
        dataset_source("openmoji", options=OpenOptions(split="none", seed=1)).open()


# -- classes that are called like splits, images that are not there ---------------------------------------------------


def test_a_class_called_like_a_split_hides_no_classes(tmp_path):
    dataset = open_(images(tmp_path, "dog/1.png", "cat/1.png", "other/1.png"))
    assert dataset.overlay.labels == {"category": ("cat", "dog", "other")}
    below = open_(images(tmp_path / "split", "train/dog/1.png", "train/other/1.png", "test/cat/1.png"))
    assert below.overlay.labels == {"category": ("cat", "dog", "other")}
    assert set(below.overlay.splits) == {"train", "test"}


def test_rows_of_images_that_are_not_there_may_be_left_out_and_are_counted(tmp_path):
    table(images(tmp_path, "a.png", "b.png"), "image,caption", "a.png,one", "gone.png,two", "gone.png,three")
    with pytest.raises(
        data.DataMissing, match=r"line 3 .*no such image.*\n.*\n.*to leave such rows out: --allow-missing"
    ):
        open_(tmp_path)
    dataset = open_(tmp_path, allow_missing=True)
    assert captions_of(dataset) == {"a.png#0": "one"} and len(dataset.views["images"]) == 2
    left_out = "captions.csv: 1 image is not there and left out (--allow-missing), the first gone.png"
    assert left_out in dataset.notes
