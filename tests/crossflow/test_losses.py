"""Every part of the training loss against the authors' program, on its reduced networks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from golden_files import golden_file
from safetensors.torch import load_file
from torch import Tensor, nn

from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.model.checkpoint import load_model
from crossflow.model.crossflow import CrossFlow


class GoldenTower(nn.Module):
    """Answers with the authors' image embedding; their scale multiplies as it is."""

    def __init__(self, golden: dict[str, Tensor]) -> None:
        super().__init__()
        self.answer = golden["loss.image_embedding"].reshape(-1, 4, 32, 32)
        self.scale = golden["loss.logit_scale"].squeeze()

    def forward(self, target: Tensor) -> Tensor:
        return self.answer


@pytest.fixture(scope="module", params=["dimr_small", "dit_small"])
def case(request) -> SimpleNamespace:
    """The authors' inputs and outputs, with the same inputs in our form. Their null items are rolled by one."""
    golden = load_file(golden_file(f"{request.param}.tensors.safetensors"))
    model = load_model(golden_file(f"{request.param}.weights.safetensors"))
    assert isinstance(model, CrossFlow)
    kl, contrast = model.config.losses
    terms = (kl, replace(contrast, tower="latents"))  # whose tower is given the target and no pixels
    model.config = replace(model.config, losses=terms)
    shapes = model.config.reads.shape, model.config.shape
    model.terms = nn.ModuleDict({term.name: term.build(*shapes) for term in terms})
    model.terms["contrastive"].tower = GoldenTower(golden)
    null = golden["loss.unconditional"].bool().nonzero()[:, 0]
    assert len(null) > 1
    donor = torch.arange(6)
    donor[null] = null.roll(-1)
    text = Item(golden["loss.text"], golden["loss.mask"].bool())
    batch = Batch({"text": text, "image": Item(golden["loss.target"])}, torch.arange(6))
    noise = golden["loss.noise"].reshape(-1, 4, 32, 32)
    draws = Draws(noise, golden["loss.t"], ~golden["loss.unconditional"].bool(), donor)
    return SimpleNamespace(golden=golden, model=model, batch=batch, draws=draws)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Within 1e-5 of the largest value, in float32."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-5


@torch.no_grad()
def test_the_parts_of_every_item_are_the_authors(case):
    golden, model, batch, draws = case.golden, case.model, case.batch, case.draws
    text, target, tower = batch["text"], batch["image"].values, model.terms["contrastive"].tower
    assert torch.equal(target[draws.donor], golden["loss.target_after_roll"])
    posterior = model.encoder(text.values, text.mask)
    x0 = posterior.sample(draws.noise)
    xt, velocity = model.path.sample(x0, target[draws.donor], draws.t)
    predicted = model.backbone.velocities(xt, draws.t, draws.conditional)
    flow = losses.flow_matching(predicted, velocity, model.config.stage_weights)
    kl = losses.kl(posterior.mean, posterior.log_var, "official")
    contrast = losses.contrastive(x0, tower(target), tower.scale, batch.same)
    assert same(flow, golden["loss.flow"])
    assert same(kl, golden["loss.kl"])
    assert same(contrast, golden["loss.contrastive"].squeeze())
    assert same(flow + contrast + 1e-2 * kl, golden["loss.total"])


@torch.no_grad()
def test_the_loss_of_the_model_is_the_authors_and_leaves_its_batch_alone(case):
    """With the authors' weights of the parts; their program writes the rolled targets into the batch."""
    text, target = case.batch["text"], case.batch["image"]
    given = [text.values, text.mask, target.values, case.batch.same]
    before = [part.clone() for part in given]
    found = case.model(case.batch, case.draws)
    assert same(found["total"], case.golden["loss.total"].mean())
    assert same(found["flow"], case.golden["loss.flow"].mean())
    assert same(found["kl"], case.golden["loss.kl"].mean())
    assert same(found["contrastive"], case.golden["loss.contrastive"].squeeze())
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))
    assert case.batch["text"] is text
    assert case.batch["image"] is target
    assert case.batch.goal is None


def test_the_loss_where_a_target_is_known_is_the_mean_over_what_is_known():
    """At half the resolution a cell counts by its known share; where all is known it is the usual loss."""
    generator = torch.Generator().manual_seed(0)
    velocity = torch.randn(2, 1, 4, 4, generator=generator)
    predicted = [torch.randn(2, 1, side, side, generator=generator) for side in (2, 4)]
    measured = torch.rand(2, 1, 4, 4, generator=generator) < 0.4
    whole = torch.ones_like(measured)
    weights = (0.25, 1.0)
    assert torch.allclose(
        losses.flow_matching(predicted, velocity, weights, whole), losses.flow_matching(predicted, velocity, weights)
    )
    found = losses.flow_matching(predicted, velocity, weights, measured)
    for item in range(2):
        fine = (predicted[1] - velocity).square()[item][measured[item]].mean()
        total, share = 0.0, 0.0
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            window = (item, 0, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            known = measured[window].float().mean()
            total += known * (predicted[0][item, 0, row, column] - 2 * velocity[window].mean()) ** 2
            share += known
        assert torch.allclose(found[item], fine + 0.25 * total / share, rtol=1e-5)
