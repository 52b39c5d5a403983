"""Any to any on tiny random networks: who sees whom, what is frozen, and what sampling together changes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import repeat
from math import prod

import pytest
import torch

from crossflow.anytoany.alignment import (
    AlignmentConfig,
    Part,
    connected,
    draw_jointly,
    environments,
    joint_loss,
    learning,
    merged,
)
from crossflow.anytoany.diffuser import DiffuserConfig
from crossflow.anytoany.environment import EnvironmentConfig, Reconstruction
from crossflow.anytoany.joint import Draws, mixed, pack, sample_jointly, unpack
from crossflow.errors import CrossFlowError
from crossflow.flow.losses import draw
from crossflow.flow.path import PATHS, LinearPath
from crossflow.flow.solver import ANCESTRAL
from crossflow.model.settings import Sampling
from crossflow.networks import TransformerConfig

NAMES = ("text", "image", "audio")
SHAPES = {"text": (2, 4, 4), "image": (3, 4, 4), "audio": (2, 4, 4)}
NETWORK = TransformerConfig(width=16, depth=2, heads=2, modulated=True)
ALIGNED = AlignmentConfig(environment=EnvironmentConfig(width=8, depth=1, heads=2, tokens=2, vector=8))
SAMPLING = Sampling(solver="euler", steps=3, guidance_scale=2.0)
PAIRS = (("text", "image"), ("text", "audio"), ("audio", "video"), ("image", "depth"))


def random_part(name: str, connected_at_random: bool = True, **settings: str) -> Part:
    """A part whose every weight is drawn, so that nothing starts at zero unless ``connected_at_random`` is False."""
    config = DiffuserConfig(shape=SHAPES[name], backbone=NETWORK, prompt=6, **settings)
    diffuser = config.build()
    environment, connections = ALIGNED.environment.build(config.shape), ALIGNED.environment.connections(config)
    for module in (diffuser, *((connections,) if connected_at_random else ())):
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return Part(diffuser, environment, connections)


@pytest.fixture
def parts() -> dict[str, Part]:
    torch.manual_seed(0)
    return {name: random_part(name) for name in NAMES}


def latents(count: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in SHAPES.items()}


def prompts(count: int = 3, seed: int = 2) -> torch.Tensor:
    vectors = torch.randn(count, 2, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def repeated(noise: Mapping[str, torch.Tensor]) -> Draws:
    """The same draw for every step."""
    return {name: repeat(x) for name, x in noise.items()}


def velocity_of(parts: dict[str, Part], name: str, x: dict[str, torch.Tensor], config: AlignmentConfig) -> torch.Tensor:
    t = torch.tensor([0.2, 0.5, 0.8])
    through = connected(parts[name], name, environments(parts, x, t), config)
    return parts[name].diffuser.field(prompts(), through)(x[name], t, torch.ones(3, dtype=torch.bool))


def test_the_partners_latent_changes_the_prediction_under_others_and_by_exactly_nothing_under_self(parts):
    x = {name: latents()[name] for name in ("text", "image")}
    other = {**x, "text": latents(seed=5)["text"]}
    for merge in ("mean", "concat"):
        seeing = replace(ALIGNED, merge=merge)
        moved = (
            (velocity_of(parts, "image", x, seeing) - velocity_of(parts, "image", other, seeing)).abs().amax((1, 2, 3))
        )
        assert (moved > 1e-3).all()
    for context in ("self", "none"):
        blind = replace(ALIGNED, context=context)
        assert torch.equal(velocity_of(parts, "image", x, blind), velocity_of(parts, "image", other, blind))


def test_under_self_a_modality_sees_its_own_vector_and_under_none_nothing(parts):
    x = {name: latents()[name] for name in ("text", "image")}
    alone, own = (velocity_of(parts, "image", x, replace(ALIGNED, context=each)) for each in ("none", "self"))
    assert (alone - own).abs().max() > 1e-3
    t, yes = torch.tensor([0.2, 0.5, 0.8]), torch.ones(3, dtype=torch.bool)
    assert torch.equal(alone, parts["image"].diffuser.field(prompts())(x["image"], t, yes))


def test_connections_change_nothing_at_the_start():
    torch.manual_seed(0)
    fresh = {name: random_part(name, connected_at_random=False) for name in NAMES}
    x = latents()
    assert torch.equal(
        velocity_of(fresh, "image", x, ALIGNED), velocity_of(fresh, "image", x, replace(ALIGNED, context="none"))
    )


def test_one_output_is_its_diffusers_own_before_and_after_alignment(parts):
    noise = {"image": latents()["image"]}
    bare = {"image": Part(parts["image"].diffuser)}
    before, after = (
        sample_jointly(each, prompts(), repeated(noise), SAMPLING, ALIGNED)["image"] for each in (bare, parts)
    )
    own = parts["image"].diffuser.generate(prompts(), noise["image"], SAMPLING)
    assert len({each.detach().numpy().tobytes() for each in (before, after, own)}) == 1


def test_outputs_that_were_not_aligned_are_not_generated_together(parts):
    noise = {name: latents()[name] for name in ("text", "image")}
    bare = {**parts, "image": Part(parts["image"].diffuser)}
    with pytest.raises(CrossFlowError, match="image was not aligned"):
        sample_jointly(bare, prompts(), repeated(noise), SAMPLING, ALIGNED)
    assert (
        sample_jointly(bare, prompts(), repeated(noise), SAMPLING, replace(ALIGNED, context="none")).keys()
        == noise.keys()
    )


def test_sampling_together_follows_the_guided_velocities_of_all_at_one_time(parts):
    """Against Euler steps written out, with a scale a modality."""
    noise, scales = latents(), {"text": 1.5, "image": 3.0}
    found = sample_jointly(parts, prompts(), repeated(noise), SAMPLING, ALIGNED, scales)
    x = noise
    for step in range(SAMPLING.steps):
        t = torch.full((3,), step / SAMPLING.steps)
        vectors = environments(parts, x, t)
        moved = {}
        for name in NAMES:
            field = parts[name].diffuser.field(prompts(), connected(parts[name], name, vectors, ALIGNED))
            yes, no = (field(x[name], t, torch.full((3,), known)) for known in (True, False))
            moved[name] = x[name] + (no + scales.get(name, 2.0) * (yes - no)) / SAMPLING.steps
        x = moved
    assert all(torch.allclose(found[name], x[name], atol=1e-4) for name in NAMES)


def test_ancestral_sampling_together_draws_for_each_modality_from_its_own_draws(parts):
    """Against the steps written out, each from fresh noise: what is kept of the old is r, of the new sqrt(1 - r^2)."""
    steps, path = 3, LinearPath()
    drawn = {name: [latents(seed=seed)[name] for seed in range(steps)] for name in NAMES}
    ancestral = replace(SAMPLING, solver=ANCESTRAL, steps=steps)
    found = sample_jointly(parts, prompts(), {name: iter(each) for name, each in drawn.items()}, ancestral, ALIGNED)
    x = {name: each[0] for name, each in drawn.items()}
    for step in range(steps):
        t, later = (torch.full((3,), place / steps) for place in (step, step + 1))
        vectors = environments(parts, x, t)
        moved = {}
        for name in NAMES:
            field = parts[name].diffuser.field(prompts(), connected(parts[name], name, vectors, ALIGNED))
            yes, no = (field(x[name], t, torch.full((3,), known)) for known in (True, False))
            start, end = path.ends(x[name], no + 2.0 * (yes - no), t)
            kept = float(t[0] * (1 - later[0]) / (later[0] * (1 - t[0])))
            if step < steps - 1:
                start = kept * start + math.sqrt(1 - kept**2) * drawn[name][step + 1]
            moved[name] = path.sample(start, end, later).xt
        x = moved
    assert all(torch.allclose(found[name], x[name], atol=1e-3) for name in NAMES)


def test_a_pair_that_no_stage_trained_is_sampled_and_seen(parts):
    """Image and audio: their vectors lie in one space, so either's connections read the other's."""
    noise = {name: latents()[name] for name in ("image", "audio")}
    together = sample_jointly(parts, prompts(), repeated(noise), SAMPLING, ALIGNED)
    apart = sample_jointly(parts, prompts(), repeated(noise), SAMPLING, replace(ALIGNED, context="none"))
    assert all((together[name] - apart[name]).abs().max() > 1e-3 for name in noise)


def test_an_item_does_not_depend_on_its_batch(parts):
    parts = {name: Part(*(module.double() for module in part)) for name, part in parts.items()}
    noise = {name: x.double() for name, x in latents().items()}
    whole = sample_jointly(parts, prompts().double(), repeated(noise), SAMPLING, ALIGNED)
    second = repeated({name: x[1:2] for name, x in noise.items()})
    one = sample_jointly(parts, prompts().double()[1:2], second, SAMPLING, ALIGNED)
    assert all(torch.allclose(whole[name][1:2], one[name], atol=1e-9) for name in NAMES)


def test_packing_is_undone():
    assert all(torch.equal(latents()[name], back) for name, back in unpack(pack(latents()), SHAPES).items())


def loss_of(
    parts: dict[str, Part],
    config: AlignmentConfig = ALIGNED,
    names: tuple[str, ...] = ("text", "image"),
    heads: dict[str, Reconstruction] | None = None,
):
    draws = draw_jointly(3, {name: SHAPES[name] for name in names}, 0.3, torch.Generator().manual_seed(3))
    own = {name: latents()[name] for name in names}
    return joint_loss(parts, own, prompts(), draws, config, torch.arange(3), heads or {})


def test_only_the_modalities_that_are_new_to_the_pairs_learn():
    assert [learning(PAIRS, index) for index in range(4)] == [("text", "image"), ("audio",), ("video",), ("depth",)]
    with pytest.raises(CrossFlowError, match="has nothing to learn"):
        learning((*PAIRS, ("image", "audio")), 4)


def freeze_but(parts: dict[str, Part], names: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """What learns in a stage: the environments and connections of ``names``."""
    learn = [weight for name in names for module in parts[name][1:] for weight in module.parameters()]
    for part in parts.values():
        for module in part:
            module.requires_grad_(False)
    for weight in learn:
        weight.requires_grad_(True)
    return learn


def test_the_loss_of_a_pair_teaches_every_weight_that_learns(parts):
    learn = freeze_but(parts, learning(PAIRS, 1))
    loss_of(parts, names=("text", "audio"))["total"].backward()
    assert learn and all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learn)


def test_a_frozen_partner_teaches_the_environment_that_it_reads(parts):
    """The gradient of the text's error reaches the audio's environment through the text's frozen connections."""
    freeze_but(parts, ("audio",))
    losses = loss_of(parts, replace(ALIGNED, contrast=0.0), ("text", "audio"))
    for weight in parts["audio"].connections.parameters():
        weight.requires_grad_(False)
    losses["total"].backward()
    assert max(weight.grad.abs().max() for weight in parts["audio"].environment.parameters()) > 0


