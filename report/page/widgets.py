"""A browser of neighbours and a gallery of retrieval, as HTML and JSON."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

from featcache.report.figures import theme
from featcache.report.figures.figure import escape
from featcache.report.page.samples import Samples, json_script, json_text
from featcache.report.page.sliders import space_title
from featcache.report.runs import REFERENCE, RunResults

Rows = list[dict[str, Any]]
QUERIES = 6  # of each kind in the gallery
EXTREMES = 12  # best and worst queries that a run keeps, as studies/adapters/pictures/answers.py has it
KINDS = {
    "best": "Queries whose right answer comes first by the widest margin.",
    "worst": "Queries whose first right answer comes last.",
    "drawn": "Queries drawn by a hash of their id from those that are neither among the best nor among the worst.",
}


def page_script() -> str:
    """The script of the page, with the colours that it uses."""
    colours = {"categories": theme.LABELS, "other": theme.OTHER, "sequence": theme.VIRIDIS}
    scripts = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.js", "run_table.js")]
    return "\n".join(['"use strict";', f"const THEME = {json_text(colours)};", *scripts])


def neighbour_browser(run: RunResults, samples: Samples) -> str:
    """The nearest groups of one group in every space side by side, found by search or by what the joint gained.

    Args:
        run: One run.
        samples: Captions and pictures of groups.
    """
    rows = sorted(run.drawn("neighbors"), key=lambda row: row["rank"])
    if not rows:
        return ""
    label_of = {row["id"]: row["label"] or "" for row in rows}
    queries = sorted(label_of)
    ids = [*queries, *sorted({row["neighbor"] for row in rows} - label_of.keys())]
    place = {id_: number for number, id_ in enumerate(ids)}
    stored = {row["space"] for row in rows}
    raw = [f"raw {side}" for side in run.sides]
    spaces = [space for space in (*raw, *run.sides, "joint", REFERENCE) if space in stored]
    near: dict[str, list[list[int]]] = {space: [[] for _ in queries] for space in spaces}
    for row in rows:
        if row["space"] in near:
            near[row["space"]][place[row["id"]]].append(place[row["neighbor"]])
    labels = list(dict.fromkeys(label_of[id_] for id_ in queries))
    numbers = {label: number for number, label in enumerate(labels)}
    texts = [samples.text(id_) for id_ in ids]
    pictures = [samples.picture(id_) for id_ in ids]
    data = {
        "ids": ids,
        "labels": labels,
        "label": [numbers[label_of[id_]] for id_ in queries],
        "texts": texts if any(texts) else [],
        "pictures": pictures if max(pictures) >= 0 else [],
        "spaces": [space_title(run, space) for space in spaces],
        "near": [near[space] for space in spaces],
        "raw": [spaces.index(space) for space in raw if space in stored],
        "joint": spaces.index("joint") if "joint" in stored else -1,
        "reference": spaces.index(REFERENCE) if REFERENCE in stored else -1,
    }
    return (
        '<div class="widget" data-widget="neighbours" role="group" aria-label="Neighbours">\n'
        '<p class="no-script note">To search and browse neighbours, allow this page its script.</p>\n'
        f'<div class="browser needs-script"></div>{samples.credit()}{json_script(data)}</div>\n'
    )


def retrieval_gallery(run: RunResults, samples: Samples) -> str:
    """Queries with their nearest answers on the other side: the best, the worst and some drawn, in every direction.

    Args:
        run: One run.
        samples: Captions and pictures of rows.
    """
    queries: dict[str, dict[str, Rows]] = {}
    for row in sorted(run.drawn("answers"), key=lambda row: row["rank"]):
        queries.setdefault(row["direction"], {}).setdefault(row["query"], []).append(row)
    if not queries:
        return ""
    names = {direction: direction.replace("→", " → ") for direction in queries}
    view_of = {side: str(array["view"]) for side, array in run.config["sides"].items()}
    views = {f"{a}→{b}": (view_of[a], view_of[b]) for a, b in permutations(view_of, 2)}
    panels = [
        f'<details data-direction="{place}" data-kind="{kind}"{" open" if not place and kind == "best" else ""}>'
        f"<summary>{escape(names[direction])}: {kind}</summary>\n"
        f'<p class="note">{KINDS[kind]}</p>\n<ol class="queries">{_queries(chosen, views[direction], samples)}</ol>'
        "</details>\n"
        for place, (direction, answers) in enumerate((each, queries[each]) for each in queries if each in views)
        for kind, chosen in choose_queries([*answers.values()]).items()
    ]
    options = "".join(f'<option value="{place}">{escape(name)}</option>' for place, name in enumerate(names.values()))
    tabs = "".join(f'<button type="button" role="tab" data-kind="{kind}">{kind}</button>' for kind in KINDS)
    return (
        '<div class="widget" data-widget="gallery" role="group" aria-label="Retrieval, query by query">\n'
        f'<div class="controls needs-script"><label>direction <select>{options}</select></label>'
        f'<div role="tablist" aria-label="Queries">{tabs}</div></div>\n{"".join(panels)}{samples.credit()}</div>\n'
    )


def choose_queries(queries: Sequence[Rows], count: int = QUERIES) -> dict[str, list[Rows]]:
    """The queries of one direction that the gallery shows, of each of KINDS.

    Args:
        queries: The answers of each query.
        count: Queries of a kind.

    Returns:
        Kind -> answers of its queries. A query without a right answer counts as one whose first right answer is last.
    """

    def rank(query: Rows) -> tuple[float, float, str]:
        row = query[0]
        first = float("inf") if row["first_right"] is None else row["first_right"]
        return first, -(row["margin"] or 0.0), row["query"]

    ranked = sorted(queries, key=rank)
    rest = ranked[EXTREMES:-EXTREMES] or ranked  # the run kept so many of both ends for their answers
    drawn = sorted(rest, key=lambda query: sha256(query[0]["query"].encode()).digest())
    return {"best": ranked[:count], "worst": ranked[::-1][:count], "drawn": drawn[:count]}


def _queries(chosen: Sequence[Rows], views: tuple[str, str], samples: Samples) -> str:
    return "".join(_query(answers, views, samples) for answers in chosen)


def _query(answers: Rows, views: tuple[str, str], samples: Samples) -> str:
    first = answers[0]
    rank = "no right answer" if first["first_right"] is None else f"first right answer: rank {first['first_right']:,}"
    items = "".join(_answer(row, views[1], samples) for row in answers)
    label = f'<small class="label">{escape(first["label"])}</small>' if first["label"] else ""
    own = _sample(first["query"], first["group"], views[0], samples)
    query = f'<div class="query">{own}{label}<small>{rank}</small></div>'
    return f'<li>{query}<ol class="answers">{items}</ol></li>\n'


def _answer(row: Mapping[str, Any], view: str, samples: Samples) -> str:
    opening = f'<li class="right"><b>{row["rank"]} ✓ right</b>' if row["right"] else f"<li><small>{row['rank']}</small>"
    return f"{opening}{_sample(row['answer'], row['answer_group'], view, samples)}</li>"


def _sample(name: str, group: str, view: str, samples: Samples) -> str:
    text, picture = samples.text(group, view, name), samples.picture(group, view, name)
    image = f'<span class="picture" data-picture="{picture}"></span>' if picture >= 0 else ""
    return f'{image}<span class="name">{escape(name)}</span>' + (f"<q>{escape(text)}</q>" if text else "")
