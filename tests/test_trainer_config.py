"""Settings are checked once, whoever gives them; sides that settings name must be there."""

import json

import pytest
from blake3 import blake3
from pydantic import ValidationError

from featcache import trainer
from featcache.errors import UsageError
from featcache.trainer.config import (
    RESERVED,
    FitConfig,
    check_side_names,
    make_config,
    pair_weight,
    parse_adapter,
    parse_pair_weights,
)
from featcache.trainer.defaults import DEMO

SIDES = ("a", "b", "c")


def test_every_name_that_the_package_exports_is_there():
    assert {name: getattr(trainer, name).__name__ for name in trainer.__all__ if name != "DEFAULTS"} == {
        name: name for name in trainer.__all__ if name != "DEFAULTS"
    }
    assert trainer.DEFAULTS[-1] == DEMO
    with pytest.raises(AttributeError, match="nosuch"):
        trainer.nosuch  # noqa: B018


def test_one_adapter_is_for_every_side_and_a_mapping_for_each():
    assert FitConfig(adapter="mlp").adapter_kinds(SIDES) == dict.fromkeys(SIDES, "mlp")
    kinds = {"c": "identity", "a": "linear", "b": "mlp"}
    assert [*FitConfig(adapter=kinds).adapter_kinds(SIDES).items()] == [(name, kinds[name]) for name in SIDES]


@pytest.mark.parametrize("kinds", [{"a": "mlp"}, {"a": "mlp", "b": "mlp", "c": "mlp", "d": "mlp"}, {}])
def test_adapters_of_other_sides_are_refused_with_the_sides_there_are(kinds):
    with pytest.raises(UsageError, match=r"(?s)the sides are a, b, c.*side=adapter"):
        FitConfig(adapter=kinds).check_sides(SIDES)


@pytest.mark.parametrize("pair", ["a", "a+d", "a+a", "a+b+c", "", "a-b"])
def test_a_weight_of_no_pair_of_the_sides_is_refused(pair):
    with pytest.raises(UsageError, match=r"wanted A\+B of the sides a, b, c"):
        FitConfig(pair_weights={pair: 1.0}).check_sides(SIDES)


def test_a_pair_has_one_weight_in_whichever_order_it_is_named():
    weights = {"a+b": 2.0, "c+a": 0.0}
    FitConfig(pair_weights=weights).check_sides(SIDES)
    assert [pair_weight(weights, *pair) for pair in (("a", "b"), ("b", "a"), ("a", "c"), ("b", "c"))] == [2, 2, 0, 1]
    assert pair_weight(None, "a", "b") == pair_weight({}, "a", "b") == 1
    with pytest.raises(UsageError, match="of one pair; give one"):
        FitConfig(pair_weights={"a+b": 2.0, "b+a": 1.0}).check_sides(SIDES)


def test_weights_that_leave_nothing_to_train_are_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        FitConfig(pair_weights={"a+b": 0.0}).check_sides(("a", "b"))
    FitConfig(pair_weights={"a+b": 0.0}).check_sides(SIDES)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_is_a_number_of_0_or_more(weight):
    with pytest.raises(ValidationError):
        FitConfig(pair_weights={"a+b": weight})


@pytest.mark.parametrize("name", [*RESERVED, "joint:a+b", "a+b", "a b", "", "/a", "a→b", "raw a"])
def test_names_that_spaces_have_or_that_joints_cannot_be_made_of_are_refused(name):
    with pytest.raises(UsageError, match="cannot be the name of a side"):
        check_side_names(["fine", name])
    with pytest.raises(UsageError, match="cannot be the name of a side"):
        FitConfig().check_sides(["fine", name])


def test_names_of_views_encoders_and_layers_are_names_of_sides():
    check_side_names(["images", "names-de", "captions/minilm", "images/resnet18/last.mean", "Foto_2"])


