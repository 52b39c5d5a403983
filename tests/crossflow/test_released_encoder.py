"""The released text encoder against the authors' program, and what its parts promise."""

import json

import pytest
import torch
from golden_files import golden_file
from safetensors.torch import load_file
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.networks.adaptor import Adaptor
from crossflow.sources.released import Norm, ReleasedEncoder, ReleasedEncoderConfig

CLIP = ReleasedEncoderConfig(width=768, depth=11, hidden=1024)
T5 = ReleasedEncoderConfig(width=1024, depth=11, hidden=1024, compress=True)
CLIP_512 = ReleasedEncoderConfig(width=768, depth=11, hidden=1024, adaptor=(4096, 32, 64))
T5_512 = ReleasedEncoderConfig(width=1024, depth=11, hidden=1024, compress=True, adaptor=(4096, 32, 64))
TINY = ReleasedEncoderConfig(width=16, depth=2, hidden=12, heads=2, compress=True, adaptor=(20, 3, 5))
"""Compressor and adaptor both."""


@pytest.fixture
def tiny() -> ReleasedEncoder:
    torch.manual_seed(0)
    return ReleasedEncoder(TINY, (4, 6, 6), token_count=5, token_width=24).eval()


def texts(count: int = 3) -> tuple[Tensor, Tensor]:
    """Tokens of different lengths, five at most."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 5, 24, generator=generator), torch.arange(5) < torch.tensor([[2], [5], [3]])[:count]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.flatten(1) - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", ["dimr_small", "dit_small"])
def test_the_posterior_and_its_sample_are_the_official_ones(name):
    """Within 1e-5 of the largest value in float32; the keys are ours after a prefix."""
    golden = load_file(golden_file(f"{name}.tensors.safetensors"))
    weights = load_file(golden_file(f"{name}.weights.safetensors"))
    prefix = "context_encoder."
    encoder = ReleasedEncoder(ReleasedEncoderConfig(width=64, depth=2, hidden=96), (4, 32, 32), 16, 64).eval()
    encoder.load_state_dict({key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})
    with torch.no_grad():
        posterior = encoder(golden["ve.text"], golden["ve.mask"].bool())
    sample = posterior.sample(golden["ve.noise"].reshape(-1, 4, 32, 32))
    for ours, theirs in zip((*posterior, sample), ("ve.mean", "ve.log_var", "ve.sample"), strict=True):
        assert relative(ours, golden[theirs]) < 1e-5


@pytest.mark.parametrize(
    ("name", "config", "side", "count"),
    [
        ("t2i_256px_clip_dimr", CLIP, 32, 110_156_512),
        ("t2i_256px_t5_dimr", T5, 32, 165_197_440),
        ("t2i_512px_clip_dimr", CLIP_512, 64, 97_482_344),
        ("t2i_512px_t5_dimr", T5_512, 64, 142_430_728),
        ("t2i_512px_t5_dit", T5_512, 64, 142_430_728),
        ("t2i_training_demo", CLIP_512, 64, 97_482_344),
    ],
)
def test_released_sizes_have_the_released_keys_and_counts(name, config, side, count):
    """The image head at 512 pixels too, which is an adaptor."""
    with torch.device("meta"):
        encoder = ReleasedEncoder(config, (4, side, side), 77, 4096 if config.compress else 768)
        head = Adaptor(1024, 4, 64)
    keys = json.loads(golden_file("released_keys.json").read_text())[name]
    parts = {"context_encoder.": encoder} | ({"open_clip_output.": head} if config.adaptor else {})
    for prefix, module in parts.items():
        ours = {prefix + key: list(value.shape) for key, value in module.state_dict().items()}
        assert ours == {key: shape for key, shape in keys.items() if key.startswith(prefix)}
    assert sum(part.numel() for part in encoder.parameters()) == count
    assert sum(part.numel() for part in head.parameters()) == 21_803_652


def test_the_norm_divides_by_the_unbiased_deviation_plus_a_constant():
    """By hand: (1, 2, 3) has mean 2 and unbiased deviation 1; a constant vector stays finite."""
    norm = Norm(3)
    with torch.no_grad():
        norm.g.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.b.fill_(0.5)
        x = torch.tensor([[[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]])
        expected = torch.tensor([[[0.5 - 1 / 1.00001, 0.5, 0.5 + 3 / 1.00001], [0.5, 0.5, 0.5]]])
        torch.testing.assert_close(norm(x), expected)


def test_padding_is_never_attended_to_but_is_read_by_the_head(tiny):
    """Other numbers in the padding leave every token of the text as it was, and move the posterior."""
    tokens, mask = texts()
    other = torch.where(mask[..., None], tokens, tokens + 1)
    seen = []
    tiny.linear.register_forward_pre_hook(lambda _, flat: seen.append(flat[0].unflatten(1, (5, -1))))
    with torch.no_grad():
        before, after = tiny(tokens, mask), tiny(other, mask)
    assert torch.equal(seen[0][mask], seen[1][mask])
    assert not torch.equal(seen[0][~mask], seen[1][~mask])
    assert torch.equal(before.mean[1], after.mean[1]), "the second text has no padding"
    assert (before.mean - after.mean)[[0, 2]].abs().amax(dim=(1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("size", [(5, 12), (4, 16)])
def test_tokens_of_another_language_model_are_refused(size):
    encoder = ReleasedEncoder(ReleasedEncoderConfig(width=16, depth=1, hidden=12, heads=2), (1, 2, 2), 5, 16)
    said = f"came as {size[0]} x {size[1]} numbers, but this model reads 5 x 16: give the language model that it was tr"
    with pytest.raises(CrossFlowError, match=said):
        encoder(torch.zeros(2, *size), torch.ones(2, size[0], dtype=torch.bool))


def test_tokens_have_no_positions():
    """Without the head, which reads them in order, a shuffled text is the shuffled result."""
    torch.manual_seed(0)
    encoder = ReleasedEncoder(ReleasedEncoderConfig(width=16, depth=2, hidden=12, heads=2), (1, 2, 2), 5, 16).eval()
    x, mask, order = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool), torch.tensor([3, 1, 4, 0, 2])
    y, shuffled = x, x[:, order]
    with torch.no_grad():
        for layer in (*encoder.layers, *encoder.reduction_layers):
            y, shuffled = layer(y, mask), layer(shuffled, mask)
    assert y.shape == (1, 5, 2)
    torch.testing.assert_close(shuffled, y[:, order])


def test_mean_comes_first_and_channels_before_places():
    """Through the last bias: the flat output is (mean, log-variance) x channel x row x column."""
    encoder = ReleasedEncoder(ReleasedEncoderConfig(width=8, depth=1, hidden=4, reductions=1), (2, 2, 3), 3, 8)
    with torch.no_grad():
        encoder.linear.weight.zero_()
        encoder.linear.bias.copy_(torch.arange(24.0))
        posterior = encoder(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    assert torch.equal(posterior.mean[0], torch.arange(12.0).reshape(2, 2, 3))
    assert torch.equal(posterior.log_var[0], torch.arange(12.0, 24.0).reshape(2, 2, 3))


def test_equal_layers_start_from_equal_weights(tiny):
    """The authors copy one template; the halving layers are drawn one by one."""
    first, second = (layer.state_dict() for layer in tiny.layers)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(tiny.reduction_layers[0].attn.W_Q.weight, tiny.layers[0].attn.W_Q.weight)
    tiny.layers[0].attn.W_Q.weight.data.zero_()
    assert tiny.layers[1].attn.W_Q.weight.any(), "they are copies, not the same parameter"


def test_dropout_is_for_training_alone(tiny):
    tokens, mask = texts()
    with torch.no_grad():
        assert torch.equal(tiny(tokens, mask).mean, tiny(tokens, mask).mean)
        still = tiny.train()(tokens, mask).mean
        assert not torch.equal(tiny(tokens, mask).mean, still)
        attention = tiny.layers[0].attn
        x = torch.randn(3, 5, 16)
        assert not torch.equal(attention(x, mask), attention.eval()(x, mask)), "its weights are dropped as well"


def test_gradients_reach_every_parameter(tiny):
    posterior = tiny(*texts())
    (posterior.mean.square() + posterior.log_var.square()).mean().backward()
    idle = [name for name, part in tiny.named_parameters() if part.grad is None or not part.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_runs_and_answers_in_float32(tiny, way):
    """Within 10 % of the float32 mean in root mean square: bfloat16 keeps 8 bits, and every layer ends in a norm."""
    tokens, mask = texts()
    with torch.no_grad():
        exact = tiny(tokens, mask).mean
        if way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                posterior = tiny(tokens, mask)
        else:
            posterior = tiny.bfloat16()(tokens, mask)
    assert posterior.mean.dtype == posterior.log_var.dtype == torch.float32
    error = (posterior.mean - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReleasedEncoderConfig(width=20, depth=1, hidden=4, heads=2), "halve"),
        (lambda: ReleasedEncoderConfig(width=12, depth=1, hidden=4, heads=8, reductions=0), "8 heads"),
        (lambda: ReleasedEncoderConfig(width=64, depth=1, hidden=4, dropout=1.0), "dropout"),
        (lambda: ReleasedEncoderConfig(width=64, depth=0, hidden=4), "depth is 0"),
        (lambda: ReleasedEncoderConfig(width=64, depth=1, hidden=4, adaptor=(5000, 1, 1)), "4096"),
        (lambda: ReleasedEncoder(CLIP, (4, 2, 2), 3, 1024), "set compress"),
        (lambda: ReleasedEncoder(TINY, (4, 6, 8), 3, 24), "squares"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(CrossFlowError, match=message):
        make()
