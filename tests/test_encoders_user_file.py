"""The user's file of encoders: what `featcache encoders add` writes into it, and what it refuses."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from featcache.commands.app import app
from featcache.encoders import (
    EncodeOptions,
    add_entries,
    describe,
    described,
    encoder_spec,
    encoder_specs,
    entry_toml,
)
from featcache.encoders.spec import read_entry
from featcache.errors import UnknownEncoder, UsageError, WeightsInvalid, WeightsMissing


@pytest.fixture(autouse=True)
def own(own_encoders: Path) -> Path:
    """The user's file, which is not there yet."""
    return own_encoders


def featcache(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_a_file_that_is_named_and_not_there_is_made(
    repos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(tmp_path / "new" / "mine.toml"))
    assert featcache("encoders", "add", f"hf:{repos['vit']}", "--cache", str(tmp_path)).exit_code == 0
    assert encoder_spec("vit").model == "ViTModel"


def test_a_link_to_the_users_file_stays_one(repos: dict[str, Path], own: Path, tmp_path: Path) -> None:
    own.parent.mkdir(parents=True)
    (tmp_path / "dotfile.toml").write_text("")
    own.symlink_to(tmp_path / "dotfile.toml")
    assert featcache("encoders", "add", f"hf:{repos['vit']}", "--cache", str(tmp_path)).exit_code == 0
    assert own.is_symlink() and "[vit]" in (tmp_path / "dotfile.toml").read_text()


def test_an_entry_is_added_below_what_the_file_holds_and_is_read_back(
    repos: dict[str, Path], own: Path, tmp_path: Path
) -> None:
    own.parent.mkdir(parents=True)
    mine = '# my encoders\n[mine]\nlike = "gpt2" # as it is\n'
    own.write_text(mine)
    done = featcache("encoders", "add", f"hf:{repos['vit']}", "--name", "my-vit", "--cache", str(tmp_path))
    assert done.exit_code == 0, done.exception
    assert f"1 encoder in {own}. Run: featcache extract DATA my-vit" in done.stdout
    assert own.read_text().startswith(mine) and own.read_text().rstrip().endswith(
        done.stdout.split("\n\n1 enc")[0][-60:]
    )
    spec = encoder_spec("my-vit")
    (generated,) = described(f"hf:{repos['vit']}", memo=tmp_path)
    assert spec == generated.model_copy(update={"name": "my-vit"})
    assert encoder_spec("mine").model == "GPT2LMHeadModel"


def test_more_tokens_than_the_network_has_positions_are_cut_there_with_a_notice(
    repos: dict[str, Path], own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.parent.mkdir(parents=True)
    own.write_text(f'[mine]\nlike = "bert-base"\nmax_tokens = 999\nsource = {{ folder = "{repos["bert"]}" }}\n')
    card = describe(encoder_spec("mine"), EncodeOptions(), memo=tmp_path)
    assert card.binds["tokenizer"]["max_tokens"] == 32
    assert "mine: max_tokens is 999 in its entry, and the network has 32 positions" in caplog.text


def test_an_entry_that_is_there_is_not_added_twice(repos: dict[str, Path], own: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert featcache("encoders", "add", f"hf:{repos['clip']}", "--cache", str(tmp_path)).exit_code == 0
    assert own.read_text().count("[clip]\n") == own.read_text().count("[clip-text]\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpt2", "gpt2 is the name of another encoder; nothing was written\n  Choose another"), ("A b", "lower-case")],
)
def test_a_name_that_cannot_be_had_changes_nothing(
    repos: dict[str, Path], own: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        add_entries(described(f"hf:{repos['bert']}", memo=tmp_path), name=name)
    assert not own.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_not_added_and_the_error_says_what_the_folder_wants(
    repos: dict[str, Path], own: Path, tmp_path: Path, file: str
) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    (folder / file).unlink()
    done = featcache("encoders", "add", f"hf:{folder}", "--name", "x1", "--cache", str(tmp_path))
    assert isinstance(done.exception, WeightsMissing) and not own.exists()
    (spec,) = described(f"hf:{folder}", memo=tmp_path)
    with pytest.raises(WeightsMissing) as caught:
        describe(spec, EncodeOptions(), memo=tmp_path)
    for text in (str(done.exception), str(caught.value)):
        assert f"folder {folder} lacks {file}" in text and "\n  The folder wants config.json, " in text
        assert "save_pretrained" in text and "--weights" not in text


def test_a_folder_whose_weights_are_cut_short_is_not_added(repos: dict[str, Path], own: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(WeightsInvalid, match="cut short"):
        add_entries(described(f"hf:{folder}", memo=tmp_path))
    assert not own.exists()


def test_entries_that_are_added_at_once_are_all_kept(
    repos: dict[str, Path], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.encoders import user_file

    specs, replace = described(f"hf:{repos['bert']}", memo=tmp_path), user_file.replace

    def slowly(target: Path, *parts: bytes | memoryview) -> None:
        time.sleep(0.1)
        replace(target, *parts)

    monkeypatch.setattr(user_file, "replace", slowly)
    names = [f"bert-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(lambda name: add_entries(specs, name=name), names))) == 4
    assert sorted(each for each in encoder_specs() if each.startswith("bert-") and each != "bert-base") == names
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_a_mistyped_name_and_a_named_file_that_is_not_there_are_both_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(tmp_path / "none.toml"))
    with pytest.raises(
        UnknownEncoder, match=r"no encoder 'miniml'(?s:.*)no such file\n(?s:.*)Nearest: minilm"
    ) as caught:
        encoder_spec("miniml")
    assert "featcache encoders add ID makes it" in str(caught.value)


def test_a_name_of_an_entry_that_is_not_valid_is_taken(repos: dict[str, Path], own: Path, tmp_path: Path) -> None:
    own.parent.mkdir(parents=True)
    own.write_text('[bert]\nlike = "nothing"\n')
    with pytest.raises(UsageError, match="bert is the name of another encoder"):
        add_entries(described(f"hf:{repos['bert']}", memo=tmp_path))


def test_every_packaged_entry_is_read_back_from_its_toml(tmp_path: Path) -> None:
    import tomllib

    from featcache.encoders.spec import packaged_specs

    for spec in packaged_specs().values():
        assert read_entry(spec.name, tomllib.loads(entry_toml(spec)), tmp_path / "e.toml") == spec


def test_an_entry_that_is_not_valid_is_named_beside_the_list_of_the_others(own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.write_text('[bad]\nlike = "gpt2"\npoolings = ["mean"]\n[good]\nlike = "gpt2"\n')
    done = featcache("encoders")
    assert done.exit_code == 0 and "good" in done.stdout and "bad" not in done.stdout
    assert "encoder 'bad' in" in done.stderr and "poolings: Extra inputs" in done.stderr
    assert "good" in {entry["name"] for entry in json.loads(featcache("encoders", "--json").stdout)}
