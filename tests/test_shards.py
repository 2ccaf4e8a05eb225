"""Does every chunk have one owner, whoever hands out the shards, and do the shards make one array?"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.cache import Cache
from featcache.errors import UsageError
from featcache.extraction.shards import Shard, from_environment, local_device, parse_shard
from featcache.store.layout import Layout, chunk_rows
from tests.fakes import text_dataset
from tests.test_extract import run, snapshot

ROOT = Path(__file__).parents[1]


def owners(shards: list[Shard], chunks: int) -> list[int]:
    return [sum(shard.mine(chunk) for shard in shards) for chunk in range(chunks)]


@given(count=st.integers(1, 40), chunks=st.integers(0, 200))
def test_every_chunk_belongs_to_exactly_one_shard(count: int, chunks: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    assert owners(shards, chunks) == [1] * chunks
    sizes = [sum(shard.mine(chunk) for chunk in range(chunks)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@given(parts=st.lists(st.integers(1, 6), min_size=1, max_size=8), chunks=st.integers(0, 200))
def test_shards_cut_into_different_numbers_of_parts_still_cover_every_chunk_once(parts: list[int], chunks: int) -> None:
    machines = [Shard(index, len(parts)) for index in range(len(parts))]
    shards = [machine.part(j, k) for machine, k in zip(machines, parts, strict=True) for j in range(k)]
    assert owners(shards, chunks) == [1] * chunks


@given(count=st.integers(1, 1000), index=st.integers(0, 999))
def test_a_shard_reads_back_as_it_is_written(count: int, index: int) -> None:
    if index < count:
        assert parse_shard(str(Shard(index, count))) == Shard(index, count)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4/4", "shards count from 0: 0/4 to 3/4"),
        ("0/0", "at least one shard"),
        ("1", "not of the form INDEX/COUNT"),
        ("-1/4", "not of the form"),
        ("1/4/2", "not of the form"),
        ("a/b", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_a_shard_that_does_not_exist_is_refused_with_those_that_do(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_shard(text)


# -- launchers --------------------------------------------------------------------------------------------------------


def array(number: int, least: int, most: int, step: int = 1) -> dict[str, str]:
    names = {"ID": number, "MIN": least, "MAX": most, "STEP": step, "COUNT": (most - least) // step + 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


def step(number: int, count: int) -> dict[str, str]:
    return {"SLURM_STEP_ID": "0", "SLURM_PROCID": str(number), "SLURM_STEP_NUM_TASKS": str(count)}


def torchrun(number: int, count: int) -> dict[str, str]:
    return {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number % 4)}


@pytest.mark.parametrize(
    ("env", "shard", "names"),
    [
        (torchrun(2, 8), Shard(2, 8), "RANK, WORLD_SIZE"),
        (step(3, 4), Shard(3, 4), "SLURM_PROCID, SLURM_STEP_NUM_TASKS"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2), "SLURM_PROCID, SLURM_NTASKS"),
        (array(5, 0, 15), Shard(5, 16), "SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN, SLURM_ARRAY_TASK_MAX"),
        (array(7, 1, 10, 3), Shard(2, 4), "SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN, SLURM_ARRAY_TASK_MAX"),
        (step(1, 4) | torchrun(3, 8), Shard(3, 8), "RANK, WORLD_SIZE"),
    ],
)
def test_a_launchers_variables_name_the_shard(env: dict[str, str], shard: Shard, names: str) -> None:
    assert from_environment(env) == (shard, names)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "0"},
        torchrun(0, 1),
        step(0, 1),
        array(3, 3, 3),
        # a batch script outside any step is one process, though these two are set in it
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "200505"},
    ],
)
def test_one_process_alone_has_no_shard(env: dict[str, str]) -> None:
    assert from_environment(env) is None


@given(elements=st.integers(2, 6), tasks=st.integers(2, 6), chunks=st.integers(0, 100), launcher=st.booleans())
def test_a_job_array_of_several_processes_each_covers_every_chunk_once(
    elements: int, tasks: int, chunks: int, launcher: bool
) -> None:
    inner = torchrun if launcher else step
    shards = [
        from_environment(array(a, 0, elements - 1) | inner(t, tasks)) for a in range(elements) for t in range(tasks)
    ]
    assert owners([shard for shard, _ in filter(None, shards)], chunks) == [1] * chunks


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({**array(5, 1, 9), "SLURM_ARRAY_TASK_COUNT": "3"}, r"3 elements between 1 and 9 .*--array=0-2"),
        (array(4, 1, 9, 2), "do not count shards"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "without _MIN and _MAX"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x' is no number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"RANK, WORLD_SIZE name no shard .*--shard"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(env: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        from_environment(env)


def test_a_launched_process_takes_the_gpu_of_its_place_on_the_machine() -> None:
    assert local_device("cuda", torchrun(5, 8), 4) == ("cuda:1", "LOCAL_RANK")
    assert local_device("cuda", step(5, 8) | {"SLURM_LOCALID": "3"}, 4) == ("cuda:3", "SLURM_LOCALID")
    assert local_device("cuda", torchrun(5, 8), 1) == ("cuda:0", "LOCAL_RANK"), "each sees only its own"
    assert local_device("cuda:2", torchrun(5, 8), 4) is None
    assert local_device("cpu", torchrun(5, 8), 0) is None
    assert local_device("cuda", {}, 4) is None


# -- several processes ------------------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
import featcache.extraction.job
from featcache.store.layout import Layout, chunk_rows
from featcache.extraction.shards import parse_shard
from tests.fakes import FakeEncoder, fake_card, text_dataset
from tests.test_extract import Cache, extract, plan, small_chunks
featcache.extraction.job.describe = lambda spec, options, memo: fake_card()
class Slow(FakeEncoder):
    def encode(self, prepared, layers):
        time.sleep(0.01)
        return super().encode(prepared, layers)
shard, cache = parse_shard(sys.argv[2]), Cache(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
done = extract(cache, small_chunks(plan(cache, text_dataset())), encoder=Slow(), chunks=shard.mine)
print(json.dumps([done.rows, done.complete]))
"""


