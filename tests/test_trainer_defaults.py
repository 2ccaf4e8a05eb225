"""What the user leaves open is filled; sides have names as short as is unique; no two trainings share a folder."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.errors import Ambiguous, FeaturesNotCached, UsageError
from featcache.store.rows import write_rows
from featcache.trainer.config import RESERVED, FitConfig
from featcache.trainer.defaults import (
    DEFAULTS,
    DEMO,
    Selection,
    choose_selection,
    guess_selection,
    old_sides,
    run_folder,
    side_names,
)
from tests.spine import store, tiny_cache, tiny_dataset
from tests.trainer_planted import features

FLICKR = [default for default in DEFAULTS if default.dataset == "flickr30k"]


def array(view="images", encoder="resnet18", layer="last.mean", digest="d"):
    given = {"view": view, "encoder": encoder, "layer": layer, "digest": digest}
    return features("x", np.ones((2, 3)), ["a", "b"], ["train", "test"], **given)


# -- names of sides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ([array("images"), array("captions", "gpt2")], ["images", "captions"]),
        ([array("images"), array("names-en", "gpt2"), array("names-de", "gpt2")], ["images", "names-en", "names-de"]),
        ([array("images"), array("images", "dinov2")], ["resnet18", "dinov2"]),
        (
            [array("captions", "gpt2"), array("captions", "minilm"), array("names", "minilm")],
            ["captions/gpt2", "captions/minilm", "names/minilm"],
        ),
        (
            [array(layer="2.mean"), array(layer="last.mean")],
            ["images/resnet18/2.mean", "images/resnet18/last.mean"],
        ),
    ],
)
def test_sides_are_called_by_view_else_encoder_else_both_else_with_their_layer(arrays, names):
    assert side_names(arrays) == names
    typed = [f"t{number}" for number in range(len(arrays))]
    named = Selection("d", tuple(typed), None).named(dict(zip(typed, arrays, strict=True)))
    assert [*named] == names and [*named.values()] == arrays


def test_an_array_that_is_named_twice_is_refused_unless_both_have_names():
    twice = {"a": array(), "images/a": array()}
    with pytest.raises(UsageError, match="one array is named twice: images/resnet18/last.mean"):
        Selection("d", tuple(twice), None).named(twice)
    two = {"one=r@d1": array(digest="d1"), "two=r@d2": array(digest="d2")}
    assert [*Selection("d", tuple(two), None).named(two)] == ["one", "two"]
    with pytest.raises(UsageError, match="gpt2 is named twice among the sides"):
        Selection("d", ("resnet18", "gpt2", "gpt2"), None)


def test_a_name_that_is_given_stands_before_its_encoder():
    selection = Selection("d", ("photo=images/resnet18", "gpt2"), None)
    assert selection.sides == {"photo=images/resnet18": "images/resnet18", "gpt2": "gpt2"}
    arrays = {"photo=images/resnet18": array(), "gpt2": array("captions", "gpt2")}
    assert [*selection.named(arrays)] == ["photo", "captions"]
    both = Selection("d", ("captions=resnet18", "gpt2"), None)
    with pytest.raises(UsageError, match="two sides are called alike: captions, captions"):
        both.named({"captions=resnet18": array(), "gpt2": array("captions", "gpt2")})


@pytest.mark.parametrize("name", [*RESERVED, "a+b", "a b"])
def test_names_of_other_spaces_are_refused(name):
    typed = f"{name}=resnet18"
    with pytest.raises(UsageError, match=f"{re.escape(repr(name))} cannot be the name of a side"):
        Selection("d", (typed, "gpt2"), None).named({typed: array(), "gpt2": array("captions", "gpt2")})
    with pytest.raises(UsageError, match="cannot be the name of a side"):
        Selection("d", ("resnet18", "gpt2"), None).named({"resnet18": array(name), "gpt2": array("captions")})


# -- what is left open ------------------------------------------------------------------------------------------------


def test_every_default_compares_three_different_encoders_in_views_of_its_own():
    assert {default.dataset for default in DEFAULTS} == {"flickr30k", "openmoji"}
    for default in DEFAULTS:
        assert len({*default.encoders, default.reference}) == 3
        assert [*default.sides.values(), default.target] == [
            f"{view}/{encoder}"
            for view, encoder in zip(default.views, (*default.encoders, default.reference), strict=True)
        ]


def test_what_is_cached_is_chosen_and_what_is_named_is_kept(tmp_path):
    cache = tiny_cache(tmp_path)
    assert choose_selection(cache) == choose_selection(cache, "openmoji") == DEMO
    assert choose_selection(Cache(tmp_path / "empty")) == DEFAULTS[-1]
    assert choose_selection(cache, "flickr30k") == FLICKR[-1]
    named = choose_selection(cache, "mine", ["a", "b", "c"], "r")
    assert named == Selection("mine", ("a", "b", "c"), "r")


def test_an_encoder_that_is_named_is_looked_for_in_every_view_and_a_default_in_its_own(tmp_path):
    cache = tiny_cache(tmp_path)
    assert choose_selection(cache, reference="captions/minilm").target == "captions/minilm"
    assert choose_selection(cache, reference="minilm").target == "minilm"
    assert choose_selection(cache, reference="minilm").sides == DEMO.sides
    encoders = ["captions/minilm", "efficientnet-lite0", "efficientnet-lite2"]
    chosen = choose_selection(cache, "openmoji", encoders)
    assert [*chosen.sides.values()] == encoders and chosen.target == "images/efficientnet-lite2"
    dataset = tiny_dataset()
    store(cache, dataset, dataset.views["captions"], "efficientnet-lite0", np.ones((800, 16), np.float32))
    assert choose_selection(cache) == DEMO, "its view tells it from the other"


def test_no_reference_is_wanted_by_its_name(tmp_path):
    cache = tiny_cache(tmp_path)
    for words in ({}, {"dataset": "openmoji"}, {"encoders": ["minilm", "efficientnet-lite0"]}):
        chosen = choose_selection(cache, reference="none", **words)
        assert (chosen.dataset, chosen.reference, chosen.target) == ("openmoji", None, None)
    assert choose_selection(cache, "mine", ["a", "b"], "none").reference is None


def test_what_cannot_be_filled_is_refused_with_what_to_name(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="two sides or more; got a alone"):
        choose_selection(cache, "openmoji", ["a"])
    with pytest.raises(FeaturesNotCached, match=r"(?s)no features of mine in .*Run: featcache extract DIR"):
        choose_selection(cache, "mine")


def test_a_folder_needs_no_reference(tmp_path):
    assert choose_selection(Cache(tmp_path), "mine", ["a", "b"]) == Selection("mine", ("a", "b"), None)
    assert choose_selection(Cache(tmp_path), "mine", ["a", "b"], "none").reference is None
    assert choose_selection(tiny_cache(tmp_path), "openmoji", ["minilm", "efficientnet-lite0"]).reference is not None


def folder_cache(root, *encoders):
    """A cache of a folder called mine, with such of the demo's encoders, and others over its images."""
    cache, dataset = Cache(root / "cache"), tiny_dataset(name="mine")
    for encoder in encoders:
        view = dataset.views["captions" if encoder == "minilm" else "images"]
        write_rows(cache.folder / dataset.name / view.name, view, dataset.overlay)
        store(cache, dataset, view, encoder, np.ones((len(view), 4), np.float32))
    return cache


