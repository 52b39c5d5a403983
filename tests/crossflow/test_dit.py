"""The released DiT against the authors' program: the same keys, the same numbers, and time by table as by formula."""

import json
from copy import deepcopy

import jaxtyping
import pytest
import torch
from golden_files import golden_file
from safetensors.torch import load_file
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import indicator
from crossflow.flow.solver import euler_official
from crossflow.networks.dit import DiT, DiTConfig, positions


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(golden_file("dit_small.tensors.safetensors"))


@pytest.fixture(scope="module")
def small() -> DiT:
    """The authors' reduced network: its keys are ours."""
    model = DiT(DiTConfig(width=64, depth=3, heads=4, patch=2), (4, 32, 32))
    weights = load_file(golden_file("dit_small.weights.safetensors"))
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("context_encoder.")})
    return model.eval()


@pytest.fixture
def tiny() -> DiT:
    """A network of large patches, whose every parameter is off its initial value."""
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=12, depth=2, heads=3, patch=4), (3, 8, 12))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 8, 12, generator=generator)
    return x, torch.rand(count, generator=generator), torch.arange(count) % 2 == 0


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_the_velocity_is_the_official_one(small, golden):
    """Within 1e-5 of the largest value in float32, conditional and unconditional items in one batch."""
    with torch.no_grad():
        (ours,) = small.velocities(golden["velocity.x"], golden["velocity.t"], ~golden["velocity.unconditional"])
    assert relative(ours, golden["velocity.out0"]) < 1e-5


def test_ten_official_steps_end_where_the_official_sampler_does(small, golden):
    """Guidance 7 from the same source, within 1e-4 of the largest value."""
    with torch.no_grad():
        sample = euler_official(indicator(small, 7.0), golden["sample.z0"], 10)
    assert relative(sample, golden["sample.final"]) < 1e-4


def test_released_sizes_have_the_released_keys_and_counts():
    with torch.device("meta"):
        model = DiT(DiTConfig(width=1280, depth=36, heads=20, patch=2), (4, 64, 64))
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    keys = json.loads(golden_file("released_keys.json").read_text())["t2i_512px_t5_dit"]
    assert ours == {key: shape for key, shape in keys.items() if not key.startswith(("context_encoder.", "open_clip"))}
    assert sum(part.numel() for part in model.parameters()) == 1_068_977_936
    assert sum(part.numel() for part in model.parameters() if not part.requires_grad) == 1_310_720


def test_positions_are_those_of_the_authors(small):
    """The golden weights hold them, exactly; on grids that are not square the column still comes first."""
    assert torch.equal(positions(16, 16, 64), small.pos_embed)
    grid = positions(2, 3, 8)[0].unflatten(0, (2, 3))
    assert torch.equal(grid[0, :, :4], grid[1, :, :4])
    assert torch.equal(grid[:, 0, 4:], grid[:, 2, 4:])
    one = torch.tensor([1.0, 0.01])
    torch.testing.assert_close(grid[1, 2], torch.cat([(2 * one).sin(), (2 * one).cos(), one.sin(), one.cos()]))


def test_a_fresh_network_stands_still():
    """Zero modulations and a zero output layer, as in DiT."""
    x, t, conditional = inputs()
    assert not DiT(DiTConfig(width=12, depth=1, heads=3, patch=2), (3, 8, 12))(x, t, conditional).any()


def test_step_numbers_give_what_their_times_give(tiny):
    """To 1e-6 of the largest value: one number for each item, one for all, and times as before."""
    x, _, conditional = inputs()
    times = torch.tensor([0.0, 0.3, 0.9, 0.99999])
    steps = torch.tensor([2, 0, 3])
    keys = list(tiny.state_dict())
    with torch.no_grad():
        each, common = tiny(x, times[steps], conditional), tiny(x, times[1:2], conditional)
        other = tiny(x, times[steps], ~conditional)
        tiny.tabulate(times)
        assert relative(tiny(x, steps, conditional), each) < 1e-6
        assert relative(tiny(x, torch.tensor([1]), conditional), common) < 1e-6
        assert relative(tiny(x, steps, ~conditional), other) < 1e-6
        assert torch.equal(tiny(x, times[steps], conditional), each)
    assert list(tiny.state_dict()) == keys, "tables are not weights"
    for changed in (common, other):
        assert relative(changed, each) > 1e-3, "these must differ for this test to mean anything"


