"""Does the table of runs work in a browser, and do the texts of anybody stay text there?"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from featcache.report import load_runs, write_report
from featcache.report.figures.figure import escape, inline
from featcache.report.figures.scores import final_alignment
from featcache.studies.exhibits import Exhibits
from tests.drawn_tables import SIDES, add_tables
from tests.test_report_browser import WIDTHS, Open, Written, widget
from tests.test_report_runs import write_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# -- the table of runs ------------------------------------------------------------------------------------------------

SCORES = {"linear": 0.31, "mlp": 0.345, "cca": None, 'a "b" <i>&': 0.2}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a table of four runs, and a figure of their marks."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_report([write_run(folder / "plain")], folder / "out", formats=())
    runs = load_runs([write_run(folder / "a"), write_run(folder / "b", adapter="mlp")])
    figure = final_alignment(runs)
    assert figure is not None
    tips = {row["_tip"]: row["run"] for row in figure.rows}
    body = "".join(
        f'<tr data-run="{escape(run)}"><th scope="row" data-value="{escape(run)}">{escape(run)}</th>'
        f'<td data-value="{score or ""}">{score or "–"}</td><td data-value="{run[0]}">{run[0]}</td></tr>'
        for run, score in SCORES.items()
    )
    columns_of = (("run", "text", ""), ("joint", "number", " data-colour"), ("kind", "text", " data-colour"))
    head = "".join(f'<th data-sort="{sort}"{colour}>{name}</th>' for name, sort, colour in columns_of)
    marks = "".join(f'<circle aria-label="{escape(run)}: mark" r="3" fill="#111111" stroke="white"/>' for run in SCORES)
    own = inline(
        f'<svg viewBox="0 0 9 9">{marks}</svg>', name="own", alt="", runs={f"{run}: mark": run for run in SCORES}
    )
    drawing = inline(figure.svg, name="two", alt="two runs", runs=tips)
    html = f'<div class="scroll"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    html += f'<figure class="scroll" id="own">{own}</figure><figure class="scroll" id="two">{drawing}</figure>'
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", f"{html}</main>"), encoding="utf-8")
    return path


def order(page: "Page") -> list[str]:
    return page.locator("table.runs tbody tr:visible th").all_inner_texts()


def test_the_table_of_runs_sorts_numbers_and_text_with_what_is_missing_last(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    joint, run = (page.locator("table.runs thead th", has_text=name) for name in ("joint", "run"))
    joint.get_by_role("button").click()
    hostile = 'a "b" <i>&'
    assert joint.get_attribute("aria-sort") == "descending" and order(page) == ["mlp", "linear", hostile, "cca"]
    joint.get_by_role("button").press("Enter")
    assert joint.get_attribute("aria-sort") == "ascending" and order(page) == [hostile, "linear", "mlp", "cca"]
    run.get_by_role("button").press("Space")
    assert run.get_attribute("aria-sort") == "ascending" and joint.get_attribute("aria-sort") is None
    assert order(page) == [hostile, "cca", "linear", "mlp"]


def test_a_run_that_is_filtered_out_is_dimmed_in_the_figures(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    page.get_by_label("filter runs").fill("LINE")
    assert order(page) == ["linear"] and page.get_by_text("1 of 4 runs").is_visible()
    dimmed = "all => all.map(one => [one.dataset.run, one.classList.contains('dimmed')])"
    marks = page.locator("figure [data-run]").evaluate_all(dimmed)
    assert {run for run, _ in marks} == {*SCORES} and len(marks) > 40
    assert all(hidden == (run != "linear") for run, hidden in marks)
    page.get_by_label("filter runs").fill("")
    assert page.get_by_text("4 of 4 runs").is_visible() and not page.locator(".dimmed").count()


def test_the_figures_are_coloured_by_a_column_of_the_table(open_page: Open, compared: Path) -> None:
    page = open_page(compared)
    fills = "all => all.map(one => getComputedStyle(one).fill)"
    own, legend = page.locator("#own circle"), page.locator("ul.key[aria-live] li")
    page.get_by_label("colour by").select_option(label="joint")
    viridis = ["rgb(144, 215, 67)", "rgb(253, 231, 37)", "rgb(201, 205, 209)", "rgb(68, 1, 84)"]
    assert own.evaluate_all(fills) == viridis  # the sixth of seven steps, the last, grey for no score, the first
    assert legend.all_inner_texts()[0] == "0.2" and legend.all_inner_texts()[-2:] == ["0.345", "not measured"]
    assert own.first.evaluate("one => getComputedStyle(one).stroke") == "rgb(255, 255, 255)"
    page.get_by_label("colour by").select_option(label="kind")
    assert legend.all_inner_texts() == ["a", "c", "l", "m"]
    assert own.evaluate_all(fills)[:2] == ["rgb(0, 158, 115)", "rgb(204, 121, 167)"]
    page.get_by_label("colour by").select_option(label="as drawn")
    assert set(own.evaluate_all(fills)) == {"rgb(17, 17, 17)"} and not legend.count()


# -- texts of anybody's -----------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "</script></style><img src=x onerror=alert(2)>",
    "\"' onmouseover='alert(3)' x=\"&amp;&#60;",
    "\u202egnp.exe\u2028 שלום",
    "long " + "x" * 10_000,
    "<!--<script>",
    "${alert(4)}`",
    "__proto__",
)


def shown(text: str) -> str:
    """How the page writes a text: what a reader could not see is written out."""
    return text.replace("\u202e", "\\u202e").replace("\u2028", "\\u2028")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("hostile")
    tables = add_tables(write_run(folder / "run"), HOSTILE, HOSTILE[::-1])
    texts = dict(zip(HOSTILE, HOSTILE[1:] + HOSTILE[:1], strict=True))
    rows = {side: {id_: f"{side}/{id_}" for id_ in HOSTILE} for side in SIDES}
    captions = {"captions": {rows["captions"][id_]: text for id_, text in texts.items()}}
    exhibits = Exhibits(captions, {}, rows, HOSTILE[1])
    return Written(write_report([folder / "run"], folder / "out", formats=(), exhibits=exhibits), tables, exhibits)


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_ids_labels_and_captions_stay_text(open_page: Open, hostile: Written, width: int) -> None:
    page = open_page(hostile.path, width=width)
    browsed, stages, gallery = (widget(page, kind) for kind in ("neighbours", "stages", "gallery"))
    ids = {shown(text) for text in HOSTILE}
    seen, captions = set(), set()
    for _ in HOSTILE:
        seen.add(browsed.locator(".chosen .name").text_content())
        captions.add(browsed.locator(".chosen q").text_content())
        browsed.get_by_role("button", name="Next").click()
    assert seen == captions == ids
    for text in ("<script>", "onerror", "\\u202egnp"):
        browsed.get_by_role("combobox").fill(text)
        assert browsed.get_by_role("option").count() >= 1
        browsed.get_by_role("combobox").press("Enter")
    stages.locator(".plot").focus()
    said = set()
    for _ in range(len(HOSTILE)):
        page.keyboard.press("ArrowRight")
        said.add((stages.locator(".point").text_content() or "").split(" · ")[0])
    assert said == ids
    for tab in ("best", "worst", "drawn"):
        gallery.get_by_role("tab", name=tab).click()
        assert set(gallery.locator("details[open] .query q").all_text_contents()) <= ids
    assert gallery.locator("p.note").last.text_content() == HOSTILE[1]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert not page.locator("img[src=x], [onmouseover], [onerror], main style, main iframe").count()
    kinds = page.locator("main script").evaluate_all("all => all.map(one => one.type)")
    assert set(kinds) == {"application/json"} and len(kinds) == 3
