"""The loss of products: InfoNCE of two sides, its slow form of three; it tells tuples that no pair of sides tells."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional

from featcache.trainer.config import FitConfig
from featcache.trainer.losses import info_nce
from featcache.trainer.product_loss import product_loss

SCALE = torch.tensor(1.3)


def rows(sides: int, b: int = 7, width: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: functional.normalize(torch.randn(b, width, generator=generator, dtype=torch.float64))
        for name in "abcd"[:sides]
    }


def oracle(sides: dict[str, torch.Tensor], groups: list[int]) -> float:
    """Term by term, as the docstring has it."""
    (b, width), losses = next(iter(sides.values())).shape, []
    for anchor, i in product(sides, range(b)):
        scores = {}
        for j in range(b):
            if j != i and groups[i] == groups[j]:
                continue
            terms = [
                math.prod(float(values[i if name == anchor else j, k]) for name, values in sides.items())
                for k in range(width)
            ]
            scores[j] = math.exp(SCALE) * width ** (len(sides) / 2 - 1) * sum(terms)
        losses.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[i])
    return sum(losses) / len(losses) - math.log(b)


@pytest.mark.parametrize("sides", [2, 3, 4])
@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 2, 1, 0, 3]])
def test_it_is_its_formula_term_by_term(sides, groups) -> None:
    given = rows(sides)
    assert product_loss(given, SCALE, torch.tensor(groups)).item() == pytest.approx(oracle(given, groups))


@pytest.mark.parametrize("groups", [None, torch.tensor([0, 1, 0, 2, 1, 0, 3])])
def test_of_two_sides_it_is_info_nce(groups) -> None:
    given = rows(2)
    expected = info_nce(given["a"], given["b"], SCALE, groups) - math.log(7)
    assert product_loss(given, SCALE, groups).item() == pytest.approx(expected.item())


def test_rows_that_lack_a_side_are_left_out_and_one_row_says_nothing() -> None:
    given, groups = rows(3), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    present = {name: torch.ones(7, dtype=torch.bool) for name in given}
    present["b"] = torch.tensor([1, 1, 0, 1, 1, 1, 0]).bool()
    kept = present["b"]
    expected = product_loss({name: values[kept] for name, values in given.items()}, SCALE, groups[kept])
    assert product_loss(given, SCALE, groups, present).item() == pytest.approx(expected.item())
    present["c"] = torch.tensor([1, 0, 0, 0, 0, 0, 0]).bool()
    assert product_loss(given, SCALE, groups, present).item() == 0


def test_the_sum_as_printed_is_least_where_nothing_is_told_apart() -> None:
    """The source's denominator goes over whole tuples: no scores are better than equal ones."""

    def printed(sides: dict[str, torch.Tensor]) -> float:
        scores = SCALE.exp() * torch.stack([*sides.values()]).prod(dim=0).sum(dim=1)
        return float(-scores.log_softmax(dim=0).mean())

    same = {name: values[:1].repeat(7, 1) for name, values in rows(3).items()}
    assert printed(same) == pytest.approx(math.log(7))
    assert all(printed(rows(3, seed=seed)) > math.log(7) for seed in range(20))


def test_it_learns_what_no_pair_of_sides_tells() -> None:
    """Signs, two by two independent, the third the product of the others: pairs are at chance, their product is not."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 2, (64, 16), generator=generator) * 2.0 - 1 for _ in range(2))
    sides = {name: values / 4 for name, values in {"a": a, "b": b, "c": a * b}.items()}
    scale = torch.tensor(math.log(1 / 0.07))
    assert product_loss(sides, scale) < -3.5  # of ln 64 = 4.16
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert product_loss({one: sides[one], other: sides[other]}, scale) > 0


@pytest.mark.parametrize("setting", [{"pair_weights": {"a+b": 2.0}}, {"label_smoothing": 0.1}, {"joint": "learned"}])
def test_settings_of_pairs_are_refused(setting) -> None:
    with pytest.raises(
        ValueError, match=f"all sides at once: it has no {'learned joint' if 'joint' in setting else ''}"
    ):
        FitConfig(loss="product", **setting)
