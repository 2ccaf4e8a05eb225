"""A page and its figures of labels, captions and names that are anybody's: whole, and nothing in them runs."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from featcache.report import write_report
from featcache.report.figures.figure import Figure
from featcache.trainer.run_files import write_manifest
from tests.test_report_runs import write_run

HOSTILE = {
    "control characters": "a\x00b\x01c\x08d\x0ce\x1b[2Jf\x7fg\x85h",
    "no characters": "a\ufffeb\uffffc",
    "an end of a script": "</script><script>alert(1)</script>",
    "an image that fails": "<img src=x onerror=alert(2)>",
    "quotes and ampersands": "\"'&amp;&#60;`a' onload='alert(3)' x=\"",
    "an end of a drawing": "</svg></figure><iframe src=x>",
    "a comment and CDATA": "<!-- ]]> --><![CDATA[<b>",
    "directions": "\u202egnp.exe\u2066 שלום عربى",
    "emoji": "👩\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f e\u0301\u0301\u0301",
    "a very long word": "x" * 2_000,
    "an expression": "' + datum.constructor + '${1}{{2}}",
    "a template": "$provenance ${style}",
}


class Elements(HTMLParser):
    """The elements of a page that load or run something, and those that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.handlers: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        data = tag == "script" and attrs[:1] == [("type", "application/json")]  # which runs nothing
        self.scripts += tag in ("script", "iframe", "object", "embed", "base") and not data
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile_run(folder: Path, texts: Sequence[str]) -> Path:
    """A run whose labels, ids, notes and versions are `texts` in turn, and its encoders the first two."""
    run = write_run(folder, encoders=(*texts[:2], "dino"), points=12, epochs=2)
    tables = ("map", "metrics", "contrasts", "stages", "spaces", "neighbors", "answers", "kernel_rows")
    for name in (f"{table}.parquet" for table in tables):
        table = pl.read_parquet(run / name)
        turns = pl.Series([texts[row % len(texts)] for row in range(table.height)], dtype=pl.String)
        columns = [
            turns.alias(key)
            for key in ("id", "label", "note", "query", "answer", "row_id", "row_label")
            if key in table.columns
        ]
        table.with_columns(columns).write_parquet(run / name)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    text = " ".join(texts)
    config |= {"dataset": text, "commit": text, "started": text, "versions": {text: text}}
    config["split"] |= {"rule": text, "hashes": {text: text}}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (run / "manifest.json").unlink()
    write_manifest(run)
    return run


@pytest.mark.parametrize("first", [0, 4, 8])
def test_a_page_of_hostile_labels_and_names_is_whole_and_runs_nothing(first: int, tmp_path: Path) -> None:
    path = write_report([hostile_run(tmp_path / "run", [*HOSTILE.values()][first : first + 4])], tmp_path / "out")
    content = path.read_text(encoding="utf-8")
    page = Elements()
    page.feed(content)
    page.close()
    assert page.scripts == 1 and not page.handlers
    assert all(load.startswith(("#", "figures/", "data:image/png;base64,")) for load in page.loads)
    assert content.count("<figure ") == content.count("</figure>") == 15
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", content)
    for drawing in (tmp_path / "out" / "figures").glob("*.svg"):
        svg = Elements()
        svg.feed(drawing.read_text(encoding="utf-8"))
        assert not svg.scripts and not svg.handlers
    assert (tmp_path / "out" / "figures" / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_metrics_and_stages_that_nobody_knows_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", points=12, epochs=2)
    hostile = "<script>alert(1)</script>"
    for name in ("metrics.parquet", "contrasts.parquet"):
        table = pl.read_parquet(run / name)
        metric = pl.when(pl.col("metric") == "cka_debiased").then(pl.lit(hostile)).otherwise(pl.col("metric"))
        table.with_columns(metric.alias("metric")).write_parquet(run / name)
    (run / "manifest.json").unlink()
    write_manifest(run)
    page = Elements()
    page.feed(write_report([run], tmp_path / "out", formats=()).read_text(encoding="utf-8"))
    assert page.scripts == 1
    assert any("<script>alert" in text for text in page.text)


def test_labels_that_differ_in_a_control_character_stay_two_in_a_drawing() -> None:
    rows = [{"a": "x\x00", "b": 1}, {"a": "x\x01", "b": 2}]
    axes = {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}}
    svg = Figure("f", "", "", "", rows, {"data": {"values": rows}, "mark": "bar", "encoding": axes}).svg
    assert r"x\u0000" in svg and r"x\u0001" in svg
    assert rows[0]["a"] == "x\x00"  # the data stay what they are


def test_long_text_may_break_anywhere_in_the_page() -> None:
    css = (Path(__file__).parents[1] / "report" / "page" / "page.css").read_text(encoding="utf-8")
    body = re.search(r"body \{(.*?)\}", css, re.DOTALL)
    assert body and "overflow-wrap: anywhere" in body[1]