def test_a_step_down_the_gradient_makes_environments_agree_on_items(parts):
    """Without seeing one another the contrast alone teaches them, at its weight."""
    blind = replace(ALIGNED, context="none")
    learn = freeze_but(parts, NAMES)
    before = loss_of(parts, blind)
    assert before["total"].item() == pytest.approx(float(before["flow"] + 0.1 * before["contrast"]))
    before["total"].backward()
    torch.optim.SGD([weight for weight in learn if weight.grad is not None], lr=0.1).step()
    for name in ("text", "image"):
        assert all(weight.grad is not None for weight in parts[name].environment.parameters())
        assert all(weight.grad is None for weight in parts[name].connections.parameters())
    after = loss_of(parts, blind)
    assert after["contrast"] < before["contrast"] and torch.equal(after["flow"], before["flow"])


def test_items_are_not_told_apart_by_their_times(parts):
    """Vectors that say the time alone are equal where they are contrasted: the term is that of guessing."""

    class Clock(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.stack([t.cos(), t.sin()], dim=1)[:, None].expand(-1, 2, 2).repeat(1, 1, 4) / 2

    parts = {name: part._replace(environment=Clock()) for name, part in parts.items()}
    assert loss_of(parts)["contrast"].item() == pytest.approx(math.log(3))


def test_the_loss_of_a_pair_is_the_mean_of_its_diffusers_losses(parts):
    losses = loss_of(parts, replace(ALIGNED, context="none"))
    draws = draw_jointly(3, {name: SHAPES[name] for name in ("text", "image")}, 0.3, torch.Generator().manual_seed(3))
    own = [parts[name].diffuser(latents()[name], prompts(), draws.of(name))["total"] for name in ("text", "image")]
    assert losses["flow"].item() == pytest.approx(sum(own).item() / 2)


def test_draws_are_of_one_time_and_never_of_no_partner():
    draws = draw_jointly(200, SHAPES, 0.2, torch.Generator().manual_seed(0))
    assert draws.seen.any(2).all() and not draws.seen.diagonal(dim1=1, dim2=2).any()
    assert 0.2 < draws.seen.all(2).float().mean() + draws.seen[:, 0, 1:].all(1).float().mean() < 0.6
    pair = draw_jointly(50, {name: SHAPES[name] for name in ("text", "image")}, 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(pair.seen, ~torch.eye(2, dtype=torch.bool).expand(50, 2, 2))
    assert 0 < (~draws.conditional).sum() < 100
    assert len(draws.moment.unique()) == 1 and len(draws.t.unique()) == 200
    rows = draws.rows(10, 20)
    assert torch.equal(rows.noise["image"], draws.noise["image"][10:20]) and torch.equal(rows.t, draws.t[10:20])


def test_partners_that_are_not_seen_count_for_nothing():
    vectors = [torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    seen = torch.tensor([[True, False], [False, True], [True, True], [True, True]])
    mean, _ = merged(vectors, "mean", seen)
    assert torch.equal(mean[0], vectors[0][0]) and torch.equal(mean[1], vectors[1][1])
    assert torch.allclose(mean[2:], merged(vectors, "mean")[0][2:])
    tokens, mask = merged(vectors, "concat", seen)
    assert tokens.shape == (4, 4, 8) and mask.tolist()[1] == [False, False, True, True]


def test_three_modalities_train_together_with_random_partners(parts):
    for merge in ("mean", "concat"):
        assert loss_of(parts, replace(ALIGNED, merge=merge), NAMES)["total"].isfinite()


class Answer(torch.nn.Module):
    """A network that knows one answer."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *given: object) -> torch.Tensor:
        return self.answer


@pytest.mark.parametrize("predicts", ["eps", "velocity", "target"])
def test_what_is_predicted_exactly_is_no_error_and_gives_the_paths_velocity(predicts):
    diffuser = random_part("image", parameterisation=predicts).diffuser
    x1, draws = latents()["image"], draw(3, SHAPES["image"], 0.0, torch.Generator().manual_seed(4), times="uniform")
    draws = draws._replace(t=draws.t.clamp(0.1, 0.9))
    xt, velocity = diffuser.path.sample(draws.noise, x1, draws.t)
    diffuser.backbone = Answer({"eps": draws.noise, "velocity": velocity, "target": x1}[predicts])
    assert diffuser(x1, prompts(), draws)["total"] < 1e-6
    assert torch.allclose(diffuser.field(prompts())(xt, draws.t, draws.conditional), velocity, atol=1e-4)


@pytest.mark.parametrize("predicts", ["velocity", "target"])
def test_the_tail_of_the_path_counts_less(predicts):
    diffuser = random_part("image", parameterisation=predicts).diffuser
    draws = draw(3, SHAPES["image"], 0.0, torch.Generator().manual_seed(4), times="uniform")
    draws = draws._replace(t=torch.tensor([0.2, 0.5, 0.9]))
    alike = diffuser.errors(latents()["image"], prompts(), draws)
    diffuser.config = replace(diffuser.config, tail=0.5)
    weighed = diffuser.errors(latents()["image"], prompts(), draws) / alike
    torch.testing.assert_close(weighed, torch.tensor([1.0, 1.0, (0.1 / 0.5) ** 2]))


def test_the_noise_has_no_tail_to_be_weighed_down():
    with pytest.raises(CrossFlowError, match=r"let tail be 0, not 0\.35"):
        DiffuserConfig(shape=SHAPES["image"], backbone=NETWORK, parameterisation="eps", tail=0.35)
    with pytest.raises(CrossFlowError, match="from 0 to less than 1"):
        DiffuserConfig(shape=SHAPES["image"], backbone=NETWORK, parameterisation="target", tail=1.0)


@pytest.mark.parametrize("path", PATHS)
def test_the_noise_gives_the_velocity(path):
    x0, x1, t = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0.1, 0.5, 0.9])
    xt, velocity = PATHS[path]().sample(x0, x1, t)
    assert torch.allclose(PATHS[path]().velocity_from(x0, xt, t), velocity, atol=1e-4)


def test_a_step_by_the_noise_is_the_deterministic_step_of_ddim():
    """z' = a' (z - s eps) / a + s' eps on the straight path, whose a is t and whose s is what is left."""
    diffuser = random_part("image", parameterisation="eps").diffuser
    x, t, h = latents()["image"], torch.full((3,), 0.4), 0.1
    yes = torch.ones(3, dtype=torch.bool)
    eps = diffuser.backbone(x, t, yes, 6**0.5 * prompts(), None)
    step = x + h * diffuser.field(prompts())(x, t, yes)
    left = [float(diffuser.path.left(torch.tensor(each))) for each in (0.4, 0.5)]
    assert torch.allclose(step, 0.5 * (x - left[0] * eps) / 0.4 + left[1] * eps, atol=1e-4)


def test_a_dropped_prompt_is_not_seen_and_the_diffuser_reads_the_others(parts):
    diffuser = parts["image"].diffuser
    x, t = latents()["image"], torch.full((3,), 0.5)
    for known, same in ((False, True), (True, False)):
        found = [diffuser.field(prompts(seed=seed))(x, t, torch.full((3,), known)) for seed in (2, 7)]
        assert torch.allclose(*found, atol=1e-6) is same


def test_prompts_are_mixed_by_weights_that_sum_to_one():
    a, b = prompts(seed=2), prompts(seed=3)
    assert torch.equal(mixed([a], [1.0]), a) and torch.equal(mixed([a, b], [3.0, 0.0]), a)
    assert torch.allclose(mixed([a, b]), (a + b) / 2)
    assert torch.allclose(mixed([a, b], [2.0, 6.0]), 0.25 * a + 0.75 * b)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0]])
