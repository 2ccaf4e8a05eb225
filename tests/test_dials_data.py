"""Perturbed views, graded captions and subjects of captions: what they give, and what is bound in their hashes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featcache.data.errors import DataInvalid, DataMissing
from featcache.data.graded_captions import GRADES, WAYS, open_wit_graded, read_graded, view_of
from featcache.data.mentions import SUBJECTS, subject_labels, subject_of
from featcache.data.perturbations import (
    PERCENTS,
    Perturbation,
    delete_characters,
    original_view,
    perturbation_of,
    perturbed_view,
    replace_pixels,
    with_perturbed,
)
from featcache.data.texts import text_view
from featcache.data.views import Dataset, Overlay, View

DELETE, NOISE = Perturbation("delete", 25), Perturbation("noise", 25)


def pictures(n: int = 3, edge: int = 16) -> View:
    colours = np.random.default_rng(0).integers(0, 256, (n, edge, edge, 3), dtype=np.uint8)
    ids = tuple(f"p{row}" for row in range(n))
    return View("images", "image", ids, ids, lambda row: colours[row].tobytes(), decode_raw, {"decoder": "raw"})


def decode_raw(content: bytes) -> Image.Image:
    edge = round((len(content) / 3) ** 0.5)
    return Image.frombytes("RGB", (edge, edge), content)


# -- deletion ---------------------------------------------------------------------------------------------------------


def is_subsequence(part: str, whole: str) -> bool:
    letters = iter(whole)
    return all(letter in letters for letter in part)


@given(st.text(max_size=80), st.sampled_from(PERCENTS), st.integers(0, 5))
def test_so_many_characters_go_and_the_others_stay_in_order(text: str, percent: int, seed: int) -> None:
    kept = delete_characters(text, percent, seed=seed, row="r")
    assert len(kept) == len(text) - int(len(text) * percent / 100) and is_subsequence(kept, text)


@given(st.text(min_size=1, max_size=60), st.integers(0, 5))
def test_what_a_low_percentage_deletes_a_higher_one_deletes_too(text: str, seed: int) -> None:
    by_percent = [delete_characters(text, percent, seed=seed, row="r") for percent in (0, *PERCENTS)]
    assert all(is_subsequence(more, less) for less, more in zip(by_percent, by_percent[1:], strict=False))


def test_every_character_goes_about_as_often_and_by_seed_and_row() -> None:
    gone = np.zeros(20)
    for row in range(600):
        kept = delete_characters("abcdefghijklmnopqrst", 25, seed=0, row=str(row))
        gone += [letter not in kept for letter in "abcdefghijklmnopqrst"]
    # 150 of 600 expected; six standard deviations of a binomial are 64
    assert gone.sum() == 5 * 600 and gone.min() > 86 and gone.max() < 214
    texts = {delete_characters("abcdefghij" * 5, 50, seed=seed, row=row) for seed in (0, 1) for row in ("a", "b")}
    assert len(texts) == 4


def test_a_perturbed_text_view_keeps_ids_and_binds_what_was_done() -> None:
    ids = [f"r{row}" for row in range(5)]
    view = text_view("captions", ids, ids, [f"a dog number {row} runs along the beach" for row in range(5)])
    made = perturbed_view(view, DELETE)
    assert (made.ids, made.groups, made.name) == (view.ids, view.groups, "captions-delete25-s0")
    assert made.read(2) == delete_characters(view.read(2), 25, seed=0, row="r2")
    others = [
        perturbed_view(view, Perturbation("delete", 30)),
        perturbed_view(view, Perturbation("delete", 25, 1)),
        view,
    ]
    assert len({each.root for each in (made, *others)}) == 4
    assert made.root == perturbed_view(view, Perturbation("delete", 25)).root
    short = text_view("captions", ["r"], ["r"], ["a"])  # nothing to delete: the text is the same, and its hash is not
    assert perturbed_view(short, DELETE).read(0) == "a" and perturbed_view(short, DELETE).hashes != short.hashes


# -- noise ------------------------------------------------------------------------------------------------------------


def test_the_share_of_pixels_is_replaced_with_noise_of_the_pictures_own_mean_and_spread() -> None:
    rng = np.random.default_rng(1)
    pixels = np.clip(rng.normal(120, 20, (200, 200, 3)), 0, 255).astype(np.uint8)
    noisy = np.asarray(replace_pixels(Image.fromarray(pixels), Perturbation("noise", 30), row=b"x")).astype(float)
    changed = (noisy != pixels).any(axis=2)
    # of 40,000 pixels: 30 % +- six standard deviations, less the few that are drawn as they were
    assert 0.284 < changed.mean() < 0.314
    drawn = noisy[changed]
    assert abs(drawn.mean() - pixels.mean()) < 1 and abs(drawn.std() - pixels.std(ddof=1)) < 1
    channels = np.corrcoef(drawn.T)  # a mask a pixel, a draw a channel
    assert np.abs(channels[np.triu_indices(3, 1)]).max() < 0.05
    more = np.asarray(replace_pixels(Image.fromarray(pixels), Perturbation("noise", 50), row=b"x"))
    assert (more[changed] == noisy[changed]).all()


def test_a_noisy_view_binds_what_was_done_though_the_bytes_are_the_same() -> None:
    view = pictures()
    made = perturbed_view(view, NOISE)
    assert made.content(1) == view.content(1) and made.hashes != view.hashes
    assert made.decoding["perturbation"] == "noise" and made.decoding["decoder"] == "raw"
    after = perturbed_view(view, Perturbation("noise", 25, edge=8))
    roots = [view.root, made.root, after.root, perturbed_view(view, Perturbation("noise", 25, seed=1)).root]
    assert len(set(roots)) == 4
    assert np.array_equal(made.read(1), perturbed_view(pictures(), NOISE).read(1))
    assert after.read(1).size == (8, 8) and after.name == "images-noise25-e8-s0"


def test_with_an_edge_the_noise_comes_after_the_transform_of_an_encoder_of_that_size() -> None:
    torch = pytest.importorskip("torch")
    from featcache.encoders import encoder_spec
    from featcache.encoders.vision import prepare_image, settings_from_entry

    declared = encoder_spec("efficientnet-lite0").preprocessing
    assert declared is not None
    settings = settings_from_entry(declared)
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 256, (300, 451, 3), dtype=np.uint8))
    before = prepare_image(wide, settings)
    noisy = replace_pixels(wide, Perturbation("noise", 20, edge=224), row=b"")
    seen = prepare_image(noisy, settings)
    assert torch.equal(seen, torch.from_numpy(np.array(noisy)))  # the encoder's own transform leaves it as it is
    same = (seen == before).all(dim=2).float().mean()
    assert 0.79 < float(same) < 0.81


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Perturbation("delete", 0), "wanted a whole number from 1 to 99"),
        (lambda: Perturbation("noise", 100), "wanted a whole number from 1 to 99"),
        (lambda: Perturbation("delete", 5, edge=3), "only noise takes one"),
        (lambda: Perturbation("delete", 5, seed=-1), "seed -1"),
        (lambda: Perturbation("blur", 5), "there are delete, noise"),  # pyright: ignore[reportArgumentType]
        (lambda: perturbed_view(pictures(), DELETE), "delete perturbs text views, and images is image"),
    ],
)
def test_a_perturbation_that_means_nothing_is_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(DataInvalid, match=says):
        make()


@given(
    st.sampled_from(["captions", "names-de", "images", "captions-delete10-s0"]),
    st.sampled_from(["delete", "noise"]),
    st.integers(1, 99),
    st.integers(0, 999),
    st.none() | st.integers(1, 999),
)
def test_a_name_says_the_whole_perturbation(view: str, kind: Any, percent: int, seed: int, edge: int | None) -> None:
    perturbation = Perturbation(kind, percent, seed, edge if kind == "noise" else None)
    name = perturbation.view_name(view)
    assert perturbation_of(name) == (view, perturbation) and original_view(name) == view


@pytest.mark.parametrize(
    "name", ["captions", "x-delete0-s0", "x-delete05-s0", "x-delete5-e3-s0", "x-delete5", "delete5-s0"]
)
def test_other_names_are_no_perturbations(name: str) -> None:
    assert perturbation_of(name) is None and original_view(name) == name


def test_a_data_set_gets_the_perturbed_views_beside_its_own() -> None:
    ids = ("a", "b")
    texts = text_view("captions", ids, ids, ["one text", "another text"])
    dataset = Dataset("tiny", {"captions": texts}, Overlay(ids, ("", "")), "none", "a test")
    made = with_perturbed(dataset, "captions", [Perturbation("delete", percent) for percent in (10, 50)])
    assert list(made.views) == ["captions", "captions-delete10-s0", "captions-delete50-s0"]
    assert made.overlay.root == dataset.overlay.root
    with pytest.raises(DataInvalid, match="no view 'images' to perturb; it has captions"):
        with_perturbed(dataset, "images", [NOISE])


# -- graded captions --------------------------------------------------------------------------------------------------


def graded_rows(n: int = 4) -> list[dict[str, Any]]:
    """Rows in the released format: keys in the released order, the original last."""
    rows: list[dict[str, Any]] = []
    for row in range(n):
        sentences = {f"Caption {grade // 10} - {grade}%": f"text {row} at {grade}" for grade in GRADES[1:]}
        sentences["Caption 0 - 0%"] = f"text {row} at 0"
        rows.append(
            {f"Index - {row}": {"sentences": sentences, "similarities": [1 - grade / 200 for grade in GRADES[1:]]}}
        )
    return rows


def write_graded(folder: Path, rows: Any) -> Path:
    (folder / "data.json").write_text(json.dumps(rows, indent=4), encoding="utf-8")
    return folder


def test_each_grade_is_a_view_with_the_ids_of_wit(tmp_path: Path) -> None:
    dataset = open_wit_graded(write_graded(tmp_path, graded_rows()))
    assert list(dataset.views) == ["captions", *(f"captions-grade{grade}" for grade in GRADES[1:])]
    assert dataset.views["captions"].ids == ("0000", "0001", "0002", "0003") == dataset.overlay.groups
    assert dataset.views[view_of(70)].read(2) == "text 2 at 70" and dataset.views["captions"].read(2) == "text 2 at 0"
    assert "only texts can be compared" in dataset.notes[0]
    graded = read_graded(tmp_path / "data.json")
    assert len(graded) == 4 and graded.similarities[3] == tuple(1 - grade / 200 for grade in GRADES[1:])
    assert open_wit_graded(tmp_path / "data.json").views["captions"].root == dataset.views["captions"].root


def test_the_photos_of_wit_beside_the_file_are_a_view_if_the_originals_are_their_captions(tmp_path: Path) -> None:
    from tests.test_data_wit import table

    rows = graded_rows(1024)
    for row, each in enumerate(rows):
        each[f"Index - {row}"]["sentences"]["Caption 0 - 0%"] = f"caption  {row}"  # white space is no other wording
    (tmp_path / "data").mkdir()
    table(1024).write_parquet(tmp_path / "data/0.parquet")
    dataset = open_wit_graded(write_graded(tmp_path, rows))
    assert dataset.views["images"].ids == dataset.views["captions"].ids and not dataset.notes
    assert dataset.views["images"].read(900).getpixel((0, 0)) == (900 % 256, 3, 0)
    rows[5]["Index - 5"]["sentences"]["Caption 0 - 0%"] = "of another photo"
    with pytest.raises(DataInvalid, match="1 originals are not the captions .* in row 5: 'of another photo' and 'cap"):
        open_wit_graded(write_graded(tmp_path, rows))
    with pytest.raises(DataInvalid, match="3 rows, but 1024 photos"):
        open_wit_graded(write_graded(tmp_path, graded_rows(3)))


def changed(row: int, field: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A change of one field of a row."""

    def apply(rows: Any) -> Any:
        change(rows[row][f"Index - {row}"][field])
        return rows

    return apply


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: {}, "data.json is no list of rows"),
        (lambda rows: [], "data.json is no list of rows"),
        (lambda rows: rows[::-1], "row 0 is not"),
        (lambda rows: [*rows[:3], 7], "row 3 is not"),
        (lambda rows: [rows[0] | {"more": 1}], "row 0 is not"),
        (changed(1, "sentences", lambda own: own.pop("Caption 3 - 30%")), "row 1 lacks or adds captions: Caption 3"),
        (changed(1, "sentences", lambda own: own.update({"Caption 11 - 110%": "x"})), "row 1 lacks or adds"),
        (changed(2, "sentences", lambda own: own.update({"Caption 3 - 30%": " "})), "row 2 has no text at 30 %"),
        (changed(2, "similarities", lambda own: own.pop()), "row 2: `similarities` are not ten cosines"),
        (changed(2, "similarities", lambda own: own.insert(0, own.pop() + 2)), "row 2: `similarities`"),
        (changed(2, "similarities", lambda own: own.insert(0, bool(own.pop()))), "row 2: `similarities`"),
    ],
)
def test_a_file_of_another_format_is_refused_by_row(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=says):
        open_wit_graded(write_graded(tmp_path, change(graded_rows())))


