"""The baseline on DiMR: cross-attention to the text after every self-attention, and nothing else of the text."""

from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.guidance import Indicator
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.authors_models import stages
from crossflow.model.standard import StandardConfig
from crossflow.networks.dimr import AttendingDiMR, DiMRConfig, Stage
from crossflow.networks.dit import DiTConfig
from crossflow.sampling.text_to_image import dtype_named

SHAPE = (4, 4, 4)
NETWORK = DiMRConfig(
    stages=(
        Stage(block="transformer", width=16, hidden=32, depth=3, patch=2, heads=2),
        Stage(block="convnext", width=8, hidden=16, depth=1, patch=1, kernel=3),
    )
)
X = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.1, 0.5, 0.9])
TEXT = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
YES, NO = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
MASK = torch.tensor([[True] * 3 + [False] * 2] * 3)


@pytest.fixture
def network() -> AttendingDiMR:
    torch.manual_seed(0)
    return NETWORK.attending(SHAPE, 6, None)


def test_what_is_conditional_sees_its_text(network):
    assert not torch.allclose(network(X, T, YES, TEXT, MASK), network(X, T, YES, TEXT.flip(0), MASK), atol=1e-6)


def test_what_is_not_conditional_does_not(network):
    assert torch.equal(network(X, T, NO, TEXT, MASK), network(X, T, NO, TEXT.flip(0), MASK))


def test_padding_is_never_attended_to(network):
    other = TEXT.clone()
    other[:, 3:] = 100.0
    assert torch.equal(network(X, T, YES, TEXT, MASK), network(X, T, YES, other, MASK))


def test_every_weight_is_trained_and_every_resolution_given(network):
    some = torch.tensor([True, False, True])
    found = network.velocities(X, T, some, TEXT, MASK)
    assert [each.shape[-1] for each in found] == [2, 4]
    sum(each.square().sum() for each in found).backward()
    assert [name for name, part in network.named_parameters() if part.grad is None] == []


def test_an_item_is_its_own_whatever_stands_beside_it(network):
    whole = network(X, T, YES, TEXT, MASK)
    assert torch.allclose(whole[1:2], network(X[1:2], T[1:2], YES[:1], TEXT[1:2], MASK[1:2]), atol=1e-5)


def test_the_baseline_trains_on_it():
    torch.manual_seed(0)
    config = StandardConfig(
        shape=SHAPE,
        reads=TokensConfig(count=5, width=6),
        target=KLConfig(),
        backbone=NETWORK,
        guidance=Indicator(null_rate=0.2),
        stage_weights=(0.25, 1.0),
    )
    model = config.build()
    batch = Batch({"text": Item(TEXT, MASK), "image": Item(X)}, torch.arange(3))
    draws = losses.draw(3, SHAPE, 0.2, torch.Generator().manual_seed(0), sampled_targets=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = model(batch, draws)["total"].item()
    for _ in range(60):
        optimizer.zero_grad()
        total = model(batch, draws)["total"]
        total.backward()
        optimizer.step()
    assert total.item() < 0.5 * first
    assert dtype_named("float32", model, torch.device("cpu")) == torch.float32


def test_what_has_no_such_form_says_so():
    with pytest.raises(CrossFlowError, match="attends to the tokens of texts alone"):
        NETWORK.attending(SHAPE, 6, (3, 8, 8))
    with pytest.raises(CrossFlowError, match="no form with a condition in channels"):
        NETWORK.beside(SHAPE, 3)
    dit = DiTConfig(width=16, depth=1, heads=2, patch=1)
    with pytest.raises(CrossFlowError, match="no form for the baseline"):
        dit.attending(SHAPE, 6, None)
    with pytest.raises(CrossFlowError, match="no form for the baseline"):
        dit.beside(SHAPE, 3)


def test_fewer_layers_make_up_for_the_cross_attention():
    """The paper adjusts the number of layers too, and is left with 1.04 B parameters beside 0.95 B."""
    whole = stages(1024, 65, 2)
    fewer = DiMRConfig(stages=(replace(whole.stages[0], depth=49), *whole.stages[1:]))
    with torch.device("meta"):
        plain = whole.build((4, 32, 32))
        attending, level = (each.attending((4, 32, 32), 768, None) for each in (whole, fewer))

    def millions(network: torch.nn.Module) -> float:
        return sum(part.numel() for part in network.parameters()) / 1e6

    assert millions(plain) == pytest.approx(951, abs=1)
    assert millions(attending) / millions(plain) == pytest.approx(1.25, abs=0.1)
    assert millions(level) / millions(plain) == pytest.approx(1.0, abs=0.05)
