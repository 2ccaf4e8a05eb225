"""Is every data set in the table complete, openable by name, and cheap to know about?"""

import subprocess
import sys
from pathlib import Path

import pytest

from featcache import data
from featcache.data.open import dataset_source


@pytest.mark.parametrize("entry", data.DATASETS.values(), ids=lambda entry: entry.name)
def test_every_entry_says_what_it_is_and_how_to_get_it(entry):
    assert data.DATASETS[entry.name] is entry
    assert entry.description and entry.licence and entry.ways
    assert entry.views[0] == "images" and len(set(entry.views)) == len(entry.views)
    assert entry.takes_root or not entry.needs_root
    assert callable(entry.load_opener())


def test_an_unknown_name_lists_the_nearest_and_all():
    with pytest.raises(data.UnknownDataset) as caught:
        data.open_dataset("flickr")
    assert "did you mean flickr30k" in str(caught.value)
    assert all(name in str(caught.value) for name in data.DATASETS)


def test_a_path_that_leads_to_no_folder_is_named_with_the_nearest_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    (tmp_path / "one.png").write_bytes(b"")
    for text, says in (
        ("./nope", "^there is no folder ./nope\n  Looked at: .*nope\n  Give the path .* featcache extract ./my_images"),
        ("./bird/", "^there is no folder ./bird/; did you mean ./birds[?]"),
        ("./nope/birds", "^there is no folder ./nope/birds\n"),
        ("./one.png", "^./one.png is a file, and no folder"),
    ):
        with pytest.raises(data.DataMissing, match=says):
            dataset_source(text)
    assert dataset_source("./birds").name == "folder"


def test_only_a_folder_takes_a_name_after_a_colon(tmp_path):
    with pytest.raises(data.UnknownDataset, match="'cifar10:mine'"):
        data.open_dataset("cifar10:mine", root=tmp_path)


@pytest.mark.parametrize("name", [name for name, entry in data.DATASETS.items() if entry.needs_root])
def test_a_data_set_that_needs_a_root_says_so_and_how(name):
    with pytest.raises(data.DataMissing) as caught:
        data.open_dataset(name)
    assert "no --root given" in str(caught.value) and data.DATASETS[name].ways[0] in str(caught.value)


@pytest.mark.parametrize("name", [name for name, entry in data.DATASETS.items() if entry.takes_root])
def test_a_root_that_does_not_exist_is_named(name, tmp_path):
    with pytest.raises(data.DataMissing, match="the root does not exist") as caught:
        data.open_dataset(name, root=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)


@pytest.mark.parametrize("name", [name for name, entry in data.DATASETS.items() if entry.takes_root])
def test_an_empty_root_lists_what_was_looked_for_and_the_ways_to_get_it(name, tmp_path):
    with pytest.raises(data.DataMissing) as caught:
        data.open_dataset(name, root=tmp_path)
    assert f"Looked at: {tmp_path}" in str(caught.value)
    assert all(way in str(caught.value) for way in data.DATASETS[name].ways)


@pytest.mark.parametrize(
    "name", [name for name, entry in data.DATASETS.items() if entry.takes_root and not entry.needs_root]
)
def test_offline_the_hub_is_named_with_every_other_way(name, monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(repo, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"no connection\nto {repo}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(data.DataMissing) as caught:
        data.open_dataset(name)
    assert "Looked at: Hub data set" in str(caught.value) and "no connection" in str(caught.value)
    assert all(way in str(caught.value) for way in data.DATASETS[name].ways)


def test_without_the_hub_library_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(data.DataMissing, match="huggingface_hub is not installed"):
        data.open_dataset("wit_1024")


def test_importing_data_and_its_table_imports_nothing_heavy():
    code = (
        "import sys; from featcache import data; assert 'featcache.data.open' not in sys.modules; data.DATASETS;"
        "print([m for m in ('PIL', 'polars', 'torch', 'emoji', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_attribute_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_data'"):
        _ = data.open_data