def test_a_folder_is_trained_on_what_extract_guesses_with_the_reference_where_it_is_cached(tmp_path):
    with_reference = folder_cache(tmp_path / "a", "efficientnet-lite0", "minilm", "efficientnet-lite2")
    assert choose_selection(with_reference, "mine") == replace(DEMO, dataset="mine")
    assert choose_selection(with_reference, "mine", reference="none").reference is None
    without = folder_cache(tmp_path / "b", "efficientnet-lite0", "minilm")
    chosen = choose_selection(without, "mine")
    assert (chosen.encoders, chosen.reference) == (DEMO.encoders, None)
    assert chosen.left_out == "efficientnet-lite2"
    asked = (choose_selection(without, "mine", reference="none"), choose_selection(without, "mine", ["a", "b"]))
    assert [each.left_out for each in (*asked, choose_selection(with_reference, "mine"))] == [None] * 3
    assert [*chosen.sides.values()] == ["images/efficientnet-lite0", "captions/minilm"]


def test_sides_that_cannot_be_guessed_are_asked_for_by_the_names_of_what_is_cached(tmp_path):
    images = folder_cache(tmp_path / "a", "resnet18", "efficientnet-lite0")
    with pytest.raises(UsageError, match="Name the sides .*: featcache train mine efficientnet-lite0 resnet18"):
        choose_selection(images, "mine")
    alone = folder_cache(tmp_path / "b", "resnet18")
    with pytest.raises(UsageError, match=r"(?s)resnet18 \(images\) alone; a joint space needs two sides"):
        choose_selection(alone, "mine")


