"""Do the three layouts of Flickr30k give one data set, and is every contradiction refused by name?"""

import collections
import gzip
import io
import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from featcache import data
from featcache.data import flickr30k

FILES = ("1000092795.jpg", "10002456.jpg", "998845445.jpg", "1000268201.jpg", "36979.jpg")
SPLITS = dict(zip(FILES, ("train", "restval", "val", "test", None), strict=True))
IN_ORDER = ("36979.jpg", "10002456.jpg", "998845445.jpg", "1000092795.jpg", "1000268201.jpg")


def photo(file: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (int(file[:2]), 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def captions(file: str) -> list[str]:
    return [f"Two guys, number {place}, look at {file[:-4]}." for place in range(5)]


def as_tokens(text: str) -> str:
    """How the token file spells a caption: marks stand alone, some starts are lower case."""
    return text.replace(",", " ,").replace(".", " .").replace("Two", "two")


def karpathy(files=FILES, **changes) -> dict:
    images = [
        {"filename": file, "split": SPLITS[file], "sentences": [{"raw": text} for text in captions(file)]}
        for file in files
        if SPLITS[file]
    ]
    return {"dataset": "flickr30k", "images": images, **changes}


def write_karpathy(root: Path, document: dict) -> None:
    (root / "dataset_flickr30k.json").write_text(json.dumps(document))


def write_tokens(root: Path, lines: list[str]) -> None:
    (root / "results_20130124.token").write_text("\n".join(lines) + "\n", encoding="utf-8")


def token_lines(files=FILES) -> list[str]:
    return [f"{file}#{place}\t{as_tokens(text)}" for file in files for place, text in enumerate(captions(file))]


def folder_layout(root: Path, files=FILES) -> Path:
    (root / "flickr30k-images").mkdir(parents=True)
    for file in files:
        (root / "flickr30k-images" / file).write_bytes(photo(file))
    write_tokens(root, token_lines(files))
    write_karpathy(root, karpathy(files))
    return root


def frame(files, spell, **columns) -> pl.DataFrame:
    rows = {
        "image": [{"bytes": photo(file), "path": file} for file in files],
        "caption": [[spell(text) for text in captions(file)] for file in files],
        "sentids": [[str(place) for place in range(5)] for _ in files],
        "img_id": [str(number) for number in range(len(files))],
        "filename": list(files),
    }
    return pl.DataFrame({**rows, **columns})


def split_layout(root: Path, files=FILES) -> Path:
    folder = root / "TEST" / "test"
    folder.mkdir(parents=True)
    for number, part in enumerate((files[:2], files[2:])):
        table = frame(part, str, split=[SPLITS[file] for file in part])
        table.write_parquet(folder / f"{number:04d}.parquet")
    return root


def plain_layout(root: Path, files=FILES) -> Path:
    (root / "data").mkdir(parents=True)
    table = frame(files, lambda text: text.replace(",", "").replace(".", " ."))
    table.write_parquet(root / "data" / "test-00000-of-00001.parquet")
    write_karpathy(root, karpathy(files))
    return root


def open_(root: Path) -> data.Dataset:
    return data.open_dataset("flickr30k", root=root)


def test_the_three_layouts_give_equal_rows_texts_splits_and_roots(tmp_path):
    files = FILES[:4]  # the split Parquet holds Karpathy's photos only
    layouts = (
        folder_layout(tmp_path / "a", files),
        split_layout(tmp_path / "b", files),
        plain_layout(tmp_path / "c", files),
    )
    first, *others = [open_(root) for root in layouts]
    for other in others:
        for name in ("images", "captions"):
            assert other.views[name].ids == first.views[name].ids
            assert other.views[name].groups == first.views[name].groups
            assert other.views[name].root == first.views[name].root
        assert other.overlay.root == first.overlay.root
        assert other.views["captions"].read(0) == first.views["captions"].read(0)
    assert {dataset.source.split(" layout")[0] for dataset in (first, *others)} == {
        "folder",
        "split Parquet",
        "plain Parquet",
    }


@pytest.mark.parametrize("layout", [folder_layout, plain_layout])
def test_photos_in_no_karpathy_split_are_counted_and_labelled_other(layout, tmp_path):
    dataset = open_(layout(tmp_path))
    assert dict(zip(dataset.overlay.groups, dataset.overlay.splits, strict=True)) == {
        "36979": "other",
        "10002456": "train",
        "998845445": "validation",
        "1000092795": "train",
        "1000268201": "test",
    }
    assert any(note.startswith("1 photos are in no Karpathy split") for note in dataset.notes)


@pytest.mark.parametrize("layout", [folder_layout, plain_layout])
def test_rows_are_ordered_by_file_number_with_five_captions_each(layout, tmp_path):
    dataset = open_(layout(tmp_path))
    images, texts = dataset.views["images"], dataset.views["captions"]
    assert images.ids == IN_ORDER
    assert texts.ids == tuple(f"{file}#{place}" for file in IN_ORDER for place in range(5))
    assert texts.groups[5:10] == ("10002456",) * 5 and images.groups[1] == "10002456"
    assert images.content(3) == photo("1000092795.jpg") and images.read(3).size == (4, 4)


def test_the_declared_text_is_karpathys_and_the_token_files_only_where_he_has_none(tmp_path):
    texts = open_(folder_layout(tmp_path)).views["captions"]
    assert texts.read(0) == "two guys , number 0 , look at 36979."
    assert texts.read(5) == "Two guys, number 0, look at 10002456."


def test_captions_worded_otherwise_than_karpathys_are_counted_in_a_note(tmp_path):
    root = folder_layout(tmp_path)
    lines = token_lines()
    lines[7] = f"{FILES[1]}#2\tSomething else ."
    write_tokens(root, lines)
    dataset = open_(root)
    where = "in results_20130124.token than in dataset_flickr30k.json"
    assert f"1 captions are worded otherwise {where}, the first {FILES[1]}#2" in dataset.notes


def test_the_order_of_lines_in_the_token_file_does_not_matter(tmp_path):
    root = folder_layout(tmp_path)
    before = open_(root).views["captions"].root
    write_tokens(root, token_lines()[::-1])
    assert open_(root).views["captions"].root == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:3], lines[2]], r"line 4: the id 1000092795.jpg#2 stands more than once"),
        (lambda lines: [*lines[:6], f"{FILES[1]}#1\t ", *lines[7:]], r"line 7: 10002456.jpg#1 has an empty caption"),
        (lambda lines: lines[1:], r"1000092795.jpg has 4 captions, not 5"),
        (lambda lines: [*lines, "1000092795.jpg#5\tA sixth ."], r"line 26 is not '<file>#<0-4><tab><caption>'"),
        (lambda lines: [*lines, "1000092795.jpg 0 words"], r"line 26 is not"),
        (lambda lines: [*lines, *(f"../x.jpg#{n}\twords" for n in range(5))], r"'../x.jpg' is no Flickr30k file name"),
        (lambda lines: lines[:-5], r"1 photos in flickr30k-images/ have no captions .*: 36979.jpg first"),
        (lambda lines: lines[5:], r"do not match: 1 photos .* the first 1000092795.jpg"),
    ],
)
def test_a_token_file_that_contradicts_itself_or_the_photos_is_refused_by_row(change, message, tmp_path):
    root = folder_layout(tmp_path)
    write_tokens(root, change(token_lines()))
    with pytest.raises(data.DataInvalid, match=message):
        open_(root)


