"""The loss is the obvious loop over rows and pairs of sides; a row that is missing counts in no pair."""

import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional

from featcache.trainer.kinds import LOSS_KINDS
from featcache.trainer.losses import (
    MAXIMAL_LOG_SCALE,
    PAIR_LOSSES,
    Objective,
    info_nce,
    kernel_loss,
    pairwise_loss,
    siglip,
)
from featcache.trainer.optimizer import AdamW, learning_rate


def unit(n, d, seed):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def obvious(x, y, scale, groups):
    total = 0.0
    for queries, gallery in ((x, y), (y, x)):
        for i, query in enumerate(queries):
            allowed = [j for j in range(len(gallery)) if j == i or groups[j] != groups[i]]
            logits = {
                j: scale * sum(float(a) * float(b) for a, b in zip(query, gallery[j], strict=True)) for j in allowed
            }
            total -= logits[i] - math.log(sum(math.exp(value) for value in logits.values()))
    return total / (2 * len(x))


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 2, 2, 3]])
def test_the_loss_equals_the_obvious_double_loop(groups):
    x, y = unit(7, 5, 0), unit(7, 5, 1)
    loss = info_nce(x, y, torch.tensor(1.3, dtype=torch.float64), torch.tensor(groups))
    assert loss.item() == pytest.approx(obvious(x, y, math.exp(1.3), groups), rel=1e-12)


def test_without_groups_every_other_row_is_a_negative():
    x, y = unit(7, 5, 0), unit(7, 5, 1)
    log_scale = torch.tensor(1.0, dtype=torch.float64)
    assert info_nce(x, y, log_scale).item() == info_nce(x, y, log_scale, torch.arange(7)).item()


def test_a_same_group_row_moved_anywhere_leaves_the_other_rows_terms_alone():
    # rows 0 and 1 are one group and identical: were they each other's negatives, ln 2 would be the least loss
    x = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    log_scale = torch.tensor(MAXIMAL_LOG_SCALE)
    assert info_nce(x, x, log_scale, torch.tensor([0, 0, 1, 2])).item() < 1e-6
    assert info_nce(x, x, log_scale, torch.tensor([0, 3, 1, 2])).item() == pytest.approx(math.log(2) / 2, rel=1e-4)


def test_masked_pairs_receive_no_gradient():
    x = unit(3, 4, 0).requires_grad_()
    y = unit(3, 4, 1)
    y_moved = y.clone()
    y_moved[1] = unit(1, 4, 9)[0]
    grads = []
    for gallery in (y, y_moved):
        loss = info_nce(x, gallery, torch.tensor(1.0), torch.tensor([0, 0, 0]))
        grads.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(grads[0], torch.zeros_like(grads[0])) and torch.equal(grads[0], grads[1])


def test_the_temperature_starts_at_seven_hundredths_and_its_inverse_is_capped_at_one_hundred():
    x, y = unit(6, 4, 0), unit(6, 4, 1)
    assert 1 / math.exp(PAIR_LOSSES["infonce"].log_scale) == pytest.approx(0.07)
    over = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    loss = info_nce(x, y, over)
    assert loss.item() == info_nce(x, y, torch.tensor(math.log(100.0), dtype=torch.float64)).item()
    loss.backward()
    assert over.grad is not None and over.grad.item() == 0


def test_rows_that_cannot_be_told_apart_cost_the_logarithm_of_the_batch():
    x = torch.ones(8, 3) / math.sqrt(3)
    assert info_nce(x, x, torch.tensor(2.0)).item() == pytest.approx(math.log(8), rel=1e-6)


# -- any number of sides ----------------------------------------------------------------------------------------------

GROUPS = [0, 0, 1, 2, 2, 2, 3, 4]
MASKS = {
    "a": [1, 1, 1, 0, 1, 1, 0, 1],
    "b": [1, 0, 1, 1, 1, 1, 1, 0],
    "c": [0, 1, 1, 1, 0, 1, 1, 1],
}


def three(requires_grad=False):
    return {name: unit(8, 5, seed).requires_grad_(requires_grad) for seed, name in enumerate("abc")}


def masks(names="abc"):
    return {name: torch.tensor(MASKS[name], dtype=torch.bool) for name in names}


