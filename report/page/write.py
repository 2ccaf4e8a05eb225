"""The report: one HTML page that holds findings, tables and figures and loads nothing."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from featcache.errors import UsageError
from featcache.report.figures.figure import Figure, escape, inline, require_renderer
from featcache.report.page.comparison import comparison_html
from featcache.report.page.leaks import clean_html
from featcache.report.runs import (
    RECALLS,
    RunResults,
    adapter_name,
    known_formats,
    load_runs,
    metric_title,
    metrics_of,
    mixture_text,
    number,
    solution_text,
)
from featcache.report.seeds import headline_run, interval_text, pool_seeds, same_features
from featcache.report.sentences import OLD_FORMAT, caveats, headline, listed, run_findings, selection
from featcache.report.tables import (
    AlignmentRow,
    RetrievalRow,
    VerdictRow,
    contrast_table,
    retrieval_table,
    summary_table,
)
from featcache.storage.outputs import named_output_errors, write_output

if TYPE_CHECKING:
    from featcache.metrics.measure.row import Row
    from featcache.studies.adapters.comparison import Comparison

PAGE = "index.html"
# of a page of ours: the second is that of pages before the first
_MARKS = (b'<meta name="generator" content="featcache">', b'<p class="eyebrow">Alignment report</p>')
_HEAD_BYTES = 65_536
# an SVG of thousands of cells weighs more than its picture: above this it stands in the page as PNG
_LARGEST_SVG = 1_000_000
_GROUPS = {
    "raw": "Raw features",
    "adapted": "Adapted features",
    "joint": "Joint space",
    "untrained": "Untrained adapters",
    "mixed": "No training",
    "between": "The sides against each other",
}
_METRICS = {
    "mutual_knn": "The share of each group's k nearest neighbours (cosine, itself left out) that two spaces have in "
    "common, averaged. Chance is k / (n − 1), so scores compare at equal n and k only.",
    "cka_debiased": "The normalised overlap of two centred linear kernels, without the bias that grows with the width: "
    "unrelated spaces score 0 on average.",
    "cka_linear": "The normalised overlap of two centred linear kernels. Its chance depends on n and on both spectra.",
}
_CONTRASTS = (
    "A contrast is the difference of two spaces' scores against the reference on the same groups; above 0 the first is "
    "closer. The verdict follows p, corrected (Holm) for all contrasts of one run and metric; the 95 % intervals are "
    'not adjusted, so one that leaves 0 out may still read "cannot tell after correction". They are about new samples '
    "and these trained adapters, not about other seeds."
)
_TERMS = """<dt>Parts</dt><dd>What the joint space is made of, read twice: the raw features of each side, and the same
after its adapter. The verdicts can differ, so both are given.</dd>
<dt>Raw kernels mixed</dt><dd>A weighted sum of the sides' raw kernels, no training; the weights are chosen on
validation for each metric.</dd>
<dt>Best part</dt><dd>Above the best part means above each of them; below it, below at least one (an intersection–union
test). The difference and interval are those of the part that decides.</dd>
<dt>Control</dt><dd>A run trained on shuffled pairs. Only the contrast of a run with its control says what true pairs
add.</dd>"""
_NO_TEST = "Two intervals that overlap, or do not, are no test"
_NONE = '<span aria-label="not measured">–</span>'


def write_report(
    runs: Sequence[Path | str],
    out: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    comparison: "Comparison | None" = None,
) -> Path:
    """Writes the page of one or several runs, its figures and the data behind each figure.

    Args:
        runs: Run folders.
        out: Folder to write to; made if missing. Files of the same names are replaced.
        formats: Figure files to write beside the page, of "png" and "svg"; the data is always written as CSV.
        comparison: Of two of the runs, from `featcache.studies.adapters.comparison`; its section comes first.

    Returns:
        The path of the page, `out`/index.html; the figures stand in `out`/figures.

    Raises:
        RunMissing: If a folder is not there or `runs` is empty.
        RunDamaged: If a folder is not a whole run.
        UsageError: If a format is unknown, the libraries that draw are not installed, or somebody else's page stands
            in `out`.
        OutputFailed: If the files cannot be written.
    """
    formats = known_formats(formats)
    check_page_place(out)
    loaded = pool_seeds(load_runs(runs))
    require_renderer()
    folder = Path(out) / "figures"
    with named_output_errors(Path(out)):
        folder.mkdir(parents=True, exist_ok=True)
        figures = [_figure(figure, folder, formats) for figure in draw_figures(loaded)]
        first = _comparison(comparison, folder, formats) if comparison is not None else ""
    against = any(run.reference for run in loaded)
    parts = {
        "title": escape(title(loaded)),
        "style": _resource("page.css"),
        "lead": escape(headline(loaded)),
        "setup": _setup(loaded),
        "findings": _findings(loaded),
        "verdicts": first + (_verdicts(loaded) if against else ""),
        "agreement": "Agreement with the reference" if against else "Agreement of the sides",
        "no_test": f"Averages and maxima are taken over the rows above them. {_NO_TEST}: the verdicts are above."
        if against
        else f"{_NO_TEST}.",
        "terms": _TERMS if against else "",
        "alignment": _alignment(loaded),
        "retrieval": _retrieval(loaded),
        "figures": "\n".join(figures),
        "metrics": _metrics(loaded),
        "provenance": _provenance(loaded),
    }
    page = Path(out) / PAGE
    write_output(page, Template(_resource("page.html")).substitute(parts).encode())
    return page


def check_page_place(out: Path) -> None:
    """Refuses, before anything is read or measured, a folder whose page is not one of ours.

    Raises:
        UsageError: If such a page stands there, or `out` is a file.
    """
    page = Path(out) / PAGE
    try:
        head = page.read_bytes()[:_HEAD_BYTES]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"no page can be written to {out}: {os.strerror(error.errno or 0)}. Name a folder") from error
    if not any(mark in head for mark in _MARKS):
        raise UsageError(
            f"{page} is no page of featcache, and was left as it is\n  Name another folder, or move that page away"
        )


def draw_figures(runs: Sequence[RunResults]) -> list[Figure]:
    """Returns every figure that the runs have data for, in page order."""
    # altair is imported with these, and only when something is drawn
    from featcache.report.figures.curves import alignment_over_epochs, loss_over_epochs, retrieval_over_epochs
    from featcache.report.figures.maps import kernel_heatmaps, principal_maps
    from featcache.report.figures.scores import final_alignment, final_retrieval

    drawings = (
        final_alignment,
        alignment_over_epochs,
        final_retrieval,
        retrieval_over_epochs,
        loss_over_epochs,
        kernel_heatmaps,
        principal_maps,
    )
    return [figure for figure in (draw(runs) for draw in drawings) if figure is not None]


def title(runs: Sequence[RunResults]) -> str:
    """The question the page answers."""
    names = runs[0].names()
    control = "Control with shuffled pairs: d" if all(run.is_control for run in runs) else "D"
    if not same_features(runs):
        return f"{control}o joint spaces come closer to their references? {len(runs)} runs compared"
    sides = listed([names[side] for side in runs[0].sides])
    if not runs[0].reference:
        return f"{control}o adapters bring {sides} together?"
    return f"{control}oes a joint space of {sides} come closer to {names['reference']}?"


def _figure(figure: Figure, folder: Path, formats: Sequence[str]) -> str:
    names = figure.write(folder, formats=formats)
    picture = inline(figure.svg, name=figure.name, alt=figure.alt)
    if len(picture) > _LARGEST_SVG:
        data = base64.b64encode(figure.png).decode("ascii")
        style = picture.split('style="', 1)[1].split('"', 1)[0]
        picture = f'<img alt="{escape(figure.alt)}" style="{style}" src="data:image/png;base64,{data}">'
    links = " · ".join(f'<a href="figures/{name}">{name.rsplit(".", 1)[1].upper()}</a>' for name in names)
    return (
        f'<figure id="{figure.name}"><h3>{escape(figure.title)}</h3>\n<div class="scroll">{picture}</div>\n'
        f'<figcaption>{escape(figure.caption)}</figcaption>\n<p class="files">{links}</p></figure>'
    )


def _comparison(comparison: "Comparison", folder: Path, formats: Sequence[str]) -> str:
    from featcache.report.figures.comparison import comparison_figure

    return comparison_html(comparison, _figure(comparison_figure(comparison), folder, formats))


def _setup(runs: Sequence[RunResults]) -> str:
    facts = {run.label: _features_facts(run) + _settings_facts(run) for run in runs}
    alike = [fact for fact in facts[runs[0].label] if all(fact in others for others in facts.values())]
    blocks = [_facts([*alike, ("runs", ", ".join(facts))] if len(runs) > 1 else alike)]
    for label, own in facts.items():
        rest = [fact for fact in own if fact not in alike and fact != ("adapter", label)]
        blocks.append(f"<h3>{escape(label)}</h3>{_facts(rest)}" if rest else "")
    return "\n".join(blocks)


def _features_facts(run: RunResults) -> list[tuple[str, str]]:
    facts = [("data set", str(run.config.get("dataset", "")))]
    for name, array in {**run.config["sides"], "reference": run.reference}.items():
        text = "none" if array is None else f"{array['encoder']}/{array['layer']} on {array['view']}"
        text += f", digest {array['digest'][:8]}, root {array['root'][:8]}" if array else ""
        facts.append((name, text))
    return facts


def _settings_facts(run: RunResults) -> list[tuple[str, str]]:
    settings, split = run.settings, run.config.get("split", {})
    counts = ", ".join(f"{count:,} {name}" for name, count in split.get("n", {}).items())
    names = ("width", "epochs", "batch", "lr", "weight_decay", "captions", "missing", "seed", "k")
    chosen = [f"{name.replace('_', ' ')} {settings[name]}" for name in names if name in settings]
    if run.seeds:
        seeds = ", ".join(str(one.settings.get("seed")) for one in run.seeds)
        chosen = [f"seeds {seeds}" if text.startswith("seed ") else text for text in chosen]
    epochs = [one.selected_epoch for one in run.each if one.selected_epoch is not None]
    kept = (
        f"epoch{'s' if run.seeds else ''} {', '.join(str(epoch) for epoch in epochs)} of {settings.get('epochs', '?')}"
    )
    if run.solved:
        kept = "; ".join(dict.fromkeys(solution_text(one.config.get("chosen", {})) for one in run.each))
    kept += (
        ", the last" if settings.get("select") == "last" else f", best on validation by {settings.get('select', '?')}"
    )
    facts = [
        ("groups", counts),
        ("split", str(split.get("rule", ""))),
        ("left out as leaks", ", ".join(f"{count:,} {name}" for name, count in split.get("left_out", {}).items())),
        ("adapter", adapter_name(run).replace(", pairs shuffled", ", training pairs shuffled: a control")),
        ("settings", ", ".join(chosen)),
        ("chosen" if run.solved else "kept", kept if epochs else ""),
    ]
    return [(name, text) for name, text in facts if text]


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f'<dl class="facts">{rows}</dl>'


def _findings(runs: Sequence[RunResults]) -> str:
    sentences = {run.label: run_findings(run) for run in runs}
    # what holds of every run alike (raw features, mixing) stands once; the lead has a single run's first sentence
    shared = [line for line in sentences[runs[0].label] if all(line in lines for lines in sentences.values())]
    blocks = [_list(selection(runs) + (shared if len(runs) > 1 else shared[1:]))]
    for run in _headline_first(runs) if len(runs) > 1 else ():
        own = [line for line in sentences[run.label] if line not in shared]
        blocks.append(f"<h3>{escape(_heading(run, runs))}</h3>{_list(own)}" if own else "")
    warned = [line.removeprefix("Caveat: ") for line in caveats(runs)]
    if warned:
        blocks.append("<h3>Caveats</h3>" + _list([line[0].upper() + line[1:] for line in warned], css="caveats"))
    blocks += [clean_html(run, _heading(run, runs) if len(runs) > 1 else "") for run in _headline_first(runs)]
    return "\n".join(blocks)


def _headline_first(runs: Sequence[RunResults]) -> list[RunResults]:
    first, _ = headline_run(runs)
    return [first, *(run for run in runs if run is not first)]


def _heading(run: RunResults, runs: Sequence[RunResults]) -> str:
    first, _ = headline_run(runs)
    return f"{run.label}: {'the headline run' if run is first else 'a control' if run.is_control else 'exploratory'}"


def _list(lines: Sequence[str], css: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{css}">{items}</ul>' if lines else ""


def _verdicts(runs: Sequence[RunResults]) -> str:
    """The section of contrasts: a table for each run, the headline run's first."""
    blocks = ['<section aria-labelledby="verdicts">\n<h2 id="verdicts">Verdicts, test split</h2>']
    blocks += [f'<p class="note">{escape(_CONTRASTS)}</p>'] if contrast_table(runs) else []
    for run in _headline_first(runs):
        rows = contrast_table([run])
        blocks.append(f"<h3>{escape(_heading(run, runs))}</h3>" if len(runs) > 1 else "")
        if rows:
            columns = ("contrast", "verdict", "difference", "95 % interval, unadjusted", "p, Holm")
            if run.seeds:
                columns = ("contrast", "verdict of each seed", "difference", "range over seeds")
            head = "".join(f'<th scope="col">{name}</th>' for name in columns)
            lines = [f"<thead><tr>{head}</tr></thead><tbody>"]
            for metric in dict.fromkeys(row.metric for row in rows):
                title = escape(metric_title(metric))
                lines.append(f'<tr class="group"><th colspan="{len(columns)}">{title}</th></tr>')
                lines += [_verdict_line(row, run) for row in rows if row.metric == metric]
            blocks.append(f'<div class="scroll"><table class="verdicts">{"".join(lines)}</tbody></table></div>')
        else:
            why = f"{OLD_FORMAT[0].upper()}{OLD_FORMAT[1:]}." if run.format == 1 else "No reference, no contrasts."
            blocks.append(f'<p class="note">{why}</p>')
    return "\n".join([*blocks, "</section>\n"])


