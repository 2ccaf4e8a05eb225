import math

import pytest
import torch

from featcache.trainer.losses import INITIAL_LOG_SCALE, MAXIMAL_LOG_SCALE, info_nce
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
    assert 1 / math.exp(INITIAL_LOG_SCALE) == pytest.approx(0.07)
    over = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    loss = info_nce(x, y, over)
    assert loss.item() == info_nce(x, y, torch.tensor(math.log(100.0), dtype=torch.float64)).item()
    loss.backward()
    assert over.grad is not None and over.grad.item() == 0


def test_rows_that_cannot_be_told_apart_cost_the_logarithm_of_the_batch():
    x = torch.ones(8, 3) / math.sqrt(3)
    assert info_nce(x, x, torch.tensor(2.0)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_our_adamw_takes_the_same_steps_as_pytorchs():
    start = [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(4)]
    ours = [weight.clone().requires_grad_() for weight in start]
    theirs = [weight.clone().requires_grad_() for weight in start]
    mine = AdamW(ours[:1], ours[1:], 0.3)
    reference = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "weight_decay": 0}]
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
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing():
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert max(rates) == pytest.approx(2.0) and rates.index(max(rates)) in (9, 10)
    assert rates[0] == pytest.approx(0.2) and 0 < rates[-1] < 0.001
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
