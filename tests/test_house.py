"""The tools see every room, and the contracts of imports in pyproject.toml refuse what they are there to refuse."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rooms import ROOT, pyproject, rooms, source_files

LINT = Path(sys.executable).with_name("lint-imports")
# contract, and files that break it
REFUSED: list[tuple[str, dict[str, str]]] = [
    ("Imports run one way", {"metrics/extra.py": "import featcache.trainer.fit"}),
    ("Imports run one way", {"data/extra.py": "def f():\n    import featcache.cache"}),
    ("Imports run one way", {"data/extra.py": "import featcache.metrics.errors"}),
    ("Imports run one way", {"sharing/extra.py": "import featcache.extraction.job"}),
    ("Imports run one way", {"extra/__init__.py": ""}),
    ("No circles", {"store/a.py": "import featcache.store.b", "store/b.py": "def f():\n    import featcache.store.a"}),
    (
        "No circles",
        {
            "metrics/scores/a.py": "import featcache.metrics.sweeps.a",
            "metrics/sweeps/a.py": "",
            "metrics/sweeps/b.py": "import featcache.metrics.scores.b",
            "metrics/scores/b.py": "",
        },
    ),
    ("Training and measuring", {"trainer/extra.py": "def f():\n    import timm"}),
    ("Training and measuring", {"metrics/extra.py": "import torchvision.transforms"}),
    ("Training and measuring", {"trainer/extra.py": "import featcache.encoders.load"}),
    ("Encoder libraries", {"report/extra.py": "import transformers"}),
    ("zarr", {"extraction/extra.py": "import zarr.storage"}),
    ("faiss", {"studies/extra.py": "import faiss"}),
    ("obstore", {"data/extra.py": "from obstore.store import S3Store"}),
    ("huggingface_hub", {"sharing/extra.py": "import huggingface_hub"}),
    ("onnx", {"encoders/extra.py": "import onnx"}),
    ("ray", {"studies/extra.py": "import ray"}),
    ("av", {"data/extra.py": "import av"}),
    ("altair", {"commands/extra.py": "import altair"}),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source as one package, for tests to add files to and take them away."""
    return whole_package(tmp_path_factory.mktemp("package") / "featcache")


def whole_package(to: Path) -> Path:
    for name, folder in rooms().items():
        shutil.copytree(folder, to.joinpath(*name.split(".")[1:]), ignore=shutil.ignore_patterns("__pycache__"))
    return to


def broken(package: Path) -> list[str]:
    """Names of the contracts that do not hold."""
    words = [LINT, "--no-logo", "--no-cache", ROOT / "pyproject.toml"]
    done = subprocess.run(words, cwd=package.parent, capture_output=True, text=True)
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    said = [line.partition(" BROKEN") for line in done.stdout.splitlines()]  # "(2 ignored imports)" may stand behind
    return [name for name, broke, _ in said if broke]


def test_the_contracts_of_imports_hold(package: Path) -> None:
    assert broken(package) == []


@pytest.mark.parametrize(("contract", "files"), REFUSED)
def test_the_contracts_of_imports_refuse(package: Path, contract: str, files: dict[str, str]) -> None:
    paths = [package / name for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    try:
        assert any(name.startswith(contract) for name in broken(package))
    finally:
        for path in paths:
            path.unlink()


def test_every_contract_is_shown_to_refuse_something() -> None:
    contracts = [contract["name"] for contract in pyproject()["tool"]["importlinter"]["contracts"]]
    assert [name for name in contracts if not any(name.startswith(start) for start, _ in REFUSED)] == []


def test_the_linked_package_that_tools_read_holds_every_module() -> None:
    """pyright and import-linter read these links; a module that is missing there would be checked by neither."""
    subprocess.run(["make", "--silent", "links"], cwd=ROOT, check=True)
    program = "import grimp, json; print(json.dumps(sorted(grimp.build_graph('featcache', cache_dir=None).modules)))"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=ROOT / "build/links", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == sorted(source_files())


def test_every_package_is_installed_and_typed() -> None:
    tools = pyproject()["tool"]
    packages = {name for name, path in source_files().items() if path.name == "__init__.py"}
    assert set(tools["setuptools"]["packages"]) == packages
    assert set(tools["pyright"]["include"]) == {"cli.py", *(folder.name for folder in rooms().values())}