@pytest.mark.parametrize(
    ("modalities", "installed", "every"),
    [
        (["image", "text"], ["lite0", "lite2", "minilm"], ["lite0", "minilm", "lite2"]),
        (["image", "text"], ["lite0", "minilm"], ["lite0", "minilm"]),
        (["image", "text"], ["lite2", "minilm"], ["lite2", "minilm"]),
        (["image"], ["lite0", "lite2", "minilm"], ["lite0", "lite2"]),
    ],
)
def test_the_encoders_that_are_guessed_are_those_that_are_installed(modalities, installed, every):
    def short(name):
        return name.removeprefix("efficientnet-")

    guess = guess_selection("mine", modalities, lambda name: short(name) in installed)
    assert [short(name) for name in guess.every] == every
    assert (guess.reference is None) == (len(every) < 3)


def test_where_no_small_encoder_is_installed_the_error_says_what_to_install():
    with pytest.raises(UsageError, match=r"(?s)none of the small ones for text is installed.*pip install"):
        guess_selection("mine", ["image", "text"], lambda name: name != "minilm")
    with pytest.raises(UsageError, match=r"sound alone\n  Name one: whisper-tiny-en \(words\), resemblyzer"):
        guess_selection("mine", ["audio", "audio"], lambda name: True)


def test_a_default_that_is_ambiguous_is_not_passed_over(tmp_path):
    cache, dataset = tiny_cache(tmp_path), tiny_dataset()
    store(cache, dataset, dataset.views["captions"], "minilm", np.ones((800, 16), np.float32))
    with pytest.raises(Ambiguous):
        choose_selection(cache)


def test_the_old_options_are_the_two_sides(tmp_path):
    cache = tiny_cache(tmp_path)
    assert old_sides(cache, "openmoji", None, "a", "b") == ["a", "b"]
    assert old_sides(cache, "openmoji", [], "a", None) == ["a", "minilm"]
    assert old_sides(cache, None, None, None, "b") == ["efficientnet-lite0", "b"]
    with pytest.raises(UsageError, match="name the sides once"):
        old_sides(cache, "openmoji", ["a", "b"], "a", None)


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["linear", "mlp", "bottleneck"])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_defaults_have_the_folder_of_0_1(adapter, seed):
    config = FitConfig(adapter=adapter, seed=seed)
    assert run_folder(DEMO, config) == (
        f"runs/openmoji/efficientnet-lite0+minilm--efficientnet-lite2/{adapter}-s{seed}"
    )
    exact = Selection("flickr30k", ("images/resnet18/2.mean", "gpt2@3fa9"), "dinov2-small/last.cls")
    assert run_folder(exact, config) == (
        f"runs/flickr30k/images.resnet18.2.mean+gpt2+3fa9--dinov2-small.last.cls/{adapter}-s{seed}"
    )


