"""DiMR against the authors' program: the same keys, the same numbers, and time by table as by formula."""

import json
from copy import deepcopy

import jaxtyping
import pytest
import torch
from golden_files import golden_file
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import indicator
from crossflow.flow.solver import euler_official
from crossflow.networks.dimr import DiMR, DiMRConfig, Stage

SMALL = DiMRConfig(
    stages=(
        Stage(block="transformer", width=64, hidden=128, depth=5, patch=2, heads=4),
        Stage(block="convnext", width=32, hidden=64, depth=3, patch=1),
    )
)
TINY = DiMRConfig(
    stages=(
        Stage(block="transformer", width=12, hidden=20, depth=3, patch=4, heads=3),
        Stage(block="convnext", width=8, hidden=10, depth=3, patch=2, kernel=5),
        Stage(block="convnext", width=6, hidden=8, depth=1, patch=1, kernel=3),
    )
)
"""Three stages; the tests give it latents that are not square."""


def released(width: int, depth: int, patches: tuple[int, ...]) -> DiMRConfig:
    """The form of the released sizes: each stage half as wide as the one below, and half as deep from the second on."""
    first = Stage(block="transformer", width=width, hidden=2 * width, depth=depth, patch=patches[0], heads=16)
    later = [
        Stage(block="convnext", width=width >> i, hidden=width >> (i - 1), depth=depth // 2 + 1, patch=patch)
        for i, patch in enumerate(patches)
        if i
    ]
    return DiMRConfig(stages=(first, *later))


LARGE = released(1024, 65, (2, 1)), (4, 32, 32), [749_972_486, 200_806_404]
LARGE_512 = released(1024, 65, (4, 2, 1)), (4, 64, 64), [750_021_638, 200_812_548, 34_605_060]
DEMO = released(960, 29, (4, 2, 1)), (4, 64, 64), [293_822_406, 80_442_724, 14_636_404]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(golden_file("dimr_small.tensors.safetensors"))


@pytest.fixture(scope="module")
def small() -> DiMR:
    """The authors' reduced network: its keys are ours."""
    model = DiMR(SMALL, (4, 32, 32))
    weights = load_file(golden_file("dimr_small.weights.safetensors"))
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("context_encoder.")})
    return model.eval()


@pytest.fixture
def tiny() -> DiMR:
    """A three-stage network whose every parameter is off its initial value."""
    torch.manual_seed(0)
    model = DiMR(TINY, (4, 8, 12))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, 8, 12, generator=generator)
    return x, torch.rand(count, generator=generator), torch.arange(count) % 2 == 0


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_every_stage_gives_the_official_velocity(small, golden):
    """Within 1e-5 of the largest value in float32, conditional and unconditional items in one batch."""
    with torch.no_grad():
        ours = small.velocities(golden["velocity.x"], golden["velocity.t"], ~golden["velocity.unconditional"])
    assert len(ours) == 2
    for i, velocity in enumerate(ours):
        assert relative(velocity, golden[f"velocity.out{i}"]) < 1e-5


def test_ten_official_steps_end_where_the_official_sampler_does(small, golden):
    """Guidance 7 from the same source, within 1e-4 of the largest value."""
    with torch.no_grad():
        sample = euler_official(indicator(small, 7.0), golden["sample.z0"], 10)
    assert relative(sample, golden["sample.final"]) < 1e-4


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("t2i_256px_clip_dimr", LARGE),
        ("t2i_256px_t5_dimr", LARGE),
        ("t2i_512px_clip_dimr", LARGE_512),
        ("t2i_512px_t5_dimr", LARGE_512),
        ("t2i_training_demo", DEMO),
    ],
)
def test_released_sizes_have_the_released_keys_and_counts(name, architecture):
    config, shape, counts = architecture
    with torch.device("meta"):
        model = DiMR(config, shape)
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    keys = json.loads(golden_file("released_keys.json").read_text())[name]
    assert ours == {key: shape for key, shape in keys.items() if not key.startswith(("context_encoder.", "open_clip"))}
    assert [sum(part.numel() for part in stage.parameters()) for stage in model.stages] == counts


def test_step_numbers_give_what_their_times_give(tiny):
    """To 1e-6 of the largest value: one number for each item, one for all, and times as before."""
    x, _, conditional = inputs()
    times = torch.tensor([0.0, 0.3, 0.9, 0.99999])
    steps = torch.tensor([2, 0, 3])
    keys = list(tiny.state_dict())
    with torch.no_grad():
        each, common = tiny(x, times[steps], conditional), tiny(x, times[1:2], conditional)
        tiny.tabulate(times)
        assert relative(tiny(x, steps, conditional), each) < 1e-6
        assert relative(tiny(x, torch.tensor([1]), conditional), common) < 1e-6
        assert torch.equal(tiny(x, times[steps], conditional), each)
    assert list(tiny.state_dict()) == keys, "tables are not weights"
    assert relative(each, common) > 1e-3, "these times must differ for this test to mean anything"


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
        whole = tiny.velocities(x, t, conditional)
        parts = [tiny.velocities(x[i : i + 1], t[i : i + 1], conditional[i : i + 1]) for i in range(3)]
    assert [velocity.shape for velocity in whole] == [(3, 4, 2, 3), (3, 4, 4, 6), (3, 4, 8, 12)]
    for i, velocity in enumerate(whole):
        assert relative(torch.cat([part[i] for part in parts]), velocity) < 1e-12