def obvious_pairs(sides, scale, groups, weights, present):
    """Weighted mean over pairs of the loop over the rows that both sides have, less the logarithm of their number."""
    total = weight_sum = 0.0
    for a, b in combinations(sides, 2):
        weight = weights.get((a, b), weights.get((b, a), 1.0))
        both = [i for i in range(len(groups)) if present[a][i] and present[b][i]]
        if weight == 0 or len(both) < 2:
            continue
        loss = obvious(sides[a][both], sides[b][both], scale, [groups[i] for i in both])
        total += weight * (loss - math.log(len(both)))
        weight_sum += weight
    return total / weight_sum


@pytest.mark.parametrize("weights", [{}, {("a", "b"): 2.0, ("c", "a"): 0.25}, {("b", "c"): 0.0}])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_the_loss_of_many_sides_equals_the_obvious_loop_over_pairs_and_present_rows(names, masked, weights):
    sides = {name: three()[name] for name in names}
    present = masks(names) if masked else None
    everywhere = dict.fromkeys(names, [1] * 8)
    typed = {"+".join(pair): weight for pair, weight in weights.items()}
    log_scale = torch.tensor(1.3, dtype=torch.float64)
    loss = pairwise_loss(sides, Objective("infonce", log_scale), torch.tensor(GROUPS), typed, present)
    expected = obvious_pairs(sides, math.exp(1.3), GROUPS, weights, MASKS if masked else everywhere)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_of_two_whole_sides_it_is_the_contrastive_loss_less_the_logarithm_of_the_batch():
    x, y = unit(7, 5, 0), unit(7, 5, 1)
    log_scale = torch.tensor(1.0, dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    wanted = info_nce(x, y, log_scale, groups) - math.log(7)
    assert pairwise_loss({"x": x, "y": y}, Objective("infonce", log_scale), groups).item() == pytest.approx(
        wanted.item(), rel=1e-12
    )


def test_rows_that_are_missing_give_no_gradient_and_change_nothing():
    groups, present = torch.tensor(GROUPS), masks()
    log_scale = torch.tensor(1.0, dtype=torch.float64)
    gradients, losses = [], []
    for filler in (0.0, 7.0, math.nan):
        sides = three()
        for name, mask in present.items():
            sides[name][~mask] = filler  # whatever stands in their place
            sides[name].requires_grad_()
        loss = pairwise_loss(sides, Objective("infonce", log_scale), groups, None, present)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, [*sides.values()]))
    assert losses[0] == losses[1] == losses[2]
    for name, *gradient in zip(present, *gradients, strict=True):
        assert all(torch.equal(gradient[0], other) for other in gradient[1:])
        assert not gradient[0][~present[name]].any()
        assert gradient[0][present[name]].any(dim=1).all()


def test_a_pair_that_meets_in_fewer_than_two_rows_is_left_out():
    sides = {name: rows[:2] for name, rows in three(requires_grad=True).items()}
    present = {
        name: torch.tensor(mask, dtype=torch.bool) for name, mask in (("a", [1, 1]), ("b", [1, 1]), ("c", [1, 0]))
    }
    log_scale = torch.tensor(0.0, dtype=torch.float64)
    loss = pairwise_loss(sides, Objective("infonce", log_scale), None, {"a+b": 3.0, "a+c": 5.0}, present)
    assert loss.item() == pytest.approx(
        pairwise_loss({n: sides[n] for n in "ab"}, Objective("infonce", log_scale)).item()
    )
    nothing = pairwise_loss({n: sides[n] for n in "bc"}, Objective("infonce", log_scale), None, None, present)
    assert nothing.item() == 0 and not nothing.requires_grad


def test_twice_the_weights_are_the_same_loss():
    log_scale = torch.tensor(0.5, dtype=torch.float64)
    once, twice = (
        pairwise_loss(
            three(), Objective("infonce", log_scale), None, {"a+b": scale, "a+c": 3 * scale, "b+c": 0.5 * scale}
        )
        for scale in (1.0, 2.0)
    )
    assert once.item() == pytest.approx(twice.item(), rel=1e-12)


def test_guessing_costs_nothing_whatever_the_batch():
    for rows in (2, 8, 33):
        x = torch.ones(rows, 3) / math.sqrt(3)
        assert abs(pairwise_loss({"x": x, "y": x, "z": x}, Objective("infonce", torch.tensor(2.0))).item()) < 1e-6


