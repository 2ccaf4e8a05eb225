"""Adapters standardise by training rows, have the joint width, depend on their seed alone; identity changes nothing."""

from typing import get_args

import pytest
import torch
from torch.nn import functional

from featcache.errors import UsageError
from featcache.trainer.adapters import Adapter, build_adapters, module_key
from featcache.trainer.architectures import ADAPTERS
from featcache.trainer.config import AdapterKind

LEARNT = [kind for kind in ADAPTERS if kind != "identity"]


def build(kind, rows, *, width, seed=0):
    return build_adapters(dict.fromkeys(rows, kind), rows, width=width, log_scale=0.0, seed=seed)


def test_the_settings_offer_exactly_the_adapters_of_the_table():
    assert set(get_args(AdapterKind)) == set(ADAPTERS)


@pytest.mark.parametrize("kind", LEARNT)
@pytest.mark.parametrize(("d", "width"), [(3, 2), (16, 8), (5, 32)])
def test_every_adapter_maps_to_the_joint_width_and_depends_on_its_seed_alone(kind, d, width):
    rows = torch.randn(7, d)
    before = torch.get_rng_state()
    twins = [build(kind, {"x": rows, "y": rows}, width=width, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before)
    outputs = [twin.embed("x", rows) for twin in twins]
    assert outputs[0].shape == (7, width) and twins[0].width == width
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], twins[0].embed("y", rows))
    torch.testing.assert_close(outputs[0].norm(dim=1), torch.ones(7))


def test_features_are_standardised_by_the_stored_statistics():
    rows = torch.randn(50, 4) * torch.tensor([1.0, 0.1, 50.0, 1.0]) + torch.tensor([0.0, 10.0, -7.0, 0.0])
    rows[:, 3] = 0.1  # constant, and no float64 mean of it is exact: nothing to divide by
    adapter = build("linear", {"x": rows, "y": rows}, width=4)["x"]
    with torch.no_grad():
        adapter.net.weight.copy_(torch.eye(4))
        adapter.net.bias.zero_()
        standard = adapter(rows)
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


