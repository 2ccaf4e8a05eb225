"""How to read the page: the metrics that the runs were measured with, and the words of the page."""

from collections.abc import Sequence

from featcache.report.runs import RunResults, metric_title, metrics_of

_METRICS = {
    "mutual_knn": "The share of each group's k nearest neighbours (cosine, itself left out) that two spaces have in "
    "common, averaged. Chance is k / (n − 1), so scores compare at equal n and k only.",
    "cka_debiased": "The normalised overlap of two centred linear kernels, without the bias that grows with the width: "
    "unrelated spaces score 0 on average.",
    "cka_linear": "The normalised overlap of two centred linear kernels. Its chance depends on n and on both spectra.",
}
# term -> meaning, of every page and of pages with a reference
_TERMS = {
    "Joint space": "The normalised sum of the adapted, normalised sides (or as --joint says): of all, and of each two "
    "where there are more.",
    "Untrained": "The same adapters at their initial weights, the mean of several initialisations: what width and "
    "random projection give alone. Retrieval: of the run's own initialisation, side by side and without verdict.",
    "Null": "The same score when the groups of one space are permuted: what unrelated features score.",
    "Interval": "Two intervals that overlap, or do not, are no test. Averages and maxima are taken over the rows above "
    "them.",
    "R@k": "The share of queries with a right answer among the k nearest, 0 to 1; the median rank is the place of the "
    "first right answer, 1 is best.",
    "Headline, exploratory": "Of several runs the best on validation is the headline; verdicts of the others are "
    "exploratory. Runs that differ in their seed only are given as mean and range.",
}
_AGAINST = {
    "Parts": "What the joint space is made of, read twice: the raw features of each side, and the same after its "
    "adapter. The verdicts can differ, so both are given.",
    "Raw kernels mixed": "A weighted sum of the sides' raw kernels, no training; the weights are chosen on validation "
    "for each metric.",
    "Best part": "Above the best part means above each of them; below it, below at least one (an intersection–union "
    "test). The difference and interval are those of the part that decides.",
    "Control": "A run trained on shuffled pairs. Only the contrast of a run with its control says what true pairs add.",
}


def reading_html(runs: Sequence[RunResults]) -> str:
    """Metrics and terms as a list of definitions."""
    metrics = {metric_title(metric): _METRICS[metric] for metric in metrics_of(runs) if metric in _METRICS}
    terms = metrics | _TERMS | (_AGAINST if any(run.reference for run in runs) else {})
    lines = [f"<dt>{name[0].upper()}{name[1:]}</dt><dd>{text}</dd>" for name, text in terms.items()]
    return f'<dl class="terms">{"".join(lines)}</dl>'
