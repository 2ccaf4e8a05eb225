"""Does the first minute work: the whole demo, and the second time without an encoder library?"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from featcache.commands import demo as demo_module
from featcache.commands.demo import run_demo
from featcache.data.errors import DataMissing
from featcache.data.views import View
from featcache.report.caveats import caveat_list
from featcache.report.runs import load_runs
from featcache.store.rows import write_rows
from featcache.trainer import config
from featcache.trainer.defaults import DEMOS
from tests.spine import store, tiny_cache, tiny_dataset
from tests.test_cli import BLOCK

ROOT = Path(__file__).parents[1]


PAIRS = ("images+captions", "images+speech", "captions+speech")
START = "import sys; sys.argv = ['featcache', *sys.argv[1:]]; from featcache.commands.app import main; main()"


def demo(folder: Path, code: str, *options: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FEATCACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", code, "demo", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_ends_with_tables_and_page_and_the_second_one_reuses_everything(tmp_path: Path) -> None:
    first = demo(tmp_path, START)
    assert "joint, trained" in first and "images → captions" in first and "Caveat" in first
    page = tmp_path / "runs/demo/index.html"
    assert str(page) in first and page.stat().st_size > 500_000
    again = demo(tmp_path, BLOCK)
    assert again.count("all of it cached already") == 3 and again.count("was there already") == 3


@pytest.mark.slow
def test_the_demo_of_three_modalities_joins_speech_too_and_the_second_one_reuses_everything(tmp_path: Path) -> None:
    first = demo(tmp_path, START, "--modalities", "3")
    assert "R@1/R@10 captions → speech" in first and "the runs join different sides" in first
    page = tmp_path / "runs/demo-3/index.html"
    assert str(page) in first and page.stat().st_size > 500_000
    again = demo(tmp_path, BLOCK, "--modalities", "3")
    assert again.count("all of it cached already") == 4 and again.count("was there already") == 4


def test_of_three_modalities_all_sides_and_each_pair_are_trained_at_one_width_on_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, dataset = tiny_cache(tmp_path, captions=1), tiny_dataset(captions=1)
    ids = dataset.overlay.groups
    view = View("speech", "audio", ids, ids, lambda row: ids[row].encode(), bytes)
    write_rows(cache.folder / "openmoji" / "speech", view, dataset.overlay)
    values = cache.load("openmoji", "minilm").values @ np.random.default_rng(1).standard_normal((16, 12))
    store(cache, dataset, view, "whisper-tiny-en", values.astype(np.float16))
    quick = partial(config.make_config, epochs=2, batch=32, k=5, permutations=39, halves=20)
    monkeypatch.setattr(config, "make_config", quick)
    trained = demo_module._train_subsets(cache, DEMOS[3], tmp_path / "runs")
    assert [run.path.name for run in trained] == ["images+captions+speech", *PAIRS]
    for run in trained:
        assert "+".join(run.config["sides"]) == run.path.name
        assert run.config["split"]["hashes"] == trained[0].config["split"]["hashes"], "the same rows"
        assert run.config["config"] == trained[0].config["config"] and run.config["config"]["width"] == 256
        assert run.config["reference"] == trained[0].config["reference"]
    lines = [one.line for one in caveat_list(load_runs([run.path for run in trained]))]
    assert "the runs join different sides; their joints share test groups and reference." in lines
    capsys.readouterr()
    demo_module._train_subsets(cache, DEMOS[3], tmp_path / "runs")
    assert capsys.readouterr().out.count("was there already") == 4


def test_a_package_that_the_demo_lacks_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataMissing, match=r"Run: pip install 'featcache\[speech\]'"):
        run_demo(str(tmp_path / "cache"), tmp_path / "runs", 3)
    assert not list(tmp_path.glob("cache/**/*.bin")) and not (tmp_path / "runs").exists()
