"""The model's parts against their definitions, written again in float64 or by hand."""

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import baseline_of
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.guidance import Indicator
from crossflow.flow.losses import Draws, draw
from crossflow.losses import KL, Contrast
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import FlowModel, ModelConfig
from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig, StandardFlow
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.sources.variational import VariationalConfig, VariationalEncoder

TINY = FlowConfig(
    shape=(6, 2, 3),
    reads=TokensConfig(count=5, width=8),
    source=VariationalConfig(width=16, depth=1, heads=2),
    target=PatchPCAConfig(patch=2, components=6),
    backbone=TransformerConfig(width=16, depth=1, heads=2),
    losses=(KL(), Contrast()),
)
BASELINE = baseline_of(TINY)
FLAT = replace(TINY, source=VariationalConfig(width=16, depth=1, heads=2, readout="flat"))
every_model = pytest.mark.parametrize("config", [TINY, FLAT, BASELINE], ids=["grid", "flat", "baseline"])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch_of(count: int, dtype: torch.dtype = torch.float32) -> Batch:
    mask = torch.arange(5) < torch.randint(2, 6, (count, 1))
    tokens = torch.randn(count, 5, 8, dtype=dtype)
    target = torch.randn(count, 6, 2, 3, dtype=dtype)
    return Batch({"text": Item(tokens, mask), "image": Item(target)}, torch.arange(count))


def draws_of(count: int, null_rate: float = 0.5, dtype: torch.dtype = torch.float32) -> Draws:
    drawn = draw(count, TINY.shape, null_rate, torch.Generator().manual_seed(1))
    return Draws(drawn.noise.to(dtype), drawn.t.to(dtype), drawn.conditional, drawn.donor)


def unzeroed(config: ModelConfig) -> FlowModel:
    """A model whose output layer is not zero, as after some training."""
    model = config.build()
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.3)
    return model


@every_model
def test_a_fresh_model_stands_still(config):
    """The output layer starts at zero, so every velocity is zero and sampling returns the source."""
    model, batch = config.build(), batch_of(4)
    noise = torch.randn(4, *config.shape)
    drawn = model.generate(*batch["text"], noise, Sampling(solver="heun", steps=2, guidance_scale=3.0))
    source = model.source(*batch["text"], noise) if isinstance(model, CrossFlow) else noise
    assert torch.equal(drawn, source)


@every_model
def test_the_loss_reaches_every_trainable_parameter(config):
    model = unzeroed(config)
    model(batch_of(8), draws_of(8))["total"].backward()
    idle = [name for name, part in model.named_parameters() if part.grad is None or not part.grad.abs().sum() > 0]
    assert idle == []


@every_model
def test_padding_is_never_read(config):
    """Numbers outside the mask change nothing."""
    model, batch = unzeroed(config).double(), batch_of(3, torch.float64)
    tokens, mask = batch["text"]
    other = tokens.masked_fill(~mask[..., None], 1e6)
    noise = torch.randn(3, *config.shape, dtype=torch.float64)
    sampling = Sampling(steps=2)
    assert (~mask).any()
    drawn = [model.generate(each, mask, noise, sampling) for each in (tokens, other)]
    assert torch.equal(*drawn)


@every_model
def test_the_text_is_read(config):
    model, batch = unzeroed(config), batch_of(2)
    tokens, mask = batch["text"]
    noise = torch.randn(2, *config.shape)
    drawn = [model.generate(each, mask, noise, Sampling(steps=2)) for each in (tokens, -tokens)]
    assert not torch.allclose(*drawn, atol=1e-3)


@pytest.mark.parametrize("readout", ["grid", "flat"])
def test_posterior_shapes_and_sampling(readout):
    encoder = VariationalEncoder(VariationalConfig(width=16, depth=1, heads=2, readout=readout), (6, 2, 3), 5, 8)
    posterior = encoder(*batch_of(3)["text"])
    assert posterior.mean.shape == posterior.log_var.shape == (3, 6, 2, 3)
    noise = torch.randn(3, 6, 2, 3)
    assert torch.allclose(posterior.sample(noise), posterior.mean + posterior.log_var.exp().sqrt() * noise, atol=1e-6)


def test_the_null_subset_is_rolled_by_one():
    """By hand: the null items take the target of the next null item, the last that of the first; others their own."""
    drawn = draw(200, (1, 1, 1), 0.3, torch.Generator().manual_seed(0))
    null = [i for i in range(200) if not drawn.conditional[i]]
    assert 40 < len(null) < 80
    for i in range(200):
        assert drawn.donor[i] == (null[(null.index(i) + 1) % len(null)] if i in null else i)


