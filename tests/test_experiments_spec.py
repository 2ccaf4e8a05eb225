"""Experiments are data: every wrong key is named with file and neighbour, and grids expand in the order of the file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import Cache
from featcache.errors import FeaturesNotCached
from featcache.studies.experiments.plan import cached_layers, combinations, one_each, plan
from featcache.studies.experiments.spec import ExperimentInvalid, load_experiment
from featcache.trainer.config import FitConfig
from tests.alignment_cache import store_layers
from tests.rooms import ROOT
from tests.spine import tiny_cache, tiny_dataset

SHIPPED = [path for path in sorted((ROOT / "experiments").glob("*.toml")) if path.stem != "claims"]
BASE = """
question = "Why?"
[base]
dataset = "openmoji"
sides = ["efficientnet-lite0", "minilm"]
reference = "efficientnet-lite2"
"""


def written(folder: Path, text: str, *, base: str = BASE) -> Path:
    file = folder / "one.toml"
    file.write_text(base + text, encoding="utf-8")
    return file


def test_reading_an_experiment_loads_neither_torch_nor_polars(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from featcache.studies.experiments.spec import load_experiment\n"
        f"load_experiment(Path({str(SHIPPED[0])!r}))\n"
        "print([name for name in ('torch', 'polars', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grd]\nwidth = [8]", "unknown key grd; the nearest there is: grid"),
        ("[grid]\nwidht = [8]", "grid.widht is no setting; the nearest there is: width"),
        ("[grid]\nwidth = []", "grid.width"),
        ("[grid]\nwidth = 8", "grid.width = 8: Input should be a valid list"),
        ("[grid]\n'width.images' = [8]", "grid.width.images is no setting; the nearest there is: width"),
        ("[zip.a]\nwidth = [8, 16]\nepochs = [1]", "zip.a: the lists advance together and differ in length: width 2"),
        ("[variants.a]\nadaptor = 'mlp'", "variants.a.adaptor is no setting; the nearest there is: adapter"),
        ("[variants.a]\nwidth = 8\n[grid]\nwidth = [8]", "width is varied twice"),
        ("[zip.a]\nwidth = [8]\n[grid]\nwidth = [8]", "width is varied twice"),
        ("width = 8\n[grid]\nwidth = [8]", "width is fixed in base and varied by a list"),
        ("[profiles.fast]\npanel = []", "unknown profile 'fast'; there are full, quick"),
        ("[profiles.quick]\ngird = {}", "unknown key profiles.quick.gird; the nearest there is: grid"),
        ("[profiles.quick]\nvariants = ['b']\n[variants.a]\nwidth = 8", "profiles.quick.variants: no 'b'; there are a"),
        ("[profiles.quick.base]\nepoch = 3", "base.epoch is no setting; the nearest there is: epochs"),
        ("[[plots]]\nname = 'a'\nx = 'widht'\n[grid]\nwidth = [8]", "plots.0.x = 'widht' is no column"),
        (
            "[[plots]]\nname = 'a'\nx = 'seed'\ncolor = 'space'",
            "unknown key plots.0.color; the nearest there is: colour",
        ),
        ("[[plots]]\nname = 'a'\nx = 'seed'\nwhere = { stge = 'raw' }", "plots.0.where.stge = 'stge' is no column"),
        ("= 3", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_and_the_nearest_known_name(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ExperimentInvalid) as error:
        load_experiment(file)
    assert words in str(error.value) and str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("[base]\ndataset = 'a'\nsides = ['b', 'c']", "question is missing"),
        ("question = 'a'\ncontrols = ['shufled']\n[base]", "controls.0 = 'shufled'"),
        ("question = 'a'\n[base]\nsides = ['a', 'b']", "base.dataset is missing"),
        ("question = 'a'\n[base]\ndataset = 'a'", "base.sides is missing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, base: str, words: str) -> None:
    with pytest.raises(ExperimentInvalid, match=words):
        load_experiment(written(tmp_path, "", base=base))


def test_a_mistyped_control_and_file_get_the_nearest(tmp_path: Path) -> None:
    file = written(tmp_path, "", base="question = 'a'\ncontrols = ['shufled']\n[base]")
    with pytest.raises(ExperimentInvalid, match="the nearest there is: shuffled"):
        load_experiment(file)
    with pytest.raises(ExperimentInvalid, match="no experiment .*on.toml; the nearest there is: one.toml"):
        load_experiment(tmp_path / "on.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grid]\nadapter = ['linear', 'lineer']", "adapter lineer"),
        ("[grid]\nwidth = [8, 1]", "width 1: width = 1: Input should be greater"),
        ("[grid]\nswap = [0.5, 2]", "swap 2: swap = 2"),
        ("[grid]\n'depth.bert' = [0.5]", "depth.bert: the sides are efficientnet-lite0, minilm"),
        ("[grid]\n'depth.minilm' = [1.5]", "wanted a number from 0"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_combination(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ExperimentInvalid) as error:
        plan(tiny_cache(tmp_path), load_experiment(file))
    assert str(error.value).startswith(str(file)) and words in str(error.value)


# -- expansion --------------------------------------------------------------------------------------------------------


def test_variants_zips_and_grids_are_crossed_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "epochs = 2\n[variants.plain]\n[variants.two]\nsteps = 2\n"
        "[zip.size]\nwidth = [8, 16]\nlr = [1e-2, 1e-3]\n[grid]\nseed = [0, 1]\n'adapter.images' = ['mlp']",
    )
    found = [*combinations(load_experiment(file))]
    varied = [columns for columns, _ in found]
    by_hand = [
        {"variant": variant, "width": width, "lr": lr, "seed": seed, "adapter.images": "mlp", "control": ""}
        for variant in ("plain", "two")
        for width, lr in ((8, 1e-2), (16, 1e-3))
        for seed in (0, 1)
    ]
    assert varied == by_hand
    assert found[4][1]["steps"] == 2 and "steps" not in found[0][1]
    assert found[0][1]["adapter"] == {"images": "mlp"} and found[0][1]["epochs"] == 2


def test_profiles_and_changes_replace_lists_and_fix_settings(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "[variants.a]\n[variants.b]\nsteps = 2\n[grid]\nwidth = [8, 16, 32]\nseed = [0]\n"
        "[profiles.full]\npanel = ['minilm']\ngrid.seed = [0, 1]\n[profiles.quick]\nvariants = ['b']\nbase.epochs = 1",
    )
    quick, full = (load_experiment(file, profile).experiment for profile in ("quick", "full"))
    assert [*quick.variants] == ["b"] and quick.base["epochs"] == 1 and quick.grid["seed"] == [0]
    assert [*full.variants] == ["a", "b"] and full.panel == ["minilm"] and full.grid["seed"] == [0, 1]
    changed = load_experiment(file, "quick", ["width=8", "seed=[3,4]", "adapter=mlp", "panel=['minilm']"]).experiment
    assert changed.grid == {"width": [8], "seed": [3, 4]} and changed.base["adapter"] == "mlp"
    varied = load_experiment(file, changes=["epochs=3", "epochs=[1,2]"]).experiment
    assert varied.grid["epochs"] == [1, 2] and "epochs" not in varied.base
    assert changed.panel == ["minilm"]
    sides = load_experiment(file, changes=['sides=["a", "b"]']).experiment
    assert sides.base["sides"] == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("epoch=3", "base.epoch is no setting; the nearest there is: epochs"),
        ("epochs", "wanted KEY=VALUE"),
        ("steps=3", "varied by a zip or by variants"),
        ("controls=['x']", "controls"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(tmp_path: Path, change: str, words: str) -> None:
    file = written(tmp_path, "[variants.a]\nsteps = 2")
    with pytest.raises(ExperimentInvalid, match=words):
        load_experiment(file, changes=[change])


def test_controls_add_trainings_and_measurements(tmp_path: Path) -> None:
    file = written(tmp_path, "[grid]\nswap = [0.0, 0.5]", base="controls = ['shuffled', 'permuted']\n" + BASE)
    trainings = plan(tiny_cache(tmp_path), load_experiment(file))
    shown = [(training.varied, training.config.shuffle_pairs, training.config.swap) for training in trainings]
    assert shown == [
        ({"swap": 0.0, "control": ""}, False, 0.0),
        ({"swap": 0.0, "control": "shuffled"}, True, 0.0),
        ({"swap": 0.5, "control": ""}, False, 0.5),
    ]
    assert all(training.config.permute_evaluation for training in trainings)


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({}, False),
        ({"adapter": "cca"}, False),
        ({"loss": "siglip", "joint": "learned"}, False),
        ({"select": "alignment"}, True),
        ({"loss": "cka"}, True),
        ({"joint": "weighted"}, True),
        ({"adapter": "ridge"}, True),
        ({"adapter": "asif", "select": "alignment"}, True),
    ],
)
def test_what_is_fitted_to_the_reference_or_chosen_by_it_is_trained_against_each_of_a_panel(
    settings: dict[str, str], reads: bool
) -> None:
    assert FitConfig.model_validate(settings).reads_reference is reads


def test_closed_forms_stand_once_beside_what_is_varied_of_training_by_steps(tmp_path: Path) -> None:
    grid = "[grid]\nadapter = ['linear', 'cca', 'asif']\nloss = ['infonce', 'siglip']\nwidth = [4, 8]\nseed = [0, 1]"
    trainings = plan(tiny_cache(tmp_path), load_experiment(written(tmp_path, grid)))
    shown = [one.varied for one in trainings if one.varied["seed"] == 0]
    assert shown == [
        *({"adapter": "linear", "loss": loss, "width": width, "seed": 0, "control": ""}
          for loss in ("infonce", "siglip") for width in (4, 8)),
        *({"adapter": "cca", "width": width, "seed": 0, "control": ""} for width in (4, 8)),
        {"adapter": "asif", "seed": 0, "control": ""},
    ]  # fmt: skip
    assert len({one.folder for one in trainings}) == len(trainings) == 2 * len(shown)


def test_a_closed_form_refuses_what_a_variant_says_of_steps(tmp_path: Path) -> None:
    file = written(tmp_path, "[grid]\nadapter = ['linear', 'cca']\n[variants.plain]\n[variants.few]\nsteps = 3")
    with pytest.raises(
        ExperimentInvalid, match="variant few, adapter cca.*: adapter cca is solved in closed form.*steps"
    ):
        plan(tiny_cache(tmp_path), load_experiment(file))


def test_a_panel_costs_trainings_only_where_training_reads_the_reference(tmp_path: Path) -> None:
    file = written(tmp_path, "[grid]\nselect = ['retrieval', 'alignment']", base="panel = ['captions/minilm']\n" + BASE)
    trainings = plan(tiny_cache(tmp_path), load_experiment(file))
    assert [(one.config.select, one.selection.reference, one.panel) for one in trainings] == [
        ("retrieval", "efficientnet-lite2", ("captions/minilm",)),
        ("alignment", "efficientnet-lite2", ()),
        ("alignment", "captions/minilm", ()),
    ]
    assert len({one.folder for one in trainings}) == 3


def test_trainings_that_are_the_same_run_are_trained_once(tmp_path: Path) -> None:
    file = written(tmp_path, "[variants.plain]\n[variants.same]\nepochs = 20\n[variants.other]\nepochs = 2")
    trainings = plan(tiny_cache(tmp_path), load_experiment(file))
    assert len(trainings) == 3 and [one.varied["variant"] for one in one_each(trainings)] == ["plain", "other"]


def test_layers_are_taken_by_depth_of_the_default_pooling(tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path / "cache"), tiny_dataset(20, 1)
    values = np.random.default_rng(0).standard_normal((20, 3))
    layers = {name: values for name in ("2.cls", "0.mean", "2.mean", "10.mean", "last.mean")}
    store_layers(cache, dataset, "images", "vit", layers)
    store_layers(cache, dataset, "captions", "lm", layers)
    assert cached_layers(cache, "openmoji", "vit") == ["0.mean", "2.mean", "10.mean", "last.mean"]
    base = BASE.replace("efficientnet-lite0", "vit").replace('"minilm"', '"t=lm"').replace("efficientnet-lite2", "vit")
    file = written(tmp_path, "[grid]\n'depth.vit' = [0, 0.3, 0.6, 1]\n'depth.t' = [1.0]", base=base)
    trainings = plan(cache, load_experiment(file))
    assert [one.selection.encoders for one in trainings] == [
        (f"vit/{layer}", "t=lm/last.mean") for layer in ("0.mean", "2.mean", "10.mean", "last.mean")
    ]
    both = plan(cache, load_experiment(written(tmp_path, "depth = 0.0", base=base)))
    assert both[0].selection.encoders == ("vit/0.mean", "t=lm/0.mean")
    with pytest.raises(FeaturesNotCached):
        cached_layers(cache, "openmoji", "nosuch")


# -- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=[path.stem for path in SHIPPED])
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_every_shipped_experiment_expands(file: Path, profile: str, tmp_path: Path) -> None:
    source = load_experiment(file, profile)
    assert source.experiment.question.endswith("?") and source.experiment.plots
    settings = [values for _, values in combinations(source)]
    assert 2 <= len(settings) <= (80 if profile == "quick" else 600)
    if not any("depth" in one for one in settings):  # layers are looked up in a cache
        assert len(plan(Cache(tmp_path), source)) >= len(settings)


def test_combinations_are_left_out_by_rules_that_name_values_or_lists(tmp_path: Path) -> None:
    text = """
