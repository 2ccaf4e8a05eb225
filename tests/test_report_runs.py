"""Does the report read run folders, and only whole ones? Also holds the synthetic run that the report tests share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featcache.errors import UsageError
from featcache.metrics.measure.row import ContrastRow, Row, frame
from featcache.report import load_runs, summary_table
from featcache.report.runs import known_formats, mixture_text
from featcache.report.seeds import headline_run, is_range, on_validation, pool_seeds
from featcache.report.tables import contrast_table
from featcache.trainer.errors import RunDamaged, RunMissing
from featcache.trainer.run_files import write_manifest

FORMAT_1 = Path(__file__).parent / "fixtures" / "v01" / "run"
SIDES = ("images", "captions")
METRICS = ("mutual_knn", "cka_debiased")
TEST_SCORES = {
    ("raw", "images"): 0.473,
    ("raw", "captions"): 0.150,
    ("raw", "names-de"): 0.120,
    ("trained", "images"): 0.352,
    ("trained", "captions"): 0.202,
    ("trained", "names-de"): 0.132,
    ("trained", "joint"): 0.307,
    ("untrained", "images"): 0.370,
    ("untrained", "captions"): 0.110,
    ("untrained", "names-de"): 0.090,
    ("untrained", "joint"): 0.262,
    ("mixed", "mixed"): 0.477,
}
Scores = Mapping[tuple[str, str], float]


def write_run(
    folder: Path,
    *,
    sides: Sequence[str] = SIDES,
    encoders: Sequence[str | None] = ("resnet18", "gpt2", "dinov2-small"),
    scores: Scores | None = None,
    cka: Scores | None = None,
    contrasts: Mapping[str, Mapping[str, Any]] | None = None,
    control: bool = False,
    recall: float = 0.36,
    untrained_recall: float = 0.04,
    n: int = 1000,
    epochs: int = 12,
    label_count: int = 5,
    points: int = 60,
    pictures: bool = True,
    **settings: Any,
) -> Path:
    """Writes a run folder as the trainer does, from numbers chosen by the test.

    Args:
        folder: Where to.
        sides: Names of the sides; views are called alike.
        encoders: Of each side, then of the reference; None for no reference.
        scores: (stage, space) -> mutual-kNN on test.
        cka: As `scores`, of debiased CKA.
        contrasts: Name -> columns that are to differ from a verdict that follows the scores.
        control: Whether the joint is compared with that of a control.
        recall: R@10 on test of the first direction; about as high on validation.
        untrained_recall: R@10 on test before training.
        n: Test groups.
        epochs: Epochs.
        label_count: Labels of the map.
        points: Groups of the map, and of the other tables that only figures read.
        pictures: Whether there are these; runs from before have none.
        settings: Of the training.
    """
    folder.mkdir(parents=True)
    knn = _whole({**TEST_SCORES, **(scores or {})}, sides)
    kernel = {key: min(1.0, value + 0.1) for key, value in knn.items()} | dict(cka or {})
    reference = encoders[len(sides)] is not None
    by_metric = dict(zip(METRICS, (knn, kernel), strict=True))
    rows = [
        *_test_rows(by_metric, sides, n, reference=reference),
        *_retrieval_rows(sides, recall, untrained_recall, n),
        *_epoch_rows(knn, sides, recall, epochs, reference=reference),
        *(_mixture_rows(by_metric, sides) if reference and len(sides) == 2 else []),
    ]
    judged = _contrast_rows(by_metric, sides, contrasts or {}, control=control) if reference else []
    frame(rows, Row).write_parquet(folder / "metrics.parquet")
    frame(judged, ContrastRow).write_parquet(folder / "contrasts.parquet")
    spaces = [*(f"raw {side}" for side in sides), *(["reference"] if reference else []), "joint"]
    _map(spaces, label_count, points).write_parquet(folder / "map.parquet")
    _kernels(spaces, 12).write_parquet(folder / "kernels.parquet")
    if pictures:
        tables = picture_tables(sides, reference=reference, epochs=epochs, label_count=label_count, points=points)
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
    (folder / "adapters.safetensors").write_bytes(b"")
    config = _config(sides, encoders, n, epochs, settings)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_manifest(folder)
    return folder


def change_metrics(folder: Path, keep: pl.Expr) -> None:
    """Keeps some rows of a run's metrics, as if the others had never been measured."""
    pl.read_parquet(folder / "metrics.parquet").filter(keep).write_parquet(folder / "metrics.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def _joints(sides: Sequence[str]) -> list[str]:
    return ["joint", *(f"joint:{a}+{b}" for a, b in combinations(sides, 2) if len(sides) > 2)]


def _whole(scores: Scores, sides: Sequence[str]) -> dict[tuple[str, str], float]:
    """The scores of these sides, and of joints of pairs, which score a little less than the joint of all."""
    wanted = [*sides, *_joints(sides), "mixed"]
    of_pairs = [(stage, joint) for stage in ("trained", "untrained") for joint in _joints(sides)[1:]]
    pairs = {(stage, joint): scores[stage, "joint"] - 0.03 for stage, joint in of_pairs}
    return {key: value for key, value in {**pairs, **scores}.items() if key[1] in wanted}


def _config(
    sides: Sequence[str], encoders: Sequence[str | None], n: int, epochs: int, settings: dict[str, Any]
) -> dict[str, Any]:
    def source(view: str, encoder: str) -> dict[str, str]:
        return {"view": view, "encoder": encoder, "layer": "last.mean", "digest": encoder[::-1] * 4, "root": "ab" * 16}

    reference = encoders[len(sides)]
    return {
        "format": 2,
        "config": {"adapter": "linear", "width": 256, "epochs": epochs, "batch": 512, "lr": 0.001, "seed": 0, "k": 10}
        | {"select": "retrieval"}
        | settings,
        "config_hash": "c0ffee" * 10,
        "dataset": "flickr30k",
        "overlay": "0ddba11" * 9,
        "sides": {side: source(side, str(encoder)) for side, encoder in zip(sides, encoders, strict=False)},
        "reference": source("images", reference) if reference else None,
        "control": None,
        "split": {
            "rule": "train, validation and test as extracted: the data set's own, or drawn by a hash of the group",
            "n": {"train": 5000, "validation": 500, "test": n},
            "hashes": {"validation": "aa" * 16, "test": f"{n:032x}"},
        },
        "versions": {"torch": "2.9.0", "numpy": "2.3.0"},
        "threads": 2,
        "commit": None,
        "started": "2026-01-01T00:00:00+00:00",
        "selected_epoch": epochs - 2,
        "seconds": 12.345,
    }


def _test_rows(by_metric: Mapping[str, Scores], sides: Sequence[str], n: int, *, reference: bool) -> list[Row]:
    rows: list[Row] = []
    for metric, scores in by_metric.items():
        knn = metric == "mutual_knn"
        bounds: dict[str, Any] = {"k": 10 if knn else None, "chance": 10 / (n - 1) if knn else 0.0, "n": n}
        bounds |= {"null_low": 0.008, "null_high": 0.012, "null": "1000 permutations", "split": "test"}
        weights = json.dumps(dict(zip(sides, (0.95, 0.05, 0.0) if knn else (0.6, 0.4, 0.0), strict=False)))
        for (stage, space), value in scores.items() if reference else ():
            row = Row(space, "reference", metric, value, stage=stage, **bounds)
            row = replace(row, ci_low=value - 0.03, ci_high=value + 0.03, interval="halves")
            row = replace(row, weights=weights if stage == "mixed" else "")
            if stage == "untrained":
                note = f"mean of 10 initialisations, {value - 0.01:.4f} to {value + 0.01:.4f}"
                row = replace(row, ci_low=None, ci_high=None, interval="none", note=note, epoch=0)
            rows.append(replace(row, epoch=10 if stage == "trained" else row.epoch))
        for a, b in combinations(sides, 2):
            rows += [
                Row(a, b, metric, value, stage=stage, **bounds) for stage, value in (("raw", 0.05), ("trained", 0.21))
            ]
    return rows


def _mixture_rows(by_metric: Mapping[str, Scores], sides: Sequence[str]) -> list[Row]:
    """What validation saw of mixtures: the best are those that test was measured with."""
    rows: list[Row] = []
    for metric, best in zip(by_metric, (0.95, 0.6), strict=True):
        for share in (round(step / 20, 2) for step in range(20, -1, -1)):
            weights = json.dumps(dict(zip(sides, (share, round(1 - share, 2)), strict=True)))
            value = by_metric[metric]["mixed", "mixed"] - 0.3 * (share - best) ** 2
            row = Row("mixed", "reference", metric, value, stage="mixed", split="validation", n=500, weights=weights)
            rows.append(row)
    return rows


def _contrast_rows(
    by_metric: Mapping[str, Scores], sides: Sequence[str], changes: Mapping[str, Mapping[str, Any]], *, control: bool
) -> list[ContrastRow]:
    """The headline contrasts; the verdict of one is "cannot tell" within .02."""
    rows: list[ContrastRow] = []
    for metric, scores in by_metric.items():
        joint = scores["trained", "joint"]
        for word, stage in (("raw", "raw"), ("adapted", "trained")):
            parts = "+".join(f"{word} {side}" for side in sides)
            values = {f"{word} {side}": scores[stage, side] for side in sides}
            mean, best = sum(values.values()) / len(values), max(values, key=lambda part: values[part])
            rows.append(_contrast(f"joint − average of {word} parts", "joint", parts, "average", metric, joint - mean))
            row = _contrast(f"joint − best {word} part", "joint", parts, "max", metric, joint - values[best])
            rows.append(replace(row, binding=best))
        mixed = joint - scores["mixed", "mixed"]
        rows.append(
            _contrast("joint − best mixture of raw kernels", "joint", f"mixed {metric}", "difference", metric, mixed)
        )
        for space in ("joint", *sides):
            name = f"adapted {space}" if space in sides else space
            change = scores["trained", space] - scores["untrained", space]
            parts = "+".join(f"untrained {number} {name}" for number in range(10))
            rows.append(_contrast(f"{name}: trained − untrained", name, parts, "average", metric, change))
        if len(sides) > 2:
            pairs = _joints(sides)[1:]
            row = _contrast("joint of all − best joint of a pair", "joint", "+".join(pairs), "max", metric, 0.03)
            rows.append(replace(row, binding=pairs[0]))
        if control:
            name = "joint: trained − pairs shuffled"
            rows.append(_contrast(name, "joint", "control joint", "difference", metric, 0.1))
    return [replace(row, **changes.get(row.contrast, {})) for row in rows]


def _contrast(name: str, whole: str, parts: str, kind: str, metric: str, value: float) -> ContrastRow:
    verdict = "cannot tell" if abs(value) < 0.02 else "above" if value > 0 else "below"
    p = 0.6 if verdict == "cannot tell" else 0.0004
    return ContrastRow(
        name, whole, parts, kind, "reference", metric, value=value, ci_low=value - 0.02, ci_high=value + 0.02,
        p=p / 4, family="headline", p_holm=p, verdict=verdict, split="test",
    )  # fmt: skip


def _retrieval_rows(sides: Sequence[str], recall: float, untrained: float, n: int) -> list[Row]:
    rows: list[Row] = []
    for stage, best in (("trained", recall), ("untrained", untrained)):
        for place, (a, b) in enumerate(permutations(sides, 2)):
            factor = 1 - 0.1 * place
            one = Row(a, b, "", None, stage=stage, split="test", direction=f"{a}→{b}", n=n * (5 if place % 2 else 1))
            for k, share in ((1, 0.25), (5, 0.7), (10, 1.0)):
                value = best * share * factor
                row = replace(one, metric=f"R@{k}", value=value, k=k, chance=k / n, interval="Wilson")
                rows.append(replace(row, ci_low=max(0.0, value - 0.02), ci_high=value + 0.02))
            rows.append(replace(one, metric="median_rank", value=20.5, chance=n / 2, higher_is_better=False))
    return rows


def _epoch_rows(knn: Scores, sides: Sequence[str], recall: float, epochs: int, *, reference: bool) -> list[Row]:
    rows: list[Row] = []
    against = [(space, "reference") for space in (*_joints(sides), *sides)] if reference else []
    for metric, lift in zip(METRICS, (0.0, 0.1), strict=True):
        of: dict[str, Any] = {"split": "validation", "n": 500, "chance": 0.02 if lift == 0 else 0.0}
        for space, other in [*against, *combinations(sides, 2)]:
            if space in sides:
                rows.append(Row(space, other, metric, knn["raw", space] + lift, stage="raw", **of))
            for epoch in range(epochs + 1):
                rise = 1 + 0.25 * np.sin(epoch / max(epochs, 1) * 2.5) - 0.02 * epoch
                stage, value = "trained" if epoch else "untrained", float(knn["untrained", space] * rise + lift)
                rows.append(Row(space, other, metric, value, stage=stage, epoch=epoch, **of))
    for epoch in range(epochs + 1):
        stage = "trained" if epoch else "untrained"
        loss = Row("joint", "", "loss", 1 - 3 * epoch / (1 + epoch), stage=stage, split="validation", epoch=epoch)
        rows.append(loss)
        if epoch:
            rows.append(replace(loss, split="train", value=1 - 4 * epoch / (1 + epoch)))
        for place, (a, b) in enumerate(permutations(sides, 2)):
            value = float(recall * (1 - 0.1 * place) * (1 - np.exp(-epoch / 3)) + 0.02)
            row = Row(a, b, "R@10", value, stage=stage, split="validation", direction=f"{a}→{b}", epoch=epoch)
            rows.append(replace(row, n=500, chance=0.02))
    return rows


def _map(spaces: Sequence[str], label_count: int, points: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, label_count, points)
    tables = []
    for space in spaces:
        centres = rng.normal(size=(label_count, 2)) * 2
        places = centres[labels] + rng.normal(size=(points, 2)) * 0.6
        columns = {"id": [f"photo {i}" for i in range(points)], "label": [f"kind {label}" for label in labels]}
        tables.append(pl.DataFrame({**columns, "space": [space] * points, "px": places[:, 0], "py": places[:, 1]}))
    return pl.concat(tables)


def _kernels(spaces: Sequence[str], size: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    cells = []
    for noise, space in enumerate(spaces, start=1):
        blocks = np.kron(np.eye(4), np.ones((-(-size // 4),) * 2))[:size, :size] * 0.5
        noisy = blocks + 0.1 * noise * rng.random((size, size))
        values = (noisy + noisy.T) / 2
        cells += [
            {"space": space, "row": row, "col": col, "value": float(values[row, col])}
            for row in range(size)
            for col in range(size)
        ]
    return pl.DataFrame(cells)


def picture_tables(
    sides: Sequence[str], *, reference: bool, epochs: int, label_count: int, points: int, k: int = 10
) -> dict[str, pl.DataFrame]:
    """The tables that only figures read: sides that meet over the epochs, a joint space that nears the reference."""
    rng, kept = np.random.default_rng(2), epochs - 2
    ids, labels = [f"photo {i}" for i in range(points)], [f"kind {i % label_count}" for i in range(points)]
    stages = sorted({0, *(one for one in (1, 2, 5, 10, 20, 50, 100) if one < epochs), max(kept, 1), epochs})
    raw = [*(f"raw {side}" for side in sides), *(["reference"] if reference else [])]
    centres = rng.normal(size=(label_count, 2))
    placed: list[dict[str, Any]] = []
    for epoch in stages:
        for number, side in enumerate(sides):
            gap, noise = 3 * number / (1 + epoch), 0.3 * rng.normal(size=(points, 2))
            places = centres[np.arange(points) % label_count] + noise + [gap, 0.0]
            for one, label, (px, py) in zip(ids, labels, places.tolist(), strict=True):
                placed.append({"id": one, "label": label, "epoch": epoch, "space": side, "px": px, "py": py})
    angles = {name: 2 * np.pi * number / len(raw) for number, name in enumerate(raw)}
    corners = {(name, None): (float(np.cos(angle)), float(np.sin(angle))) for name, angle in angles.items()}
    plane: dict[tuple[str, int | None], tuple[float, float]] = {**corners}
    for epoch in stages:
        share = 0.8 / (1 + epoch)
        for side in sides:
            plane[side, epoch] = (share * corners[f"raw {side}", None][0], share * corners[f"raw {side}", None][1])
        plane["joint", epoch] = (0.1 - share / 3, share)
    pairs = [
        {"a": a, "a_epoch": a_epoch, "b": b, "b_epoch": b_epoch, "value": float(np.exp(-np.hypot(*np.subtract(x, y))))}
        for ((a, a_epoch), x), ((b, b_epoch), y) in combinations(plane.items(), 2)
    ]
    near = [
        {"id": one, "label": labels[i], "space": space, "rank": rank, "neighbor": ids[(i + rank * step) % points]}
        for step, space in enumerate([*raw, *sides, "joint"], start=1)
        for i, one in enumerate(ids)
        for rank in range(1, min(k, points - 1) + 1)
    ]
    answers = [
        {
            **{"direction": f"{a}→{b}", "query": f"{a} {i}", "group": ids[i], "label": labels[i], "first_right": i + 1},
            **{"margin": 0.3 - 0.02 * i, "rank": rank, "answer": f"{b} {(i + rank) % points}"},
            **{"answer_group": ids[i if rank == i + 1 else (i + rank) % points], "right": rank == i + 1},
        }
        for a, b in permutations(sides, 2)
        for i in range(min(points, 30))
        for rank in range(1, 6)
    ]
    few, cells = min(5, points), list[dict[str, Any]]()
    for space in [*raw, "joint"]:
        rows = rng.normal(size=(few, 6)) + 1.0
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for row, col in np.ndindex(few, few):
            cell = {"space": space, "row": row, "col": col, "row_id": ids[row], "row_label": labels[row]}
            cells.append(cell | {"value": float(rows[row] @ rows[col])})
    whole = pl.col("epoch").cast(pl.Int64)
    spaces = [{"space": name, "epoch": epoch, "px": x, "py": y} for (name, epoch), (x, y) in plane.items()]
    return {
        "stages": pl.DataFrame(placed),
        "spaces": pl.DataFrame(spaces, infer_schema_length=None).with_columns(whole, stress=pl.lit(0.05)),
        "agreement": pl.DataFrame(pairs, infer_schema_length=None),
        "neighbors": pl.DataFrame(near),
        "answers": pl.DataFrame(answers),
        "kernel_rows": pl.DataFrame(cells),
    }


def test_scores_are_found_as_a_look_at_every_row_finds_them(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run")])
    asked = [
        {"metric": row.metric, "split": row.split, "stage": row.stage, "space": row.space} for row in run.scores[::7]
    ]
    for columns in (*asked, {"metric": "none", "split": "test"}, {"split": "test"}, {"metric": "R@10"}, {}):
        rows = [row for row in run.scores if all(getattr(row, name) == value for name, value in columns.items())]
        assert run.find(**columns) == rows


def test_every_row_of_the_tables_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (run,) = load_runs([folder])
    assert len(run.scores) == pl.read_parquet(folder / "metrics.parquet").height
    assert [row.contrast for row in run.contrasts] == pl.read_parquet(folder / "contrasts.parquet")[
        "contrast"
    ].to_list()
    joint = run.on_test("trained", "joint", "mutual_knn")
    assert isinstance(joint, Row)
    assert (joint.value, joint.n, joint.k, joint.null_low) == (0.307, 1000, 10, 0.008)


def test_a_score_that_could_not_be_computed_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    table = pl.read_parquet(folder / "metrics.parquet")
    lost = (pl.col("space") == "captions") & (pl.col("metric") == "mutual_knn") & (pl.col("stage") == "raw")
    table.with_columns(value=pl.when(lost).then(None).otherwise("value")).write_parquet(folder / "metrics.parquet")
    change_metrics(folder, pl.lit(value=True))
    rows = {(row.group, row.space): row.scores for row in summary_table([folder])}
    assert [*rows["raw", "captions"]] == ["cka_debiased"]
    assert [*rows["raw", "average"]] == ["cka_debiased"]


def test_gaps_and_dimensions_are_no_metric_of_alignment(tmp_path: Path) -> None:
    run = load_runs([write_run(tmp_path / "run", encoders=("resnet18", "gpt2", None))])[0]
    of = {"stage": "trained", "split": "test"}
    gaps = [Row(*run.sides[:2], metric, 0.1, **of) for metric in ("centroid_gap", "distribution_gap")]
    more = replace(run, scores=(*gaps, Row("joint", "", "intrinsic_dimension", 9.0, **of), *run.scores))
    assert more.metrics == run.metrics and summary_table([more]) == summary_table([run])


def test_the_average_and_maximum_are_those_of_the_rows_above(tmp_path: Path) -> None:
    rows = {(row.group, row.space): row.scores for row in summary_table([write_run(tmp_path / "run")])}
    assert rows["raw", "average"]["mutual_knn"].value == pytest.approx((0.473 + 0.150) / 2)
    assert rows["adapted", "maximum"]["mutual_knn"].value == 0.352


def test_any_number_of_sides_gives_joints_of_all_and_of_pairs(tmp_path: Path) -> None:
    three = write_run(tmp_path / "run", sides=(*SIDES, "names-de"), encoders=("vit", "gpt2", "gpt2", "dinov2"))
    (run,) = load_runs([three])
    table = {(row.group, row.space): row.label for row in summary_table([three])}
    assert [label for (group, _), label in table.items() if group == "joint"] == [
        "joint of all, trained",
        "joint of images and captions, trained",
        "joint of images and names-de, trained",
        "joint of captions and names-de, trained",
    ]
    assert len([group for group, _ in table if group == "between"]) == 3 * 2
    assert len(run.directions()) == 6
    assert table["raw", "names-de"] == "names-de (gpt2), raw"


def test_the_weights_of_a_mixture_are_named_by_side(tmp_path: Path) -> None:
    rows = {row.group: row.scores for row in summary_table([write_run(tmp_path / "run")])}
    assert mixture_text(rows["mixed"]["mutual_knn"]) == "images 0.95, captions 0.05"
    assert mixture_text(rows["mixed"]["cka_debiased"]) == "images 0.60, captions 0.40"
    assert mixture_text(rows["joint"]["mutual_knn"]) == ""


def test_a_missing_run_folder_is_named_with_the_runs_next_to_it(tmp_path: Path) -> None:
    write_run(tmp_path / "linear")
    with pytest.raises(RunMissing, match=r"no run at .*nowhere[\s\S]*linear[\s\S]*Run: featcache train"):
        load_runs([tmp_path / "nowhere"])


def test_an_empty_list_of_runs_is_refused() -> None:
    with pytest.raises(RunMissing, match="at least one run"):
        load_runs([])


@pytest.mark.parametrize("name", ["config.json", "metrics.parquet", "contrasts.parquet", "map.parquet"])
def test_a_run_folder_that_lacks_a_file_is_refused_by_the_files_name(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(RunDamaged, match=f"{name} missing"):
        load_runs([folder])


@pytest.mark.parametrize(("name", "words"), [("config.json", "cannot be read"), ("metrics.parquet", "changed since")])
def test_a_file_that_is_not_what_was_written_is_an_error_of_ours(tmp_path: Path, name: str, words: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(b"not a table")
    with pytest.raises(RunDamaged, match=words):
        load_runs([folder])


def test_a_table_without_a_column_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    pl.read_parquet(folder / "metrics.parquet").drop("null_low").write_parquet(folder / "metrics.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(RunDamaged, match="null_low"):
        load_runs([folder])


def test_a_run_without_the_joints_test_score_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    change_metrics(folder, ~((pl.col("space") == "joint") & (pl.col("split") == "test")))
    with pytest.raises(RunDamaged, match="has no trained joint"):
        load_runs([folder])


def test_runs_of_equal_adapters_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "c", adapter="mlp")]
    folders.append(write_run(tmp_path / "d", shuffle_pairs=True))
    labels = [run.label for run in load_runs([*folders, folders[0]])]
    assert labels == ["linear (a) #1", "linear (b)", "mlp", "linear, pairs shuffled", "linear (a) #2"]


def test_a_side_is_called_by_its_name_and_its_encoder(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "a", encoders=("clip", "clip", "dinov2"))])
    assert run.names() == {"images": "images (clip)", "captions": "captions (clip)", "reference": "dinov2"}
    (run,) = load_runs([write_run(tmp_path / "b", encoders=("clip", "gpt2", "clip"))])
    assert run.names()["reference"] == "clip/last.mean (images)"


def test_a_side_whose_name_holds_the_encoder_is_called_by_its_name(tmp_path: Path) -> None:
    scores = {(stage, side): 0.3 for stage in ("raw", "trained", "untrained") for side in ("vit", "captions/gpt2")}
    folder = write_run(
        tmp_path / "a", sides=("vit", "captions/gpt2"), encoders=("vit", "gpt2", "dinov2"), scores=scores
    )
    (run,) = load_runs([folder])
    assert run.names() == {"vit": "vit", "captions/gpt2": "captions/gpt2", "reference": "dinov2"}


def test_runs_that_differ_in_their_seed_only_become_one_of_mean_and_range(tmp_path: Path) -> None:
    values = (0.30, 0.33, 0.36)
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): value})
        for seed, value in enumerate(values)
    ]
    (pooled,) = pool_seeds(load_runs(folders))
    joint = pooled.on_test("trained", "joint", "mutual_knn")
    assert joint is not None and is_range(joint)
    assert (joint.value, joint.ci_low, joint.ci_high) == (pytest.approx(0.33), 0.30, 0.36)
    raw = pooled.on_test("raw", "images", "mutual_knn")
    assert raw is not None and not is_range(raw) and raw.value == 0.473
    assert pooled.label == "linear (3 seeds)" and pooled.selected_epoch is None
    best = next(row for row in contrast_table([pooled]) if row.contrast == "joint − best adapted part")
    assert best.text() == "below in 2 of 3, cannot tell in 1 of 3 seeds (mean −.022, range −.052 to +.008)"


def test_runs_that_differ_in_more_than_their_seed_stay_apart(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", seed=0),
        write_run(tmp_path / "b", seed=1, width=64),
        write_run(tmp_path / "c", seed=2, shuffle_pairs=True),
        write_run(tmp_path / "d", seed=3, n=700),
        write_run(tmp_path / "e", seed=0),
    ]
    assert len(pool_seeds(load_runs(folders))) == 5


def test_the_headline_run_is_the_best_on_validation_and_not_on_test(tmp_path: Path) -> None:
    linear = write_run(tmp_path / "linear", recall=0.40, scores={("trained", "joint"): 0.20})
    mlp = write_run(tmp_path / "mlp", adapter="mlp", recall=0.30, scores={("trained", "joint"): 0.60})
    run, why = headline_run(load_runs([mlp, linear]))
    assert run.label == "linear"
    assert "the best of 2 on validation (mean R@10 of all directions: mlp 0.2" in why
    assert "exploratory: mlp" in why


def test_runs_that_tie_on_validation_are_said_to_tie(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "linear", recall=0.4), write_run(tmp_path / "mlp", adapter="mlp", recall=0.4)]
    run, why = headline_run(load_runs(folders))
    assert run.label == "linear" and "linear, the first of 2 that tie on validation" in why


def test_runs_are_selected_by_their_own_criterion(tmp_path: Path) -> None:
    low = write_run(tmp_path / "a", select="alignment", recall=0.9, scores={("untrained", "joint"): 0.2})
    high = write_run(
        tmp_path / "b", select="alignment", recall=0.1, adapter="mlp", scores={("untrained", "joint"): 0.3}
    )
    runs = load_runs([low, high])
    assert headline_run(runs)[0].label == "mlp"
    assert on_validation(runs[0]) == pytest.approx(0.2 * (1 + 0.25 * np.sin(10 / 12 * 2.5) - 0.2))
    other = load_runs([low, write_run(tmp_path / "c", adapter="mlp", recall=0.99)])
    run, why = headline_run(other)
    assert run.label == "linear" and "the first named: the runs do not share" in why


def test_a_control_is_never_the_headline_among_others(tmp_path: Path) -> None:
    control = write_run(tmp_path / "a", shuffle_pairs=True, recall=0.9)
    run, why = headline_run(load_runs([control, write_run(tmp_path / "b", recall=0.1)]))
    assert run.label == "linear" and why.endswith("control: linear, pairs shuffled.")


def test_a_run_of_featcache_0_1_opens_with_its_scores_and_intervals_as_recorded() -> None:
    (run,) = load_runs([FORMAT_1])
    old = pl.read_parquet(FORMAT_1 / "metrics.parquet").filter(pl.col("split") == "test")
    assert (run.format, run.sides, run.metrics, run.contrasts) == (1, ["x", "y"], ["mutual_knn", "cka_linear"], ())
    joint = run.on_test("trained", "joint", "cka_linear")
    recorded = old.filter((pl.col("stage") == "trained") & (pl.col("space") == "joint") & (pl.col("metric") == "cka"))
    assert joint is not None and joint.value == recorded["value"][0]
    (recall,) = run.find(stage="trained", direction="x→y", metric="R@10", split="test")
    of = (pl.col("stage") == "trained") & (pl.col("direction") == "x→y") & (pl.col("metric") == "R@10")
    assert (recall.ci_low, recall.ci_high) == old.filter(of).select("ci_low", "ci_high").row(0)
    assert all(row.scores["mutual_knn"].value is not None for row in summary_table([FORMAT_1]))


def test_an_unknown_figure_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'gif'[\s\S]*png, svg"):
        known_formats(["gif"])