@pytest.mark.parametrize("count, null_rate", [(1, 1.0), (50, 0.0), (3, 0.1)])
def test_a_null_subset_of_fewer_than_two_is_emptied(count, null_rate):
    for seed in range(20):
        drawn = draw(count, (1, 1, 1), null_rate, torch.Generator().manual_seed(seed))
        assert (~drawn.conditional).sum() != 1
    assert draw(count, (1, 1, 1), 0.0, torch.Generator().manual_seed(0)).conditional.all()


def test_times_are_logit_normal():
    t = draw(20_000, (1, 1, 1), 0.1, torch.Generator().manual_seed(0)).t.double()
    logits = torch.logit(t)
    assert abs(logits.mean()) < 0.03
    assert abs(logits.std() - 1) < 0.03


def test_standard_kl_is_that_of_torch():
    mean, log_var = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    parts = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    assert torch.allclose(losses.kl(mean, log_var, "standard"), parts.sum((1, 2, 3)), rtol=1e-12)


def test_official_kl_by_hand():
    mean, log_var = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    total = sum(
        0.5 * ((0.3 * m) ** 6 + v.exp() - 1 - v) for m, v in zip(mean.flatten(), log_var.flatten(), strict=True)
    )
    assert torch.allclose(losses.kl(mean, log_var, "official").sum(), total, rtol=1e-12)


def pair_of_latents(count: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, count, 3, 2, 2, dtype=torch.float64)
    return a, b


def test_contrastive_is_the_clip_loss_where_captions_differ():
    a, b = pair_of_latents(6)
    logits = 10.0 * F.normalize(a.flatten(1)) @ F.normalize(b.flatten(1)).T
    own = torch.arange(6)
    clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    found = losses.contrastive(a, b, torch.tensor(10.0, dtype=torch.float64), torch.tensor([5, 3, 9, 1, 0, 2]))
    assert torch.allclose(found, clip, rtol=1e-12)


def test_contrastive_shares_equal_captions_against_a_plain_loop():
    a, b = pair_of_latents(5)
    captions = [7, 3, 7, 3, 1]
    cosine = [[F.cosine_similarity(x.flatten(), y.flatten(), dim=0) for y in b] for x in a]
    total = torch.zeros((), dtype=torch.float64)
    for table in (cosine, list(zip(*cosine, strict=True))):
        for i, row in enumerate(table):
            scores = 10.0 * torch.stack(list(row))
            positives = [j for j in range(5) if captions[j] == captions[i]]
            total += torch.stack([scores.logsumexp(0) - scores[j] for j in positives]).mean() / 10
    found = losses.contrastive(a, b, torch.tensor(10.0, dtype=torch.float64), torch.tensor(captions))
    assert torch.allclose(found, total, rtol=1e-12)


def test_the_baseline_without_its_condition_does_not_see_the_image():
    """At scale 0 the unconditional velocity is alone; null items keep their target, and so are their own donors."""
    config = StandardConfig(
        shape=(1, 8, 8),
        reads=ImageConfig(shape=(3, 8, 8)),
        target=DepthConfig(),
        backbone=TransformerConfig(width=16, depth=1, heads=2, patch=4),
        condition="channels",
        guidance=Indicator(null_rate=0.5),
    )
    model, images = unzeroed(config), torch.rand(2, 3, 8, 8)
    x, t = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1), torch.full((2,), 0.5)
    without, seen = (model.velocity(scale, images, None)(x, t) for scale in (0.0, 1.0))
    assert torch.equal(without[0], without[1])
    assert not torch.allclose(seen[0], seen[1])
    draws = config.draw(32, torch.Generator().manual_seed(0))
    assert not draws.conditional.all()
    assert torch.equal(draws.donor, torch.arange(32))


def test_the_loss_of_crossflow_is_its_parts():
    """Written again from the paper's formulas: the straight path at t, x1 of the donors, weights of the config."""
    model = unzeroed(replace(TINY, losses=(KL(weight=0.3), Contrast(weight=0.7)))).double()
    assert isinstance(model, CrossFlow)
    tower = model.terms["contrastive"].tower
    batch, draws = batch_of(8, torch.float64), draws_of(8, dtype=torch.float64)
    assert (~draws.conditional).sum() > 1
    found = model(batch, draws)
    target = batch["image"].values
    mean, log_var = model.encoder(*batch["text"])
    x0 = mean + (0.5 * log_var).exp() * draws.noise
    x1, t = target[draws.donor], draws.t[:, None, None, None]
    predicted = model.backbone(t * x1 + (1 - (1 - 1e-5) * t) * x0, draws.t, draws.conditional)
    flow = (predicted - (x1 - (1 - 1e-5) * x0)).square().mean()
    contrast = losses.contrastive(x0, tower(target), tower.scale, batch.same)
    kl = losses.kl(mean, log_var, "official").mean()
    assert torch.allclose(found["flow"], flow, rtol=1e-12)
    assert torch.allclose(found["kl"], kl, rtol=1e-12)
    assert torch.allclose(found["contrastive"], contrast, rtol=1e-12)
    assert torch.allclose(found["total"], flow + 0.3 * kl + 0.7 * contrast, rtol=1e-12)
    assert torch.allclose(found["posterior_mean_square"], mean.square().mean(), rtol=1e-12)