def in_processes(folder: Path, shards: list[str]) -> list[tuple[int, bool]]:
    """(rows, complete) of one process a shard, all at work at once."""
    words = [sys.executable, "-c", CHILD, str(folder)]
    children = [
        subprocess.Popen([*words, shard], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for shard in shards
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return [tuple(json.loads(child.communicate(timeout=60)[0])) for child in children]


@pytest.fixture(autouse=True)
def _describe_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    import featcache.extraction.job
    from tests.fakes import fake_card

    monkeypatch.setattr(featcache.extraction.job, "describe", lambda spec, options, memo: fake_card())


def test_four_processes_at_once_make_the_array_of_one_and_one_of_them_completes_it(tmp_path: Path) -> None:
    run(Cache(tmp_path / "one"), text_dataset())
    done = in_processes(tmp_path / "four", [f"{index}/4" for index in range(4)])
    assert [rows for rows, _ in done] == [14, 14, 14, 8]
    assert any(complete for _, complete in done)
    assert snapshot(tmp_path / "four") == snapshot(tmp_path / "one")
    assert len(Cache(tmp_path / "four").load("tiny", "fake")) == 50


def test_shards_of_another_count_go_on_where_others_stopped(tmp_path: Path) -> None:
    run(Cache(tmp_path / "one"), text_dataset())
    shared = Cache(tmp_path / "shared")
    assert in_processes(tmp_path / "shared", ["1/3"]) == [(15, False)]
    assert [rows for rows, _ in in_processes(tmp_path / "shared", ["0/2", "1/2"])] == [21, 14]
    assert snapshot(tmp_path / "shared") == snapshot(tmp_path / "one")
    assert run(shared, text_dataset()).rows == 0


# -- the page ---------------------------------------------------------------------------------------------------------


def cells(line: str) -> list[float]:
    return [float(re.sub(r"[^\d.]", "", cell.partition("(")[0])) for cell in line.strip("| ").split("|")]


def test_the_worked_plan_says_what_the_planner_does() -> None:
    lines = (ROOT / "docs/scale.md").read_text(encoding="utf-8").splitlines()
    plans = [cells(line) for line in lines if re.match(r"\| \d+ \| \d", line)]
    hours = [cells(line) for line in lines if re.match(r"\| [\d,]+ \(", line)]
    assert len(plans) == 3 and len(hours) == 4
    for width, rows, each, chunks, gigabytes, objects in plans:
        plan = Layout(int(rows), chunk_rows(int(rows), int(width) * 2), 1, "row", 1)
        assert (each, chunks, objects) == (plan.chunk_rows, plan.chunks, 2 * plan.chunks + 4)
        assert gigabytes == round(rows * width * 2 / 1e9, 1)
    for rate, *each in hours:
        assert each == [round(1e8 / rate / devices / 3600, 1) for devices in (1, 8, 64)]