def test_a_token_file_that_is_not_utf8_is_refused(tmp_path):
    root = folder_layout(tmp_path)
    (root / "results_20130124.token").write_bytes(b"1.jpg#0\t\xff\n")
    with pytest.raises(data.DataInvalid, match="results_20130124.token is not UTF-8"):
        open_(root)


def test_photos_that_are_listed_but_not_on_disk_are_counted_and_named(tmp_path):
    root = folder_layout(tmp_path)
    for file in FILES[:2]:
        (root / "flickr30k-images" / file).unlink()
    with pytest.raises(data.DataMissing, match=r"2 photos .* are not there, the first 1000092795.jpg"):
        open_(root)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (karpathy(dataset="flickr8k"), "describes 'flickr8k'"),
        (karpathy(images=[*karpathy()["images"], karpathy()["images"][0]]), "1000092795.jpg stands more than once"),
        (karpathy(images=[{**karpathy()["images"][0], "split": "dev"}]), "1000092795.jpg has the unknown split 'dev'"),
        (karpathy(images=[{**karpathy()["images"][0], "sentences": []}]), "1000092795.jpg has 0 captions, not 5"),
        (karpathy(images=[{**karpathy()["images"][0], "filename": "7.jpg"}]), "do not match: .* the first 7.jpg"),
        (karpathy(images=[{"split": "train"}]), "not in Karpathy's format: KeyError"),
        ([], "not in Karpathy's format"),
    ],
)
@pytest.mark.parametrize("layout", [folder_layout, plain_layout])
def test_a_karpathy_file_of_another_kind_is_refused(layout, document, message, tmp_path):
    root = layout(tmp_path)
    write_karpathy(root, document)
    with pytest.raises(data.DataInvalid, match=message):
        open_(root)


