from typing import get_args

import pytest
import torch

from featcache.trainer.adapters import ADAPTERS, Adapter, build_adapters
from featcache.trainer.config import FitConfig


def test_the_settings_offer_exactly_the_adapters_of_the_table():
    assert set(get_args(FitConfig.model_fields["adapter"].annotation)) == set(ADAPTERS)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(("d", "width"), [(3, 2), (16, 8), (5, 32)])
def test_every_adapter_maps_to_the_joint_width_and_depends_on_its_seed_alone(kind, d, width):
    rows = torch.randn(7, d)
    before = torch.get_rng_state()
    twins = [build_adapters(kind, rows, rows, width=width, log_scale=0.0, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before)
    outputs = [twin.embed("x", rows) for twin in twins]
    assert outputs[0].shape == (7, width)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[0].norm(dim=1), torch.ones(7))


def test_features_are_standardised_by_the_stored_statistics():
    rows = torch.randn(50, 4) * torch.tensor([1.0, 0.1, 50.0, 1.0]) + torch.tensor([0.0, 10.0, -7.0, 0.0])
    rows[:, 3] = 0.1  # constant, and no float64 mean of it is exact: nothing to divide by
    pair = build_adapters("linear", rows, rows, width=4, log_scale=0.0, seed=0)
    with torch.no_grad():
        pair.x.net.weight.copy_(torch.eye(4))
        pair.x.net.bias.zero_()
        standard = pair.x(rows)
    std, mean = torch.std_mean(standard, dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(std[:3], torch.ones(3), atol=1e-4, rtol=0)
    assert standard[:, 3].abs().max() < 1e-6


def test_the_bottleneck_keeps_its_input_beside_the_narrow_path():
    adapter = Adapter("bottleneck", torch.zeros(8), torch.ones(8), 3, torch.Generator().manual_seed(0))
    residual, last = adapter.net[0], adapter.net[1]
    assert residual.inner[0].weight.shape == (2, 8)
    rows = torch.randn(4, 8)
    with torch.no_grad():
        residual.inner[2].weight.zero_()
        residual.inner[2].bias.zero_()
        torch.testing.assert_close(adapter(rows), last(rows))


def test_the_initial_weights_have_pytorchs_default_range():
    adapter = Adapter("linear", torch.zeros(100), torch.ones(100), 200, torch.Generator().manual_seed(0))
    weight = adapter.net.weight
    assert weight.abs().max() <= 0.1 and weight.abs().max() > 0.0999
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
