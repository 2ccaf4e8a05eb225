"""The perturbation dials: alignment while characters are deleted, pixels replaced, or voices tied to a label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cache import Cache
from featcache.data.perturbations import MODALITY, VOICES, Kind, Perturbation, perturbation_of, with_perturbed
from featcache.data.voices import LABEL, voice_label
from featcache.encoders import EncodeOptions, encoder_spec, load_encoder
from featcache.errors import FeaturesNotCached, UsageError
from featcache.extraction.extract import Extracted, extract
from featcache.extraction.job import plan_job
from featcache.features import Features
from featcache.studies.emergence.dials.correlations import dial_correlations
from featcache.studies.emergence.dials.doses import (
    DialResult,
    DialSettings,
    DialViews,
    Dose,
    Layers,
    OnStep,
    drawn_groups,
    kept_groups,
    layers_of_view,
    measure_doses,
    write_tables,
)
from featcache.studies.emergence.dials.performance import Labels, bits_per_byte, given_labels, probe_doses
from featcache.studies.emergence.dials.swapped_captions import chosen_labels

if TYPE_CHECKING:
    from featcache.data.views import Dataset

_WORDS = {
    "delete": "of characters deleted",
    "noise": "of pixels replaced",
    "voice-unique": "of voices tied to the label",
    "voice-redundant": "of voices tied to the class",
}


def extract_perturbed(
    cache: Cache,
    dataset: "Dataset",
    view: str,
    encoders: Sequence[str],
    perturbations: Sequence[Perturbation],
    *,
    options: EncodeOptions | None = None,
    on_step: OnStep | None = None,
) -> list[Extracted]:
    """Encodes perturbed views of a data set into the cache, as further views; what is there is not computed again.

    Bits per byte of a causal language model are those of the perturbed texts.

    Args:
        cache: The cache.
        dataset: The data set, opened.
        view: The view that is perturbed.
        encoders: Names of encoders.
        perturbations: Of the kind for the view's modality.
        options: As `plan_job`.
        on_step: Called with each encoder and view before it is encoded.

    Returns:
        What was done, encoder by encoder.

    Raises:
        DataInvalid, WeightsMissing, ExtractionFailed: As `with_perturbed`, `plan_job` and `extract`.
    """
    widened = with_perturbed(dataset, view, perturbations)
    views = [each.view_name(view) for each in perturbations]
    chosen = options or EncodeOptions()
    return [each for encoder in encoders for each in encode_views(cache, widened, encoder, views, chosen, on_step)]


def encode_views(
    cache: Cache, dataset: "Dataset", encoder: str, views: Sequence[str], options: EncodeOptions, on_step: OnStep | None
) -> list[Extracted]:
    """Encodes several views of a data set with one encoder, which is loaded once, and only where something is missing.

    Args:
        cache: The cache.
        dataset: The data set, opened.
        encoder: Name.
        views: Names of views.
        options: As `plan_job`.
        on_step: Called with the encoder and each view before it is encoded.

    Raises:
        WeightsMissing, ExtractionFailed: As `plan_job` and `extract`.
    """
    spec, loaded = encoder_spec(encoder), None
    done: list[Extracted] = []
    for view in views:
        if on_step is not None:
            on_step(f"{encoder} over {view}")
        job = plan_job(cache, dataset, spec, options, view=view)
        if loaded is None and not job.done:
            loaded = load_encoder(spec, options, memo=cache.memo)
        done.append(extract(cache, job, encoder=loaded))
    return done


def perturbed(
    cache: Cache,
    views: DialViews,
    perturbations: Sequence[Perturbation] = (),
    settings: DialSettings | None = None,
    *,
    labels: Labels | str | None = None,
    out: Path | None = None,
    on_step: OnStep | None = None,
) -> DialResult:
    """Alignment and performance of every layer while one of two views is perturbed.

    The view that is perturbed is the one of the perturbations' modality. Its features come from `extract_perturbed`.
    The first dose is the view itself, but of voices the least one: the view itself has one voice, the doses have many.

    Args:
        cache: The cache.
        views: Of images and of texts or speech; of their encoders those are taken that are cached for the view itself
            and for every perturbation, of voices for every perturbation.
        perturbations: All of one kind; () for those that are cached.
        settings: How it is measured; None for `DialSettings()`.
        labels: As `swapped_captions`; of "voice-unique" None is the label that voices are tied to.
        out: Folder for the tables, OUT/perturbed/DATASET/KIND; None for nowhere.
        on_step: Called with each step in words.

    Raises:
        UsageError: If perturbations are of several kinds, or none is cached.
        FeaturesNotCached, Ambiguous, NotPaired, MetricError: As `layers_of_view`, `measure_doses` and `probe_doses`.
    """
    settings = settings or DialSettings()
    names = (views.x, views.y)
    chosen = list(perturbations) or cached_perturbations(cache, views.dataset, names)
    kind = _one_kind(chosen)
    modality = MODALITY[kind]
    spoilt = 0 if modality == "image" else 1
    clean = _first_layers(cache, views, chosen[0])
    of_dose, notes = _perturbed_layers(cache, views.dataset, names[spoilt], clean[spoilt], chosen)
    every = [*clean[1 - spoilt].arrays, *(each for arrays in of_dose.values() for each in arrays)]
    of = _tied_label(every[0]) if kind == "voice-unique" and labels is None else chosen_labels(every, labels)
    measured = drawn_groups(every, settings.rows, settings.seed)
    doses = list(_doses(clean, of_dose, spoilt))
    defaults = (clean[0].defaults, clean[1].defaults)
    comparison = "image–audio" if modality == "audio" else "image–text"
    alignment = measure_doses(
        kind, _measured(doses, measured), defaults, settings, comparison=comparison, on_step=on_step
    )
    performance, said = None, ["no labels: layers have no performance but bits per byte of language models"]
    if of is not None:
        performance, said = probe_doses(kind, doses, of, seed=settings.seed, on_step=on_step)
    texts = {dose.y[0].view: (dose.share, dose.words, dose.draw) for dose in doses}
    bits = bits_per_byte(cache, views.dataset, texts, measured) if modality == "text" else None
    correlations = dial_correlations(alignment, performance, bits)
    tables = {"alignment": alignment, "performance": performance, "correlations": correlations, "bits": bits}
    paths = write_tables(
        None if out is None else out / "perturbed" / views.dataset / kind,
        {name: each for name, each in tables.items() if each is not None},
    )
    return DialResult(alignment, performance, correlations, bits, (*notes, *said), paths)


def _first_layers(cache: Cache, views: DialViews, first: Perturbation) -> tuple[Layers, Layers]:
    """The layers of both views; of voices those of the first dose, since the view itself is none."""
    return (replace(views, y=first.view_name(views.y)) if first.kind in VOICES else views).layers(cache)


def _tied_label(features: Features) -> Labels:
    """The label that "voice-unique" ties voices to, which needs no column of the data set."""
    return given_labels(features, LABEL, {group: voice_label(str(group)) for group in features.groups.tolist()})


def cached_perturbations(
    cache: Cache,
    dataset: str,
    views: Sequence[str],
    *,
    kind: Kind | None = None,
    edge: int | None = None,
) -> list[Perturbation]:
    """The perturbations that the cache has of the first of some views that has any, the least first.

    Args:
        cache: The cache.
        dataset: Data set name.
        views: Names of views that are no perturbed ones.
        kind: Of which; None for all that there are.
        edge: Of noise, as `Perturbation`.

    Raises:
        UsageError: If there are none; lists the perturbed views that there are.
    """
    known = {name: perturbation_of(name) for name in sorted({array.name.view for array in cache.arrays(dataset)})}
    for view in views:
        own = [each[1] for each in known.values() if each is not None and each[0] == view and each[1].edge == edge]
        own = [each for each in own if kind in (None, each.kind)]
        if own:
            return sorted(own, key=lambda each: (each.seed, each.percent))
    there = ", ".join(name for name, each in known.items() if each is not None) or "none"
    wanted = " or ".join(views)
    options = f" --view {views[0]} --kind {kind}" if kind in VOICES else ""
    raise UsageError(
        f"no perturbed view of {wanted} of {dataset} is cached in {cache.folder}; perturbed views: {there}\n"
        f"  Run: featcache emergence perturb {dataset} ENCODER{options}"
    )


def _one_kind(perturbations: Sequence[Perturbation]) -> str:
    kinds = {each.kind for each in perturbations}
    edges = {each.edge for each in perturbations}
    if len(kinds) != 1 or len(edges) != 1:
        words = ", ".join(each.view_name("VIEW") for each in perturbations)
        raise UsageError(f"one dial has perturbations of one kind, before or after one transform; got {words}")
    return next(iter(kinds))


def _perturbed_layers(
    cache: Cache, dataset: str, view: str, clean: Layers, perturbations: Sequence[Perturbation]
) -> tuple[dict[Perturbation | None, list[Features]], list[str]]:
    """The layers at every dose, the same ones at each; None is the view itself."""
    names = list(dict.fromkeys(each.encoder for each in clean.arrays))
    made: dict[Perturbation, dict[tuple[str, str], Features]] = {}
    for each in perturbations:
        layers = layers_of_view(
            cache, dataset, each.view_name(view), _cached(cache, dataset, each.view_name(view), names)
        )
        made[each] = {(own.encoder, own.layer): own for own in layers.arrays}
    shared = set.intersection(*(set(own) for own in made.values()))
    kept = [each for each in clean.arrays if (each.encoder, each.layer) in shared]
    if not kept:
        raise FeaturesNotCached(
            f"no layer of {view} of {dataset} is cached at every perturbation: {', '.join(names)} lack some\n"
            f"  Run: featcache emergence perturb {dataset} {' '.join(names)}"
        )
    left = sorted({each.encoder for each in clean.arrays} - {each.encoder for each in kept})
    notes = [f"{encoder}: not cached at every perturbation, left out" for encoder in left]
    of_dose: dict[Perturbation | None, list[Features]] = {} if perturbations[0].kind in VOICES else {None: kept}
    for each, own in made.items():
        of_dose[each] = [own[one.encoder, one.layer] for one in kept]
    return of_dose, notes


def _cached(cache: Cache, dataset: str, view: str, encoders: Sequence[str]) -> list[str]:
    """Those of some encoders that a view has arrays of; all of them where it has none, so that the error names one."""
    there = {array.name.encoder for array in cache.arrays(dataset, view)}
    return [encoder for encoder in encoders if encoder in there] or list(encoders)


def _doses(
    clean: Sequence[Layers], of_dose: Mapping[Perturbation | None, Sequence[Features]], spoilt: int
) -> Iterator[Dose]:
    seeds = sorted({each.seed for each in of_dose if each is not None})
    for perturbation, arrays in of_dose.items():
        percent = perturbation.percent if perturbation else 0
        words = f"{percent}% {_WORDS[perturbation.kind]}" if perturbation else "nothing perturbed"
        sides: list[Any] = [clean[0].arrays, clean[1].arrays]
        sides[spoilt] = arrays
        yield Dose(percent / 100, words, perturbation.seed if perturbation else seeds[0], sides[0], sides[1])


def _measured(doses: Sequence[Dose], groups: set[Any]) -> Iterator[Dose]:
    """The doses on some groups; layers that doses share are one array in all of them."""
    known: dict[int, Features] = {}
    for dose in doses:
        for each in (*dose.x, *dose.y):
            known.setdefault(id(each), kept_groups(each, groups))
        x, y = ([known[id(each)] for each in side] for side in (dose.x, dose.y))
        yield Dose(dose.share, dose.words, dose.draw, x, y)