def _verdict_line(row: VerdictRow, run: RunResults) -> str:
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    texts = [row.verdict, row.difference, row.interval, *([] if run.seeds else [row.p])]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><th scope="row">{escape(row.contrast)}{note}</th>{cells}</tr>'


def _alignment(runs: Sequence[RunResults]) -> str:
    table, metrics = summary_table(runs), metrics_of(runs)
    cells = {(row.run, row.group, row.space): row for row in table}
    keys = [key for key in dict.fromkeys((row.group, row.space) for row in table)]
    keys.sort(key=lambda key: list(_GROUPS).index(key[0]))
    lines = [_head(runs, [metric_title(metric) for metric in metrics])]
    group = ""
    for key in keys:
        if key[0] != group:
            group = key[0]
            span = 1 + len(metrics) * len(runs)
            lines.append(f'<tr class="group"><th colspan="{span}">{_GROUPS[group]}</th></tr>')
        lines.append(_alignment_line([cells.get((run.label, *key)) for run in runs], metrics))
    return f'<div class="scroll"><table>{"".join(lines)}</tbody></table></div>'


def _alignment_line(row_by_run: Sequence[AlignmentRow | None], metrics: Sequence[str]) -> str:
    first = next(row for row in row_by_run if row is not None)
    css = "joint" if first.group == "joint" else "derived" if first.derived else ""
    labels = {row.label for row in row_by_run if row is not None}
    label = first.label if len(labels) == 1 else first.space
    tds = [
        _cell(row.scores.get(metric) if row else None, first=metric == metrics[0])
        for row in row_by_run
        for metric in metrics
    ]
    return f'<tr class="{css}"><th scope="row">{escape(label)}</th>{"".join(tds)}</tr>'


