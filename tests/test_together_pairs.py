"""Pairs of encoders trained at once equal pairs trained alone, and the contrastive loss does what it is for."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from featcache.trainer.ensembles.flat import Rates
from featcache.trainer.ensembles.pairs import (
    NETWORKS,
    PairEnsemble,
    PairFit,
    PairMember,
    PairObjective,
    PairRows,
    PairShape,
    fit_pairs,
    initial_pairs,
    stacked_info_nce,
)
from featcache.trainer.errors import EnsembleInvalid, TrainingDiverged
from featcache.trainer.optimizer import learning_rate
from featcache.trainer.seeds import stream_seed

SHAPE = PairShape((5, 7), 3, width=6, depth=2, features=4, joint_width=5)
MEMBERS = [PairMember(0.0, 0, 4), PairMember(0.7, 0, 4), PairMember(2.0, 3, 2)]
FIT = PairFit(40, Rates(0.01, 0.1, clip=0.5), batch=24, contrast_rows=10)


def rows(dtype: torch.dtype = torch.float32, n: int = 60) -> PairRows:
    """Noise of two modalities, and a label of both."""
    stream = torch.Generator().manual_seed(5)
    x1, x2 = (torch.randn(n, width, generator=stream, dtype=torch.float64).to(dtype) for width in SHAPE.inputs)
    return PairRows(x1, x2, ((x1[:, 0] > 0).long() + (x2[:, 0] > 0).long()))


def trained_alone(member: PairMember, data: PairRows, fit: PairFit, dtype: torch.dtype) -> torch.Tensor:
    """The parameters of one pair of modules after plain torch steps, in the order of NETWORKS."""
    modules = initial_pairs(SHAPE, [member], dtype).member(0)
    weights = [weight for name in NETWORKS for weight in modules[name].parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=fit.rates.weight_decay)
    stream, order, start = torch.Generator().manual_seed(stream_seed(member.seed, "draws")), torch.arange(0), 0
    for step in range(fit.steps):
        if start + fit.batch > len(order):
            order, start = torch.randperm(len(data.labels), generator=stream), 0
        at = order[start : start + fit.batch]
        start += fit.batch
        h1, h2 = modules["encoder1"](data.x1[at]), modules["encoder2"](data.x2[at])
        logits = modules["joint"](torch.cat([h1, h2], dim=1)), modules["alone1"](h1), modules["alone2"](h2)
        loss = sum(functional.cross_entropy(one, data.labels[at]) for one in logits) / 3
        u, v = (functional.normalize(h[: fit.contrast_rows, : member.aligned], dim=1) for h in (h1, h2))
        cosines = u @ v.T / fit.temperature
        right = torch.arange(len(cosines))
        contrast = (functional.cross_entropy(cosines, right) + functional.cross_entropy(cosines.T, right)) / 2
        (loss + member.contrast * contrast).backward()
        torch.nn.utils.clip_grad_norm_(weights, fit.rates.clip)
        optimizer.param_groups[0]["lr"] = fit.rates.learning_rate * learning_rate(step, fit.steps, 1.0, 0.0)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [(torch.float32, 1, 1e-6), (torch.float64, 40, 1e-9)])
def test_pairs_trained_at_once_equal_modules_trained_alone(dtype: torch.dtype, steps: int, tolerance: float) -> None:
    data, fit = rows(dtype), replace(FIT, steps=steps)
    ensemble = initial_pairs(SHAPE, MEMBERS, dtype)
    before = ensemble.flat.values.clone()
    fit_pairs(ensemble, MEMBERS, data, fit)
    for number, member in enumerate(MEMBERS):
        alone = trained_alone(member, data, fit, dtype)
        torch.testing.assert_close(ensemble.flat.values[number], alone, rtol=0, atol=tolerance)
        assert (alone - before[number]).abs().max() > 1e-3


def test_lambda_0_equals_no_contrastive_term_bit_for_bit() -> None:
    without = [PairMember(0.0, 1, 4), PairMember(0.0, 2, 4)]
    beside = [without[0], PairMember(5.0, 2, 4)]
    ensembles = [initial_pairs(SHAPE, members) for members in (without, beside)]
    for ensemble, members in zip(ensembles, (without, beside), strict=True):
        fit_pairs(ensemble, members, rows(), FIT)
    task, contrast = PairObjective(without, FIT, ensembles[0])(rows(), torch.arange(24).expand(2, -1))
    assert contrast is None and len(task) == 2
    assert torch.equal(ensembles[0].flat.values[0], ensembles[1].flat.values[0])
    assert not torch.equal(ensembles[0].flat.values[1], ensembles[1].flat.values[1])


def test_pairs_of_one_seed_start_and_are_fed_alike_and_others_do_not() -> None:
    members = [PairMember(1.0, 4, 4), PairMember(1.0, 4, 4), PairMember(1.0, 5, 4)]
    ensemble = initial_pairs(SHAPE, members)
    fit_pairs(ensemble, members, rows(), replace(FIT, steps=3))
    assert torch.equal(ensemble.flat.values[0], ensemble.flat.values[1])
    assert not torch.equal(ensemble.flat.values[0], ensemble.flat.values[2])


def test_private_features_get_no_gradient_from_the_contrastive_loss() -> None:
    members = [PairMember(1.0, 0, 4), PairMember(1.0, 0, 1)]
    ensemble = initial_pairs(SHAPE, members)
    objective = PairObjective(members, FIT, ensemble)
    contrast = objective(rows(), torch.arange(24).expand(2, -1))[1]
    assert contrast is not None
    contrast.sum().backward()
    weight, bias = ensemble.networks["encoder1"][-1]
    assert weight.grad is not None and bias.grad is not None
    assert (weight.grad[0].abs().sum(dim=1) > 0).all()
    assert not weight.grad[1, 1:].any() and not bias.grad[1, 1:].any()


def test_info_nce_equals_cross_entropy_of_cosines_and_is_ln_n_where_nothing_is_told_apart() -> None:
    h1, h2 = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, u, v in zip(stacked_info_nce(h1, h2, 0.3), h1, h2, strict=True):
        cosines = functional.cosine_similarity(u[:, :, None], v[:, None, :], dim=0) / 0.3
        right = torch.arange(6)
        slow = (functional.cross_entropy(cosines, right) + functional.cross_entropy(cosines.T, right)) / 2
        torch.testing.assert_close(one, slow)
    assert stacked_info_nce(torch.ones(1, 4, 6), torch.ones(1, 4, 6), 0.1).item() == pytest.approx(math.log(6))


def test_the_contrastive_loss_falls_with_its_weight() -> None:
    members = [PairMember(weight, 0, 4) for weight in (0.0, 0.3, 3.0)]
    stream = torch.Generator().manual_seed(1)
    shown = torch.randn(200, 5, generator=stream)
    data = PairRows(shown, torch.cat([shown, torch.randn(200, 2, generator=stream)], dim=1), (shown[:, 0] > 0).long())
    ensemble = initial_pairs(SHAPE, members)
    fit = PairFit(150, Rates(0.01), batch=64, contrast_rows=32)
    fit_pairs(ensemble, members, data, fit)
    contrast = PairObjective(members, fit, ensemble)(data, torch.arange(64).expand(3, -1))[1]
    assert contrast is not None
    none, little, much = contrast.tolist()
    assert much < little < none - 0.5


def test_what_does_not_belong_together_is_refused() -> None:
    ensemble = initial_pairs(SHAPE, MEMBERS)
    with pytest.raises(EnsembleInvalid, match="2 members for 3 pairs"):
        fit_pairs(ensemble, MEMBERS[:2], rows(), FIT)
    with pytest.raises(EnsembleInvalid, match="20 rows for batches of 24"):
        fit_pairs(ensemble, MEMBERS, rows(n=20), FIT)
    with pytest.raises(EnsembleInvalid, match="1 to 4 aligned features"):
        initial_pairs(SHAPE, [PairMember(1.0, 0, 5)])
    with pytest.raises(EnsembleInvalid, match="every size 1 or more"):
        PairShape((5, 7), 3, depth=0)
    for wrong in ({"steps": 0}, {"contrast_rows": 30}, {"temperature": 0.0}):
        with pytest.raises(EnsembleInvalid):
            replace(FIT, **wrong)


def test_a_pair_that_diverges_is_named() -> None:
    ensemble = PairEnsemble(SHAPE, 2)
    ensemble.flat.values[1] = math.nan
    with pytest.raises(TrainingDiverged, match="pair 1"):
        fit_pairs(ensemble, MEMBERS[:2], rows(), replace(FIT, steps=1))
