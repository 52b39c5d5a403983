"""Text as latents, for flows that generate text: an encoder from words to latents, and a decoder back.

The paper has a "text decoder" of stacked transformer blocks with a reconstruction loss, without sizes. Ours predicts
all positions in parallel (it is not autoregressive) and is trained jointly with the flow, but by its own loss alone:
the flow gets detached latents, because latents that the flow loss could move would collapse to what is easy to reach.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError, first_few
from crossflow.flow import losses
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.modality import Modality, Reached
from crossflow.networks.blocks import Block, at_least_float32, check_sizes, initialise
from crossflow.networks.token_encoder import TokenEncoder, TokenEncoderConfig

PAD = 0
"""The token id of padding; word ids start at 1."""
AT_A_TIME = 16
"""Texts whose logits are in memory at once: of a large vocabulary they are large."""
_WORD = re.compile(r"\w+|[^\w\s]")


@runtime_checkable
class Vocabulary(Protocol):
    """Texts to token ids and back; ids are 1 ... ``size``, and ``PAD`` is none of them."""

    @property
    def size(self) -> int:
        """How many ids there are."""
        ...

    def encode(self, captions: Sequence[str], count: int) -> Int[Tensor, "b n"]:
        """The token ids of texts, padded to ``count``. CrossFlowError for a text that it cannot encode."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without padding."""
        ...


