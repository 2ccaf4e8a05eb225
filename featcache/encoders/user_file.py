"""The user's file of encoders: entries written as TOML, and added to it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache.encoders.spec import EncoderSpec, encoder_specs, invalid_entries, user_encoders_path
from featcache.encoders.weights import check_folder
from featcache.errors import UsageError
from featcache.storage.durable import locked, make_folders, replace


def entry_toml(spec: EncoderSpec) -> str:
    """An entry as it stands in a file, with what differs from the defaults.

    Example:
        >>> from featcache.encoders import encoder_spec
        >>> print(entry_toml(encoder_spec("resnet18-tv")).partition("licence")[0])
        [resnet18-tv]
        library = "timm"
        modality = "image"
        arch = "resnet18.tv_in1k"
        blocks = ["layer1", "layer2", "layer3", "layer4"]
        last = "block"
        pooling = ["mean"]
        default = "last.mean"
        dtype = "float16"
        <BLANKLINE>
    """
    import tomli_w

    fields = spec.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    return re.sub(r"\[\n([^\[\]]*)\]", _one_line, tomli_w.dumps({spec.name: fields}))


def _one_line(array: re.Match[str]) -> str:
    """An array that the writer gives a line an item; a line break cannot stand within a string there."""
    return f"[{', '.join(line.strip().rstrip(',') for line in array[1].splitlines())}]"


def add_entries(specs: Sequence[EncoderSpec], *, name: str | None = None) -> tuple[Path, list[EncoderSpec]]:
    """Adds entries to the end of the user's file; what stands in it is not touched, and an equal entry not added twice.

    The file is made if it is not there. Several processes may add to it at once.

    Args:
        specs: The entries.
        name: Of the first entry instead of its own, and with "-text" of the second; None keeps theirs.

    Returns:
        The file, and the entries under the names that they have in it.

    Raises:
        UsageError: If a name is taken by another encoder, is no name, or the file is not TOML.
        WeightsMissing: If an entry's folder lacks files.
        WeightsInvalid: If they are cut short.
    """
    if name is not None:
        names = [name, f"{name}-text"]
        specs = [_renamed(spec, named) for spec, named in zip(specs, names, strict=False)]
    for spec in specs:
        check_folder(spec)
    path = user_encoders_path()
    make_folders(path.parent)
    with locked(path.resolve()):
        there: dict[str, Any] = {**encoder_specs(), **invalid_entries()}
        taken = [spec.name for spec in specs if there.get(spec.name, spec) != spec]
        if taken:
            raise UsageError(
                f"{', '.join(taken)} is the name of another encoder; nothing was written\n"
                "  Choose another: featcache encoders add ID --name NAME; those that are there: featcache encoders"
            )
        new = [spec for spec in specs if spec.name not in there]
        if new:
            before = path.read_text(encoding="utf-8").rstrip()
            replace(path.resolve(), "\n\n".join(filter(None, [before, *map(entry_toml, new)])).encode())
    return path, list(specs)


def _renamed(spec: EncoderSpec, name: str) -> EncoderSpec:
    from pydantic import ValidationError

    try:
        return EncoderSpec.model_validate({**spec.model_dump(), "name": name})
    except ValidationError as error:
        raise UsageError(f"--name {name}: {error.errors()[0]['msg']}") from None