def test_weights_that_mix_nothing_are_refused(weights):
    with pytest.raises(CrossFlowError, match="weights of the prompts are"):
        mixed([prompts(), prompts()], weights)


def test_a_weight_or_temperature_that_is_no_such_thing_is_refused():
    for wrong in ({"contrast": -1.0}, {"contrast": float("nan")}, {"temperature": 0.0}):
        with pytest.raises(CrossFlowError, match="they must be finite"):
            AlignmentConfig(**wrong)
    with pytest.raises(CrossFlowError, match="reconstruction is nan; it must be finite"):
        AlignmentConfig(reconstruction=float("nan"))


@pytest.mark.parametrize("local", [True, False])
def test_what_environment_vectors_tell_of_their_latents_is_compared_at_its_weight(parts, local):
    """Vectors of a position tell the latents there alone, others all; whoever has no head is not asked to tell any."""
    config = EnvironmentConfig(width=8, depth=1, heads=2, tokens=1 if local else 2, vector=8, local=local)
    heads = {"image": config.reconstruction(SHAPES["image"])}
    vectors = torch.nn.functional.normalize(torch.randn(3, prod(SHAPES["image"][1:]) if local else 2, 8), dim=-1)
    told = heads["image"](vectors)
    assert told.shape == (3, *SHAPES["image"])
    moved = heads["image"](torch.cat([vectors[:, :1].flip(0), vectors[:, 1:]], dim=1))
    changed = (moved != told).any(1).flatten(1)[0]
    assert changed[0] and changed[1:].any().item() is not local

    weighed = replace(ALIGNED, reconstruction=2.0, environment=config)
    for name in ("text", "image"):
        diffuser = parts[name].diffuser
        parts[name] = Part(diffuser, config.build(SHAPES[name]), config.connections(diffuser.config))
    without, found = loss_of(parts, weighed), loss_of(parts, weighed, heads=heads)
    assert "reconstruction" not in without
    torch.testing.assert_close(found["total"], without["total"] + 2 * found["reconstruction"])
    found["total"].backward()
    assert all(weight.grad is not None for weight in heads["image"].parameters())


