"""Before anything imports torch: waiting threads sleep, so that tests pass quickly on a shared machine too."""

import os
import shutil
from importlib.util import find_spec
from typing import Any

import pytest

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