def test_a_file_that_is_not_there_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="data.json is not there") as caught:
        open_wit_graded(tmp_path)
    assert f"Looked at: {tmp_path}" in str(caught.value) and all(way in str(caught.value) for way in WAYS)
    with pytest.raises(DataMissing, match="no --root given"):
        open_wit_graded(None)
    (tmp_path / "data.json").write_text("[" * 100_000)
    with pytest.raises(DataInvalid, match="is no JSON"):
        open_wit_graded(tmp_path)


# -- subjects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("captions", "subject"),
    [
        (["A dog.", "dogs run", "The DOG", "x", "y"], "dog"),
        (["A dog.", "dogs run", "x", "y", "z"], ""),  # two are too few
        (["A man and a dog.", "dog and man", "a dog", "x", "y"], ""),  # two name the man as well
        (["A man and a dog.", "dog", "a dog", "x", "y"], "dog"),
        (["A woman.", "lady", "women", "a manly walk", "y"], "woman"),
    ],
)
def test_a_subject_is_what_three_captions_name_and_no_other_two(captions: list[str], subject: str) -> None:
    assert subject_of(captions) == subject


def test_subjects_are_those_of_the_groups_of_a_view() -> None:
    texts = ["a boy", "boy", "the boys", "a girl", "a girl", "x"]
    view = text_view("captions", [str(row) for row in range(6)], ["p"] * 3 + ["q"] * 3, texts)
    assert subject_labels(view) == {"p": "boy", "q": ""}
    with pytest.raises(DataInvalid, match="1 captions a group: 3 or more have to agree"):
        subject_labels(text_view("captions", ["a"], ["a"], ["a boy"]))
    with pytest.raises(DataInvalid, match="is image: subjects are read off texts"):
        subject_labels(pictures())
    assert all(own.isdisjoint(other) for a, own in SUBJECTS.items() for b, other in SUBJECTS.items() if a != b)
