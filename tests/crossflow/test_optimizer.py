"""The optimiser decays what it should, leaves alone what is frozen, and goes on from its state to the bit."""

import pytest
import torch
from torch import nn

from crossflow.networks.dimr import DiMR
from crossflow.networks.dit import DiT
from crossflow.recipes import CONFIGS
from crossflow.training.optimizer import Optimizer

TINY = CONFIGS["t2i-tiny"]


@pytest.fixture
def model() -> DiMR:
    torch.manual_seed(0)
    return DiMR(TINY.model.backbone, TINY.model.shape)


def gradients(model: nn.Module, scale: float, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for part in model.parameters():
        part.grad = scale * torch.randn(part.shape, generator=generator) if part.requires_grad else None


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_what_is_named_so_takes_no_decay(model, kind):
    """Without gradients a step is the decay alone: a factor of 1 - rate * decay."""
    optimizer = Optimizer(kind, model, (0.9, 0.9), weight_decay=0.5)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.1)
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    gradients(model, 0.0)
    optimizer.step(0.1)
    kept = {name for name, part in model.named_parameters() if torch.equal(part, before[name])}
    assert kept == {name for name in before if name.endswith(("nodecay_weight", "nodecay_bias"))}
    for name in before.keys() - kept:
        assert torch.allclose(model.get_parameter(name), before[name] * (1 - 0.1 * 0.5), rtol=1e-6), name


def test_it_is_torchs_adamw(model):
    other = DiMR(TINY.model.backbone, TINY.model.shape)
    other.load_state_dict(model.state_dict())
    free = [part for name, part in other.named_parameters() if "nodecay" in name]
    rest = [part for name, part in other.named_parameters() if "nodecay" not in name]
    groups = [{"params": rest}, {"params": free, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.8), weight_decay=0.2)
    ours = Optimizer("adamw", model, (0.9, 0.8), 0.2)
    for step in range(3):
        gradients(model, 1.0, step)
        gradients(other, 1.0, step)
        ours.step(0.01)
        theirs.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-7)


def test_frozen_positions_have_no_part_in_it():
    config = CONFIGS["t2i-512px-t5-dit"].model
    with torch.device("meta"):
        model = DiT(config.backbone, config.shape)
    optimizer = Optimizer("adamw", model, (0.9, 0.9), 0.03)
    assert {name for name, _ in model.named_parameters()} - set(optimizer.names.values()) == {"pos_embed"}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_goes_on_from_its_state_to_the_bit(model, kind):
    other = DiMR(TINY.model.backbone, TINY.model.shape)
    first, second = (Optimizer(kind, each, (0.9, 0.9), 0.03) for each in (model, other))
    gradients(model, 1.0)
    first.step(0.01)
    other.load_state_dict(model.state_dict())
    state = {name: part.clone() for name, part in first.state().items()}
    blank = second.blank_state()
    assert {name: (part.shape, part.dtype) for name, part in state.items()} == {
        name: (part.shape, part.dtype) for name, part in blank.items()
    }
    second.load_state(state)
    for each, optimizer in ((model, first), (other, second)):
        gradients(each, 1.0, seed=1)
        optimizer.step(0.01)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_muon_takes_the_matrices_inside_blocks(model):
    _, muon = Optimizer("muon", model, (0.9, 0.9), 0.03).parts
    names = {part: name for name, part in model.named_parameters()}
    found = {names[part] for part in muon.param_groups[0]["params"]}
    assert found == {name for name, part in model.named_parameters() if ".blocks." in name and part.ndim == 2}
    assert found
