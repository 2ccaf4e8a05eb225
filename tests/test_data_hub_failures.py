"""A download from the Hub that fails is one message with its cause and what to do, whatever the Hub's library logs."""

import logging
from pathlib import Path
from typing import Any

import pytest

from featcache.data import open_dataset
from featcache.data.errors import DataMissing
from featcache.data.hub_failures import hub_failure, without_retry_lines
from featcache.encoders.hub import snapshot
from featcache.errors import WeightsMissing

huggingface_hub = pytest.importorskip("huggingface_hub")
errors: Any = pytest.importorskip("huggingface_hub.errors")
PAGE = "https://huggingface.co/org/repo"
LOGGER = logging.getLogger("huggingface_hub.utils._http")


class Response:
    """An answer of the Hub, as far as its errors look at it."""

    def __init__(self, status: int) -> None:
        self.status_code, self.headers, self.request, self.text = status, {}, None, ""


def answered(kind: type[Exception], status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error")
    error.response = Response(status)  # pyright: ignore[reportAttributeAccessIssue]
    return error


class ConnectError(Exception):
    """As httpx calls it."""


def unreachable() -> Exception:
    error = errors.LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub")
    error.__cause__ = ConnectError("Name or service not known")
    return error


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (answered(errors.GatedRepoError, 403), "it is gated", f"accept its terms at {PAGE}, then run: hf auth login"),
        (answered(errors.RepositoryNotFoundError, 401), "no such repository", "hf auth login"),
        (answered(errors.RevisionNotFoundError, 404), "no such revision", f"{PAGE}/tree/main"),
        (answered(errors.HfHubHTTPError, 429), "the Hub answered 429: too many requests", "Wait some minutes"),
        (answered(errors.HfHubHTTPError, 503), "the Hub answered 503: it has a fault", "Run the same command later"),
        (answered(errors.HfHubHTTPError, 403), "the Hub answered 403: access refused", "hf auth login"),
        (unreachable(), "cannot be reached (Name or service not known)", "HTTPS_PROXY"),
        (OSError(28, "No space left on device", "/hub/x"), "cannot write /hub/x: No space left", "HF_HOME"),
    ],
)
def test_a_failure_has_one_line_with_its_cause_and_what_to_do(
    error: Exception, cause: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    said = hub_failure(error, PAGE)
    assert cause in said and remedy in said and "\n" not in said


def test_a_machine_that_is_set_offline_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in hub_failure(errors.LocalEntryNotFoundError("offline mode"), PAGE)


def test_what_the_library_logs_of_its_tries_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def five_tries(*given: Any, **named: Any) -> str:
        for number in range(5):
            LOGGER.warning("Retrying in %ss [Retry %s/5].", number, number)
        raise unreachable()

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", five_tries)
    with pytest.raises(DataMissing, match="(?s)wit_1024: not on this machine.*cannot be reached.*To get it"):
        open_dataset("wit_1024")
    with pytest.raises(WeightsMissing, match="(?s)no weights of org/repo.*cannot be reached.*one of three ways"):
        snapshot("org/repo", "main", ["*"], ["config.json"], memo=tmp_path / "memo")
    assert [record for record in caplog.records if "Retrying" in record.message] == []
    with without_retry_lines():
        pass
    LOGGER.warning("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]
