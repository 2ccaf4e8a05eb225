"""What limits the reading of runs: each caveat as a sentence, and as one line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from featcache.data.datasets import is_synthesised
from featcache.report.leaks import leak_caveats
from featcache.report.names import shorten
from featcache.report.runs import RunResults, metric_title
from featcache.report.seeds import same_groups, same_test

_SMALL_TEST = 500
_FEW = 10  # validation groups up to which R@10 is 1 whatever the weights
OLD_FORMAT = "written by featcache 0.1: no contrasts; train again for verdicts"


@dataclass(frozen=True)
class Caveat:
    """One limit of what runs say.

    Args:
        text: The sentence of the page.
        line: The same in one line of a terminal.
    """

    text: str
    line: str


def caveats(runs: Sequence[RunResults]) -> list[str]:
    """What limits the reading, in sentences that open with "Caveat: "; as `caveat_list`."""
    return [f"Caveat: {one.text}" for one in caveat_list(runs)]


def caveat_list(runs: Sequence[RunResults]) -> list[Caveat]:
    """What limits the reading: leaks, size, kinship with the reference, missing contrasts, controls, unequal tests."""
    every: dict[str, Caveat] = {}
    for run in runs:
        whose = f"{run.label}: " if len(runs) > 1 else ""
        leaks = [Caveat(text, line) for text, line in leak_caveats(run)]
        for one in (
            leaks + _size(run) + _few(run) + _kinship(run) + _synthesised(run) + _apart(run) + _no_contrasts(run, whose)
        ):
            every.setdefault(one.text, one)
        if run.is_control:
            who = run.label if len(runs) > 1 else "the run"
            text = (
                f"{who} is a control, its training pairs were shuffled across groups: by itself it says nothing of "
                "pairing. To test what pairing adds, name its folder as --control of a training on true pairs."
            )
            every[text] = Caveat(text, f"{shorten(who)} is a control: use it as --control of another run.")
    if len(runs) > 1 and not same_test(runs):
        text = "the runs do not share test groups, features and k, so do not compare their scores with each other."
        line = "do not compare the runs: their test groups, features or k differ."
        if same_groups(runs) and runs[0].reference:
            text = (
                "the runs join different sides, on the same test groups and against the same reference: what differs "
                "between their joints may be what their sides know."
            )
            line = "the runs join different sides; their joints share test groups and reference."
        every[text] = Caveat(text, line)
    return list(every.values())


def _size(run: RunResults) -> list[Caveat]:
    row = run.find(stage="trained", split="test", direction="", metric=run.metrics[0])[0]
    if row.n is None or row.n >= _SMALL_TEST:
        return []
    title = metric_title(row.metric)
    chance = f" and chance is {row.chance:.3f}" if row.chance is not None else ""
    return [
        Caveat(
            f"the test split has only {row.n:,} groups{chance}; {title} falls as the gallery grows, so compare with "
            "other studies at equal n and k only.",
            f"only {row.n:,} test groups; compare with other studies at equal n and k only.",
        )
    ]


def _synthesised(run: RunResults) -> list[Caveat]:
    """Sides that are spoken from texts of the data set."""
    dataset = str(run.config["dataset"])
    spoken = [side for side, of in run.config["sides"].items() if is_synthesised(dataset, str(of["view"]))]
    return [
        Caveat(
            f"{side} is synthesised from a text of the data set: a function of the text and a voice, so it brings "
            "nothing about the other sides that this text does not say.",
            f"{shorten(side)} is synthesised: it knows a text and a voice, and nothing else.",
        )
        for side in spoken
    ]


def _few(run: RunResults) -> list[Caveat]:
    """Where the epoch is chosen by recall at 10 among ten groups or fewer."""
    groups = run.config["split"].get("n", {}).get("validation", _FEW + 1)
    if groups > _FEW or run.settings.get("select") != "retrieval":
        return []
    text = f"validation has {groups} groups, among which R@10 is 1 whatever the weights: the epoch kept says nothing."
    return [Caveat(f"{text} Train with --select alignment, or with more groups.", text)]


def _apart(run: RunResults) -> list[Caveat]:
    """What joins two sides that no training group had both of, and what ridge maps find without joint training."""
    pair = str(run.settings.get("apart") or "").split("+")
    if len(pair) < 2:
        return []
    scores: list[str] = []
    for a, b in (pair, pair[::-1]):
        rows = {
            stage: run.find(stage=stage, split="test", metric="R@10", direction=f"{a}→{b}")
            for stage in ("trained", "composed", "untrained")
        }
        values = {stage: found[0].value for stage, found in rows.items() if found and found[0].value is not None}
        words = {"trained": "trained", "composed": "by ridge maps through the other side", "untrained": "untrained"}
        parts = [f"{value:.3f} {words[stage]}" for stage, value in values.items()]
        scores += [f"{a} → {b} {', '.join(parts)}"] if parts else []
    never = f"no training group had both {pair[0]} and {pair[1]}"
    return [
        Caveat(f"{never} (--apart). Their R@10 on test: {'; '.join(scores)}.", f"{never}; R@10: {'; '.join(scores)}.")
    ]


def _no_contrasts(run: RunResults, whose: str) -> list[Caveat]:
    text = short = ""
    if run.format == 1:
        text, short = f"{OLD_FORMAT}.", "of featcache 0.1, no contrasts; train again."
    elif not run.reference:
        text = "without a reference there are no contrasts, and so no verdicts."
        short = "without a reference there are no verdicts." if whose else ""
    elif not any(one.contrasts for one in run.each):
        text = "the run has no contrasts."
    return [Caveat(f"{whose}{text}", f"{shorten(whose)}{short or text}")] if text else []


def _kinship(run: RunResults) -> list[Caveat]:
    if not run.reference:
        return []
    names, family = run.names(), _family(run.reference["encoder"])
    kin = [side for side, source in run.config["sides"].items() if _family(source["encoder"]) == family]
    return [
        Caveat(
            f"the reference {names['reference']} is of the same family as {names[side]}, which agrees with it by "
            "descent and leaves little headroom.",
            f"the reference is of the same family as {shorten(side)}: little headroom.",
        )
        for side in kin
    ]


def _family(encoder: str) -> str:
    # "resnet18" -> "resnet", "efficientnet-lite0" -> "efficientnet", "tf_efficientnet_b0" -> "efficientnet"
    words = [word for word in re.split(r"[^a-z]+", encoder.lower()) if len(word) > 2]
    return words[0] if words else encoder.lower()
