"""Does every command of the page on layouts run, and does the page name what the code reads?"""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache import data
from featcache.cache import Cache
from featcache.data.caption_files import COLUMNS
from featcache.data.layouts import LAYOUTS
from featcache.data.limits import DATA_LIMITS
from featcache.data.options import ROLES
from featcache.data.parquet_columns import CAPTION_NAMES, IMAGE_IDS, ROW_IDS
from featcache.store.rows import write_rows
from tests.dataset_hub import the_only_hub
from tests.own_data import coco_list, command, sample, write_pictures, write_shard, write_table
from tests.spine import store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/layouts.md").read_text(encoding="utf-8")
MANY = range(30)


def write_all_layouts(here: Path) -> None:
    """The data that the page speaks of."""
    write_shard(here / "crawl/00000.tar", {name: text for each in MANY for name, text in sample(each).items()})
    write_table(here / "tables/a.parquet", MANY, alt=[f"picture {number}" for number in MANY])
    names = [f"{number:012}.jpg" for number in MANY]
    coco_list(here / "mini_coco/annotations/captions_train2017.json", {name: ["a picture"] for name in names})
    write_pictures(here / "mini_coco/train2017", *names[1:])
    write_pictures(here / "classes", *(f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(3)))
    [entry] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (here / "datasets.toml").write_text(entry, encoding="utf-8")


def plant(cache: Cache, dataset: data.Dataset) -> None:
    """What `extract` would leave, with planted features instead of encoded ones."""
    rng = np.random.default_rng(0)
    latent = {group: rng.standard_normal(8) for group in dataset.overlay.groups}
    for encoder, name in {"efficientnet-lite0": "images", "minilm": "captions"}.items():
        if name in dataset.views:
            view = dataset.views[name]
            write_rows(cache.folder / dataset.name / name, view, dataset.overlay)
            values = np.stack([latent[group] for group in view.groups]) @ rng.standard_normal((8, 16))
            store(cache, dataset, view, encoder, values.astype(np.float16))


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATCACHE_DATASETS", str(tmp_path / "datasets.toml"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_all_layouts(tmp_path)
    opened: list[data.Dataset] = []

    def planned(cache: Cache, dataset: data.Dataset, *_: Any, **__: Any) -> None:
        opened.append(dataset)

    monkeypatch.setattr("featcache.encoders.weights.is_installed", lambda spec: True)
    monkeypatch.setattr("featcache.extraction.job.plan_job", planned)
    monkeypatch.setattr("featcache.commands.extraction.run_jobs", lambda *_: None)
    with the_only_hub(tmp_path, monkeypatch) as hub:
        monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "cache"))
        write_table(tmp_path / "files/train.parquet", MANY)
        hub.private["lab/photos"] = False
        hub.commit("lab/photos", {"train.parquet": (tmp_path / "files/train.parquet").read_bytes()})
        for line in "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).strip().split("\n"):
            words = shlex.split(line)
            code, said = command(*words[1:])
            assert words[0] == "featcache" and code == 0, f"{line}\n{said}"
            if words[1] == "extract":
                plant(Cache(), opened[-1])
                opened.append(opened[-1])
    names = [dataset.name for dataset in opened]
    assert [*dict.fromkeys(names)] == ["crawl", "tables", "mini_coco", "classes", "lab--photos", "birds"]
    assert opened[-1].licence == "CC BY 4.0" and len(opened[-1].views["captions"]) == len(MANY)


def test_the_page_names_every_layout_role_and_column() -> None:
    for name in (*LAYOUTS, *CAPTION_NAMES, *IMAGE_IDS, *ROW_IDS):
        assert f"`{name}`" in PAGE, name
    assert all(f"`{role}`" in PAGE for role in ROLES)
    assert set(COLUMNS["caption"]) <= set(CAPTION_NAMES)


@pytest.mark.parametrize("name", DATA_LIMITS)
def test_every_limit_of_data_stands_in_the_docs(name: str) -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    assert f"`{DATA_LIMITS[name].variable}`" in page and f"{DATA_LIMITS[name].most:,}" in page
