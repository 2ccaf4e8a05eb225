"""Cross-fitted, calibrated classifiers of a space, and the usable information that they have of a label."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from featcache.metrics.arrays import Groups, X, as_float64, group_codes
from featcache.metrics.errors import BadChoice, BadShape, TooFewRows
from featcache.metrics.probes.accuracy import check_two_classes
from featcache.metrics.probes.logistic import fit_logistic
from featcache.metrics.probes.perceptron import PerceptronSettings, perceptron_logits

PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)  # strongest first
LEAST_FOLDS = 3  # some to fit on, one to choose and calibrate by, one to read
PRIOR, LOGISTIC, PERCEPTRON, PART, PRODUCT = "prior", "logistic", "perceptron", "part", "product"
_LOG_TEMPERATURES = (-2.5, 2.5)
_PATIENCE = 6  # epochs without a better one for any fold, after which training ends


@dataclass(frozen=True)
class CalibratedSettings:
    """Which classifiers compete.

    Args:
        penalties: L2 penalties of the logistic ones, strongest first.
        perceptron: Of the one with a hidden layer; None to leave it out.
    """

    penalties: tuple[float, ...] = PENALTIES
    perceptron: PerceptronSettings | None = PerceptronSettings()


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """What is known of each row's class by classifiers that have not seen it.

    Args:
        log_posteriors: [n, c] calibrated log probabilities of the classes, finite.
        terms: [n] log q(y | x) - log p(y) in nats, where p is the share of the class among all rows.
        chosen: The kind of classifier of each fold.
        temperatures: What its logits were divided by.
        inner: Of each fold the log posteriors [m, c] of its inner validation rows, by which it was chosen.
    """

    log_posteriors: Float[np.ndarray, "n c"]
    terms: Float[np.ndarray, " n"]
    chosen: tuple[str, ...]
    temperatures: tuple[float, ...]
    inner: tuple[np.ndarray, ...]

    @property
    def information(self) -> float:
        """Usable information in nats: the entropy of the label less the held-out cross-entropy.

        At most that entropy; below 0 only by the noise of classifiers that know nothing.
        """
        return float(self.terms.mean())

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The most likely class of each row."""
        return self.log_posteriors.argmax(axis=1)


