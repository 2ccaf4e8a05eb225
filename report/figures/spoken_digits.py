"""The figure of digit images and spoken digits: exact information and measured alignment as the label moves."""

from typing import TYPE_CHECKING, Any

from featcache.report.figures import theme
from featcache.report.figures.figure import Figure
from featcache.report.names import finite, shorten

if TYPE_CHECKING:
    import polars as pl

Rows = list[dict[str, Any]]
TRAINED, INITIAL, EXACT = "trained", "before training", "exact posteriors"
REDUNDANT, UNIQUE = "redundant", "unique to speech"
IMAGES, SPEECH, BAYES = "images", "speech", "images, best"
_MEASURED = ("cka_debiased", "cka_debiased_initial", "mutual_knn", "mutual_knn_initial", "accuracy1", "accuracy2")
_SAID = ("named", "speakers", "models", "n", "k", "broja_redundancy", "broja_unique2", "bayes_accuracy1", *_MEASURED)
_COLOURS = {
    REDUNDANT: theme.series(0)[1],
    UNIQUE: theme.series(1)[1],
    TRAINED: theme.TEXT["joint"],
    INITIAL: theme.MUTED,
    EXACT: theme.TEXT["reference"],
    IMAGES: theme.series(0)[1],
    SPEECH: theme.series(1)[1],
    BAYES: theme.INK,
}


def spoken_digits_figure(dial: "pl.DataFrame") -> Figure | None:
    """Information, alignment and accuracy over the number of speakers who are named in the label.

    Args:
        dial: From `featcache.studies.emergence.digits.dial.dial_table`, its rows in any order.

    Returns:
        The figure; None where fewer than two positions have every number that it says or draws.
    """
    from featcache.report.figures import point_charts

    positions = [row for row in dial.sort("named").to_dicts() if all(finite(row[name]) is not None for name in _SAID)]
    if len(positions) < 2:
        return None
    first, last = positions[0], positions[-1]
    chance = min(1.0, first["k"] / max(1, first["n"] - 1))
    parts = [("broja_redundancy", REDUNDANT), ("broja_unique2", UNIQUE)]
    accuracies = [("accuracy1", IMAGES), ("accuracy2", SPEECH), ("bayes_accuracy1", BAYES)]
    panels = [
        (["information of the label, nats"], _lines(positions, "information", parts)),
        (["debiased CKA"], _alignment(positions, "cka_debiased", exact="posterior_cka")),
        ([f"mutual-kNN, k = {first['k']}"], _alignment(positions, "mutual_knn", chance=chance)),
        (["accuracy"], _lines(positions, "accuracy", accuracies)),
    ]
    ends = (f"{position['cka_debiased']:.3f}" for position in (first, last))
    told = (
        f"Debiased CKA falls from {next(ends)} where the label is the digit to {next(ends)} where it is the speaker; "
        f"before training it is {first['cka_debiased_initial']:.3f}."
    )
    return Figure(
        "spoken_digits",
        "Images and speech of digits, as the label moves from the digit to the speaker",
        f"{told} x: of {first['speakers']} speakers, those whose clips are labelled by the speaker's name, not by the "
        "digit, so that what image and speech both tell falls by a known amount. Information: exact, if digits and "
        "speakers are recognised without fail; nothing is unique to the image, and synergy is 0. Alignment: mean "
        f"over {first['models']} speech encoders of all depths and seeds, each by its best layer, against an image "
        f"encoder of one hidden layer, {first['n']} test rows; rule: least to greatest encoder; dashed: chance. Exact "
        "posteriors: of two encoders that know nothing but the label's probabilities. Accuracy: mean over encoders.",
        f"Lines over the number of named speakers: information, debiased CKA, mutual-kNN and accuracy. {told}",
        [row for _, rows in panels for row in rows],
        point_charts.lines(panels, columns=2, colours=_COLOURS, titles=("speakers named in the label", ""), log=False),
    )


def _alignment(positions: Rows, metric: str, *, exact: str = "", chance: float | None = None) -> Rows:
    series = [(metric, TRAINED), *([(exact, EXACT)] if exact else []), (f"{metric}_initial", INITIAL)]
    return _lines(positions, metric, series, chance=chance)


def _lines(positions: Rows, metric: str, series: list[tuple[str, str]], *, chance: float | None = None) -> Rows:
    """A row a position and column that has a value there, with the ends of its range where the table has them."""
    return [
        {
            "x": position["named"],
            "label": shorten(position["label"] or ""),
            "series": name,
            "metric": metric,
            "value": position[column],
            "ci_low": finite(position.get(f"{column}_low")),
            "ci_high": finite(position.get(f"{column}_high")),
            "chance": chance,
        }
        for column, name in series
        for position in positions
        if finite(position[column]) is not None
    ]
