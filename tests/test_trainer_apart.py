"""A pair of sides that no training group has both of is learned through a third; the control are ridge maps alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from featcache.commands.app import app
from featcache.errors import UsageError
from featcache.studies.adapters.results import Evaluation, final_results
from featcache.trainer.config import FitConfig
from featcache.trainer.draws import TrainingRows
from featcache.trainer.errors import NotPaired
from featcache.trainer.fit import fit_paired, untrained_adapters
from featcache.trainer.sides import pair_sides
from featcache.trainer.subsets import training_part
from tests.trainer_planted import planted_sides, without

CONFIG = FitConfig(apart="x+z", epochs=8, batch=32, width=8, k=5, lr=5e-3, permutations=39, halves=20, untrained=2)


@pytest.fixture(scope="module")
def paired():
    return pair_sides(*planted_sides(400, third=True), CONFIG)


def test_no_training_group_has_both_and_each_keeps_one(paired) -> None:
    whole, part = training_part(paired, CONFIG.model_copy(update={"apart": ""})), training_part(paired, CONFIG)
    present = {name: side.present for name, side in part.sides.items()}
    assert not (present["x"] & present["z"]).any() and (present["x"] | present["z"]).all() and present["y"].all()
    assert int(present["x"].sum()) == int(present["z"].sum()) == len(part.groups) // 2
    for name, side in part.sides.items():  # what is left is what stood there
        kept = torch.nonzero(present[name]).ravel()
        was, now = whole.sides[name].take(kept), side.take(kept)
        assert torch.equal(was.values, now.values) and (was.ids == now.ids).all()
    for split in ("validation", "test"):
        assert all(side.present.all() for side in paired.part(split).sides.values())


def test_the_draw_depends_on_ids_and_seed_and_not_on_order(paired) -> None:
    def losers(config, sides, reference) -> set[str]:
        part = training_part(pair_sides(sides, reference, config), config)
        return {str(group) for group in part.groups[~part.sides["x"].present.numpy()]}

    sides, reference = planted_sides(400, third=True)
    turned = {name: side.take(np.arange(len(side))[::-1]) for name, side in sides.items()}
    first = losers(CONFIG, sides, reference)
    assert first == losers(CONFIG, turned, reference) != losers(CONFIG.model_copy(update={"seed": 1}), sides, reference)


def test_groups_that_lack_one_already_lose_nothing() -> None:
    sides, reference = planted_sides(400, third=True)
    config = CONFIG.model_copy(update={"missing": "mask"})
    gone = {f"g{number:04d}" for number in range(0, 80, 4)}
    part = training_part(pair_sides({**sides, "x": without(sides["x"], gone)}, reference, config), config)
    lacking = np.isin(part.groups.astype(str), [*gone])
    assert part.sides["z"].present.numpy()[lacking].all() and not part.sides["x"].present.numpy()[lacking].any()


def test_no_batch_ever_has_a_row_of_both(paired) -> None:
    rows = TrainingRows(training_part(paired, CONFIG), CONFIG, 0, 1)
    for _ in range(3):
        drawn, _, _ = rows.next_epoch()
        assert not ((drawn["x"] >= 0) & (drawn["z"] >= 0)).any()


def test_the_pair_is_found_through_the_third_and_so_do_composed_ridge_maps(paired) -> None:
    fitted = fit_paired(paired, CONFIG.model_copy(update={"epochs": 30}))
    rows = final_results(fitted, Evaluation(paired, CONFIG)).rows

    def recall(stage: str, query: str, gallery: str) -> float:
        (row,) = (
            row
            for row in rows
            if (row.stage, row.split, row.metric, row.direction) == (stage, "test", "R@10", f"{query}→{gallery}")
        )
        assert row.value is not None and row.chance is not None and row.ci_low is not None
        return row.value - 3 * row.chance

    for query, gallery in (("x", "z"), ("z", "x")):
        assert recall("trained", query, gallery) > 0 and recall("composed", query, gallery) > 0
        assert recall("trained", query, gallery) > recall("untrained", query, gallery)
    composed = [row for row in rows if row.stage == "composed"]
    assert {row.direction for row in composed} == {"x→z", "z→x"}
    assert all("through y" in row.note for row in composed) and not [row for row in rows if row.stage == "ridge"]


def test_composed_maps_are_two_regressions_by_the_normal_equations(paired) -> None:
    train = training_part(paired, CONFIG)
    rows = final_results(fit_paired(paired, CONFIG.model_copy(update={"epochs": 1})), Evaluation(paired, CONFIG)).rows
    one = next(row for row in rows if row.stage == "composed" and row.direction == "z→x" and row.metric == "R@10")
    penalties = [float(text.split(" ")[0]) for text in one.note.split("penalty ")[1:]]

    def scaled(part, name, of=train):
        mean, deviation = of.sides[name].values.double().mean(0), of.sides[name].values.double().std(0, correction=0)
        return replace(part.sides[name], values=((part.sides[name].values.double() - mean) / deviation))

    def mapped(source, target, penalty, rows):
        both = torch.nonzero(train.sides[source].present & train.sides[target].present).ravel()
        part = train.subset("train", both)
        x, y = (scaled(part, name).means().numpy() for name in (source, target))
        inner = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x) + penalty * np.eye(x.shape[1])
        return (rows - x.mean(0)) @ np.linalg.solve(inner, (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)) + y.mean(0)

    test = paired.part("test")
    queries = mapped("y", "x", penalties[1], mapped("z", "y", penalties[0], scaled(test, "z").values.numpy()))
    gallery = scaled(test, "x").values.numpy()
    cosines = (queries @ gallery.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    ranks = (cosines >= np.diag(cosines)[:, None]).sum(axis=1)
    assert one.value == pytest.approx((ranks <= 10).mean())


def test_untrained_adapters_are_standardised_by_what_is_left(paired) -> None:
    part = training_part(paired, CONFIG)
    adapters = untrained_adapters(paired, CONFIG)
    assert torch.allclose(adapters["x"].mean, part.sides["x"].values.mean(0), atol=1e-5)


@pytest.mark.parametrize("apart", ["x+w", "x+y+z", "x"])
def test_a_pair_that_is_not_there_is_refused(apart) -> None:
    with pytest.raises((UsageError, ValueError), match="apart"):
        FitConfig(apart=apart).check_sides(["x", "y", "z"])


def test_two_sides_cannot_be_apart_nor_can_few_groups() -> None:
    with pytest.raises(UsageError, match="of three sides or more; the sides are x, y"):
        FitConfig(apart="x+y").check_sides(["x", "y"])
    config = CONFIG.model_copy(update={"train_groups": 3})
    with pytest.raises(NotPaired, match="fewer than 2 training groups once apart"):
        training_part(pair_sides(*planted_sides(400, third=True), config), config)


@pytest.mark.parametrize("setting", [{"swap": 0.5}, {"loss": "product"}])
def test_settings_that_need_whole_groups_are_refused(setting) -> None:
    with pytest.raises(ValueError, match="no training group with every side"):
        FitConfig(apart="x+z", **setting)


def test_the_command_names_what_is_wrong() -> None:
    ran = CliRunner().invoke(app, ["train", "openmoji", "a", "b", "--apart", "a"])
    assert ran.exit_code and "apart" in str(ran.exception or ran.output)
