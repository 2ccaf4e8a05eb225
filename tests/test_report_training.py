"""Does the terminal show the tables and verdicts of runs, whatever their sides?"""

from pathlib import Path
from typing import Any

import pytest

from featcache.report.caveats import caveat_list, caveats
from featcache.report.runs import load_runs
from featcache.report.tables import contrast_table, epoch_curve, retrieval_table
from featcache.report.terminal.console import print_table
from featcache.report.terminal.sparkline import BLOCKS, PLAIN, sparkline
from featcache.report.terminal.training import show_run, show_runs
from featcache.trainer.run import load_run
from tests.test_report_runs import FORMAT_1, SIDES, write_run


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def line_of(text: str, opening: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(opening))


def test_a_run_is_shown_with_its_sides_scores_intervals_and_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(write_run(tmp_path / "run"))
    show_run(run, verbose=True)
    text = shown(capsys)
    assert "resnet18/last.mean (images) + gpt2/last.mean (captions) against dinov2-small/last.mean, linear" in text
    assert line_of(text, "joint, trained").split(maxsplit=2)[2].strip() == "0.307 [0.277, 0.337]"
    verdict = line_of(text, "joint − best raw part (raw images)")
    assert verdict.split(")")[1].split() == ["below", "−.166", "[−.186,", "−.146]", "<", ".001"]
    assert "corrected (Holm) for a metric's contrasts; the intervals are not" in text
    assert "mixed: images 0.95, captions 0.05" in text
    assert "featcache report" in text


def test_of_several_runs_the_headline_runs_verdicts_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path / "linear", recall=0.3), write_run(tmp_path / "mlp", adapter="mlp", recall=0.5)]
    show_runs(folders, verbose=True)
    text = shown(capsys)
    assert "Verdicts of mlp, the headline run, by mutual-kNN, test split" in text and "exploratory: linear." in text
    assert line_of(text, "joint, trained").split()[2:] == ["0.307", "0.307"]


def test_seeds_share_a_column_of_means_and_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): 0.30 + seed / 100})
        for seed in range(3)
    ]
    show_runs(folders, verbose=True)
    text = shown(capsys)
    assert line_of(text, "space").split(maxsplit=1)[1] == "linear (3 seeds)"
    assert line_of(text, "joint, trained").split(maxsplit=2)[2].strip() == "0.310 (0.300–0.320)"
    words = " ".join(line_of(text, "joint − best raw part").split())
    assert words.endswith("below in 3 of 3 mean −.163, range −.173 to −.153")


def test_three_sides_a_control_and_no_reference_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = (*SIDES, "names-de")
    run = load_run(write_run(tmp_path / "a", sides=sides, encoders=("vit", "gpt2", "gpt2", None), shuffle_pairs=True))
    show_run(run, verbose=True)
    text = shown(capsys)
    assert "(names-de) without a reference, linear adapters, seed 0, pairs shuffled: a control" in " ".join(
        text.split()
    )
    assert "Mutual-kNN of the sides with each other, k = 10" in text
    assert line_of(text, "images (vit) against names-de (gpt2), trained").endswith("0.210")
    assert "Verdicts" not in text and "names-de → captions, R@10, trained" in text


def test_a_run_of_featcache_0_1_is_shown_without_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    show_run(load_run(FORMAT_1), verbose=True)
    text = shown(capsys)
    assert "Linear CKA with efficientnet-lite1" in text and "Verdicts" not in text
    assert "written by featcache 0.1: no contrasts; train again for verdicts" in text


# -- by default: the answer and few numbers ---------------------------------------------------------------------------


def brief(capsys: pytest.CaptureFixture[str], folder: Path, **run: Any) -> list[str]:
    show_run(load_run(write_run(folder, **run)))
    return shown(capsys).splitlines()


def verdict(text: str, **columns: Any) -> dict[str, Any]:
    return {"contrasts": {"joint − best raw part": {"verdict": text, **columns}}}


@pytest.mark.parametrize(
    ("words", "opening"),
    [
        (
            "above",
            "Yes: the joint space is above its best raw part, images (resnet18), in agreement with dinov2-small: ",
        ),
        (
            "below",
            "No: the joint space is below its best raw part, images (resnet18), in agreement with dinov2-small: ",
        ),
        ("cannot tell", "Cannot tell the joint space from its best raw part, images (resnet18), in agreement with "),
        ("cannot tell after correction", "Cannot tell after correction the joint space from its best raw part, images"),
    ],
)
def test_the_first_line_is_the_answer_of_the_table_of_contrasts(
    words: str, opening: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"value": 0.0391, "ci_low": -0.0062, "ci_high": 0.0841, "p_holm": 0.271}
    first = brief(capsys, tmp_path / "run", **verdict(words, **columns))[0]
    assert first.startswith(opening)
    assert first.endswith(": +.039 [−.006, +.084], p = .271 (mutual-kNN, k = 10, 1,000 test groups, chance .010)")


