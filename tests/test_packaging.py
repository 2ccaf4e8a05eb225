"""What users install: the names a wheel brings, what lies in it, and what works without the extras."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.rooms import ROOT, pyproject, rooms, source_files

EXTRAS: dict[str, list[str]] = {"": pyproject()["project"]["dependencies"]}
EXTRAS |= pyproject()["project"]["optional-dependencies"]
UNDECLARED = {
    "boto3": "asked for credentials where it is installed",
    "botocore": "asked for credentials where it is installed",
    "tokenizers": "comes with transformers",
}

USERS_OWN = ("cli", "commands", "data", "metrics", "report", "studies", "trainer")
SCRIPT = """
import importlib, sys
for name in {own}:
    assert importlib.import_module(name).OWNER == "user", name
    if name != "cli":
        assert "OWNER" not in vars(importlib.import_module("featcache." + name)), name
import metrics, torch
from featcache import Cache
from featcache.encoders.spec import encoder_specs
from featcache.metrics import modality_gap
assert modality_gap(torch.eye(3), torch.eye(3)) == 0 and metrics.OWNER == "user"
assert "minilm" in encoder_specs()
print(importlib.import_module("featcache").__file__)
print([type(finder).__module__ + str(finder) for finder in sys.meta_path])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made offline from a copy of the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for folder in rooms().values():
        shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    words = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", out, source)
    run(sys.executable, "-m", "pip", "wheel", *words, cwd=source)
    (built,) = out.glob("featcache-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that holds the wheel, and borrows what it depends on but not this checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # no .pth file is read in a folder that a .pth file names: the editable install stays outside
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder whose files have the names of our folders."""
    for name in USERS_OWN:
        (tmp_path / f"{name}.py").write_text('OWNER = "user"\n', encoding="utf-8")
    (tmp_path / "study.py").write_text(SCRIPT.format(own=USERS_OWN), encoding="utf-8")
    return tmp_path


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a program prints; it must end well. Nothing of the environment says where python finds modules."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def extra_names(extra: str) -> set[str]:
    """Distributions that an extra names ("": that featcache always needs)."""
    return {normal(re.split(r"[\[<>=;]", requirement)[0].strip()) for requirement in EXTRAS[extra]}


@cache
def distributions() -> dict[str, set[str]]:
    """Top-level module -> the distributions that bring it."""
    return {module: set(map(normal, names)) for module, names in packages_distributions().items()}


@cache
def imported() -> set[str]:
    """Top-level modules that the source imports, at the top or inside functions, but python's own and ours."""
    names = set()
    for path in source_files().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"featcache"}


def test_a_users_own_modules_stay_the_users_beside_the_editable_install(project: Path) -> None:
    place, _ = run(sys.executable, "study.py", cwd=project).splitlines()
    assert Path(place) == ROOT / "featcache" / "__init__.py"


def test_a_users_own_modules_stay_the_users_beside_the_wheel(project: Path, installed: Path) -> None:
    place, finders = run(installed, "study.py", cwd=project).splitlines()
    assert Path(place).is_relative_to(installed.parents[1])
    assert "editable" not in finders


def test_the_wheel_brings_the_command_line(project: Path, installed: Path) -> None:
    command = installed.with_name("featcache")
    for words in (["encoders"], ["datasets"]):
        assert run(command, *words, cwd=project) == run(sys.executable, ROOT / "cli.py", *words, cwd=project)


def test_the_wheel_holds_every_file_of_every_room_and_nothing_outside_featcache(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {
        f"{room.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for room, folder in rooms().items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == source
    assert {name.split("/")[0] for name in names} == {"featcache"}


def test_every_library_that_is_imported_is_declared() -> None:
    declared = set().union(*(extra_names(extra) for extra in EXTRAS if extra != "dev"))
    provided = {module for module, names in distributions().items() if declared & names}
    assert imported() - provided == set(UNDECLARED)


@pytest.mark.parametrize("extra", ["", "cpu", "ray", "report", "share"])
def test_every_library_that_is_declared_is_imported(extra: str) -> None:
    used = set().union(*(distributions().get(module, set()) for module in imported()))
    assert extra_names(extra) - used == set()


@pytest.mark.parametrize("missing", [("altair",), ("vl_convert",), ("altair", "vl_convert")])
def test_a_report_without_its_extra_names_the_command_that_installs_it(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({missing}))"
    program = f"{blocked}; from featcache.commands.app import main; main()"
    words = ("report", ROOT / "tests/fixtures/v01/run", "--out", tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'featcache[report]'" in done.stderr and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in missing)
    assert not (tmp_path / "out").exists()
