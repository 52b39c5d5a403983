"""Our own text-to-image checkpoints, measured by sums of their source latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.models.crossflow import called, check_sampling, sampled
from crossflow_eval.types import Output


class CrossFlowArithmetic:
    """A CrossFlow text-to-image checkpoint that is asked for sums; without ``checkpoint`` the shipped one.

    A source is a sum in words, "base + added - subtracted". ``scale`` multiplies what is added and subtracted, None is
    1, as in the paper's Table 8. The other options are those of ``CrossFlowModel``. Raises CrossFlowError for the
    baseline, which has no source latent of a prompt.
    """

    def __init__(
        self,
        checkpoint: Path | None = None,
        *,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        scale: float | None = None,
        text_encoder: Path | None = None,
        autoencoder: Path | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        if scale is not None and not math.isfinite(scale):
            raise CrossFlowError(f"--scale must be a finite number, got {scale}.")
        where = own_device(device)
        path = shipped("t2i") if checkpoint is None else checkpoint
        from crossflow.model.settings import Override
        from crossflow.sampling.text_to_image import TextToImage

        self._pipeline = TextToImage.from_checkpoint(path, where, text_encoder, autoencoder, precision)
        if self._pipeline.model.config.kind != "crossflow":
            raise CrossFlowError(f"{path} holds the baseline, which starts from noise: it has no latents to add.")
        self._scale = 1.0 if scale is None else scale
        override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        self._sampling = self._pipeline.defaults.but(override).of_latents()
        self.name = called(path)
        self.identity: Mapping[str, Any] = {
            **sampled(self._pipeline.identity, self._sampling, where),
            "scale": float(self._scale),
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one uint8 image [h 2w 3] a sum: what the base alone gives, and beside it what the sum gives."""
        from crossflow.sampling.latent_space import Sum, before_and_after

        sums = [Sum.of_text(str(source), self._scale) for source in sources]
        pairs = before_and_after(self._pipeline, sums, seeds, self._sampling)
        return [np.concatenate(pair, axis=1) for pair in pairs]
