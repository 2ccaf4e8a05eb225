"""Commands of the dials of emergence: captions swapped, perturbed or graded, and voices tied, by known doses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.commands.options import CacheOption, RootOption, SeedOption

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.studies.emergence.dials.doses import DialResult
    from featcache.studies.emergence.dials.performance import Labels

_DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Data set name, as in the cache.")]
_ImagesOption = Annotated[str, typer.Option(help="View of the pictures.")]
_TextsOption = Annotated[str, typer.Option(help="View of the texts.")]
_RowsOption = Annotated[int, typer.Option(min=0, help="Groups that are measured, drawn; 0 for all.")]
_LabelOption = Annotated[
    str | None, typer.Option(help="Label column that layers are probed for. Default: the first, if there is one.")
]
_OutOption = Annotated[Path, typer.Option(help="Folder of the study; each part has a folder of its own in it.")]
_Kind = Literal["delete", "noise", "voice-unique", "voice-redundant"]
_KindOption = Annotated[
    _Kind | None,
    typer.Option(
        help="Of characters, of pixels, or of voices: tied to a drawn label, or to the first label of the data set."
    ),
]
_ENCODERS = "ENCODER or ENCODER/LAYER, several times; the first one's default layer is the fixed one. Default: all."
_ImageEncodersOption = Annotated[list[str] | None, typer.Option("--image", metavar="ENCODER", help=_ENCODERS)]
_TextEncodersOption = Annotated[list[str] | None, typer.Option("--text", metavar="ENCODER", help=_ENCODERS)]


def swapped(
    dataset: _DatasetArgument,
    images: _ImagesOption = "images",
    texts: _TextsOption = "captions",
    image_encoders: _ImageEncodersOption = None,
    text_encoders: _TextEncodersOption = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the swaps.")] = 1,
    rows: _RowsOption = 1024,
    label: _LabelOption = None,
    root: RootOption = None,
    seed: SeedOption = 0,
    out: _OutOption = Path("emergence"),
    cache: CacheOption = None,
) -> None:
    """Swap captions for those of other photos: a known share of wrong ones, on cached features, nothing encoded again.

    Of five captions a photo none to all five are another photo's; of one text a row, a share of the rows. How do
    alignment and its correlation with the layers' probe accuracy fall? With --root, a data set without labels is probed
    for the subject that most captions of a photo name.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.emergence.dials.doses import DialSettings, DialViews
    from featcache.studies.emergence.dials.swapped_captions import swapped_captions

    store, settings = open_cache(cache), DialSettings(rows=rows or None, seed=seed)
    views = DialViews(dataset, images, texts, tuple(image_encoders or ()), tuple(text_encoders or ()))
    labels = _labels(store, dataset, texts, label, root)
    with step_progress("measuring") as on_step:
        result = swapped_captions(store, views, settings, draws=range(draws), labels=labels, out=out, on_step=on_step)
    _show(result)


def perturb(
    dataset: _DatasetArgument,
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER", help="Encoders; see: featcache encoders.")],
    view: Annotated[
        str, typer.Option(help="View that is perturbed: of texts, of pictures, or of synthesised speech.")
    ] = "captions",
    kind: _KindOption = None,
    percent: Annotated[
        str | None,
        typer.Option(
            metavar="P,P,...",
            help="Percent of characters deleted, of pixels replaced (default: 5,10,15 to 50), or of voices tied "
            "(default: 0,20,40,60,80,100).",
            show_default=False,
        ),
    ] = None,
    edge: Annotated[
        int | None,
        typer.Option(min=1, help="Replace pixels after a resize and crop to so many; default: before any transform."),
    ] = None,
    root: RootOption = None,
    seed: SeedOption = 0,
    cache: CacheOption = None,
) -> None:
    """Encode perturbed texts, pictures or speech into the cache, as views of their own: captions-delete10-s0.

    Of texts, characters are deleted; of pictures, pixels are replaced by noise of the picture's own mean and spread;
    of speech, voices are tied to a label that is drawn, or to the data set's first one, and uniform at every dose. Bits
    per byte of a causal language model are those of the perturbed texts.
    """
    from featcache.cache import Cache
    from featcache.data.open import open_dataset
    from featcache.data.perturbations import perturbations_of
    from featcache.report.terminal.dials import show_extracted
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.emergence.dials.perturbed import extract_perturbed

    data = open_dataset(dataset, root=root)
    chosen = perturbations_of(data, view, percent, kind=kind, seed=seed, edge=edge)
    with step_progress("encoding") as on_step:
        show_extracted(extract_perturbed(Cache(cache), data, view, encoders, chosen, on_step=on_step))


