"""The authors' released models once more, as plainly as they can be written: the oracle of test_plain_released.

Functions of a state dict ``w`` under the keys of the released files, for numbers of any precision. Written from the
paper (arXiv 2412.15213) and from the published description of the released files, apart from ``crossflow``, of which
it imports nothing. Sizes are read off the weights; only the numbers of heads are given. Nothing is fused, cached or
batched: attention goes head by head, norms are written out, and each velocity of guidance is a pass of its own.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def text_encoder(w: Weights, tokens: Tensor, mask: Tensor, heads: int = 8) -> tuple[Tensor, Tensor]:
    """Mean and log-variance [b c*h*w] of token embeddings [b n d]; keys where ``mask`` [b n] is 0 are not seen."""
    x, at = tokens, "context_encoder"
    if f"{at}.compressor.fc1.weight" in w:
        x = layer_norm(w, f"{at}.compressor.ln_fc1", linear(w, f"{at}.compressor.fc1", x)).relu()
        x = linear(w, f"{at}.compressor.fc2", x)
    for part in ("layers", "reduction_layers"):
        for i in range(count(w, f"{at}.{part}")):
            here = f"{at}.{part}.{i}"
            q, k, v = (linear(w, f"{here}.attn.W_{name}", x) for name in "QKV")
            x = sample_norm(w, f"{here}.norm1", x + linear(w, f"{here}.attn.W_O", attention(q, k, v, heads, mask)))
            wide = linear(w, f"{here}.feed_forward.ffn_1", x).relu()
            x = sample_norm(w, f"{here}.norm2", x + linear(w, f"{here}.feed_forward.ffn_2", wide))
            if part == "reduction_layers":
                x = linear(w, f"{here}.reduction", x)
    x = x.flatten(1)
    flat = linear(w, f"{at}.linear", x) if f"{at}.linear.weight" in w else adaptor(w, f"{at}.adaptor", x)
    mean, log_var = flat.chunk(2, dim=1)
    return mean, log_var


def adaptor(w: Weights, at: str, x: Tensor) -> Tensor:
    """The head of the 512 px models: two wide layers, their output as a map of one channel, three convolutions."""
    x = layer_norm(w, f"{at}.ln_fc1", linear(w, f"{at}.fc1", x)).relu()
    x = layer_norm(w, f"{at}.ln_fc2", linear(w, f"{at}.fc2", x)).relu()
    side = math.isqrt(x.shape[1])
    x = x.reshape(-1, 1, side, side)
    x = layer_norm(w, f"{at}.ln_conv1", convolution(w, f"{at}.conv1", x)).relu()
    x = layer_norm(w, f"{at}.ln_conv2", convolution(w, f"{at}.conv2", x)).relu()
    return convolution(w, f"{at}.conv3", x).flatten(1)


def dimr(w: Weights, x: Tensor, t: Tensor, null: Tensor, heads: int) -> list[Tensor]:
    """The velocity of every stage, low to high resolution, for x [b c h w], t [b] and the indicator ``null`` [b]."""
    velocities, features = [], torch.empty(0)
    for stage in range(count(w, "stages")):
        at = f"stages.{stage}"
        kernel = w[f"{at}.input_layer.1.weight"]
        z = F.conv2d(x, kernel, w[f"{at}.input_layer.1.bias"], stride=kernel.shape[-1]).movedim(1, -1)
        b, rows, columns, width = z.shape
        z = z + w[f"{at}.input_layer.3.position_embeddings.weight"].reshape(rows, columns, width)
        if stage > 0:
            z = z + upsampled(w, f"{at}.upsample", features, rows, t)
        indicated = f"{at}.tensor_true" in w
        if indicated:
            signs = torch.where(null, w[f"{at}.tensor_true"], w[f"{at}.tensor_false"])
            z = torch.cat([signs[:, None, None].expand(b, 1, width), z.reshape(b, rows * columns, width)], dim=1)
        depth, outputs, skips = count(w, f"{at}.blocks"), [z], []
        for i in range(depth):
            if i > depth // 2:
                z = linear(w, f"{at}.skip_denses.{i - depth // 2 - 1}", torch.cat([z, skips.pop()], dim=-1))
            z = block(w, f"{at}.blocks.{i}", z, t, heads)
            if i < depth // 2:
                skips.append(z)
            outputs.append(z)
        if indicated:
            outputs = [each[:, 1:].reshape(b, rows, columns, width) for each in outputs]
        features = torch.cat(outputs, dim=-1)
        last = time_layer_norm(w, f"{at}.output_layer.0", outputs[-1], t)
        velocities.append(convolution(w, f"{at}.output_layer.2", last.movedim(-1, 1)))
    return velocities


def block(w: Weights, at: str, z: Tensor, t: Tensor, heads: int) -> Tensor:
    """One block of a DiMR stage: attention on tokens [b n d], or a depthwise convolution on maps [b h w d]; a GEGLU."""
    if f"{at}.block1.dense.weight" in w:
        normed = time_rms_norm(w, f"{at}.block1.norm", z, t)
        q, k, v = (normed @ w[f"{at}.block1.query_key_value.weight"].T).chunk(3, dim=-1)
        z = z + linear(w, f"{at}.block1.dense", attention(q, k, v, heads))
    else:
        maps = z.movedim(-1, 1)
        z = z + convolution(w, f"{at}.block1.1", maps, groups=maps.shape[1]).movedim(1, -1)
    normed = time_rms_norm(w, f"{at}.block2.norm", z, t)
    gate = linear(w, f"{at}.block2.w0", normed)
    gate = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2)))
    return z + linear(w, f"{at}.block2.w2", gate * linear(w, f"{at}.block2.w1", normed))


def upsampled(w: Weights, at: str, features: Tensor, rows: int, t: Tensor) -> Tensor:
    """All features [b h w d] of the stage below as maps of ``rows`` rows: each place gives a square of places."""
    b, h, width, _ = features.shape
    r = rows // h
    wide = linear(w, f"{at}.1.kernel", time_layer_norm(w, f"{at}.0", features, t))
    wide = wide.reshape(b, h, width, r, r, -1)
    maps = torch.empty(b, h * r, width * r, wide.shape[-1], dtype=wide.dtype)
    for down in range(r):
        for right in range(r):
            maps[:, down::r, right::r] = wide[:, :, :, down, right]
    return time_layer_norm(w, f"{at}.2", maps, t)


def dit(w: Weights, x: Tensor, t: Tensor, null: Tensor, heads: int) -> list[Tensor]:
    """The velocity [b c h w] of a DiT, alone in a list."""
    kernel = w["x_embedder.proj.weight"]
    b, c, p = len(x), kernel.shape[1], kernel.shape[-1]
    maps = F.conv2d(x, kernel, w["x_embedder.proj.bias"], stride=p)
    rows, columns = maps.shape[2:]
    z = maps.flatten(2).movedim(1, -1) + w["pos_embed"]
    half = w["t_embedder.mlp.0.weight"].shape[1] // 2
    angles = torch.stack([t * 10000 ** (-i / half) for i in range(half)], dim=1)
    time = linear(w, "t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    time = linear(w, "t_embedder.mlp.2", time * time.sigmoid())
    condition = time + w["y_embedder.embedding_table.weight"][null.long()]
    condition = (condition * condition.sigmoid())[:, None]
    for i in range(count(w, "blocks")):
        at = f"blocks.{i}"
        s1, m1, g1, s2, m2, g2 = linear(w, f"{at}.adaLN_modulation.1", condition).chunk(6, dim=-1)
        q, k, v = linear(w, f"{at}.attn.qkv", standard(z, 1e-6) * (1 + m1) + s1).chunk(3, dim=-1)
        z = z + g1 * linear(w, f"{at}.attn.proj", attention(q, k, v, heads))
        wide = linear(w, f"{at}.mlp.fc1", standard(z, 1e-6) * (1 + m2) + s2)
        wide = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        z = z + g2 * linear(w, f"{at}.mlp.fc2", wide)
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", condition).chunk(2, dim=-1)
    z = linear(w, "final_layer.linear", standard(z, 1e-6) * (1 + scale) + shift).reshape(b, rows, columns, p, p, c)
    velocity = torch.empty_like(x)
    for down in range(p):
        for right in range(p):
            velocity[:, :, down::p, right::p] = z[:, :, :, down, right].movedim(-1, 1)
    return [velocity]


def official_euler(
    velocities: Callable[[Tensor, Tensor, Tensor], list[Tensor]], x: Tensor, steps: int, scale: float
) -> Tensor:
    """The authors' sampler with guidance: times to the very end, steps that are a little shorter than their spacing."""
    conditional, null = (torch.full((len(x),), value) for value in (False, True))
    for i in range(steps):
        t = torch.full((len(x),), (1 - 1e-5) * i / (steps - 1), dtype=x.dtype)
        v, v_null = velocities(x, t, conditional)[-1], velocities(x, t, null)[-1]
        x = x + (1 - 1e-5) / steps * (v_null + scale * (v - v_null))
    return x


