"""Tables of pictures for run folders of tests: adapted sides and spaces over epochs, neighbours, answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featcache.trainer.run_files import write_manifest

SIDES = ("images", "captions")
EPOCHS = (0, 1, 4, 10, 12)
K = 6


def add_tables(
    run: Path, ids: Sequence[str], labels: Sequence[str], *, sides: Sequence[str] = SIDES, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Writes every table of pictures into a run folder, of numbers drawn by the seed.

    Args:
        run: From `write_run`.
        ids: Groups.
        labels: Of each group.
        sides: As of the run.
        seed: Of every number.

    Returns:
        The rows of each table.
    """
    rng = np.random.default_rng(seed)
    tables = {
        "stages": _stages(rng, ids, labels, sides),
        "spaces": _spaces(rng, sides),
        "agreement": _agreement(rng, sides),
        "neighbors": _neighbors(rng, ids, labels, sides),
        "answers": _answers(rng, ids, labels, sides),
    }
    for name, rows in tables.items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(run / f"{name}.parquet")
    (run / "manifest.json").unlink()
    write_manifest(run)
    return tables


def _stages(rng: np.random.Generator, ids: Sequence[str], labels: Sequence[str], sides: Sequence[str]) -> list[dict]:
    kinds = list(dict.fromkeys(labels))
    centres = rng.normal(size=(len(kinds), 2))
    of = np.stack([centres[kinds.index(label)] for label in labels])
    rows = []
    for step, epoch in enumerate(EPOCHS):
        for side in sides:
            spread = rng.normal(size=(len(ids), 2)) * (1.2 - 0.2 * step)
            for id_, label, (x, y) in zip(ids, labels, of * (0.3 + 0.3 * step) + spread, strict=True):
                rows.append({"id": id_, "label": label, "epoch": epoch, "space": side, "px": float(x), "py": float(y)})
    return rows


def _spaces(rng: np.random.Generator, sides: Sequence[str]) -> list[dict]:
    target = np.array([2.0, 0.5])
    rows = [{"space": "reference", "epoch": None, "px": 2.0, "py": 0.5, "stress": 0.08}]
    starts = {**{f"raw {side}": rng.normal(size=2) for side in sides}}
    rows += [
        {"space": name, "epoch": None, "px": float(x), "py": float(y), "stress": 0.08}
        for name, (x, y) in starts.items()
    ]
    for place, space in enumerate((*sides, "joint")):
        start = rng.normal(size=2) + np.array([-1.0, place - 1.0])
        for step, epoch in enumerate(EPOCHS):
            x, y = start + (target - start) * step / 6 + rng.normal(size=2) * 0.08
            rows.append({"space": space, "epoch": epoch, "px": float(x), "py": float(y), "stress": 0.08})
    return rows


def _agreement(rng: np.random.Generator, sides: Sequence[str]) -> list[dict]:
    names = [("reference", None), *((f"raw {side}", None) for side in sides)]
    names += [(space, epoch) for epoch in EPOCHS for space in (*sides, "joint")]
    return [
        {"a": a, "a_epoch": a_epoch, "b": b, "b_epoch": b_epoch, "value": float(rng.random())}
        for place, (a, a_epoch) in enumerate(names)
        for b, b_epoch in names[place + 1 :]
    ]


def _neighbors(rng: np.random.Generator, ids: Sequence[str], labels: Sequence[str], sides: Sequence[str]) -> list[dict]:
    rows = []
    truth = {id_: rng.permutation([other for other in ids if other != id_])[: 2 * K] for id_ in ids}
    for space in (*(f"raw {side}" for side in sides), *sides, "joint", "reference"):
        for id_, label in zip(ids, labels, strict=True):
            near = truth[id_][:K] if space == "reference" else rng.permutation(truth[id_])[:K]
            for rank, other in enumerate(near, start=1):
                rows.append({"id": id_, "label": label, "space": space, "rank": rank, "neighbor": str(other)})
    return rows


def _answers(rng: np.random.Generator, ids: Sequence[str], labels: Sequence[str], sides: Sequence[str]) -> list[dict]:
    rows = []
    for a, b in ((sides[0], sides[1]), (sides[1], sides[0])):
        for id_, label in zip(ids, labels, strict=True):
            first = int(rng.choice([1, 1, 2, 3, 7, 30, 200]))
            margin = float(rng.normal())
            wrong = [str(other) for other in rng.permutation([other for other in ids if other != id_])[:5]]
            for rank in range(1, 6):
                group = id_ if rank == first else wrong[rank - 1]
                rows.append(
                    {"direction": f"{a}→{b}", "query": f"{a}/{id_}", "group": id_, "label": label}
                    | {"first_right": first, "margin": margin, "rank": rank, "answer": f"{b}/{group}"}
                    | {"answer_group": group, "right": rank == first}
                )
    return rows
