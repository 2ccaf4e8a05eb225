"""Ids of encoders: what is no id, what is refused and how, and features that are extracted under one."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from featcache.commands.app import app
from featcache.encoder_ids import parse_id
from featcache.encoders import (
    EncodeOptions,
    describe,
    described,
    encoders_of,
    user_encoders_path,
)
from featcache.errors import UndescribedEncoder, UnknownEncoder, UsageError, WeightsInvalid, WeightsMissing
from tests import families, hub


@pytest.fixture(autouse=True)
def own(own_encoders: Path) -> Path:
    """The user's file, which is not there yet."""
    return own_encoders


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache, with the Hub out of reach."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def featcache(*words: str) -> Result:
    return CliRunner().invoke(app, words)


# --- the id -----------------------------------------------------------------------------------------------------


def test_an_id_is_a_library_a_place_a_revision_and_a_tower() -> None:
    parsed = parse_id("hf:openai/clip-vit-base-patch32@refs/pr/15#text")
    assert (parsed.library, parsed.place, parsed.revision) == ("hf", "openai/clip-vit-base-patch32", "refs/pr/15")
    assert (parsed.tower, parsed.is_folder, parsed.name) == ("text", False, "openai-clip-vit-base-patch32")
    assert parse_id("hf:./a/B.c").is_folder and parse_id("hf:./a/B.c").name == "b-c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:", "no id of an encoder"),
        ("huggingface:a/b", "of the libraries hf, timm"),
        ("hf:a b", "no id of an encoder"),
        ("hf:a/b#sound", "no id of an encoder"),
        ("hf:a/b/c", "A folder begins with"),
        ("hf:./a@main", "a folder has no revision"),
    ],
)
def test_what_is_no_id_is_refused_with_an_example(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        described(text, memo=tmp_path)


# --- repositories -----------------------------------------------------------------------------------------------


def test_a_repository_of_the_hubs_cache_is_described_at_its_commit(
    repos: dict[str, Path], hub_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "bert"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    hub.into_cache(folder, hub_folder, "org/bert", revision="refs/pr/2")
    (spec,) = described("hf:org/bert@refs/pr/2", memo=tmp_path / "memo")
    assert (spec.name, spec.source.repo, spec.source.revision) == ("org-bert", "org/bert", hub.COMMIT)
    assert spec.licence == "apache-2.0"
    card = describe(spec, EncodeOptions(), memo=tmp_path / "memo")
    assert card.provenance["commit"] == hub.COMMIT
    (local,) = described(f"hf:{folder}", memo=tmp_path / "memo")
    assert describe(local, EncodeOptions(), memo=tmp_path / "memo").binds == card.binds


def test_a_name_of_timm_is_a_repository_of_timms(hub_folder: Path, tmp_path: Path) -> None:
    hub.into_cache(hub.timm_repo(tmp_path / "resnet", "resnet18.tv_in1k", size=64), hub_folder, "timm/resnet18.tv_in1k")
    for id in ("timm:resnet18.tv_in1k", "hf:timm/resnet18.tv_in1k"):
        (spec,) = described(id, memo=tmp_path / "memo")
        assert (spec.library, spec.arch, spec.source.repo) == ("timm", "resnet18.tv_in1k", "timm/resnet18.tv_in1k")
        assert spec.blocks == ("layer1", "layer2", "layer3", "layer4")


def test_timm_chooses_the_tag_that_a_name_leaves_out(hub_folder: Path, tmp_path: Path) -> None:
    hub.into_cache(hub.timm_repo(tmp_path / "resnet", "resnet18.a1_in1k", size=64), hub_folder, "timm/resnet18.a1_in1k")
    (spec,) = described("timm:resnet18", memo=tmp_path / "memo")
    assert spec.arch == "resnet18.a1_in1k" and spec.source.repo == "timm/resnet18.a1_in1k"
    assert spec.name == "timm-resnet18", "resnet18 is another entry's name"


@pytest.mark.parametrize("text", ["timm:resnet1", "timm:resnet18.no_such_tag"])
def test_a_name_that_timm_does_not_have_is_answered_with_near_ones(text: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownEncoder, match=r"Nearest: resnet\d+"):
        described(text, memo=tmp_path)


def test_a_repository_that_cannot_be_had_is_answered_with_the_ways_to_get_it(hub_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"connect to the Hub(?s:.*)hf:\./DIR instead of the id"):
        described("hf:org/none", memo=tmp_path)
    with pytest.raises(WeightsMissing, match=r"there is no folder .*nowhere\n  A repository of the Hub is ORG/NAME"):
        described(f"hf:{tmp_path}/nowhere", memo=tmp_path)


@pytest.mark.parametrize(
    ("id", "hint"),
    [
        ("hf:m/net", r"There is a folder m/net; did you mean hf:\./m/net\?"),
        ("hf:net", r"There is a folder m/net; did you mean hf:\./m/net\?"),
        ("timm:m/net", r"did you mean timm:\./m/net\?(?s:.*)    timm:\./DIR instead of the id"),
        ("timm:net", r"did you mean timm:\./m/net\?\n  Nearest"),
        ("hf:other", r"A repository is ORG/NAME, as in hf:facebook/dinov2-small, but for a few old ones\n"),
        ("hf:org/Bert", r"in other letters; did you mean hf:Org/bert\?"),
    ],
)
def test_an_id_of_nothing_is_answered_with_what_else_may_be_meant(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, id: str, hint: str
) -> None:
    (tmp_path / "m" / "net").mkdir(parents=True)
    (hub_folder / "models--Org--bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((WeightsMissing, UnknownEncoder), match=rf"^.*\n  (?s:.*){hint}"):
        described(id, memo=tmp_path / "memo")


def test_both_towers_are_described_or_the_one_that_is_named(repos: dict[str, Path], tmp_path: Path) -> None:
    image, text = described(f"hf:{repos['clip']}", memo=tmp_path)
    assert [(spec.name, spec.modality) for spec in (image, text)] == [("clip", "image"), ("clip-text", "text")]
    assert [spec.modality for spec in described(f"hf:{repos['clip']}#text", memo=tmp_path)] == ["text"]
    with pytest.raises(UndescribedEncoder, match="a bert has no towers; leave out #text"):
        described(f"hf:{repos['bert']}#text", memo=tmp_path)
    done = featcache("encoders", "add", f"hf:{repos['bert']}#text", "--cache", str(tmp_path))
    assert str(done.exception) == f"hf:{repos['bert']}#text: a bert has no towers; leave out #text"


# --- what is refused --------------------------------------------------------------------------------------------


def changed(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        ("bert", changed(model_type="xlnet"), "of the families of transformers, xlnet is none of the 6"),
        ("bert", changed(model_type="electra2"), "of the type 'electra2'"),
        ("bert", changed(model_type="nothing"), "of the type 'nothing', the installed transformers does not have it"),
        ("bert", changed(model_type="nothing", auto_map={}), "runs code of its repository, which featcache never does"),
        ("bert", changed(model_type="albert"), "ALBERT runs one block many times"),
        ("bert", changed(model_type="audio-spectrogram-transformer"), "Kaldi's filter banks"),
        ("bert", changed(model_type="vit_mae"), "timm:vit_base_patch16_224.mae"),
        ("bert", changed(is_decoder=True), "is_decoder"),
        ("bert", changed(quantization_config={"bits": 4}), "quantised"),
        ("bert", adapter, "an adapter of org/base"),
        ("bert", lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        ("vit", lambda folder: (folder / "preprocessor_config.json").unlink(), "it has no preprocessor_config.json"),
    ],
)
def test_a_repository_that_cannot_be_described_is_refused_with_what_to_declare(
    repos: dict[str, Path], tmp_path: Path, base: str, change: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(repos[base], tmp_path / "repo"))
    change(folder)
    done = featcache("encoders", "add", f"hf:{folder}", "--cache", str(tmp_path / "cache"))
    assert isinstance(done.exception, UndescribedEncoder)
    text = str(done.exception)
    assert message in text and f"Declare it in {user_encoders_path()}" in text and "docs/encoders.md" in text
    assert not user_encoders_path().exists()


def test_a_family_that_is_not_described_is_refused_with_its_class_and_lists_of_modules(tmp_path: Path) -> None:
    sizes = {"image_size": 28, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 7}
    folder = families.image_repo(tmp_path / "swin", "SwinModel", "SwinConfig", **sizes)
    with pytest.raises(UndescribedEncoder, match="Its class is SwinModel, and its lists of modules are encoder.layers"):
        described(f"hf:{folder}", memo=tmp_path)


@pytest.mark.parametrize("settings", [{"hidden_size": "x"}, {"num_attention_heads": 0}, {"num_attention_heads": 7}])
def test_settings_that_make_no_network_are_invalid(
    repos: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    changed(**settings)(folder)
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        described(f"hf:{folder}", memo=tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[1]"),
        ("config.json", '{"model_type": ["bert"]}'),
        ("config.json", '{"architecture": 3}'),
        ("config.json", "[" * 100_000),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "\x00"),
        ("modules.json", '{"a": 1}'),
        ("modules.json", "[1, 2]"),
        (
            "modules.json",
            '[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../../../../../../etc"}]',
        ),
        ("README.md", "---\nlicense: [a, b\n---\n"),
        ("README.md", "---\n- a\n---\n"),
    ],
)
def test_settings_that_no_library_wrote_are_an_error_of_ours_or_ignored(
    repos: dict[str, Path], tmp_path: Path, file: str, content: str
) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    (folder / file).write_text(content)
    if file == "README.md":
        assert described(f"hf:{folder}", memo=tmp_path)[0].licence == "not stated by the repository"
        return
    with pytest.raises((WeightsInvalid, UndescribedEncoder)):
        described(f"hf:{folder}", memo=tmp_path)


def test_settings_that_cannot_be_read_are_invalid(repos: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsInvalid, match=r"config\.json is not JSON"):
        described(f"hf:{folder}", memo=tmp_path)


def test_weights_that_lack_what_the_settings_promise_are_invalid(repos: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repos["bert"], tmp_path / "repo"))
    changed(num_hidden_layers=4)(folder)
    (spec,) = described(f"hf:{folder}", memo=tmp_path)
    with pytest.raises(WeightsInvalid, match="missing: "):
        describe(spec, EncodeOptions(), memo=tmp_path)


# --- extraction -------------------------------------------------------------------------------------------------


def test_names_and_ids_stand_side_by_side(repos: dict[str, Path], tmp_path: Path) -> None:
    named = encoders_of(["minilm", f"hf:{repos['clip']}"], memo=tmp_path)
    assert [[spec.name for spec in specs] for specs in named.values()] == [["minilm"], ["clip", "clip-text"]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (40, 30), (20 * number, 90, 255 - 20 * number)).save(folder / f"{number}.png")
    return folder


def test_extract_takes_an_id_prints_its_entry_and_encodes_the_view_that_fits(
    repos: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    done = featcache("extract", str(photos), f"hf:{repos['clip']}", "--cache", cache, "--workers", "0")
    assert done.exit_code == 0, (done.exception, done.output)
    assert 'projection = "visual_projection"' in done.stdout
    listed = featcache("ls", "--cache", cache).stdout
    assert "clip/last.embedding" in listed and "clip/last.cls" in listed and "clip-text" not in listed


def test_extract_says_that_a_name_is_another_encoders_too_and_how_to_tell_the_two_apart(
    photos: Path, tmp_path: Path
) -> None:
    words = ("--cache", str(tmp_path / "cache"), "--workers", "0", "--layers", "last.cls")
    one, other = (families.IMAGE["vit"](tmp_path / place / "vit") for place in ("a", "b"))
    with (one / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert "another encoder" not in featcache("extract", str(photos), f"hf:{one}", *words).output
    said = featcache("extract", str(photos), f"hf:{other}", *words).output
    digests = re.search(r"This one is @(\w+), the other @(\w+)\. .* featcache encoders add ID --name NAME", said)
    assert "Caveat: images/vit/last.cls of photos is cached of another encoder, too" in said and digests
    assert "they differ in tensors" in said
    assert "another encoder" not in featcache("extract", str(photos), f"hf:{other}", *words).output, "cached already"
    listed = featcache("ls", "--cache", str(tmp_path / "cache"), "--json").stdout
    assert all(digest in listed for digest in digests.groups())


def test_what_was_extracted_under_an_id_is_repaired_from_its_repository(
    repos: dict[str, Path], photos: Path, hub_folder: Path, tmp_path: Path
) -> None:
    hub.into_cache(repos["vit"], hub_folder, "org/vit")
    cache = str(tmp_path / "cache")
    words = ("--cache", cache, "--layers", "last.cls")
    assert featcache("extract", str(photos), "hf:org/vit", "--workers", "0", *words).exit_code == 0
    (chunk,) = Path(cache).rglob("org-vit/last.cls/*/c.0.0")
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    done = featcache("repair", "--cache", cache, "--root", str(photos))
    assert done.exit_code == 0, (done.output, done.exception)
    assert chunk.read_bytes() == whole


def test_naming_encoders_loads_no_library_of_theirs() -> None:
    code = (
        "import sys; from featcache.encoders import encoders_of; from pathlib import Path\n"
        "encoders_of(['minilm'], memo=Path('memo'))\n"
        "print(sorted({'torch', 'timm', 'transformers', 'open_clip', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