# -- other losses -----------------------------------------------------------------------------------------------------

MIXED = [[0, 5], [1, 0], [2, 6], [3, 7], [4, 2], [8, 9], [9, 3]]


def meet(a, b):
    """Whether two rows, of one group or of several, show the same thing."""
    return bool(set(a if isinstance(a, list) else [a]) & set(b if isinstance(b, list) else [b]))


def similarity(a, b):
    return sum(float(i) * float(j) for i, j in zip(a, b, strict=True))


def test_the_settings_offer_exactly_the_losses_of_the_table():
    assert set(LOSS_KINDS) == {*PAIR_LOSSES, "labels", "product"}


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 2, 2, 3], MIXED])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_infonce_equals_the_loop_over_rows_and_targets(groups, smoothing):
    x, y, scale, total = unit(7, 5, 0), unit(7, 5, 1), math.exp(1.3), 0.0
    for queries, gallery in ((x, y), (y, x)):
        for i in range(7):
            allowed = [j for j in range(7) if j == i or not meet(groups[i], groups[j])]
            logits = [scale * similarity(queries[i], gallery[j]) for j in allowed]
            norm = math.log(sum(math.exp(value) for value in logits))
            for j, logit in zip(allowed, logits, strict=True):
                target = (1 - smoothing) * (j == i) + smoothing / len(allowed)
                total -= target * (logit - norm) / 14
    log_scale = torch.tensor(1.3, dtype=torch.float64)
    assert info_nce(x, y, log_scale, torch.tensor(groups), smoothing=smoothing).item() == pytest.approx(total)


def test_smoothing_is_that_of_torch_where_no_group_repeats_and_masked_pairs_give_no_nan():
    x, y = unit(7, 5, 0).requires_grad_(), unit(7, 5, 1)
    log_scale = torch.tensor(1.3, dtype=torch.float64)
    logits = log_scale.exp() * (x @ y.T)
    partner = torch.arange(7)
    wanted = [torch.nn.functional.cross_entropy(each, partner, label_smoothing=0.2) for each in (logits, logits.T)]
    assert info_nce(x, y, log_scale, smoothing=0.2).item() == pytest.approx(sum(wanted).item() / 2)
    info_nce(x, y, log_scale, torch.tensor([0, 0, 1, 2, 2, 2, 3]), smoothing=0.2).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 2, 2, 3], MIXED])
def test_the_sigmoid_loss_equals_the_loop_over_all_pairs_but_those_of_one_group(groups):
    x, y, total = unit(7, 5, 0), unit(7, 5, 1), 0.0
    for i in range(7):
        for j in range(7):
            if i != j and meet(groups[i], groups[j]):
                continue
            logit = 20 * similarity(x[i], y[j]) - 3
            total -= math.log(1 / (1 + math.exp(-logit if i == j else logit))) / 7
    parameters = (torch.tensor(math.log(20.0), dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64))
    assert siglip(x, y, *parameters, torch.tensor(groups)).item() == pytest.approx(total, rel=1e-9)


def test_the_sigmoid_loss_starts_at_scale_10_and_bias_minus_10():
    assert math.exp(PAIR_LOSSES["siglip"].log_scale) == pytest.approx(10) and PAIR_LOSSES["siglip"].bias == -10


@pytest.mark.parametrize("batch", [2, 8, 33])
def test_the_guess_of_the_sigmoid_loss_is_the_best_bias_without_any_similarity(batch):
    zeros = torch.zeros(batch, 3, dtype=torch.float64)
    at = [siglip(zeros, zeros, torch.tensor(0.0), bias).item() for bias in torch.arange(-6.0, 1.0, 0.01)]
    assert min(at) == pytest.approx(PAIR_LOSSES["siglip"].guess(batch), rel=1e-4)


def test_the_kernel_loss_is_one_minus_cka_of_the_stacked_kernels_entry_by_entry():
    x, y, reference = unit(6, 4, 0), unit(6, 4, 1), 3 * unit(6, 5, 2)
    rows = [*x, *y]
    target = [row / row.norm() for row in (*reference, *reference)]

    def centred(rows):
        kernel = [[similarity(a, b) for b in rows] for a in rows]
        means = [sum(row) / 12 for row in kernel]
        return [[kernel[i][j] - means[i] - means[j] + sum(means) / 12 for j in range(12)] for i in range(12)]

    def product(a, b):
        return sum(a[i][j] * b[i][j] for i in range(12) for j in range(12))

    own, wanted = centred(rows), centred(target)
    cka = product(own, wanted) / math.sqrt(product(own, own) * product(wanted, wanted))
    assert kernel_loss(x, y, reference).item() == pytest.approx(1 - cka, rel=1e-9)


