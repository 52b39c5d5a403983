"""The released models against a second reading of the same facts (``plain_released``), in shapes no golden file has."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import plain_released as plain
import pytest
import torch
from golden_files import golden_file
from released_files import Shapes, dimr_shapes, dit_shapes, numbers, text_shapes
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.losses import KL
from crossflow.model.checkpoint import convert, load_checkpoint
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import Sampling
from crossflow.sampling.sampler import Sampler


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found.reshape(expected.shape) - expected).abs().max() / expected.abs().max())


@dataclass(frozen=True)
class Case:
    """A released file of some shape. ``said`` is whether its heads have to be said, because its width is new."""

    shapes: Shapes
    latent: tuple[int, int, int]
    tokens: tuple[int, int]
    heads: int
    said: bool = True
    weights: tuple[float, ...] = (1.0,)


CASES = {
    "three stages, an Adaptor, compressed T5 tokens": Case(
        dimr_shapes(4, 16, [(32, 48, 5, 4, 0), (20, 28, 3, 2, 7), (12, 20, 3, 1, 3)])
        | text_shapes(4 * 256, 77, 64, 40, depth=2, reductions=3, compress=96, adapt=16),
        (4, 16, 16),
        (77, 96),
        heads=4,
        weights=(0.25, 0.5, 1.0),
    ),
    "two stages, six heads, a kernel of 5, one reduction": Case(
        dimr_shapes(4, 8, [(36, 44, 3, 2, 0), (10, 14, 5, 1, 5)])
        | text_shapes(4 * 64, 77, 24, 30, depth=3, reductions=1),
        (4, 8, 8),
        (77, 24),
        heads=6,
        weights=(0.25, 1.0),
    ),
    "four stages, two of them transformers, one four times as fine": Case(
        dimr_shapes(3, 16, [(24, 20, 1, 16, 0), (16, 12, 3, 4, 0), (8, 12, 1, 2, 3), (6, 9, 1, 1, 3)])
        | text_shapes(3 * 256, 5, 16, 24, depth=1, reductions=1),
        (3, 16, 16),
        (5, 16),
        heads=4,
        weights=(0.125, 0.25, 0.5, 1.0),
    ),
    "one stage, no reduction": Case(
        dimr_shapes(4, 8, [(320, 24, 1, 1, 0)]) | text_shapes(4 * 64, 7, 16, 24, depth=1, reductions=0),
        (4, 8, 8),
        (7, 16),
        heads=5,
    ),
    "DiT, patches of 4, an Adaptor, compressed T5 tokens": Case(
        dit_shapes(4, 16, 72, depth=2, patch=4)
        | text_shapes(4 * 256, 77, 64, 40, depth=1, reductions=3, compress=96, adapt=16),
        (4, 16, 16),
        (77, 96),
        heads=3,
    ),
    "DiT, patches of 1, a width of the authors": Case(
        dit_shapes(5, 4, 384, depth=1, patch=1) | text_shapes(5 * 16, 9, 32, 24, depth=2, reductions=2),
        (5, 4, 4),
        (9, 32),
        heads=6,
        said=False,
    ),
}


@pytest.mark.parametrize("name", ["dimr_small", "dit_small"])
def test_the_plain_models_are_the_authors(name):
    """The golden numbers are in single precision, so within 1e-6."""
    weights = {key: part.double() for key, part in load_file(golden_file(f"{name}.weights.safetensors")).items()}
    golden = {key: part.double() for key, part in load_file(golden_file(f"{name}.tensors.safetensors")).items()}
    null = {key: part.bool() for key, part in golden.items() if key.endswith("unconditional")}
    forward = partial(plain.dimr if name == "dimr_small" else plain.dit, weights, heads=4)

    mean, log_var = plain.text_encoder(weights, golden["ve.text"], golden["ve.mask"])
    assert error(mean, golden["ve.mean"]) < 1e-6
    assert error(log_var, golden["ve.log_var"]) < 1e-6

    velocities = forward(golden["velocity.x"], golden["velocity.t"], null["velocity.unconditional"])
    for i, velocity in enumerate(velocities):
        assert error(velocity, golden[f"velocity.out{i}"]) < 1e-6
    drawn = plain.official_euler(forward, golden["sample.z0"][:1], 10, 7.0)
    assert error(drawn, golden["sample.final"][:1]) < 1e-6

    mean, log_var = plain.text_encoder(weights, golden["loss.text"], golden["loss.mask"])
    x1 = plain.rolled(golden["loss.target"], null["loss.unconditional"])
    x0 = (mean + (log_var / 2).exp() * golden["loss.noise"]).view_as(x1)
    assert torch.equal(x1, golden["loss.target_after_roll"])
    velocities = forward(plain.on_path(x0, x1, golden["loss.t"]), golden["loss.t"], null["loss.unconditional"])
    flow = plain.flow_loss(velocities, x0, x1, [0.25, 1.0][-len(velocities) :])
    kl = plain.official_kl(mean, log_var)
    contrast = plain.contrastive_loss(x0.flatten(1), golden["loss.image_embedding"], golden["loss.logit_scale"])
    for found, key in ((flow, "flow"), (kl, "kl"), (contrast, "contrastive"), (flow + contrast + 1e-2 * kl, "total")):
        assert error(found, golden[f"loss.{key}"]) < 1e-6


@dataclass(frozen=True)
class Pair:
    """A file's weights and what was loaded from it, with inputs; all in float64, or all in float32."""

    case: Case
    weights: dict[str, Tensor]
    model: CrossFlow
    tokens: Tensor
    mask: Tensor
    noise: Tensor
    target: Tensor
    t: Tensor
    null: Tensor

    def velocities(self, x: Tensor, t: Tensor, null: Tensor) -> list[Tensor]:
        forward = plain.dit if "pos_embed" in self.weights else plain.dimr
        return forward(self.weights, x, t, null, self.case.heads)

    def source(self) -> Tensor:
        mean, log_var = plain.text_encoder(self.weights, self.tokens, self.mask)
        return mean.view_as(self.noise) + (log_var / 2).exp().view_as(self.noise) * self.noise


