"""The Markdown appendix: it parses, its numbers are the tables', names stay text, and its command trains the run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.printing import printable
from featcache.report.answer import answer, question
from featcache.report.command import training_command, without_option
from featcache.report.page import markdown
from featcache.report.page.appendix import appendix
from featcache.report.runs import RunResults, load_runs
from featcache.report.seeds import pool_seeds, score_text
from featcache.report.tables import contrast_table, retrieval_table, summary_table
from featcache.trainer.config import FitConfig
from featcache.trainer.run import load_run
from tests.spine import tiny_cache
from tests.test_report_hostile import HOSTILE, hostile_run
from tests.test_report_runs import FORMAT_1, SIDES, write_run

FIGURES = [("Final alignment", "The joint stands at .3 | of 1.", "figures/final_alignment.svg")]
MORE = {
    "a mention": "@somebody and a@1.com",
    "an address": "https://evil.example/?a=1 www.evil.example",
    "emphasis and code": "**a** _b_ `c` ``` ~~d~~ $x^2$ :tada:",
    "a heading": "# a",
    "a list": "- a",
    "a numbered list": "1. a",
    "lines": "a\n\n## b\n\n| c |",
    "a link": "[a](javascript:alert(1)) ![b](//evil) <https://evil>",
    "an underline": "===",
}


def parsed(text: str) -> list[Any]:
    """Tokens of the text by an independent parser; the tokens of a line within a line."""
    return MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(text)


def leaves(text: str) -> list[Any]:
    return [leaf for token in parsed(text) for leaf in (token.children or [token])]


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each table as a reader sees them."""
    found: list[list[list[str]]] = []
    tokens = parsed(text)
    for at, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and tokens[at - 1].type in ("th_open", "td_open"):
            found[-1][-1].append("".join(leaf.content for leaf in token.children))
    return found


def rows_by_name(text: str, head: str) -> dict[str, list[str]]:
    """Every row of the tables whose first heading is `head`, by its first cell."""
    return {row[0]: row[1:] for table in tables(text) if table[0][0] == head for row in table[1:]}


def one(folder: Path, **settings: Any) -> RunResults:
    (run,) = load_runs([write_run(folder, **settings)])
    return run


def well_formed(text: str) -> bool:
    """Whether every line of a table has as many cells as the one above it, and each table is one for the parser."""
    lines = text.splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if before.startswith("|") and line.startswith("|") and cells(before) != cells(line):
            return False
    return sum(bool(re.fullmatch(r"\|(-+:?\|)+", line)) for line in lines) == len(tables(text))


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", line))) - 1


# -- what it holds ----------------------------------------------------------------------------------------------------


def test_the_question_the_answer_the_settings_and_the_provenance_are_there(tmp_path: Path) -> None:
    run = one(tmp_path / "run", encoders=("efficientnet-lite0", "minilm", "efficientnet-lite2"), n=349)
    text = appendix([run], FIGURES)
    plain = [leaf.content for leaf in leaves(text) if leaf.type == "text"]
    assert text.startswith("# Does a joint space of images") and question([run]) in "".join(plain)
    assert f"{answer(run)}." in "".join(plain)
    assert "only 349 groups" in text and "same family" in text
    facts = rows_by_name(text, "")
    assert facts["data set"] == ["flickr30k"] and facts["test groups"][0] in ("349", f"{349:032x}")
    assert facts["reference"][0].startswith("efficientnet-lite2/last.mean of images, digest ")
    assert facts["width"] == ["256"] and facts["seed"] == ["0"] and facts["epoch kept"] == ["10"]
    assert facts["configuration"] == ["c0ffee" * 10] and facts["version of torch"] == ["2.9.0"]
    images = [leaf for leaf in leaves(text) if leaf.type == "image"]
    assert [image.attrs["src"] for image in images] == ["figures/final_alignment.svg"]
    assert "The joint stands at .3 | of 1." in "".join(plain) and well_formed(text)