def test_the_kernel_loss_leaves_out_pairs_whose_reference_is_missing():
    x, y, reference = unit(6, 4, 0), unit(6, 4, 1), unit(6, 5, 2)
    reference[[1, 4]] = torch.nan
    kept = [0, 2, 3, 5]
    assert kernel_loss(x, y, reference).item() == pytest.approx(kernel_loss(x[kept], y[kept], reference[kept]).item())
    x, present = x.requires_grad_(), {"x": torch.tensor([1, 1, 1, 1, 1, 0]).bool(), "y": torch.ones(6).bool()}
    objective = Objective("cka", torch.tensor(0.0))
    loss = pairwise_loss({"x": x, "y": y}, objective, None, None, present, reference)
    loss.backward()
    assert x.grad is not None and not x.grad[[1, 4, 5]].any() and x.grad[[0, 2, 3]].any()
    assert loss.item() == pytest.approx(kernel_loss(x[[0, 2, 3]], y[[0, 2, 3]], reference[[0, 2, 3]]).item() - 1)


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_weight_without_a_gradient_keeps_its_value():
    used, unused = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    optimizer = AdamW([used, unused], [], 0.5)
    used.sum().backward()
    optimizer.step(0.1)
    assert torch.equal(unused, torch.ones(2, 2)) and not torch.equal(used, torch.ones(2, 2))


@pytest.mark.parametrize("fused", [True, False])
def test_our_adamw_takes_the_same_steps_as_pytorchs(fused):
    """The same bits as its fused form, as near as rounding allows to its plain one."""
    start = [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4)]
    ours = [weight.clone().requires_grad_() for weight in start]
    theirs = [weight.clone().requires_grad_() for weight in start]
    mine = AdamW(ours[:1], ours[1:], 0.3)
    reference = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "weight_decay": 0}], fused=fused
    )
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    for step in range(20):
        lr = learning_rate(step, 20, 0.05, 0.1)
        for weights in (ours, theirs):
            (torch.tanh(x @ weights[0].T + weights[1]) - 0.5).square().sum().backward()
        mine.step(lr)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0 if fused else 1e-5, atol=0 if fused else 1e-6)


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing():
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert max(rates) == pytest.approx(2.0) and rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(0.2) and 0 < rates[-1] < 0.001
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


@pytest.mark.parametrize("groups", [None, [0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 1, 0]])
@pytest.mark.parametrize("scale", [0.0, 1.5, math.log(100.0), 6.0])
def test_the_written_gradient_of_info_nce_is_that_of_autograd_on_the_plain_form(groups, scale):
    """The cap lets no gradient of the scale through from 100 on, as a clamp does."""
    generator = torch.Generator().manual_seed(0)
    x, y = (functional.normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64)) for _ in range(2))
    log_scale, numbers = torch.tensor(scale, dtype=torch.float64), None if groups is None else torch.tensor(groups)

    def plain(x, y, log_scale):
        logits = log_scale.clamp(max=math.log(100.0)).exp() * (x @ y.T)
        if numbers is not None:
            same = (numbers[:, None] == numbers) & ~torch.eye(6, dtype=torch.bool)
            logits = logits.masked_fill(same, -math.inf)
        partner = torch.arange(6)
        return (functional.cross_entropy(logits, partner) + functional.cross_entropy(logits.T, partner)) / 2

    made = []
    for loss in (lambda *given: info_nce(*given, numbers), plain):
        inputs = [each.clone().requires_grad_() for each in (x, y, log_scale)]
        value = loss(*inputs)
        (3 * value).backward()
        made.append([value.detach(), *(each.grad for each in inputs)])
    for ours, theirs in zip(*made, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_info_nce_of_rows_without_gradient_trains_the_scale_alone():
    x = functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    log_scale = torch.tensor(0.5, requires_grad=True)
    info_nce(x, x, log_scale).backward()
    assert log_scale.grad is not None and torch.isfinite(log_scale.grad) and x.grad is None
