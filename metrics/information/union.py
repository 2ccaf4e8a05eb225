"""The least information that two sources can hold together about a target, given what each holds alone.

min I_q(X1, X2; Y) over q with the margins p(x1, y) and p(x2, y). A primal-dual interior-point method on the dual

    max  sum p(x1, y) l(x1, y) + sum p(x2, y) u(x2, y)   so that   sum_y exp(l(x1, y) + u(x2, y)) <= 1 for all x1, x2,

whose multipliers w(x1, x2) are the masses of q(x1, x2): q = w exp(l) exp(u). It starts from alternating projections.
What it returns is bounded from both sides, by a q with exactly these margins and by a feasible l, u.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.linalg import LinAlgError

from featcache.metrics.errors import BadChoice, BadShape, MetricError
from featcache.metrics.information.tables import NotProbabilities, checked, mutual_information

ITERATIONS = 200
_PROJECTIONS = 20  # alternating ones, before the first step
_SWEEPS = 50  # of scaling, at most, to the margins
_SLACK, _SPREAD = 0.05, 1e-3  # least slack at the start; least product of slack and mass, as a share of their mean
_LONGEST = 3.0  # step in the logarithms l and u
_BOUNDARY = 0.995  # share of the way to the nearest zero of a slack or a mass
_PRESENT = 1e-13  # probabilities below this take no part in the steps, only in the bounds
_TINY = 1e-300

Margin = Float[np.ndarray, "x c"]


class NotConverged(MetricError):
    """A decomposition did not reach its tolerance; the message says how near it came."""


@dataclass(frozen=True)
class UnionInformation:
    """The least information of two sources about a target, in nats, from above; at most `gap` too large."""

    information: float
    gap: float


@dataclass(frozen=True, eq=False)
class _Margins:
    """Both margins and where they have entries."""

    first: Margin
    second: Margin

    @property
    def target_entropy(self) -> float:
        target = self.first.sum(axis=0)
        return -float(target @ np.log(target))


@dataclass(frozen=True, eq=False)
class _Point:
    """Logarithms of the dual and their exponentials, slacks and masses of the pairs (x1, x2)."""

    log1: np.ndarray
    log2: np.ndarray
    exp1: np.ndarray
    exp2: np.ndarray
    slack: np.ndarray
    mass: np.ndarray


def union_information(first: Margin, second: Margin, *, tolerance: float = 1e-6) -> UnionInformation:
    """The least I(X1, X2; Y) of all distributions with the margins (X1, Y) and (X2, Y).

    Values of a source that tell the same of the target are merged first, which changes nothing. Time grows with
    (smaller source x classes)^2 x larger source x classes: .03 s for 16 x 16 x 4, 2 s for 128 x 128 x 4 on one core.

    Args:
        first: p(x1, y).
        second: p(x2, y), with the same p(y).
        tolerance: Wanted of the gap, in nats.

    Returns:
        The information of a q with these margins, and by how much it can be above the least.

    Raises:
        BadShape: If there are other axes than two, or classes differ.
        NotProbabilities: If a margin is no distribution, or p(y) differs.
        BadChoice: If the tolerance is below 1e-9.
        NotConverged: If it is not reached.

    Example:
        >>> bit = np.diag([0.5, 0.5])
        >>> round(union_information(bit, bit).information, 5)  # ln 2
        0.69315

    Source:
        Bertschinger et al. 2014, Entropy 16; the dual: Makkeh, Theis & Vicente 2018, Entropy 20.
    """
    if tolerance < 1e-9:
        raise BadChoice(f"tolerance = {tolerance}: wanted 1e-9 nats or more, which is what float64 can certify")
    margins = _prepared(first, second)
    floor = max(mutual_information(margins.first), mutual_information(margins.second))
    given_class = _information(margins, _independent(margins))
    if given_class - floor <= min(tolerance, 1e-9):
        return UnionInformation(max(given_class, floor), max(given_class - floor, 0.0))
    return _solved(margins, UnionInformation(given_class, given_class - floor), tolerance)


def _prepared(first: Margin, second: Margin) -> _Margins:
    """Margins without empty rows and classes, rows of one posterior merged, the larger source first."""
    margins = [checked(margin, 2, name) for margin, name in ((first, "p(x1, y)"), (second, "p(x2, y)"))]
    if margins[0].shape[1] != margins[1].shape[1]:
        raise BadShape(f"{margins[0].shape[1]} classes in the first margin, {margins[1].shape[1]} in the second")
    apart = float(np.abs(margins[0].sum(axis=0) - margins[1].sum(axis=0)).max())
    if apart > 1e-9:
        raise NotProbabilities(f"p(y) differs by {apart:.3g} between the sources: take both margins of the same rows")
    # the classes as the first source has them, to the last digit
    scale = margins[0].sum(axis=0) / np.maximum(margins[1].sum(axis=0), _TINY)
    margins[1] = margins[1] * scale
    present = margins[0].sum(axis=0) > 0
    merged = sorted((_merged(margin[:, present]) for margin in margins), key=len, reverse=True)
    return _Margins(merged[0], merged[1])


def _merged(margin: np.ndarray) -> np.ndarray:
    margin = margin[margin.sum(axis=1) > 0]
    posteriors = (margin / margin.sum(axis=1, keepdims=True)).round(13)
    _, groups = np.unique(posteriors, axis=0, return_inverse=True)
    merged = np.zeros((int(groups.max()) + 1, margin.shape[1]))
    np.add.at(merged, groups.reshape(-1), margin)
    return merged


def _independent(margins: _Margins) -> np.ndarray:
    """q(x1, x2, y) with x1 and x2 independent given y."""
    return margins.first[:, None] * margins.second[None] / margins.first.sum(axis=0)


def _information(margins: _Margins, q: np.ndarray) -> float:
    """I(X1, X2; Y) of q."""
    pairs = q.sum(axis=2, keepdims=True)
    ratios = np.divide(q, pairs, out=np.ones_like(q), where=q > 0)
    return margins.target_entropy + float((q * np.log(ratios)).sum())


def _solved(margins: _Margins, best: UnionInformation, tolerance: float) -> UnionInformation:
    steps = _without_small(margins)
    point = _start(margins, steps)
    upper, lower = best.information, best.information - best.gap
    for _ in range(ITERATIONS):
        if float((point.mass * point.slack).sum()) < 0.01:
            high, low = _bounds(margins, point)
            upper, lower = min(upper, high), max(lower, low)
        if upper - lower <= tolerance:
            return UnionInformation(upper, max(upper - lower, 0.0))
        try:
            point = _step(steps, point)
        except (LinAlgError, FloatingPointError):
            break
    raise NotConverged(
        f"the union information of {len(margins.first)} x {len(margins.second)} values is known within "
        f"{upper - lower:.2g} nats, wanted {tolerance:.2g}: pass a larger tolerance, or fewer values of a source"
    )


def _without_small(margins: _Margins) -> _Margins:
    """The margins that steps are taken with: of the probabilities that float64 can balance, and of one p(y)."""
    target = margins.first.sum(axis=0)
    kept = [np.where(margin > _PRESENT, margin, 0.0) for margin in (margins.first, margins.second)]
    both = (kept[0].sum(axis=0) > 0) & (kept[1].sum(axis=0) > 0)
    return _Margins(*(margin * np.where(both, target / np.maximum(margin.sum(axis=0), _TINY), 0.0) for margin in kept))


def _start(margins: _Margins, steps: _Margins) -> _Point:
    """A point near the solution: masses and scalings of alternating projections, kept off the boundary."""
    first, second = steps.first, steps.second
    mass = np.outer(first.sum(axis=1), second.sum(axis=1))
    exp1 = first / np.maximum(first.sum(axis=1, keepdims=True), _TINY)
    exp2 = second / np.maximum(second.sum(axis=1, keepdims=True) * second.sum(axis=0), _TINY)
    for _ in range(_PROJECTIONS):
        mass = mass * (exp1 @ exp2.T)
        mass /= mass.sum()
        for _ in range(2):
            exp1 = first / np.maximum(mass @ exp2, _TINY)
            exp2 = second / np.maximum(mass.T @ exp1, _TINY)
    slack = np.maximum(1 - exp1 @ exp2.T, _SLACK)
    mass = np.maximum(mass, _SPREAD * float((mass * slack).mean()) / slack)
    logs = [
        np.where(scaled > 0, np.log(np.maximum(scaled, _TINY)), _small_logs(margin))
        for scaled, margin in ((exp1, margins.first), (exp2, margins.second))
    ]
    return _Point(logs[0], logs[1], exp1, exp2, slack, mass)


def _small_logs(margin: np.ndarray) -> np.ndarray:
    """Logarithms for the entries that take no part in the steps: low enough for the dual, and finite."""
    return np.log(np.maximum(margin, _TINY) / margin.sum(axis=1, keepdims=True)) - 5


def _bounds(margins: _Margins, point: _Point) -> tuple[float, float]:
    """The union information from above, by a q with the margins, and from below, by a feasible l and u."""
    q = _with_margins(margins, point)
    logs1, exp1 = _where_present(margins.first, point.log1)
    logs2, exp2 = _where_present(margins.second, point.log2)
    excess = np.log((exp1 @ exp2.T).max(axis=1))  # subtracted of each l(x1): then every sum is 1 or less
    dual = float((margins.first * (logs1 - excess[:, None])).sum() + (margins.second * logs2).sum())
    return _information(margins, q), margins.target_entropy + dual


def _where_present(margin: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(margin > 0, logs, 0.0), np.where(margin > 0, np.exp(logs), 0.0)


def _with_margins(margins: _Margins, point: _Point) -> np.ndarray:
    """The q [x1, x2, y] of a point, scaled to both margins; what is left over is moved.

    Source: Altschuler, Weed & Rigollet 2017, NeurIPS, algorithm 2.
    """
    first, second, mass, exp2 = margins.first, margins.second, point.mass, point.exp2
    for _ in range(_SWEEPS):
        exp1 = _ratio(first, mass @ exp2)
        columns = mass.T @ exp1
        if float(np.abs(exp2 * columns - second).sum()) < 1e-13:
            break
        exp2 = _ratio(second, columns)
    exp1 = _ratio(first, mass @ exp2)
    q = mass[:, :, None] * exp1[:, None] * exp2[None]
    q *= np.minimum(_ratio(first, q.sum(axis=1)), 1)[:, None]
    q *= np.minimum(_ratio(second, q.sum(axis=0)), 1)[None]
    left1, left2 = (np.maximum(left, 0) for left in (first - q.sum(axis=1), second - q.sum(axis=0)))
    return q + left1[:, None] * left2[None] / np.maximum(left1.sum(axis=0), _TINY)


def _ratio(wanted: np.ndarray, present: np.ndarray) -> np.ndarray:
    return np.divide(wanted, present, out=np.zeros_like(present), where=present > 0)


def _step(margins: _Margins, point: _Point) -> _Point:
    """One step of Mehrotra's predictor and corrector towards mass x slack = 0."""
    system = _System(margins, point)
    products = point.mass * point.slack
    predicted = system.solve(-products)
    reach = min(_reach(point.mass, predicted[2]), _reach(point.slack, predicted[3]))
    ahead = (point.mass + reach * predicted[2]) * (point.slack + reach * predicted[3])
    mean = float(products.mean())
    wanted = max((float(ahead.mean()) / mean) ** 3, 1e-3) * mean
    curved = predicted[2] * predicted[3] if _longest(predicted) < 1 else 0.0
    step = system.solve(wanted - products - reach**2 * curved)
    length = min(_reach(point.mass, step[2]), _reach(point.slack, step[3]), _LONGEST / max(_longest(step), _LONGEST))
    log1, log2 = point.log1 + length * step[0], point.log2 + length * step[1]
    exp1, exp2 = np.exp(log1) * (margins.first > 0), np.exp(log2) * (margins.second > 0)
    return _Point(log1, log2, exp1, exp2, point.slack + length * step[3], point.mass + length * step[2])


