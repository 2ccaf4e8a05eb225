"""Folders of sentence-transformers: their pooling, prefix and normalisation, as fields of an entry."""

from collections.abc import Sequence
from typing import Any, Protocol

from featcache.errors import UndescribedEncoder

_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last-token"}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
}
_OLD_SETTINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


class Settings(Protocol):
    """Where settings files are read."""

    def read_json(self, name: str) -> Any:
        """A file; None if there is none."""
        ...


def sentence_fields(
    settings: Settings, modules: Any, fields: dict[str, Any], longest: int, *, base: str | None
) -> dict[str, Any]:
    """What the modules of a folder change in the entry of its network.

    Args:
        settings: Of the folder.
        modules: Its modules.json.
        fields: Of the network's entry.
        longest: Tokens of a text, where the folder does not state it.
        base: The network's class without a language model's head: sentence-transformers takes none.

    Raises:
        UndescribedEncoder: If a module is not the network, the pooling, a linear layer or the normalisation; or a
            setting of one cannot be declared.
    """
    kinds = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
    names = [kind for kind, _ in kinds]
    normalize = names[-1:] == ["Normalize"]
    layers = kinds[2:-1] if normalize else kinds[2:]
    if names[:2] != ["Transformer", "Pooling"] or any(kind != "Dense" for kind, _ in layers):
        raise UndescribedEncoder(
            f"its modules are {', '.join(names)}, and only Transformer, Pooling, Dense and Normalize can be declared, "
            "in this order; an entry without the others gives the features before them"
        )
    if kinds[0][1]:
        raise UndescribedEncoder(f"its network is in the folder {kinds[0][1]!r} of it; name that folder")
    prefix = _prefix(settings.read_json("config_sentence_transformers.json") or {})
    pooling = _pooling(settings.read_json(f"{kinds[1][1]}/config.json"), prefix)
    network = settings.read_json("sentence_bert_config.json") or {}
    if network.get("do_lower_case"):
        raise UndescribedEncoder("it makes texts lower-case before its tokenizer reads them (do_lower_case)")
    dense = [_dense(folder, settings.read_json(f"{folder}/config.json")) for _, folder in layers]
    result: dict[str, Any] = {
        "pooling": [pooling, *(each for each in fields["pooling"] if each != pooling)],
        "embedding": {"pooling": pooling, "dense": dense, "normalize": normalize},
        "default": "last.embedding",
        "max_tokens": network.get("max_seq_length") or longest,
        **({"prefix": prefix} if prefix else {}),
    }
    return result | ({"model": base, "bits_per_byte": False} if base else {})


def _dense(folder: str, settings: dict[str, Any] | None) -> dict[str, Any]:
    settings = settings or {}
    activation = _ACTIVATIONS.get(str(settings.get("activation_function")))
    inputs = {settings.get(name) or "sentence_embedding" for name in ("module_input_name", "module_output_name")}
    if activation is None or settings.get("use_residual") or inputs != {"sentence_embedding"}:
        raise UndescribedEncoder(
            f"its layer in {folder} is more than a linear one with {', '.join(_ACTIVATIONS.values())} behind it"
        )
    return {"folder": folder, "activation": activation}


def _pooling(settings: dict[str, Any] | None, prefix: str) -> str:
    if settings is None:
        raise UndescribedEncoder("its Pooling has no config.json")
    if prefix and settings.get("include_prompt") is False:
        raise UndescribedEncoder("it puts a prompt before a text and leaves it out of the pooling (include_prompt)")
    stated: Any = settings.get("pooling_mode") or [new for old, new in _OLD_SETTINGS.items() if settings.get(old)]
    modes: Sequence[str] = [stated] if isinstance(stated, str) else stated
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UndescribedEncoder(
            f"it pools by {' and '.join(modes) or 'nothing'}; one of {', '.join(_POOLINGS)} is wanted"
        )
    return _POOLINGS[modes[0]]


def _prefix(settings: dict[str, Any]) -> str:
    """The prompt that stands before every text by default; its tokens are pooled with the text's."""
    name = settings.get("default_prompt_name")
    return (settings.get("prompts") or {}).get(name, "") if name else ""