@pytest.fixture(scope="module", params=CASES)
def pair_of(request, tmp_path_factory) -> Callable[[torch.dtype], Pair]:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("released")
    weights = numbers(case.shapes, seed=sum(map(ord, request.param)))
    path = folder / "released.safetensors"
    save_file(weights, path)
    if case.said:
        convert(path, folder / "ours.safetensors", heads=case.heads)
        path = folder / "ours.safetensors"
    b, (n, d) = 4, case.tokens
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(b, n, generator=generator) < 0.7  # pads anywhere, not at the end alone
    mask[:, 0] = True
    noise, target = torch.randn(2, b, *case.latent, generator=generator, dtype=torch.float64)
    tokens = 2 * torch.randn(b, n, d, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 0.3, 0.9], dtype=torch.float64)
    null = torch.tensor([True, False, True, True])

    @cache
    def of(dtype: torch.dtype) -> Pair:
        converted = {name: part.to(dtype) for name, part in weights.items()}
        model = load_checkpoint(path).to(dtype)
        inputs = (part.to(dtype) for part in (noise, target, t))
        return Pair(case, converted, model, tokens.to(dtype), mask, *inputs, null)

    return of


def test_shapes_tell_all_but_heads(pair_of):
    pair = pair_of(torch.float64)
    config = pair.model.config
    assert (config.shape, config.reads.shape) == (pair.case.latent, pair.case.tokens)
    assert config.stage_weights == pair.case.weights


@pytest.fixture(params=[torch.float64, torch.float32], ids=["double", "single"])
def pairs(pair_of, request, monkeypatch) -> tuple[Pair, Pair, float]:
    """The loaded model in double or single precision, the plain one in double, and how near they must be.

    Ours takes x / sqrt(mean(x^2) + 1e-16) for x / (rms + 1e-8), which is 1e-8 more. To compare the rest in double
    precision, so does the plain one; in single precision that one keeps the authors' form.
    """
    if request.param == torch.float32:
        return pair_of(torch.float32), pair_of(torch.float64), 1e-5
    monkeypatch.setattr(plain, "root_mean_square", lambda x: (x.square().mean(-1, keepdim=True) + 1e-16).sqrt())
    return pair_of(torch.float64), pair_of(torch.float64), 1e-10


