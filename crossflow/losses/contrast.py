"""Contrastive losses on source latents: with the other side of the pair, or with another encoding of the text.

The paper's "I-T Contrast", which it keeps, and "T-T Contrast" (section 3.3, Table 3b).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.losses.term import Step
from crossflow.losses.towers import READS, TOWERS, LatentTower, LearnedScale, Tower
from crossflow.networks.blocks import Positions, check_sizes
from crossflow.networks.token_encoder import TokenEncoder, TokenEncoderConfig

NEGATIVES = "negatives"
"""The entry of a batch with k hard negative captions per item: tokens [b k n d] and their mask [b k n]."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """CLIP loss between source latents and the other side of the pair, embedded by ``tower``.

    The logit scale is the exponential of a learned scalar (``exp``, as in CLIP) or, as in the authors' code, the scalar
    itself (``raw``). The tower ``places`` compares source and target place by place, so that what the source says of a
    thing stands where the thing is; the others compare them as wholes. ``hard_negatives`` adds wrong captions from the
    data, such as the caption with two colours swapped, to the negatives of an image. ``positions`` is how position
    embeddings of the tower ``latents`` start.
    """

    weight: float = 1.0
    tower: Literal["latents", "places", "siglip-l16", "features"] = "latents"
    scale: Literal["exp", "raw"] = "exp"
    hard_negatives: bool = False
    positions: Positions = "small"
    kind: Literal["contrast"] = "contrast"

    @property
    def name(self) -> str:
        """By places it has a name of its own, so that a model can have both."""
        return "contrastive_places" if self.tower == "places" else "contrastive"

    def __post_init__(self) -> None:
        if self.positions != "small" and self.tower != "latents":
            raise CrossFlowError(f"The tower {self.tower} has positions of its own: leave positions out.")

    @property
    def reads(self) -> tuple[str, ...]:
        return (*READS[self.tower], *((NEGATIVES,) if self.hard_negatives else ()))

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError if the tower would not see each item's own target, or if hard negatives are not texts."""
        if learns and (guided or READS[self.tower]):
            raise CrossFlowError(
                "A contrast with jointly trained latents needs the tower latents or places, and no null items: "
                "let guidance be none."
            )
        if self.hard_negatives and accepts != "tokens":
            raise CrossFlowError(f"Hard negatives are further captions, and this source reads {accepts}.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "ContrastTerm":
        """The term, with its tower, for latents of ``shape``."""
        return ContrastTerm(self, shape)


class ContrastTerm(nn.Module):
    """See ``crossflow.flow.losses.contrastive``."""

    def __init__(self, config: Contrast, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config = config
        if config.tower == "latents":
            self.tower: Tower = LatentTower(shape, config.scale, config.positions)
        else:
            self.tower = TOWERS[config.tower](shape, config.scale)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """The loss over the batch of all processes, unweighted."""
        seen = self.tower(step.batch[READS[self.config.tower][0]].values if READS[self.config.tower] else step.own)
        negatives = self._negatives(step) if self.config.hard_negatives else None
        return losses.contrastive(step.x0, seen, self.tower.scale, step.batch.same, negatives)

    def _negatives(self, step: Step) -> Float[Tensor, "b k c h w"]:
        """Source latents of the hard negatives, sampled with the item's own noise."""
        values, mask = step.batch[NEGATIVES]
        if mask is None:
            raise CrossFlowError("The negatives of a batch have no mask, which those of texts need.")
        b, k = values.shape[:2]
        posterior = step.encode(values.flatten(0, 1), mask.flatten(0, 1))
        return posterior.sample(step.noise.repeat_interleave(k, dim=0)).unflatten(0, (b, k))


@dataclass(frozen=True, kw_only=True)
class TextContrast:
    """CLIP loss between source latents and a small second encoder of the same text: the paper's "T-T Contrast"."""

    weight: float = 1.0
    width: int = 96
    depth: int = 1
    heads: int = 4
    scale: Literal["exp", "raw"] = "exp"
    kind: Literal["text-contrast"] = "text-contrast"
    name: ClassVar[str] = "text_contrastive"
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads)

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError for a source that reads no text."""
        if accepts != "tokens":
            raise CrossFlowError(f"A contrast with the text needs a source that reads tokens, not {accepts}.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "TextContrastTerm":
        """The term, with its encoder, for tokens of shape ``reads`` (n, d) and latents of ``shape``."""
        return TextContrastTerm(self, reads, shape)


class TextContrastTerm(nn.Module):
    """See ``crossflow.flow.losses.contrastive``."""

    def __init__(self, config: TextContrast, reads: tuple[int, ...], shape: tuple[int, int, int]) -> None:
        super().__init__()
        count, token_width = reads
        own = TokenEncoderConfig(width=config.width, depth=config.depth, heads=config.heads)
        self.encoder = TokenEncoder(own, shape, count, token_width)
        self.scaled = LearnedScale(config.scale)

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """The loss over the batch of all processes, unweighted."""
        mask = step.source.mask
        if mask is None:
            raise CrossFlowError("The texts of a batch have no mask.")
        seen, _ = self.encoder.moments(step.source.values, mask)
        return losses.contrastive(step.x0, seen, self.scaled.scale, step.batch.same)
