"""What stands in two splits is found and listed, by content and by features, and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest

from featcache.features import Features
from featcache.metrics import near_duplicates
from featcache.studies import leaks as module
from featcache.studies.leaks import IDENTICAL, LOOKALIKE, NEAR, Leaks, Source, extracted_leaks, find_leaks
from tests.planted_leak import planted_cache, planted_folder

RNG = np.random.default_rng
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def rows(ids, hashes, values=None, *, view="images", modality="image", groups=None, encoder="e"):
    """Features whose ids say their split: "train1", "val2", "test3"."""
    columns = {"ids": ids, "groups": groups or ids, "splits": [""] * len(ids), "hashes": hashes}
    arrays = {name: np.array(column, dtype=object) for name, column in columns.items()}
    values = RNG(0).standard_normal((len(ids), 16)) if values is None else values
    return Features(values=np.asarray(values, np.float32), view=view, modality=modality, encoder=encoder, **arrays)


def found(*features, split_of=None):
    groups = {group for each in features for group in each.groups.tolist()}
    splits = {group: SPLITS[group.rstrip("0123456789")] for group in groups}
    return find_leaks([Source.of(each) for each in features], split_of or splits)


def ids(n, split):
    return [f"{split}{number}" for number in range(n)]


# -- content ----------------------------------------------------------------------------------------------------------


def test_an_image_of_test_or_validation_with_the_bytes_of_an_earlier_splits_is_listed_with_its_match():
    leaks = found(
        rows(["train1", "train2", "val1", "val2", "test1", "test2", "test3"], ["a", "a", "b", "a", "b", "a", "c"])
    )
    kind = IDENTICAL["image"]
    listed = [(row.kind, row.split, row.id, row.match_id, row.match_split, row.similarity) for row in leaks.rows]
    assert listed == [
        (kind, "validation", "val2", "train1", "train", 1.0),
        (kind, "test", "test1", "val1", "validation", 1.0),
        (kind, "test", "test2", "train1", "train", 1.0),
    ]
    assert leaks.groups == {"validation": {"val2"}, "test": {"test1", "test2"}}
    assert leaks.sizes == {"validation": 2, "test": 3}


def test_equal_images_within_one_split_and_contents_that_are_unknown_leak_nothing():
    assert found(rows(["train1", "train2", "test1", "test2"], ["a", "a", "b", "b"])).rows == ()
    assert found(rows(["train1", "test1"], ["", ""])).rows == ()
    assert found(replace(rows(["train1", "test1"], []), hashes=np.empty(0, object))).rows == ()


def test_a_text_of_test_that_stands_in_training_is_listed_but_its_pair_does_not_leak():
    images = rows(["train1", "test1"], ["a", "b"])
    texts = rows(["t", "u"], ["a dog", "a dog"], view="captions", modality="text", groups=["train1", "test1"])
    leaks = found(images, texts)
    assert [(row.kind, row.id, row.match_id, row.view) for row in leaks.rows] == [
        ("identical text", "u", "t", "captions")
    ]
    assert leaks.groups == {"validation": set(), "test": set()}


def test_a_group_whose_texts_all_stand_in_one_earlier_group_leaks_with_its_picture():
    images = rows(["train1", "train2", "test1", "test2", "test3"], list("abcde"))
    groups = ["train1", "train1", "train2", "test1", "test1", "test2", "test2", "test3", "test3"]
    said = ["a dog", "it barks", "a cat", "it barks", "a dog", "a dog", "a cat", "a dog", "a dog"]
    texts = rows(list("klmnopqrs"), said, view="captions", modality="text", groups=groups)
    leaks = found(images, texts)
    assert leaks.groups["test"] == {"test1"}, "not where two groups share them, nor one text said twice"
    assert {row.id for row in leaks.rows if row.kind == "text of a repeated group"} == {"n", "o"}
    assert {row.group for row in leaks.texts_alone()} == {"test2", "test3"}


def test_where_all_is_text_a_group_leaks_if_one_earlier_group_has_its_text_in_every_view():
    groups = ["train1", "train2", "test1", "test2"]
    english = rows(list("abcd"), ["dog", "dog", "dog", "cat"], view="en", modality="text", groups=groups)
    german = rows(list("efgh"), ["Hund", "Köter", "Köter", "Hund"], view="de", modality="text", groups=groups)
    assert found(english, german).groups["test"] == {"test1"}
    assert found(english).groups["test"] == set(), "one view alone has no pair"


def test_groups_that_take_no_part_are_left_alone():
    features = rows(["train1", "test1"], ["a", "a"])
    assert found(features, split_of={"test1": "test"}).rows == ()
    assert found(features, split_of={"train1": "train", "test1": "other"}).rows == ()


# -- features ---------------------------------------------------------------------------------------------------------


def copies(n=60, *, noise=0.1, seed=0, d=16):
    """Training rows, a validation and a test row near the first two, and a stranger."""
    rng = RNG(seed)
    train = rng.standard_normal((n, d))
    near = train[:2] + noise * rng.standard_normal((2, d))
    return [*ids(n, "train"), "val0", "test0", "test1"], np.concatenate([train, near, rng.standard_normal((1, d))])


def test_a_near_copy_is_found_by_features_and_a_stranger_is_not():
    names, values = copies()
    leaks = found(rows(names, [str(n) for n in range(len(names))], values))
    assert [(row.kind, row.split, row.id, row.match_id) for row in leaks.rows] == [
        (NEAR, "validation", "val0", "train0"),
        (NEAR, "test", "test0", "train1"),
    ]
    expected = values[-2] @ values[1] / np.linalg.norm(values[-2]) / np.linalg.norm(values[1])
    assert leaks.rows[1].similarity == pytest.approx(expected, abs=1e-6)
    assert leaks.looked_at == {"images": (3, 3)} and leaks.encoders == {"images": ("e/",)}


def test_a_near_copy_counts_only_where_every_array_of_the_view_finds_it():
    names, values = copies()
    hashes = [str(n) for n in range(len(names))]
    unlike = RNG(9).standard_normal(values.shape)
    other = rows(names, hashes, unlike, encoder="other")
    assert found(rows(names, hashes, values), other).rows == ()
    unlike[-3:-1] = unlike[:2]
    both = found(rows(names, hashes, values), rows(names, hashes, unlike, encoder="other"))
    assert [row.id for row in both.rows] == ["val0", "test0"]


def test_rows_that_failed_or_are_zero_are_passed_over():
    names, values = copies()
    values[5], values[6], values[-1] = np.nan, 0, 0
    leaks = found(rows(names, [str(n) for n in range(len(names))], values))
    assert [(row.id, row.match_id) for row in leaks.rows] == [("val0", "train0"), ("test0", "train1")]


def test_of_too_many_rows_a_sample_is_looked_at_and_it_is_said(monkeypatch):
    names, values = copies()
    monkeypatch.setattr(module, "LARGEST_SEARCH", 62 * 16)
    leaks = found(rows(names, [str(n) for n in range(len(names))], values))
    assert leaks.looked_at == {"images": (2, 3)} and leaks.record()["looked_at"] == {"images": [2, 3]}


def test_every_copy_is_found_even_where_the_whole_test_split_is_one():
    rng = RNG(3)
    train = rng.standard_normal((200, 16))
    test = train + 0.1 * rng.standard_normal((200, 16))
    assert near_duplicates(test, train, size=200).near.all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("n, depth", [(15, 2), (40, 4), (120, 10)])
def test_the_rule_is_the_ratio_of_distances_by_loops_wherever_the_space_lies(scale, offset, n, depth):
    rng = RNG(4)
    gallery, queries = (scale * (rng.standard_normal((n, 8)) + offset) for n in (n, 30))
    queries[:10] = gallery[:10] + scale * 0.2 * rng.standard_normal((10, 8))
    result = near_duplicates(queries, iter([gallery[:11], gallery[11:]]), size=n)
    for row, query in enumerate(queries):
        unit = [one / np.linalg.norm(one) for one in gallery]
        distances = [np.linalg.norm(query / np.linalg.norm(query) - one) for one in unit]
        nearest, tenth = int(np.argmin(distances)), sorted(distances)[depth - 1]
        assert result.nearest[row] == nearest
        assert result.ratio[row] == pytest.approx(distances[nearest] / tenth, rel=1e-4)
        assert result.near[row] == (distances[nearest] / tenth < 0.5)


def test_in_a_data_set_of_look_alikes_copies_cannot_be_told_and_that_is_said(capsys):
    """Each picture comes in pairs that differ little, wherever they stand: seven triangles and eight."""
    from featcache.report.terminal.leaks import show_leaks

    rng = RNG(5)
    pairs = np.repeat(rng.standard_normal((60, 16)), 2, axis=0) + 0.1 * rng.standard_normal((120, 16))
    names = [*ids(90, "train"), *ids(30, "test")]
    places = rng.permutation(120)
    leaks = found(rows(names, [str(n) for n in range(120)], pairs[places]))
    assert {row.kind for row in leaks.rows} == {LOOKALIKE} and len(leaks.rows) > 15
    assert leaks.groups == {"validation": set(), "test": set()} and leaks.look_alike["images"] > 0.5
    show_leaks(leaks)
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"Note: {len(leaks.rows)} of test images are near-identical") and "none is counted" in said


def test_a_row_is_no_near_duplicate_of_itself():
    x = RNG(0).standard_normal((60, 32))
    assert not near_duplicates(x, x, size=60, exclude=np.arange(60)).near.any()
    assert near_duplicates(x, x, size=60).near.all()


def test_a_collapsed_space_shows_no_copies():
    assert not near_duplicates(np.ones((3, 4)), np.ones((20, 4)), size=20).near.any()


# -- the rule on drawings ---------------------------------------------------------------------------------------------


def test_the_rule_finds_recompressed_resized_and_cut_drawings_and_no_others(tmp_path):
    """Pinned on a few drawings with a packaged encoder; docs/log.md has the rates of all."""
    import io

    from PIL import Image

    from featcache.data import open_dataset
    from featcache.encoders import EncodeOptions, encoder_spec, load_encoder

    dataset = open_dataset("openmoji")
    view, split = dataset.views["images"], np.array(dataset.overlay.splits)
    encoder = load_encoder(encoder_spec("efficientnet-lite0"), EncodeOptions(), memo=tmp_path)

    def encode(images):
        prepared = [encoder.prepare(image) for image in images]
        parts = [encoder.encode(prepared[start : start + 16], ["last.mean"]) for start in range(0, len(prepared), 16)]
        return np.concatenate([part["last.mean"].numpy() for part in parts])

    def jpeg(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return Image.open(file).convert("RGB")

    drawings = [view.read(int(row)) for row in np.flatnonzero(split == "train")[::20][:40]]
    others = [view.read(int(row)) for row in np.flatnonzero(split == "test")[::12][:15]]
    chosen = drawings[::10]
    perturbed = [jpeg(image) for image in chosen]
    perturbed += [image.resize((128, 128), Image.Resampling.BICUBIC) for image in chosen]
    perturbed += [image.crop((5, 5, 251, 251)) for image in chosen]
    gallery = encode(drawings)
    result = near_duplicates(encode(perturbed), gallery, size=40)
    assert result.near.all() and result.nearest.tolist() == [*range(0, 40, 10)] * 3
    assert not near_duplicates(encode(others), gallery, size=40).near.any()


# -- from the cache ---------------------------------------------------------------------------------------------------


def test_an_extraction_of_a_planted_folder_shows_every_copy_and_nothing_else(tmp_path):
    from types import SimpleNamespace

    folder = planted_folder(tmp_path / "pictures", copies=30, validation_copies=5)
    cache, dataset = planted_cache(folder, tmp_path / "cache")
    jobs = []
    for view, encoder in (("images", "tiny"), ("captions", "words")):
        array = cache.find("planted", f"{view}/{encoder}")
        target = SimpleNamespace(layer="last.mean", array=array, done=True)
        jobs.append(SimpleNamespace(dataset=dataset, default_target=target))
    leaks = extracted_leaks(cache, jobs)
    assert leaks.counts() == {
        "identical image": {"validation": 2, "test": 12},
        NEAR: {"validation": 3, "test": 18},
        "identical text": {"validation": 5, "test": 30},
    }
    assert all(row.match_id.split(".")[0].removeprefix("train") == row.id.split(".")[0][-3:] for row in leaks.rows)
    assert {split: len(groups) for split, groups in leaks.groups.items()} == {"validation": 5, "test": 30}
    jobs[0].default_target.done = False
    assert "identical image" not in extracted_leaks(cache, jobs).counts(), "not before the array is whole"
    assert extracted_leaks(cache, []) == Leaks()