def test_the_encoder(pairs):
    ours, exact, tolerance = pairs
    with torch.no_grad():
        found = ours.model.encoder(ours.tokens, ours.mask)
    for one, other in zip(found, plain.text_encoder(exact.weights, exact.tokens, exact.mask), strict=True):
        assert error(one, other) < tolerance


def test_the_velocity_of_every_stage(pairs):
    ours, exact, tolerance = pairs
    with torch.no_grad():
        found = ours.model.backbone.velocities(ours.noise, ours.t, ~ours.null)
    for one, other in zip(found, exact.velocities(exact.noise, exact.t, exact.null), strict=True):
        assert error(one, other) < tolerance


def test_ten_guided_steps_of_the_official_sampler(pairs):
    """Guidance multiplies the difference of two velocities by 7, so ten times the tolerance."""
    ours, exact, tolerance = pairs
    x0 = exact.source()
    with torch.no_grad():
        found = ours.model.sample(x0.to(ours.noise), solver="euler_official", steps=10, guidance_scale=7.0)
    assert error(found, plain.official_euler(exact.velocities, x0, 10, 7.0)) < 10 * tolerance


def test_the_sampler_of_tables_takes_the_same_steps(pair_of):
    """What draws images: in single precision, with all that depends on time alone looked up."""
    ours, exact = pair_of(torch.float32), pair_of(torch.float64)
    x0 = exact.source()
    sampler = Sampler(ours.model.backbone, Sampling(solver="euler_official", steps=10, guidance_scale=7.0))
    assert error(sampler(x0.float()), plain.official_euler(exact.velocities, x0, 10, 7.0)) < 1e-4


def with_kl(model: CrossFlow) -> CrossFlow:
    """A loaded model, which has no terms of the loss, with the KL of its config; it has no weights of its own."""
    (kl,) = (term for term in model.config.terms if isinstance(term, KL))
    training = replace(model.config, losses=(kl,)).build()
    training.load_state_dict(model.state_dict(), assign=True)
    return training.eval()


def test_the_losses(pairs):
    """The means over the batch that training takes, of every item its own, and the contrast with any images."""
    ours, exact, tolerance = pairs
    x0, weights = exact.source(), list(exact.case.weights)
    x1 = plain.rolled(exact.target, exact.null)
    predicted = exact.velocities(plain.on_path(x0, x1, exact.t), exact.t, exact.null)
    flow = plain.flow_loss(predicted, x0, x1, weights)
    kl = plain.official_kl(*plain.text_encoder(exact.weights, exact.tokens, exact.mask))

    donor = torch.tensor([2, 1, 3, 0])
    draws = Draws(ours.noise, ours.t, ~ours.null, donor)
    batch = Batch({"text": Item(ours.tokens, ours.mask), "image": Item(ours.target)}, torch.arange(4))
    with torch.no_grad():
        found = with_kl(ours.model)(batch, draws)
        posterior = ours.model.encoder(ours.tokens, ours.mask)
        items = ours.model.backbone.velocities(plain.on_path(x0, x1, exact.t).to(ours.noise), ours.t, ~ours.null)
    velocity = (x1 - (1 - 1e-5) * x0).to(ours.noise)
    assert error(losses.flow_matching(items, velocity, weights), flow) < tolerance
    assert error(losses.kl(posterior.mean, posterior.log_var, "official"), kl) < tolerance
    assert error(found["flow"], flow.mean()) < tolerance
    assert error(found["kl"], kl.mean()) < tolerance
    assert error(found["total"], (flow + 1e-2 * kl).mean()) < tolerance

    image, scale = exact.target + x0, torch.tensor(2.5, dtype=torch.float64)
    contrast = losses.contrastive(x0.to(ours.noise), image.to(ours.noise), scale.to(ours.noise), torch.arange(4))
    assert error(contrast, plain.contrastive_loss(x0.flatten(1), image.flatten(1), scale)) < tolerance
