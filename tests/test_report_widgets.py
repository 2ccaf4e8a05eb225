"""Do the widgets hold what the tables hold, and nothing where a run has none?"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featcache.report import load_runs
from featcache.report.figures.figure import inline
from featcache.report.page.samples import Samples, json_text
from featcache.report.page.sliders import space_slider, stage_slider
from featcache.report.page.widgets import choose_queries, neighbour_browser, page_script, retrieval_gallery
from featcache.report.runs import RunResults
from featcache.studies.exhibits import Exhibits
from featcache.trainer.errors import RunDamaged
from featcache.trainer.run_files import write_manifest
from tests.drawn_tables import EPOCHS, add_tables
from tests.test_report_runs import write_run

IDS = [f"g{place:02}" for place in range(12)]
LABELS = [f"kind {place % 3}" for place in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> RunResults:
    folder = write_run(tmp_path / "run")
    add_tables(folder, IDS, LABELS)
    return load_runs([folder])[0]


def stored(html: str) -> Any:
    """The JSON of a widget."""
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    return json.loads(text)


def without(run: RunResults, name: str, *rows: dict[str, Any]) -> RunResults:
    """The run with other rows in one of its tables."""
    return replace(run, _drawn={name: [*rows]})


def test_a_run_without_tables_of_pictures_has_no_widgets(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", pictures=False)])
    assert run.drawn("stages") == run.drawn("answers") == []
    assert stage_slider(run, {}) == space_slider(run) == ""
    assert neighbour_browser(run, Samples()) == retrieval_gallery(run, Samples()) == ""


def test_a_table_that_was_changed_is_an_error_of_ours(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    add_tables(folder, IDS, LABELS)
    (run,) = load_runs([folder])
    (folder / "stages.parquet").write_bytes(b"not a table")
    with pytest.raises(RunDamaged, match=r"stages\.parquet changed"):
        run.drawn("stages")


def test_json_in_the_page_opens_and_ends_nothing_and_keeps_its_value() -> None:
    value = {"a": ["</script><!-- & \u2028", 1, None, True, 0.5], "é": "ש"}
    text = json_text(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": ["</script><!-- & \\u2028", 1, None, True, 0.5], "é": "ש"}


def test_a_slider_starts_at_the_epoch_that_was_kept_or_else_at_the_last(run: RunResults) -> None:
    assert f'max="{len(EPOCHS) - 1}" step="1" value="{EPOCHS.index(10)}"' in stage_slider(run, {})
    other = replace(run, config=run.config | {"selected_epoch": 7})
    assert f'value="{len(EPOCHS) - 1}"' in stage_slider(other, {})
    assert stored(stage_slider(run, {}))["epochs"] == [
        *("epoch 0, untrained", "epoch 1", "epoch 4", "epoch 10, kept", "epoch 12")
    ]


def test_coordinates_are_whole_numbers_within_the_drawing(run: RunResults) -> None:
    data, html = stored(stage_slider(run, {})), stage_slider(run, {})
    height = int(re.findall(r'viewBox="0 0 1000 (\d+)"', html)[0])
    units = [unit for epoch in data["xy"] for side in epoch for unit in side]
    assert all(isinstance(unit, int) for unit in units) and len(units) == len(EPOCHS) * 2 * 2 * len(IDS)
    assert min(units) >= 0 and max(units[::2]) <= 1000 and max(units[1::2]) <= height


def test_a_point_that_is_nowhere_is_left_out(run: RunResults) -> None:
    rows = run.drawn("stages")
    lost = without(run, "stages", rows[0] | {"px": float("nan")}, rows[1] | {"py": None}, *rows[2:])
    data = stored(stage_slider(lost, {}))
    at = {id_: data["xy"][0][0][2 * place : 2 * place + 2] for place, id_ in enumerate(data["ids"])}
    assert [id_ for id_, point in at.items() if point == [None, None]] == ["g00", "g01"] and len(at) == len(IDS)
    assert stage_slider(without(run, "stages", rows[0] | {"px": None}), {}) == ""


def test_labels_without_a_colour_share_that_of_the_others(run: RunResults) -> None:
    html = stage_slider(run, {"kind 1": "#123456", "other": "#abcdef"})
    assert set(re.findall(r'data-shade="\d" fill="(.*?)"', html)) == {"#123456", "#abcdef"}
    assert "kind 1</li>" in html and "2 other labels</li>" in html


def test_names_of_spaces_cover_neither_each_other_nor_a_mark(run: RunResults) -> None:
    html = space_slider(run)
    height = int(re.findall(r'class="plot wide"[^>]*viewBox="0 0 1000 (\d+)"', html)[0])
    names = [name for _, name in re.findall(r"<text ([^>]*)>(.*?)</text>", html)]
    for labels in stored(html)["labels"]:
        boxes = [
            (x - 17 * len(name) * ends, y - 27, x + 17 * len(name) * (1 - ends), y + 9)
            for (x, y, ends), name in zip(labels, names, strict=True)
        ]
        assert all(0 <= a and b >= 0 and c <= 1000 and d <= height for a, b, c, d in boxes)
        pairs = [(one, other) for place, one in enumerate(boxes) for other in boxes[place + 1 :]]
        assert not [1 for a, b in pairs if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]]


def test_a_run_without_reference_browses_neighbours_without_scores(run: RunResults) -> None:
    rows = [row for row in run.drawn("neighbors") if row["space"] != "reference"]
    data = stored(neighbour_browser(without(run, "neighbors", *rows), Samples()))
    assert data["reference"] == -1 and data["joint"] == 4 and len(data["spaces"]) == 5


def test_neighbours_are_places_of_groups_by_rank(run: RunResults) -> None:
    data = stored(neighbour_browser(run, Samples()))
    rows = sorted(run.drawn("neighbors"), key=lambda row: row["rank"])
    wanted = [row["neighbor"] for row in rows if (row["id"], row["space"]) == ("g05", "joint")]
    assert [data["ids"][place] for place in data["near"][data["joint"]][data["ids"].index("g05")]] == wanted
    assert data["texts"] == data["pictures"] == []


def test_a_picture_stands_in_the_page_once_and_only_if_it_is_shown(run: RunResults) -> None:
    pictures = {**{f"images/{id_}": id_.encode() for id_ in IDS}, "images/elsewhere": b"unseen"}
    first_rows = {"images": {id_: f"images/{id_}" for id_ in IDS}}
    samples = Samples(Exhibits({}, {"images": pictures}, first_rows, "CC0"))
    html = neighbour_browser(run, samples) + retrieval_gallery(run, samples) + samples.html()
    (text,) = re.findall(r'id="pictures">(.*?)</script>', html)
    assert len(json.loads(text)) == len(set(json.loads(text))) == len(IDS)
    assert html.count("CC0") == 2


def test_a_caption_is_that_of_the_row_in_its_view_then_of_its_groups_first_row() -> None:
    texts = {"captions": {"g#0": "first", "g#1": "second"}, "names-de": {"g#0": "erste"}}
    samples = Samples(Exhibits(texts, {}, {"captions": {"g": "g#0"}}))
    shown = [samples.text("g", "captions", row) for row in ("g#1", "g#0", "other")]
    assert shown == ["second", "first", "first"]
    assert samples.text("g", "names-de", "g#0") == "erste" and samples.text("g", "images", "g.png") == "first"
    assert samples.text("g") == "first" and samples.text("x") == "" and Samples().text("g") == ""


def test_queries_are_best_by_rank_then_margin_and_drawn_without_either() -> None:
    def query(name: str, first: int | None, margin: float) -> list[dict[str, Any]]:
        return [{"query": name, "first_right": first, "margin": margin}]

    queries = [query("a", 1, 0.1), query("b", 1, 0.5), query("c", 9, 0.3), query("d", None, 0.0), query("e", 2, 0.2)]
    chosen = {kind: [one[0]["query"] for one in rows] for kind, rows in choose_queries(queries, 2).items()}
    assert (chosen["best"], chosen["worst"]) == (["b", "a"], ["d", "c"])
    drawn = {len({one[0]["query"] for one in choose_queries(queries, count)["drawn"]}) for count in (2, 5)}
    assert drawn == {2, 5} and choose_queries(queries[::-1], 2)["drawn"] == choose_queries(queries, 2)["drawn"]


def test_an_answer_that_is_right_says_so_and_a_query_without_one_too(run: RunResults) -> None:
    rows = [row | {"first_right": None, "right": False} for row in run.drawn("answers")]
    html = retrieval_gallery(without(run, "answers", *rows), Samples())
    assert "no right answer" in html and "right</b>" not in html
    assert retrieval_gallery(run, Samples()).count("✓ right</b>") > 0


def test_the_marks_of_a_run_are_given_its_label() -> None:
    svg = '<svg viewBox="0 0 9 9"><path aria-label="joint &quot;a&quot;: 0.3"/><path aria-label="joint: 0.4"/></svg>'
    element = inline(svg, name="f", alt="joint: 0.4", runs={'joint "a": 0.3': '<b>"\x1b'})
    assert element.count("data-run") == 1
    assert '<path aria-label="joint &quot;a&quot;: 0.3" data-run="&lt;b&gt;&quot;\\u001b"/>' in element


def test_the_script_of_the_page_writes_no_markup_and_loads_nothing() -> None:
    script = page_script()
    markup = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "</")
    assert not [word for word in (*markup, "eval(", "fetch(", "import", "http") if word in script]


def test_a_table_with_more_columns_and_other_integers_opens(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    add_tables(folder, IDS, LABELS)
    table = pl.read_parquet(folder / "neighbors.parquet").with_columns(pl.col("rank").cast(pl.Int32), more=pl.lit(1))
    table.write_parquet(folder / "neighbors.parquet")
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    assert neighbour_browser(load_runs([folder])[0], Samples())
