"""Text as latents over the byte-pair encoding of CLIP: the text autoencoder for captions of any words.

The vocabulary is the one that ``open_clip`` brings with it: 49,408 tokens, of which the two that mark begin and end are
not used. A caption is lower-cased, as CLIP reads it, and cut after the 75 tokens that CLIP's 77 leave for the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.modalities.text_autoencoder import PAD, TextAutoencoder, closed_up
from crossflow.networks.blocks import check_sizes

TOKENS = 49_406
"""The tokens of CLIP's vocabulary, but for its marks of begin and end."""
MARKS = 2
"""Of CLIP's positions those that begin and end a text take."""


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """A text autoencoder over CLIP's tokens; the other fields are those of ``TextAutoencoderConfig``.

    ``count`` is CLIP's number of positions. ``known`` are the tokens that the model tells apart, in CLIP's numbers, and
    all others are one; empty is all of them. Only those that training contains can be learnt, and a small network has
    most of its weights in the rest.
    """

    count: int = 77
    width: int = 512
    depth: int = 4
    heads: int = 8
    known: tuple[int, ...] = ()
    kl_weight: float | None = 1e-5
    scale: float = 1.0
    varied: float = 0.0
    name: Literal["text"] = "text"
    kind: Literal["clip-text"] = "clip-text"
    drawn: ClassVar[bool] = True
    external: ClassVar[bool] = False
    counts: ClassVar[Literal["all", "text"]] = "text"
    readout: ClassVar[Literal["grid", "flat"]] = "flat"
    tied: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes(count=self.count - MARKS, width=self.width, depth=self.depth, heads=self.heads)
        if len(set(self.known)) < len(self.known) or not set(self.known) <= set(range(TOKENS)):
            raise CrossFlowError(f"known has tokens twice, or such as CLIP has not: give some of 0 to {TOKENS - 1}.")

    @property
    def vocabulary(self) -> "CLIPTokens":
        return CLIPTokens(self.known)

    def build(self, shape: tuple[int, int, int]) -> TextAutoencoder:
        """The modality for latents of ``shape`` (c, h, w)."""
        return TextAutoencoder(self, shape)


@dataclass(frozen=True)
class CLIPTokens:
    """CLIP's tokens as a vocabulary: those ``known``, and one id for all others; without ``known`` all."""

    known: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return 1 + len(self.known) if self.known else TOKENS

    def encode(self, captions: Sequence[str], count: int) -> Int[Tensor, "b n"]:
        """One id a token; what is beyond CLIP's length is cut off, as CLIP does.

        CrossFlowError for a text without a token: an encoder of the readout ``flat`` has nothing to attend to.
        """
        ids = _ids(self.known)
        tokens = torch.full((len(captions), count), PAD)
        for row, caption in zip(tokens, captions, strict=True):
            found = clip_tokens(caption)[: count - MARKS]
            if not found:
                raise CrossFlowError(f"The text {caption!r} has no token of CLIP's: leave it out.")
            row[: len(found)] = torch.tensor([ids.get(token, self.size) if ids else token + 1 for token in found])
        return tokens

    def decode(self, ids: Sequence[int]) -> str:
        """The text; a token that is not known is left out."""
        if self.known:
            ids = [1 + self.known[each - 1] for each in ids if each < self.size]
        return closed_up(_tokenizer().decode([each - 1 for each in ids]).strip())


def clip_tokens(text: str) -> list[int]:
    """The tokens of a text in CLIP's numbers, without marks, of any length."""
    return _tokenizer().encode(text)


@lru_cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@lru_cache(4)
def _ids(known: tuple[int, ...]) -> dict[int, int]:
    """Known tokens in CLIP's numbers -> ours."""
    return {token: number for number, token in enumerate(known, start=1)}
