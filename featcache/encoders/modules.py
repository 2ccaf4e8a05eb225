"""Modules of a network by the paths that its entry names: blocks, norms, and what makes the library's own vector."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from featcache.encoders.pooling import POOLINGS, Positions
from featcache.encoders.spec import EncoderSpec
from featcache.errors import UsageError

# Classes that transformers has and does not export, by where they are.
_INNER = {"WhisperEncoder": "transformers.models.whisper.modeling_whisper"}


def network_class(name: str) -> Any:
    """A class of transformers by its name; None if the installed version has none."""
    import transformers

    return getattr(import_module(_INNER[name]) if name in _INNER else transformers, name, None)


def find_blocks(network: nn.Module, spec: EncoderSpec) -> tuple[nn.Module, ...]:
    """The blocks, in order; UsageError if the entry's path names no list of them."""
    if isinstance(spec.blocks, tuple):
        return tuple(find_module(network, path, spec) for path in spec.blocks)
    blocks = find_module(network, spec.blocks, spec)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or not len(blocks):
        raise UsageError(
            f"`blocks` of {spec.name} names {spec.blocks}, a {type(blocks).__name__} and no list of blocks"
        )
    return tuple(blocks)


def embedding_of(
    network: nn.Module, spec: EncoderSpec, dense: nn.Module | None = None
) -> Callable[[Tensor, Positions], Tensor] | None:
    """From layer `last` to the library's own vector of a row; None where the entry declares none.

    Args:
        network: The network.
        spec: Its entry.
        dense: The layers behind the pooling.
    """
    steps = spec.embedding
    if steps is None:
        return None
    paths = (steps.projection,) if isinstance(steps.projection, str) else steps.projection or ()
    projections = [_projection(network, path, spec) for path in paths]

    def embed(hidden: Tensor, positions: Positions) -> Tensor:
        vectors = POOLINGS[steps.pooling](hidden, positions) if steps.pooling else hidden
        for projection in projections:
            vectors = projection(vectors)
        vectors = vectors if dense is None else dense(vectors)
        return nn.functional.normalize(vectors) if steps.normalize else vectors

    return embed


def _projection(network: nn.Module, path: str, spec: EncoderSpec) -> Callable[[Tensor], Tensor]:
    """A module, or a matrix [d, out] that is a parameter of its own, as open_clip's are."""
    matrix = dict(network.named_parameters()).get(path)
    return find_module(network, path, spec) if matrix is None else lambda vectors: vectors @ matrix


def find_module(network: nn.Module, path: str, spec: EncoderSpec) -> nn.Module:
    """The module of that path, or the only one whose path ends so: libraries wrap networks in other names."""
    modules = dict(network.named_modules())
    if path in modules:
        return modules[path]
    ends = [name for name in modules if name.endswith(f".{path}")]
    if len(ends) != 1:
        near = [name for name, module in modules.items() if isinstance(module, (nn.ModuleList, nn.Sequential))]
        raise UsageError(
            f"{spec.name}: {len(ends)} modules are called {path}\n  Lists of modules: {', '.join(near[:8])}"
        )
    return modules[ends[0]]
