"""How time enters the loss and the blocks: the weight of a path's tail, and modulation."""

from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.files.progress import silent
from crossflow.flow.losses import draw, tail_weights
from crossflow.flow.path import LinearPath
from crossflow.model.crossflow import FlowConfig
from crossflow.model.standard import StandardConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data import open_data

SHAPE = (3, 2, 2)
PLAIN = TransformerConfig(width=8, depth=2, heads=2)
MODULATED = replace(PLAIN, modulated=True)
TINY = CONFIGS["scenes-tiny"]


def test_in_the_tail_the_errors_of_a_target_weigh_alike() -> None:
    t = torch.tensor([0.1, 0.6, 0.7, 0.9])
    left = LinearPath(sigma_min=0.0).left(t)
    weights = tail_weights(left, 0.4)
    torch.testing.assert_close(weights[:2], torch.ones(2))
    of_targets = weights / left.square()
    torch.testing.assert_close(of_targets[1:], torch.full((3,), 1 / 0.4**2))


@pytest.mark.parametrize("name", ["smoke-crossflow", "smoke-standard"])
def test_the_tail_lowers_the_loss_of_late_times_alone(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = CONFIGS[name]
    early, late = (_loss(recipe, time, 0.0, tmp_path_factory) for time in (0.2, 0.9))
    assert _loss(recipe, 0.2, 0.5, tmp_path_factory) == early
    assert _loss(recipe, 0.9, 0.5, tmp_path_factory) == pytest.approx(late * (0.1 / 0.5) ** 2, rel=1e-3)


def _loss(recipe: TrainConfig, time: float, tail: float, folders: pytest.TempPathFactory) -> float:
    """The flow loss of one batch whose times are all ``time``."""
    recipe = replace(recipe, model=replace(recipe.model, tail=tail), data=replace(recipe.data, count=16))
    assert isinstance(recipe.model, FlowConfig | StandardConfig)
    torch.manual_seed(0)
    model = recipe.model.build()
    pairs = open_data(recipe, None, 0).pairs(model, folders.mktemp("cache"), silent)
    draws = draw(4, recipe.model.shape, 0.0, torch.Generator().manual_seed(0))._replace(t=torch.full((4,), time))
    batch = pairs.load(pairs.pick(0, 4, torch.Generator().manual_seed(0)), draws, 0, 4)
    return float(model(batch, draws)["flow"])


@pytest.mark.parametrize("tail", [-0.1, 1.0])
def test_a_tail_longer_than_the_path_is_refused(tail: float) -> None:
    with pytest.raises(CrossFlowError, match="it is a part of the path, from 0 to less than 1"):
        replace(TINY.model, tail=tail)


def test_modulation_starts_as_the_identity_and_learns_of_time() -> None:
    torch.manual_seed(0)
    plain = PLAIN.build(SHAPE)
    network = MODULATED.build(SHAPE)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == {"modulation.shared.weight", "modulation.shared.bias", "modulation.own"}
    torch.nn.init.normal_(plain.patches.out.weight)
    with torch.no_grad():
        network.patches.out.weight.copy_(plain.patches.out.weight)
    x, t, conditional = torch.randn(4, *SHAPE), torch.rand(4), torch.tensor([True, False, True, False])
    torch.testing.assert_close(network(x, t, conditional), plain(x, t, conditional))
    network(x, t, conditional).square().sum().backward()
    assert network.modulation is not None
    assert network.modulation.shared.weight.grad is not None
    assert network.modulation.shared.weight.grad.abs().sum() > 0


def test_the_baseline_is_modulated_too() -> None:
    network = MODULATED.attending(SHAPE, 6, None)
    assert {name for name, _ in network.named_parameters() if "modulation" in name} == {
        "modulation.shared.weight",
        "modulation.shared.bias",
        "modulation.own",
    }
    tokens, mask = torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
    found = network(torch.randn(2, *SHAPE), torch.rand(2), torch.tensor([True, False]), tokens, mask)
    assert found.shape == (2, *SHAPE)


def test_what_is_attended_to_modulates_where_it_is_pooled() -> None:
    torch.manual_seed(0)
    network = replace(MODULATED, pooled=True).attending(SHAPE, 6, None)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    for block in network.blocks:
        block.cross.out.weight.data.zero_()
    x, t, tokens = torch.randn(1, *SHAPE).repeat(3, 1, 1, 1), torch.full((3,), 0.5), torch.randn(3, 2, 6)
    mask = torch.ones(3, 2, dtype=torch.bool)
    conditional = torch.tensor([True, False, False])
    first, second, third = network(x, t, conditional, tokens, mask)
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, third)
    alone = network(x[:1], t[:1], conditional[:1], tokens[:1, :1], mask[:1, :1])
    padded = network(x[:1], t[:1], conditional[:1], tokens[:1], torch.tensor([[True, False]]))
    torch.testing.assert_close(alone, padded)


def test_pooling_without_modulation_is_refused() -> None:
    with pytest.raises(CrossFlowError, match="let modulated be true, or pooled false"):
        replace(PLAIN, pooled=True)