def standard(rows):
    return (rows - rows.mean(dim=1, keepdim=True)) / (rows.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()


def test_the_normed_mlp_is_two_layers_with_a_norm_after_each():
    adapter = Adapter("normed-mlp", torch.zeros(6), torch.ones(6), 4, torch.Generator().manual_seed(0)).eval()
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    first, _, norm, _, second, last = adapter.net
    hidden = norm(torch.nn.functional.gelu(rows @ first.weight.T + first.bias))
    assert hidden.shape == (5, 1024)
    torch.testing.assert_close(adapter.net(rows), last(hidden @ second.weight.T + second.bias))


def test_the_fusemix_stack_is_four_residual_blocks_at_the_features_width():
    adapter = Adapter("fusemix", torch.zeros(6), torch.ones(6), 3, torch.Generator().manual_seed(0)).eval()
    weights = [layer for layer in adapter.modules() if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in weights] == [(24, 6), (6, 24)] * 4 + [(3, 6)]
    h = rows = torch.randn(5, 6)
    for widen, narrow in zip(weights[:-1:2], weights[1::2], strict=True):
        h = h + functional.gelu(standard(h) @ widen.weight.T + widen.bias) @ narrow.weight.T + narrow.bias
    wanted = standard(h) @ weights[-1].weight.T + weights[-1].bias
    with torch.no_grad():
        torch.testing.assert_close(adapter(rows), wanted, atol=1e-5, rtol=1e-5)


def test_fusemix_drops_six_tenths_in_training_alone_from_a_generator_of_its_own():
    first, second = (
        Adapter("fusemix", torch.zeros(50), torch.ones(50), 8, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    drop = next(layer for layer in first.modules() if type(layer).__name__ == "_Dropout")
    ones = torch.ones(400, 50)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    kept = drop.train()(ones)
    assert torch.equal(torch.get_rng_state(), state)
    assert (kept == 0).float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert kept.max().item() == pytest.approx(1 / 0.4) and torch.equal(drop.eval()(ones), ones)
    rows = torch.randn(5, 50)
    drop.train()(ones)  # the same masks follow from the same place in the stream
    other = next(layer for layer in second.modules() if type(layer).__name__ == "_Dropout")
    other.train()(ones), other(ones)
    assert torch.equal(first.train()(rows), second.train()(rows))


def test_the_gated_layer_is_sails():
    adapter = Adapter("gated", torch.zeros(6), torch.ones(6), 3, torch.Generator().manual_seed(0))
    net, rows = adapter.net, 4 * torch.randn(5, 6)
    assert net.gate.weight.shape == net.value.weight.shape == (48, 6)
    h = standard(rows)
    gate = (h @ net.gate.weight.T + net.gate.bias).clamp(0, 6)
    wanted = (gate * (h @ net.value.weight.T + net.value.bias)) @ net.out.weight.T + net.out.bias
    with torch.no_grad():
        torch.testing.assert_close(adapter(rows), wanted, atol=1e-5, rtol=1e-5)


def test_the_initial_weights_have_pytorchs_default_range():
    adapter = Adapter("linear", torch.zeros(100), torch.ones(100), 200, torch.Generator().manual_seed(0))
    weight = adapter.net.weight
    assert weight.abs().max() <= 0.1 and weight.abs().max() > 0.0999
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_a_frozen_side_is_its_standardised_rows_at_length_one_and_has_nothing_to_train():
    train, held = torch.randn(40, 6) * 3 + 5, torch.randn(9, 6)
    adapters = build("identity", {"x": train, "y": torch.randn(40, 6)}, width=6)
    wanted = (held.double() - train.double().mean(dim=0)) / train.double().std(dim=0, correction=0)
    torch.testing.assert_close(adapters.embed("x", held), functional.normalize(wanted).float(), atol=1e-5, rtol=1e-5)
    assert [name for name, _ in adapters.named_parameters()] == ["log_scale"]


def test_a_frozen_side_of_another_width_is_refused_with_the_width_to_take():
    with pytest.raises(UsageError, match=r"(?s)identity leaves 6 dimensions, .* has 4.*Use width 6"):
        build("identity", {"x": torch.randn(9, 6)}, width=4)


def test_every_side_has_its_own_adapter_and_width():
    rows = {"images": torch.randn(9, 5), "captions/minilm": torch.randn(9, 3), "names/last.mean": torch.randn(9, 8)}
    kinds = {"images": "linear", "captions/minilm": "mlp", "names/last.mean": "identity"}
    adapters = build_adapters(kinds, rows, width=8, log_scale=1.5, seed=0)
    assert {name: adapters[name].kind for name in rows} == kinds
    assert {name: len(adapters[name].mean) for name in rows} == {name: values.shape[1] for name, values in rows.items()}
    for name, values in rows.items():
        assert adapters.embed(name, values).shape == (9, 8)
    assert adapters.log_scale.item() == 1.5


def test_weights_are_kept_under_the_names_of_their_sides_and_load_into_equal_adapters():
    rows = {"a/last.mean": torch.randn(9, 5), "b": torch.randn(9, 3)}
    first, second = (build("linear", rows, width=4, seed=seed) for seed in (1, 2))
    assert set(first.state_dict()) == {"log_scale"} | {
        f"sides.{module_key(name)}.{part}" for name in rows for part in ("mean", "std", "net.weight", "net.bias")
    }
    second.load_state_dict(first.state_dict())
    for name, values in rows.items():
        assert torch.equal(first.embed(name, values), second.embed(name, values))


def test_the_first_sides_weights_do_not_depend_on_sides_behind_it():
    x, y = torch.randn(9, 5), torch.randn(9, 3)
    two, three = (build("mlp", rows, width=4) for rows in ({"x": x, "y": y}, {"x": x, "y": y, "z": torch.randn(9, 7)}))
    for name in ("x", "y"):
        assert all(torch.equal(a, b) for a, b in zip(two[name].parameters(), three[name].parameters(), strict=True))
