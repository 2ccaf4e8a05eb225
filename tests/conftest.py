"""Before anything imports torch: waiting threads sleep, so that tests pass quickly on a shared machine too."""

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests of a browser where there is none; continuous integration must have one, so there they fail."""
    lacks = [name for name, there in (("Chromium", CHROMIUM), ("playwright", find_spec("playwright"))) if not there]
    if lacks and not os.environ.get("CI"):
        skip = pytest.mark.skip(reason=f"needs {' and '.join(lacks)}: apt-get install chromium, pip install playwright")
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(skip)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The k of every search that is made."""
    from featcache import metrics

    search, made = metrics.neighbors, list[int]()

    def counted(*args: Any, k: int, **options: Any) -> Any:
        made.append(k)
        return search(*args, k=k, **options)

    monkeypatch.setattr(metrics, "neighbors", counted, raising=False)
    return made


@pytest.fixture
def own_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of encoders, which is not there yet."""
    from featcache.encoders import user_encoders_path

    monkeypatch.delenv("FEATCACHE_ENCODERS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return user_encoders_path()


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny network of texts, one of images, and a pair of towers, as the Hub has them."""
    from tests import families

    home = tmp_path_factory.mktemp("repos")
    made = {"bert": families.TEXT["bert"], "vit": families.IMAGE["vit"], "clip": families.PAIRS["clip"]}
    return {name: make(home / name) for name, make in made.items()}


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium on the path\n  Run: apt-get install --no-install-recommends chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Opens a file with the network off; the test fails where it reports an error, requests more or opens a dialog."""
    contexts: list[BrowserContext] = []
    wrongs: list[str] = []

    def refuse(dialog: Any) -> None:
        wrongs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_(path: Path, *, width: int = 1280, **options: Any) -> "Page":
        own = {"viewport": {"width": width, "height": 900}, "offline": True, "reduced_motion": "reduce"}
        contexts.append(browser.new_context(**own | options))
        page = contexts[-1].new_page()
        page.on("console", lambda line: wrongs.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: wrongs.append(f"error: {error}"))
        page.on("dialog", refuse)
        page.on("request", lambda request: wrongs.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        wrongs[:] = [wrong for wrong in wrongs if not wrong.startswith((f"request: {path.as_uri()}", "request: data:"))]
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [wrong for wrong in wrongs if not wrong.startswith("request: data:")] == []
