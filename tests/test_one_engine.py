"""Scores, nulls and contrasts come from metrics/ alone: other rooms ask `measure`, the sweeps or retrieval."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from featcache.metrics import METRICS
from tests.rooms import source_files

ROOMS = ("trainer", "studies", "report", "commands")
# what may be imported of metrics/: by which modules, and why it is no second engine
ALLOWED: dict[str, tuple[str, str]] = {
    # the engine, its settings and its rows
    "measure.engine.measure": ("*", "the engine itself"),
    "measure.contrasts.Contrast": ("*", "a question to the engine"),
    "measure.settings.*": ("*", "what the engine is asked for, and how it is written in words"),
    "measure.space.*": ("*", "a named space that is given to the engine"),
    "measure.row.*": ("*", "the tidy rows that it answers with, and their words"),
    # whole questions that have no pair of spaces and a reference: metrics/ answers them with its own chance and nulls
    "retrieval": (
        "trainer.tracking, studies.adapters.pictures.answers",
        "recall and rank of rows, with chance and interval, from one function; of single queries, for pictures",
    ),
    "measure.recalls.recall_contrasts": ("studies.adapters.comparison", "paired differences of recall"),
    "measure.contrasts.with_verdicts": ("studies.adapters.comparison", "corrects those of all directions together"),
    "sweeps.grid.*": (
        "studies.alignment.grid, studies.adapters.layer_choice",
        "every pair of layers, with the null of the best; those that a training takes",
    ),
    "sweeps.curve.*": ("studies.alignment.curves", "scores against gallery size and k"),
    "sweeps.ceiling.*": ("studies.alignment.curves", "ridge ceilings and kernel mixtures"),
    "right_answers": ("trainer.tracking", "which rows retrieval counts, where contents repeat"),
    "near_duplicates": ("studies.leaks", "rows that stand in two splits, by one rule"),
    # spaces and rows are made, nothing is scored
    "joint": ("trainer.joints", "makes a space of the sides' spaces"),
    "mixed": ("trainer.joints", "makes a space of the sides' spaces"),
    "group_mean": (
        "trainer.sides, studies.group_rows, studies.adapters.embed, studies.alignment.sampled",
        "makes one row of the rows of a group",
    ),
    "pairing.*": ("studies.alignment.*", "brings rows of two arrays together"),
    "neighbors": (
        "studies.alignment.common_rows, studies.adapters.layer_choice, studies.maps, trainer.subsets",
        "searches a graph, which the cache then keeps or a table of points shows; finds whose rows are swapped",
    ),
    # of arrays that are too large for the engine: rows of queries, and the interval that the engine would give them
    "neighbors_in": ("studies.alignment.sampled", "searches queries in a gallery that is read block by block"),
    "mutual_knn_graphs": ("studies.alignment.sampled", "the score of each query, from its two lists"),
    "certainty.intervals.scores_interval": (
        "studies.alignment.sampled",
        "the mean over all rows, from those of queries",
    ),
    "measure.contrasts.holm": (
        "studies.ledger.ledger, studies.emergence.multibench.table, studies.advise.answers",
        "corrects claims, cells or uses together",
    ),
    # downstream tasks: predicted classes in, rows with chance, interval and verdict out
    "probes.*": (
        "studies.downstream.*, studies.emergence.dials.performance, studies.emergence.together.uses, studies.advise.*",
        "classifiers, linear maps, and the tidy rows of their accuracy and information",
    ),
    # emergence: encoders whose chance is known exactly, and coefficients over many of them
    "sweeps.released_layers.*": (
        "studies.emergence.*",
        "single layers in the published convention, exact values beside",
    ),
    "information.*": (
        "studies.emergence.*, studies.advise.validation",
        "informations of tables of probabilities",
    ),
    "certainty.clustered.*": ("studies.emergence.*", "coefficients over models, with intervals over clusters"),
    "distribution_gap": ("studies.adapters.controls", "the gap between two sides in one space, which is no alignment"),
    "modality_gap": ("studies.adapters.controls", "the same"),
    "intrinsic_dimension": ("studies.adapters.controls", "a property of one space"),
    "spectrum_noise": ("studies.adapters.controls", "makes a space"),
    "sweeps.ridge.*": ("studies.adapters.*", "makes spaces"),
    # names of metrics and what they need, so that graphs are searched deep enough and refusals come before reading
    "METRICS": ("studies.alignment.result", "names"),
    "table.METRICS": ("report.terminal.alignment", "whether options are the usual ones"),
    "table.Metric": ("studies.alignment.*", "names and options"),
    "table.chosen": ("studies.alignment.*", "k and measure of a metric at its options"),
    "comparison.KnnComparison": ("studies.alignment.*", "tells metrics of neighbour graphs from others"),
    "knn.subgraph.depth_for": ("studies.alignment.curves", "how deep a graph serves a gallery size"),
    # types and errors
    "errors.*": ("*", "errors"),
    "Answers": ("trainer.tracking, studies.adapters.pictures.answers", "a type"),
    "Retrieval": ("trainer.tracking", "a type"),
    # rows that pages show, by the routines that metrics find them with: nothing is scored
    "arrays.as_float64": ("studies.adapters.pictures.answers", "unit rows as retrieval has them"),
    "arrays.unit_rows": ("studies.adapters.pictures.answers", "unit rows as retrieval has them"),
    "knn.exact.paired_values": ("studies.adapters.pictures.answers", "the nearest answers to a query"),
    "knn.exclusion.Exclusion": ("studies.adapters.pictures.answers", "right answers are no wrong ones"),
    "knn.search.tile_rows": ("studies.adapters.pictures.answers", "memory of a tile"),
    "chance_mutual_knn": ("studies.adapters.pictures.tables", "the floor of an agreement whose logarithm is drawn"),
    "Neighbors": ("studies.alignment.*, studies.maps", "a type"),
    "preparation.*": ("studies.alignment.protocol", "Huh et al.'s clamp of features, before anything is measured"),
    "arrays.Groups": ("studies.alignment.*", "a type"),
    "knn.exact.Measure": ("studies.alignment.*", "a type"),
}
SCORING = {"compare", "permuted", "on_subsets", "function"}  # methods of a comparison, and a metric's function
PACKAGE = "featcache.metrics"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names below featcache.metrics that a module imports; "" for the package or a module as a whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == PACKAGE or node.module.startswith(f"{PACKAGE}."):
                inside = node.module.removeprefix(PACKAGE).removeprefix(".")
                yield from (f"{inside}.{alias.name}".removeprefix(".") for alias in node.names)
            elif node.module == "featcache":
                yield from ("" for alias in node.names if alias.name == "metrics")
        elif isinstance(node, ast.Import):
            yield from ("" for alias in node.names if alias.name.startswith(PACKAGE))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PACKAGE):
            yield ""  # a name for import_module


def scored(tree: ast.AST) -> Iterator[str]:
    """Calls that score: a method of a comparison, a comparison itself, or a metric's function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in SCORING:
                yield node.func.attr
            elif isinstance(node.func, ast.Name) and node.func.id in ("comparison", *METRICS):
                yield node.func.id


