"""Failures of the Hub and of the way to it: what is tried again, and what the errors say."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.errors import RemoteFailed, UsageError
from featcache.storage.hub import HubFolder, open_hub, token_place
from tests.dataset_hub import DatasetHub, the_only_hub

REPO = "lab/features"
ADDRESS = f"hf://datasets/{REPO}"
CHUNK = bytes(range(256)) * 40

# huggingface_hub uploads large files in a way that its HTTP client is about to rename
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    with the_only_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def folder(hub: DatasetHub) -> HubFolder:
    made = open_hub(ADDRESS)
    made.create()
    return made


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_asked_again(folder: HubFolder, hub: DatasetHub, status: int) -> None:
    hub.failures = [(f"POST /api/datasets/{REPO}/commit", status, {"Retry-After": "0"})]
    assert folder.write_once("c.0.0", CHUNK)
    hub.failures = [(f"GET /datasets/{REPO}/resolve", status, {}), ("GET /storage", status, {})]
    assert folder.read("c.0.0") == CHUNK
    assert hub.failures == []


def test_a_commit_whose_answer_was_lost_is_not_made_twice(folder: HubFolder, hub: DatasetHub) -> None:
    hub.lost_answers = [f"POST /api/datasets/{REPO}/commit"]
    before = len(hub.commits[REPO])
    assert not folder.write_once("a", b"1"), "nobody can tell whose commit it was"
    assert (len(hub.commits[REPO]), folder.read("a")) == (before + 1, b"1")


def test_a_failure_that_stays_is_named_after_several_attempts(folder: HubFolder, hub: DatasetHub) -> None:
    hub.failures = [(f"GET /datasets/{REPO}/resolve", 503, {})] * 4
    folder.write_once("a", b"1")
    with pytest.raises(RemoteFailed, match=r"reading a failed: not now.*featcache doctor hf://datasets/lab/features"):
        folder.read("a")


def test_a_wait_of_many_minutes_is_left_to_the_user(folder: HubFolder, hub: DatasetHub) -> None:
    hub.failures = [(f"POST /api/datasets/{REPO}/commit", 429, {"Retry-After": "2580"})]
    with pytest.raises(RemoteFailed, match=r"asks to wait 43 minutes.*What arrived stays"):
        folder.write_once("a", b"1")


def test_the_wait_that_the_hub_names_is_kept(folder: HubFolder, hub: DatasetHub) -> None:
    from featcache.storage.hub_api import Transient, _wait_for

    for headers in ({"retry-after": "7"}, {"ratelimit": '"api";r=0;t=7'}):
        error = _wait_for("here", "reading", "text", headers)
        assert isinstance(error, Transient) and error.wait == 7.0


def test_nobody_at_the_address_is_a_named_error(folder: HubFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    lost = open_hub(ADDRESS)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(RemoteFailed, match="listing it failed"):
        lost.names()


def test_offline_mode_is_said_at_once(
    folder: HubFolder, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    folder.refresh()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteFailed, match="HF_HUB_OFFLINE"):
        folder.names()
    assert hub.requests == [] and not [record for record in caplog.records if record.name == "stamina"]


def test_a_short_answer_is_not_taken_for_the_file(folder: HubFolder, hub: DatasetHub) -> None:
    folder.write_once("a", b"whole")
    hub.commits[REPO][-1][1]["a"] = b"who"
    with pytest.raises(RemoteFailed, match="3 bytes came of 5"):
        folder.read("a")


def test_a_file_that_the_repository_ignores_is_missed(folder: HubFolder, hub: DatasetHub) -> None:
    hub.ignored = {"c.1.0"}
    with pytest.raises(RemoteFailed, match=r"1 files did not arrive, the first c\.1\.0.*\.gitignore"):
        list(folder.send([("c.0.0", lambda: b"1"), ("c.1.0", lambda: b"2")]))
    assert folder.exists("c.0.0"), "what arrived is seen"


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a//b", "a/./b", "a\x1bb"])
def test_a_listing_that_leads_elsewhere_is_refused(folder: HubFolder, hub: DatasetHub, path: str) -> None:
    hub.commit(REPO, {"a/ok": b"1", path: b"2"})
    folder.refresh()
    for ask in (folder.names, folder.folders, folder.there, lambda: list(folder.files()), lambda: folder.read("a/ok")):
        with pytest.raises(RemoteFailed, match="lists .* no name of a cache's file"):
            ask()


def test_a_listing_that_leaves_the_addressed_folder_is_refused(
    folder: HubFolder, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, {"team/f": b"1", "other/f": b"2"})
    tree = hub._tree
    monkeypatch.setattr(hub, "_tree", lambda repo, files, below, *rest: tree(repo, files, "", *rest))
    with pytest.raises(RemoteFailed, match="lists 'other/f'"):
        open_hub(f"{ADDRESS}/team").names()


def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_asked(folder: HubFolder, hub: DatasetHub) -> None:
    hub.requests.clear()
    for name in ("../x", "/x", "a/../b"):
        with pytest.raises(UsageError, match="is no name"):
            folder.write_once(name, b"1")
    assert hub.requests == []


# -- who may do what ----------------------------------------------------------------------------------------------


def test_a_repository_is_private_unless_asked_otherwise(hub: DatasetHub) -> None:
    private, public = open_hub("hf://datasets/lab/one"), open_hub("hf://datasets/lab/two")
    assert not private.there()
    private.create()
    public.create(private=False)
    assert (private.is_public, public.is_public) == (False, True)
    public.create(private=True)
    assert public.is_public, "what is there stays as public as it is"


def test_what_the_token_does_not_reach_is_named_with_what_to_do(
    folder: HubFolder, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    stranger = open_hub(ADDRESS)
    assert not stranger.there()
    for ask in (stranger.names, lambda: stranger.write_once("a", b"1")):
        with pytest.raises(RemoteFailed, match="does not exist, or is private.*hf auth login"):
            ask()
    hub.private[REPO] = False
    stranger.refresh()
    assert stranger.names() == {".gitattributes"}
    with pytest.raises(RemoteFailed, match="access refused.*hf auth login"):
        stranger.write_once("a", b"1")


def test_the_token_goes_to_the_hub_alone_and_into_no_log_or_error(
    folder: HubFolder, hub: DatasetHub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[str] = []
    folder.write_once("c.0.0", CHUNK)
    folder.read("c.0.0")
    hub.failures = [("GET /storage", 503, {})] * 4
    with pytest.raises(RemoteFailed) as caught:
        folder.read("c.0.0")
    errors.append(str(caught.value))
    hub.failures = [("PUT /storage", 403, {})]
    with pytest.raises(RemoteFailed) as caught:
        folder.write_once("c.1.0", CHUNK[1:])
    errors.append(str(caught.value))
    stored = [headers for request, headers in hub.headers if "/storage/" in request]
    assert len(stored) >= 7 and all("authorization" not in headers for headers in stored)
    assert "authorization" in next(headers for request, headers in hub.headers if "/resolve/" in request)
    output = "\n".join([*errors, *(record.getMessage() for record in caplog.records if record.name == "stamina")])
    output += "".join(str(vars(record)) for record in caplog.records if record.name == "stamina")
    assert hub.token not in caplog.text + output
    assert "/storage/" in output and "signature" not in output, "a signed address is named without its signature"


def test_where_the_token_lies_is_named_and_the_token_is_not(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert token_place() == "$HF_TOKEN"
    monkeypatch.delenv("HF_TOKEN")
    assert token_place() is None
    (tmp_path / "token").write_text(hub.token)
    assert token_place() == str(tmp_path / "token")
