"""Activations computed again in the plain transformer, in all its forms: less memory, and not a bit otherwise."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from crossflow.networks.transformer import TransformerConfig

SHAPE = (2, 4, 4)
PLAIN = TransformerConfig(width=16, depth=6, heads=2, summaries=1)
MODULATED = replace(PLAIN, modulated=True)
T, FLAGS = torch.tensor([0.1, 0.6, 0.9]), torch.tensor([True, False, True])
FORMS = {
    "plain": lambda config: config.build(SHAPE),
    "beside": lambda config: config.beside(SHAPE, 2),
    "attending to tokens": lambda config: config.attending(SHAPE, 5, None),
    "attending to an image": lambda config: config.attending(SHAPE, 0, (3, 8, 8)),
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))


INPUTS = {
    "plain": (drawn(2, 4, 4), T, FLAGS),
    "beside": (drawn(4, 4, 4), T, FLAGS),
    "attending to tokens": (drawn(2, 4, 4), T, FLAGS, drawn(7, 5), torch.arange(7) < torch.tensor([[3], [7], [5]])),
    "attending to an image": (drawn(2, 4, 4), T, FLAGS, drawn(3, 8, 8), None),
}


def one_step(network: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[int, dict[str, Tensor]]:
    """How many numbers autograd holds until the backward pass, and the gradients."""
    held = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel()
        return tensor

    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(*inputs).square().mean()
    loss.backward()
    return held, {name: part.grad.clone() for name, part in network.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [PLAIN, MODULATED], ids=["", "modulated"])
def test_gradients_are_the_same_bits_of_fewer_activations(config, form):
    torch.manual_seed(0)
    network = FORMS[form](config)
    for part in network.parameters():
        nn.init.normal_(part, std=0.1)
    kept, expected = one_step(network, INPUTS[form])
    network.checkpointing = True
    held, found = one_step(network, INPUTS[form])
    assert found.keys() == expected.keys()
    assert all(torch.equal(grad, expected[name]) for name, grad in found.items())
    assert held < kept / 2
