"""Correlations of a dial: does a layer's alignment tell of its performance, and how does that change with the dose?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from featcache.metrics.certainty.clustered import Method, clustered_correlation, clustered_estimate, correlation

if TYPE_CHECKING:
    import polars as pl

LEAST_MODELS = 12  # layers behind a coefficient
LEAST_ENCODERS = 6  # behind an interval of the mean of their own coefficients
LEAST_LAYERS = 4  # of an encoder, behind a coefficient of its own
LEAST_LMS = 6  # language models behind a coefficient with bits per byte, which is one number each
BITS = "bits per byte, sign turned"
FIXED, BEST = "the default layer of the other view", "the best layer of the other view"
POOLED, WITHIN = "all layers together", "within encoders"
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class DialCorrelation:
    """A correlation over layers at one dose.

    Its interval is about other encoders on these very rows and texts. All layers are compared with the same texts:
    which of them were swapped moves all at once, and where alignment is at chance, little else does. Several draws show
    that.

    Args:
        dial: As `DialRow`.
        comparison: As `DialRow`.
        dataset: As `DialRow`.
        dose: Share that is spoilt, 0 to 1.
        dose_words: The same in words.
        draw: Seed of what was spoilt.
        side: "x" or "y": whose layers are the models.
        view: Of that side; a spoilt view has another name at each dose.
        against: What they are aligned with: the default layer of the other view's first encoder, or the best of all.
        x: "alignment" or "depth", the latter as a share of the encoder's.
        y: "probe_accuracy", "alignment", or bits per byte with its sign turned.
        metric: Of alignment; "" where neither is one.
        levels: "all layers together"; or "within encoders", the mean of the encoders' own coefficients.
        method: "pearson" or "spearman".
        value: The coefficient; None where too few models are behind it.
        low: Lower end of its 95 % interval over encoders; None below 4 encoders, within encoders below 6.
        high: Upper end.
        p: Two-sided, of no correlation.
        models: Behind it.
        clusters: Encoders, over which the interval is.
        note: Why there is no coefficient or no interval, or "".
    """

    dial: str
    comparison: str
    dataset: str
    dose: float
    dose_words: str
    draw: int
    side: str
    view: str
    against: str
    x: str
    y: str
    metric: str
    levels: str
    method: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    models: int
    clusters: int
    note: str


def dial_correlations(
    alignment: "pl.DataFrame", performance: "pl.DataFrame | None", bits: "pl.DataFrame | None"
) -> "pl.DataFrame":
    """Every correlation of a dial, Pearson's and Spearman's, a row each.

    No coefficient is computed from fewer than 12 layers, and none with bits per byte from fewer than 6 language models:
    such rows say so instead.

    Args:
        alignment: From `measure_doses`.
        performance: From `probe_doses`; None where no label may be probed.
        bits: From `bits_per_byte`; None where the dial has no text to score.

    Returns:
        The columns of `DialCorrelation`.
    """
    import polars as pl

    rows: list[DialCorrelation] = []
    keys = ("dial", "comparison", "dataset", "dose", "dose_words", "draw", "metric")
    for key, part in alignment.group_by(keys, maintain_order=True):
        blank = _blank(dict(zip(keys, key, strict=True)))
        for side in ("x", "y"):
            scores = None if performance is None else _at(performance.filter(side=side), blank)
            for against, models in _models(part, side).items():
                named = replace(blank, side=side, view=part[f"{side}_view"][0], against=against)
                rows += _of_layers(models, scores, named)
                if bits is not None and side == "y":
                    rows += _of_language_models(models, _at(bits, blank), named)
    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64}
    schema = {
        each.name: kinds[next(k for k in kinds if k.__name__ in str(each.type))] for each in fields(DialCorrelation)
    }
    return pl.DataFrame([asdict(row) for row in dict.fromkeys(rows)], schema=schema)


def _at(rows: "pl.DataFrame", blank: DialCorrelation) -> "pl.DataFrame":
    """The rows of a dose; of a draw that was made for one dose alone, those of any draw."""
    at = rows.filter(dose=blank.dose)
    own = at.filter(draw=blank.draw)
    return own if len(own) else at


def _models(part: "pl.DataFrame", side: str) -> "dict[str, pl.DataFrame]":
    """The layers of one side with their alignment: with the other side's default layer, and with its best layer."""
    import polars as pl

    other = "y" if side == "x" else "x"
    columns = {f"{side}_{name}": name for name in ("encoder", "layer", "share")}
    kept = part.filter(pl.col("value").is_not_null()).rename(columns)
    own = ["encoder", "layer", "share"]
    fixed = kept.filter(pl.col("fixed").str.contains(other)).select(*own, alignment="value")
    of_layer = kept.group_by(own, maintain_order=True)
    best = of_layer.agg(pl.col("value").max().alias("alignment"), pl.len().alias("pairs"))
    # a metric that was measured with the default layer alone has no best
    return {FIXED: fixed, BEST: best.drop("pairs")} if len(best) and min(best["pairs"]) > 1 else {FIXED: fixed}


