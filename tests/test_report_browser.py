"""Does the page work in a browser, by mouse and by keyboard, with the network off?"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from featcache.report import write_report
from featcache.report.page.widgets import QUERIES, choose_queries
from featcache.studies.exhibits import Exhibits
from tests.drawn_tables import EPOCHS, SIDES, K, add_tables
from tests.test_report_runs import write_run

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

IDS = [f"g{place:02}" for place in range(40)]
LABELS = [f"kind {place % 4}" for place in range(40)]
WIDTHS = (1280, 400)
Open = Callable[..., "Page"]
Tables = dict[str, list[dict[str, Any]]]


@dataclass
class Written:
    """A page, and what it was made of."""

    path: Path
    tables: Tables
    exhibits: Exhibits = field(default_factory=Exhibits)


def webp(shade: int) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 120)).save(file, "WEBP")
    return file.getvalue()


def exhibits_of(texts: dict[str, str], pictures: dict[str, bytes], licence: str = "") -> Exhibits:
    """Captions and pictures of groups, each filed under the first row of its group."""
    first_rows = {side: {id_: f"{side}/{id_}" for id_ in IDS} for side in SIDES}
    return Exhibits(
        {"captions": {f"captions/{id_}": text for id_, text in texts.items()}},
        {"images": {f"images/{id_}": picture for id_, picture in pictures.items()}},
        first_rows,
        licence,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("page")
    tables = add_tables(write_run(folder / "run"), IDS, LABELS)
    texts = {id_: f"a drawing of thing {place}" for place, id_ in enumerate(IDS)}
    exhibits = exhibits_of(texts, {id_: webp(5 * place) for place, id_ in enumerate(IDS)}, "CC BY-SA 4.0")
    page = write_report([folder / "run"], folder / "out", formats=(), exhibits=exhibits)
    return Written(page, tables, exhibits)


def widget(page: "Page", kind: str) -> "Locator":
    return page.locator(f'[data-widget="{kind}"]')


# -- the whole page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forced", ["none", "active"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(open_page: Open, written: Written, width: int, forced: str) -> None:
    page = open_page(written.path, width=width, forced_colors=forced)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("[data-widget]").count() == 4
    for one in page.locator("[data-widget]").all():
        box = one.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_a_report_of_a_run_with_these_tables_has_the_widgets(open_page: Open, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    add_tables(run, IDS, LABELS)
    page = open_page(write_report([run], tmp_path / "out", formats=()))
    kinds = page.locator("[data-widget]").evaluate_all("all => all.map(one => one.dataset.widget)")
    assert set(kinds) == {"stages", "spaces", "neighbours", "gallery"}


def test_forced_colours_leave_what_is_shared_and_right_told_apart(open_page: Open, written: Written) -> None:
    page = open_page(written.path, forced_colors="active", color_scheme="dark")
    for marked, plain in (
        (".columns .shared > *", ".columns li:not(.shared) > *"),
        (".right", ".answers li:not(.right)"),
    ):
        widths = [
            page.locator(one).first.evaluate("one => getComputedStyle(one).borderTopWidth") for one in (marked, plain)
        ]
        assert widths == ["2px", "1px"]


def test_without_script_the_drawings_and_answers_are_there_and_no_dead_control(
    open_page: Open, written: Written
) -> None:
    page = open_page(written.path, java_script_enabled=False)
    assert len(points(widget(page, "stages"))) == len(IDS) * len(SIDES)
    assert widget(page, "spaces").locator("text").count() == 6
    assert not page.locator(".widget .controls:visible, .widget button:visible, .widget input:visible").count()
    gallery = widget(page, "gallery")
    gallery.locator("summary", has_text="captions → images: worst").click()
    assert gallery.locator("details[open]").count() == 2
    assert "Epoch 10, kept." in widget(page, "stages").inner_text()


def test_marks_of_figures_say_their_words_beside_the_pointer(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    mark = page.locator("#maps svg path[aria-label]").first
    mark.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # a scroll hides the words
    mark.hover(force=True)
    tip = page.locator("#tip")
    assert tip.is_visible() and re.fullmatch(r"photo \d+, kind \d", tip.inner_text())
    page.keyboard.press("Escape")
    assert not tip.is_visible()


# -- sliders ----------------------------------------------------------------------------------------------------------


def points(stages: "Locator") -> list[tuple[str, int, int]]:
    """(side, x, y) of every mark that is drawn."""
    paths = stages.locator(".plot path").evaluate_all(
        "all => all.map(one => [one.dataset.side, one.getAttribute('d')])"
    )
    return [(SIDES[int(side)], int(x), int(y)) for side, d in paths for x, y in re.findall(r"M(-?\d+) (-?\d+)", d)]


def drawn_as(rows: list[dict[str, Any]], shown: list[tuple[str, int, int]], every: list[dict[str, Any]]) -> bool:
    """Whether the marks stand where the rows say, up to one shift and one scale for every epoch and side."""
    xs, ys = ([row[key] for row in every] for key in ("px", "py"))
    scale = 920 / max(max(xs) - min(xs), max(ys) - min(ys))
    sides = np.array([row["space"] for row in rows]), np.array([side for side, *_ in shown])
    wanted = np.array([[scale * row["px"], -scale * row["py"]] for row in rows])
    got = np.array([point for _, *point in shown], float)
    got += np.array([[min(xs), -max(ys)]]) * scale - np.array([[(1000 - scale * (max(xs) - min(xs))) / 2, 40]])
    away = np.abs(wanted[:, None] - got[None]).max(2) + 1000 * (sides[0][:, None] != sides[1][None])
    return len(rows) == len(shown) and bool(away.min(0).max() <= 1 and away.min(1).max() <= 1)


def test_the_slider_over_sides_draws_the_points_of_its_epoch(open_page: Open, written: Written) -> None:
    stages, rows = widget(open_page(written.path), "stages"), written.tables["stages"]
    slider, said = stages.get_by_role("slider"), stages.get_by_role("status")
    at = {epoch: [row for row in rows if row["epoch"] == epoch] for epoch in EPOCHS}
    assert said.inner_text() == "epoch 10, kept" and drawn_as(at[10], points(stages), rows)
    slider.focus()
    slider.press("ArrowLeft")
    assert said.inner_text() == "epoch 4" and drawn_as(at[4], points(stages), rows)
    assert slider.get_attribute("aria-valuetext") == "epoch 4"
    slider.press("Home")
    assert said.inner_text() == "epoch 0, untrained" and drawn_as(at[0], points(stages), rows)
    box = slider.bounding_box()
    assert box
    slider.click(position={"x": box["width"] - 3, "y": box["height"] / 2})
    assert said.inner_text() == "epoch 12" and drawn_as(at[12], points(stages), rows)
    assert not drawn_as(at[10], points(stages), rows)


def test_points_glide_to_their_place_where_motion_is_wanted(open_page: Open, written: Written) -> None:
    page = open_page(written.path, reduced_motion="no-preference")
    stages, rows = widget(page, "stages"), written.tables["stages"]
    before = points(stages)
    stages.get_by_role("slider").press("Home")
    page.wait_for_timeout(100)
    between = points(stages)
    first = [row for row in rows if row["epoch"] == 0]
    assert between != before and not drawn_as(first, between, rows)
    page.wait_for_timeout(700)
    assert drawn_as(first, points(stages), rows)


def test_play_goes_to_the_last_epoch_and_stops(open_page: Open, written: Written) -> None:
    stages = widget(open_page(written.path), "stages")
    stages.get_by_role("button", name="Play").click()
    assert stages.get_by_role("button").inner_text() == "Pause"
    stages.get_by_text("epoch 12").wait_for(timeout=3000)
    assert stages.get_by_role("button").inner_text() == "Play"
    stages.get_by_role("button").press("Enter")
    assert stages.get_by_role("status").inner_text() == "epoch 0, untrained"
    stages.get_by_role("button").press("Enter")
    assert stages.get_by_role("button").inner_text() == "Play"


def test_a_point_says_its_id_label_and_side_by_pointer_and_by_keyboard(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    stages = widget(page, "stages")
    plot, words = stages.locator(".plot"), stages.locator(".point")
    plot.focus()
    page.keyboard.press("Home")
    assert words.inner_text() == "g00 · kind 0 · images"
    page.keyboard.press("ArrowRight")
    assert words.inner_text() == "g01 · kind 1 · images"
    page.keyboard.press("End")
    assert words.inner_text() == "g39 · kind 3 · captions"
    box = plot.bounding_box()
    ring = [float(plot.locator(".ring").get_attribute(name) or 0) for name in ("cx", "cy")]
    assert box
    unit = box["width"] / 1000
    page.keyboard.press("Home")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + ring[0] * unit, box["y"] + ring[1] * unit)
    assert page.locator("#tip").inner_text() == words.inner_text() == "g39 · kind 3 · captions"


def test_the_slider_over_spaces_says_the_agreement_of_its_epoch(open_page: Open, written: Written) -> None:
    spaces = widget(open_page(written.path), "spaces")
    slider = spaces.get_by_role("slider")
    slider.press("Home")
    for step, epoch in enumerate(EPOCHS):
        cells = spaces.locator(".agreement tr").evaluate_all(
            "all => all.map(row => [...row.cells].map(c => c.innerText))"
        )
        value = {
            row["b"]: f"{row['value']:.3f}"
            for row in written.tables["agreement"]
            if (row["a"], row["b_epoch"]) == ("reference", epoch)
        }
        names = {"images": "images, adapted", "captions": "captions, adapted", "joint": "joint"}
        assert cells == [[title, value[space]] for space, title in names.items()]
        paths = spaces.locator(".moving path").evaluate_all("all => all.map(one => one.getAttribute('d'))")
        assert [path.count("L") for path in paths] == [step] * 3
        slider.press("ArrowRight")


def test_the_marks_of_spaces_stand_as_far_apart_as_the_table_says(open_page: Open, written: Written) -> None:
    spaces = widget(open_page(written.path), "spaces")
    centre = "all => all.map(one => one.getBoundingClientRect()).map(b => [b.x + b.width / 2, b.y + b.height / 2])"
    shown = np.array(spaces.locator(".plot circle, .plot path.still").evaluate_all(centre))
    rows = [row for row in written.tables["spaces"] if row["epoch"] in (None, 10)]
    wanted = np.array([[row["px"], -row["py"]] for row in rows])
    apart = [np.linalg.norm(places[:, None] - places[None], axis=2) for places in (shown, wanted)]
    ratio = apart[0][apart[1] > 0] / apart[1][apart[1] > 0]
    assert shown.shape == (6, 2) and np.ptp(ratio) / ratio.mean() < 0.05


# -- neighbours -------------------------------------------------------------------------------------------------------


def columns(browsed: "Locator") -> dict[str, tuple[str, list[str], list[bool]]]:
    """Column -> its score, its groups and which of them are marked as shared."""
    script = """all => all.map(one => [one.querySelector("h4").firstChild.textContent,
        one.querySelector("h4 small").textContent, [...one.querySelectorAll("li .name")].map(name => name.textContent),
        [...one.querySelectorAll("li")].map(item => Boolean(item.querySelector(".tick")))])"""
    return {
        name: (score, groups, ticks)
        for name, score, groups, ticks in browsed.locator(".columns section").evaluate_all(script)
    }


def near(tables: Tables, id_: str) -> dict[str, list[str]]:
    rows = sorted((row for row in tables["neighbors"] if row["id"] == id_), key=lambda row: row["rank"])
    return {
        space: [row["neighbor"] for row in rows if row["space"] == space]
        for space in dict.fromkeys(row["space"] for row in rows)
    }


TITLES = {
    "images (resnet18), raw": "raw images",
    "captions (gpt2), raw": "raw captions",
    "images, adapted": "images",
    "captions, adapted": "captions",
    "joint": "joint",
    "dinov2-small": "reference",
}


def assert_shows(browsed: "Locator", tables: Tables, id_: str) -> None:
    shown, stored = columns(browsed), near(tables, id_)
    assert browsed.locator(".chosen .name").text_content() == id_
    assert [*shown] == [*TITLES]
    for title, (score, groups, ticks) in shown.items():
        space = TITLES[title]
        same = [group in stored["reference"] for group in stored[space]]
        assert groups == stored[space]
        if space == "reference":
            assert score == "the reference" and not any(ticks)
        else:
            assert ticks == same and score == f"{sum(same)} of {K} shared"


def test_a_group_is_found_by_its_id_and_shown_as_the_table_has_it(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    browsed = widget(page, "neighbours")
    assert_shows(browsed, written.tables, "g00")
    search = browsed.get_by_role("combobox")
    search.focus()
    page.keyboard.type("G17")
    assert search.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert search.get_attribute("aria-expanded") == "false"
    assert_shows(browsed, written.tables, "g17")


def test_a_group_is_found_by_its_caption_or_label_by_keyboard_and_by_mouse(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    browsed = widget(page, "neighbours")
    search = browsed.get_by_role("combobox")
    search.focus()
    page.keyboard.type("thing 3")
    options = browsed.get_by_role("option")
    assert options.locator(".name").all_inner_texts() == ["g03", *(f"g{number}" for number in range(30, 40))]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = options.nth(1)
    assert chosen.get_attribute("aria-selected") == "true"
    assert search.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("Enter")
    assert_shows(browsed, written.tables, "g30")
    assert browsed.locator(".chosen q").inner_text() == "a drawing of thing 30"
    search.fill("kind 2")
    assert "10 found" in browsed.locator(".status").inner_text()
    options.nth(2).click()
    assert_shows(browsed, written.tables, "g10")
    search.fill("nothing like it")
    assert "0 found" in browsed.locator(".status").inner_text() and not options.count()


def test_previous_next_random_and_a_neighbour_lead_to_other_groups(open_page: Open, written: Written) -> None:
    browsed = widget(open_page(written.path), "neighbours")
    browsed.get_by_role("button", name="Previous").click()
    assert_shows(browsed, written.tables, "g39")
    browsed.get_by_role("button", name="Next").press("Enter")
    browsed.get_by_role("button", name="Next").press("Enter")
    assert_shows(browsed, written.tables, "g01")
    first = near(written.tables, "g01")["joint"][0]
    browsed.locator(".columns section").nth(4).get_by_role("button").first.click()
    assert_shows(browsed, written.tables, first)
    browsed.get_by_role("button", name="Random").click()
    assert_shows(browsed, written.tables, browsed.locator(".chosen .name").inner_text())


def test_groups_are_listed_by_what_the_joint_gained_over_the_best_raw_part(open_page: Open, written: Written) -> None:
    browsed = widget(open_page(written.path), "neighbours")
    gain = {}
    for id_ in IDS:
        stored = near(written.tables, id_)
        share = {space: len(set(groups) & set(stored["reference"])) for space, groups in stored.items()}
        gain[id_] = share["joint"] - max(share["raw images"], share["raw captions"])
    most = sorted((id_ for id_ in IDS if gain[id_] > 0), key=lambda id_: (-gain[id_], id_))[:6]
    least = sorted((id_ for id_ in IDS if gain[id_] < 0), key=lambda id_: (gain[id_], id_))[:6]
    lists = [block.get_by_role("button").all_inner_texts() for block in browsed.locator(".gains").all()]
    captions = written.exhibits.texts["captions"]
    wanted = [
        [f"{id_} {captions[f'captions/{id_}']} {'+' if gain[id_] > 0 else '−'}{abs(gain[id_])}" for id_ in ids]
        for ids in (most, least)
    ]
    assert [[" ".join(text.split()) for text in texts] for texts in lists] == wanted
    browsed.locator(".gains").nth(1).get_by_role("button").first.click()
    assert_shows(browsed, written.tables, least[0])


def test_pictures_of_groups_and_rows_are_those_given(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    source = "all => all.map(one => [one.src.split(',')[1], one.complete && one.naturalWidth])"
    of = {base64.b64encode(data).decode(): key for key, data in written.exhibits.thumbnails["images"].items()}
    shown = widget(page, "neighbours").locator("section:nth-child(5) img").evaluate_all(source)
    assert [(of[data], width) for data, width in shown] == [
        (f"images/{id_}", 8) for id_ in near(written.tables, "g00")["joint"]
    ]
    queries = widget(page, "gallery").locator("details[open] .query")
    names = queries.locator(".name").all_inner_texts()
    assert [of[data] for data, _ in queries.locator("img").evaluate_all(source)] == names
    assert widget(page, "gallery").get_by_text("CC BY-SA 4.0").is_visible()


# -- retrieval --------------------------------------------------------------------------------------------------------


def shown_queries(gallery: "Locator") -> list[tuple[str, list[str], list[bool]]]:
    script = """all => all.map(one => [one.querySelector(".query .name").textContent,
        [...one.querySelectorAll(".answers .name")].map(name => name.textContent),
        [...one.querySelectorAll(".answers li")].map(item => item.textContent.includes("✓ right"))])"""
    return [(*one,) for one in gallery.locator("details[open] .queries > li").evaluate_all(script)]


def stored_queries(tables: Tables, direction: str, kind: str) -> list[tuple[str, list[str], list[bool]]]:
    queries: dict[str, list[dict[str, Any]]] = {}
    for row in tables["answers"]:
        if row["direction"] == direction:
            queries.setdefault(row["query"], []).append(row)
    worst_last = sorted(queries.values(), key=lambda rows: (rows[0]["first_right"], -rows[0]["margin"]))
    chosen = {"best": worst_last, "worst": worst_last[::-1]}.get(kind) or choose_queries([*queries.values()])[kind]
    return [
        (rows[0]["query"], [row["answer"] for row in rows], [row["right"] for row in rows]) for rows in chosen[:QUERIES]
    ]


def test_the_gallery_shows_best_worst_and_drawn_queries_of_each_direction(open_page: Open, written: Written) -> None:
    gallery = widget(open_page(written.path), "gallery")
    for direction in ("images→captions", "captions→images"):
        gallery.get_by_role("combobox").select_option(label=direction.replace("→", " → "))
        for kind in ("best", "worst", "drawn"):
            gallery.get_by_role("tab", name=kind).click()
            assert gallery.get_by_role("tab", selected=True).inner_text() == kind
            assert shown_queries(gallery) == stored_queries(written.tables, direction, kind)


def test_the_tabs_of_the_gallery_work_by_keyboard(open_page: Open, written: Written) -> None:
    page = open_page(written.path)
    gallery = widget(page, "gallery")
    gallery.get_by_role("tab", name="best").focus()
    page.keyboard.press("ArrowRight")
    assert shown_queries(gallery) == stored_queries(written.tables, "images→captions", "worst")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == "drawn"
    page.keyboard.press("ArrowRight")
    assert shown_queries(gallery) == stored_queries(written.tables, "images→captions", "best")
    panel = gallery.get_by_role("tabpanel")
    assert panel.count() == 1 and panel.get_attribute("aria-label") == "images → captions: best"
    first = next(row for row in written.tables["answers"] if row["query"] == shown_queries(gallery)[0][0])
    assert f"first right answer: rank {first['first_right']}" in panel.locator(".query").first.inner_text()