leave_out = [{ width = [8, 16], seed = 1 }, { control = "shuffled", adapter = "mlp" }]
controls = ["shuffled"]
"""
    base = BASE.replace('question = "Why?"', 'question = "Why?"\n' + text)
    file = written(tmp_path, "[grid]\nadapter = ['linear', 'mlp']\nwidth = [8, 32]\nseed = [0, 1]", base=base)
    kept = [(v["adapter"], v["width"], v["seed"], v["control"]) for v, _ in combinations(load_experiment(file))]
    every = [(a, w, s, c) for a in ("linear", "mlp") for w in (8, 32) for s in (0, 1) for c in ("", "shuffled")]
    assert kept == [each for each in every if not (each[1] == 8 and each[2] == 1) and each[::3] != ("mlp", "shuffled")]


def test_a_rule_of_what_is_left_out_names_settings(tmp_path: Path) -> None:
    base = BASE.replace('question = "Why?"', 'question = "Why?"\nleave_out = [{ widht = 8 }]')
    with pytest.raises(ExperimentInvalid, match=r"leave_out.0.widht is no setting; the nearest there is: width"):
        load_experiment(written(tmp_path, "", base=base))


def test_features_may_be_named_by_every_variant_in_place_of_the_base(tmp_path: Path) -> None:
    base = 'question = "Why?"\n[base]\nwidth = 4\n[variants.a]\ndataset = "openmoji"\nsides = ["a", "b"]\n'
    (one,) = combinations(load_experiment(written(tmp_path, "", base=base)))
    assert one[1]["dataset"] == "openmoji"
    with pytest.raises(ExperimentInvalid, match="base.dataset is missing"):
        load_experiment(written(tmp_path, "[variants.b]\nwidth = 8", base=base))


def test_the_control_of_labels_stands_once_beside_losses_and_beside_nothing_that_needs_pairs(tmp_path: Path) -> None:
    controls = "controls = ['labels']\n" + BASE
    file = written(tmp_path, "[grid]\nloss = ['infonce', 'siglip']\nseed = [0, 1]", base=controls)
    trainings = plan(Cache(tmp_path / "cache"), load_experiment(file))
    shown = [(t.varied["loss"], t.varied["seed"], t.varied["control"], t.config.loss) for t in trainings]
    of_pairs = [(loss, seed, "", loss) for loss in ("infonce", "siglip") for seed in (0, 1)]
    assert sorted(shown) == sorted([*of_pairs, *(("labels", seed, "labels", "labels") for seed in (0, 1))])
    text = "[grid]\nadapter = ['linear', 'cca']\nswap = [0.0, 0.5]\nmixup = [false, true]"
    file = written(tmp_path, text.replace("\nswap = [0.0, 0.5]", ""), base=controls)
    labels = [t for t in plan(Cache(tmp_path / "cache"), load_experiment(file)) if t.varied["control"] == "labels"]
    assert [(t.config.adapter, t.config.mixup) for t in labels] == [("linear", False)]
    both = written(tmp_path, "[grid]\nswap = [0.0, 0.5]", base=controls.replace("['labels']", "['labels', 'shuffled']"))
    shown = [(t.varied["swap"], t.varied["control"]) for t in plan(Cache(tmp_path / "cache"), load_experiment(both))]
    assert shown == [(0.0, ""), (0.0, "shuffled"), (0.0, "labels"), (0.5, "")]
