"""What is measured of trained adapters on one split: alignment, retrieval in every direction, loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations

import torch
from jaxtyping import Float
from torch import Tensor

from featcache.metrics import Answers, Retrieval, retrieval, right_answers
from featcache.metrics.measure.engine import measure
from featcache.metrics.measure.row import Row
from featcache.metrics.measure.settings import MeasureSettings
from featcache.metrics.measure.space import ArraySpace
from featcache.trainer.adapters import Adapters
from featcache.trainer.config import FitConfig
from featcache.trainer.labels import class_numbers
from featcache.trainer.losses import batch_loss
from featcache.trainer.sides import PairedSides

RECALLS = (1, 5, 10)
METRICS = ("mutual_knn", "cka_debiased")
REFERENCE = "reference"
HITS = {"content": "right: own group, or content equal to its", "group": "right: own group"}


def alignment_settings(config: FitConfig) -> MeasureSettings:
    """How every space of a run is compared: unit rows, k of the configuration, scores alone.

    Nulls and halves are the same draws for every training seed, so that trainings share them and can be compared.
    """
    return MeasureSettings(METRICS, config.k, null="none", unit_rows=True)


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """One split, ready to be measured again and again; raw spaces and the reference are prepared once.

    Alignment takes one row a group: raw features are averaged over a group's rows, embeddings are normalised, averaged
    and normalised again. Retrieval takes every row. Everything is measured on the CPU, whichever device trained.

    Args:
        name: "validation", "test" or CLEAN.
        paired: The groups of this split only; every side has rows of every group.
    """

    name: str
    paired: PairedSides

    @cached_property
    def raw(self) -> dict[str, ArraySpace]:
        """Raw features of each side, one row a group."""
        return {name: ArraySpace(side.means(), name) for name, side in self.paired.sides.items()}

    @cached_property
    def reference(self) -> ArraySpace | None:
        """Features of the reference, one row a group."""
        values = self.paired.reference
        return None if values is None else ArraySpace(values, REFERENCE)

    @cached_property
    def answers(self) -> dict[tuple[str, str], Answers | None]:
        """(side of the queries, side of the gallery) -> right answers, where texts or images stand in two groups."""
        sides = {name: (side.groups.numpy(), side.contents) for name, side in self.paired.sides.items()}
        known = {name: [""] * len(groups) if own is None else own for name, (groups, own) in sides.items()}
        return {
            (query, gallery): right_answers(sides[query][0], sides[gallery][0], known[query], known[gallery])
            for query, gallery in permutations(sides, 2)
        }


@dataclass(frozen=True, eq=False)
class Embedded:
    """A split mapped into the joint space.

    Args:
        rows: Side -> [rows, width] every row, L2-normalised.
        spaces: Side, "joint" and, of more than two sides, "joint:a+b" for each pair -> one row a group.
    """

    rows: dict[str, Float[Tensor, "rows width"]]
    spaces: dict[str, ArraySpace]


def joint_names(sides: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The joint spaces of some sides: of all, and of each pair where there are more than two.

    Example:
        >>> joint_names(["a", "b"])
        {'joint': ('a', 'b')}
        >>> list(joint_names(["a", "b", "c"]))
        ['joint', 'joint:a+b', 'joint:a+c', 'joint:b+c']
    """
    pairs = combinations(sides, 2) if len(sides) > 2 else ()
    return {"joint": tuple(sides)} | {f"joint:{a}+{b}": (a, b) for a, b in pairs}


@torch.no_grad()
def embed_split(split: EvaluationSplit, adapters: Adapters) -> Embedded:
    """Maps the rows of a split into the joint space.

    Args:
        split: The split.
        adapters: Adapters on the CPU.
    """
    sides = split.paired.sides
    rows = {name: adapters.embed(name, side.values) for name, side in sides.items()}
    means = {
        name: torch.nn.functional.normalize(replace(side, values=rows[name]).means()) for name, side in sides.items()
    }
    joints = {
        name: adapters.join({part: means[part] for part in parts}) for name, parts in joint_names([*sides]).items()
    }
    return Embedded(rows, {name: ArraySpace(values, name) for name, values in (means | joints).items()})


