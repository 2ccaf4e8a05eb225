"""Commands that train, embed and report, and those that list encoders and data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.commands.completion import complete_array, complete_dataset
from featcache.commands.options import CacheOption, JsonOption, RootOption, VerboseOption, dataset_name, echo
from featcache.trainer.kinds import SOLVED_KINDS, TRAINED_KINDS, JointKind, LossKind

if TYPE_CHECKING:
    from featcache.report.runs import RunResults
    from featcache.studies.adapters.comparison import Comparison
    from featcache.trainer.defaults import Selection


def datasets(json: JsonOption = False) -> None:
    """List the data sets, packaged and your own.

    An entry of your file that is not valid is named on stderr, with what is wrong; the others are listed.
    """
    from featcache.data.datasets import DATASETS, declared_datasets
    from featcache.report.terminal.console import print_json, print_table

    file = declared_datasets()
    entries = [*DATASETS.values(), *(declared.entry for declared in file.entries.values())]
    for error in file.invalid.values():
        echo(f"{type(error).__name__}: {error}", err=True)
    if json:
        fields = ("name", "views", "description", "licence", "citation")
        print_json([{field: getattr(entry, field) for field in fields} for entry in entries])
        return
    rows = [(d.name, ", ".join(d.views), d.description, d.licence) for d in entries]
    print_table(("data set", "views", "what", "licence"), rows)


def _adapter(text: str) -> Any:
    from featcache.errors import UsageError
    from featcache.trainer.config import parse_adapter

    try:
        return parse_adapter(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def train(
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            autocompletion=complete_dataset,
            help="Data set, or your folder: ./my_images. Default: flickr30k if cached, else openmoji.",
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENCODER",
            autocompletion=complete_array,
            help="A side (one modality, or one encoder of it): [name=][view/]encoder[/layer.pooling][@digest]; two or "
            "more. encoder/auto: the layer that agrees best with the other sides on training groups. Default: those of "
            "the data set, or those that extract guesses.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The stronger encoder to measure against (target, teacher); nothing but --loss cka and --adapter "
            "ridge is trained on it. Default: the data set's, if it has one; none: the sides are measured against each "
            "other alone."
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            parser=_adapter,
            help=f"Kind of every adapter: {', '.join(TRAINED_KINDS)}; or side=kind,side=kind. identity freezes "
            f"a side. In closed form, of all sides at once: {', '.join(SOLVED_KINDS)}.  [default: linear]",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, every one of them measured.  [default: 20]")] = None,
    width: Annotated[int | None, typer.Option(help="Dimensions of the joint space.  [default: 256]")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step.  [default: 512]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: 0.001]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled weight decay.  [default: 0.1]")] = None,
    loss: Annotated[
        LossKind | None,
        typer.Option(
            help="Loss between two sides: symmetric InfoNCE (CLIP), sigmoid (SigLIP), or 1 - CKA of their kernel with "
            "the reference's, which trains on the reference. labels is a control: it tells the data set's labels apart "
            "and sees no pair. product contrasts all sides at once, by the sum of the products of their entries.  "
            "[default: infonce]"
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the loss, fixed.  [default: learned, from .07; SigLIP: .1]")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing of InfoNCE.  [default: 0]")] = None,
    mixup: Annotated[
        bool | None, typer.Option("--mixup", help="Train on mixtures of two pairs, half as many rows (FuseMix).")
    ] = None,
    keep_geometry: Annotated[
        float | None,
        typer.Option(
            metavar="λ",
            help="Weight of the divergence between neighbourhoods before and after the adapter (STRUCTURE "
            "takes 10).  [default: 0]",
        ),
    ] = None,
    joint: Annotated[
        JointKind | None,
        typer.Option(
            help="The joint space: normalised sum; concatenation; sum with weights chosen on validation; or with "
            "weights learned in training.  [default: sum]"
        ),
    ] = None,
    captions: Annotated[
        Literal["sample", "all", "mean"] | None,
        typer.Option(help="Rows of a group: one drawn each epoch, all, or their mean.  [default: sample]"),
    ] = None,
    missing: Annotated[
        Literal["drop", "mask"] | None,
        typer.Option(
            help="Training groups that lack a side: left out, or used by the pairs they have.  [default: drop]"
        ),
    ] = None,
    pair_weight: Annotated[
        list[str] | None,
        typer.Option("--pair-weight", metavar="A+B=W", help="Weight of a pair of sides in the loss.  [default: 1]"),
    ] = None,
    apart: Annotated[
        str | None,
        typer.Option(
            metavar="A+B",
            help="Control: sides that no training group has both of; half of the groups lose the one, half the other.",
        ),
    ] = None,
    select: Annotated[
        Literal["retrieval", "alignment", "last"] | None,
        typer.Option(help="The epoch kept is the best on validation by, or the last.  [default: retrieval]"),
    ] = None,
    hits: Annotated[
        Literal["content", "group"] | None,
        typer.Option(
            help="Right answers of retrieval: rows of the query's group and rows of the same text or image as one of "
            "them, or rows of its group alone.  [default: content]"
        ),
    ] = None,
    on_leak: Annotated[
        Literal["stop", "warn", "drop"],
        typer.Option(
            help="Validation or test groups whose image stands in training too: stop, go on and score the test split "
            "without them as well, or leave them out."
        ),
    ] = "warn",
    shuffle_pairs: Annotated[
        bool | None, typer.Option("--shuffle-pairs", help="Control: train on wrong pairs.")
    ] = None,
    control: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A --shuffle-pairs run of the same sides, to judge pairing by.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Neighbours of mutual k-NN.  [default: 10]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and draws.  [default: 0]")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device.  [default: cpu]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder. Default: runs/DATASET/ENCODERS--REFERENCE/ADAPTER-sSEED and what differs."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in that folder.")] = False,
    x: Annotated[str | None, typer.Option(help="Old form of the first ENCODER.", hidden=True)] = None,
    y: Annotated[str | None, typer.Option(help="Old form of the second ENCODER.", hidden=True)] = None,
    verbose: VerboseOption = False,
    cache: CacheOption = None,
) -> None:
    """Train adapters on cached features and measure them.

    One adapter a side maps it into one joint space; the joint space, its parts and untrained adapters are measured
    against the reference on the test split.
    """
    from featcache.cache import open_cache
    from featcache.report.terminal.leaks import show_leaks
    from featcache.report.terminal.progress import epoch_progress
    from featcache.report.terminal.training import show_run
    from featcache.studies.adapters.layer_choice import choose_layers
    from featcache.studies.adapters.train import Workbench
    from featcache.studies.adapters.train import train as train_run
    from featcache.trainer.config import make_config, parse_pair_weights
    from featcache.trainer.defaults import choose_selection, old_sides, run_folder
    from featcache.trainer.run import load_run

    typed, dataset = dataset, dataset_name(dataset)
    config = make_config(
        adapter=adapter, epochs=epochs, width=width, batch=batch, lr=lr, weight_decay=weight_decay, loss=loss,
        temperature=temperature, label_smoothing=label_smoothing, mixup=mixup, keep_geometry=keep_geometry,
        joint=joint, captions=captions,
        missing=missing, pair_weights=parse_pair_weights(pair_weight or []), apart=apart, select=select, hits=hits,
        shuffle_pairs=shuffle_pairs, k=k, seed=seed, device=device,
    )  # fmt: skip
    store = open_cache(cache)
    if x or y:
        encoders = old_sides(store, dataset, encoders, x, y)
        echo(f"--x and --y go with the next version; write: featcache train DATASET {' '.join(encoders)}", err=True)
    selection = choose_selection(store, dataset, encoders or (), reference)
    if selection.left_out:
        echo(left_out_reference(selection, typed), err=True)
    selection, choices = choose_layers(store, selection, config)
    for choice in choices:
        echo(str(choice), err=True)
    folder = out or Path(run_folder(selection, config, drop_leaks=on_leak == "drop", controlled=control is not None))
    features = Workbench.load(store, selection, choices)
    if on_leak != "stop":
        show_leaks(features.leaks(config), dropped=on_leak == "drop")
    with epoch_progress() as on_epoch:
        run = train_run(
            features, config, folder, on_leak=on_leak, overwrite=overwrite,
            control=load_run(control) if control else None, on_epoch=on_epoch,
        )  # fmt: skip
    show_run(run, verbose=verbose)


def left_out_reference(selection: "Selection", typed: str | None) -> str:
    """What a user reads whose run has no reference because the default one is not cached, with the command for it."""
    import shlex
    import sys

    from featcache.commands.endings import with_cache
    from featcache.data.datasets import extract_command
    from featcache.data.open import is_folder_path

    name, dataset, encoder = typed or "", selection.dataset, selection.left_out or ""
    as_typed = name.startswith("hub:") or (is_folder_path(name) and Path(name).expanduser().exists())
    command = f"featcache extract {shlex.quote(name)} {encoder}" if as_typed else extract_command(dataset, encoder)
    return with_cache(
        f"no reference: {encoder} is not cached for {dataset}; say --reference none, or extract it. Run: {command}",
        sys.argv[1:],
    )


def embed(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET",
            callback=dataset_name,
            autocompletion=complete_dataset,
            help="Default: the one it was trained on.",
        ),
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Also the joint space, beside the first side that has one row a group.")
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Cache what a run's adapters make of cached features."""
    from featcache.cache import open_cache
    from featcache.studies.adapters.embed import embed as apply
    from featcache.trainer.run import load_run

    for features in apply(open_cache(cache), load_run(run), dataset=dataset, joint=joint):
        echo(f"{features.dataset}/{features.view}/{features.name}: {len(features)} rows of {features.width}")


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Run folders; folders or tables of sweeps and ledgers; tables that align, grid, curve, ceiling, "
            "cost, competence and probe wrote.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the page and its figures.")] = Path("report-out"),
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Of two runs A and B: measure on the same test groups whether A is closer to the reference than B.",
        ),
    ] = False,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Show pictures of the rows that the page names. Default: where their licence lets a page show them.",
        ),
    ] = None,
    texts: Annotated[
        bool | None, typer.Option("--texts/--no-texts", help="Show captions of these rows. Default: as for pictures.")
    ] = None,
    root: RootOption = None,
    cache: CacheOption = None,
) -> None:
    """Draw the figures and the page of runs, sweeps, ledgers and tables.

    Pictures and captions are of the headline run, and compared with what was encoded where the cache on this disk knows
    it. Nothing is downloaded.
    """
    from featcache.commands.exhibits import headline_exhibits
    from featcache.commands.inputs import check_drawn, emergence_of_inputs, figures_of_inputs
    from featcache.report.figures.figure import require_renderer
    from featcache.report.inputs import read_inputs
    from featcache.report.page.write import check_page_place, write_report
    from featcache.report.terminal.pages import show_page

    require_renderer()
    check_page_place(out)
    inputs = read_inputs(paths)
    exhibits = headline_exhibits(inputs.runs, texts=texts, thumbnails=thumbnails, root=root, cache=cache)
    comparison = _comparison(inputs.runs, cache) if compare else None
    studies, study = figures_of_inputs(inputs), emergence_of_inputs(inputs)
    check_drawn(inputs, studies, study)
    page = write_report(inputs.runs, out, exhibits=exhibits, comparison=comparison, studies=studies, study=study)
    show_page(page, inputs, studies, notes=exhibits.notes, study=study.answer if study else ())


def _comparison(runs: "list[RunResults]", cache: str | None) -> "Comparison":
    """The first run against the second; refuses other numbers of runs."""
    from featcache.cache import open_cache
    from featcache.errors import UsageError
    from featcache.studies.adapters.comparison import compare_runs
    from featcache.trainer.run import load_run

    if len(runs) != 2:
        raise UsageError(f"--compare takes two runs, A and B; got {len(runs)}\n  Run: featcache report A B --compare")
    return compare_runs(open_cache(cache), *(load_run(run.path) for run in runs))


def demo(
    cache: CacheOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs and the page. Default: runs/demo; of three modalities, runs/demo-3."),
    ] = None,
    modalities: Annotated[
        int, typer.Option(min=2, max=3, help="2: images and captions; 3: their names spoken, too.")
    ] = 2,
    verbose: VerboseOption = False,
) -> None:
    """Run the main job on the embedded data set.

    Extract three encoders, train three kinds of adapters, measure them, and draw the page. Of three modalities: extract
    four encoders, and train linear adapters of all three sides and of each pair.
    """
    from featcache.commands.demo import run_demo

    run_demo(cache, out or Path("runs/demo" if modalities == 2 else "runs/demo-3"), modalities, verbose=verbose)