def test_an_environment_may_have_a_vector_a_position_and_connections_positions_of_their_own():
    """Its vectors go along with the latents' cells but for where they are; the lead tokens are left in no place."""
    torch.manual_seed(0)
    config = EnvironmentConfig(width=8, depth=1, heads=2, vector=8, local=True, positions="unit")
    encoder, connections = (
        config.build((3, 2, 2)),
        config.connections(DiffuserConfig(shape=(3, 2, 2), backbone=NETWORK)),
    )
    x, t = torch.randn(2, 3, 2, 2), torch.tensor([0.3, 0.7])
    with pytest.raises(CrossFlowError, match="local is a vector a position, and tokens is 4"):
        replace(config, tokens=4)
    vectors = encoder(x, t)
    assert vectors.shape == (2, 4, 8) and torch.allclose(vectors.norm(dim=-1), torch.ones(2, 4))
    assert encoder.latents.position.std() > 0.5
    flipped = x.flip((2, 3))
    assert not torch.allclose(encoder(flipped, t), vectors.flip(1), atol=1e-3)
    torch.nn.init.zeros_(encoder.latents.position)
    assert torch.allclose(encoder(flipped, t), encoder(x, t).flip(1), atol=1e-6)

    connection, tokens = connections[0], torch.randn(2, 6, NETWORK.width)
    assert torch.equal(connection(tokens, vectors), tokens)
    torch.nn.init.normal_(connection.out.weight)
    swapped = tokens[:, [1, 0, 2, 3, 4, 5]]  # two of the lead
    assert torch.allclose(connection(swapped, vectors), connection(tokens, vectors)[:, [1, 0, 2, 3, 4, 5]], atol=1e-5)
    swapped = tokens[:, [0, 1, 2, 3, 5, 4]]  # two of the latents
    assert not torch.allclose(
        connection(swapped, vectors), connection(tokens, vectors)[:, [0, 1, 2, 3, 5, 4]], atol=1e-2
    )