def alignment_rows(split: EvaluationSplit, spaces: dict[str, ArraySpace], settings: MeasureSettings) -> list[Row]:
    """Alignment of each space with the reference, where there is one, and of each two sides with each other."""
    rows = measure(spaces, split.reference, settings).rows if split.reference is not None else []
    sides = {name: spaces[name] for name in split.paired.sides}
    between = measure(sides, None, settings).rows
    return [replace(row, split=split.name) for row in (*rows, *between)]


def retrieved(split: EvaluationSplit, embedded: Embedded, query: str, gallery: str, hits: str = "content") -> Retrieval:
    """Retrieval from one side to another, every row a query; `hits` as of FitConfig."""
    return retrieval(
        embedded.rows[query],
        embedded.rows[gallery],
        query_groups=split.paired.sides[query].groups.numpy(),
        gallery_groups=split.paired.sides[gallery].groups.numpy(),
        ks=RECALLS,
        answers=split.answers[query, gallery] if hits == "content" else None,
    )


def retrieval_rows(split: EvaluationSplit, embedded: Embedded, hits: str = "content") -> list[Row]:
    """Recall at 1, 5 and 10 with intervals, and median rank, from each side to each other; `hits` as of FitConfig."""
    rows: list[Row] = []
    for query, gallery in permutations(split.paired.sides, 2):
        result = retrieved(split, embedded, query, gallery, hits)
        one = Row(query, gallery, "", None, convention=HITS[hits], n=len(embedded.rows[query]))
        one = replace(one, split=split.name, direction=f"{query}→{gallery}")
        for k in RECALLS:
            rows.append(
                replace(
                    one,
                    metric=f"R@{k}",
                    k=k,
                    value=result.recall[k],
                    chance=result.chance[k],
                    ci_low=result.low[k],
                    ci_high=result.high[k],
                    estimand=result.estimand,
                    interval="Wilson, clustered by group",
                )
            )
        rank = {"value": result.median_rank, "chance": float(result.chance_median_rank), "higher_is_better": False}
        rows.append(replace(one, metric="median_rank", **rank))
    return rows


@torch.no_grad()
def loss_row(split: EvaluationSplit, embedded: Embedded, adapters: Adapters, config: FitConfig) -> Row:
    """Held-out loss: the first row of each group and side, in order, in batches as large as in training."""
    rows = {name: embedded.rows[name][side.starts] for name, side in split.paired.sides.items()}
    n, reference = len(split.paired.groups), split.paired.reference
    labels = class_numbers(split.paired) if config.loss == "labels" else None
    total = torch.zeros(())
    for chosen in torch.arange(n).tensor_split(math.ceil(n / config.batch)):
        batch = {name: values[chosen] for name, values in rows.items()}
        target, own = (None if each is None else each[chosen] for each in (reference, labels))
        total += batch_loss(adapters, config, batch, chosen, reference=target, labels=own) * len(chosen)
    return Row("joint", "", "loss", float(total) / n, split=split.name, n=n, higher_is_better=False)


def epoch_rows(split: EvaluationSplit, adapters: Adapters, config: FitConfig, epoch: int) -> list[Row]:
    """Everything that is tracked of one epoch's weights, on the CPU."""
    embedded = embed_split(split, adapters)
    rows = alignment_rows(split, embedded.spaces, alignment_settings(config))
    rows += [*retrieval_rows(split, embedded, config.hits), loss_row(split, embedded, adapters, config)]
    stage = "trained" if epoch else "untrained"
    return [replace(row, stage=stage, epoch=epoch) for row in rows]


def mean_recall(rows: Sequence[Row]) -> float:
    """Mean R@10 over all directions."""
    recalls = [row.value or 0.0 for row in rows if row.metric == "R@10"]
    return sum(recalls) / len(recalls)


def joint_alignment(split: EvaluationSplit, values: Float[Tensor, "g width"], config: FitConfig) -> float:
    """Mutual k-NN of a joint space, one row a group, with the reference, which must be there."""
    settings = replace(alignment_settings(config), metrics=("mutual_knn",))
    (row,) = measure([ArraySpace(values, "joint")], split.reference, settings).rows
    return row.value or 0.0


def validation_score(split: EvaluationSplit, config: FitConfig, adapters: Adapters) -> float:
    """What selects on validation, as `select` of the configuration says; higher is better."""
    embedded = embed_split(split, adapters)
    if config.select == "retrieval":
        return mean_recall(retrieval_rows(split, embedded, config.hits))
    return joint_alignment(split, torch.as_tensor(embedded.spaces["joint"].values), config)