def is_of(module: str, names: str) -> bool:
    """Whether a module is one of those, patterns with commas between."""
    return any(fnmatch(module, f"featcache.{name}") for name in names.split(", "))


def forbidden(module: str, text: str) -> list[str]:
    """What a module of another room takes of metrics/ that it must not."""
    tree, wrong = ast.parse(text), []
    for name in imported(tree):
        if not any(is_of(module, of) for allowed, (of, _) in ALLOWED.items() if fnmatch(name, allowed)):
            wrong.append(f"import of {name or 'a whole module'}")
    return wrong + [f"call of {name}" for name in scored(tree)]


OTHERS = {name: path for name, path in source_files().items() if name.split(".")[1:2] and name.split(".")[1] in ROOMS}


@pytest.mark.parametrize("module", OTHERS)
def test_no_module_outside_metrics_computes_a_score_or_a_null(module: str) -> None:
    assert forbidden(module, OTHERS[module].read_text(encoding="utf-8")) == []


def test_every_room_is_swept_and_every_name_that_is_allowed_is_used_where_it_is_allowed() -> None:
    assert {name.split(".")[1] for name in OTHERS} == set(ROOMS)
    uses = {
        (module, name)
        for module, path in OTHERS.items()
        for name in imported(ast.parse(path.read_text(encoding="utf-8")))
    }
    unused = [
        allowed
        for allowed, (of, _) in ALLOWED.items()
        if not any(fnmatch(name, allowed) and is_of(module, of) for module, name in uses)
    ]
    assert unused == []


@pytest.mark.parametrize(
    "text",
    [
        "from featcache.metrics import mutual_knn",
        "from featcache.metrics import calibrate",
        "from featcache.metrics import METRICS",
        "from featcache.metrics import permutation_null_cka, moments_cka",
        "from featcache.metrics import query_interval",
        "from featcache.metrics import sample_interval",
        "from featcache.metrics import chance_mutual_knn",
        "from featcache.metrics import chance_recall",
        "from featcache.metrics import paired_difference",
        "from featcache.metrics.certainty.calibration import calibrate_prepared",
        "from featcache.metrics.certainty.halves import Halves",
        "from featcache.metrics.measure.null_policy import null_columns",
        "from featcache.metrics.measure.engine import _Run",
        "from featcache.metrics.scores.kernels import cka",
        "from featcache.metrics.table import chosen",
        "from featcache.metrics.sweeps.grid import layer_grid",
        "from featcache.metrics import certainty",
        "from featcache.metrics import *",
        "import featcache.metrics",
        "import featcache.metrics.scores.kernels as kernels",
        "from featcache import metrics",
        "def f():\n    from featcache.metrics import cka",
        "import_module('featcache.metrics.certainty.nulls')",
        "comparison.compare(a, b)",
        "comparison(x, y)",
        "METRICS['rsa'].function(x, y)",
        "mutual_knn(x, y, k=10)",
    ],
)
def test_a_module_that_computes_one_would_be_caught(text: str) -> None:
    assert forbidden("featcache.report.page.write", text)
    assert forbidden("featcache.trainer.fit", text)


def test_what_is_allowed_in_one_module_is_not_in_another() -> None:
    sweep = "from featcache.metrics.sweeps.grid import layer_grid"
    assert not forbidden("featcache.studies.alignment.grid", sweep) and forbidden("featcache.studies.tables", sweep)
    assert all(reason for _, reason in ALLOWED.values())
