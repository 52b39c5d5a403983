"""What a recipe is: a model, its training pairs, and all that decides how its weights come out."""

from dataclasses import dataclass
from typing import Literal

from crossflow.errors import CrossFlowError
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.model.config import FlowConfig


@dataclass(frozen=True, kw_only=True)
class SceneData:
    """The training pairs: ``count`` scenes of the split ``train``, drawn at ``size`` pixels.

    ``captions`` are the numbers of the captions that an item may come with, 0 being the prompt; a number that stands
    twice comes twice as often.
    """

    count: int = 60_000
    size: int = 32
    captions: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Image-text pairs in a folder that is given at training time: the authors' feature files, or our shards.

    ``size`` is the side of the images in pixels, ``CELL`` of which make one cell of the latents.
    """

    size: int = 256


CELL = 8
"""Pixels a side that one cell of Stable Diffusion's latents covers."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe. ``batch_size`` is that of one optimiser step, over all processes and accumulated parts.

    ``clip`` is the largest norm of the gradient, None for no clipping. ``precision`` auto is bf16 where the hardware
    multiplies in it, which small networks gain nothing from on a CPU.
    """

    model: FlowConfig
    data: SceneData | PairData
    steps: int
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.02
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float | None = 1.0
    ema: float = 0.999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 2000

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise CrossFlowError(f"batch_size {self.batch_size} does not divide into {self.accumulate} equal parts.")
        if isinstance(self.data, PairData) != isinstance(self.model.autoencoder, KLConfig):
            raise CrossFlowError("Pairs in a folder are encoded by the KL autoencoder, scenes by any other.")
        if isinstance(self.data, PairData) and self.model.shape[1:] != (self.data.size // CELL,) * 2:
            raise CrossFlowError(f"Images of {self.data.size} pixels do not have latents of {self.model.shape[1:]}.")

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step ``step``: linear warm-up, then linear decay to the final share.

        The first step is taken at 1 / ``warmup`` of the rate; in the authors' program it is taken at 0, and so lost.
        """
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * max(self.final_learning_rate, 1.0 - step / self.steps)
