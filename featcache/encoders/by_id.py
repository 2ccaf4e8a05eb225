"""Encoders by id: entries generated from what a repository states of itself."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.data.views import Dataset
from featcache.encoder_ids import EncoderId, is_id, parse_id
from featcache.encoders.described_open_clip import describe_open_clip, open_clip_repository
from featcache.encoders.described_timm import describe_timm, timm_repository
from featcache.encoders.described_transformers import describe_transformers
from featcache.encoders.hub import cached_repositories, repository_licence, settings_snapshot
from featcache.encoders.repository import Repository
from featcache.encoders.spec import EncoderSpec, encoder_spec, encoder_specs, packaged_specs, user_encoders_path
from featcache.encoders.weights import OPEN_CLIP_CONFIG, TOKENIZER_FILES
from featcache.errors import NoTowers, UndescribedEncoder, UnknownEncoder, WeightsInvalid, WeightsMissing

_EXAMPLE = "hf:facebook/dinov2-small"
_SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    OPEN_CLIP_CONFIG,
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
    "*_Dense/config.json",
    "README.md",
    *TOKENIZER_FILES,
)


def described(text: str, *, memo: Path) -> list[EncoderSpec]:
    """The entries of what an id names, generated from what its repository states: one, or one a tower.

    Args:
        text: The id.
        memo: Folder of what is remembered: commits of first use.

    Raises:
        UsageError: If the text is no id.
        UndescribedEncoder: If the encoder cannot be described without guessing; says what to declare.
        WeightsMissing: If the repository, or a library, is not there; says what else may have been meant.
        WeightsInvalid: If the repository contradicts itself.
    """
    wanted = parse_id(text)
    try:
        named = {"timm": timm_repository, "open_clip": open_clip_repository}.get(wanted.library)
        place = named(wanted) if named and not wanted.is_folder else wanted.place
        repository = _open(wanted, place, memo)
        config = repository.read_json(OPEN_CLIP_CONFIG if wanted.library == "open_clip" else "config.json")
        if not isinstance(config, dict):
            raise _no_configuration(repository)
        tables = _describer(wanted, config)(repository, config)
    except NoTowers as error:
        raise NoTowers(f"{text}: {error}") from error
    except UndescribedEncoder as error:
        raise UndescribedEncoder(f"{text} cannot be described without guessing: {error}\n{_declare()}") from error
    except (WeightsMissing, UnknownEncoder) as error:
        if not (hints := list(_hints(wanted))):
            raise
        first, _, ways = str(error).partition("\n")
        raise type(error)("\n".join([first, *hints, *([ways] if ways else [])])) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of settings that anybody may have written
        raise WeightsInvalid(f"the settings of {text} are not what its library writes: {error!r}") from error
    return [_entry(wanted, table, several=len(tables) > 1) for table in tables]


def _hints(wanted: EncoderId) -> Iterator[str]:
    """What else may have been meant by an id of which there is nothing."""
    if wanted.is_folder:
        return
    near = [wanted.place, *sorted(f"{each.name}/{wanted.place}" for each in Path().iterdir())]
    folder = next((each for each in near if os.path.isdir(each)), None)  # False of what is closed to this user
    if folder is not None:
        yield f"  There is a folder {folder}; did you mean {wanted.library}:./{folder}?"
    elif wanted.library == "hf" and "/" not in wanted.place:
        yield f"  A repository is ORG/NAME, as in {_EXAMPLE}, but for a few old ones"
    for repo in cached_repositories():
        if repo != wanted.place and repo.lower() == wanted.place.lower():
            yield f"  The Hub's cache on this machine has it in other letters; did you mean {wanted.library}:{repo}?"


def _describer(
    wanted: EncoderId, config: dict[str, Any]
) -> Callable[[Repository, dict[str, Any]], list[dict[str, Any]]]:
    if wanted.library == "open_clip":
        return describe_open_clip
    of_timm = wanted.library == "timm" or ("architecture" in config and "model_type" not in config)
    return describe_timm if of_timm else describe_transformers


def encoders_of(names: Sequence[str], *, memo: Path) -> dict[str, list[EncoderSpec]]:
    """The encoders that names and ids stand for, in order; raises as `encoder_spec` and `described`."""
    return {name: described(name, memo=memo) if is_id(name) else [encoder_spec(name)] for name in names}


def fitting(encoders: Mapping[str, Sequence[EncoderSpec]], dataset: Dataset, view: str | None) -> list[EncoderSpec]:
    """Of networks with several towers, those that a data set has a view for.

    Args:
        encoders: As `encoders_of` gives them.
        dataset: The data set.
        view: The only view that is meant; None for every one.
    """
    there = {each.modality for each in dataset.views.values() if view in (None, each.name)}
    chosen: list[EncoderSpec] = []
    for specs in encoders.values():
        chosen += [spec for spec in specs if spec.modality in there] or specs[:1]
    return chosen


_SCHEMES = {"transformers": "hf", "timm": "timm", "open_clip": "open_clip"}


def described_again(
    name: str, binds: Mapping[str, Any], provenance: Mapping[str, Any], *, memo: Path
) -> EncoderSpec | None:
    """The entry of the repository and commit from which features were made; None if they are from no repository.

    Args:
        name: That the entry has.
        binds: What the digest of the features binds of their encoder.
        provenance: Of the encoder.
        memo: As `described`.

    Raises:
        UsageError: As `described`.
        WeightsMissing: As `described`.
        WeightsInvalid: As `described`.
    """
    scheme = _SCHEMES.get(str(provenance.get("library")))
    if scheme is None or not {"repo", "commit"} <= provenance.keys():
        return None
    specs = described(f"{scheme}:{provenance['repo']}@{provenance['commit']}", memo=memo)
    of_text = "tokenizer" in binds
    spec = next((spec for spec in specs if (spec.modality == "text") == of_text), specs[0])
    return spec.model_copy(update={"name": name})


def _open(wanted: EncoderId, place: str, memo: Path) -> Repository:
    if wanted.is_folder:
        folder = Path(place).expanduser().absolute()
        if not folder.is_dir():
            raise WeightsMissing(
                f"{wanted.text}: there is no folder {folder}\n  A repository of the Hub is ORG/NAME, as in {_EXAMPLE}"
            )
        source: dict[str, Any] = {"folder": str(folder)}
    else:
        folder, commit = settings_snapshot(
            place, wanted.revision or "main", _SETTINGS, memo=memo, copy=f"{wanted.library}:./DIR instead of the id,"
        )
        source = {"repo": place, "revision": commit}
    return Repository(wanted, folder, source, repository_licence(folder) or "not stated by the repository")


def _no_configuration(repository: Repository) -> UndescribedEncoder:
    if (repository.folder / "adapter_config.json").is_file():
        base = (repository.read_json("adapter_config.json") or {}).get("base_model_name_or_path", "its base model")
        return UndescribedEncoder(f"it is an adapter of {base}, without a network of its own; merge the two and save")
    if repository.id.library == "open_clip":
        return UndescribedEncoder(f"it has no {OPEN_CLIP_CONFIG}, which says what the network is; try hf:")
    if (repository.folder / OPEN_CLIP_CONFIG).is_file():
        return UndescribedEncoder(f"its settings are open_clip's; name it open_clip:{repository.id.place}")
    return UndescribedEncoder("it has no config.json, which says what the network is")


def _declare() -> str:
    return (
        f"  Declare it in {user_encoders_path()}: a table [name] with library, modality, source, model or arch,\n"
        "  blocks, last, pooling, default, dtype and licence; docs/encoders.md has every field\n"
        "  Encoders that are there: featcache encoders"
    )


def _entry(wanted: EncoderId, table: dict[str, Any], *, several: bool) -> EncoderSpec:
    from pydantic import ValidationError

    name = f"{wanted.name}-text" if several and table["modality"] == "text" else wanted.name
    try:
        spec = EncoderSpec.model_validate({"name": name, **table})
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']}" for e in error.errors())
        raise UndescribedEncoder(f"{wanted.text} gives no valid entry: {reasons}\n{_declare()}") from None
    known = encoder_specs() if user_encoders_path().is_file() else packaged_specs()
    if known.get(name, spec) == spec:
        return spec
    return spec.model_copy(update={"name": f"{wanted.library}-{name}"})  # the name is that of another encoder
