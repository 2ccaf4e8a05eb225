"""What the classifiers of one space predict of the test groups: linear probes, neighbours and few shots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from featcache.metrics.measure.row import Row
from featcache.metrics.probes.accuracy_rows import Predictions
from featcache.metrics.probes.drawn_rows import DrawnPredictions
from featcache.metrics.probes.few_shot import FEW_SHOT_RIDGE, centred_unit, draw_shots, few_shot_classes
from featcache.metrics.probes.logistic import LogisticProbe, logistic_path
from featcache.metrics.probes.nearest import DINO_KS, knn_classes_by_k
from featcache.metrics.probes.ridge import ridge_path
from featcache.metrics.probes.selection import Held, P, Path, choose_held_out, choose_in_folds
from featcache.studies.downstream.groups import TaskGroups
from featcache.studies.downstream.settings import ProbeSettings
from featcache.studies.downstream.spaces import TaskSpace


@dataclass(frozen=True, eq=False)
class Classified:
    """Predictions of one space.

    Args:
        judged: Of one classifier a way of predicting; spaces are compared by them.
        by_k: Of the neighbours at each number of them, where there are several; reported, not compared.
        few: Of few shots, a draw of training groups each.
    """

    judged: list[Predictions]
    by_k: list[Predictions]
    few: list[DrawnPredictions]


def classified(space: TaskSpace, groups: TaskGroups, settings: ProbeSettings, row: Row) -> Classified:
    """Predicts the classes of the test groups in every way.

    Fitted is on training groups; penalties and numbers of neighbours are chosen on validation groups or, where there
    are none, by inner folds of the training groups.

    Args:
        space: One that has values.
        groups: The groups of the task.
        settings: Which penalties, neighbours and shots.
        row: What the rows of the space share.

    Raises:
        MetricError: If there are fewer training groups than neighbours, or one class.
    """
    parts = _Parts.of(space, groups)
    judged = [_logistic(parts, settings, row), _ridge(parts, settings, row)]
    neighbours, by_k = _neighbours(parts, settings, row)
    return Classified(judged + neighbours, by_k, _few_shots(space, groups, settings, row))


def fitting_ks(groups: TaskGroups, ks: Sequence[int] | None) -> tuple[int, ...]:
    """Numbers of neighbours that vote: those that are named, else DINO's as far as there are training groups.

    Args:
        groups: The groups of the task.
        ks: None for DINO's.
    """
    if ks is not None:
        return tuple(ks)
    least = _least_gallery(groups)
    return tuple(k for k in DINO_KS if k <= least) or (least,)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Rows and classes of the splits of one space."""

    train: np.ndarray
    y: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    test: np.ndarray
    folds: np.ndarray | None
    inner: list[Held]

    @classmethod
    def of(cls, space: TaskSpace, groups: TaskGroups) -> "_Parts":
        assert space.values is not None
        train, held, test = (groups.rows[split] for split in ("train", "validation", "test"))
        validation = (space.values[held], groups.codes[held])
        return cls(
            space.values[train],
            groups.codes[train],
            validation,
            space.values[test],
            groups.folds,
            groups.inner(space.values),
        )

    @property
    def how(self) -> str:
        return "on validation" if self.folds is None else f"by {len(np.unique(self.folds))} inner folds"

    def chosen(self, path: Path[P]) -> P:
        if self.folds is None:
            return choose_held_out(path, self.train, self.y, self.validation)
        return choose_in_folds(path, self.train, self.y, self.folds)


def _logistic(parts: _Parts, settings: ProbeSettings, row: Row) -> Predictions:
    fitted = parts.chosen(partial(logistic_path, penalties=settings.penalties))
    note = _joined(row.note, _edge(fitted.penalty, settings.penalties), *_unconverged(fitted))
    convention = f"logistic, L2 {fitted.penalty:g} chosen {parts.how}, columns standardised"
    return Predictions(replace(row, metric="probe", convention=convention, note=note), fitted.classes(parts.test))


