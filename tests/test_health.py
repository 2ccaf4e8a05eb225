"""Are rows that came out alike, constant, of one colour or cut counted and named, wherever the array goes?"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import featcache.extraction.extract
import featcache.extraction.job
from featcache.cache import Cache
from featcache.commands.app import app
from featcache.data.images import image_view
from featcache.data.options import OpenOptions
from featcache.data.views import Dataset, Overlay, View
from featcache.encoders import EncodeOptions, encoder_spec, load_encoder
from featcache.encoders.vision import NEAR_CONSTANT, ImagePreprocessor, ImageSettings
from featcache.errors import Damaged
from featcache.extraction.extract import extract
from featcache.extraction.failed_rows import RowSettings
from featcache.extraction.job import plan_job
from featcache.maintenance.health import Health, array_health
from featcache.maintenance.repair import Sources, _open
from featcache.report.terminal.health import health_lines
from featcache.sharing.diff import plan_transfer
from featcache.sharing.transfer import transfer
from featcache.store.digest import ArrayKey
from featcache.store.records import parse_record, record_json
from featcache.store.rows import write_rows
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.spine import store, tiny_dataset
from tests.test_pictures import file_of, shape


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


def extracted(cache: Cache, dataset: Dataset, encoder: Any, **settings: Any) -> Health:
    job = replace(plan_job(cache, dataset, encoder_spec("minilm"), EncodeOptions()), chunk_rows=7)
    extract(cache, job, encoder=encoder, settings=RowSettings(**settings))
    health = array_health(cache, cache.find(dataset.name, "fake"))
    assert health is not None
    return health


def texts(*contents: str) -> Dataset:
    ids = tuple(f"r{number}" for number in range(len(contents)))
    view = View("captions", "text", ids, ids, lambda row: contents[row].encode(), bytes.decode)
    return Dataset("tiny", {"captions": view}, Overlay(ids, ("",) * len(ids)), "public domain", "made by a test")


class Deaf(FakeEncoder):
    """Hears no case, and of "zero" nothing."""

    def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
        values = super().encode([text.lower() for text in prepared], layers)
        for row, text in enumerate(prepared):
            if text == "zero":
                for layer in layers:
                    values[layer][row] = 0
        return values


# -- the encoding pass ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_texts_cut_at_the_token_limit_are_listed_in_the_records_of_every_layer(tmp_path: Path) -> None:
    dataset = text_dataset()
    lengths = [len(dataset.views["captions"].read(row)) for row in range(50)]
    cut = tuple(f"r{row}" for row in range(50) if lengths[row] > 15)
    assert 0 < len(cut) < 50
    cache = Cache(tmp_path)
    assert extracted(cache, dataset, FakeEncoder(longest=15)) == Health(50, truncated=cut)
    for array in cache.arrays():
        assert array.complete().flagged("truncated") == cut
        assert all(set(record.truncated) <= set(dataset.views["captions"].ids) for record in array.complete().records)


@pytest.mark.usefixtures("fake")
def test_records_and_roots_of_clean_rows_have_the_bytes_that_they_always_had(tmp_path: Path) -> None:
    clean, cut = Cache(tmp_path / "clean"), Cache(tmp_path / "cut")
    assert extracted(clean, text_dataset(), FakeEncoder()).is_clean
    extracted(cut, text_dataset(), FakeEncoder(longest=15))
    for one, other in zip(clean.arrays(), cut.arrays(), strict=True):
        assert one.complete().root == other.complete().root
        record = json.loads((one.path / "commits" / "0.json").read_bytes())
        assert record.keys() == {"chunk", "rows", "bytes", "crc32c", "blake3", "failed", "writer"}


@pytest.mark.usefixtures("fake")
def test_what_an_interrupted_extraction_saw_is_still_known_when_it_went_on(tmp_path: Path) -> None:
    class Interrupted(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            if len(self.rows) >= 24:
                raise KeyboardInterrupt
            return super().encode(prepared, layers)

    whole = extracted(Cache(tmp_path / "whole"), text_dataset(), FakeEncoder(longest=15))
    cache = Cache(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        extracted(cache, text_dataset(), Interrupted(longest=15))
    assert extracted(cache, text_dataset(), FakeEncoder(longest=15)) == whole


@pytest.mark.usefixtures("fake")
def test_flags_are_there_whichever_process_computed_which_chunk(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for part in range(3):
        job = replace(plan_job(cache, text_dataset(), encoder_spec("minilm"), EncodeOptions()), chunk_rows=7)
        extract(cache, job, encoder=FakeEncoder(longest=15), chunks=lambda chunk, part=part: chunk % 3 == part)  # pyright: ignore[reportArgumentType]
    assert array_health(cache, cache.find("tiny", "fake")) == extracted(
        Cache(tmp_path / "one"), text_dataset(), FakeEncoder(longest=15)
    )


@pytest.mark.usefixtures("fake")
def test_a_chunk_recorded_after_a_crash_is_said_not_to_know(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    extracted(cache, text_dataset(), FakeEncoder(longest=15))
    array = cache.find("tiny", "fake")
    (array.path / "COMPLETE.json").unlink()
    (array.path / "commits" / "0.json").unlink()
    health = extracted(cache, text_dataset(), FakeEncoder(longest=15))
    assert health.adopted == 7 and "7 rows recorded after a crash" in health_lines(health)[-1]


@pytest.mark.usefixtures("fake")
def test_a_row_that_failed_is_not_flagged_as_well(tmp_path: Path) -> None:
    class Broken(FakeEncoder):
        def encode(self, prepared: list[Any], layers: Any) -> dict[str, Any]:
            values = super().encode(prepared, layers)
            for row, text in enumerate(prepared):
                if text.startswith("w6 "):
                    for layer in layers:
                        values[layer][row] = np.nan
            return values

    health = extracted(Cache(tmp_path), text_dataset(), Broken(longest=15), on_error="skip")
    assert "r6" not in health.truncated and "r5" in health.truncated and not health.constant


@pytest.mark.usefixtures("fake")
def test_flags_travel_with_push_and_pull(tmp_path: Path) -> None:
    here, there, back = (Cache(tmp_path / name) for name in ("here", "there", "back"))
    health = extracted(here, text_dataset(), FakeEncoder(longest=15))
    transfer(plan_transfer(here, there))
    transfer(plan_transfer(there, back))
    assert array_health(back, back.find("tiny", "fake")) == health


RECORD: dict[str, Any] = {
    "chunk": 0,
    "rows": 2,
    "bytes": 9,
    "crc32c": "0" * 8,
    "blake3": "1" * 64,
    "failed": [],
    "writer": "w",
}


@pytest.mark.parametrize(
    "junk",
    [
        {"truncated": "ab"},
        {"truncated": [1]},
        {"near_constant": {"a": 1}},
        {"near_constant": None},
        {"truncated": ["a", "a"]},
        {"truncated": ["a", "b", "c"]},
        {"blurred": ["a"]},
    ],
)
def test_junk_among_the_flags_of_a_record_is_damage(junk: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        parse_record(RECORD | junk, "here")


def test_a_record_is_read_as_it_was_written() -> None:
    for flags in ({}, {"truncated": ["a"]}, {"near_constant": ["a"], "truncated": ["b"]}):
        assert json.loads(json.dumps(record_json(parse_record(RECORD | flags, "here")))) == RECORD | flags


# -- the cached array -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_rows_of_other_content_and_equal_features_are_named_and_equal_content_is_not(tmp_path: Path) -> None:
    dataset = texts("a cat", "A Cat", "a dog", "a dog", "zero", "A CAT", "two", "a DOG")
    health = extracted(Cache(tmp_path), dataset, Deaf())
    assert health.identical == (("r0", "r1", "r5"), ("r2", "r3", "r7")) and health.constant == ("r4",)
    identical, constant = health_lines(health)
    assert identical.startswith("6 rows of unequal content have equal features, in 2 sets: 'r0' = 'r1' = 'r5'; 'r2'")
    assert constant == "1 row whose features are all one number: 'r4'"


def planted(place: Path, values: np.ndarray) -> tuple[Cache, Dataset]:
    """A cache with one array of 160 pictures."""
    dataset, cache = tiny_dataset(160, 1), Cache(place)
    write_rows(cache.folder / "openmoji" / "images", dataset.views["images"], dataset.overlay)
    store(cache, dataset, dataset.views["images"], "planted", values)
    return cache, dataset


def test_equal_rows_are_those_that_a_plain_search_finds_and_minus_zero_is_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (160, 5)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] *= -1  # minus zero among them
    cache, dataset = planted(tmp_path, values)
    health = array_health(cache, cache.find("openmoji", "planted"))
    ids = dataset.views["images"].ids
    oracle = {}
    for row, value in enumerate(values.tolist()):
        oracle.setdefault(tuple(number + 0.0 for number in value), []).append(ids[row])
    assert health is not None
    assert sorted(health.identical) == sorted(tuple(rows) for rows in oracle.values() if len(rows) > 1)
    assert health.constant == tuple(ids[row] for row in range(160) if len(set(values[row])) == 1)


def test_one_number_a_row_is_not_called_constant_or_equal(tmp_path: Path) -> None:
    cache, _ = planted(tmp_path, np.ones((160, 1), np.float32))
    assert array_health(cache, cache.find("openmoji", "planted")) == Health(160)


# -- pictures and texts through real encoders -------------------------------------------------------------------------


@pytest.mark.parametrize(("span", "flag"), [(NEAR_CONSTANT, "near_constant"), (NEAR_CONSTANT + 1, None)])
def test_a_picture_is_near_constant_by_the_channel_that_spans_most(span: int, flag: str | None) -> None:
    preprocessor = ImagePreprocessor(ImageSettings(8, (8, 8), "even", "bilinear", (0.5,) * 3, (0.5,) * 3))
    pixels = torch.full((8, 6, 3), 100, dtype=torch.uint8)
    pixels[..., 1] = 7  # three colours, each the same everywhere
    assert preprocessor.flag(pixels) == "near_constant"
    pixels[5, 2, 2] += span
    assert preprocessor.flag(pixels) == flag


def test_a_text_of_more_tokens_than_the_limit_is_flagged_and_one_of_as_many_is_not() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    from featcache.encoders.text import TextPreprocessor

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.enable_truncation(5)
    preprocessor = TextPreprocessor(tokenizer, 0, 5, "")
    flags = [preprocessor.flag(preprocessor.prepare("a " * words)) for words in (1, 5, 6, 50)]
    assert flags == [None, None, "truncated", "truncated"]


def test_pictures_reach_a_random_encoder_as_they_are_to_be_seen(tmp_path: Path) -> None:
    """The reproductions of the report, through the real path: 12 deep, 12 icons, 12 floats, 8 turned, 2 blank."""
    contents: dict[str, bytes] = {}
    for number in range(12):
        icon = np.zeros((24, 24, 4), np.uint8)
        icon[..., 3] = shape(number)
        contents[f"deep{number}.png"] = file_of(Image.fromarray(shape(number).astype(np.uint16) * 200 + 300))
        contents[f"icon{number}.png"] = file_of(Image.fromarray(icon))
        contents[f"float{number}.tif"] = file_of(Image.fromarray(shape(number).astype(np.float32) / 300), "TIFF")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        contents[f"turned{orientation}.png"] = file_of(Image.fromarray(shape(3)[4:, :]), exif=exif)
    contents["blank.png"] = file_of(Image.new("RGB", (24, 24), (9, 9, 9)))
    contents["white.png"] = file_of(Image.new("LA", (24, 24), (255, 0)))
    contents["copy.png"] = file_of(Image.fromarray(shape(5)), "BMP")
    contents["again.png"] = file_of(Image.fromarray(shape(5)), "TIFF")
    ids = tuple(contents)
    view = image_view("images", ids, ids, lambda row: contents[ids[row]], float_range=(0, 1))
    dataset = Dataset("own", {"images": view}, Overlay(ids, ("",) * len(ids)), "ours", "made by a test")
    spec, options, cache = encoder_spec("resnet18-tv"), EncodeOptions(random=True), Cache(tmp_path)
    job = plan_job(cache, dataset, spec, options, layers=["last"])
    extract(cache, job, encoder=load_encoder(spec, options, memo=cache.memo))
    health = array_health(cache, job.targets[0].array)
    assert health == Health(len(ids), identical=(("copy.png", "again.png"),), near_constant=("blank.png", "white.png"))


def test_extract_and_show_name_the_rows_even_where_all_was_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: None
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "captions.csv").write_text("image,caption\na.png,short\na.png,this one is much too long\n")
    monkeypatch.setattr(featcache.extraction.extract, "load_encoder", lambda *_, **__: FakeEncoder(longest=15))
    words = ("extract", "folder", "minilm", "--root", str(folder), "--cache", str(tmp_path / "cache"))
    line = "Warning: 1 text cut at the encoder's token limit, so that the rest counts for nothing: 'a.png#1'"
    for expected in ("2 encoded in", "cached already"):
        done = run(*words)
        assert done.exit_code == 0 and expected in done.output and line in done.output
    shown = run("show", "own", "fake", "--cache", str(tmp_path / "cache"))
    assert shown.exit_code == 0 and line in shown.output
    as_json = json.loads(run("show", "own", "fake", "--json", "--cache", str(tmp_path / "cache")).stdout)
    assert as_json["health"]["truncated"] == ["a.png#1"] and as_json["health"]["rows"] == 2


@pytest.mark.parametrize("wrong", ["1:0", "0", "a:b", "0:inf", "0:nan", "1:1"])
def test_a_range_that_is_none_is_a_usage_error(wrong: str) -> None:
    done = run("extract", "folder", "minilm", "--root", ".", "--float-range", wrong)
    assert done.exit_code == 2 and "is no range" in done.output


def test_the_declared_range_reaches_the_folder_and_no_other_data_set(tmp_path: Path, fake: None) -> None:
    Image.fromarray(np.float32([[0, 1]])).save(tmp_path / "a.tif")
    (tmp_path / "captions.csv").write_text("image,caption\na.tif,one\n")
    arguments = ("resnet18-tv", "--random", "0", "--layers", "last", "--cache", str(tmp_path / "cache"))
    refused = run("extract", "folder:own", *arguments, "--root", str(tmp_path))
    assert refused.exit_code == 1
    done = run("extract", "openmoji", *arguments, "--float-range", "0:1")
    assert done.exit_code == 1 and "openmoji takes no --float-range" in str(done.exception or done.output)


def test_repair_opens_a_folder_with_the_range_that_is_declared_again(tmp_path: Path) -> None:
    Image.fromarray(np.float32([[0, 1]])).save(tmp_path / "a.tif")
    (tmp_path / "captions.csv").write_text("image,caption\na.tif,one\n")
    key = ArrayKey("own", "images", "fake", "last.mean", {}, {})
    data = _open(key, Sources(root=tmp_path, options=OpenOptions(float_range=(0, 1))))
    assert data.views["images"].read(0).getpixel((1, 0)) == (255, 255, 255)
    assert "--float-range" in run("repair", "--help").output
