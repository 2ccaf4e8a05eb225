"""What is exact of a label table: informations, Bayes accuracies, decompositions, the alignment of exact posteriors."""

from typing import Any

import numpy as np
from jaxtyping import Float

from featcache.data.synthetic.generator import Generator
from featcache.data.synthetic.tables import joint_table
from featcache.data.synthetic.three import PAIRS, ThreeModalities, three_table
from featcache.metrics.information.decompositions import decompositions
from featcache.metrics.information.tables import bayes_accuracy, checked, entropy, mutual_information

PARTS = ("redundancy", "unique1", "unique2", "synergy")
_LEAST_SHARE = 1e-12  # of a posterior's variance, below which it is constant

Joint = Float[np.ndarray, "x1 x2 c"]


def oracle_row(generator: Generator, level: int) -> dict[str, Any]:
    """What is exact of one level of a generator.

    Args:
        generator: Of the table.
        level: One of its levels; `uniqueness` in the row.

    Returns:
        `generator`, `uniqueness`, what `exact_row` holds, and `information_shared`: I(shared bits; Y) in nats.

    Raises:
        DataInvalid: If there is no such level.
        NotConverged: As `broja`.

    Example:
        >>> from featcache.data.synthetic.released import Released
        >>> row = oracle_row(Released(), 8)
        >>> [round(row[name], 3) for name in ("information1", "bayes_accuracy2", "broja_redundancy", "broja_synergy")]
        [0.367, 0.595, 0.273, 0.591]
    """
    table = generator.table(level)
    shared = table.mean(axis=(1, 2)) / len(table)
    return {
        "generator": generator.name,
        "uniqueness": level,
        **exact_row(joint_table(table)),
        "information_shared": mutual_information(shared / shared.sum()),
    }


def pair_rows(generator: ThreeModalities, level: int) -> list[dict[str, Any]]:
    """What is exact of each pair of three modalities at a level.

    Args:
        generator: Of all three.
        level: One of its levels.

    Returns:
        A row as `oracle_row` for each of PAIRS, with `first` and `second`, the numbers of the two modalities, and
        `information123`: what all three tell of the label, in nats. Source 1 in the names is `first`.

    Raises:
        DataInvalid: If there is no such level.
        NotConverged: As `broja`.

    Example:
        >>> rows = pair_rows(ThreeModalities(), 0)
        >>> [(row["first"], row["second"], round(row["broja_redundancy"], 3)) for row in rows]
        [(1, 2, 0.972), (1, 3, 0.647), (2, 3, 0.546)]
    """
    table = three_table(generator, level).reshape(-1, generator.classes)
    every = {"information123": mutual_information(table / table.sum())}
    return [
        {"first": first, "second": second, **oracle_row(generator.pair(first, second), level), **every}
        for first, second in PAIRS
    ]


def exact_row(joint: Joint) -> dict[str, float | None]:
    """What is exact of a table of two sources and a label, in nats.

    Args:
        joint: p(x1, x2, y).

    Returns:
        `entropy` of the label; `information1`, `information2` and `information12`; `bayes_accuracy1`,
        `bayes_accuracy2` and `bayes_accuracy12`; `posterior_cka`; and of each of DECOMPOSITIONS `<name>_redundancy`,
        `<name>_unique1`, `<name>_unique2`, `<name>_synergy` and `<name>_gap`.

    Raises:
        BadShape, NotProbabilities: If it is no such table.
        NotConverged: As `broja`.

    Example:
        >>> row = exact_row(np.einsum("ij,ik->ijk", np.diag([0.5, 0.5]), np.eye(2)))  # all three are one bit
        >>> row["information1"] == row["i_min_redundancy"] == row["common_redundancy"], row["posterior_cka"]
        (True, 1.0)
    """
    p = checked(joint, 3)
    first, second, both = p.sum(axis=1), p.sum(axis=0), p.reshape(-1, p.shape[2])
    row: dict[str, float | None] = {"entropy": entropy(first.sum(axis=0))}
    for name, margin in (("1", first), ("2", second), ("12", both)):
        row[f"information{name}"] = mutual_information(margin)
        row[f"bayes_accuracy{name}"] = bayes_accuracy(margin)
    for name, parts in decompositions(p).items():
        row |= {f"{name}_{part}": getattr(parts, part) for part in (*PARTS, "gap")}
    return row | {"posterior_cka": posterior_cka(p)}


def posterior_cka(joint: Joint) -> float | None:
    """Linear CKA of p(y | x1) and p(y | x2) over p(x1, x2): the alignment of two Bayes-optimal models.

    Of all pairs of inputs, so that chance is 0 and no sampling noise is in it. Symmetric, in [0, 1].

    Args:
        joint: p(x1, x2, y).

    Returns:
        The score; None where a source tells nothing of the label, and its posterior is constant.

    Raises:
        BadShape, NotProbabilities: If it is no such table.

    Example:
        >>> copy = np.einsum("ij,ik->ijk", np.diag([0.5, 0.5]), np.eye(2))
        >>> posterior_cka(copy), posterior_cka(copy.transpose(0, 2, 1).mean(axis=1, keepdims=True).repeat(2, axis=1))
        (1.0, None)
    """
    p = checked(joint, 3)
    pairs = p.sum(axis=2)
    sides, own = list[np.ndarray](), list[float]()
    for margin in (p.sum(axis=1), p.sum(axis=0)):
        weights = margin.sum(axis=1)
        present = weights > 0
        posterior = np.divide(margin, weights[:, None], out=np.zeros_like(margin), where=present[:, None])
        centred = np.where(present[:, None], posterior - margin.sum(axis=0), 0.0)
        sides.append(centred)
        own.append(float(np.linalg.norm(centred.T @ (weights[:, None] * centred))))
    if min(own) < _LEAST_SHARE:
        return None
    return min(float(np.linalg.norm(sides[0].T @ pairs @ sides[1]) ** 2) / (own[0] * own[1]), 1.0)
