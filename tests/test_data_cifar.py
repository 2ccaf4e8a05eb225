"""Are the binary archives of CIFAR read byte by byte as published, and bad ones refused?"""

import dataclasses
import io
import tarfile

import numpy as np
import pytest

from featcache import data
from featcache.data import cifar
from featcache.data.datasets import DATASETS
from tests.cifar_files import archive_of, contents, packed, unpacked


@pytest.fixture(autouse=True)
def small_archives(monkeypatch):
    for name in ("CIFAR10", "CIFAR100"):
        archive = getattr(cifar, name)
        monkeypatch.setattr(cifar, name, dataclasses.replace(archive, rows=(6, 4), validation=2))


BOTH = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


@BOTH
def test_packed_and_unpacked_archives_give_one_data_set(name, tmp_path):
    files = contents(name)
    folder = unpacked(tmp_path / "a", name, files)
    (tmp_path / "b").mkdir()
    tar = packed(tmp_path / "b", name, files)
    archive = archive_of(name)
    roots = [folder, folder / archive.folder, tar, tar / archive.packed]
    opened = [data.open_dataset(name, root=root) for root in roots]
    assert len({dataset.views["images"].root for dataset in opened}) == 1
    assert len({dataset.views["prompts"].root for dataset in opened}) == 1
    assert len({dataset.overlay.root for dataset in opened}) == 1


@BOTH
def test_pixels_are_those_of_the_file_as_planes_of_red_green_and_blue(name, tmp_path):
    files = contents(name)
    view = data.open_dataset(name, root=unpacked(tmp_path, name, files)).views["images"]
    archive = archive_of(name)
    stride = len(archive.labels) + 3072
    row = view.ids.index("test-00002")
    raw = np.frombuffer(files[archive.test[0]], np.uint8)[2 * stride + len(archive.labels) : 3 * stride]
    np.testing.assert_array_equal(np.asarray(view.read(row)), raw.reshape(3, 32, 32).transpose(1, 2, 0))


def test_ids_splits_and_labels_follow_the_files(tmp_path):
    dataset = data.open_dataset("cifar10", root=unpacked(tmp_path, "cifar10", contents("cifar10")))
    assert dataset.views["images"].ids[:2] == ("train-00000", "train-00001")
    assert dataset.views["images"].ids[-1] == "test-00003"
    splits = dict(zip(dataset.overlay.groups, dataset.overlay.splits, strict=True))
    assert [splits[f"train-{row:05d}"] for row in (27, 28, 29)] == ["train", "validation", "validation"]
    assert splits["test-00000"] == "test" and splits["bird"] == ""
    assert tuple(dataset.overlay.labels) == DATASETS["cifar10"].labels
    labels = dict(zip(dataset.overlay.groups, dataset.overlay.labels["class"], strict=True))
    assert labels["train-00007"] == "automobile" and labels["bird"] == "bird"


def test_the_superclass_of_a_class_is_that_of_its_images(tmp_path):
    dataset = data.open_dataset("cifar100", root=unpacked(tmp_path, "cifar100", contents("cifar100")))
    assert tuple(dataset.overlay.labels) == DATASETS["cifar100"].labels
    above = dict(zip(dataset.overlay.groups, dataset.overlay.labels["superclass"], strict=True))
    assert above["bus"] == "vehicles" and above["shark"] == "fish" and above["train-00001"] == "vehicles"


def test_the_overlay_covers_the_groups_of_images_and_prompts(tmp_path):
    dataset = data.open_dataset("cifar100", root=unpacked(tmp_path, "cifar100", contents("cifar100")))
    groups = {*dataset.views["images"].groups, *dataset.views["prompts"].groups}
    assert set(dataset.overlay.groups) == groups and len(dataset.overlay.groups) == len(groups)


def test_a_class_has_clips_eighteen_prompts_and_is_their_group():
    view = cifar.prompt_view(("bus", "aquarium_fish"))
    texts = [view.read(row) for row in range(18, 36)]
    assert len(view) == 36 and len(set(texts)) == 18 and set(view.groups[18:]) == {"aquarium_fish"}
    assert texts[0] == "a photo of a aquarium fish." and texts[-1] == "a photo of the big aquarium fish."


@BOTH
def test_a_file_of_another_size_is_refused_by_name(name, tmp_path):
    files = contents(name)
    test = archive_of(name).test[0]
    files[test] = files[test][:-1]
    with pytest.raises(data.DataInvalid, match=f"{test} has .* bytes, not"):
        data.open_dataset(name, root=unpacked(tmp_path, name, files))


def test_a_label_without_a_name_is_refused_by_row(tmp_path):
    files = contents("cifar10")
    broken = bytearray(files["data_batch_2.bin"])
    broken[3073] = 9
    files["data_batch_2.bin"] = bytes(broken)
    with pytest.raises(data.DataInvalid, match="data_batch_2.bin row 1: label 9, but only 3 classes"):
        data.open_dataset("cifar10", root=unpacked(tmp_path, "cifar10", files))


def test_a_class_that_is_named_twice_is_refused(tmp_path):
    files = {**contents("cifar10"), "batches.meta.txt": b"bird\nbird\nbus\n"}
    with pytest.raises(data.DataInvalid, match="names a class more than once"):
        data.open_dataset("cifar10", root=unpacked(tmp_path, "cifar10", files))


def test_a_lacking_file_is_named_in_either_form(tmp_path):
    files = contents("cifar10")
    del files["data_batch_4.bin"]
    (tmp_path / "b").mkdir()
    for root in (unpacked(tmp_path / "a", "cifar10", files), packed(tmp_path / "b", "cifar10", files)):
        with pytest.raises(data.DataMissing, match="data_batch_4.bin"):
            data.open_dataset("cifar10", root=root)


def test_an_archive_that_ends_early_is_refused(tmp_path):
    packed(tmp_path, "cifar10", contents("cifar10"))
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(data.DataInvalid, match="not a whole archive"):
        data.open_dataset("cifar10", root=tmp_path)


def test_a_link_in_the_archive_is_not_followed(tmp_path):
    (tmp_path / "secret.bin").write_bytes(contents("cifar10")["test_batch.bin"])
    files = contents("cifar10")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            if file == "test_batch.bin":
                member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.bin")
                tar.addfile(member)
                continue
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(data.DataMissing, match="no regular file cifar-10-batches-bin/test_batch.bin"):
        data.open_dataset("cifar10", root=tmp_path)


def test_members_outside_the_published_folder_are_not_read(tmp_path):
    packed(tmp_path, "cifar10", {"../" + file: content for file, content in contents("cifar10").items()})
    with pytest.raises(data.DataMissing, match="the archive has no regular file"):
        data.open_dataset("cifar10", root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_the_full_archives_are_declared_as_published():
    full = {"cifar10": (10_000, 10_000, 5, 1), "cifar100": (50_000, 10_000, 1, 1)}
    for name, (train_rows, test_rows, train_files, test_files) in full.items():
        archive = archive_of(name)
        assert (len(archive.train), len(archive.test)) == (train_files, test_files)
        assert train_rows * train_files == 50_000 and test_rows * test_files == 10_000


def test_pixels_of_another_length_are_refused():
    with pytest.raises(data.DataInvalid, match="3071 bytes are no planar RGB picture"):
        cifar.decode_planar(bytes(3071))