def class_entropy(y: Int[np.ndarray, " n"]) -> float:
    """Entropy in nats of the classes as they are among the rows: what there is to know.

    Example:
        >>> round(class_entropy(np.array([0, 1, 1, 0])), 3)
        0.693
    """
    shares = np.bincount(y) / len(y)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def group_folds(
    y: Int[np.ndarray, " n"], *, groups: Groups | None = None, folds: int = 5, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """The fold of each row: whole groups, each class spread over all folds as evenly as whole groups allow.

    Args:
        y: Class of each row; that of a group is its first row's.
        groups: The group of each row, or None for a group a row.
        folds: 3 or more.
        seed: Of the draw.

    Returns:
        Numbers 0 to folds - 1.

    Raises:
        BadChoice: If folds are fewer than 3.
        TooFewRows: If there are fewer groups than folds.

    Example:
        >>> np.bincount(group_folds(np.zeros(10, int), folds=5)).tolist()
        [2, 2, 2, 2, 2]
    """
    if folds < LEAST_FOLDS:
        raise BadChoice(f"folds = {folds}: wanted {LEAST_FOLDS} or more: some to fit on, one to choose by, one to read")
    codes, names = group_codes(groups, len(y))
    if len(names) < folds:
        raise TooFewRows(f"{len(names)} groups cannot be spread over {folds} folds")
    first = np.unique(codes, return_index=True)[1]
    drawn = np.random.default_rng(seed).permutation(len(names))
    order = drawn[np.argsort(y[first[drawn]], kind="stable")]  # by class, at random within
    of_group = np.empty(len(names), np.int64)
    of_group[order] = np.arange(len(names)) % folds
    return of_group[codes]


def cross_fit(
    x: X,
    y: Int[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    *,
    parts: Sequence[CrossFitted] = (),
    settings: CalibratedSettings = CalibratedSettings(),
) -> CrossFitted:
    """Classifies every row by classifiers that were fitted, chosen and calibrated on other folds.

    For each two folds classifiers are fitted on all others: logistic ones, a penalty each, and one with a hidden layer.
    Those of a fold and each other one in turn predict the other's rows; by these predictions the kind is chosen, of the
    least cross-entropy, and calibrated by temperature scaling. The bare shares of the classes compete too. The fold
    itself is read by the mean of their log posteriors.

    Their information is usable information within this family of classifiers: but for noise a lower bound of the mutual
    information, and 0 where none of them knows anything. What other training rows would give is not in its intervals.

    Args:
        x: [n, d] the space.
        y: Class of each row, 0 to c - 1.
        folds: Fold of each row (`group_folds`); three or more.
        parts: What was cross-fitted on spaces that this one is made of, with the same classes and folds. They compete
            too, as does their product: so no part knows more than the whole but for noise.
        settings: Which classifiers.

    Raises:
        BadShape: If rows, classes, folds and parts are not as many.
        BadChoice: If there are fewer than three folds, or two of them have all rows of a class.
        BadDtype, NotFinite: As `mutual_knn`.

    Example:
        >>> y = np.arange(200) % 2
        >>> x = np.random.default_rng(0).standard_normal((200, 2)) + 3 * y[:, None]
        >>> fitted = cross_fit(x, y, group_folds(y), settings=CalibratedSettings(perceptron=None))
        >>> fitted.chosen[0], 0.6 < fitted.information < class_entropy(y)
        ('logistic', True)

    Source:
        Usable information: Xu et al. 2020, arXiv:2002.10689. Temperature scaling: Guo et al. 2017, arXiv:1706.04599.
    """
    values = as_float64(x)
    plan = _plan(values, y, folds, parts)
    tried = [
        _prior(plan),
        *_of_parts(plan, parts),
        *_logistic(plan, values, settings.penalties),
        *(_perceptron(plan, values, settings.perceptron) if settings.perceptron else []),
    ]
    posteriors, chosen, temperatures, inner = np.zeros((len(y), plan.classes)), list[str](), list[float](), list[Any]()
    for fold in range(plan.count):
        best = min((_calibrated(plan, one, fold) for one in tried), key=lambda one: one.loss)
        posteriors[folds == plan.numbers[fold]] = best.held
        chosen.append(best.kind)
        temperatures.append(best.temperature)
        inner.append(best.inner)
    shares = np.bincount(y, minlength=plan.classes) / len(y)
    terms = posteriors[np.arange(len(y)), y] - np.log(shares[y])
    return CrossFitted(posteriors, terms, tuple(chosen), tuple(temperatures), tuple(inner))


def log_softmax(logits: Float[np.ndarray, "... c"]) -> Float[np.ndarray, "... c"]:
    """Log probabilities of the classes, along the last axis.

    Example:
        >>> log_softmax(np.array([[1000.0, 1000.0]])).round(3).tolist()
        [[-0.693, -0.693]]
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which rows classifiers are fitted on: for each two folds all others.

    Args:
        y: Class of each row.
        classes: How many.
        of: [n] number of the fold of each row.
        numbers: What the caller calls each fold.
        pairs: Every two folds.
        train: [pairs, n] rows of neither.
        priors: [folds, c] log shares of the classes outside of each fold.
    """

    y: np.ndarray
    classes: int
    of: np.ndarray
    numbers: np.ndarray
    pairs: list[tuple[int, int]]
    train: np.ndarray
    priors: np.ndarray

    @property
    def count(self) -> int:
        return len(self.numbers)

    def blank(self) -> np.ndarray:
        """[folds, n, c]: what is said of each row by classifiers that have seen neither it nor a fold."""
        return np.zeros((self.count, len(self.y), self.classes))


@dataclass(frozen=True, eq=False)
class _Tried:
    """What one kind of classifier says.

    Args:
        kind: Its name.
        logits: [folds, n, c]. Entry [k] of a row of another fold comes from a classifier that has seen neither of the
            two; of a row of fold k itself it is the mean over those.
    """

    kind: str
    logits: np.ndarray


@dataclass(frozen=True, eq=False)
class _Calibrated:
    kind: str
    temperature: float
    loss: float
    inner: np.ndarray
    held: np.ndarray


def _plan(values: np.ndarray, y: np.ndarray, folds: np.ndarray, parts: Sequence[CrossFitted]) -> _Plan:
    if y.shape != (len(values),) or folds.shape != y.shape or any(len(part.terms) != len(y) for part in parts):
        raise BadShape(f"wanted a class and a fold for each of {len(values)} rows, got {y.shape} and {folds.shape}")
    numbers, of = np.unique(folds, return_inverse=True)
    if len(numbers) < LEAST_FOLDS:
        raise BadChoice(f"{len(numbers)} folds: wanted {LEAST_FOLDS} or more")
    classes = int(y.max()) + 1
    check_two_classes(y, "the rows")
    pairs = [*combinations(range(len(numbers)), 2)]
    train = np.stack([(of != first) & (of != second) for first, second in pairs])
    counts = np.stack([np.bincount(y[of == fold], minlength=classes) for fold in range(len(numbers))])
    if any((counts.sum(axis=0) == counts[first] + counts[second]).any() for first, second in pairs):
        raise BadChoice(f"a class stands in two of {len(numbers)} folds only: leave it out, or draw more folds")
    others = counts.sum(axis=0) - counts + 0.5  # half a row more than there is
    return _Plan(y, classes, of, numbers, pairs, train, np.log(others / others.sum(axis=1, keepdims=True)))


def _prior(plan: _Plan) -> _Tried:
    logits = plan.blank()
    logits[:] = plan.priors[:, None]
    return _Tried(PRIOR, logits)


def _of_parts(plan: _Plan, parts: Sequence[CrossFitted]) -> Iterator[_Tried]:
    whole = []
    for part in parts:
        logits = np.stack(part.inner)
        for fold in range(plan.count):
            logits[fold, plan.of == fold] = part.log_posteriors[plan.of == fold]
        whole.append(logits)
        yield _Tried(PART, logits)
    if len(whole) > 1:  # each part has the shares of the classes in it
        yield _Tried(PRODUCT, sum(whole) - (len(whole) - 1) * plan.priors[:, None])


def _logistic(plan: _Plan, values: np.ndarray, penalties: Sequence[float]) -> Iterator[_Tried]:
    """One for each penalty, up to the first behind which rows of other folds are told worse: weaker ones are slow."""
    best = math.inf
    for penalty in penalties:
        logits, loss = plan.blank(), 0.0
        for pair, train in zip(plan.pairs, plan.train, strict=True):
            [probe] = fit_logistic(values[train], plan.y[train], penalties=(penalty,), classes=plan.classes)
            said = log_softmax(probe.logits(values[~train]))
            loss -= float(said[np.arange(len(said)), plan.y[~train]].sum())
            _enter(plan, logits, pair, said)
        yield _Tried(LOGISTIC, logits)
        if loss >= best:
            return
        best = loss


def _enter(plan: _Plan, logits: np.ndarray, pair: tuple[int, int], said: np.ndarray) -> None:
    """What a classifier that has seen neither fold says of the rows of both: inner for one, held for the other."""
    of = plan.of[~plan.train[plan.pairs.index(pair)]]
    for own, other in (pair, pair[::-1]):
        logits[own, plan.of == other] = said[of == other]
        logits[own, plan.of == own] += said[of == own] / (plan.count - 1)


def _perceptron(plan: _Plan, values: np.ndarray, settings: PerceptronSettings) -> list[_Tried]:
    """Each classifier as it was after the epoch that is best for the inner rows."""
    logits = plan.blank()
    best = np.full((plan.count, plan.count), np.inf)
    held = np.zeros((plan.count, *logits.shape))  # by own fold, by inner fold
    since = 0
    for every in perceptron_logits(values, plan.y, plan.train, classes=plan.classes, settings=settings):
        said, since = log_softmax(every), since + 1
        losses = -said[:, np.arange(len(plan.y)), plan.y]
        for number, pair in enumerate(plan.pairs):
            for own, other in (pair, pair[::-1]):
                loss = float(losses[number, plan.of == other].mean())
                if loss < best[own, other]:
                    best[own, other], since = loss, 0
                    logits[own, plan.of == other] = said[number, plan.of == other]
                    held[own, other, plan.of == own] = said[number, plan.of == own]
        if since >= _PATIENCE:
            break
    for own in range(plan.count):
        logits[own, plan.of == own] = held[own].sum(axis=0)[plan.of == own] / (plan.count - 1)
    return [_Tried(PERCEPTRON, logits)]


def _calibrated(plan: _Plan, tried: _Tried, fold: int) -> _Calibrated:
    """At the temperature of the least cross-entropy on the rows of the other folds."""
    from scipy.optimize import minimize_scalar

    inner, logits = plan.of != fold, tried.logits[fold]
    others, y, prior = logits[inner], plan.y[inner], plan.priors[fold]
    at = np.arange(len(y)), y

    def loss(log_temperature: float) -> float:
        return -float(_softened(others * math.exp(-log_temperature), prior, len(y))[at].mean())

    # the shares of the classes are calibrated as they are
    best = 0.0
    if tried.kind != PRIOR:
        found: Any = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
        best = float(found.x)
    softened = _softened(logits * math.exp(-best), prior, len(y))
    return _Calibrated(tried.kind, math.exp(best), loss(best), softened, softened[~inner])


def _softened(logits: np.ndarray, prior: np.ndarray, rows: int) -> np.ndarray:
    """Log posteriors with a little of the prior mixed in, so that no single row costs any number of nats."""
    share = 1 / (rows + 2)
    return np.logaddexp(log_softmax(logits) + math.log1p(-share), prior + math.log(share))
