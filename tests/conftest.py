"""Before anything imports torch: waiting threads sleep, so that tests pass quickly on a shared machine too."""

import os
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