def _cell(score: "Row | None", *, first: bool = False) -> str:
    opening = '<td class="first">' if first else "<td>"
    if score is None:
        return f"{opening}{_NONE}</td>"
    against = [interval_text(score), mixture_text(score), *score.note.split(", ")]
    if score.chance is not None:
        against.append(f"chance {score.chance:.3f}")
    if score.null_low is not None and score.null_high is not None:
        against.append(f"null {score.null_low:.3f}–{score.null_high:.3f}".replace("-", "−"))
    small = "".join(f"<small>{escape(line)}</small>" for line in against if line)
    return f"{opening}{number(score):.3f}{small}</td>"


def _head(runs: Sequence[RunResults], metrics: Sequence[str]) -> str:
    labels = "".join(
        f'<th scope="colgroup" class="first" colspan="{len(metrics)}">{escape(run.label)}</th>' for run in runs
    )
    top = f"<tr><th></th>{labels}</tr>" if len(runs) > 1 else ""
    first, *others = map(escape, metrics)
    names = f'<th scope="col" class="first">{first}</th>' + "".join(f'<th scope="col">{name}</th>' for name in others)
    names *= len(runs)
    return f'<thead>{top}<tr><th scope="col">space</th>{names}</tr></thead><tbody>'


def _retrieval(runs: Sequence[RunResults]) -> str:
    table = retrieval_table(runs)
    if not table:
        return '<p class="note">The runs measured no retrieval.</p>'
    metrics = (*RECALLS, "median_rank")
    cells = {(row.run, row.stage, row.direction, row.metric): row for row in table}
    keys = dict.fromkeys((row.run, row.stage, row.direction) for row in table)
    lines = []
    for run, stage, direction in keys:
        readings = [cells.get((run, stage, direction, metric)) for metric in metrics]
        label = next(row.label for row in readings if row is not None)
        name = f"{run}: {label}, {stage}" if len(runs) > 1 else f"{label}, {stage}"
        tds = "".join(_retrieval_cell(row) for row in readings)
        lines.append(
            f'<tr class="{"joint" if stage == "trained" else ""}"><th scope="row">{escape(name)}</th>{tds}</tr>'
        )
    heads = "".join(f'<th scope="col">{name.replace("_", " ")}</th>' for name in metrics)
    head = f'<thead><tr><th scope="col">query → answer</th>{heads}</tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _retrieval_cell(row: RetrievalRow | None) -> str:
    if row is None:
        return f"<td>{_NONE}</td>"
    form = ".1f" if row.metric == "median_rank" else ".3f"
    against = [interval_text(row.score, form)]
    if row.score.chance is not None:
        against.append(f"chance {row.score.chance:{form}}")
    small = "".join(f"<small>{line}</small>" for line in against if line)
    return f"<td>{number(row.score):{form}}{small}</td>"