def _reach(values: np.ndarray, step: np.ndarray) -> float:
    """How far, of a whole step, until the first value is near 0."""
    steepest = float((-step / values).max())
    return 1.0 if steepest <= 0 else min(1.0, _BOUNDARY / steepest)


def _longest(step: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> float:
    return max(float(np.abs(step[0]).max()), float(np.abs(step[1]).max()))


class _System:
    """The linearised conditions at a point, reduced to l and u, then to u, and factored.

    Margins are matched in their logarithms, which converges also from far away. One u a class is held: adding to l
    what is subtracted from u changes nothing.
    """

    def __init__(self, margins: _Margins, point: _Point) -> None:
        self.margins, self.point = margins, point
        a, b = point.exp1, point.exp2
        (n, classes), m = a.shape, len(b)
        self.held = margins.second.argmax(axis=0), np.arange(classes)
        self.sums = a * (point.mass @ b), b * (point.mass.T @ a)
        curvature = point.mass / point.slack
        own1 = _own(a, curvature, b, self.sums[0], margins.first > 0)
        own2 = _own(b, curvature.T, a, self.sums[1], margins.second > 0)
        cross = (curvature[:, None, :] * (a[:, :, None] * b.T[None]))[..., None] * (a[:, None, None, :] * b[None, None])
        for y in range(classes):
            cross[:, y, :, y] += point.mass * a[:, y, None] * b[None, :, y]
        held, at = self.held
        cross[:, :, held, at] = 0
        own2[held, at, :] = own2[held, :, at] = 0
        own2[held, at, at] = 1
        diagonal = np.arange(classes)
        self.scale1, self.scale2 = np.sqrt(own1[:, diagonal, diagonal]), np.sqrt(own2[:, diagonal, diagonal])
        own1 /= self.scale1[:, :, None] * self.scale1[:, None]
        own2 /= self.scale2[:, :, None] * self.scale2[:, None]
        cross /= self.scale1[:, :, None, None] * self.scale2
        own1[:, diagonal, diagonal] += 1e-14
        self.inverse = np.linalg.inv(np.linalg.cholesky(own1))
        self.half = (self.inverse @ cross.reshape(n, classes, m * classes)).reshape(n * classes, m * classes)
        schur = -(self.half.T @ self.half).reshape(m, classes, m, classes)
        schur[np.arange(m), :, np.arange(m)] += own2
        self.factor = _factor(schur.reshape(m * classes, m * classes))

    def solve(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Steps of l, u, mass and slack that change mass x slack by `products` and close every other residual."""
        from scipy.linalg import cho_solve

        point, (held, at) = self.point, self.held
        a, b, mass, slack = point.exp1, point.exp2, point.mass, point.slack
        open_slack = 1 - a @ b.T - slack
        known = (products - mass * open_slack) / slack
        residual1, residual2 = map(_log_residual, (self.margins.first, self.margins.second), self.sums)
        # both sums over a class must agree, or the condition of the held u would be left open
        apart = residual1.sum(axis=0) - residual2.sum(axis=0)
        residual2 += self.sums[1] * apart / np.maximum(self.sums[1].sum(axis=0), _TINY)
        right1, right2 = residual1 - a * (known @ b), residual2 - b * (known.T @ a)
        right2[held, at] = 0
        half1 = (self.inverse @ (right1 / self.scale1)[:, :, None]).reshape(-1)
        scaled2 = cho_solve(self.factor, (right2 / self.scale2).reshape(-1) - self.half.T @ half1, check_finite=False)
        scaled1 = self.inverse.transpose(0, 2, 1) @ (half1 - self.half @ scaled2).reshape(*right1.shape, 1)
        step1 = scaled1[:, :, 0] / self.scale1 * (self.margins.first > 0)
        step2 = scaled2.reshape(right2.shape) / self.scale2 * (self.margins.second > 0)
        slack_step = open_slack - (a * step1) @ b.T - a @ (b * step2).T
        mass_step = (products - mass * slack_step) / slack
        if not np.isfinite(mass_step).all():
            raise FloatingPointError("a step is not finite")
        return step1, step2, mass_step, slack_step


def _own(
    own: np.ndarray, curvature: np.ndarray, other: np.ndarray, sums: np.ndarray, present: np.ndarray
) -> np.ndarray:
    """The block [classes, classes] of each value of one source; the identity where there is no probability."""
    classes = own.shape[1]
    outer = (other[:, :, None] * other[:, None]).reshape(len(other), classes**2)
    block = own[:, :, None] * own[:, None] * (curvature @ outer).reshape(-1, classes, classes)
    diagonal = np.arange(classes)
    block[:, diagonal, diagonal] += np.where(present, sums, 1.0)
    return block


def _log_residual(wanted: np.ndarray, present: np.ndarray) -> np.ndarray:
    return present * np.log(np.divide(wanted, present, out=np.ones_like(present), where=(wanted > 0) & (present > 0)))


def _factor(matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """Cholesky's factor, with as little added to the diagonal as lets it exist."""
    from scipy.linalg import cho_factor

    added = 1e-14
    while added < 1e-6:
        matrix[np.diag_indices(len(matrix))] += added
        try:
            return cho_factor(matrix, lower=True, check_finite=False)
        except LinAlgError:
            added *= 100
    raise LinAlgError("the reduced system is singular")