def test_typed_adapters_and_weights_are_parsed_or_refused_with_their_form():
    assert parse_adapter(None) is None and parse_adapter("linear") == "linear"
    assert parse_adapter("a/b=mlp,c=identity") == {"a/b": "mlp", "c": "identity"}
    for typed in ("a=,b=mlp", "=mlp", "a=mlp,b"):
        with pytest.raises(UsageError, match="wanted one of linear.*or side=kind"):
            parse_adapter(typed)
    assert parse_pair_weights([]) is None
    for typed in ("a+b", "a=1", "a+b=-1", "a+b=inf", "a+b=nan", "a+b+c=1", "a+b=x"):
        with pytest.raises(UsageError, match=r"wanted A\+B=W"):
            parse_pair_weights([typed])


def test_a_setting_that_is_not_allowed_is_named_with_what_is():
    with pytest.raises(UsageError, match="epochs = 0"):
        make_config(epochs=0)
    with pytest.raises(UsageError, match="adapter"):
        make_config(adapter="huge")
    with pytest.raises(UsageError, match="adapter"):
        make_config(adapter={"a": "huge"})
    with pytest.raises(UsageError, match="nosuch"):
        make_config(nosuch=1)
    with pytest.raises(UsageError, match="halves = 19"):
        make_config(halves=19)


# -- recipes ----------------------------------------------------------------------------------------------------------

PINNED = {
    "6b06f504b590d4948ad27deefed8abcb4b21e527c395c82df94988b806fad289": {},
    "489b371e14612c0e22e7d25a09fb640f4f8762e62108028a1a36c2e73443b0bd": {"adapter": "mlp", "epochs": 5, "seed": 3},
}


@pytest.mark.parametrize("pinned", PINNED)
def test_runs_from_before_a_setting_existed_keep_their_hash(pinned):
    canonical = json.dumps(FitConfig(**PINNED[pinned]).recorded(), sort_keys=True, separators=(",", ":"))
    assert blake3(canonical.encode()).hexdigest() == pinned


def test_a_new_setting_that_is_no_default_is_recorded_and_read_back():
    config = FitConfig(loss="siglip", mixup=True, keep_geometry=10)
    assert {"loss", "mixup", "keep_geometry"} <= set(config.recorded()) and "temperature" not in config.recorded()
    assert FitConfig.model_validate(config.recorded()) == config


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"loss": "siglip", "label_smoothing": 0.1}, "label_smoothing belongs to the loss infonce, not to siglip"),
        ({"loss": "cka", "temperature": 0.1}, "the loss cka has no temperature"),
        ({"loss": "cka", "mixup": True}, "no mixup"),
        ({"mixup": True, "batch": 3}, "batch 4 or more"),
        ({"adapter": "cca", "epochs": 5, "lr": 0.1}, "adapter cca is solved in closed form: it has no epochs, lr"),
        ({"adapter": "cca", "pair_weights": {"a+b": 2.0}}, "it has no pair_weights"),
        ({"adapter": "cca", "joint": "learned"}, "it has no joint learned"),
        ({"adapter": "cca", "select": "last"}, "it has no last epoch to select"),
        ({"adapter": "asif", "width": 64}, "it has no width"),
        ({"adapter": {"a": "cca", "b": "linear"}}, "adapter cca is solved for all sides at once: name it alone"),
        ({"temperature": 0.001}, "temperature = 0.001"),
        ({"keep_geometry": -1.0}, "keep_geometry = -1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_the_reason(choices, says):
    with pytest.raises(UsageError, match=says):
        make_config(**choices)


@pytest.mark.parametrize(
    "choices", [{"loss": "cka"}, {"adapter": "ridge"}, {"joint": "weighted"}, {"select": "alignment"}]
)
def test_what_is_trained_or_chosen_on_a_reference_needs_one(choices):
    make_config(**choices).check_reference(True)
    with pytest.raises(UsageError, match="there is none"):
        make_config(**choices).check_reference(False)
