"""Does the terminal show the tables and verdicts of runs, whatever their sides?"""

from pathlib import Path

import pytest

from featcache.report.terminal.console import print_table
from featcache.report.terminal.training import show_run, show_runs, show_training
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
    show_training(run)
    show_run(run)
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
    show_runs(folders)
    text = shown(capsys)
    assert "Verdicts of mlp, the headline run, by mutual-kNN, test split" in text and "exploratory: linear." in text
    assert line_of(text, "joint, trained").split()[2:] == ["0.307", "0.307"]


def test_seeds_share_a_column_of_means_and_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, scores={("trained", "joint"): 0.30 + seed / 100})
        for seed in range(3)
    ]
    show_runs(folders)
    text = shown(capsys)
    assert line_of(text, "space").split(maxsplit=1)[1] == "linear (3 seeds)"
    assert line_of(text, "joint, trained").split(maxsplit=2)[2].strip() == "0.310 (0.300–0.320)"
    words = " ".join(line_of(text, "joint − best raw part").split())
    assert words.endswith("below in 3 of 3 mean −.163, range −.173 to −.153")


def test_three_sides_a_control_and_no_reference_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = (*SIDES, "names-de")
    run = load_run(write_run(tmp_path / "a", sides=sides, encoders=("vit", "gpt2", "gpt2", None), shuffle_pairs=True))
    show_training(run)
    show_run(run)
    text = shown(capsys)
    assert "(names-de) without a reference, linear adapters, seed 0, pairs shuffled: a control" in " ".join(
        text.split()
    )
    assert "Mutual-kNN of the sides with each other, k = 10" in text
    assert line_of(text, "images (vit) against names-de (gpt2), trained").endswith("0.210")
    assert "Verdicts" not in text and "names-de → captions, R@10, trained" in text


def test_a_run_of_featcache_0_1_is_shown_without_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    show_run(load_run(FORMAT_1))
    text = shown(capsys)
    assert "Linear CKA with efficientnet-lite1" in text and "Verdicts" not in text
    assert "written by featcache 0.1: no contrasts; train again for verdicts" in text


def test_differences_with_a_sign_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("what", "difference"), [("a", "−.181"), ("b", "+1.011"), ("c", "–")])
    assert [line.rstrip()[-1] for line in shown(capsys).splitlines()] == ["e", "1", "1", "–"]
    print_table(("what", "difference"), [("a", "−.181")])
    assert shown(capsys).splitlines()[1] == "a          −.181"
