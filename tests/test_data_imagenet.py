"""ImageNet opens from every layout in use with the same ids, splits and numbers of classes, and gaps are named."""

import io

import numpy as np
import pytest
from PIL import Image

from featcache import data
from featcache.data.open import open_dataset

WNIDS = [f"n{number:08d}" for number in range(2_000, 3_000)]  # all 1,000
USED = (WNIDS[3], WNIDS[500], WNIDS[999])


def jpeg(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def put(path, content=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg() if content is None else content)


def mapping(folder) -> None:
    lines = [f"{wnid} name of {wnid}, other name" for wnid in reversed(WNIDS)]  # in whatever order
    (folder / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(base) -> None:
    for wnid in USED:
        for number in range(20):
            put(base / "train" / wnid / f"{wnid}_{number}.JPEG", jpeg(number))


def flat(base) -> list[str]:
    """Six validation images in one folder; returns the wnid of each."""
    for number in range(6):
        put(base / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", jpeg(number))
    return [USED[number % 3] for number in range(6)]


def columns(dataset):
    labels = dataset.overlay.labels
    return dict(zip(dataset.overlay.groups, zip(labels["wnid"], labels["index"], strict=True), strict=True))


def test_kaggles_layout_opens_with_numbers_names_and_splits(tmp_path):
    base = tmp_path / "ILSVRC/Data/CLS-LOC"
    train(base)
    own = flat(base)
    mapping(tmp_path)
    rows = [f"ILSVRC2012_val_{number + 1:08d},{wnid} 1 2 3 4" for number, wnid in enumerate(own)]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(reversed(rows)))
    dataset = open_dataset("imagenet", root=tmp_path)
    of = columns(dataset)
    assert of["val/ILSVRC2012_val_00000002.JPEG"] == (USED[1], "500")
    assert of[f"train/{USED[0]}/{USED[0]}_7.JPEG"] == (USED[0], "3")
    assert dataset.overlay.labels["name"][0] == f"name of {USED[0]}, other name"
    splits = dict(zip(dataset.overlay.groups, dataset.overlay.splits, strict=True))
    assert {split for row, split in splits.items() if row.startswith("val/")} == {"test"}
    drawn = [split for row, split in splits.items() if row.startswith("train/")]
    assert drawn.count("train") > 50 and 0 < drawn.count("validation") < 10
    assert np.asarray(dataset.views["images"].read(0)).shape == (4, 4, 3)
    assert "3 of 1,000 classes" in dataset.notes[0]


def test_a_validation_image_keeps_its_class_whichever_list_says_it(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    found = []
    for layout in ("folders", "solution", "labels", "devkit"):
        root = tmp_path / layout
        root.mkdir()
        mapping(root)
        if layout == "folders":
            for number in range(6):
                put(root / "val" / USED[number % 3] / f"ILSVRC2012_val_{number + 1:08d}.JPEG")
        else:
            own = flat(root)
        if layout == "solution":
            rows = [f"ILSVRC2012_val_{number + 1:08d},{wnid} 1 2 3 4" for number, wnid in enumerate(own)]
            (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))
        elif layout == "labels":
            (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(own))
        elif layout == "devkit":
            kit = root / "ILSVRC2012_devkit_t12/data"
            kit.mkdir(parents=True)
            kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4")]
            numbered = [(7, USED[0], 0), (2, USED[1], 0), (5, USED[2], 0), (1001, "n00000001", 3)]
            savemat(kit / "meta.mat", {"synsets": np.array(numbered, dtype=kinds)})
            (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("7\n2\n5\n7\n2\n5\n")
        dataset = open_dataset("imagenet", root=root)
        found.append({row.rpartition("/")[2]: label for row, label in columns(dataset).items()})
        assert "no train/" in dataset.notes[0]
    assert all(each == found[0] for each in found) and len(found[0]) == 6


def test_plain_class_folders_are_the_training_split(tmp_path):
    for wnid in USED:
        put(tmp_path / wnid / f"{wnid}_1.JPEG")
    mapping(tmp_path)
    dataset = open_dataset("imagenet", root=tmp_path)
    assert columns(dataset)[f"{USED[2]}/{USED[2]}_1.JPEG"] == (USED[2], "999")
    assert "no val/" in dataset.notes[0] and "test" not in dataset.overlay.splits


def test_all_thousand_classes_need_no_list(tmp_path):
    content = jpeg()
    for wnid in WNIDS:
        put(tmp_path / "val" / wnid / f"{wnid}.JPEG", content)
    dataset = open_dataset("imagenet", root=tmp_path)
    assert dataset.overlay.labels["index"] == tuple(str(number) for number in range(1_000))
    assert "name" not in dataset.overlay.labels


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda root: put(root / "val" / USED[0] / "a.JPEG"), data.DataMissing, "1 of 1,000 classes .* what numbers"),
        (flat, data.DataMissing, "is flat, and no list says the classes"),
        (lambda root: put(root / "train" / "cats" / "a.JPEG"), data.DataInvalid, "no wnid, the first 'cats'"),
        (
            lambda root: (root / "train" / USED[0]).mkdir(parents=True),
            data.DataInvalid,
            "without an image",
        ),
        (lambda root: (root / "train").mkdir(), data.DataInvalid, "no class folder"),
        (
            lambda root: (mapping(root), put(root / "train" / "n99999999" / "a.JPEG")),
            data.DataInvalid,
            "1 classes are not among the 1,000 .* n99999999",
        ),
        (
            lambda root: (flat(root), (root / "imagenet_2012_validation_synset_labels.txt").write_text(USED[0])),
            data.DataInvalid,
            "has 1 lines; wanted one for each image",
        ),
        (
            lambda root: (flat(root), (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n")),
            data.DataInvalid,
            "does not name ILSVRC2012_val_00000001.JPEG",
        ),
        (
            lambda root: (put(root / "val" / USED[0] / "a.JPEG"), (root / "LOC_synset_mapping.txt").write_text("n1 a")),
            data.DataInvalid,
            "'n1' is no wnid",
        ),
    ],
)
def test_missing_unknown_and_partial_classes_are_named(tmp_path, build, error, says):
    build(tmp_path)
    with pytest.raises(error, match=says):
        open_dataset("imagenet", root=tmp_path)
