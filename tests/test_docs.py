"""Do the pages say what is so?"""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from tests import metrics_page
from tests.cli_page import PAGE, command_names, help_page
from tests.test_store import features, write_all

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_command_page_is_what_help_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == help_page(), "run: make docs"


def test_the_reader_on_the_format_page_reads_what_the_store_writes(tmp_path: Path) -> None:
    array = write_all(tmp_path)
    names: dict[str, object] = {}
    for block in blocks((ROOT / "docs/format.md").read_text(encoding="utf-8"), "python"):
        exec(block, names)  # the page's own code
    read = names["read"]
    assert callable(read)
    np.testing.assert_array_equal(read(array.path), features())


def tracked_files() -> set[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_tree_in_the_readme_is_the_tree() -> None:
    listed = blocks(README, "text")[-1]
    named: set[str] = set()
    folders: list[str] = []
    for line in listed.strip().split("\n"):
        path = line.split("  ")[0] if not line.startswith(" ") else line
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.strip().split(" ")[0]
        assert path
        folders = [*folders[:depth], name]
        if not name.endswith("/"):
            named.add("".join(folders))
    wanted = {path for path in tracked_files() if (ROOT / path).exists()}
    modules = {
        path
        for path in wanted
        if path.endswith(".py") and "/" in path and not path.startswith(("tests/", "benchmarks/"))
    }
    modules = {path for path in modules if not path.endswith("__init__.py")}
    assert named <= wanted, f"in the README but not there: {sorted(named - wanted)}"
    assert modules <= named, f"there but not in the README: {sorted(modules - named)}"


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
            assert words[1] in command_names(), line
            shown = CliRunner().invoke(app, [words[1], "--help"]).stdout
            for option in [word.split("=")[0] for word in words if word.startswith("--")]:
                assert option in shown, line


@pytest.mark.parametrize("page", ["README.md", "docs/metrics.md"])
def test_every_python_block_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.spine import tiny_cache

    monkeypatch.setenv("FEATCACHE_HOME", str(tiny_cache(tmp_path).root))
    for block in blocks((ROOT / page).read_text(encoding="utf-8"), "python"):
        exec(block, {})  # the page's own code


def test_the_table_of_metrics_says_what_the_code_says() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page(), "run: make docs"


def test_no_page_names_a_command_line_tool_of_ours_that_does_not_exist() -> None:
    for page in PAGES:
        for word in re.findall(r"`featcache ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert word in command_names() or word == "COMMAND", f"{page}: featcache {word}"