def _metrics(runs: Sequence[RunResults]) -> str:
    known = [(metric_title(metric), _METRICS[metric]) for metric in metrics_of(runs) if metric in _METRICS]
    return "\n".join(f"<dt>{name[0].upper()}{name[1:]}</dt><dd>{text}</dd>" for name, text in known)


def _provenance(runs: Sequence[RunResults]) -> str:
    blocks = []
    every = [one for run in runs for one in run.each]
    for run in every:
        config = run.config
        versions = ", ".join(f"{name} {number}" for name, number in config.get("versions", {}).items() if number)
        hashes = config.get("split", {}).get("hashes", {})
        facts: list[tuple[str, Any]] = [
            ("run folder", run.path.name),
            ("configuration", str(config.get("config_hash", ""))[:16]),
            ("overlay", str(config.get("overlay", ""))[:16]),
            *((f"{name} groups", str(value)[:16]) for name, value in hashes.items()),
            ("commit", config.get("commit") or ""),
            ("started", config.get("started") or ""),
            ("seconds", f"{config['seconds']:.1f}" if config.get("seconds") is not None else ""),
            ("threads", config.get("threads") or ""),
            ("versions", versions),
        ]
        heading = f"<h3>{escape(run.label)}</h3>" if len(every) > 1 else ""
        blocks.append(heading + _facts([(name, str(text)) for name, text in facts if text]))
    return "\n".join(blocks)


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