def perturbed(
    dataset: _DatasetArgument,
    kind: _KindOption = "delete",
    edge: Annotated[int | None, typer.Option(min=1, help="Of noise: as of emergence perturb.")] = None,
    images: _ImagesOption = "images",
    texts: Annotated[
        str | None, typer.Option(help="View of the texts, or of speech. Default: captions; of voices, speech.")
    ] = None,
    image_encoders: _ImageEncodersOption = None,
    text_encoders: _TextEncodersOption = None,
    rows: _RowsOption = 1024,
    label: _LabelOption = None,
    root: RootOption = None,
    seed: SeedOption = 0,
    out: _OutOption = Path("emergence"),
    cache: CacheOption = None,
) -> None:
    """Follow alignment and its correlations over perturbed views that emergence perturb encoded."""
    from featcache.cache import open_cache
    from featcache.data.perturbations import MODALITY
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.emergence.dials.doses import DialSettings, DialViews
    from featcache.studies.emergence.dials.perturbed import cached_perturbations
    from featcache.studies.emergence.dials.perturbed import perturbed as measure_perturbed

    store, settings, spoilt = open_cache(cache), DialSettings(rows=rows or None, seed=seed), MODALITY[kind or "delete"]
    named = texts or ("speech" if spoilt == "audio" else "captions")
    views = DialViews(dataset, images, named, tuple(image_encoders or ()), tuple(text_encoders or ()))
    chosen = cached_perturbations(store, dataset, (images if spoilt == "image" else named,), kind=kind, edge=edge)
    labels = _labels(store, dataset, named, label, root if spoilt != "audio" else None)
    with step_progress("measuring") as on_step:
        result = measure_perturbed(store, views, chosen, settings, labels=labels, out=out, on_step=on_step)
    _show(result)


def graded(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="data.json of graded captions, or its folder.")],
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="Of the graded captions.")],
    against: Annotated[str, typer.Argument(metavar="ENCODER", help="Of the originals; of the photos, if it can.")],
    grades: Annotated[
        str, typer.Option(metavar="P,P,...", help="Percent that was to be rewritten; 0: the originals.")
    ] = "0,10,20,30,40,50,60,70,80,90,100",
    rows: _RowsOption = 1024,
    seed: SeedOption = 0,
    out: _OutOption = Path("emergence"),
    cache: CacheOption = None,
) -> None:
    """Encode captions of WIT that were rewritten ever farther, and follow their alignment with the originals.

    Where WIT's photos lie beside the file, and the second encoder is one of images, with the photos.
    """
    from featcache.cache import Cache
    from featcache.data.graded_captions import parse_grades, read_graded
    from featcache.report.terminal.dials import show_similarities
    from featcache.report.terminal.progress import step_progress
    from featcache.studies.emergence.dials.doses import DialSettings
    from featcache.studies.emergence.dials.graded_captions import extract_graded, graded_captions, graded_similarities

    store, chosen = Cache(cache), parse_grades(grades)
    with step_progress("measuring") as on_step:
        extract_graded(store, file, [encoder], grades=chosen, on_step=on_step)
        extract_graded(store, file, [against], grades=(0,), on_step=on_step)
        settings = DialSettings(rows=rows or None, seed=seed)
        result = graded_captions(store, encoder, against, settings, grades=chosen, out=out, on_step=on_step)
    _show(result)
    if 0 in chosen:
        show_similarities(graded_similarities(store, encoder, read_graded(file)))


def _labels(store: "Cache", dataset: str, texts: str, label: str | None, root: Path | None) -> "Labels | str | None":
    """The label column, or where a root is given and none is named, the subject that captions name."""
    if label is not None or root is None:
        return label
    from featcache.data.open import open_dataset
    from featcache.studies.emergence.dials.performance import caption_subjects

    return caption_subjects(store, open_dataset(dataset, root=root), texts)


def _show(result: "DialResult") -> None:
    from featcache.report.figures.dials import write_dial_figures
    from featcache.report.terminal.dials import show_dial

    show_dial(result, figures=write_dial_figures(result))
