"""How does the terminal show training and what came of it? A line an epoch while it runs, then the tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from report.console import console, print_json, print_table

if TYPE_CHECKING:
    from featcache.cache import Cache
    from featcache.features import Features
    from trainer.align import Alignment
    from trainer.config import FitConfig
    from trainer.defaults import Triple
    from trainer.fit import Epoch
    from trainer.run import Run


def train_and_watch(
    cache: "Cache", triple: "Triple", config: "FitConfig", out: Path, *, overwrite: bool = False
) -> "Run":
    """Loads a triple's features, trains, and shows each epoch as it passes.

    Args:
        cache: Where the features are.
        triple: What is trained and measured.
        config: Settings.
        out: Run folder.
        overwrite: Replace another run that stands there.
    """
    from trainer.run import train

    features = [cache.load(triple.dataset, selector) for selector in triple[1:]]
    x, y, reference = features
    names = f"{x.name} ({x.view}) + {y.name} ({y.view}) against {reference.name}"
    console().print(f"{triple.dataset}: {names}, {config.adapter} adapters, seed {config.seed}")
    shown = console(stderr=True)
    with shown.status("training") as status:

        def on_epoch(epoch: "Epoch") -> None:
            loss = "" if epoch.loss is None else f"loss {epoch.loss:.3f}  "
            status.update(
                f"epoch {epoch.number} of {epoch.of}  {loss}validation: R@10 {epoch.retrieval:.3f}, "
                f"joint–reference mutual-kNN {epoch.alignment:.3f}"
            )

        run = train(x, y, reference, config, out, overwrite=overwrite, on_epoch=on_epoch)
    kept = f"epoch {run.config['selected_epoch']} of {config.epochs} kept by validation {config.select}"
    how = "was there already" if run.already_there else f"trained in {run.config['seconds']:.1f} s"
    console().print(f"  {out} {how}; {kept}")
    return run


def show_run(run: "Run") -> None:
    """Shows one run's tables and what they say."""
    show_runs([run.path])
    console().print(f"\nRun folder: {run.path}\nThe page with every figure: featcache report {run.path}")


def show_runs(paths: Sequence[Path]) -> None:
    """Shows the alignment and retrieval tables of runs on the test split, and the findings."""
    from report.runs import load_runs
    from report.sentences import findings
    from report.tables import retrieval_table, summary_table

    runs = load_runs(paths)
    several = len(runs) > 1
    console().print()
    test = runs[0].config["split"]["n"]["test"]
    _print_rows(
        ("run", "space against the reference", "mutual-kNN", "linear CKA"),
        [row.cells() for row in summary_table(runs)],
        several,
        f"Alignment on the {test} test groups (null: 95 % range under permutation)",
    )
    rows = [row for row in retrieval_table(runs) if row.metric in ("R@1", "R@10")]
    console().print()
    _print_rows(
        ("run", "retrieval", "stage", "metric", "value", "95 % interval", "chance"),
        [
            (r.run, r.label, r.stage, r.metric, f"{r.reading.value:.3f}", _interval(r.reading), _chance(r.reading))
            for r in rows
        ],
        several,
        "Retrieval on the test split",
    )
    console().print("\nWhat the result says")
    for sentence in findings(runs):
        console().print(f"- {sentence}", soft_wrap=False)


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], several: bool, title: str) -> None:
    first = 0 if several else 1  # the run's name only where there are several to tell apart
    print_table(columns[first:], [row[first:] for row in rows], title=title)


def _interval(reading: object) -> str:
    low, high = getattr(reading, "ci_low", None), getattr(reading, "ci_high", None)
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def _chance(reading: object) -> str:
    chance = getattr(reading, "chance", None)
    return "–" if chance is None else f"{chance:.4f}"


def show_alignment(x: "Features", y: "Features", found: Sequence["Alignment"], *, as_json: bool) -> None:
    """Shows the alignment of two feature arrays, one line a metric."""
    if as_json:
        sides = {
            name: {
                "view": f.view,
                "encoder": f.encoder,
                "layer": f.layer,
                "digest": f.digest,
                "root": f.root,
                "d": f.width,
            }
            for name, f in (("x", x), ("y", y))
        }
        print_json(
            {"dataset": x.dataset, **sides, "rows": "mean of each group", "alignment": [asdict(a) for a in found]}
        )
        return
    console().print(f"{x.dataset}: {x.name} ({x.view}, d = {x.width}) and {y.name} ({y.view}, d = {y.width})")
    console().print(
        "One row a group (the mean of its rows); cosine; self excluded by id. Null: 95 % under permutation."
    )
    rows = [
        (
            a.metric,
            f"{a.value:.4f}",
            a.n,
            a.k or "–",
            f"{a.chance:.4f}",
            f"{a.null_low:.4f}–{a.null_high:.4f}",
            f"{a.p:.3f}",
            a.backend,
            f"{a.seconds:.2f} s",
        )
        for a in found
    ]
    print_table(("metric", "score", "n", "k", "chance", "null range", "p", "computed by", "time"), rows)