def test_the_low_stage_sees_time_the_indicator_and_everything(tiny):
    """The velocity of its first place moves with t, with the indicator, and with the farthest corner of x."""
    x, t, conditional = inputs()
    far = x.clone()
    far[..., -1, -1] += 1
    with torch.no_grad():
        low = tiny.velocities(x, t, conditional)[0]
        for other in ((x, t / 2, conditional), (x, t, ~conditional), (far, t, conditional)):
            moved = (tiny.velocities(*other)[0] - low)[..., 0, 0].abs().amax(dim=1)
            assert (moved > 1e-4 * low.abs().max()).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(tiny, checkpointing):
    """Also with activations computed again, and then with the same gradients to float32 rounding."""
    gradients = []
    for model in (tiny, deepcopy(tiny)):
        model.checkpointing = checkpointing and model is not tiny
        sum(velocity.square().mean() for velocity in model.velocities(*inputs())).backward()
        gradients.append({name: part.grad for name, part in model.named_parameters()})
    idle = [name for name, grad in gradients[0].items() if grad is None or not grad.abs().sum() > 0]
    assert idle == []
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad, rtol=1e-5, atol=1e-7)


def test_checkpointing_keeps_fewer_activations(tiny):
    """Tensors that autograd holds until the backward pass, in elements."""

    def held() -> int:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tiny(*inputs())
        return count

    kept = held()
    tiny.checkpointing = True
    assert held() < kept / 2


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
            assert relative(tiny(x, torch.tensor([1]), conditional)[1:2], rough[1:2]) < 0.05
    assert rough.dtype == torch.float32
    error = F.mse_loss(rough, exact).sqrt() / exact.square().mean().sqrt()
    assert 1e-5 < error < 0.05


def test_time_is_taken_in_float32_by_bfloat16_weights(tiny):
    """Two times that bfloat16 cannot tell apart give different gains before these are rounded."""
    norm = tiny.bfloat16().stages[0].output_layer[0]
    with torch.no_grad():
        norm.weight.nodecay_weight.fill_(100)
        gains = norm.weight(torch.tensor([0.5, 0.501]))
    assert not torch.equal(gains[0], gains[1])


def test_nothing_is_read_back_from_the_device(tiny):
    """Fake tensors have no values, so any branch on one, or any ``item()``, would raise."""
    x, t, conditional = inputs()
    tiny.tabulate(t)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, conditional = mode.from_tensor(x), mode.from_tensor(conditional)
        for time in (t, t[:1], torch.arange(3)):
            assert tiny(x, mode.from_tensor(time), conditional).shape == x.shape


def test_fresh_weights_are_as_the_authors_draw_them():
    """Linear maps and positions of sd 0.02 (to 3 %), norms at rest, convolutions as PyTorch has them."""
    torch.manual_seed(0)
    model = DiMR(SMALL, (4, 32, 32))
    low, high = model.stages
    for weight in (high.upsample[1].kernel.weight, low.input_layer[3].position_embeddings.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not high.upsample[1].kernel.bias.any()
    assert (low.tensor_true.item(), low.tensor_false.item()) == (-1, 1)
    norm = high.output_layer[0]
    assert torch.equal(norm.weight(torch.rand(2)), torch.ones(2, 32))
    assert not norm.bias(torch.rand(2)).any()
    torch.manual_seed(3)
    convolution = nn.Conv2d(32, 4, 3)
    bound = convolution.weight.abs().max().item()
    assert high.output_layer[2].weight.abs().max().item() == pytest.approx(bound, rel=0.01)


def stage(**changes) -> Stage:
    return Stage(**{"block": "transformer", "width": 8, "hidden": 8, "depth": 1, "patch": 1} | changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stage(block="mamba"), "'transformer' or 'convnext'"),
        (lambda: stage(depth=2), "odd"),
        (lambda: stage(kernel=4), "odd"),
        (lambda: stage(heads=3), "heads"),
        (lambda: stage(width=5000), "4096"),
        (lambda: stage(patch=0), "patch is 0"),
        (lambda: DiMRConfig(stages=()), "transformer"),
        (lambda: DiMRConfig(stages=(stage(block="convnext"),)), "indicator"),
        (lambda: DiMRConfig(stages=(stage(patch=2),)), "down to 1"),
        (lambda: DiMRConfig(stages=(stage(patch=3), stage(patch=2), stage())), "multiple"),
        (lambda: DiMRConfig(stages=(stage(), stage())), "multiple"),
        (lambda: DiMR(TINY, (4, 8, 10)), "patches of side 4"),
    ],
)
def test_bad_sizes_are_refused(make, message, monkeypatch):
    """Without the type checks of the test run, as a user has it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(CrossFlowError, match=message):
        make()