def test_every_number_is_that_of_the_tables_of_the_page(tmp_path: Path) -> None:
    run = one(tmp_path / "run", control=True)
    text = appendix([run], [])
    assert well_formed(text) and "## Figures" not in text
    shown = [table for table in tables(text) if table[0][0] == "space"]
    for metric, table in zip(run.metrics, shown, strict=True):
        rows = [row for row in summary_table([run]) if metric in row.scores]
        for row, line in zip(rows, table[1:], strict=True):
            score = row.scores[metric]
            interval = f"[{score.ci_low:.3f}, {score.ci_high:.3f}]" if score.ci_low is not None else "–"
            assert line[:4] == [row.label, f"{score.value:.3f}", interval, f"{score.chance:.3f}"]
            assert line[4] == ("0.008 to 0.012" if score.null_low else "–") and line[5] == "1,000"
    judged = [line for table in tables(text) if table[0][0] == "contrast" for line in table[1:]]
    rows = contrast_table([run])
    assert judged == [[row.contrast, row.verdict, row.difference, row.interval, row.p, row.note] for row in rows]
    assert any(row[0] == "joint: trained − pairs shuffled" for row in judged)
    recalls = rows_by_name(text, "query → answer")
    for row in retrieval_table([run]):
        at = ("R@1", "R@5", "R@10", "median_rank").index(row.metric)
        value = f"{row.score.value:.1f}" if row.metric == "median_rank" else score_text(row.score)
        assert recalls[f"{row.label}, {row.stage}"][at].startswith(value)


@pytest.mark.parametrize("count", [2, 4, 5, 9])
def test_runs_are_columns_up_to_four_and_rows_beyond(count: int, tmp_path: Path) -> None:
    scores = [0.2 + at / 100 for at in range(count)]
    folders = [
        write_run(tmp_path / f"w{at}", width=64 + at, scores={("trained", "joint"): score}, recall=0.3 + at / 100)
        for at, score in enumerate(scores)
    ]
    runs = load_runs(folders)
    text = appendix(runs, [])
    assert well_formed(text)
    labels, texts = (
        [run.label for run in runs],
        [f"{score:.3f} [{score - 0.03:.3f}, {score + 0.03:.3f}]" for score in scores],
    )
    table = next(table for table in tables(text) if "joint, trained" in {*table[0], *(row[0] for row in table)})
    if count <= 4:
        assert table[0] == ["space", *labels]
        assert next(row for row in table if row[0] == "joint, trained")[1:] == texts
    else:
        assert [row[0] for row in table] == ["run", *labels]
        assert [row[table[0].index("joint, trained")] for row in table[1:]] == texts
    verdicts = [table for table in tables(text) if "joint − best raw part" in {*table[0], *(row[0] for row in table)}]
    first = next(row.text() for row in contrast_table(runs[:1]) if row.contrast == "joint − best raw part")
    assert len(verdicts) == 2 and first in {cell for row in verdicts[0] for cell in row}
    assert f"The headline run is {labels[-1]}" in text.replace("\\", "")


def test_seeds_three_sides_no_reference_and_old_runs_have_one_too(tmp_path: Path) -> None:
    seeds = pool_seeds(load_runs([write_run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]))
    text = appendix(seeds, [])
    assert well_formed(text) and rows_by_name(text, "")["seeds"] == ["0, 1, 2"]
    assert text.count("\nfeatcache train flickr30k ") == 3 and "below in 3 of 3" in text
    three = (*SIDES, "names-de")
    for run in (
        one(tmp_path / "three", sides=three, encoders=("vit", "gpt2", "gpt2", "dino")),
        one(tmp_path / "no", sides=three, encoders=("vit", "gpt2", "gpt2", None)),
        load_runs([FORMAT_1])[0],
    ):
        text = appendix([run], FIGURES)
        assert well_formed(text) and answer(run) in "".join(leaf.content for leaf in leaves(text))


# -- names that are anybody's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", {**HOSTILE, **MORE}.values(), ids={**HOSTILE, **MORE})
def test_a_name_stays_text_in_a_cell_a_line_and_a_heading(name: str) -> None:
    expected = printable(name, one_line=True)
    text = f"# {markdown.text(name)}\n\n{markdown.paragraph(name)}\n\n" + markdown.table((name, "b"), [("c", name)])
    assert well_formed(text)
    kinds = {leaf.type for leaf in leaves(text)}
    assert not {
        kind for kind in kinds if kind.startswith(("html", "link", "image", "code", "em", "strong", "s_", "fence"))
    }
    assert not {kind for kind in kinds if "list" in kind or kind in ("hr", "softbreak", "hardbreak", "blockquote_open")}
    [[[head, _], [_, cell]]] = tables(text)
    assert head == cell == expected.strip() and text.count("\n") == 6
    lines = [token.children for token in parsed(text) if token.type == "inline"]
    for line in lines[:2]:
        assert "".join(leaf.content for leaf in line) == expected.strip()
    assert not re.search(r"(?<!\\):(?=//)|(?<![\\\w])@\w|(?i:www\.)(?<!\\\.)e|(?<!\\)\$", text)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_run_of_hostile_names_makes_a_whole_appendix(name: str, tmp_path: Path) -> None:
    (run,) = load_runs([hostile_run(tmp_path / "run", [name, f"other {name}"])])
    text = appendix([run], [(name, name, f"figures/{name[:50]}.svg")])
    assert well_formed(text)
    assert not any(leaf.type.startswith(("html", "link")) for leaf in leaves(text))
    sources = [str(leaf.attrs["src"]) for leaf in leaves(text) if leaf.type == "image"]
    assert len(sources) == 1 and re.fullmatch(r"figures/[A-Za-z0-9._~%/-]*\.svg", sources[0])