@runtime_checkable
class Texts(Protocol):
    """The config of a text decoder, whatever its vocabulary; the sizes are those of ``TextDecoderConfig``.

    By the readout ``grid`` text positions attend to latent positions, as in ``TokenEncoder``; by ``flat`` one linear
    map of the whole latent begins all of them, so that the latent's height and width mean nothing to the text.
    ``counts`` says at which positions the loss is: ``all``, or those of the ``text`` and the one that ends it, the only
    ones that are read.
    """

    readout: ClassVar[Literal["grid", "flat"]]
    counts: ClassVar[Literal["all", "text"]]

    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def count(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...


@runtime_checkable
class AutoencodedTexts(Texts, Protocol):
    """The config of a text autoencoder; see ``TextAutoencoderConfig``.

    ``tied`` embeds tokens by the rows that predict them, so that rare ones are learnt sooner.
    """

    tied: ClassVar[bool]

    @property
    def varied(self) -> float: ...
    @property
    def kl_weight(self) -> float | None: ...
    @property
    def scale(self) -> float: ...


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
    readout: ClassVar[Literal["grid", "flat"]] = "grid"
    counts: ClassVar[Literal["all", "text"]] = "all"

    def __post_init__(self) -> None:
        check_sizes(words=len(self.words), count=self.count, width=self.width, depth=self.depth, heads=self.heads)

    @property
    def vocabulary(self) -> "Words":
        return Words(self.words)


@dataclass(frozen=True, kw_only=True)
class TextAutoencoderConfig(TextDecoderConfig):
    """A decoder, and an encoder of the same sizes.

    ``kl_weight`` multiplies the KL of the posterior, summed over dimensions; None is a deterministic encoder (the
    paper's "Text Encoder"). ``scale`` multiplies the latents, of standard deviation about 1, for the flow; a small one
    moves the times at which the flow decides on content towards the middle of the path. ``varied`` is the share of
    texts and of tokens that training varies (see ``vary``).
    """

    kl_weight: float | None = 1e-5
    scale: float = 1.0
    varied: float = 0.0
    name: Literal["text"] = "text"
    kind: Literal["text"] = "text"
    drawn: ClassVar[bool] = True
    external: ClassVar[bool] = False
    tied: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "TextAutoencoder":
        """The modality for latents of ``shape`` (c, h, w)."""
        return TextAutoencoder(self, shape)


def word_count(text: str) -> int:
    """The number of tokens of a text; a punctuation mark is one."""
    return len(_WORD.findall(text))


def tokenized(captions: Sequence[str], config: Texts) -> Int[Tensor, "b n"]:
    """Token ids of captions, padded with 0; CrossFlowError for a caption that the vocabulary cannot encode."""
    return config.vocabulary.encode(captions, config.count)


@dataclass(frozen=True)
class Words:
    """A vocabulary of whole words in lower case; a punctuation mark is a word."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.words)

    def encode(self, captions: Sequence[str], count: int) -> Int[Tensor, "b n"]:
        """One id a word. CrossFlowError for unknown words or too many words."""
        known = {word: token for token, word in enumerate(self.words, 1)}
        tokens = torch.full((len(captions), count), PAD)
        for row, caption in zip(tokens, captions, strict=True):
            words = _WORD.findall(caption.lower())
            if unknown := [word for word in words if word not in known]:
                raise CrossFlowError(
                    f"The word {unknown[0]!r} is not in this model's vocabulary of {len(known)}: say it in other "
                    f"words: {first_few(sorted(filter(str.isalpha, known)), 60)}."
                )
            if len(words) > len(row):
                raise CrossFlowError(
                    f"A caption has {len(words)} words, and this model's have at most {len(row)}: shorten it."
                )
            row[: len(words)] = torch.tensor([known[word] for word in words])
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        return closed_up(" ".join(self.words[word - 1] for word in ids))


def closed_up(text: str) -> str:
    """A text of words between spaces, with no space before a punctuation mark."""
    return re.sub(r" ([^\w\s])", r"\1", text)


class TextDecoder(nn.Module):
    """Latents of ``shape`` -> logits [b n v] over the vocabulary at every position; column 0 is padding."""

    def __init__(self, config: Texts, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        channels, rows, columns = shape
        if config.readout == "grid":
            self.embed = nn.Linear(channels, config.width)
            self.position = nn.Parameter(torch.randn(1, rows * columns, config.width) * 0.02)
        else:
            self.embed = nn.Linear(channels * rows * columns, config.count * config.width)
        self.places = nn.Parameter(torch.randn(1, config.count, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1 + config.vocabulary.size)
        self.apply(initialise)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n v"]:
        return at_least_float32(self.head(self.features(latents)))

    def features(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """What the logits are linear in: learned queries, one per text position, with what they read of the latents."""
        if self.config.readout == "grid":
            places = self.places.expand(len(latents), -1, -1)
            x = torch.cat([places, self.embed(latents.flatten(2).transpose(1, 2)) + self.position], dim=1)
        else:
            x = self.places + self.embed(latents.flatten(1)).unflatten(1, self.places.shape[1:])
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, : self.places.shape[1]])

    def loss(self, latents: Float[Tensor, "b c h w"], tokens: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """The mean cross-entropy of token ids over the positions that count."""
        if self.config.counts == "all":
            return F.cross_entropy(self(latents).flatten(0, 1), tokens.flatten())
        real = tokens != PAD
        read = torch.cat([torch.ones_like(real[:, :1]), real[:, :-1]], dim=1)
        return F.cross_entropy(at_least_float32(self.head(self.features(latents)[read])), tokens[read])

    def texts(self, latents: Float[Tensor, "b c h w"]) -> list[str]:
        """The most likely token at every position, up to the first padding token."""
        texts = []
        for part in latents.split(AT_A_TIME):
            for row in self(part).argmax(-1).tolist():
                texts.append(self.config.vocabulary.decode(row[: row.index(PAD)] if PAD in row else row))
        return texts


class TextAutoencoder(Modality):
    """Captions to latents of ``shape`` and back."""

    learns = True

    def __init__(self, config: AutoencodedTexts, shape: tuple[int, int, int]) -> None:
        super().__init__()
        if not 0 <= config.varied <= 1:
            raise CrossFlowError(f"varied is {config.varied}; it is a share from 0 to 1.")
        self.config = config
        self.embed = None if config.tied else nn.Embedding(1 + config.vocabulary.size, config.width)
        self.position = nn.Parameter(torch.randn(1, config.count, config.width) * 0.5)
        own = TokenEncoderConfig(width=config.width, depth=config.depth, heads=config.heads, readout=config.readout)
        self.encoder = TokenEncoder(own, shape, config.count, config.width)
        self.decoder = TextDecoder(config, shape)
        if config.tied:
            nn.init.normal_(self.decoder.head.weight, std=config.width**-0.5)

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids of captions; see ``tokenized``."""
        return tokenized(captions, self.config)

    def encode(self, words: Int[Tensor, "b n"]) -> Gaussian:
        """The posterior over latents of token ids."""
        if self.embed is not None:
            embedded = self.embed(words)
        else:
            embedded = F.embedding(words, self.decoder.head.weight) * self.config.width**0.5
        posterior = Gaussian(*self.encoder.moments(embedded + self.position, words != PAD))
        if self.config.kl_weight is None:
            posterior = Gaussian(posterior.mean, torch.full_like(posterior.mean, -torch.inf))
        return posterior

    def prepare(self, raw: Sequence[str]) -> Int[Tensor, "b n"]:
        return self.tokenize(raw)

    def reach(self, values: Int[Tensor, "b n"], noise: Float[Tensor, "b c h w"] | None) -> Reached:
        """Latents of token ids, and the loss: mean cross-entropy over the positions that count, and the weighted KL.

        In training the loss is of varied texts where the config says so, never the latents.
        """
        posterior, latents = self._sampled(values, noise)
        texts, found = values, latents
        if self.training and self.config.varied:
            texts = vary(values, self.config.varied, self.config.vocabulary.size)
            posterior, found = self._sampled(texts, noise)
        loss = self.decoder.loss(found, texts)
        if self.config.kl_weight is not None:
            loss = loss + self.config.kl_weight * losses.kl(posterior.mean, posterior.log_var, "standard").mean()
        return Reached(self.config.scale * latents.detach(), loss)

    def _sampled(
        self, words: Int[Tensor, "b n"], noise: Float[Tensor, "b c h w"] | None
    ) -> tuple[Gaussian, Float[Tensor, "b c h w"]]:
        """The posterior of token ids, and a sample of it, or its mean."""
        posterior = self.encode(words)
        return posterior, posterior.mean if noise is None else posterior.sample(noise)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> list[str]:
        """The texts of scaled latents, as the flow generates them."""
        return self.decoder.texts(latents / self.config.scale)


def vary(words: Int[Tensor, "b n"], share: float, size: int) -> Int[Tensor, "b n"]:
    """Token ids with a ``share`` of the texts continued by another, and then of the tokens replaced by any of ``size``.

    So rare tokens and the places that few texts reach are learnt as well as any. It draws as dropout does.
    """
    place = torch.arange(words.shape[1], device=words.device) - (words != PAD).sum(1, keepdim=True)
    continued = (place >= 0) & (torch.rand(len(words), 1, device=words.device) < share)
    words = torch.where(continued, words.roll(1, 0).gather(1, place.clamp(min=0)), words)
    replaced = (words != PAD) & (torch.rand(words.shape, device=words.device) < share)
    return torch.where(replaced, torch.randint(1, size + 1, words.shape, device=words.device), words)
