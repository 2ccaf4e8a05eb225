"""Do figures that other processes draw look like those that draw themselves, whatever becomes of the processes?"""

import os
import subprocess
from pathlib import Path

import pytest

from featcache.report.figures import render
from featcache.report.figures.concept import concept
from featcache.report.figures.figure import Figure
from featcache.report.figures.render import Renderers
from featcache.report.figures.verdicts import hero, verdict_matrix
from featcache.report.runs import load_runs
from tests.test_report_runs import write_run


def drawn(tmp_path: Path) -> list[Figure]:
    runs = load_runs([write_run(tmp_path / "run", points=12, epochs=2)])
    figures = [hero(runs), verdict_matrix(runs), concept(runs)]
    return [figure for figure in figures if figure is not None]


def test_pictures_from_the_processes_are_those_that_figures_draw_themselves(tmp_path: Path) -> None:
    with Renderers(("png", "svg")) as renderers:
        figures = drawn(tmp_path)
        for figure in figures:
            renderers.start(figure)
            renderers.start(figure)
        for figure in figures:
            renderers.finish(figure)
    assert len(figures) == 3
    for figure in figures:
        own = Figure(figure.name, "", "", "", figure.rows, figure.spec, drawing=figure.drawing)
        assert "svg" in figure.__dict__ and figure.svg == own.svg and figure.png == own.png


def test_a_png_is_drawn_only_where_it_is_written(tmp_path: Path) -> None:
    (first, *_) = drawn(tmp_path)
    with Renderers(("svg",)) as renderers:
        renderers.start(first)
        renderers.finish(first)
    assert "svg" in first.__dict__ and "png" not in first.__dict__


def test_without_processes_figures_draw_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    (first, *_) = drawn(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", refused)
    with Renderers(("svg",)) as renderers:
        renderers.start(first)
        renderers.finish(first)
    assert first.svg.startswith("<svg")
    monkeypatch.undo()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with Renderers(("svg",)) as renderers:
        renderers.start(first)
    assert first.svg.startswith("<svg")


def test_figures_of_a_process_that_dies_draw_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(tmp_path)
    monkeypatch.setattr(render, "_COMMAND", ("true",))
    with Renderers(("svg",)) as renderers:
        for figure in figures:
            renderers.start(figure)
        for figure in figures:
            renderers.finish(figure)
    assert not any("svg" in figure.__dict__ for figure in figures)
    assert all(figure.svg.startswith("<svg") for figure in figures)


def test_the_processes_end_with_the_page_and_see_no_module_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    (first, *_) = drawn(tmp_path)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remembered(*given: object, **named: object) -> "subprocess.Popen[bytes]":
        started.append(popen(*given, **named))  # pyright: ignore
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    with Renderers(("svg",)) as renderers:
        renderers.start(first)
        renderers.finish(first)
    assert [process.wait(10) for process in started] == [0] * len(started)
