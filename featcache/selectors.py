"""Selectors: parsing of the names of cached arrays, `[view/]encoder[/layer.pooling][@digest]`, and of row ranges."""

import re
from dataclasses import dataclass

from featcache.data.hub_names import HUB, cached_name
from featcache.encoder_ids import LIBRARIES, parse_id
from featcache.errors import UsageError

AUTO = "auto"  # in place of a layer: train and probe choose it on training groups
BITS_PER_BYTE = "lm.bits-per-byte"  # the layer of a causal language model that holds one number a text

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*", re.IGNORECASE)
_ENCODER_ID = re.compile(rf"(?:^|(?<=/))(?:{'|'.join(LIBRARIES)}):(?!//).*")
_GLOB = re.compile(r"[a-z0-9*?\[][a-z0-9._+*?!:\[\]-]*", re.IGNORECASE)


@dataclass(frozen=True)
class Selector:
    """A parsed name; None where the name leaves the choice open."""

    encoder: str
    view: str | None = None
    layer: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        parts = [part for part in (self.view, self.encoder, self.layer) if part]
        return "/".join(parts) + (f"@{self.digest}" if self.digest else "")


def check_name(name: str, what: str) -> str:
    """Returns a name of `what` that is safe as a folder's name; UsageError if it is not."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of {what}: use letters, digits, '.', '_', '+', '-'")
    if name == AUTO:
        raise UsageError(f"{name!r} cannot be the name of {what}: behind an encoder it means a layer that is chosen")
    return name


def parse_selector(text: str) -> Selector:
    """Parses `[view/]encoder[/layer.pooling][@digest]`, the layer known by its pooling; UsageError for other forms.

    The layer may also be "auto", which is no layer of an array.

    Example:
        >>> parse_selector("dinov2-small/last.cls")
        Selector(encoder='dinov2-small', view=None, layer='last.cls', digest=None)
        >>> parse_selector("names-de/minilm@3fa9")
        Selector(encoder='minilm', view='names-de', layer=None, digest='3fa9')
    """
    check_no_id(text)
    path, _, digest = text.partition("@")
    parts = path.split("/")
    if not 1 <= len(parts) <= 3 or not all(_NAME.fullmatch(part) for part in parts):
        raise UsageError(f"{text!r} is not of the form [view/]encoder[/layer.pooling][@digest]")
    layer = parts.pop() if len(parts) > 1 and (is_layer(parts[-1]) or parts[-1] == AUTO) else None
    if len(parts) > 2:
        raise UsageError(f"{text!r}: {parts[-1]!r} is not a layer and its pooling, such as last.mean")
    return Selector(parts[-1], parts[0] if len(parts) == 2 else None, layer, digest or None)


def check_no_id(text: str) -> None:
    """UsageError if a text holds the id of an encoder where the name of cached features is wanted; says the name.

    Example:
        >>> check_no_id("hf:facebook/dinov2-small")
        Traceback (most recent call last):
        featcache.errors.UsageError: features of hf:facebook/dinov2-small are called facebook-dinov2-small
          Name them so, or a text tower's facebook-dinov2-small-text; what is cached, and as what: featcache ls
    """
    match = _ENCODER_ID.search(text)
    if match is None:
        return
    path, _, last = match[0].rpartition("/")
    id = path if is_layer(last) or last == AUTO else match[0]
    name = parse_id(id).name
    raise UsageError(
        f"features of {id} are called {name}\n"
        f"  Name them so, or a text tower's {name}-text; what is cached, and as what: featcache ls"
    )


def is_layer(text: str) -> bool:
    """Whether a text names a layer and its pooling: "last.mean", "3.cls", "lm.bits-per-byte", "adapted.x".

    Example:
        >>> is_layer("last.mean"), is_layer("resnet18"), is_layer("11.patch-mean")
        (True, False, True)
    """
    return re.fullmatch(r"(last|lm|graph|\d+)\.[a-z-]+|adapted\.[a-z0-9-]+", text) is not None


@dataclass(frozen=True)
class Pattern:
    """A glob for every part of the path of an array."""

    dataset: str = "*"
    view: str = "*"
    encoder: str = "*"
    layer: str = "*"
    digest: str = "*"


def parse_pattern(text: str) -> Pattern:
    """Parses `dataset[/view[/encoder[/layer]]][@digest]` with globs, open parts meaning all; UsageError otherwise.

    The path of a folder of the user's, as in "./my_images", stands for the data set of that folder, and
    "hub:ORG/NAME[:CONFIG]" for that of the Hub.

    Example:
        >>> parse_pattern("flickr30k/*/gpt2")
        Pattern(dataset='flickr30k', view='*', encoder='gpt2', layer='*', digest='*')
    """
    if is_place(text) and "://" not in text:
        from featcache.data.open import dataset_name

        return Pattern(dataset_name(text))
    if text.startswith(HUB):
        return Pattern(cached_name(text))
    check_no_id(text)
    path, _, digest = text.partition("@")
    parts = path.removesuffix("/").split("/")
    if not 1 <= len(parts) <= 4 or not all(_GLOB.fullmatch(part) for part in parts):
        raise UsageError(f"{text!r} is not of the form dataset[/view[/encoder[/layer]]][@digest], with globs if wanted")
    parts[0] = parts[0].removeprefix("folder:")  # as it was extracted, so it may be named
    return Pattern(*parts, *["*"] * (4 - len(parts)), digest=f"{digest}*")


def parse_rows(text: str) -> tuple[int, int]:
    """Parses "start:stop", the first row and the first row behind the last; UsageError for other forms.

    Example:
        >>> parse_rows("0:10000")
        (0, 10000)
    """
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise UsageError(f"{text!r} is not START:STOP with START before STOP, such as 0:10000")
    return int(start), int(stop)


def is_place(text: str) -> bool:
    """Whether a text names a folder or an address, and not arrays: it has "://", or starts like a path.

    Example:
        >>> is_place("s3://lab/cache"), is_place("/mnt/usb"), is_place("./usb"), is_place("flickr30k/*/gpt2")
        (True, True, True, False)
    """
    return "://" in text or text.startswith(("/", ".", "~"))