def test_an_empty_sentence_in_karpathys_file_is_refused_by_id(tmp_path):
    root = folder_layout(tmp_path)
    document = karpathy()
    document["images"][1]["sentences"][3]["raw"] = " "
    write_karpathy(root, document)
    with pytest.raises(data.DataInvalid, match=r"row '10002456.jpg#3' has an empty text"):
        open_(root)


@pytest.mark.parametrize("part", ["flickr30k-images", "results_20130124.token", "dataset_flickr30k.json"])
def test_a_part_that_the_folder_layout_lacks_is_named(part, tmp_path):
    root = folder_layout(tmp_path)
    (root / part).rename(root / "elsewhere")
    with pytest.raises(data.DataMissing) as caught:
        open_(root)
    assert str(root / part) in str(caught.value)


def test_plain_parquet_without_karpathys_file_says_what_it_needs(tmp_path):
    root = plain_layout(tmp_path)
    (root / "dataset_flickr30k.json").unlink()
    with pytest.raises(data.DataMissing, match="Karpathy's splits are not there"):
        open_(root)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": [["a"] * 4]}, "0000.parquet row 0: 36979.jpg has 4 captions, not 5"),
        ({"caption": [None]}, "36979.jpg has 0 captions"),
        ({"caption": [["a", "b", "", "c", "d"]]}, "row '36979.jpg#2' has an empty text"),
        ({"caption": [["a", "b", None, "c", "d"]]}, "row '36979.jpg#2' has an empty text"),
        ({"split": ["dev"]}, "36979.jpg has the unknown split 'dev'"),
        ({"filename": ["cat.jpg"]}, "'cat.jpg' is no Flickr30k file name"),
        ({"filename": [None]}, "'None' is no Flickr30k file name"),
        ({"image": ["36979.jpg"]}, "should hold image bytes"),
    ],
)
def test_parquet_rows_that_contradict_the_format_are_refused_by_row(columns, message, tmp_path):
    folder = tmp_path / "TEST" / "test"
    folder.mkdir(parents=True)
    table = frame(["36979.jpg"], str, split=["train"]).with_columns(
        pl.Series(name, values, strict=False) for name, values in columns.items()
    )
    table.write_parquet(folder / "0000.parquet")
    with pytest.raises(data.DataInvalid, match=message):
        open_(tmp_path)


def test_a_photo_in_two_parquet_files_is_refused(tmp_path):
    root = split_layout(tmp_path, FILES[:4])
    frame(FILES[:1], str, split=["train"]).write_parquet(root / "TEST" / "test" / "0002.parquet")
    with pytest.raises(data.DataInvalid, match="0002.parquet row 0: the photo 1000092795.jpg stands more than once"):
        open_(root)