def test_a_fence_is_longer_than_what_it_holds() -> None:
    [token] = parsed(markdown.code(["a ```` b", "c\nd"], "bash"))
    assert (token.type, token.info, token.content) == ("fence", "bash", "a ```` b\nc\\nd\n")


# -- the command that trains the run -----------------------------------------------------------------------------------


COMMANDS = [
    "--adapter mlp --epochs 1 --lr 0.0003 --k 5 --seed 3",
    "--adapter images=linear,captions=identity --width 16 --epochs 1 --k 5 --pair-weight images+captions=0.5 --mixup",
    "--adapter cca --k 5 --select alignment --hits group --captions mean",
    "--reference none --epochs 1 --k 5 --loss siglip --temperature 0.2 --batch 64 --shuffle-pairs",
]


@pytest.mark.parametrize("options", COMMANDS)
def test_the_command_trains_the_very_run(options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", str(tiny_cache(tmp_path).root))
    words = shlex.split(options)
    reference = [] if "--reference" in words else ["--reference", "efficientnet-lite2"]
    sides = ["openmoji", "efficientnet-lite0", "captions/minilm", *reference]
    typed(["train", *sides, *words, "--out", str(tmp_path / "run")])
    (run,) = load_runs([tmp_path / "run"])
    program, *again = shlex.split(training_command(run))
    assert program == "featcache" and without_option(run) == {}
    typed([*again, "--out", str(tmp_path / "again")])
    first, second = (load_run(tmp_path / name).config for name in ("run", "again"))
    for part in ("config_hash", "sides", "reference", "leaks", "split", "dataset"):
        assert first[part] == second[part], part


def typed(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{words}\n{done.output}{done.exception!r}"


def test_every_setting_has_an_option_or_is_named_as_an_experiment_s(tmp_path: Path) -> None:
    run = one(tmp_path / "run", permutations=99, untrained=2, clip=1.0)
    run.config["config"] |= {"warmup": 0.2, "split_seed": 7}
    assert {*without_option(run)} == {"permutations", "untrained", "clip", "warmup", "split_seed"}
    assert "permutations = 99" in appendix([run], []) and "--permutations" not in training_command(run)
    changed: dict[str, Any] = {name: "7" for name in FitConfig.model_fields}
    changed |= {"mixup": True, "shuffle_pairs": True, "pair_weights": {"images+captions": 0.5}}
    run.config["config"] = changed
    flags = [word for word in shlex.split(training_command(run)) if word.startswith("--")]
    shown = " ".join(CliRunner().invoke(app, ["train", "--help"]).stdout.split())
    assert len(flags) == len({*flags}) and all(f"{flag} " in shown for flag in flags)
    known = {flag.removeprefix("--").replace("-", "_") for flag in flags} | {*without_option(run)}
    assert {*changed} - {"pair_weights"} <= known and "pair_weight" in known


def test_a_control_and_dropped_leaks_are_part_of_the_command(tmp_path: Path) -> None:
    run = one(tmp_path / "run", control=True)
    run.config["control"], run.config["leaks"] = "abcdef" * 10, "dropped"
    assert training_command(run).endswith(" --on-leak drop --control CONTROL")
    assert "CONTROL stands for the folder of the control run, of configuration abcdefabcdefabcd." in appendix([run], [])
    named = json.loads(json.dumps(run.config["sides"]))
    run.config["sides"] = {"photo": named["images"], "text": named["captions"]}
    assert " photo=images/resnet18/last.mean@" in training_command(run)
