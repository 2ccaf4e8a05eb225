"""The command `advise`, when typed, answers first, prints, writes and draws what it says, and refuses by name."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from featcache.commands.advise import advise
from featcache.studies.advise.settings import ANSWERS
from tests.advise_planted import planted_cache

QUICK = ("--folds", "3", "--adapters", "2", "--steps", "16", "--width", "4")
app = typer.Typer()
app.command("advise")(advise)
app.command("other")(lambda: None)  # so that `advise` is a name, as in the program


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("typed")).root


def run(place: Path, *words: str | Path) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, ["advise", *map(str, words), "--cache", str(place)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def printed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    words = (
        "openmoji",
        "eye",
        "ear",
        *QUICK,
        "--labels",
        "bit",
        "--figure",
        folder / "a.svg",
        "--out",
        folder / "a.parquet",
    )
    return run(place, *words, "--verbose"), folder


def test_the_answers_come_first_and_what_is_behind_them_follows(printed: tuple[str, Path]) -> None:
    text, _ = printed
    lines = text.splitlines()
    assert lines[0] == "eye and ear to tell bit of openmoji:"
    said = [line for line in lines[1:5] if line.split(":")[0] in ANSWERS]
    assert said and "both together" in text and "eye → ear" in text
    order = [text.index(words) for words in ("both together", "Held-out accuracy", "Usable information", "Alignment:")]
    assert order == sorted(order)
    assert re.search(r"^redundancy +\.\d{3} +\[\.\d{3}, \.\d{3}\] +\[\.\d{3}, \.\d{3}\]", text, re.MULTILINE)
    assert "an adapter adds no label information" in text and "align is hardly ever right" in text
    assert "eye: images/eye/last.mean, d = 6" in text and "Classifiers: " in text
    assert "mutual-kNN" in text and "debiased CKA" in text


def test_table_and_figure_are_written_where_the_command_says(printed: tuple[str, Path]) -> None:
    text, folder = printed
    assert f"Table: {folder / 'a.parquet'}" in text and f"Figure: {folder / 'a.svg'}" in text
    assert (folder / "a.svg").read_text(encoding="utf-8").startswith("<svg")
    table = pl.read_parquet(folder / "a.parquet")
    assert table.filter(pl.col("table") == "answer")["answer"].is_in(list(ANSWERS)).all()


def test_json_has_everything(place: Path) -> None:
    words = (
        "openmoji",
        "eye/0.mean",
        "far",
        *QUICK,
        "--label",
        "rare",
        "--groups",
        "60",
        "--use",
        "joint",
        "--use",
        "few",
    )
    said = json.loads(run(place, *words, "--json"))
    assert [(pair["first"], pair["second"]) for pair in said["pairs"]] == [("eye", "far")]
    assert said["label"] == "rare" and said["groups"] <= 60 and said["arrays"]["eye"]["layer"] == "0.mean"
    assert {row["use"] for row in said["pairs"][0]["answers"]} == {"joint", "few"}
    assert len(said["notes"]) == 3 and "1 class of fewer than 6 groups is left out: 3 groups" in said["notes"]


def test_a_terminal_of_eighty_columns_is_not_overrun(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from featcache.report.terminal import advise as shown
    from featcache.report.terminal import console, fitted

    def narrow(*, stderr: bool = False) -> Console:
        return Console(width=80, highlight=False, markup=False)

    for module in (shown, console, fitted):
        monkeypatch.setattr(module, "console", narrow)
    text = run(place, "openmoji", "eye", "captions/ear", *QUICK, "--use", "transfer", "--use", "few")
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"…\d|\d…", text)


BAD = [
    (("openmoji", "eye", *QUICK), 1, ("UsageError", "two or more")),
    (("openmoji", "eye", "eye"), 1, ("UsageError", "each array once")),
    (("openmoji", "eye", "gpt2"), 1, ("FeaturesNotCached", "featcache extract openmoji gpt2")),
    (("openmoji", "eye", "ear", "--labels", "hue"), 1, ("UsageError", "no label 'hue'", "bit, one, rare")),
    (("openmoji", "eye", "ear", "--labels", "one"), 1, ("UsageError", "needs two", "--labels")),
    (("openmoji", "eye", "ear", "--label-view", "captions"), 1, ("UsageError", "made from the label bit", "--labels")),
    (("openmoji", "eye", "ear", "--label-view", "promts"), 1, ("UsageError", "no such view", "captions")),
    (("openmoji", "eye", "ear", "--folds", "80"), 1, ("UsageError", "160 groups or more", "--folds")),
    (("openmoji", "eye", "ear", "--use", "fusion"), 1, ("BadChoice", "use fusion", "joint, alone, few, transfer")),
    (("openmoji", "eye", "ear", "--figure", "a.gif"), 1, ("a.gif", ".png or .svg")),
    (("openmoji", "eye", "ear", "--out", "a.csv"), 1, ("a.csv", ".parquet")),
    (("openmoji", "eye", "ear", "--folds", "2"), 2, ("--folds",)),
    (("openmoji", "eye", "ear", "--adapters", "1"), 2, ("--adapters",)),
    (("openmoji",), 2, ("ARRAY",)),
]


@pytest.mark.parametrize(("words", "code", "expected"), BAD)
def test_a_mistake_is_one_clear_message(
    place: Path, words: tuple[str, ...], code: int, expected: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(app, ["advise", *words, "--cache", str(place)])
    assert done.exit_code == code
    printed = done.stderr if code == 2 else f"{type(done.exception).__name__}: {done.exception}"
    for part in expected:
        assert part in " ".join(printed.replace("│", " ").split())