def hub_snapshot(monkeypatch, folder: Path) -> list[tuple]:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    requests: list[tuple] = []

    def snapshot(repo, **options):
        requests.append((repo, options["repo_type"], options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return requests


def test_without_a_root_the_split_parquet_comes_from_the_hub_and_its_commit_is_recorded(tmp_path, monkeypatch):
    commit = "0123abcd" * 5
    requests = hub_snapshot(monkeypatch, split_layout(tmp_path / commit, FILES[:4]))
    monkeypatch.setattr(flickr30k, "HUB_PHOTOS", 4)
    dataset = data.open_dataset("flickr30k")
    assert requests == [("nlphuji/flickr30k", "dataset", "refs/convert/parquet", ["TEST/test/*.parquet"])]
    assert dataset.source == f"Hub nlphuji/flickr30k@{commit} (refs/convert/parquet)"
    assert dataset.views["images"].ids == IN_ORDER[1:]


def test_a_download_with_photos_missing_is_refused(tmp_path, monkeypatch):
    hub_snapshot(monkeypatch, split_layout(tmp_path, FILES[:4]))
    with pytest.raises(data.DataInvalid, match="should hold 31014 photos but 4"):
        data.open_dataset("flickr30k")


SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "flickr30k"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real photos is not there")
def test_the_real_sample_opens_whole():
    dataset = open_(SAMPLE)
    images, texts = dataset.views["images"], dataset.views["captions"]
    assert (len(images), len(texts)) == (7478, 37390)
    assert collections.Counter(dataset.overlay.splits) == {"train": 6993, "validation": 242, "test": 243}
    assert [int(file[:-4]) for file in images.ids] == sorted(int(file[:-4]) for file in images.ids)
    assert texts.read(3) == "Two people hold each other near a pond."
    assert images.read(7000).size == (224, 224) and dataset.notes == ()


# --- German captions --------------------------------------------------------------------------------------------


def german(file: str) -> list[str]:
    return [f"Zwei  Männer, Nummer {place} , sehen auf {file[:-4]} ." for place in range(5)]


def write_lines(root: Path, files=FILES, **changes) -> None:
    records = [{"image": file, "split": "train", "de": german(file), **changes} for file in files]
    (root / "multi30k.jsonl").write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n")


def write_task2(root: Path, splits: dict[str, tuple[str, ...]]) -> Path:
    raw, lists = root / "data/task2/raw", root / "data/task2/image_splits"
    for folder in (raw, lists):
        folder.mkdir(parents=True, exist_ok=True)
    for split, files in splits.items():
        (lists / f"{split}_images.txt").write_text("\n".join(files) + "\n")
        for place in range(5):
            lines = "".join(german(file)[place] + "\n" for file in files)
            (raw / f"{split}.{place + 1}.de.gz").write_bytes(gzip.compress(lines.encode()))
    return root


def test_both_layouts_of_the_german_captions_give_one_view_with_the_ids_of_the_english_one(tmp_path):
    alone = open_(folder_layout(tmp_path / "a"))
    write_lines(folder_layout(tmp_path / "b"))
    published = {"train": (FILES[1], FILES[0]), "val": FILES[2:3], "test_2016": FILES[3:]}
    lines, task2 = open_(tmp_path / "b"), open_(write_task2(folder_layout(tmp_path / "c"), published))
    by_place = {f"{name}-{place}" for name in ("caption", "spoken") for place in range(1, 6)}
    assert set(alone.views) == {"images", "captions", *by_place}
    assert set(lines.views) == {"images", "captions", "captions-de", *by_place}
    for dataset in (lines, task2):
        for name in ("images", "captions"):
            assert dataset.views[name].root == alone.views[name].root
        view = dataset.views["captions-de"]
        assert view.ids == alone.views["captions"].ids and view.groups == alone.views["captions"].groups
        assert view.read(0) == "Zwei Männer, Nummer 0 , sehen auf 36979."
        assert dataset.overlay.root == alone.overlay.root and dataset.notes == alone.notes
    assert lines.views["captions-de"].root == task2.views["captions-de"].root


def test_the_nth_caption_of_every_photo_is_a_view_as_text_and_as_speech(tmp_path):
    dataset = open_(folder_layout(tmp_path))
    photos, captions = dataset.views["images"], dataset.views["captions"]
    for place in range(1, 6):
        text, speech = dataset.views[f"caption-{place}"], dataset.views[f"spoken-{place}"]
        assert text.groups == speech.groups == photos.groups, "one row a photo, in the order of the photos"
        assert text.ids == speech.ids == tuple(f"{file}#{place - 1}" for file in IN_ORDER)
        for row, row_id in enumerate(text.ids):
            assert text.read(row) == captions.read(captions.ids.index(row_id))
            assert json.loads(speech.content(row))["text"] == text.read(row)
    assert dataset.view_for("text").name == "captions" and len({view.root for view in dataset.views.values()}) == 12


def test_german_captions_of_some_photos_open_beside_any_layout_and_the_others_are_counted(tmp_path):
    write_lines(split_layout(tmp_path, FILES[:4]), FILES[:2])
    dataset = open_(tmp_path)
    assert dataset.views["captions-de"].groups == ("10002456",) * 5 + ("1000092795",) * 5
    assert dataset.notes[-1] == "2 photos have no German captions"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "multi30k.jsonl line 2 is not"),
        ("[1, 2]", "multi30k.jsonl line 2 is not"),
        ('{"image": "1.jpg"}', "multi30k.jsonl line 2 is not"),
        ('{"image": 1, "de": ["a", "b", "c", "d", "e"]}', "line 2: `image` is a file name"),
        ('{"image": "1.jpg", "de": ["a", "b", "c", "d", null]}', "line 2: .*`de` a list of captions"),
        ('{"image": "1.jpg", "de": ["a", "b"]}', "line 2: 1.jpg has 2 German captions, not 5"),
        ('{"image": "1.jpg", "de": ["a", "b", "c", "d", "e"]}', "1 photos with German captions are not in the data"),
        ('{"image": "a.jpg", "de": ["a", "b", "c", "d", "e"]}', "'a.jpg' is no Flickr30k file name"),
        ('{"image": "36979.jpg", "de": ["a", "b", "c", "d", " "]}', "'36979.jpg#4' has an empty text"),
        (json.dumps({"image": FILES[0], "de": german(FILES[0])}), "the photo 1000092795.jpg stands more than once"),
    ],
)
def test_a_malformed_line_of_german_captions_is_refused_by_name(tmp_path, line, said):
    write_lines(folder_layout(tmp_path), FILES[:1])
    with (tmp_path / "multi30k.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(data.DataInvalid, match=said):
        open_(tmp_path)


def test_published_german_files_that_lack_lines_parts_or_bytes_are_refused_by_name(tmp_path):
    write_task2(folder_layout(tmp_path), {"train": FILES})
    part = tmp_path / "data/task2/raw/train.3.de.gz"
    whole = part.read_bytes()
    part.write_bytes(gzip.compress(b"ein Satz\n"))
    with pytest.raises(data.DataInvalid, match=r"train.3.de.gz has 1 captions, and train_images.txt names 5 photos"):
        open_(tmp_path)
    for damaged in (whole[:-20], b"no gzip", gzip.compress(b"\xff\n" * 5)):
        part.write_bytes(damaged)
        with pytest.raises(data.DataInvalid, match=r"train.3.de.gz cannot be read"):
            open_(tmp_path)
    part.unlink()
    with pytest.raises(data.DataMissing, match=r"the German captions of train lack 1 files"):
        open_(tmp_path)


def test_german_captions_that_are_there_twice_are_refused(tmp_path):
    write_lines(write_task2(folder_layout(tmp_path), {"train": FILES}))
    with pytest.raises(data.DataInvalid, match="holds German captions twice"):
        open_(tmp_path)


def test_a_file_that_unpacks_to_far_more_than_the_published_ones_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("featcache.data.flickr30k_german._LARGEST", 1000)
    write_task2(folder_layout(tmp_path), {"train": FILES})
    (tmp_path / "data/task2/raw/train.1.de.gz").write_bytes(gzip.compress(b"a\n" * 5000))
    with pytest.raises(data.DataInvalid, match="train.1.de.gz holds more than"):
        open_(tmp_path)
