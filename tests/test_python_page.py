"""The blocks of docs/python.md run as they stand, one after the other."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names = dict[str, Any]()
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert "(1176, 64)" in said and "last.flat" in said and "linear" in said
    assert names["test"].values.shape == (40, 8)