def flow_loss(velocities: list[Tensor], x0: Tensor, x1: Tensor, weights: list[float]) -> Tensor:
    """Per item: of every stage the mean squared error, its target the velocity summed over windows and divided by r."""
    target = x1 - (1 - 1e-5) * x0
    total = torch.zeros(len(x0), dtype=x0.dtype)
    for velocity, weight in zip(velocities, weights, strict=True):
        r = target.shape[-1] // velocity.shape[-1]
        pooled = sum(target[:, :, down::r, right::r] for down in range(r) for right in range(r)) / r
        total = total + weight * (velocity - pooled).square().flatten(1).mean(1)
    return total


def on_path(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """The point at t [b] between the source and the target."""
    t = t.reshape(-1, 1, 1, 1)
    return t * x1 + (1 - (1 - 1e-5) * t) * x0


def rolled(x1: Tensor, null: Tensor) -> Tensor:
    """The targets, those of the null items shifted by one among themselves."""
    x1 = x1.clone()
    x1[null] = torch.cat([x1[null][1:], x1[null][:1]])
    return x1


def official_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """Per item, summed over dimensions, with (0.3 mean)^6 in place of mean^2."""
    return -0.5 * (1 + log_var - (0.3 * mean) ** 6 - log_var.exp()).sum(1)


def contrastive_loss(source: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss of rows [b d] that belong together; ``scale`` itself multiplies the cosines, not its exponential."""
    source = source / source.square().sum(1, keepdim=True).sqrt()
    image = image / image.square().sum(1, keepdim=True).sqrt()
    logits = scale * image @ source.T
    own = logits.diagonal()
    return 0.5 * ((logits.logsumexp(0) - own).mean() + (logits.logsumexp(1) - own).mean())


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention [b n d], one head after the other; scores of masked keys become -1e9."""
    size, outputs = q.shape[-1] // heads, []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        outputs.append(scores.softmax(-1) @ v[..., own])
    return torch.cat(outputs, dim=-1)


def linear(w: Weights, at: str, x: Tensor) -> Tensor:
    """A dense layer on the last axis."""
    return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]


def convolution(w: Weights, at: str, maps: Tensor, groups: int = 1) -> Tensor:
    """A convolution of maps [b c h w] that keeps their size."""
    kernel = w[f"{at}.weight"]
    return F.conv2d(maps, kernel, w[f"{at}.bias"], padding=kernel.shape[-1] // 2, groups=groups)


def standard(x: Tensor, eps: float, axes: int = 1) -> Tensor:
    """Mean 0 and variance 1 over the last ``axes`` axes, with the biased variance."""
    over = list(range(-axes, 0))
    centred = x - x.mean(over, keepdim=True)
    return centred / (centred.square().mean(over, keepdim=True) + eps).sqrt()


def layer_norm(w: Weights, at: str, x: Tensor) -> Tensor:
    """An ordinary layer norm over as many axes as its gain has."""
    gain = w[f"{at}.weight"]
    return gain * standard(x, 1e-5, gain.ndim) + w[f"{at}.bias"]


def sample_norm(w: Weights, at: str, x: Tensor) -> Tensor:
    """The text encoder's own norm: the deviation is that of a sample (n - 1), and 1e-5 is added to it."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
    return w[f"{at}.g"] * centred / (deviation + 1e-5) + w[f"{at}.b"]


def time_layer_norm(w: Weights, at: str, x: Tensor, t: Tensor) -> Tensor:
    """A layer norm whose gain and bias depend on time."""
    return at_time(w, f"{at}.weight", t, x) * standard(x, 1e-5) + at_time(w, f"{at}.bias", t, x)


def time_rms_norm(w: Weights, at: str, x: Tensor, t: Tensor) -> Tensor:
    """x over its root mean square plus 1e-8, times a gain that depends on time."""
    return at_time(w, f"{at}.scale", t, x) * x / root_mean_square(x)


def root_mean_square(x: Tensor) -> Tensor:
    """Of the last axis, plus 1e-8."""
    return x.square().mean(-1, keepdim=True).sqrt() + 1e-8


def at_time(w: Weights, at: str, t: Tensor, x: Tensor) -> Tensor:
    """A time-dependent parameter, between param1 and param0, for each item; its axes are those of x."""
    tau = (1 - 2 * t)[:, None]
    share = torch.sigmoid(tau * (w[f"{at}.nodecay_weight"] + 1) + w[f"{at}.nodecay_bias"])
    value = share * w[f"{at}.param0"] + (1 - share) * w[f"{at}.param1"]
    return value.reshape(len(t), *[1] * (x.ndim - 2), -1)


def count(w: Weights, at: str) -> int:
    """How many parts at.0, at.1, ... there are."""
    n = 0
    while any(name.startswith(f"{at}.{n}.") for name in w):
        n += 1
    return n
