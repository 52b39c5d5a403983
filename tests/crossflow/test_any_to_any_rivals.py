"""The rivals of joint sampling, on tiny networks: what prompts what, and flows that are run both ways."""

import pytest
import torch

from crossflow.anytoany.anchor import AnchorConfig, AnchorDraws
from crossflow.anytoany.joint import mixed
from crossflow.anytoany.rivals import DirectConfig, along, padded, route, sample_in_turn
from crossflow.errors import CrossFlowError
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import draw
from crossflow.model.settings import Sampling
from crossflow.networks import TransformerConfig
from tests.crossflow.test_any_to_any import NAMES, SAMPLING, latents, prompts, random_part, repeated

SHAPE = (2, 4, 4)
NETWORK = TransformerConfig(width=16, depth=1, heads=2, modulated=True)
DIRECT = DirectConfig(shape=SHAPE, backbone=NETWORK)
FINE = Sampling(solver="heun", steps=16)


def vectors_of(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x.flatten(1)[:, :12].unflatten(1, (2, 6)), dim=-1)


def test_each_output_is_prompted_by_what_came_before_it():
    torch.manual_seed(0)
    parts, noise = {name: random_part(name) for name in NAMES}, latents()
    found = sample_in_turn(parts, prompts(), repeated(noise), SAMPLING, dict.fromkeys(NAMES, vectors_of))
    said = [prompts(), vectors_of(found["text"]), vectors_of(found["image"])]
    for i, name in enumerate(NAMES):
        assert torch.equal(found[name], parts[name].diffuser.generate(mixed(said[: i + 1]), noise[name], SAMPLING))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return module.double()


def test_a_direct_flow_goes_back_to_where_it_came_from():
    """A network of random weights is a field like any other; the noise on the source stays in what comes back."""
    torch.manual_seed(0)
    flow = randomised(DIRECT.flow("audio", "video").build())
    source, noise = torch.randn(3, *SHAPE).double(), torch.randn(3, *SHAPE).double()
    there = along([(flow, False)], source, [noise], FINE)
    assert (there - source).abs().max() > 0.1
    assert torch.allclose(along([(flow, True)], there, [noise], FINE), source + 0.2 * noise, atol=1e-2)
    assert torch.allclose(
        along([(flow, False), (flow, True)], source, [noise, noise], FINE), source + 0.2 * noise, atol=1e-3
    )


def test_a_direct_flow_is_trained_as_any_other():
    model = DIRECT.flow("audio", "video").build()
    items = {name: Item(torch.randn(4, *SHAPE)) for name in ("audio", "video")}
    loss = model(Batch(items, torch.arange(4)), draw(4, SHAPE, 0.1, torch.Generator().manual_seed(0)))
    loss["total"].backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert not [name for name in model.state_dict() if not name.startswith("backbone.")]


def test_latents_are_padded_and_cut():
    x = torch.randn(2, *SHAPE)
    assert torch.equal(padded(padded(x, 5), 2), x) and not padded(x, 5)[:, 2:].any()


def anchor():
    torch.manual_seed(0)
    return AnchorConfig(shape=SHAPE, modalities=("image", "audio", "video"), backbone=NETWORK).build()


def test_the_shared_latent_is_that_of_what_an_item_has_and_keeps_its_variance():
    model = anchor()
    given = {name: 100 * torch.randn(8, *SHAPE) for name in ("image", "audio")}
    both, one = model.shared(given), model.shared({"image": given["image"]})
    assert not torch.allclose(both, one, atol=0.1)
    for shared in (both, one):
        assert torch.allclose(shared.var((0, 2, 3), unbiased=False), torch.ones(2), atol=1e-2)
    model(given, AnchorDraws(torch.randn(8, *SHAPE), torch.rand(8)))["total"].backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == ("video" in name)


def test_a_modality_comes_back_through_the_shared_latent():
    model = randomised(anchor())
    x, none = torch.randn(3, *SHAPE).double(), torch.zeros(3, *SHAPE).double()
    shared = model.encode("audio", x, FINE)
    back = model.generate(shared, none, ["audio", "image"], FINE)
    assert torch.allclose(back["audio"], x, atol=1e-2)
    assert torch.equal(back["image"], model.decode("image", shared, FINE))
    with pytest.raises(CrossFlowError, match="Unknown modality 'text'"):
        model.generate(shared, none, ["text"], FINE)


def test_what_is_given_in_another_form_than_it_is_made_in_has_a_flow_for_each():
    torch.manual_seed(0)
    two = AnchorConfig(shape=SHAPE, modalities=("text", "image"), given=("text",), backbone=NETWORK)
    model = randomised(two.build())
    x = torch.randn(3, *SHAPE).double()
    shared = model.encode("text", x, FINE)
    assert torch.allclose(model.decode("text given", shared, FINE), x, atol=1e-2)
    assert not torch.allclose(model.decode("text", shared, FINE), x, atol=0.1)
    model({name: x for name in ("text", "text given")}, AnchorDraws(x, torch.rand(3).double()))["total"].backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == ("image" in name)


def test_outputs_of_an_anchor_share_one_noise():
    model = randomised(anchor())
    shared, noise = torch.randn(3, *SHAPE).double(), torch.randn(3, *SHAPE).double()
    found = model.generate(shared, noise, ["image", "video"], SAMPLING)
    assert all(torch.equal(found[name], model.decode(name, shared + 0.2 * noise, SAMPLING)) for name in found)


def test_a_route_takes_flows_either_way_and_as_few_as_it_can():
    trained = (("text", "image"), ("text", "audio"), ("audio", "video"))
    assert route(trained, "text", "image") == [(("text", "image"), False)]
    assert route(trained, "image", "text") == [(("text", "image"), True)]
    assert route(trained, "video", "image") == [
        (("audio", "video"), True), (("text", "audio"), True), (("text", "image"), False)
    ]  # fmt: skip
    with pytest.raises(CrossFlowError, match="No direct flow leads from text to depth"):
        route(trained, "text", "depth")


def test_a_flow_is_not_run_backward_where_another_leads_that_way():
    trained = (("text", "image"), ("image", "text"), ("image", "depth"))
    assert route(trained, "image", "text") == [(("image", "text"), False)]
    assert route(trained, "text", "image") == [(("text", "image"), False)]
    assert route(trained, "depth", "text") == [(("image", "depth"), True), (("image", "text"), False)]
