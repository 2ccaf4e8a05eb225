"""Chapters of the page: figures first, then at most four sentences that follow from the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from featcache.report.figures.figure import Figure
from featcache.report.page.html import titled
from featcache.report.page.samples import Samples
from featcache.report.page.sliders import space_slider, stage_slider
from featcache.report.page.widgets import neighbour_browser, retrieval_gallery
from featcache.report.runs import REFERENCE, RunResults, metric_title, number
from featcache.report.seeds import headline_run, score_text
from featcache.report.sentences import (
    between_sides,
    listed,
    mixing,
    other_contrasts,
    other_metric,
    over_training,
    reached,
    retrieval_sentences,
    training_effect,
    unrelated,
)

_STRONGER = (
    "Strong models are conjectured to converge to one representation (Huh et al. 2024); here {name} stands for it."
)
COLUMNS = 3  # runs up to which figures have a column a run; of more, these are of the headline run alone


@dataclass(frozen=True)
class Part:
    """One part of a chapter.

    Args:
        title: Its heading; "" for a chapter of one part.
        figures: What is drawn.
        sentences: At most four.
        widgets: HTML of what is interactive, below the figures.
        instead: Name of a figure -> HTML of what is interactive and stands in the place of its drawing.
    """

    title: str
    figures: tuple[Figure | None, ...]
    sentences: tuple[str, ...]
    widgets: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Chapter:
    """One chapter: an anchor, a heading and its parts."""

    identity: str
    title: str
    parts: tuple[Part, ...]


def chapters(runs: Sequence[RunResults], samples: Samples | None = None) -> Iterator[Chapter]:
    """The chapters of the headline run, one after the other, with the other runs beside it where they are few.

    Args:
        runs: From `pool_seeds`.
        samples: Captions and pictures of the headline run; None for none.
    """
    samples = samples or Samples()
    first, _ = headline_run(runs)
    shown = runs if len(runs) <= COLUMNS else [first]
    parts: dict[str, Callable[[], tuple[Part, ...]]] = {
        "Introduction": lambda: (_introduction(first),),
        "Hypothesis": lambda: (_hypothesis(first),),
        "Method": lambda: (_method(runs, first),),
        "Results": lambda: _results(shown, first, samples),
        "Implications": lambda: (_implications(runs, first),),
        "What next": lambda: (_future(shown, first),),
        "Takeaways": lambda: (_takeaways(shown, first),),
    }
    for title, make in parts.items():
        chapter = Chapter(title.lower().replace(" ", "-"), title, make())
        if any(part.sentences or any(part.figures) for part in chapter.parts):
            yield chapter


def _introduction(run: RunResults) -> Part:
    from featcache.report.figures.stages import space_plane

    metric, names = run.metrics[0], run.names()
    clauses = []
    for side in run.sides:
        row = run.on_test("raw", side, metric)
        clauses += [f"{names[side]} at {score_text(row)}"] if row is not None else []
    sentences: list[str] = []
    if run.reference:
        sentences.append(_STRONGER.format(name=names[REFERENCE]))
        if clauses:
            sentences.append(f"Before any training it agrees with {listed(clauses)} ({metric_title(metric)}).")
    for a, b in run.pairs[:1]:
        row = run.on_test("raw", a, metric, b)
        if row is not None:
            sentences.append(f"With each other {listed([names[a], names[b]])} agree at {score_text(row)}.")
    return Part("", (space_plane([run]),), tuple(sentences), instead={"space_plane": space_slider(run)})


def _hypothesis(run: RunResults) -> Part:
    from featcache.report.figures.curves import mixing_curve

    if not run.reference:
        return Part("", (), (between_sides(run),))
    reference = run.names()[REFERENCE]
    claims = (
        f"H1, asked: is the joint space closer to {reference} than the average of its raw parts?",
        "H2, asked: is it closer than the best of them?",
    )
    return Part("", (mixing_curve([run]),), (*claims, *filter(None, [mixing(run)])))


def _method(runs: Sequence[RunResults], run: RunResults) -> Part:
    from featcache.report.figures.concept import concept
    from featcache.report.page.provenance import kept_text, settings_text

    counts = run.config.get("split", {}).get("n", {})
    groups = listed([f"{count:,} {split}" for split, count in counts.items()])
    sentences = [
        f"Frozen encoders ran once over {run.config.get('dataset', '')}; adapters see their cached features alone"
        + (f" ({groups} groups)." if groups else "."),
        f"{settings_text(run)}.",
        f"Kept: {kept_text(run)}." if kept_text(run) else "",
        "Scores are of the test split, which decided nothing." if run.reference else "",
    ]
    return Part("", (concept(runs),), tuple(filter(None, sentences)))


def _results(shown: Sequence[RunResults], run: RunResults, samples: Samples) -> tuple[Part, ...]:
    return _alignment(shown, run), _retrieval(shown, run, samples), _spaces(shown, run, samples)


def _alignment(shown: Sequence[RunResults], run: RunResults) -> Part:
    from featcache.report.figures.curves import alignment_over_epochs
    from featcache.report.figures.scores import final_alignment

    figures = (final_alignment(shown), alignment_over_epochs(shown))
    if not run.reference:
        return Part("Alignment", figures, ())
    others = [other_metric(run, metric) for metric in run.metrics[1:]]
    sentences = [reached(run), *others[:1], unrelated(run), over_training(run)]
    return Part("Alignment", figures, tuple(filter(None, sentences)))


def _retrieval(shown: Sequence[RunResults], run: RunResults, samples: Samples) -> Part:
    from featcache.report.figures.curves import retrieval_over_epochs
    from featcache.report.figures.scores import final_retrieval

    figures = (final_retrieval(shown), retrieval_over_epochs(shown))
    return Part(
        "Retrieval",
        figures,
        tuple(retrieval_sentences(run)[:4]),
        (titled("Query by query", retrieval_gallery(run, samples)),),
    )


def _spaces(shown: Sequence[RunResults], run: RunResults, samples: Samples) -> Part:
    from featcache.report.figures.maps import chosen_kernels, kernel_heatmaps, label_colours, principal_maps
    from featcache.report.figures.stages import stage_maps

    figures = (stage_maps([run]), principal_maps(shown), kernel_heatmaps(shown), chosen_kernels([run]))
    widgets = (titled("Neighbours, group by group", neighbour_browser(run, samples)),)
    instead = {"stage_maps": stage_slider(run, label_colours([run]))}
    return Part("What the spaces look like", figures, tuple(_geometry(run)), widgets, instead)


def _geometry(run: RunResults) -> list[str]:
    """Gaps between the sides before and after training, and intrinsic dimensions."""
    sentences = []
    for metric, what in (("centroid_gap", "centroids of the sides lie"), ("distribution_gap", "centred sides lie")):
        values: dict[str, list[float]] = {}
        for row in run.find(metric=metric, split="test"):
            values.setdefault(row.stage, []).append(number(row))
        if {"untrained", "trained"} <= values.keys():
            before, after = (_between(values[stage]) for stage in ("untrained", "trained"))
            sentences.append(f"The {what} {after} apart, {before} before training ({metric_title(metric)}).")
    rows = run.find(metric="intrinsic_dimension", split="test")
    raw = {row.space: number(row) for row in rows if row.stage == "raw"}
    joint = next((number(row) for row in rows if (row.stage, row.space) == ("trained", "joint")), None)
    if raw and joint is not None:
        named = {REFERENCE: run.names().get(REFERENCE, "")}
        texts = [f"{named.get(space, space)} {value:.1f}" for space, value in raw.items()]
        sentences.append(f"Intrinsic dimension: joint {joint:.1f}; raw {listed(texts)} (TwoNN; low above 10).")
    return sentences


def _between(values: Sequence[float]) -> str:
    """One number, or of several pairs of sides the lowest and the highest."""
    return " to ".join(dict.fromkeys(f"{value:.3f}" for value in (min(values), max(values))))


def _implications(runs: Sequence[RunResults], run: RunResults) -> Part:
    from featcache.report.figures.verdicts import verdict_matrix

    if not run.reference:
        return Part("", (), ())
    sentences = [training_effect(run), *other_contrasts(run)[:2]]
    return Part("", (verdict_matrix(runs),), tuple(filter(None, sentences)))


def _future(shown: Sequence[RunResults], run: RunResults) -> Part:
    from featcache.report.figures.curves import loss_over_epochs

    return Part("", (loss_over_epochs(shown),), tuple(_missing(run)))


def _missing(run: RunResults) -> list[str]:
    """What this report cannot say yet, and what would say it."""
    sentences = []
    if run.reference and not run.is_control and not run.config.get("control"):
        sentences.append(
            "What true pairs add is not known: train once more with --shuffle-pairs, and name that run as --control."
        )
    if not run.seeds and not run.solved:
        sentences.append("One seed: train with --seed 1, 2, … and report all runs together for the range over seeds.")
    row = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])[0]
    if row.n and row.n < 1_000:
        sentences.append(f"With {row.n:,} test groups intervals are wide: four times as many would halve them.")
    if not run.reference:
        sentences.append(
            "Nothing is judged without a reference: extract a stronger encoder, and name it as --reference."
        )
    return sentences


def _takeaways(shown: Sequence[RunResults], run: RunResults) -> Part:
    from featcache.report.answer import answer
    from featcache.report.figures.paths import alignment_against_retrieval

    sentences = [f"{answer(run)}."]
    path = _moved(run)
    return Part("", (alignment_against_retrieval(shown),), tuple(filter(None, [*sentences, path])))


def _moved(run: RunResults) -> str:
    """How retrieval and alignment moved on validation from the first epoch to the one kept."""
    from featcache.report.figures.paths import retrieval_path

    path = retrieval_path(run)
    if len(path) < 2:
        return ""
    kept = next((point for point in path if point.epoch == run.selected_epoch), path[-1])
    first = path[0]
    return (
        f"On validation, from epoch {first.epoch} to {kept.epoch}, mean R@10 went from {first.retrieval:.3f} to "
        f"{kept.retrieval:.3f} and the joint's {metric_title(run.metrics[0])} from {first.alignment:.3f} to "
        f"{kept.alignment:.3f}."
    )
