"""Our own text-to-image checkpoints, measured by what their source latents keep of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.models.crossflow import called
from crossflow_eval.types import Output

PROMPTS = 2000
"""Prompts of the split ``train`` that the mean tokens are of."""


class CrossFlowCompression:
    """A CrossFlow checkpoint with the text decoder that was trained with it and lies beside it.

    ``device``: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N"; ``text_encoder`` is the folder of the
    language model. Raises CrossFlowError for a checkpoint without such a decoder, as the shipped one is.
    """

    def __init__(
        self, checkpoint: Path | None = None, *, text_encoder: Path | None = None, device: str = "auto"
    ) -> None:
        where = own_device(device)
        path = shipped("t2i") if checkpoint is None else checkpoint
        from crossflow.sampling.text_compression import TextCompression

        self._pipeline = TextCompression.from_checkpoint(path, where, text_encoder)
        self.name = called(path)
        self.identity: Mapping[str, Any] = {
            **self._pipeline.identity,
            "token_values": self._pipeline.token_values,
            "latent_values": self._pipeline.latent_values,
            "mean_tokens": f"of the first {PROMPTS} prompts of train",
            "device": where.partition(":")[0],
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one float16 array [4 n d] a prompt, as ``crossflow_eval.outputs`` describes the kind ``tokens``."""
        found = self._pipeline.reconstruct([str(source) for source in sources], seeds)
        return [
            np.stack([*(part.numpy() for part in kept), self._mean[: len(kept.tokens)]]).astype(np.float16)
            for kept in found
        ]

    @cached_property
    def _mean(self) -> np.ndarray:
        """The mean token at each position, float32 [n d]."""
        from crossflow.scenes import example

        return self._pipeline.mean_tokens([example("train", index).prompt for index in range(PROMPTS)]).numpy()
