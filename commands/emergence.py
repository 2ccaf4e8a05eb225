"""Commands of the study of emergence: encoders trained apart and together on modalities whose information is known."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from featcache.commands.options import CacheOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Study when alignment emerges, when it predicts performance, and what forcing it does.",
)
OutOption = Annotated[Path, typer.Option(help="Folder of the study; each part has a folder of its own in it.")]
ProcessesOption = Annotated[
    int | None, typer.Option(min=0, help="Processes of one thread each; 0: this process. Default: one a core.")
]


@app.command()
def synthetic(
    profile: Annotated[
        Literal["quick", "standard", "paper"],
        typer.Option(help="quick: minutes; standard: every encoder of one seed, an hour; paper: of five seeds."),
    ] = "quick",
    generator: Annotated[
        str, typer.Option(metavar="NAME", help='Of the label: "released", or a dial that holds its other parts fixed.')
    ] = "released",
    width: Annotated[int, typer.Option(min=1, help="Units of each hidden layer.")] = 12,
    activation: Annotated[
        Literal["leaky_relu", "tanh", "residual"], typer.Option(help="Of the hidden layers.")
    ] = "leaky_relu",
    out: OutOption = Path("emergence"),
    processes: ProcessesOption = None,
) -> None:
    """Train encoders of two synthetic modalities apart, and relate alignment, depth and exact accuracy.

    After Tjandrasuwita et al. 2025: the label reads U bits that one modality alone holds, and the second modality is
    mapped by a network of D_phi layers. What is trained already is not trained again.
    """
    from featcache.report.terminal.emergence import show_answers
    from featcache.report.terminal.progress import share_progress
    from featcache.studies.emergence.questions.answers import answer_emergence
    from featcache.studies.emergence.synthetic.encoders import run_encoders
    from featcache.studies.emergence.synthetic.generators import open_generator
    from featcache.studies.emergence.synthetic.profiles import sized, study_folder

    sizes, source = sized(profile, width, activation), open_generator(generator)
    folder = study_folder(out / "synthetic", profile, generator, sizes)
    with share_progress("encoders") as on_progress:
        tables = run_encoders(source, sizes, folder, processes=processes, on_progress=on_progress)
    show_answers(answer_emergence(tables, profile))


@app.command()
def together(
    profile: Annotated[Literal["quick", "standard"], typer.Option(help="Levels, weights and seeds.")] = "quick",
    generator: Annotated[str, typer.Option(metavar="NAME", help="As of emergence synthetic.")] = "released",
    out: OutOption = Path("emergence"),
    processes: ProcessesOption = None,
) -> None:
    """Train pairs of encoders with task loss + lambda x contrastive loss: what lambda helps, harms and keeps.

    Exact accuracies by use at lambda above 0 less those at 0, which bits the features keep, and the remedy: features
    that the contrastive loss does not see.
    """
    from featcache.report.terminal.progress import share_progress
    from featcache.report.terminal.together import show_together
    from featcache.studies.emergence.synthetic.generators import open_generator
    from featcache.studies.emergence.together.training import PROFILES, run_together

    source = open_generator(generator)
    folder = out / "together" / (profile if generator == "released" else f"{profile}-{generator}")
    with share_progress("pairs") as on_progress:
        tables = run_together(source, PROFILES[profile], folder, processes=processes, on_progress=on_progress)
    show_together(tables)


@app.command("spoken-digits")
def spoken_digits(
    root: Annotated[Path, typer.Option(help="Folder of the recordings, <digit>_<speaker>_<take>.wav.")],
    out: OutOption = Path("emergence"),
    processes: ProcessesOption = None,
    cache: CacheOption = None,
) -> None:
    """Train encoders of digit images and of spoken digits, as the label moves from the digit to the speaker.

    What image and speech both tell of the label falls by a known amount. Raw pixels and log-mel energies enter the
    cache, for featcache advise spoken-digits pixels logmel --labels mixed-50.
    """
    from featcache.cache import Cache
    from featcache.data.open import open_dataset
    from featcache.report.terminal.progress import share_progress
    from featcache.report.terminal.spoken_digits import show_spoken_digits
    from featcache.studies.emergence.digits.encoders import run_spoken_digits
    from featcache.studies.emergence.digits.pairs import cache_raw_features

    cache_raw_features(Cache(cache), open_dataset("spoken-digits", root=root))
    with share_progress("encoders") as on_progress:
        tables = run_spoken_digits(root, out / "spoken-digits", processes=processes, on_progress=on_progress)
    show_spoken_digits(tables)


@app.command()
def multibench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="mosi, mosi_raw, mosei, humor, sarcasm or avmnist.")],
    root: Annotated[Path, typer.Option(help="Folder of the published files, or the one above.")],
    depths: Annotated[int, typer.Option(min=1, help="Encoders of 1 to so many layers.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, max=3, help="Encoders of each depth.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: the protocol's, 50 or 100.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda with --processes 0.")] = "cpu",
    out: OutOption = Path("emergence"),
    processes: ProcessesOption = None,
) -> None:
    """Train encoders of every modality of a MultiBench data set, and correlate alignment with performance.

    Every pair of modalities in both directions, with intervals over depths and Holm's correction, beside the
    published coefficients. What is trained already is not trained again.
    """
    from featcache.report.terminal.multibench import show_multibench
    from featcache.report.terminal.progress import share_progress
    from featcache.studies.emergence.multibench.protocol import BASE_SEEDS, MultiBenchSettings
    from featcache.studies.emergence.multibench.table import run_multibench

    settings = MultiBenchSettings(tuple(range(1, depths + 1)), BASE_SEEDS[:seeds], epochs, device=device)
    folder = out / "multibench" / name
    with share_progress("encoders") as on_progress:
        tables = run_multibench(name, root, folder, settings, processes=processes, on_progress=on_progress)
    show_multibench(tables)
