import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from featcache.encoders.families import described_kinds
from featcache.encoders.spec import (
    Embedding,
    EncodeOptions,
    EncoderSpec,
    Preprocessing,
    Sound,
    WeightSource,
    encoder_spec,
    encoder_specs,
    invalid_entries,
)
from featcache.errors import UnknownEncoder, UsageError

PLANNED = {
    "efficientnet-lite0 efficientnet-lite1 efficientnet-lite2 minilm gemma3-270m gpt2 gpt2-medium bert-base",
    "distilbert distilbert-64",
    "clip-vit-b32 clip-vit-b32-text resnet18 resnet18-tv wav2vec2-base",
    *(f"dinov2-{size}{form}" for size in ("small", "base", "large", "giant") for form in ("", "-timm", "-reg")),
    *(f"dinov2-{size}-reg-timm" for size in ("small", "base", "large", "giant")),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "encoders.toml"
    monkeypatch.setenv("FEATCACHE_ENCODERS", str(path))
    return path


@pytest.fixture(autouse=True)
def no_user_entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FEATCACHE_ENCODERS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_every_planned_encoder_is_declared() -> None:
    assert set(encoder_specs()) >= {name for names in PLANNED for name in names.split()}


@pytest.mark.parametrize("spec", encoder_specs().values(), ids=lambda spec: spec.name)
def test_every_entry_is_complete(spec: EncoderSpec) -> None:
    poolings = [*spec.pooling, *(["embedding"] if spec.embedding else [])]
    assert spec.licence and spec.default.split(".")[1] in poolings
    assert spec.source.package or "/" in str(spec.source.repo)
    assert spec.source.tensors or not spec.source.package, "weights of a package have a hash"
    if spec.library == "timm":
        import timm

        assert spec.arch in timm.list_pretrained()
    elif spec.library == "torch":
        from featcache.encoders.voice_network import NETWORKS

        assert spec.model in NETWORKS
    else:
        from featcache.encoders.modules import network_class

        assert network_class(str(spec.model)) is not None
    if spec.source.repo and spec.library == "timm":
        assert spec.source.repo == f"timm/{spec.arch}"
    assert {"image": {"cls", "patch-mean", "mean"}, "text": {"mean", "cls", "last-token"}, "audio": {"mean"}}[
        spec.modality
    ] >= set(spec.pooling)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_way_to_declare_one(own: Path) -> None:
    own.write_text("")
    with pytest.raises(UnknownEncoder, match="Nearest: (?s:.*)resnet18(?s:.*)Declare your own in .*encoders.toml"):
        encoder_spec("resnet-18")


@pytest.mark.parametrize(
    ("name", "id"), [("org/net", "hf:org/net"), ("timm:net", "timm:net"), ("nothing", "hf:ORG/NAME")]
)
def test_an_unknown_name_is_answered_with_the_id_that_may_be_meant(name: str, id: str) -> None:
    with pytest.raises(UnknownEncoder, match=f"featcache encoders add {id}$"):
        encoder_spec(name)


def test_a_users_entry_is_like_a_packaged_one_but_for_what_it_says(own: Path) -> None:
    own.write_text('[my-gpt]\nlike = "gpt2"\nsource = { folder = "weights" }\nmax_tokens = 99\n')
    mine, packaged = encoder_spec("my-gpt"), encoder_spec("gpt2")
    assert mine.source.folder == str(own.parent / "weights"), "a folder is meant from the file that names it"
    assert (mine.max_tokens, mine.blocks, mine.pooling) == (99, packaged.blocks, packaged.pooling)
    assert encoder_spec("gpt2") == packaged


def test_a_users_entry_in_the_configuration_folder_is_found(tmp_path: Path) -> None:
    from featcache.encoders.spec import user_encoders_path

    path = user_encoders_path()
    assert path.is_relative_to(tmp_path), "the test would otherwise read the user's own file"
    path.parent.mkdir(parents=True)
    path.write_text('[mine]\nlike = "resnet18"\n')
    assert encoder_spec("mine").arch == "resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[gpt2]\nlike = "minilm"\n', "declares gpt2, which featcache declares too"),
        ('[a]\nlike = "b"\n[b]\nlike = "a"\n', "goes in a circle"),
        ("[a]\nlike = [1]\n", r"names \[1\], which is not declared"),
        ('[a]\nlike = "nothing"\n', "names 'nothing', which is not declared"),
        ('[a]\nlike = "gpt2"\npoolings = ["mean"]\n', "poolings: Extra inputs"),
        ('[a]\nlike = "gpt2"\ndtypo = "float16"\n', "dtypo: Extra .*; did you mean dtype\\?\n    There are: library"),
        ('[a]\nlike = "gpt2"\nsource = { repo = "x/y", folder = "z" }\n', "exactly one of"),
        ('[a]\nlike = "gpt2"\nsource = { package = "x" }\n', "needs `module`"),
        ('[a]\nlike = "gpt2"\npooling = ["cls"]\n', "has no pooling of"),
        ('[a]\nlike = "resnet18"\nmax_tokens = 3\n', "belongs to modality"),
        ('[a]\nlike = "resnet18"\nmodality = "audio"\n', 'modality "image"'),
        ('["A b"]\nlike = "resnet18"\n', "lower-case"),
        ('[a]\nlike = "gpt2"\nembedding = { normalize = true }\n', "needs a `pooling`, or a `projection`"),
        (
            '[a]\nlike = "resnet18"\n[a.embedding]\npooling = "mean"\ndense = [{folder = "b", activation = "tanh"}]\n',
            "`dense` belongs to",
        ),
        ('[a]\nlike = "gpt2"\nembedding = { pooling = "mean", dense = [{ folder = "../b" }] }\n', "folder: String"),
        ('[a]\nlike = "gpt2"\npad_to = 5\n', "`pad_to` belongs to"),
        ('[a]\nlike = "gpt2"\ndefault = "last.embedding"\n', "has no pooling of"),
        ('[a]\nlike = "resnet18"\nlibrary = "open_clip"\n', 'library "open_clip" needs'),
        ('library = "timm"\n', "stands outside a table"),
        ("[a\n", "not valid TOML"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_file_and_field(own: Path, text: str, message: str) -> None:
    own.write_text(text)
    name = tomllib.loads(text).popitem()[0] if "not valid TOML" not in message else "a"
    with pytest.raises(UsageError, match=message) as caught:
        encoder_spec(name)
    assert str(own) in str(caught.value)


def test_a_wrong_entry_stands_in_no_others_way(own: Path) -> None:
    own.write_text(
        'loose = 1\n[bad]\nlike = "gpt2"\npoolings = ["mean"]\n[good]\nlike = "gpt2"\n[gpt2]\nlike = "minilm"\n'
    )
    assert encoder_spec("good").model == "GPT2LMHeadModel", "what `like` copies is the packaged entry"
    assert encoder_spec("minilm").model == "BertModel"
    specs = encoder_specs()
    assert "good" in specs and "bad" not in specs and specs["gpt2"].model == "GPT2LMHeadModel"
    assert invalid_entries().keys() == {"loose", "bad", "gpt2"}
    assert "poolings: Extra inputs" in str(invalid_entries()["bad"])
    with pytest.raises(UsageError, match="Rename your entry"):
        encoder_spec("gpt2")


def test_a_file_that_is_not_toml_stands_in_no_packaged_encoders_way(own: Path) -> None:
    own.write_text("[a\n")
    assert encoder_spec("gpt2").default == "last.mean"
    with pytest.raises(UsageError, match="not valid TOML"):
        encoder_specs()


def test_a_named_file_that_is_not_there_is_an_error(own: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        encoder_specs()


def test_options_refuse_types_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="autocast"):
        EncodeOptions(autocast="float8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="dtype"):
        EncodeOptions(dtype="bfloat16")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [EncoderSpec, WeightSource, Preprocessing, Embedding, Sound])
def test_every_field_of_an_entry_is_documented(form: type[BaseModel]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "encoders.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", page, re.MULTILINE))))
    assert set(form.model_fields) - {"name"} <= documented


def test_every_family_that_an_id_describes_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "encoders.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+", page))
    towers = {"clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model"}
    towers |= {"clap_audio_model", "clap_text_model"}
    assert {*described_kinds("transformers"), *described_kinds("timm")} - towers <= named