def test_one_time_is_the_same_time_for_all(tiny):
    x, _, conditional = inputs()
    with torch.no_grad():
        assert relative(tiny(x, torch.tensor([0.4]), conditional), tiny(x, torch.full((3,), 0.4), conditional)) < 1e-6


def test_step_numbers_need_tables(tiny):
    x, _, conditional = inputs()
    with pytest.raises(CrossFlowError, match="tabulate"):
        tiny(x, torch.tensor([0]), conditional)


def test_items_do_not_touch_each_other(tiny):
    """A batch is its items, one by one; in float64, to 1e-12."""
    x, t, conditional = inputs()
    tiny.double()
    x, t = x.double(), t.double()
    with torch.no_grad():
        whole = tiny(x, t, conditional)
        parts = [tiny(x[i : i + 1], t[i : i + 1], conditional[i : i + 1]) for i in range(3)]
    assert relative(torch.cat(parts), whole) < 1e-12


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(tiny, checkpointing):
    """All but the fixed positions; also with activations computed again, and then with the same gradients."""
    gradients = []
    for model in (tiny, deepcopy(tiny)):
        model.checkpointing = checkpointing and model is not tiny
        model(*inputs()).square().mean().backward()
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.requires_grad})
    idle = [name for name, grad in gradients[0].items() if grad is None or not grad.abs().sum() > 0]
    assert idle == []
    assert tiny.pos_embed.grad is None
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["autocast", "weights", "tables"])
def test_bfloat16_runs_and_answers_in_float32(tiny, way):
    """Within 5 % of the float32 velocity in root mean square: bfloat16 keeps 8 bits."""
    x, t, conditional = inputs()
    with torch.no_grad():
        exact = tiny(x, t, conditional)
        if way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                rough = tiny(x, t, conditional)
        elif way == "weights":
            rough = tiny.bfloat16()(x, t, conditional)
        else:
            tiny.tabulate(t)
            rough = tiny.bfloat16()(x, torch.arange(3), conditional)
    assert rough.dtype == torch.float32
    error = F.mse_loss(rough, exact).sqrt() / exact.square().mean().sqrt()
    assert 1e-5 < error < 0.05


def test_modulations_are_in_float32_under_autocast(tiny):
    """Whatever the autocast, the same bits."""
    found = []
    for part in (*tiny.blocks, tiny.final_layer):
        part.adaLN_modulation.register_forward_hook(lambda module, given, answer: found.append(answer))
    with torch.no_grad():
        tiny(*inputs())
        with torch.autocast("cpu", torch.bfloat16):
            tiny(*inputs())
    exact, rough = found[: len(found) // 2], found[len(found) // 2 :]
    assert len(exact) == len(tiny.blocks) + 1
    assert all(map(torch.equal, exact, rough))


def test_nothing_is_read_back_from_the_device(tiny):
    """Fake tensors have no values, so any branch on one, or any ``item()``, would raise."""
    x, t, conditional = inputs()
    tiny.tabulate(t)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, conditional = mode.from_tensor(x), mode.from_tensor(conditional)
        for time in (t, t[:1], torch.arange(3)):
            assert tiny(x, mode.from_tensor(time), conditional).shape == x.shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiTConfig(width=12, depth=1, heads=5, patch=2), "5 heads"),
        (lambda: DiTConfig(width=6, depth=1, heads=3, patch=2), "by 4"),
        (lambda: DiTConfig(width=5000, depth=1, heads=1, patch=2), "4096"),
        (lambda: DiTConfig(width=8, depth=0, heads=1, patch=2), "depth is 0"),
        (lambda: DiT(DiTConfig(width=8, depth=1, heads=1, patch=4), (4, 8, 10)), "patches of side 4"),
    ],
)
def test_bad_sizes_are_refused(make, message, monkeypatch):
    """Without the type checks of the test run, as a user has it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(CrossFlowError, match=message):
        make()
