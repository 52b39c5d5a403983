"""The terms of the loss: closed forms, gradients that reach the source, and small trainings that go down."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_config import TARGETS, flow
from torch import Tensor
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.guidance import NoGuidance
from crossflow.losses import KL, Contrast, ImageReconstruction, TextContrast, TextReconstruction
from crossflow.modalities.pixels import ImageConfig
from crossflow.model.crossflow import CrossFlow
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.variational import VariationalConfig

SHAPE = (3, 4, 4)


def batch(count: int = 6, seed: int = 0) -> Batch:
    """Random texts and targets, with two captions each that it is not."""
    generator = torch.Generator().manual_seed(seed)
    text = Item(torch.randn(count, 4, 6, generator=generator), torch.ones(count, 4, dtype=torch.bool))
    others = Item(torch.randn(count, 2, 4, 6, generator=generator), torch.ones(count, 2, 4, dtype=torch.bool))
    target = Item(torch.randn(count, *SHAPE, generator=generator))
    return Batch({"text": text, "image": target, "negatives": others}, torch.arange(count))


def drawn(model: CrossFlow, count: int, seed: int = 0) -> losses.Draws:
    config, generator = model.config, torch.Generator().manual_seed(seed)
    return losses.draw(count, config.shape, config.guidance.null_rate, generator, config.target.drawn, config.times)


def built(seed: int = 0, **fields: Any) -> CrossFlow:
    torch.manual_seed(seed)
    return flow(**{"guidance": NoGuidance()} | fields).build()


# Hard negatives


def test_a_negative_that_is_the_own_source_costs_the_image_a_choice_of_two():
    """One item: the text has one image to choose; the image has its source twice, so log 2, of which half counts."""
    source, image = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    caption, scale = torch.zeros(1, dtype=torch.long), torch.tensor(7.0)
    assert losses.contrastive(source, image, scale, caption).item() == pytest.approx(0, abs=1e-6)
    found = losses.contrastive(source, image, scale, caption, source[:, None])
    assert found.item() == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_the_loss_with_negatives_is_its_definition():
    source, image, others = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE), torch.randn(3, 2, *SHAPE)
    caption, scale = torch.arange(3), torch.tensor(5.0)
    a, b, c = (F.normalize(x.flatten(-3), dim=-1) for x in (source, image, others))
    rows = [torch.cat([5 * a @ b[i], 5 * c[i] @ b[i]]) for i in range(3)]
    of_images = sum(F.cross_entropy(row[None], torch.tensor([i])) for i, row in enumerate(rows)) / 3
    of_texts = F.cross_entropy(5 * a @ b.T, caption)
    expected = 0.5 * (of_texts + of_images)
    assert torch.allclose(losses.contrastive(source, image, scale, caption, others), expected, atol=1e-6)


def test_negatives_are_read_and_move_the_encoder():
    term = Contrast(weight=1.0, hard_negatives=True)
    model, items = built(losses=(term,)), batch()
    assert model.config.beside == ("negatives",)
    draws = drawn(model, 6)
    with_them = model(items, draws)["contrastive"]
    far = Batch({**items, "negatives": Item(items["negatives"].values + 1, items["negatives"].mask)}, items.same)
    assert not torch.equal(with_them, model(far, draws)["contrastive"])
    model(items, draws, ("contrastive",))["total"].backward()
    assert all(part.grad is not None for part in model.encoder.parameters())


# Contrast with the text itself, and reconstructions


def test_a_contrast_with_the_text_is_clips_loss_of_its_own_encoder():
    model, items = built(losses=(TextContrast(weight=1.0, width=8, heads=1),)), batch()
    draws = drawn(model, 6)
    posterior = model.encoder(*items["text"])
    term: Any = model.terms["text_contrastive"]
    seen, _ = term.encoder.moments(*items["text"])
    expected = losses.contrastive(posterior.sample(draws.noise), seen, term.scaled.scale, items.same)
    assert torch.equal(model(items, draws)["text_contrastive"], expected.detach())


def test_padding_is_not_read_back():
    model, items = built(losses=(TextReconstruction(weight=1.0, width=8, heads=1),)), batch()
    mask = torch.tensor([[True, True, False, False]]).expand(6, -1)
    values = items["text"].values.clone()
    draws, term = drawn(model, 6), model.terms["reconstruction"]
    one = model(Batch({**items, "text": Item(values, mask)}, items.same), draws)
    back = term.decoder(model.source(values, mask, draws.noise))
    expected = (back - values)[:, :2].square().mean()
    assert torch.allclose(one["reconstruction"], expected, rtol=1e-5)


def image_model() -> tuple[CrossFlow, Batch]:
    reads = ImageConfig(shape=(3, 16, 16), name="photo")
    source = ImageEncoderConfig(width=16, depth=1, heads=1, patch=4)
    model = built(reads=reads, source=source, losses=(ImageReconstruction(weight=1.0, patch=4),))
    items = {"photo": Item(torch.rand(6, 3, 16, 16) * 2 - 1), "image": batch()["image"]}
    return model, Batch(items, torch.arange(6))


def test_an_image_is_read_back_from_its_source():
    model, items = image_model()
    draws = drawn(model, 6)
    term: Any = model.terms["reconstruction"]
    back = term.decoder(model.source(items["photo"].values, None, draws.noise))
    assert torch.equal(model(items, draws)["reconstruction"], (back - items["photo"].values).square().mean())


# The target of the network


@pytest.mark.parametrize("path", ["linear", "sincos"])
def test_a_target_means_the_velocity_of_its_path(path):
    """What the network would have to say of the true target is the true velocity, at any time but the last."""
    model = built(path=path, parameterisation="target", losses=())
    x0, x1, t = torch.randn(50, *SHAPE).double(), torch.randn(50, *SHAPE).double(), torch.rand(50).double() * 0.94
    xt, velocity = model.path.sample(x0, x1, t)
    assert torch.allclose(model.path.velocity_to(x1, xt, t), velocity, atol=1e-9)


def test_a_network_that_says_the_target_is_sampled_to_it():
    """Up to what the bound near t = 1 leaves: from 0.95 on the rest shrinks at the rate 20, by e over 0.05."""
    model = built(parameterisation="target", losses=())
    wanted, x0 = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    model.backbone.velocities = lambda x, t, conditional: (wanted.to(x),)
    left = (model.sample(x0, "euler", 4000, 1.0) - wanted).abs()
    assert torch.allclose(left, 0.05 / math.e * (x0 - wanted).abs(), rtol=0.02, atol=1e-4)


# Small trainings


ENCODER = VariationalConfig(width=8, depth=1, heads=1)
TRAININGS: dict[str, dict[str, Any]] = {
    "kl": {"losses": (KL(weight=1e-3),)},
    "contrast": {"losses": (Contrast(weight=1.0),)},
    "hard negatives": {"losses": (Contrast(weight=1.0, hard_negatives=True),)},
    "text contrast": {"losses": (TextContrast(weight=1.0, width=16, heads=1),)},
    "text reconstruction": {"losses": (TextReconstruction(weight=1.0, width=32, heads=1),)},
    "deterministic": {
        "source": DeterministicConfig(mean_of=VariationalConfig(width=8, depth=1, heads=1)),
        "losses": (),
    },
    "fixed noise": {
        "source": FixedNoiseConfig(mean_of=VariationalConfig(width=8, depth=1, heads=1), sd=0.5),
        "losses": (),
    },
    "target": {"parameterisation": "target", "losses": ()},
    "sin-cos, target": {"path": "sincos", "parameterisation": "target", "losses": ()},
}


def over_steps(model: CrossFlow, items: Batch, steps: int = 60) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of one batch with the same draws, before and after training on it."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    draws = drawn(model, items.count)
    first = model(items, draws)
    for _ in range(steps):
        optimizer.zero_grad()
        model(items, draws)["total"].backward()
        optimizer.step()
    return first, model(items, draws)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_small_training_goes_down(name):
    model = built(**TRAININGS[name])
    first, last = over_steps(model, batch())
    assert last["total"] < 0.8 * first["total"]
    for term in model.config.terms:
        assert name == "kl" or last[term.name] < 0.8 * first[term.name]


def test_a_small_training_reads_images_back():
    model, items = image_model()
    first, last = over_steps(model, items, 120)
    assert last["reconstruction"] < 0.8 * first["reconstruction"]


# What counts


def test_only_what_is_counted_is_computed():
    model, items = built(losses=(KL(weight=0.5), Contrast(weight=2.0))), batch()
    draws = drawn(model, 6)
    whole, parts = model(items, draws), model(items, draws, ("kl", "contrastive"))
    assert "flow" not in parts
    assert torch.allclose(parts["total"], 0.5 * whole["kl"] + 2.0 * whole["contrastive"])
    parts["total"].backward()
    assert all(part.grad is None for part in model.backbone.parameters())


def test_a_model_built_for_sampling_has_no_loss():
    model = flow(guidance=NoGuidance()).build(training=False)
    with pytest.raises(CrossFlowError, match="built for sampling"):
        model(batch(), drawn(model, 6))


def test_texts_without_a_mask_are_refused():
    model, items = built(losses=(TextContrast(weight=1.0, width=8, heads=1),)), batch()
    without = Batch({**items, "text": Item(items["text"].values)}, items.same)
    with pytest.raises(CrossFlowError, match="no mask"):
        model.terms["text_contrastive"](_step(model, items, without))


def _step(model: CrossFlow, items: Batch, shown: Batch) -> Any:
    from crossflow.losses.term import Step

    draws, posterior = drawn(model, 6), model.encoder(*items["text"])
    own = items["image"].values
    return Step(shown, shown["text"], posterior, posterior.sample(draws.noise), own, draws.noise, model.encoder)


def test_a_learned_target_is_contrasted_with_its_own_latents():
    target = replace(TARGETS[3], width=16)
    reads = ImageConfig(shape=(3, 16, 16), name="photo")
    source = ImageEncoderConfig(width=16, depth=1, heads=1, patch=4)
    model = built(reads=reads, source=source, target=target, losses=(Contrast(weight=0.1),))
    words = torch.randint(0, 3, (6, 3))
    items = Batch({"photo": Item(torch.rand(6, 3, 16, 16)), "text": Item(words)}, torch.arange(6))
    draws = drawn(model, 6)
    found = model(items, draws)
    x0 = model.source(items["photo"].values, None, draws.noise)
    latents = model.autoencoder.reach(words, draws.target_noise).latents
    tower: Any = model.terms["contrastive"].tower
    assert torch.allclose(found["contrastive"], losses.contrastive(x0, tower(latents), tower.scale, items.same))
