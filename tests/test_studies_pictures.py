"""Are the tables that the page draws those of the metrics, of the right groups, and the same bytes each time?"""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.manifold import smacof

from featcache.metrics import mutual_knn
from featcache.metrics.knn.exclusion import Exclusion
from featcache.metrics.measure.row import Row
from featcache.studies.adapters.pictures import answers as answers_module
from featcache.studies.adapters.pictures.answers import Direction, chosen_queries, direction, margins, nearest
from featcache.studies.adapters.pictures.milestones import Stages, embed_stages
from featcache.studies.adapters.pictures.neighborhoods import chosen_groups
from featcache.studies.adapters.pictures.spaces import metric_plane, space_table
from featcache.studies.adapters.train import Workbench, train
from featcache.trainer.config import FitConfig
from featcache.trainer.errors import RunDamaged
from featcache.trainer.fit import Fitted, fit_paired, milestone_epochs
from featcache.trainer.run import Run, load_run
from featcache.trainer.run_files import PICTURES, changed_files, write_manifest
from featcache.trainer.sides import PairedSides
from featcache.trainer.tracking import EvaluationSplit, embed_split, epoch_rows
from tests.trainer_planted import features, planted_sides

QUICK = FitConfig(epochs=6, batch=32, width=16, k=5, lr=5e-3, permutations=39, halves=20, untrained=2)
FIXED = ("raw x", "raw y", "reference")
FORMAT_1 = Path(__file__).parent / "fixtures" / "v01" / "run"


def changed(**update: Any) -> FitConfig:
    return QUICK.model_copy(update=update)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(*planted_sides(240))


