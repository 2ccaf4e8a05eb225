"""What the commands print fits a terminal of 80 columns, row by row; piped, names are whole."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from featcache.commands.app import app
from featcache.commands.endings import accept_any_terminal
from featcache.report.runs import load_runs
from featcache.report.seeds import pool_seeds
from featcache.report.terminal.fitted import print_fitted_table, print_parts, print_path
from featcache.report.terminal.training import show_run, show_runs
from featcache.trainer.run import load_run
from tests.spine import tiny_cache
from tests.test_report_runs import SIDES, write_run

THREE = (*SIDES, "names-de")
KIN = ("efficientnet-lite0", "minilm", "efficientnet-lite2")
VERDICTS = ("above", "below", "cannot tell", "cannot tell after correction")


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, width: int = 80) -> Terminal:
    screen = Terminal()
    for name, value in {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


def lines_of(screen: Terminal) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).splitlines()]


def fits(lines: list[str], width: int = 80) -> bool:
    return all(len(line) <= width for line in lines)


# -- a training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", VERDICTS)
@pytest.mark.parametrize("setting", [{"control": True}, {"shuffle_pairs": True}, {"n": 99_999}])
def test_a_training_is_one_line_of_answer_and_tables_whose_rows_are_whole(
    words: str, setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/flickr30k/efficientnet-lite0+minilm--dinov2-small/linear-s0-epochs-5")
    verdict = {"verdict": words, "value": -0.1667, "ci_low": -0.2061, "ci_high": -0.1279, "p_holm": 0.271}
    contrasts = {name: verdict for name in ("joint − best raw part", "joint − average of raw parts")}
    show_run(load_run(write_run(folder, encoders=KIN, contrasts=contrasts, **setting)))
    lines = lines_of(screen)
    assert fits(lines)
    if "shuffle_pairs" not in setting:
        assert "−.167 [−.206, −.128], p .271" in lines[0] and lines[1].startswith("flickr30k: ")
    else:
        assert lines[0] == "A control, its training pairs shuffled: by itself it says nothing of pairing"
    for row in ("best raw part", "average of raw parts"):
        [line] = [line for line in lines if line.startswith(f"{row} ")]
        assert line.removeprefix(row).split() == [*words.split(), "−.167", "[−.206,", "−.128]", ".271"]
    [joint] = [line for line in lines if line.startswith("joint, trained")]
    assert joint.split()[2:] == [".307", "[.277,", ".337]"]
    assert sum(line.startswith("R@1/R@10 images→captions ") and "chance" in line for line in lines) == 1
    assert all(
        re.search(r"\d( at \d+)? +−?\d*\.\d{3}$", line) for line in lines if line.startswith(("mean R@10", "joint, mu"))
    )
    end = next(place for place, line in enumerate(lines) if line.startswith("The page with every figure"))
    assert lines[end] == "The page with every figure: featcache report \\" and lines[end + 1] == f"  {folder}"


def test_three_sides_two_runs_and_seeds_fit_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    three = ("efficientnet-lite0", "minilm", "minilm", "dinov2-small")
    show_runs([write_run(tmp_path / "three", sides=THREE, encoders=three)])
    show_runs([write_run(tmp_path / "no", sides=THREE, encoders=(*three[:3], None))])
    adapters = {"linear": "linear", "mixed": {"images": "normed-mlp", "captions": "bottleneck"}}
    show_runs([write_run(tmp_path / name, adapter=kinds, encoders=KIN) for name, kinds in adapters.items()])
    show_runs([write_run(tmp_path / f"s{seed}", seed=seed, encoders=KIN) for seed in range(3)])
    lines = lines_of(screen)
    assert fits(lines)
    rows = [line for line in lines if line.startswith(("images, ", "captions, names-de "))]
    assert rows and all(re.search(r"\.\d{3} +–$|\.\d{3}\]$|\.\d{3}$|at \d+ +\.\d{3}$", line) for line in rows)
    assert sum("…" in line and line.startswith("images") for line in lines) >= 1, "a long label is cut in its middle"
    retrieval = [line for line in lines if line.startswith("R@1/R@10")]
    assert len(retrieval) == 3 + 3 + 1 + 1 and all(line.count("/") >= 3 for line in retrieval)


def test_piped_output_has_whole_names_and_the_whole_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    folder = write_run(tmp_path / ("run" * 30), encoders=KIN)
    show_run(load_run(folder))
    text = capsys.readouterr().out
    assert "…" not in text and f"featcache report {folder}\n" in text
    assert "images (efficientnet-lite0), in agreement with efficientnet-lite2: −.166 [−.186, −.146], p < .001 (" in text


def test_a_terminal_of_ascii_gets_a_sparkline_of_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    accept_any_terminal()
    show_run(load_run(write_run(tmp_path / "run", encoders=KIN)))
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    [line] = [line for line in text.splitlines() if line.startswith("mean R@10")]
    assert "#" in line and "_" in line and "?" not in text


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cache(tmp_path_factory.mktemp("wide")).root


PAIR = ("openmoji", "efficientnet-lite0", "captions/minilm")
QUICK = ("--k", "5", "--permutations", "39")
SAMPLES = ("--interval", "samples", "--repeats", "20")
TYPED = {
    "align": ("align", *PAIR, *QUICK),
    "align with intervals": ("align", *PAIR, *QUICK, *SAMPLES, "--metric", "mutual_knn", "--metric", "cka_rbf:sigma=2"),
    "align within labels": ("align", *PAIR, *QUICK, "--null", "within:kind", "--verbose"),
    "align of layers": ("align", *PAIR, *QUICK, "--layers", "all"),
    "grid": ("grid", *PAIR, "efficientnet-lite2", *QUICK),
    "grid, verbose": ("grid", *PAIR, "efficientnet-lite2", *QUICK, "-v"),
    "curve": ("curve", *PAIR, "--k", "3", "--sizes", "40,80"),
    "ceiling": ("ceiling", *PAIR, "efficientnet-lite2", "--k", "5"),
    "competence": ("competence", *PAIR, "efficientnet-lite2", "--k", "5", "--label", "kind"),
    "probe": ("probe", *PAIR, "--label", "kind"),
    "ls": ("ls",),
    "du": ("du",),
    "train": ("train", *PAIR, "--reference", "efficientnet-lite2", "--epochs", "2", "--k", "5", "--out", "runs/one"),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPED)
def test_no_command_prints_beyond_80_columns(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATCACHE_HOME", str(place))
    app([*TYPED[name]], standalone_mode=False)
    lines = lines_of(screen)
    assert lines and fits(lines), [line for line in lines if len(line) > 80]


@pytest.mark.parametrize("name", ["align", "align with intervals"])
def test_align_prints_one_table_whose_rows_are_whole(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setenv("FEATCACHE_HOME", str(place))
    app([*TYPED[name]], standalone_mode=False)
    lines = lines_of(screen)
    [head] = [line for line in lines if line.startswith("metric ")]
    rows = [line for line in lines if line.startswith(("mutual_knn ", "cka_"))]
    assert len(rows) == 2 and all(len(line) == len(head) for line in rows)
    assert re.match(
        r"mutual-kNN \.\d{3}( \[\.\d{3}, \.\d{3}\])?, chance \.\d{3}: above unrelated features \(p ≤ \.025\)$", lines[0]
    )


# -- lines and tables -------------------------------------------------------------------------------------------------


def test_columns_that_are_alike_move_into_the_title_before_names_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    rows = [("x" * 60, "1176", "0.5"), ("y" * 30 + "z" * 40, "1176", "0.25")]
    print_fitted_table(("name", "n", "score"), rows, alike=(1,), title=("Title:",))
    lines = lines_of(screen)
    assert lines[0] == "Title: n 1176" and lines[1].split() == ["name", "score"] and len(lines) == 4
    assert "x" * 60 in lines[2] and re.match(r"y+z+ +0\.25$", lines[3])
    screen.truncate(0)
    print_fitted_table(("name", "n", "score"), [("x" * 90 + "end", "1", "0.5"), ("b", "2", "0.1")], alike=(1,))
    lines = lines_of(screen)
    assert len(lines) == 3 and len(lines[1].lstrip("\x00")) == 80 and "…" in lines[1] and "xend" in lines[1]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_parts_break_between_parts_and_a_path_stays_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    screen = terminal(monkeypatch, width)
    parts = ["openmoji:", "images (efficientnet-lite0) +", "captions (minilm)", "against efficientnet-lite2,", "seed 0"]
    print_parts(parts)
    lines = lines_of(screen)
    assert fits(lines, width) and " ".join(line.strip() for line in lines) == " ".join(parts)
    assert all(any(part in line for line in lines) for part in parts)
    path = "/".join(["a-folder"] * 30)
    print_path("Run folder:", path)
    assert path in [line.strip() for line in lines_of(screen)] or f"Run folder: {path}" in lines_of(screen)


def test_the_pooled_runs_of_seeds_have_an_answer_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.report.answer import answers

    values = (0.30, 0.47, 0.60)
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): value})
        for seed, value in enumerate(values)
    ]
    (run,) = pool_seeds(load_runs(folders))
    whole, *shorter = answers(run)
    assert "mean" in whole and min(len(text) for text in shorter) <= 80
