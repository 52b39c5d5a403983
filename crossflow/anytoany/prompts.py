"""Prompts of every modality as unit vectors in one space: the encoders, and the contrast that aligns them.

CoDi's bridging alignment (arXiv 2305.11846, section 3.2): text is aligned with images, and then every other modality
with the text, which is frozen by then. So two modalities that were never seen together lie in one space.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.flow import losses
from crossflow.flow.losses import gather
from crossflow.losses.towers import LearnedScale
from crossflow.modalities import TargetConfig
from crossflow.modalities.text_autoencoder import PAD, Texts
from crossflow.networks.blocks import Block, PatchTokens, Positions, at_least_float32, check_sizes, initialise

ROUNDING = 1e-6
"""Cosines that differ by less are equal: two items read alike, in other places of a batch."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Sizes of the prompt encoders, which end in ``tokens`` unit vectors of ``vector`` numbers.

    CoDi's is one vector; its critics' remedy for what a mean of vectors forgets is several. ``positions`` is how those
    of latents start.
    """

    width: int = 96
    depth: int = 2
    heads: int = 4
    tokens: int = 1
    vector: int = 64
    positions: Positions = "small"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, tokens=self.tokens, vector=self.vector)

    def build(self, codec: TargetConfig, shape: tuple[int, int, int]) -> "WordPrompt | LatentPrompt":
        """The encoder of a modality: of words where the codec has a vocabulary, else of latents of ``shape``."""
        return WordPrompt(self, codec) if isinstance(codec, Texts) else LatentPrompt(self, shape)


class Readout(nn.Module):
    """Learned tokens that attend to those of an item, each of which becomes a unit vector."""

    def __init__(self, config: PromptConfig) -> None:
        super().__init__()
        self.readers = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.vector)

    def forward(
        self, tokens: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b k d"]:
        """``mask`` is False at padding."""
        count = self.readers.shape[1]
        x = torch.cat([self.readers.expand(len(tokens), -1, -1), tokens], dim=1)
        seen = None if mask is None else torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
        for block in self.blocks:
            x = block(x, seen)
        return F.normalize(at_least_float32(self.out(self.norm(x[:, :count]))), dim=-1)


class LatentPrompt(nn.Module):
    """Latents of a codec, of ``shape`` (c, h, w), to k unit vectors."""

    words = False
    """Whether it reads the token ids of a text, and not latents."""

    def __init__(self, config: PromptConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latents = PatchTokens(shape, 1, config.width, config.positions)
        self.readout = Readout(config)
        self.apply(initialise)

    def forward(self, read: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k d"]:
        return self.readout(self.latents(read))


class WordPrompt(nn.Module):
    """Token ids of a text, padded, to k unit vectors.

    It reads the words and not the latents of a text: these say the same, but in a code that has to be broken first.
    """

    words = True

    def __init__(self, config: PromptConfig, texts: Texts) -> None:
        super().__init__()
        self.embed = nn.Embedding(1 + texts.vocabulary.size, config.width)
        self.places = nn.Parameter(torch.randn(1, texts.count, config.width) * 0.5)
        self.readout = Readout(config)
        self.apply(initialise)

    def forward(self, read: Int[Tensor, "b n"]) -> Float[Tensor, "b k d"]:
        return self.readout(self.embed(read) + self.places, read != PAD)


class Contrast(nn.Module):
    """Symmetric InfoNCE between the prompt vectors of two modalities: in the batch, and over a queue of earlier ones.

    The queue holds the last ``length`` pairs of keys and their ids: what has an item's id is no wrong answer for it.
    Keys are of encoders that follow slowly (``follow``), and so are the right answers beside them. With the learning
    encoders' own vectors of earlier steps, moving away from what they were is all that would be learnt. The queue is a
    buffer, so that a training resumes to the same bits.
    """

    keys: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, config: PromptConfig, length: int) -> None:
        super().__init__()
        self.scaled = LearnedScale("exp")
        self.register_buffer("keys", torch.zeros(2, length, config.tokens * config.vector))
        self.register_buffer("ids", torch.full((length,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        vectors: tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"]],
        keys: tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"]],
        same: Int[Tensor, " b"],
        wrong: Float[Tensor, "b n k d"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of pairs, mean over both directions, and over the batch and the queue.

        Items with one id in ``same``, at least 0, are answers to one another. ``wrong`` are n vectors of the first
        modality a pair, which differ from its own in one thing, as further wrong answers to the other modality.
        """
        scale, ids = self.scaled.scale, gather(same)
        inside = losses.contrastive(*vectors, scale, same, wrong)
        with torch.autocast(vectors[0].device.type, enabled=False):
            own, kept = (torch.stack([gather(_flat(each).float()) for each in pair]) for pair in (vectors, keys))
            answers = (ids[:, None] == ids[None, :]).float()
            share = answers / answers.sum(1, keepdim=True)
            void = (self.ids[None, :] < 0) | (self.ids[None, :] == ids[:, None])
            earlier = self.keys.clone()  # the queue itself changes before the backward pass
            queued = own.new_zeros(())
            for asked, near, far in zip(scale * own, kept.flip(0), earlier.flip(0), strict=True):
                logits = torch.cat([asked @ near.T, (asked @ far.T).masked_fill(void, -torch.inf)], dim=1)
                found = logits[:, : len(ids)] - logits.logsumexp(1, keepdim=True)
                queued = queued - 0.5 * (share * found).sum(1).mean()
        if self.training:
            self._enqueue(kept.detach(), ids)
        return 0.5 * (inside + queued)

    def _enqueue(self, pairs: Float[Tensor, "2 b d"], ids: Int[Tensor, " b"]) -> None:
        """Put the pairs over the oldest."""
        pairs, ids = pairs[:, -len(self.ids) :], ids[-len(self.ids) :]
        rows = (self.place + torch.arange(len(ids), device=ids.device)) % len(self.ids)
        self.keys[:, rows] = pairs
        self.ids[rows] = ids
        self.place.copy_((self.place + len(ids)) % len(self.ids))


def _flat(vectors: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b kd"]:
    """Several unit vectors as one: the cosine of two such is the mean of those of their parts."""
    return vectors.flatten(-2) / vectors.shape[-2] ** 0.5


def follow(slow: nn.Module, fast: nn.Module, share: float) -> None:
    """Move the weights of ``slow`` by a ``share`` of the way to those of ``fast``."""
    with torch.no_grad():
        for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
            one.lerp_(other, share)


def found_first(questions: Float[Tensor, "n k d"], answers: Float[Tensor, "n k d"]) -> Float[Tensor, " n"]:
    """Whether each question's own answer is the nearest of all n, one of m equally near as 1 / m: the mean is R@1."""
    cosines = _flat(questions) @ _flat(answers).T
    best = cosines.max(1, keepdim=True).values - ROUNDING
    return (cosines.diagonal() >= best[:, 0]) / (cosines >= best).sum(1)
