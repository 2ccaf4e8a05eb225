"""A few attacks of each kind, so that the harness itself stays alive; `make attack` does them all."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack import bombs, kills, malformed, races, runner, single_faults
from tests.attack.attacks import Attack, Problem
from tests.attack.contents import contents, differences
from tests.attack.malformed import DOORS
from tests.attack.readers import OF_CACHES
from tests.attack.single_faults import FAULTS, KINDS, files_by_kind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and memfd")

SAMPLE = (
    "kills/extract/0",
    "kills/train/1",
    "faults/chunk-flipped/0",
    "faults/rows-cut/0",
    "faults/run-weights-flipped/1",
    "malformed/plan/0",
    "malformed/pointer/1",
    "malformed/import-npy/0",
    "bombs/pipe-key.json/0",
    "bombs/plan-of-10-to-the-12/0",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Problem] | None]:
    """What came of the sample, in a process of its own: pytest's runs threads."""
    import json
    import os
    import subprocess

    folder = tmp_path_factory.mktemp("attack")
    code = "import json, sys; from tests.attack.test_attack import sampled; sampled(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a forked child waits for ever for threads that it lacks
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


def sampled(folder: str) -> None:
    """Does the sample, and writes what came of it."""
    import json

    run = runner.Run(Path(folder) / "run", seed=1)
    run.attacks = [attack for attack in run.attacks if attack.name in SAMPLE]
    done = run.results(workers=2)
    problems = {attack.name: problems and [each.what for each in problems] for attack, problems in done}
    (Path(folder) / "results.json").write_text(json.dumps(problems))


@pytest.mark.parametrize("name", SAMPLE)
def test_an_attack_achieves_nothing(results: dict[str, list[Problem] | None], name: str) -> None:
    assert results[name] == []


def test_there_are_as_many_attacks_as_are_promised() -> None:
    assert len(kills.attacks()) >= 300
    assert len(single_faults.attacks()) >= 1000
    assert len(malformed.attacks(0)) >= 2000
    assert bombs.attacks() and races.attacks()


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in runner.every_attack(0)]
    assert len(set(names)) == len(names)


def test_a_problem_is_counted_in_the_row_of_its_kind_and_under_its_harm() -> None:
    attack = Attack("kills/train/0", lambda ground, random: [])
    other = Attack("kills/bucket-push/0", lambda ground, random: [])
    text = runner.table([(attack, [Problem("lost", "a file is gone")]), (attack, []), (other, None)])
    rows = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert rows["kills"] == ["2", "0", "0", "1", "0"]
    assert rows["kills, bucket, not done"] == ["1", "0", "0", "0", "0"]
    assert rows["together"] == ["2", "0", "0", "1", "0"]


@pytest.fixture
def two_folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "commit.json").write_text(f'{{"rows": 3, "writer": "{name}"}}')
    yield tmp_path / "a", tmp_path / "b"


def test_folders_that_differ_in_who_wrote_them_are_worth_the_same(two_folders: tuple[Path, Path]) -> None:
    one, other = two_folders
    assert contents(one) == contents(other)
    (other / "commit.json").write_text('{"rows": 4}')
    assert differences(contents(one), contents(other)) == ["commit.json differs"]


def test_faults_and_doors_and_readers_are_told_apart_by_name() -> None:
    assert len({door.name for door in DOORS}) == len(DOORS)
    assert len({reader.name for reader in OF_CACHES}) == len(OF_CACHES)
    assert set(KINDS) and set(FAULTS)


def test_kinds_know_the_files_of_a_cache(tmp_path: Path) -> None:
    array = tmp_path / "cache" / "tiny" / "images" / "a" / "last.cls" / "0"
    array.mkdir(parents=True)
    (array / "c.0.0").touch()
    (array / "key.json").touch()
    assert set(files_by_kind(tmp_path)) == {"chunk", "key"}
