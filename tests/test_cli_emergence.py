"""The commands of the study of emergence, each with a run that ends well, and the mistakes that a user makes."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from featcache.commands.app import app
from featcache.data.synthetic.released import Released
from featcache.studies.emergence.synthetic import generators, profiles
from featcache.studies.emergence.synthetic.profiles import Profile
from featcache.studies.emergence.together import training as together
from featcache.studies.emergence.together.training import PairSettings, TogetherProfile

SMALL = Released(shared=3, unique=2, used=3, classes=3, temperature=0.2, rows=3_000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of a generator of five bits a modality, and of few steps."""
    sizes = Profile((1, 2, 3, 4), (1, 2, 3), (2,), steps1=40, steps2=40)
    pairs = TogetherProfile((0, 3), (1,), (0.0, 2.0), (0,), PairSettings(steps=30, width=8), draws=2, private=2)
    monkeypatch.setitem(profiles.PROFILES, "quick", sizes)
    monkeypatch.setattr(together, "PROFILES", {"quick": pairs})
    monkeypatch.setattr(generators, "open_generator", lambda name: SMALL)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})


def test_synthetic_writes_its_tables_and_claims_and_report_draws_them(small: None, tmp_path: Path) -> None:
    words = ("emergence", "synthetic", "--out", tmp_path / "out", "--processes", 0)
    done = run(*words)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "synthetic" / "quick"
    for name in ("models", "alignment", "oracles", "maxima", "relations", "ledger"):
        assert len(pl.read_parquet(folder / f"{name}.parquet")), name
    assert "max CKA" in done.stdout and "featcache report" in done.stdout
    before = (folder / "models.parquet").read_bytes()
    again = run(*words)
    assert again.exit_code == 0 and (folder / "models.parquet").read_bytes() == before
    page = run("report", folder, "--out", tmp_path / "page")
    assert page.exit_code == 0, page.output
    assert (tmp_path / "page" / "index.html").is_file()


def test_together_writes_its_tables_and_says_what_helps_and_harms(small: None, tmp_path: Path) -> None:
    done = run("emergence", "together", "--out", tmp_path / "out", "--processes", 0)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out" / "together" / "quick"
    effects = pl.read_parquet(folder / "effects.parquet")
    assert f"Of {len(effects)} differences" in done.stdout and "no intervals" in " ".join(done.stdout.split())
    assert {"joint", "alone", "few"} <= set(effects["use"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("synthetic", "--generator", "nonsense"), "unique_for_redundancy"),
        (("together", "--generator", "nonsense"), "there are released"),
        (("multibench", "nonsense", "--root", "."), "mosei"),
        (("spoken-digits", "--root", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_named_and_writes_nothing(
    words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("emergence", *words)
    assert done.exit_code != 0 and expected in f"{done.exception} {done.output}"
    assert not (tmp_path / "emergence").exists()


def test_the_group_lists_its_commands() -> None:
    done = run("emergence", "--help")
    for name in ("synthetic", "together", "spoken-digits", "multibench"):
        assert name in done.stdout
