"""The published comparison from ids alone: wit_1024 through language models and a vision model, to its protocol."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from tests import families
from tests.test_data_wit import table


def run(*words: str) -> str:
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_wit_1024_by_ids_gives_the_scores_and_bits_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Path("wit").mkdir()
    words = families.WORDS
    captions = [[" ".join(words[(row >> bit) % 3 + bit] for bit in range(8))] for row in range(1024)]
    table(1024, text=captions).write_parquet("wit/0.parquet")
    for name in ("gpt2", "llama"):
        families.TEXT[name](tmp_path / name)
    families.IMAGE["dinov2"](tmp_path / "dinov2")
    run("extract", "wit_1024", "hf:./gpt2", "hf:./llama", "hf:./dinov2", "--root", "wit", "--cache", "cache")
    run("grid", "wit_1024", "hf-gpt2", "llama", "dinov2", "--protocol", "huh2024", "--permutations", "39",
        "--out", "grid.parquet", "--figure", "grid.png", "--cache", "cache")  # fmt: skip
    best = pl.read_parquet("grid.parquet").filter(pl.col("best"))
    assert set(best["n"]) == {1024} and set(best["protocol"]) == {"huh2024"} and len(best) == 3
    assert best["value"].is_between(0, 1).all() and Path("grid.png").stat().st_size > 10_000