def test_a_run_is_shown_in_few_lines_with_the_numbers_of_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = brief(capsys, tmp_path / "run", encoders=("efficientnet-lite0", "gpt2", "efficientnet-lite2"), n=349)
    text = "\n".join(lines)
    assert len(lines) < 35 and "What the result says" not in text and "debiased CKA" not in text
    (run,) = load_runs([tmp_path / "run"])
    for stage, space in (("raw", "images"), ("raw", "captions"), ("trained", "joint")):
        row = run.on_test(stage, space, "mutual_knn")
        assert row is not None and row.value is not None
        line = line_of(text, f"{run.space_name(space)}, {stage}")
        assert line.split(",", 1)[1].split()[1] == f"{row.value:.3f}".removeprefix("0")
        assert f"[{row.ci_low:.3f}, {row.ci_high:.3f}]".replace("0.", ".") in line
    assert line_of(text, "joint, untrained").split()[2:] == [".262", "–"]
    rows = {row.contrast: row for row in contrast_table([run]) if row.metric == "mutual_knn"}
    for name, contrast in {
        "best raw part": "joint − best raw part",
        "untrained adapters": "joint: trained − untrained",
    }.items():
        row = rows[contrast]
        assert line_of(text, name).removeprefix(name).split() == [
            *row.verdict.split(), row.difference, *row.interval.split(), *row.p.split()
        ]  # fmt: skip
    retrieval = {
        (row.direction, row.metric): row.score.value for row in retrieval_table([run]) if row.stage == "trained"
    }
    there = "/".join(f"{retrieval['images→captions', metric]:.3f}".removeprefix("0") for metric in ("R@1", "R@10"))
    assert f"R@1/R@10 images → captions {there}, captions → images" in text
    assert "Caveat: only 349 test groups; compare with other studies at equal n and k only." in lines
    assert "Caveat: the reference is of the same family as images: little headroom." in lines
    assert f"Run folder: {tmp_path}/run" in lines and lines[-1].endswith("--verbose")


def test_each_caveat_of_the_page_has_its_line_on_the_terminal(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", n=349, encoders=("vit", "gpt2", "vit"), shuffle_pairs=True),
        write_run(tmp_path / "b", encoders=("vit", "gpt2", None), n=1200),
    ]
    runs = load_runs([*folders, FORMAT_1])
    assert len(caveat_list(runs)) == len(caveats(runs)) >= 6
    for one in caveat_list(runs):
        assert f"Caveat: {one.text}" in caveats(runs) and 10 < len(f"Caveat: {one.line}") <= 80


def test_a_control_is_called_one_and_pairing_is_judged_where_a_control_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert brief(capsys, tmp_path / "a", shuffle_pairs=True)[0] == (
        "A control: its training pairs were shuffled across groups, so by itself it says nothing of pairing"
    )
    assert line_of("\n".join(brief(capsys, tmp_path / "b", control=True)), "pairs shuffled").split()[2] == "above"


def test_without_a_reference_the_answer_is_the_agreement_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = brief(capsys, tmp_path / "run", encoders=("vit", "gpt2", None))
    assert lines[0].startswith(
        "Agreement of the sides, before and after training: images (vit) and captions (gpt2) .050 before, .210 after"
    )
    assert line_of("\n".join(lines), "images, captions ").split()[2:5] == [".050", "–", ".210"]
    assert not any("joint" in line for line in lines)


def test_of_several_runs_the_headline_run_answers_and_each_has_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path / "linear", recall=0.3), write_run(tmp_path / "mlp", adapter="mlp", recall=0.5)]
    show_runs(folders)
    lines = shown(capsys).splitlines()
    assert lines[0].startswith("No: ") and lines[1].startswith("The headline run is mlp, the best of 2 on validation")
    for name in ("linear", "mlp"):
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert line.split() == [name, ".307", "[.277,", ".337]", "below", "−.166"]


@pytest.mark.parametrize("joints", [(0.30, 0.31, 0.32), (0.30, 0.47, 0.60)])
def test_seeds_answer_together_or_are_said_to_differ(
    joints: tuple[float, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): value})
        for seed, value in enumerate(joints)
    ]
    show_runs(folders)
    first = shown(capsys).splitlines()[0]
    if max(joints) < 0.4:
        assert first.startswith("No: ") and "in 3 of 3 seeds: mean −.163, range −.173 to −.153" in first
    else:
        assert first.startswith("The seeds differ: ") and "below in 1 of 3" in first and "above in 1 of 3" in first


def test_the_epochs_are_drawn_with_their_first_best_and_last_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(brief(capsys, tmp_path / "run", epochs=12))
    (run,) = load_runs([tmp_path / "run"])
    rows = epoch_curve(run, split="validation", metric="mutual_knn", space="joint", against="reference")
    curve = {row.epoch or 0: row.value for row in rows}
    best = max(curve, key=lambda epoch: curve[epoch])
    first, peak, last = (f"{curve[at]:.3f}".removeprefix("0") for at in (min(curve), best, max(curve)))
    assert line_of(text, "joint, mutual-kNN").split()[-5:] == [first, peak, "at", str(best), last]
    assert "epoch 10 is kept" in text and len(line_of(text, "mean R@10").split()[2]) == len(curve)


def test_a_sparkline_keeps_order_ends_and_length() -> None:
    values = [0.1, 0.5, 0.3, 0.3, 0.9, 0.0]
    for blocks, levels in ((True, BLOCKS), (False, PLAIN)):
        drawn = [levels.index(mark) for mark in sparkline(values, blocks=blocks)]
        assert all(
            (a < b) <= (x <= y) for a, x in zip(values, drawn, strict=True) for b, y in zip(values, drawn, strict=True)
        )
        assert (drawn[4], drawn[5]) == (7, 0)
    many = [float(at) for at in range(500)]
    assert len(sparkline(many, widest=20)) == 20 and sparkline(many, blocks=True)[-1] == "█"
    assert sparkline([1.0, float("nan"), 2.0], blocks=True) == "▁x█" and sparkline([2.0, 2.0], blocks=True) == "▁▁"
    assert sparkline([]) == "" and PLAIN.isascii()


def test_differences_with_a_sign_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("what", "difference"), [("a", "−.181"), ("b", "+1.011"), ("c", "–")])
    assert [line.rstrip()[-1] for line in shown(capsys).splitlines()] == ["e", "1", "1", "–"]
    print_table(("what", "difference"), [("a", "−.181")])
    assert shown(capsys).splitlines()[1] == "a          −.181"