def _of_layers(
    models: "pl.DataFrame", scores: "pl.DataFrame | None", blank: DialCorrelation
) -> Iterator[DialCorrelation]:
    yield from _each(models, replace(blank, x="depth", y="alignment"), "share", "alignment")
    if scores is None or scores.is_empty():
        return
    joined = models.join(scores.select("encoder", "layer", probe_accuracy="value"), on=("encoder", "layer"))
    yield from _each(joined, replace(blank, x="alignment", y="probe_accuracy"), "alignment", "probe_accuracy")
    depth = replace(blank, x="depth", y="probe_accuracy", metric="", against="")
    yield from _each(joined, depth, "share", "probe_accuracy")


def _of_language_models(
    models: "pl.DataFrame", bits: "pl.DataFrame", blank: DialCorrelation
) -> Iterator[DialCorrelation]:
    """One model a language model: its best layer, since bits per byte is one number each."""
    import polars as pl

    best = models.group_by("encoder", maintain_order=True).agg(pl.col("alignment").max())
    joined = best.join(bits.select("encoder", "bits_per_byte"), on="encoder")
    named = replace(blank, x="alignment", y=BITS, levels=POOLED, models=len(joined), clusters=len(joined))
    for method in METHODS:
        one = replace(named, method=method)
        if len(joined) < LEAST_LMS:
            names = ", ".join(joined["encoder"]) or "none"
            yield replace(
                one, note=f"{len(joined)} causal language models cached ({names}): no coefficient below {LEAST_LMS}"
            )
        else:
            bits_of = joined["bits_per_byte"].to_numpy()
            yield _correlated(one, joined["alignment"].to_numpy(), -bits_of, joined["encoder"].to_numpy())


def _each(models: "pl.DataFrame", blank: DialCorrelation, x: str, y: str) -> Iterator[DialCorrelation]:
    """Both coefficients, over all layers together and within encoders."""
    counted = replace(blank, models=len(models), clusters=models["encoder"].n_unique())
    values = models[x].to_numpy(), models[y].to_numpy(), models["encoder"].to_numpy()
    for levels, correlated in ((POOLED, _correlated), (WITHIN, _within)):
        for method in METHODS:
            one = replace(counted, levels=levels, method=method)
            if len(models) < LEAST_MODELS:
                yield replace(one, note=f"{len(models)} layers: no coefficient below {LEAST_MODELS}")
            else:
                yield correlated(one, *values)


def _correlated(blank: DialCorrelation, x: np.ndarray, y: np.ndarray, encoders: np.ndarray) -> DialCorrelation:
    values = np.asarray(x, float), np.asarray(y, float)
    made = clustered_correlation(*values, encoders, method=_method(blank))
    return replace(blank, value=made.value, low=made.low, high=made.high, p=made.p, note=made.note)


def _within(blank: DialCorrelation, x: np.ndarray, y: np.ndarray, encoders: np.ndarray) -> DialCorrelation:
    """The mean of the encoders' own coefficients, and Student's interval of it.

    Layers of one encoder rise and fall together, so that its coefficient is large in either direction by chance. Below
    6 encoders all of them agree too often by accident, 2 times in 2^n, for an interval of 95 %.
    """
    own = {
        name: (np.asarray(x, float)[encoders == name], np.asarray(y, float)[encoders == name]) for name in set(encoders)
    }
    each = {
        name: correlation(*both, method=_method(blank)) for name, both in own.items() if len(both[0]) >= LEAST_LAYERS
    }
    each = {name: value for name, value in sorted(each.items()) if np.isfinite(value)}
    if not each:
        return replace(blank, note=f"no encoder has {LEAST_LAYERS} layers that differ")
    values = np.array([*each.values()])
    made = clustered_estimate(lambda kept: float(values[kept].mean()), np.array([*each]))
    told = ", ".join(f"{name} {f'{value:+.2f}'.replace('-', '−')}" for name, value in each.items())
    if len(each) < LEAST_ENCODERS:
        return replace(blank, value=made.value, note=f"no interval below {LEAST_ENCODERS} encoders; {told}")
    ends = [None if end is None else float(np.clip(end, -1, 1)) for end in (made.low, made.high)]
    note = "; ".join(part for part in (made.note, told) if part)
    return replace(blank, value=made.value, low=ends[0], high=ends[1], p=made.p, note=note)


def _method(blank: DialCorrelation) -> Method:
    return "spearman" if blank.method == "spearman" else "pearson"


def _blank(named: dict[str, Any]) -> DialCorrelation:
    empty: dict[str, Any] = dict.fromkeys(("value", "low", "high", "p"))
    words = dict.fromkeys(("side", "view", "against", "x", "y", "levels", "method", "note"), "")
    return DialCorrelation(**{**words, **empty, "models": 0, "clusters": 0, **named})
