"""Does any malformed list, shard or table end in a data set or in one of our errors, and never in another exception?"""

from collections.abc import Callable
from pathlib import Path

import pytest

from featcache.data.errors import DataError
from tests.attack.grammar import examples, mangled_bytes, mangled_json
from tests.own_data import coco_list, open_own, sample, write_pictures, write_shard, write_table
from tests.test_data_coco import karpathy

TRIED = 60


def survives(root: Path) -> None:
    """Opens, reads and binds a folder of data; what is wrong with it is an error of ours."""
    try:
        dataset = open_own(root)
    except DataError as error:
        assert str(error).strip()
        return
    for view in dataset.views.values():
        try:
            assert len(view.root) == 64
        except DataError:
            continue
        for row in range(len(view)):
            try:
                view.read(row)
            except DataError:
                continue


def official(root: Path) -> Path:
    return coco_list(root / "captions_val2017.json", {"1.jpg": ["one", "two"], "2.jpg": ["three"]})


def of_karpathy(root: Path) -> Path:
    return karpathy(root, {"1.jpg": ("train", ["one"]), "2.jpg": ("test", ["two"])}) / "dataset_coco.json"


@pytest.mark.parametrize("write", [official, of_karpathy])
def test_a_malformed_list_of_captions(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(write_pictures(tmp_path, "1.jpg", "2.jpg"))
    for content in examples(mangled_json(path.read_bytes()), TRIED, seed=0):
        path.write_bytes(content)
        survives(tmp_path)


def test_a_malformed_json_in_a_shard(tmp_path: Path) -> None:
    stated = b'{"caption": ["one", "two"], "split": "train", "group": "g", "label": 3, "class": "x"}'
    for content in examples(mangled_json(stated), TRIED, seed=1):
        write_shard(tmp_path / "s.tar", {**sample(0), "000000000.json": content, **sample(1)})
        survives(tmp_path)


def test_a_malformed_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.tar", sample(0) | sample(1))
    for content in examples(mangled_bytes(path.read_bytes()), TRIED, seed=2):
        path.write_bytes(content)
        survives(tmp_path)


@pytest.mark.parametrize("first", [0, -2_000])
def test_a_malformed_table(first: int, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", range(3), label=[0, 1, 0], split=["train", "test", "val"])
    content = path.read_bytes()
    for mangled in examples(mangled_bytes(content, first=max(0, len(content) + first if first else 0)), TRIED, seed=3):
        path.write_bytes(mangled)
        survives(tmp_path)
