"""Do the sentences follow the numbers? Each is flipped once."""

from pathlib import Path

import pytest

from featcache.report import findings, load_runs
from featcache.report.sentences import compare, headline
from featcache.report.tables import Reading
from tests.test_report_runs import write_run


def said(folder: Path, **numbers: object) -> str:
    return "\n".join(findings([write_run(folder, **numbers)]))  # pyright: ignore[reportArgumentType]


def test_a_joint_between_average_and_maximum_is_said_for_both_readings_of_its_parts(tmp_path: Path) -> None:
    text = said(tmp_path / "run", scores={("trained", "joint"): 0.340})
    assert "reaches 0.340 (mutual-kNN, k = 10, 1,000 test groups, chance 0.010)" in text
    assert "above the average (0.277; +0.063), below the maximum (0.352; −0.012) of its adapted parts" in text
    assert "above the average (0.311; +0.029), below the maximum (0.473; −0.133) of its raw parts" in text


def test_the_two_readings_of_parts_may_disagree_and_both_are_said(tmp_path: Path) -> None:
    text = said(tmp_path / "run", scores={("trained", "joint"): 0.2902})
    assert "above the average (0.277; +0.013)" in text
    assert "below both the average (0.311; −0.021) and the maximum (0.473; −0.183) of its raw parts" in text


def test_a_joint_above_everything_is_said_so(tmp_path: Path) -> None:
    text = said(tmp_path / "run", scores={("trained", "joint"): 0.6})
    assert "above both the average (0.277; +0.323) and the maximum (0.352; +0.248) of its adapted parts" in text
    assert "the joint stands above it: training adds what mixing cannot" in text


def test_a_difference_inside_the_null_range_is_called_level(tmp_path: Path) -> None:
    text = said(tmp_path / "run", scores={("trained", "joint"): 0.278})
    assert "level with the average (0.277; +0.001, inside ±0.002)" in text


def test_the_margin_of_an_average_is_smaller_than_that_of_one_part() -> None:
    one = Reading(0.3, null_low=0.0, null_high=0.02)
    assert compare(one, one).margin == pytest.approx(0.01 * 2**0.5)
    assert compare(one, Reading(0.3), one, one).margin == pytest.approx((0.01**2 + 0.01**2 / 2) ** 0.5)


def test_an_interval_wider_than_the_null_range_decides() -> None:
    sure = Reading(0.3, null_low=0.0, null_high=0.02, ci_low=0.25, ci_high=0.35)
    assert compare(sure, Reading(0.27)).verdict == "level with"
    assert compare(sure, Reading(0.24)).verdict == "above"


@pytest.mark.parametrize(
    ("score", "words"), [(0.307, "above its 95 % null"), (0.01, "inside"), (0.001, "below its 95")]
)
def test_the_joint_is_placed_against_its_null_range(tmp_path: Path, score: float, words: str) -> None:
    assert words in said(tmp_path / "run", scores={("trained", "joint"): score})


@pytest.mark.parametrize(
    ("untrained", "words"), [(0.2, "Training raised"), (0.4, "Training lowered"), (0.307, "did not move")]
)
def test_training_raises_or_lowers_as_the_untrained_joint_has_it(tmp_path: Path, untrained: float, words: str) -> None:
    assert words in said(tmp_path / "run", scores={("untrained", "joint"): untrained})


@pytest.mark.parametrize(
    ("mixed", "words"),
    [
        (0.477, "mixing, with no training, does better"),
        (0.1, "training adds what mixing cannot"),
        (0.307, "nothing over"),
    ],
)
def test_mixing_is_compared_with_the_joint_and_its_weight_is_named(tmp_path: Path, mixed: float, words: str) -> None:
    text = said(tmp_path / "run", scores={("mixed", "x+y"): mixed})
    assert words in text
    assert "(w = 0.95, chosen on validation)" in text


def test_linear_cka_that_disagrees_is_said_with_its_verdict(tmp_path: Path) -> None:
    assert "Linear CKA gives the same verdict in all four" in said(tmp_path / "a")
    text = said(tmp_path / "b", cka={("trained", "joint"): 0.9})
    assert "differs from mutual-kNN in 3 of 4 comparisons" in text
    assert "above the maximum of the raw parts" in text


def test_retrieval_is_placed_against_chance_and_untrained_adapters(tmp_path: Path) -> None:
    assert "R@10 0.360 [0.340, 0.380], above chance (0.010) and above untrained adapters (0.040)" in said(
        tmp_path / "a"
    )
    poor = said(tmp_path / "b", recall=0.025, untrained_recall=0.03)
    assert "not told apart from chance (0.010) and not told apart from untrained adapters (0.030)" in poor


def test_the_best_epoch_for_alignment_is_named_beside_the_epoch_kept(tmp_path: Path) -> None:
    assert "peaks at epoch 7" in said(tmp_path / "a", epochs=20)
    assert "the epoch kept is 18" in said(tmp_path / "b", epochs=20)
    assert "peaks before training" in said(tmp_path / "c", epochs=60)


def test_a_small_test_split_is_a_caveat_and_a_large_one_is_not(tmp_path: Path) -> None:
    assert "only 349 groups and chance is 0.029" in said(tmp_path / "a", n=349)
    assert "only" not in said(tmp_path / "b", n=5000)


def test_a_reference_of_the_same_family_is_a_caveat(tmp_path: Path) -> None:
    kin = said(tmp_path / "a", encoders=("efficientnet-lite0", "minilm", "efficientnet-lite2"))
    assert "the reference efficientnet-lite2 is of the same family as efficientnet-lite0" in kin
    assert "same family" not in said(tmp_path / "b")


def test_a_shuffled_control_is_announced(tmp_path: Path) -> None:
    assert "is a control, its training pairs were shuffled" in said(tmp_path / "a", shuffle_pairs=True)
    assert "control" not in said(tmp_path / "b")


def test_several_runs_are_ranked_and_each_sentence_names_its_run(tmp_path: Path) -> None:
    linear = write_run(tmp_path / "linear")
    mlp = write_run(tmp_path / "mlp", adapter="mlp", scores={("trained", "joint"): 0.40})
    lines = findings([linear, mlp])
    assert lines[0].startswith(
        "Of 2 runs the joint space of mlp stands nearest to the reference (0.400), ahead of linear"
    )
    assert all(line.startswith(("linear: ", "mlp: ", "Caveat")) for line in lines[1:])
    assert headline(load_runs([linear, mlp])).startswith("Highest of 2 runs is mlp. ")


def test_runs_on_unequal_test_groups_are_not_ranked(tmp_path: Path) -> None:
    lines = findings([write_run(tmp_path / "a"), write_run(tmp_path / "b", n=700)])
    assert not any(line.startswith("Of 2 runs") for line in lines)
    assert "do not share test groups" in lines[-1]
