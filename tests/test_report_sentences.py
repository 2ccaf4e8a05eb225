"""Do the sentences follow the verdicts and the numbers? Each is flipped once."""

from pathlib import Path
from typing import Any

import pytest

from featcache.metrics.measure.row import verdict_text
from featcache.report import findings, load_runs
from featcache.report.caveats import caveats
from featcache.report.sentences import brief
from tests.test_report_runs import FORMAT_1, SIDES, write_run

THREE: dict[str, Any] = {"sides": (*SIDES, "names-de"), "encoders": ("vit", "gpt2", "gpt2", "dinov2")}


def text_of(folder: Path, **numbers: Any) -> str:
    return "\n".join(findings([write_run(folder, **numbers)]))


def test_the_joint_is_placed_against_both_readings_of_its_parts(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run", scores={("trained", "joint"): 0.340})
    assert "reaches 0.340 [0.310, 0.370] (mutual-kNN, k = 10, 1,000 test groups, chance 0.010)" in text
    assert "the average of raw parts: above (+.029 [+.009, +.049]); the best raw part: below (−.133 [−.153, " in text
    assert (
        "the average of adapted parts: above (+.063 [+.043, +.083]); the best adapted part: cannot tell (−.012" in text
    )


def test_a_verdict_that_is_flipped_in_the_table_flips_the_sentence(tmp_path: Path) -> None:
    name = "joint − best raw part"
    assert "the best raw part: below (−.166 [−.186, −.146])" in text_of(tmp_path / "a")
    flipped = text_of(tmp_path / "b", contrasts={name: {"verdict": "above", "value": 0.166}})
    assert "the best raw part: above (+.166 [" in flipped
    unsure = text_of(tmp_path / "c", contrasts={name: {"verdict": "cannot tell"}})
    assert "the best raw part: cannot tell (−.166 [−.186, −.146])" in unsure


def test_words_follow_the_corrected_p_and_say_so(tmp_path: Path) -> None:
    change = {"verdict": "cannot tell after correction", "p": 0.03, "p_holm": 0.2}
    text = text_of(tmp_path / "run", contrasts={"joint: trained − untrained": change})
    assert "joint: cannot tell after correction (+.045 [+.025, +.065])" in text


def test_every_verdict_has_its_difference_and_interval_beside_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", control=True)
    text = "\n".join(findings([folder]))
    (run,) = load_runs([folder])
    shown = [row for row in run.contrasts if row.metric == "mutual_knn"]
    assert len(shown) == 9
    assert all(verdict_text(row) in text for row in shown)


def test_no_verdict_comes_from_the_scores_alone(tmp_path: Path) -> None:
    words = {"verdict": "cannot tell"}
    names = [row.contrast for row in load_runs([write_run(tmp_path / "a")])[0].contrasts]
    text = text_of(tmp_path / "b", scores={("trained", "joint"): 0.9}, contrasts=dict.fromkeys(names, words))
    lines = [line for line in text.splitlines() if "Retrieval" not in line and "unrelated features" not in line]
    assert not any(word in line for line in lines for word in ("above", "below", "level", "raised", "better"))


@pytest.mark.parametrize(("score", "word"), [(0.307, "above"), (0.01, "within"), (0.001, "below")])
def test_the_joint_is_placed_against_what_unrelated_features_score(tmp_path: Path, score: float, word: str) -> None:
    text = text_of(tmp_path / "run", scores={("trained", "joint"): score})
    assert f"The joint's score is {word} what unrelated features score (95 % of permutations: 0.008 to 0.012)" in text
    assert "pairing" not in text


def test_training_is_judged_for_the_joint_and_each_side(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run")
    assert (
        "Training, trained against untrained (joint 0.262 untrained, mean of 10 initialisations): joint: above" in text
    )
    assert "adapted images: cannot tell (−.018 [" in text and "adapted captions: above (+.092 [" in text


def test_mixing_is_compared_with_the_joint_and_its_weights_are_named(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run")
    assert "Mixing the raw kernels (images 0.95, captions 0.05; chosen on validation) reaches 0.477; joint " in text
    assert "joint against it: below (−.170 [−.190, −.150])" in text


def test_pairing_is_spoken_of_only_where_a_control_was_compared(tmp_path: Path) -> None:
    assert "airing" not in text_of(tmp_path / "a")
    text = text_of(tmp_path / "b", control=True)
    assert "Pairing: the joint against the joint of a control trained on shuffled pairs: above (+.100 [" in text


def test_another_metric_that_disagrees_is_said_with_its_verdicts(tmp_path: Path) -> None:
    assert "By debiased CKA the joint reaches 0.407 [0.377, 0.437], with the same verdicts in all 4" in text_of(
        tmp_path / "a"
    )
    text = text_of(tmp_path / "b", cka={("trained", "joint"): 0.9})
    assert "with other verdicts in 3 of 4 contrasts with its parts" in text
    assert "the best raw part: above (+.327 [+.307, +.347])" in text


def test_retrieval_is_placed_against_chance_by_its_interval_and_next_to_untrained_adapters(tmp_path: Path) -> None:
    good = text_of(tmp_path / "a")
    assert "R@10 0.360 [0.340, 0.380], above chance (0.010); untrained adapters 0.040 [0.020, 0.060]." in good
    poor = text_of(tmp_path / "b", recall=0.025, untrained_recall=0.03)
    assert "R@10 0.025 [0.005, 0.045], cannot tell from chance (0.010); untrained adapters 0.030 [0.010" in poor


def test_the_best_epoch_for_alignment_is_named_beside_the_epoch_kept(tmp_path: Path) -> None:
    assert "peaks at epoch 7" in text_of(tmp_path / "a", epochs=20)
    assert "the epoch kept is 18" in text_of(tmp_path / "b", epochs=20)
    assert "peaks before training" in text_of(tmp_path / "c", epochs=60)


def test_a_small_test_split_is_a_caveat_and_a_large_one_is_not(tmp_path: Path) -> None:
    assert "only 349 groups and chance is 0.029" in text_of(tmp_path / "a", n=349)
    assert "only" not in text_of(tmp_path / "b", n=5000)


def test_sides_that_were_trained_apart_are_a_caveat_with_what_they_find(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run", **THREE, apart="images+captions")
    assert "Caveat: no training group had both images and captions (--apart). Their R@10 on test: images → " in text
    assert "captions 0.360 trained, 0.040 untrained; captions → images " in text
    assert "(--apart)" not in text_of(tmp_path / "other", **THREE)


def test_speech_that_is_synthesised_is_a_caveat_and_recorded_speech_is_not(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run")])
    run.config["dataset"], run.config["sides"]["captions"]["view"] = "flickr30k", "spoken-2"
    assert "captions is synthesised from a text of the data set: a function of the text and a voice" in " ".join(
        caveats([run])
    )
    run.config["sides"]["captions"]["view"] = "spoken"
    assert "synthesised" not in " ".join(caveats([run]))


def test_few_validation_groups_are_a_caveat_where_recall_chooses_the_epoch(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run")])
    assert "validation has" not in " ".join(caveats([run]))
    run.config["split"]["n"]["validation"] = 10
    assert "Caveat: validation has 10 groups, among which R@10 is 1 whatever the weights" in " ".join(caveats([run]))
    run.config["config"]["select"] = "alignment"
    assert "validation has" not in " ".join(caveats([run]))


def test_a_reference_of_the_same_family_is_a_caveat(tmp_path: Path) -> None:
    kin = text_of(tmp_path / "a", encoders=("efficientnet-lite0", "minilm", "efficientnet-lite2"))
    assert "the reference efficientnet-lite2 is of the same family as images (efficientnet-lite0)" in kin
    assert "same family" not in text_of(tmp_path / "b")


def test_a_shuffled_control_is_announced_and_claims_nothing_about_pairing(tmp_path: Path) -> None:
    text = text_of(tmp_path / "a", shuffle_pairs=True)
    assert text.startswith("This run is a control: its training pairs were shuffled across groups.")
    assert "is a control, its training pairs were shuffled" in text
    assert "by itself it says nothing of pairing" in text
    retrieval = [line for line in text.splitlines() if line.startswith("Retrieval")]
    assert len(retrieval) == 2 and not any("above" in line or "cannot tell" in line for line in retrieval)
    assert "Training on shuffled pairs, trained against untrained" in text
    assert "control" not in text_of(tmp_path / "b")


def test_several_runs_open_with_the_best_on_validation_and_each_sentence_names_its_run(tmp_path: Path) -> None:
    linear = write_run(tmp_path / "linear")
    mlp = write_run(tmp_path / "mlp", adapter="mlp", scores={("trained", "joint"): 0.40}, recall=0.2)
    lines = findings([linear, mlp])
    assert lines[0].startswith("The headline run is linear, the best of 2 on validation")
    assert lines[0].endswith("exploratory: mlp.")
    assert all(line.startswith(("linear: ", "mlp: ", "Caveat")) for line in lines[1:])
    assert not any(line.startswith("mlp: ") for line in brief([linear, mlp]))


def test_no_run_is_ranked_by_its_test_score(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name, adapter=name, scores={("trained", "joint"): value})
        for name, value in (("linear", 0.2), ("mlp", 0.5), ("bottleneck", 0.3))
    ]
    first = findings(folders)[0]
    flipped = [
        write_run(tmp_path / "more" / name, adapter=name, scores={("trained", "joint"): value})
        for name, value in (("linear", 0.5), ("mlp", 0.2), ("bottleneck", 0.3))
    ]
    assert findings(flipped)[0] == first
    assert not any(word in first for word in ("nearest", "ahead", "highest"))


def test_runs_of_different_sides_on_the_same_groups_and_reference_are_said_to_be_so(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, encoders=(*sides, "siglip")) for name, sides in (
        ("a", ("vit", "bert")), ("b", ("vit", "gpt2"))
    )]  # fmt: skip
    lines = findings(runs)
    assert "the runs join different sides, on the same test groups and against the same reference" in lines[-1]
    assert any("the first named: the runs join different sides" in line for line in lines)


def test_runs_on_unequal_test_groups_are_warned_of(tmp_path: Path) -> None:
    lines = findings([write_run(tmp_path / "a"), write_run(tmp_path / "b", n=700)])
    assert "do not share test groups" in lines[-1]


def test_six_seeds_give_mean_and_range_and_no_winner(tmp_path: Path) -> None:
    values = (0.31, 0.30, 0.29, 0.33, 0.28, 0.32)
    folders = [
        write_run(tmp_path / f"s{seed}", seed=seed, recall=0.3 + seed / 100, scores={("trained", "joint"): value})
        for seed, value in enumerate(values)
    ]
    lines = findings(folders)
    text = "\n".join(lines)
    assert lines[0].startswith("6 runs differ in their seed only (0, 1, 2, 3, 4, 5): scores are their mean and their ")
    assert lines[0].endswith("and no seed is picked.")
    assert "over 6 seeds, the joint space reaches mean 0.305, range 0.280–0.330 (mutual-kNN" in text
    assert "the best raw part: below in 6 of 6 seeds (mean −.168, range −.193 to −.143)" in text
    assert "R@10 mean 0.325, range 0.300–0.350, above chance (0.010) in 6 of 6 seeds" in text
    assert not any(word in text for word in ("headline", "best of 6", "exploratory", "the epoch kept"))


def test_three_sides_are_spoken_of_together_and_in_pairs(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run", **THREE)
    assert "the joint space of all 3 sides reaches 0.307" in text
    assert "Joint of all − best joint of a pair: above (+.030 [+.010, +.050])." in text
    assert "(images 0.95, captions 0.05, names-de 0.00; chosen on validation)" in text
    assert text.count("Retrieval ") == 6 and "Retrieval names-de → captions: R@10" in text


def test_without_a_reference_the_sides_alone_are_spoken_of(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run", encoders=("resnet18", "gpt2", None))
    assert (
        "After training, images (resnet18) and captions (gpt2) agree at 0.210 (raw 0.050): mutual-kNN, k = 10" in text
    )
    assert "Caveat: without a reference there are no contrasts, and so no verdicts." in text
    assert "joint" not in text and "Retrieval images → captions" in text


def test_a_run_of_featcache_0_1_has_scores_and_no_verdicts() -> None:
    text = "\n".join(findings([FORMAT_1]))
    assert "Caveat: written by featcache 0.1: no contrasts; train again for verdicts." in text
    assert "By linear CKA the joint reaches 0.752." in text
    assert "side by side with the joint, no verdict" in text and "side by side, no verdict" in text
    assert "R@10 1.000 [0.741, 1.000], above chance (0.724)" in text