def test_the_baseline_keeps_its_target_and_loses_its_text():
    model = unzeroed(BASELINE).double()
    batch, draws = batch_of(6, torch.float64), draws_of(6, null_rate=1.0, dtype=torch.float64)
    found = model(batch, draws)
    (tokens, mask), target, t = batch["text"], batch["image"].values, draws.t[:, None, None, None]
    xt = t * target + (1 - (1 - 1e-5) * t) * draws.noise
    predicted = model.backbone(xt, draws.t, draws.conditional, torch.zeros_like(tokens), mask)
    flow = (predicted - (target - (1 - 1e-5) * draws.noise)).square().mean()
    assert torch.allclose(found["total"], flow, rtol=1e-12)


@every_model
def test_shares_of_a_batch_give_the_gradients_of_the_whole(config):
    """Contrast off, null targets from the whole: the mean over parts is the loss of the batch, and so its gradients."""
    model = unzeroed(config if config == BASELINE else replace(config, losses=(KL(),))).double()
    batch, draws = batch_of(8, torch.float64), draws_of(8, null_rate=0.8, dtype=torch.float64)
    assert (draws.donor // 4 != torch.arange(8) // 4).any(), "null targets must cross the parts"
    whole = torch.autograd.grad(model(batch, draws)["total"], list(model.parameters()))
    (tokens, mask), target = batch["text"], batch["image"].values
    goals, parts = target[draws.donor], []
    for rows in (slice(0, 4), slice(4, 8)):
        items = {"text": Item(tokens[rows], mask[rows]), "image": Item(target[rows])}
        share = Batch(items, batch.same[rows], goals[rows])
        parts.append(model(share, draws.rows(rows.start, rows.stop))["total"] / 2)
    for one, other in zip(whole, torch.autograd.grad(sum(parts), list(model.parameters())), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


@every_model
def test_guidance_through_the_model(config):
    """v = v_u + w (v_c - v_u), with the two velocities run apart."""
    model, batch = unzeroed(config).double(), batch_of(3, torch.float64)
    x, t = torch.randn(3, *config.shape, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    text = () if isinstance(model, CrossFlow) else batch["text"]
    on, off = (model.backbone(x, t, torch.full((3,), flag), *text) for flag in (True, False))
    assert not torch.allclose(on, off)
    assert torch.allclose(model.velocity(2.5, *text)(x, t), off + 2.5 * (on - off), rtol=1e-9, atol=1e-12)
    assert torch.equal(model.velocity(1.0, *text)(x, t), on)


def test_crossflow_runs_backward_to_its_source():
    model, batch = unzeroed(TINY).double(), batch_of(2, torch.float64)
    assert isinstance(model, CrossFlow)
    x0 = model.source(*batch["text"], torch.randn(2, *TINY.shape, dtype=torch.float64))
    x1 = model.sample(x0, "heun", 200, 1.0)
    assert torch.allclose(model.sample(x1, "heun", 200, 1.0, backward=True), x0, atol=1e-3)
    assert not torch.allclose(x1, x0, atol=1e-2)


@pytest.mark.parametrize("change", [{"width": 0}, {"depth": -1}, {"width": 10**9}, {"patch": 0}])
def test_absurd_sizes_are_refused(change):
    with pytest.raises(CrossFlowError, match="must be from 1 to"):
        replace(TINY.backbone, **change)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(CrossFlowError, match="does not divide into 3 heads"):
        replace(TINY, backbone=TransformerConfig(width=16, depth=1, heads=3)).build()
    with pytest.raises(CrossFlowError, match="do not divide into patches of side 2"):
        replace(TINY, backbone=TransformerConfig(width=16, depth=1, heads=2, patch=2)).build()


def test_an_unknown_solver_is_refused_with_a_suggestion():
    with pytest.raises(CrossFlowError, match="Did you mean 'heun'"):
        Sampling(solver="huen")


def test_the_learning_rate_rises_then_falls():
    config: TrainConfig = replace(CONFIGS["scenes-tiny"], steps=1000, warmup=100, learning_rate=1.0)
    rates = [config.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(rates[99], rel=1e-6)
    assert rates[-1] == pytest.approx(config.final_learning_rate)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_recipe_builds(name):
    with torch.device("meta"):
        model = CONFIGS[name].model.build(training=name.startswith("scenes"))
    assert type(model) is {"crossflow": CrossFlow, "standard": StandardFlow}[CONFIGS[name].model.kind]
