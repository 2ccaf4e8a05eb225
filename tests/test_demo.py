"""Does the first minute work: the whole demo, and the second time without an encoder library?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import BLOCK

ROOT = Path(__file__).parents[1]


def demo(folder: Path, code: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FEATCACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", code, "demo"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_ends_with_tables_and_page_and_the_second_one_reuses_everything(tmp_path: Path) -> None:
    first = demo(
        tmp_path, "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"
    )
    assert "joint, trained" in first and "images → captions" in first and "Caveat" in first
    page = tmp_path / "runs/demo/index.html"
    assert str(page) in first and page.stat().st_size > 500_000
    again = demo(tmp_path, BLOCK)
    assert again.count("all of it cached already") == 3 and again.count("was there already") == 3