@pytest.fixture(scope="module")
def run(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(bench, QUICK, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def fitted(bench: Workbench) -> Fitted:
    return fit_paired(bench.paired(QUICK), QUICK)


@pytest.fixture(scope="module")
def stages(fitted: Fitted, bench: Workbench) -> Stages:
    return embed_stages(fitted, bench.evaluation(QUICK).test)


def weights(adapters: torch.nn.Module) -> list[float]:
    return torch.cat([each.ravel() for each in adapters.state_dict().values()]).tolist()


def pairwise(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=2)


def scores(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=0.0) for row in rows]


# -- milestones -------------------------------------------------------------------------------------------------------


def test_milestones_are_the_untrained_adapters_those_of_1_2_5_10_and_the_last() -> None:
    assert milestone_epochs(300) == (0, 1, 2, 5, 10, 20, 50, 100, 200, 300)
    assert milestone_epochs(100) == (0, 1, 2, 5, 10, 20, 50, 100)
    assert (milestone_epochs(3), milestone_epochs(1)) == ((0, 1, 2, 3), (0, 1))


def test_the_adapters_of_a_milestone_score_what_was_measured_of_that_epoch(bench: Workbench, fitted: Fitted) -> None:
    assert [*fitted.milestones] == sorted({0, 1, 2, 5, 6, fitted.selected_epoch})
    assert fitted.milestones[fitted.selected_epoch] is fitted.adapters
    validation = bench.evaluation(QUICK).validation
    for epoch, adapters in fitted.milestones.items():
        known = [row for row in fitted.rows if row.epoch == epoch and row.split == "validation"]
        assert scores(epoch_rows(validation, adapters, QUICK, epoch)) == scores(known)


def test_keeping_milestones_changes_neither_scores_nor_weights(
    bench: Workbench, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.trainer.fit.milestone_epochs", lambda epochs: ())
    without = fit_paired(bench.paired(QUICK), QUICK)
    assert [*without.milestones] == [without.selected_epoch]
    assert weights(without.adapters) == weights(fitted.adapters)
    assert scores(without.rows) == scores(fitted.rows)


def test_a_closed_form_has_its_untrained_rival_and_its_solution(bench: Workbench) -> None:
    config = FitConfig(adapter="procrustes", width=8, k=5, joint="weighted")
    solved = fit_paired(bench.paired(config), config)
    assert [*solved.milestones] == [0, 1] and solved.milestones[1] is solved.adapters
    chosen = solved.adapters.weights().tolist()
    assert [each.weights().tolist() for each in solved.milestones.values()] == [chosen, chosen]


# -- the tables -------------------------------------------------------------------------------------------------------


def test_equal_trainings_write_equal_tables(bench: Workbench, run: Run, tmp_path: Path) -> None:
    again = train(bench, QUICK, tmp_path / "again")
    for name in PICTURES:
        assert (again.path / f"{name}.parquet").read_bytes() == (run.path / f"{name}.parquet").read_bytes()
        assert run.table(name).height


def test_stages_hold_both_sides_of_every_milestone_on_one_plane(run: Run, stages: Stages) -> None:
    table = run.table("stages")
    assert table.columns == ["id", "label", "epoch", "space", "px", "py"]
    groups = stages.test.paired.groups.tolist()
    assert len(groups) == 60 and table.height == 60 * 2 * len(stages.embedded)
    for (epoch, side), part in table.group_by("epoch", "space", maintain_order=True):
        assert epoch in stages.embedded and side in ("x", "y")
        assert part["id"].to_list() == groups and part["label"].to_list() == stages.test.paired.labels.tolist()
    # the oracle: one singular value decomposition of all of them together
    rows = [stages.adapted(epoch)[side].values for epoch in stages.embedded for side in ("x", "y")]
    stacked = np.concatenate([np.asarray(each, np.float64) for each in rows])
    assert np.allclose(np.linalg.norm(stacked, axis=1), 1)
    centred = stacked - stacked.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    assert np.allclose(np.abs(table.select("px", "py").to_numpy()), np.abs(centred @ axes.T), atol=1e-6)


def test_large_splits_are_drawn_from_with_the_runs_seed_and_fewer_groups_are_part_of_more(stages: Stages) -> None:
    few, more = stages.drawn(20), stages.drawn(40)
    assert len(few) == 20 and set(few) < set(more) and sorted(few) == few.tolist()
    other = replace(stages, fitted=replace(stages.fitted, config=changed(seed=1)))
    assert other.drawn(20).tolist() != few.tolist()


def test_agreement_is_mutual_knn_of_each_pair_once_and_that_of_the_metrics(run: Run, stages: Stages) -> None:
    table = run.table("agreement")
    epochs = [*stages.embedded]
    count = len(FIXED) + 3 * len(epochs)
    pairs = {frozenset([row[:2], row[2:4]]) for row in table.iter_rows()}
    assert table.height == len(pairs) == count * (count - 1) // 2
    for a, _, b, b_epoch, value in table.iter_rows():
        if a == "reference" and b == "joint":
            joint = stages.adapted(b_epoch)["joint"].values
            assert value == mutual_knn(joint, stages.test.paired.reference, k=5)
    metrics = run.table("metrics")
    for space, against, stage in (("joint", "reference", "trained"), ("x", "y", "trained"), ("x", "reference", "raw")):
        of = {"stage": stage, "split": "test", "metric": "mutual_knn", "space": space, "against": against}
        [known] = metrics.filter(*(pl.col(name) == wanted for name, wanted in of.items()))["value"]
        kept = run.config["selected_epoch"]
        ends = {(f"raw {space}", None) if stage == "raw" else (space, kept)}
        ends |= {("reference", None) if against == "reference" else (against, kept)}
        assert [row[4] for row in table.iter_rows() if {row[:2], row[2:4]} == ends] == [known]


def test_the_plane_of_spaces_has_every_space_at_every_milestone(run: Run, stages: Stages) -> None:
    table = run.table("spaces")
    assert table.columns == ["space", "epoch", "px", "py", "stress"]
    fixed = [(name, None) for name in FIXED]
    moving = [(name, epoch) for name in ("x", "y", "joint") for epoch in stages.embedded]
    assert [row[:2] for row in table.iter_rows()] == fixed + moving
    [stress] = table["stress"].unique()
    assert 0 < stress < 0.3 and abs(table["px"].sum()) < 1e-9


def test_spaces_that_do_not_agree_are_as_far_apart_as_unrelated_ones() -> None:
    ends = {"a_epoch": [None] * 3, "b_epoch": [None] * 3, "value": [0.0, 0.01, 1.0]}
    agreement = pl.DataFrame({"a": ["p", "p", "q"], "b": ["q", "r", "r"], **ends})
    table = space_table(agreement, chance=0.1)
    p, q, r = table.select("px", "py").to_numpy()
    assert np.linalg.norm(p - q) == pytest.approx(-np.log(0.1)) == np.linalg.norm(p - r)
    assert np.allclose(q, r) and table["stress"][0] == pytest.approx(0, abs=1e-6)


def test_distances_of_points_of_a_plane_are_shown_as_they_are() -> None:
    points = np.random.default_rng(0).normal(size=(12, 2))
    distances = pairwise(points)
    drawn, stress = metric_plane(distances)
    assert stress < 1e-5 and np.allclose(pairwise(drawn), distances, atol=1e-4)
    assert metric_plane(np.zeros((4, 4)))[0].tolist() == [[0.0, 0.0]] * 4


@pytest.mark.parametrize("seed", range(4))
def test_a_plane_has_the_stress_of_scikit_learns_scaling_and_no_more_than_its_best_start(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = np.random.default_rng(seed).normal(size=(14, 5))
    distances = pairwise(points)
    options: dict[str, Any] = {"random_state": 0, "normalized_stress": True}
    _, best = smacof(distances, n_init=8, max_iter=500, eps=1e-8, **options)
    assert metric_plane(distances)[1] <= best * 1.01
    # from one start: the same minimum
    monkeypatch.setattr("featcache.studies.adapters.pictures.spaces._STARTS", 1)
    centring = np.eye(14) - 1 / 14
    lengths, axes = np.linalg.eigh(-centring @ distances**2 @ centring / 2)
    start = axes[:, -2:] * np.sqrt(lengths[-2:])
    drawn, stress = smacof(distances, init=start, n_init=1, max_iter=1_000, eps=1e-12, **options)
    own, same = metric_plane(distances)
    assert same == pytest.approx(stress, rel=1e-6)
    assert np.allclose(pairwise(own), pairwise(drawn), atol=1e-3)


def test_neighbours_overlap_with_the_references_as_much_as_the_stored_score_says(run: Run, stages: Stages) -> None:
    table = run.table("neighbors")
    assert table.columns == ["id", "label", "space", "rank", "neighbor"]
    assert table["space"].unique(maintain_order=True).to_list() == [*FIXED, "x", "y", "joint"]
    lists = {key: set(part["neighbor"]) for key, part in table.group_by("space", "id")}
    groups = stages.test.paired.groups.tolist()
    metrics = run.table("metrics").filter(split="test", metric="mutual_knn", against="reference")
    for space, stage, name in (("raw x", "raw", "x"), ("y", "trained", "y"), ("joint", "trained", "joint")):
        overlap = np.mean([len(lists[space, group] & lists["reference", group]) / 5 for group in groups])
        assert overlap == pytest.approx(metrics.filter(stage=stage, space=name)["value"].item(), abs=1e-12)
    first = table.filter(space="joint", id=groups[0])
    joint = np.asarray(stages.final["joint"].values, np.float64)
    cosines = joint @ joint[0]
    cosines[0] = -np.inf
    assert first["rank"].to_list() == [1, 2, 3, 4, 5]
    assert first["neighbor"].to_list() == [groups[number] for number in np.argsort(-cosines)[:5]]


def test_the_share_of_queries_answered_by_rank_k_is_the_recall_of_the_metrics(run: Run, stages: Stages) -> None:
    metrics = run.table("metrics").filter(split="test", stage="trained")
    for query, gallery in (("x", "y"), ("y", "x")):
        ranked = direction(stages, query, gallery)
        for k in (1, 5, 10):
            known = metrics.filter(direction=f"{query}→{gallery}", metric=f"R@{k}")["value"].item()
            assert np.mean(ranked.first_right <= k) == known


def test_answers_are_those_of_a_full_sort(run: Run, stages: Stages) -> None:
    table = run.table("answers")
    assert table["direction"].unique(maintain_order=True).to_list() == ["x→y", "y→x"]
    sides, rows = stages.test.paired.sides, stages.selected.rows
    groups = stages.test.paired.groups
    for query, gallery in (("x", "y"), ("y", "x")):
        cosines = rows[query].double().numpy() @ rows[gallery].double().numpy().T
        part = table.filter(direction=f"{query}→{gallery}")
        assert part["query"].n_unique() == min(len(cosines), part.height // 5) and set(part["rank"]) == {1, 2, 3, 4, 5}
        for row in part.to_dicts():
            number = sides[query].ids.tolist().index(row["query"])
            order = np.argsort(-cosines[number], kind="stable")
            own = groups[sides[gallery].groups.numpy()]
            right = own[order] == row["group"]
            assert row["first_right"] == 1 + np.flatnonzero(right)[0]
            answer = order[row["rank"] - 1]
            assert (row["answer"], row["answer_group"]) == (sides[gallery].ids[answer], own[answer])
            assert row["right"] == (own[answer] == row["group"])
            sorted_cosines = cosines[number][order]
            assert row["margin"] == pytest.approx(sorted_cosines[right].max() - sorted_cosines[~right].max(), abs=1e-6)


def test_the_best_and_the_worst_queries_are_stored_and_some_drawn_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first_right, margin = rng.integers(1, 50, 400), rng.normal(size=400)
    monkeypatch.setattr(answers_module, "DRAWN", 30)
    stored = chosen_queries(first_right, margin, seed=3)
    ranking = sorted(range(400), key=lambda number: (first_right[number], -margin[number]))
    assert stored[:12].tolist() == ranking[:12] and stored[-12:].tolist() == ranking[-12:]
    assert 24 + 20 < len(stored) <= 24 + 30 and len(set(stored)) == len(stored)
    assert [*stored] == [number for number in ranking if number in set(stored)]
    assert chosen_queries(first_right, margin, seed=3).tolist() == stored.tolist()


def test_a_text_of_two_photos_is_right_for_both_as_retrieval_counts_it(bench: Workbench) -> None:
    sides, reference = planted_sides(240)
    y = sides["y"]
    hashes = np.array([f"{number}" for number in range(len(y))], dtype=object)
    values = y.values.copy()
    one, two = (int(np.flatnonzero(y.groups == group)[0]) for group in ("g0003", "g0007"))
    hashes[one], values[one] = hashes[two], values[two]
    told = {"x": sides["x"], "y": features("y", values, y.groups, y.splits, ids=y.ids, hashes=hashes)}
    for hits, expected in (("content", {"g0003", "g0007"}), ("group", {"g0003"})):
        bench = Workbench(told, reference)
        config = changed(hits=hits, epochs=1)
        stages = embed_stages(fit_paired(bench.paired(config), config), bench.evaluation(config).test)
        ranked = direction(stages, "x", "y")
        number = stages.test.paired.groups.tolist().index("g0003")
        rows, right = nearest(ranked, np.array([number]), len(ranked.gallery))
        names = stages.test.paired.groups[stages.test.paired.sides["y"].groups.numpy()[rows[0]]]
        assert expected == set(names[right[0]])
        assert int(np.flatnonzero(right[0])[0]) + 1 == ranked.first_right[number]


def test_where_no_answer_is_wrong_there_is_no_margin(stages: Stages) -> None:
    ranked = direction(stages, "x", "y")
    everything = Exclusion(np.zeros(len(ranked.gallery), dtype=np.int64))
    all_right = Direction(
        ranked.queries, ranked.gallery, np.zeros_like(ranked.sets), everything, np.ones_like(ranked.first_right)
    )
    assert np.isposinf(margins(all_right)).all()


# -- kernels of five groups -------------------------------------------------------------------------------------------


def paired_labels(labels: dict[str, str]) -> PairedSides:
    groups = np.array([*labels])
    return PairedSides({}, None, groups, np.array([*labels.values()]), {}, {})


def test_five_groups_are_chosen_by_their_labels_and_ids() -> None:
    labels = {"i": "b", "h": "a", "g": "a", "f": "a", "e": "c", "d": "d", "c": "b", "b": "e", "a": ""}
    chosen = [[*labels][number] for number in chosen_groups(paired_labels(labels))]
    assert chosen == ["f", "g", "c", "e", "d"]  # two of a, then of b (twice), c and d (once, as e)
    unlabelled = dict.fromkeys("fedcba", "")
    assert [[*unlabelled][number] for number in chosen_groups(paired_labels(unlabelled))] == ["a", "b", "c", "d", "e"]
    assert len(chosen_groups(paired_labels(dict.fromkeys("abc", "one")))) == 3
    two = {"d": "p", "c": "p", "b": "q", "a": "", "e": "q", "f": ""}
    assert [[*two][number] for number in chosen_groups(paired_labels(two))] == ["c", "d", "b", "a", "e"]


def test_kernel_rows_are_cosines_of_the_chosen_groups(run: Run, stages: Stages) -> None:
    table = run.table("kernel_rows")
    assert table.columns == ["space", "row", "col", "row_id", "row_label", "value"]
    assert table["space"].unique(maintain_order=True).to_list() == [*FIXED, "joint"] and table.height == 4 * 25
    groups = stages.test.paired.groups.tolist()
    ids = {row["row"]: row["row_id"] for row in table.to_dicts()}
    raw = stages.test.raw["y"].values.double()
    for row in table.filter(space="raw y").to_dicts():
        one, other = (raw[groups.index(ids[row[place]])] for place in ("row", "col"))
        assert row["value"] == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), abs=1e-6)


# -- other runs -------------------------------------------------------------------------------------------------------


def test_three_sides_without_reference_and_labels_have_every_table(tmp_path: Path) -> None:
    sides, _ = planted_sides(240, third=True)
    bare = {name: features(name, one.values, one.groups, one.splits, ids=one.ids) for name, one in sides.items()}
    run = train(Workbench(bare, None), changed(epochs=2, select="retrieval"), tmp_path / "run")
    assert run.table("answers")["direction"].n_unique() == 6
    raw = ["raw x", "raw y", "raw z"]
    assert run.table("spaces")["space"].unique(maintain_order=True).to_list() == [*raw, "x", "y", "z", "joint"]
    assert run.table("neighbors")["space"].unique(maintain_order=True).to_list() == [*raw, "x", "y", "z", "joint"]
    assert run.table("kernel_rows")["row_label"].unique().to_list() == [""]
    assert run.table("stages")["space"].n_unique() == 3


def test_a_milestone_without_neighbours_to_compare_is_left_out(fitted: Fitted, bench: Workbench) -> None:
    collapsed = copy.deepcopy(fitted.milestones[1])
    with torch.no_grad():
        for name, weight in collapsed.named_parameters():
            if name.endswith("weight"):
                weight.zero_()
            elif name.endswith("bias"):
                weight.fill_(1.0)
    changed_fit = replace(fitted, milestones={**fitted.milestones, 1: collapsed})
    test = EvaluationSplit("test", bench.evaluation(QUICK).test.paired)
    spaces = embed_split(test, collapsed).spaces["x"].values
    assert bool((torch.as_tensor(spaces) == torch.as_tensor(spaces)[0]).all())
    kept = embed_stages(changed_fit, test).embedded
    assert [*kept] == [epoch for epoch in fitted.milestones if epoch != 1]


def without_tables(run: Run, folder: Path) -> Path:
    """The run as a version of before wrote it."""
    shutil.copytree(run.path, folder)
    for name in PICTURES:
        (folder / f"{name}.parquet").unlink()
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return folder


def test_a_run_from_before_has_empty_tables_with_their_columns(run: Run, tmp_path: Path) -> None:
    old = load_run(without_tables(run, tmp_path / "old"))
    assert changed_files(old.path) == []
    for name in PICTURES:
        assert old.table(name).height == 0 and old.table(name).schema == run.table(name).schema
        assert load_run(FORMAT_1).table(name).schema == run.table(name).schema


def test_a_table_that_the_manifest_does_not_know_is_not_read(run: Run, tmp_path: Path) -> None:
    old = without_tables(run, tmp_path / "old")
    (old / "stages.parquet").write_bytes((run.path / "stages.parquet").read_bytes())
    assert load_run(old).table("stages").height == 0


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("stages", pl.col("px").cast(pl.String), "column px holds String, wanted Float64"),
        ("spaces", pl.lit(float("nan")).alias("py"), "column py has rows without a value"),
        ("stages", pl.lit(1e308).alias("px"), "column px has rows without a value"),
        ("agreement", pl.lit(None, pl.String).alias("b"), "column b has rows without a value"),
        ("answers", pl.lit(1).alias("right"), "column right holds Int32, wanted Boolean"),
    ],
)
def test_a_table_of_another_form_is_damage(run: Run, tmp_path: Path, name: str, change: pl.Expr, words: str) -> None:
    folder = without_tables(run, tmp_path / "run")
    run.table(name).with_columns(change).write_parquet(folder / f"{name}.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(RunDamaged, match=f"{name}.parquet cannot be read: {words}"):
        load_run(folder).table(name)


def test_the_pictures_of_a_run_are_listed_in_its_manifest(run: Run) -> None:
    recorded = json.loads((run.path / "manifest.json").read_text())["blake3"]
    assert {f"{name}.parquet" for name in PICTURES} < {*recorded}
