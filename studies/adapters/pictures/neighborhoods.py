"""Neighbours of single test groups in every space of a run, and the kernels of five of them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.studies.adapters.pictures.milestones import Stages
from featcache.trainer.sides import PairedSides

if TYPE_CHECKING:
    import polars as pl

NEIGHBOR_GROUPS = 500
KERNEL_GROUPS = 5


def neighbor_table(stages: Stages, most: int = NEIGHBOR_GROUPS) -> "pl.DataFrame":
    """The k nearest test groups to each of some, in every space: the lists that mutual k-NN compares.

    Args:
        stages: Of which the selected epoch is taken.
        most: Groups, drawn with the run's seed.

    Returns:
        Columns id (of the group), label, space, rank (1 the nearest), neighbor (id of that group). Spaces are
        "raw <side>", "reference", each side, which is its adapted rows, and "joint".
    """
    import polars as pl

    drawn, paired, k = stages.drawn(most), stages.test.paired, stages.fitted.config.k
    lists = {name: space.graph(k).ids[drawn, :k] for name, space in stages.final.items()}
    columns: dict[str, Any] = {
        "id": np.tile(np.repeat(paired.groups[drawn], k), len(lists)),
        "label": np.tile(np.repeat(paired.labels[drawn], k), len(lists)),
        "space": np.repeat([*lists], k * len(drawn)),
        "rank": np.tile(np.arange(1, k + 1), len(drawn) * len(lists)),
        "neighbor": paired.groups[np.concatenate([ids.ravel() for ids in lists.values()])],
    }
    return pl.DataFrame(columns)


def kernel_row_table(stages: Stages) -> "pl.DataFrame":
    """The cosine of every two of five test groups in the raw spaces, the reference and the joint space.

    Returns:
        Columns space, row, col (numbers of the groups, from 0), row_id, row_label, value.
    """
    import polars as pl

    paired = stages.test.paired
    chosen = chosen_groups(paired)
    numbers = np.arange(len(chosen))
    tables: list[pl.DataFrame] = []
    for name, space in (stages.fixed | {"joint": stages.final["joint"]}).items():
        rows = np.asarray(space.values, dtype=np.float64)[chosen]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        columns: dict[str, Any] = {
            "space": [name] * len(chosen) ** 2,
            "row": numbers.repeat(len(chosen)),
            "col": np.tile(numbers, len(chosen)),
            "row_id": paired.groups[chosen].repeat(len(chosen)),
            "row_label": paired.labels[chosen].repeat(len(chosen)),
            "value": (rows @ rows.T).ravel(),
        }
        tables.append(pl.DataFrame(columns))
    return pl.concat(tables)


def chosen_groups(paired: PairedSides) -> list[int]:
    """Five groups by a rule: the first two by id of the commonest label, and the first of each of the next three.

    Where there are too few labels, or none, the first groups by id fill the places that are left. Labels that are
    equally common come in their order.

    Returns:
        Numbers of the groups.
    """
    order = np.argsort(paired.groups, kind="stable").tolist()
    labels: Sequence[str] = paired.labels.tolist()
    counts = Counter(label for label in labels if label)
    common = sorted(counts, key=lambda label: (-counts[label], label))[: KERNEL_GROUPS - 1]
    first = [number for label in common for number in [each for each in order if labels[each] == label][:1]]
    second = [number for number in order if common and labels[number] == common[0]][1:2]
    ruled = [*first[:1], *second, *first[1:]]
    return [*ruled, *(number for number in order if number not in ruled)][:KERNEL_GROUPS]