def _ridge(parts: _Parts, settings: ProbeSettings, row: Row) -> Predictions:
    fitted = parts.chosen(partial(ridge_path, penalties=settings.ridge_penalties))
    note = _joined(row.note, _edge(fitted.penalty, settings.ridge_penalties))
    convention = f"ridge on class indicators, penalty {fitted.penalty:g} (alpha {fitted.alpha:.3g}) chosen {parts.how}"
    return Predictions(replace(row, metric="ridge", convention=convention, note=note), fitted.classes(parts.test))


def _neighbours(parts: _Parts, settings: ProbeSettings, row: Row) -> tuple[list[Predictions], list[Predictions]]:
    ks = settings.k or ()
    k = _chosen_k(parts, ks, settings.temperature)
    at = ks.index(k)
    chosen = f", k chosen {parts.how} of {', '.join(map(str, ks))}" if len(ks) > 1 else ""
    judged, by_k = list[Predictions](), list[Predictions]()
    for way, temperature, votes in (
        ("knn", settings.temperature, f"cosine, votes exp(cos / {settings.temperature:g})"),
        ("knn_majority", None, "cosine, one vote each"),
    ):
        every = knn_classes_by_k(parts.test, parts.train, parts.y, ks=ks, temperature=temperature)
        judged.append(Predictions(replace(row, metric=way, convention=votes + chosen, k=k), every[at]))
        if way == "knn" and len(ks) > 1:
            by_k = [
                Predictions(replace(row, metric=f"knn{one}", convention=votes, k=one), classes)
                for one, classes in zip(ks, every, strict=True)
            ]
    return judged, by_k


def _chosen_k(parts: _Parts, ks: Sequence[int], temperature: float) -> int:
    """The number of neighbours of the most hits on inner rows, the smallest of equals."""
    fitting = [k for k in sorted(ks) if k <= min(len(gallery) for gallery, *_ in parts.inner)]
    if len(ks) == 1 or not fitting:
        return min(ks)
    hits = np.zeros(len(fitting), np.int64)
    for gallery, y, rows, true in parts.inner:
        hits += (knn_classes_by_k(rows, gallery, y, ks=fitting, temperature=temperature) == true).sum(axis=1)
    return fitting[int(hits.argmax())]


def _few_shots(space: TaskSpace, groups: TaskGroups, settings: ProbeSettings, row: Row) -> list[DrawnPredictions]:
    if not settings.shots:
        return []
    assert space.values is not None
    pool = np.zeros(len(groups.codes), bool)
    pool[groups.rows["train"]] = True
    x = centred_unit(space.values.astype(np.float64), groups.rows["train"])
    said = list[DrawnPredictions]()
    for shots in settings.shots:
        drawn = draw_shots(groups.codes, pool, shots, draws=settings.draws, seed=settings.seed)  # the same of all
        predicted = few_shot_classes(x, groups.codes, drawn, groups.rows["test"], classes=len(groups.classes))
        convention = f"ridge {FEW_SHOT_RIDGE:g} on {shots} training groups a class, {settings.draws} draws"
        convention += ", centred and scaled by all of them without labels"
        own = replace(row, metric=f"shot{shots}", convention=convention, k=shots)
        said.append(DrawnPredictions(own, np.stack([*predicted])))
    return said


def _least_gallery(groups: TaskGroups) -> int:
    n = len(groups.rows["train"])
    return n if groups.folds is None else n - int(np.bincount(groups.folds).max())


def _edge(penalty: float, penalties: Sequence[float]) -> str:
    at_edge = len(penalties) > 1 and penalty in (min(penalties), max(penalties))
    return "the penalty lies at the end of those tried" if at_edge else ""


def _unconverged(fitted: LogisticProbe) -> list[str]:
    return [] if fitted.converged else ["the fit had not converged"]


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))
