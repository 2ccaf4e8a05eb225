"""Does a Ray cluster make the arrays and the scores that one process makes, though a worker is killed?"""

import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.errors import ExtractionFailed, UsageError, WeightsInvalid
from featcache.extraction.ray_cluster import run_on_ray
from featcache.studies.alignment.sample_ray import RemoteSample, sampled_on_ray
from featcache.studies.alignment.sampled import SampleSettings, galleries, sampled_scores
from tests.spine import tiny_cache
from tests.test_extract import snapshot
from tests.test_launch import CHUNK, Site

ROOT = Path(__file__).parents[1]
pytest.importorskip("ray")
ROWS = 96
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")  # ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, two cores; its workers find the tests' modules."""
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray announces its own future changes
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
        yield
        ray.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_worker_killed_in_mid_run_changes_no_byte_of_the_array(tmp_path: Path, cluster: None) -> None:
    site = Site(tmp_path, ROWS)
    cache = site.cache(tmp_path / "shared")
    job = site.job(cache)
    printed: list[str] = []
    counted: list[int] = []

    def kill_the_first(rows: int) -> None:
        counted.append(rows)
        if len(counted) == 1:
            os.kill(int(re.findall(r"worker: process (\d+) on", "\n".join(printed))[0]), signal.SIGKILL)

    done = run_on_ray(job, site.remote(cache, job), actors=2, on_rows=kill_the_first, on_line=printed.append)
    assert any(re.match(r"lost the worker of chunk \d+: ", line) for line in printed), printed
    assert done.complete and sum(counted) == done.rows
    assert ROWS - 2 * CHUNK <= done.rows <= ROWS, "rows that the killed worker had committed but not reported may lack"
    assert snapshot(tmp_path / "shared") == site.whole(tmp_path / "one")
    again = run_on_ray(site.job(cache), site.remote(cache, job), actors=2)
    assert (again.rows, again.reused, again.complete) == (0, ROWS, True)


def test_a_workers_own_error_stops_the_run_with_its_message(tmp_path: Path, cluster: None) -> None:
    site = Site(tmp_path, ROWS)
    cache = site.cache(tmp_path / "shared")
    job = site.job(cache)
    elsewhere = replace(site.remote(cache, job), encoder="other")
    with pytest.raises(WeightsInvalid, match="is not the encoder that the extraction was started with"):
        run_on_ray(job, elsewhere, actors=1)


def test_a_named_gpu_or_a_gpu_that_the_cluster_lacks_is_refused(tmp_path: Path, cluster: None) -> None:
    site = Site(tmp_path, ROWS)
    cache = site.cache(tmp_path / "shared")
    job = site.job(cache)
    for device, says in (("cuda:1", "Ray's choice: --device cuda"), ("cuda", "the Ray cluster has no GPU")):
        other = replace(job, options=replace(job.options, device=device))
        with pytest.raises(UsageError, match=says):
            run_on_ray(other, site.remote(cache, job))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_chunk_that_kills_every_worker_is_given_up_by_name(tmp_path: Path, cluster: None) -> None:
    site = Site(tmp_path, ROWS)
    cache = site.cache(tmp_path / "shared")
    job = site.job(cache)
    started: list[int] = []

    def kill_whoever_comes(line: str) -> None:
        for pid in re.findall(r"worker: process (\d+) on", line):
            started.append(int(pid))
            os.kill(started[-1], signal.SIGKILL)

    with pytest.raises(ExtractionFailed, match="the worker of chunk 0 was lost 3 times"):
        run_on_ray(job, site.remote(cache, job), actors=1, on_line=kill_whoever_comes)
    assert len(started) == 3


@dataclass(frozen=True)
class DiesOnce(RemoteSample):
    """Its second part takes its worker with it, the first time."""

    mark: str = ""

    def part(self, index: int, count: int, threads: int) -> Any:
        if index == 1 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().part(index, count, threads)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_sampled_queries_score_on_a_cluster_what_they_score_here_though_a_worker_dies(tmp_path, cluster: None) -> None:
    cache = tiny_cache(tmp_path / "cache", photos=40)
    settings, names = SampleSettings(30, 3, seed=1), ["efficientnet-lite0", "captions/minilm"]
    pair = galleries(cache, "openmoji", names, "mean")
    here = sampled_scores(pair, settings)
    sample, ended = RemoteSample.of(cache, pair, settings), list[tuple[int, int]]()
    mark = str(tmp_path / "mark")
    there = sampled_on_ray(DiesOnce(**vars(sample), mark=mark), tasks=4, on_task=lambda *done: ended.append(done))
    assert np.array_equal(there.groups, here.groups) and np.array_equal(there.scores, here.scores)
    assert Path(mark).exists() and ended == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(UsageError, match="30 queries leave none for part 30 of 31"):
        sampled_on_ray(sample, tasks=31)
    arguments = [
        "sample",
        "openmoji",
        *names,
        "--queries",
        "30",
        "--k",
        "3",
        "--seed",
        "1",
        "--cache",
        str(tmp_path / "cache" / "cache"),
    ]
    table = tmp_path / "table.parquet"
    ran = CliRunner().invoke(app, [*arguments, "--executor", "ray", "--actors", "2", "--out", str(table)])
    assert ran.exit_code == 0 and "searched 2 of 2 parts" in ran.output
    assert pl.read_parquet(table)["value"].item() == here.scores.mean()
    refused = CliRunner().invoke(app, [*arguments, "--actors", "2"])
    assert refused.exit_code and "--executor ray" in str(refused.exception or refused.output)
