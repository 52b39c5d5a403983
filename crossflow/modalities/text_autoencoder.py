"""Text as latents, for flows that generate text: an encoder from words to latents, and a decoder back.

The paper has a "text decoder" of stacked transformer blocks with a reconstruction loss, without sizes. Ours predicts
all positions in parallel (it is not autoregressive) and is trained jointly with the flow, but by its own loss alone:
the flow gets detached latents, because latents that the flow loss could move would collapse to what is easy to reach.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.modality import Modality, Reached
from crossflow.networks.blocks import Block, at_least_float32, check_sizes, initialise
from crossflow.networks.token_encoder import TokenEncoder, TokenEncoderConfig

PAD = 0
"""The token id of padding; word ids start at 1."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class TextDecoderConfig:
    """Sizes of a text decoder: ``depth`` blocks of ``width``, for texts of up to ``count`` tokens.

    ``words`` is the vocabulary, in lower case; a punctuation mark is a word.
    """

    words: tuple[str, ...]
    count: int
    width: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        check_sizes(words=len(self.words), count=self.count, width=self.width, depth=self.depth, heads=self.heads)


@dataclass(frozen=True, kw_only=True)
class TextAutoencoderConfig(TextDecoderConfig):
    """A decoder, and an encoder of the same sizes.

    ``kl_weight`` multiplies the KL of the posterior, summed over dimensions; None is a deterministic encoder (the
    paper's "Text Encoder"). ``scale`` multiplies the latents, of standard deviation about 1, for the flow; a small one
    moves the times at which the flow decides on content towards the middle of the path.
    """

    kl_weight: float | None = 1e-5
    scale: float = 1.0
    name: Literal["text"] = "text"
    kind: Literal["text"] = "text"
    drawn: ClassVar[bool] = True
    external: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "TextAutoencoder":
        """The modality for latents of ``shape`` (c, h, w)."""
        return TextAutoencoder(self, shape)


def word_count(text: str) -> int:
    """The number of tokens of a text; a punctuation mark is one."""
    return len(_WORD.findall(text))


def tokenized(captions: Sequence[str], config: TextDecoderConfig) -> Int[Tensor, "b n"]:
    """Token ids of captions, one per word, padded with 0. CrossFlowError for unknown words or too many words."""
    known = {word: token for token, word in enumerate(config.words, 1)}
    tokens = torch.full((len(captions), config.count), PAD)
    for row, caption in zip(tokens, captions, strict=True):
        words = _WORD.findall(caption.lower())
        if unknown := [word for word in words if word not in known]:
            raise CrossFlowError(f"The word {unknown[0]!r} is not in this model's vocabulary of {len(known)}.")
        if len(words) > len(row):
            raise CrossFlowError(f"A caption has {len(words)} words, and this model's have at most {len(row)}.")
        row[: len(words)] = torch.tensor([known[word] for word in words])
    return tokens


class TextDecoder(nn.Module):
    """Latents of ``shape`` -> logits [b n v] over the vocabulary at every position; column 0 is padding."""

    def __init__(self, config: TextDecoderConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels, rows, columns = shape
        self.embed = nn.Linear(channels, config.width)
        self.position = nn.Parameter(torch.randn(1, rows * columns, config.width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, config.count, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1 + len(config.words))
        self.apply(initialise)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n v"]:
        """Learned queries, one per text position, attend to the latent positions."""
        places = self.places.expand(len(latents), -1, -1)
        x = torch.cat([places, self.embed(latents.flatten(2).transpose(1, 2)) + self.position], dim=1)
        for block in self.blocks:
            x = block(x)
        return at_least_float32(self.head(self.norm(x[:, : places.shape[1]])))

    def texts(self, latents: Float[Tensor, "b c h w"]) -> list[str]:
        """The most likely word at every position, up to the first padding token."""
        texts = []
        for row in self(latents).argmax(-1).tolist():
            words = row[: row.index(PAD)] if PAD in row else row
            text = " ".join(self.config.words[word - 1] for word in words)
            texts.append(re.sub(r" ([^\w\s])", r"\1", text))
        return texts


class TextAutoencoder(Modality):
    """Captions to latents of ``shape`` and back."""

    learns = True

    def __init__(self, config: TextAutoencoderConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(1 + len(config.words), config.width)
        self.position = nn.Parameter(torch.randn(1, config.count, config.width) * 0.5)
        own = TokenEncoderConfig(width=config.width, depth=config.depth, heads=config.heads)
        self.encoder = TokenEncoder(own, shape, config.count, config.width)
        self.decoder = TextDecoder(config, shape)

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids of captions; see ``tokenized``."""
        return tokenized(captions, self.config)

    def encode(self, words: Int[Tensor, "b n"]) -> Gaussian:
        """The posterior over latents of token ids."""
        posterior = Gaussian(*self.encoder.moments(self.embed(words) + self.position, words != PAD))
        if self.config.kl_weight is None:
            posterior = Gaussian(posterior.mean, torch.full_like(posterior.mean, -torch.inf))
        return posterior

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        return self.tokenize(raw)

    def reach(self, values: Int[Tensor, "b n"], noise: Float[Tensor, "b c h w"] | None) -> Reached:
        """Latents of token ids, and the loss: mean cross-entropy over all positions plus the weighted KL."""
        posterior = self.encode(values)
        latents = posterior.mean if noise is None else posterior.sample(noise)
        loss = F.cross_entropy(self.decoder(latents).flatten(0, 1), values.flatten())
        if self.config.kl_weight is not None:
            loss = loss + self.config.kl_weight * losses.kl(posterior.mean, posterior.log_var, "standard").mean()
        return Reached(self.config.scale * latents.detach(), loss)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> list[str]:
        """The texts of scaled latents, as the flow generates them."""
        return self.decoder.texts(latents / self.config.scale)
