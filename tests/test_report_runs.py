"""Does the report read run folders, and only whole ones? Also holds the synthetic run that the report tests share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featcache.errors import UsageError
from featcache.report import load_runs, summary_table
from featcache.report.runs import Score, known_formats
from featcache.trainer.errors import RunDamaged, RunMissing
from featcache.trainer.table import Row, frame

TEST_SCORES = {
    ("raw", "x"): 0.473,
    ("raw", "y"): 0.150,
    ("trained", "x"): 0.352,
    ("trained", "y"): 0.202,
    ("trained", "joint"): 0.307,
    ("untrained", "x"): 0.370,
    ("untrained", "y"): 0.110,
    ("untrained", "joint"): 0.262,
    ("mixed", "x+y"): 0.477,
}


def write_run(
    folder: Path,
    *,
    scores: Mapping[tuple[str, str], float] | None = None,
    cka: Mapping[tuple[str, str], float] | None = None,
    recall: float = 0.36,
    untrained_recall: float = 0.04,
    encoders: tuple[str, str, str] = ("resnet18", "gpt2", "dinov2-small"),
    n: int = 1000,
    epochs: int = 12,
    label_count: int = 5,
    points: int = 60,
    **settings: Any,
) -> Path:
    """Writes a run folder as the trainer does, from numbers chosen by the test."""
    folder.mkdir(parents=True)
    knn = {**TEST_SCORES, **(scores or {})}
    linear = {key: min(1.0, value + 0.1) for key, value in knn.items()} | dict(cka or {})
    rows = [
        *_test_rows(knn, linear, n),
        *_retrieval_rows(recall, untrained_recall, n),
        *_epoch_rows(knn, recall, epochs),
    ]
    frame(rows).write_parquet(folder / "metrics.parquet")
    _map(label_count, points).write_parquet(folder / "map.parquet")
    _kernels(12).write_parquet(folder / "kernels.parquet")
    (folder / "adapters.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps(_config(encoders, n, epochs, settings)), encoding="utf-8")
    return folder


def _config(encoders: tuple[str, str, str], n: int, epochs: int, settings: dict[str, Any]) -> dict[str, Any]:
    views = ("images", "captions", "images")
    features = {
        role: {"view": view, "encoder": encoder, "layer": "last.mean", "digest": encoder[::-1] * 4, "root": "ab" * 16}
        for role, view, encoder in zip(("x", "y", "reference"), views, encoders, strict=True)
    }
    return {
        "format": 1,
        "config": {"adapter": "linear", "width": 256, "epochs": epochs, "batch": 512, "lr": 0.001, "seed": 0, "k": 10}
        | {"select": "retrieval"}
        | settings,
        "config_hash": "c0ffee" * 10,
        "dataset": "flickr30k",
        "overlay": "0ddba11" * 9,
        "features": features,
        "split": {
            "rule": "train, validation and test as the data set has them",
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


def _test_rows(knn: Mapping[tuple[str, str], float], linear: Mapping[tuple[str, str], float], n: int) -> list[Row]:
    rows = []
    bounds: dict[str, Any] = {"n": n, "null_low": 0.008, "null_high": 0.012}
    for metric, values, chance in (("mutual_knn", knn, 10 / (n - 1)), ("cka", linear, 0.011)):
        k = 10 if metric == "mutual_knn" else None
        for (stage, space), value in values.items():
            w = {"mutual_knn": 0.95, "cka": 0.6}[metric] if stage == "mixed" else None
            epoch = {"trained": 10, "untrained": 0}.get(stage)
            row = Row(stage, space, "reference", metric, "test", value, epoch=epoch, k=k, chance=chance, w=w, **bounds)
            rows.append(row)
        for stage, value in (("raw", 0.05), ("untrained", 0.04), ("trained", 0.21)):
            rows.append(Row(stage, "x+y", "pair", metric, "test", value, k=k, chance=chance, **bounds))
    return rows


def _retrieval_rows(recall: float, untrained: float, n: int) -> list[Row]:
    rows = []
    for stage, best in (("trained", recall), ("untrained", untrained)):
        for direction, factor in (("x→y", 1.0), ("y→x", 0.9)):
            for k, share in ((1, 0.25), (5, 0.7), (10, 1.0)):
                value, queries = best * share * factor, n * (5 if direction == "y→x" else 1)
                interval = {"ci_low": max(0.0, value - 0.02), "ci_high": value + 0.02, "estimand": "other queries"}
                measured = Row(stage, "x+y", "pair", f"R@{k}", "test", value, direction, n=queries, k=k, chance=k / n)
                rows.append(Row(**{**measured.__dict__, **interval}))
            rows.append(Row(stage, "x+y", "pair", "median_rank", "test", 20.5, direction, n=n, chance=n / 2))
    return rows


def _epoch_rows(knn: Mapping[tuple[str, str], float], recall: float, epochs: int) -> list[Row]:
    rows = []
    for metric, lift in (("mutual_knn", 0.0), ("cka", 0.1)):
        chance = 0.02 if metric == "mutual_knn" else None
        for space in ("x", "y"):
            rows.append(
                Row("raw", space, "reference", metric, "validation", knn["raw", space] + lift, n=500, chance=chance)
            )
        for epoch in range(epochs + 1):
            stage = "trained" if epoch else "untrained"
            rise = 1 + 0.25 * np.sin(epoch / max(epochs, 1) * 2.5) - 0.02 * epoch
            for space in ("x", "y", "joint"):
                value = knn["untrained", space] * rise + lift
                rows.append(
                    Row(stage, space, "reference", metric, "validation", value, epoch=epoch, n=500, chance=chance)
                )
    for epoch in range(epochs + 1):
        stage = "trained" if epoch else "untrained"
        rows.append(Row(stage, "x+y", "pair", "loss", "validation", 3 + 3 / (1 + epoch), epoch=epoch))
        if epoch:
            rows.append(Row(stage, "x+y", "pair", "loss", "train", 1.5 + 4 / (1 + epoch), epoch=epoch))
        for direction, factor in (("x→y", 1.0), ("y→x", 0.9)):
            value = recall * factor * (1 - np.exp(-epoch / 3)) + 0.02
            rows.append(
                Row(stage, "x+y", "pair", "R@10", "validation", value, direction, epoch=epoch, n=500, chance=0.02)
            )
    return rows


def _map(label_count: int, points: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, label_count, points)
    tables = []
    for space in ("raw x", "raw y", "reference", "joint"):
        centres = rng.normal(size=(label_count, 2)) * 2
        places = centres[labels] + rng.normal(size=(points, 2)) * 0.6
        tables.append(
            pl.DataFrame(
                {
                    "id": [f"photo {i}" for i in range(points)],
                    "label": [f"kind {label}" for label in labels],
                    "space": [space] * points,
                    "px": places[:, 0],
                    "py": places[:, 1],
                }
            )
        )
    return pl.concat(tables)


def _kernels(size: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    cells = []
    for space, noise in (("raw x", 0.1), ("raw y", 0.5), ("reference", 0.05), ("joint", 0.2)):
        blocks = np.kron(np.eye(4), np.ones((-(-size // 4),) * 2))[:size, :size] * 0.5
        noisy = blocks + noise * rng.random((size, size))
        values = (noisy + noisy.T) / 2
        cells += [
            {"space": space, "row": row, "col": col, "value": float(values[row, col])}
            for row in range(size)
            for col in range(size)
        ]
    return pl.DataFrame(cells)


def test_every_row_of_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (run,) = load_runs([folder])
    assert len(run.scores) == pl.read_parquet(folder / "metrics.parquet").height
    joint = run.on_test("trained", "joint", "mutual_knn")
    assert isinstance(joint, Score)
    assert (joint.value, joint.n, joint.k, joint.null_low) == (0.307, 1000, 10, 0.008)


def test_the_report_reads_the_columns_that_the_trainer_writes() -> None:
    from dataclasses import fields

    assert {field.name for field in fields(Score)} == {field.name for field in fields(Row)}


def test_the_average_and_maximum_are_those_of_the_two_rows_above(tmp_path: Path) -> None:
    rows = {(row.group, row.space): row.mutual_knn for row in summary_table([write_run(tmp_path / "run")])}
    average, most = rows["raw", "average"], rows["adapted", "maximum"]
    assert average is not None and average.value == pytest.approx((0.473 + 0.150) / 2)
    assert most is not None and most.value == 0.352


def test_a_row_gives_its_cells_as_text_for_a_terminal_table(tmp_path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "space", "mutual-kNN", "CKA")
    for row in summary_table([write_run(tmp_path / "run")]):
        table.add_row(*row.cells())
    console = Console(width=160, record=True, quiet=True)
    with console.capture() as captured:
        Console(width=160, file=console.file)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    assert "0.307 (null 0.008–0.012)" in captured.get()
    assert "raw kernels mixed, w = 0.95 / 0.60" in captured.get()


def test_a_missing_run_folder_is_named_with_the_runs_beside_it(tmp_path: Path) -> None:
    write_run(tmp_path / "linear")
    with pytest.raises(RunMissing, match=r"no run folder at .*nowhere[\s\S]*linear[\s\S]*Run: featcache train"):
        load_runs([tmp_path / "nowhere"])


def test_an_empty_list_of_runs_is_refused() -> None:
    with pytest.raises(RunMissing, match="at least one run"):
        load_runs([])


@pytest.mark.parametrize("name", ["config.json", "metrics.parquet", "map.parquet", "kernels.parquet"])
def test_a_run_folder_that_lacks_a_file_is_refused_by_the_files_name(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(RunDamaged, match=f"{name} missing"):
        load_runs([folder])


@pytest.mark.parametrize("name", ["config.json", "metrics.parquet"])
def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(b"not a table")
    with pytest.raises(RunDamaged, match="cannot be read"):
        load_runs([folder])


def test_a_table_without_a_column_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    pl.read_parquet(folder / "metrics.parquet").drop("null_low").write_parquet(folder / "metrics.parquet")
    with pytest.raises(RunDamaged, match="lacks the columns null_low"):
        load_runs([folder])


def test_a_run_without_the_joints_test_score_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    table = pl.read_parquet(folder / "metrics.parquet")
    table.filter(~((pl.col("space") == "joint") & (pl.col("split") == "test"))).write_parquet(
        folder / "metrics.parquet"
    )
    with pytest.raises(RunDamaged, match="has no trained joint"):
        load_runs([folder])


def test_runs_of_equal_adapters_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "c", adapter="mlp")]
    folders.append(write_run(tmp_path / "d", shuffle_pairs=True))
    labels = [run.label for run in load_runs([*folders, folders[0]])]
    assert labels == ["linear (a) #1", "linear (b)", "mlp", "linear, pairs shuffled", "linear (a) #2"]


def test_equal_encoders_are_told_apart_by_view(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", encoders=("clip", "clip", "dinov2"))])
    assert run.names() == {
        "x": "clip/last.mean (images)",
        "y": "clip/last.mean (captions)",
        "reference": "dinov2/last.mean (images)",
    }


def test_an_unknown_figure_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'gif'[\s\S]*png, svg"):
        known_formats(["gif"])