CHANGES = [
    {},
    {"adapter": {"a": "mlp", "b": "linear"}},
    {"adapter": {"a": "linear", "b": "mlp"}},
    {"adapter": "mlp"},
    {"width": 128},
    {"epochs": 5},
    {"batch": 64},
    {"lr": 0.01},
    {"lr": 0.1},
    {"weight_decay": 0.0},
    {"warmup": 0.0},
    {"captions": "all"},
    {"captions": "mean"},
    {"missing": "mask"},
    {"pair_weights": {"a+b": 2.0}},
    {"pair_weights": {"a+b": 3.0}},
    {"shuffle_pairs": True},
    {"train_groups": 64},
    {"group_rows": 1},
    {"steps": 3},
    {"swap": 0.5},
    {"swap_rank": 2},
    {"permute_evaluation": True},
    {"select": "alignment"},
    {"hits": "group"},
    {"k": 5},
    {"permutations": 100},
    {"halves": 100},
    {"untrained": 5},
    {"seed": 1},
    {"split_seed": 1},
    {"lr": 0.01, "epochs": 5},
    {"adapter": "cca"},
    {"loss": "siglip"},
    {"loss": "cka"},
    {"temperature": 0.05},
    {"label_smoothing": 0.05},
    {"mixup": True},
    {"keep_geometry": 10.0},
    {"joint": "concatenation"},
    {"clip": 0.5},
    {"first_groups": 64},
    {"first_rows": 1},
    {"drawn_test": 0.25},
    {"drawn_validation": 0.2},
    {"keep_self": True},
    {"apart": "a+b"},
]


def test_every_setting_but_the_device_makes_another_folder():
    names = {name for change in CHANGES for name in change}
    assert names == set(FitConfig.model_fields) - {"device"}
    selection = Selection("d", ("a=resnet18", "b=gpt2"), "r")
    folders = [run_folder(selection, FitConfig(**change)) for change in CHANGES]
    for (a, one), (b, other) in combinations(zip(CHANGES, folders, strict=True), 2):
        assert one != other, (a, b)
    assert run_folder(selection, FitConfig(device="cuda")) == folders[0]


def test_what_differs_can_be_read_and_ends_in_a_short_hash():
    folder = run_folder(DEMO, FitConfig(lr=0.01, captions="all", shuffle_pairs=True, pair_weights={"a+b": 2.0}))
    assert re.fullmatch(r"linear-s0-lr-0\.01-captions-all-shuffle-pairs-[0-9a-f]{8}", folder.rpartition("/")[2])
    alone = ("adapter", "seed", "swap")  # pairs that are shuffled cannot be swapped
    long = {name: value for change in CHANGES for name, value in change.items() if name not in alone}
    long["loss"] = "infonce"  # the others go with fewer settings
    last = run_folder(DEMO, FitConfig(**long)).rpartition("/")[2]
    assert len(last) < 100 and re.fullmatch(r"[A-Za-z0-9.+_-]+", last)


def test_names_of_sides_and_the_reference_make_another_folder():
    plain = Selection("d", ("resnet18", "gpt2"), "r")
    others = [
        plain,
        replace(plain, encoders=("a=resnet18", "gpt2")),
        replace(plain, encoders=("b=resnet18", "gpt2")),
        replace(plain, encoders=("resnet18", "a=gpt2")),
        replace(plain, reference=None),
        replace(plain, encoders=("resnet18", "gpt2", "minilm")),
    ]
    folders = [run_folder(each, FitConfig()) for each in others]
    assert len(set(folders)) == len(folders)
    assert folders[4] == "runs/d/resnet18+gpt2--none/linear-s0"
    assert {folder.rpartition("/")[0] for folder in folders[:4]} == {"runs/d/resnet18+gpt2--r"}


def test_a_data_set_that_is_no_name_is_refused():
    with pytest.raises(UsageError, match="cannot be the name of a data set"):
        run_folder(Selection("../d", ("a", "b"), "r"), FitConfig())
