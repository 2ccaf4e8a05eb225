"""What was asked, with which settings, and where every number comes from."""

from collections.abc import Sequence
from typing import Any

from featcache.report.figures.figure import escape
from featcache.report.page.html import facts
from featcache.report.runs import RunResults, adapter_name, solution_text

_SETTINGS = ("width", "epochs", "batch", "lr", "weight_decay", "captions", "missing", "seed", "k")


def setup_html(runs: Sequence[RunResults]) -> str:
    """Features, groups and settings: what all runs share once, then what each has of its own."""
    by_run = {run.label: _features_facts(run) + _settings_facts(run) for run in runs}
    alike = [fact for fact in by_run[runs[0].label] if all(fact in others for others in by_run.values())]
    blocks = [facts([*alike, ("runs", ", ".join(by_run))] if len(runs) > 1 else alike)]
    for label, own in by_run.items():
        rest = [fact for fact in own if fact not in alike and fact != ("adapter", label)]
        blocks.append(f"<h3>{escape(label)}</h3>{facts(rest)}" if rest else "")
    return "\n".join(blocks)


def provenance_html(runs: Sequence[RunResults]) -> str:
    """Folder, hashes, versions and times of every run."""
    blocks = []
    every = [one for run in runs for one in run.each]
    for run in every:
        config = run.config
        versions = ", ".join(f"{name} {number}" for name, number in config.get("versions", {}).items() if number)
        hashes = config.get("split", {}).get("hashes", {})
        own: list[tuple[str, Any]] = [
            ("run folder", run.path.name),
            ("configuration", str(config.get("config_hash", ""))[:16]),
            ("overlay", str(config.get("overlay", ""))[:16]),
            *((f"{name} groups", str(value)[:16]) for name, value in hashes.items()),
            ("commit", config.get("commit") or ""),
            ("started", config.get("started") or ""),
            ("seconds", f"{config['seconds']:.1f}" if config.get("seconds") is not None else ""),
            ("threads", config.get("threads") or ""),
            ("versions", versions),
        ]
        heading = f"<h3>{escape(run.label)}</h3>" if len(every) > 1 else ""
        blocks.append(heading + facts([(name, str(text)) for name, text in own if text]))
    return "\n".join(blocks)


def settings_text(run: RunResults) -> str:
    """The adapter and the settings of a training in one line."""
    chosen = [f"{name.replace('_', ' ')} {run.settings[name]}" for name in _SETTINGS if name in run.settings]
    if run.seeds:
        seeds = ", ".join(str(one.settings.get("seed")) for one in run.seeds)
        chosen = [f"seeds {seeds}" if text.startswith("seed ") else text for text in chosen]
    return f"Adapter: {_adapter(run)}; {', '.join(chosen)}"


def kept_text(run: RunResults) -> str:
    """Which epoch was kept, or what was chosen of a closed form, and by what; "" where nothing was recorded."""
    epochs = [one.selected_epoch for one in run.each if one.selected_epoch is not None]
    if not epochs:
        return ""
    counted = ", ".join(str(epoch) for epoch in epochs)
    kept = f"epoch{'s' if run.seeds else ''} {counted} of {run.settings.get('epochs', '?')}"
    if run.solved:
        kept = "; ".join(dict.fromkeys(solution_text(one.config.get("chosen", {})) for one in run.each))
    select = run.settings.get("select", "?")
    return f"{kept}, the last" if select == "last" else f"{kept}, best on validation by {select}"


def _adapter(run: RunResults) -> str:
    return adapter_name(run).replace(", pairs shuffled", ", training pairs shuffled: a control")


def _features_facts(run: RunResults) -> list[tuple[str, str]]:
    own = [("data set", str(run.config.get("dataset", "")))]
    for name, array in {**run.config["sides"], "reference": run.reference}.items():
        text = "none" if array is None else f"{array['encoder']}/{array['layer']} on {array['view']}"
        text += f", digest {array['digest'][:8]}, root {array['root'][:8]}" if array else ""
        own.append((name, text))
    return own


def _settings_facts(run: RunResults) -> list[tuple[str, str]]:
    split = run.config.get("split", {})
    own = [
        ("groups", ", ".join(f"{count:,} {name}" for name, count in split.get("n", {}).items())),
        ("split", str(split.get("rule", ""))),
        ("left out as leaks", ", ".join(f"{count:,} {name}" for name, count in split.get("left_out", {}).items())),
        ("adapter", _adapter(run)),
        ("settings", settings_text(run).partition("; ")[2]),
        ("chosen" if run.solved else "kept", kept_text(run)),
    ]
    return [(name, text) for name, text in own if text]
