"""Our own checkpoints whose sources are images: captions, depth and super-resolution.

Beside them the text-to-image model run backward, for captions: ``--model crossflow_eval.models.image_model:backward``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.models.crossflow import check_sampling, sampled
from crossflow_eval.types import Output

ENDS = {"caption": ("image", "text"), "depth": ("image", "depth"), "sr": ("small image", "image")}
"""What a model of each task reads and gives, in the names of its modalities."""


class CrossFlowImageModel:
    """A CrossFlow checkpoint for ``task`` (caption, depth or sr), or a baseline's; without ``checkpoint`` the shipped.

    ``solver``, ``steps`` and ``guidance_scale`` left None are the ones the checkpoint recommends. ``device``: "auto" (a
    GPU where there is one), "cpu", "cuda" or "cuda:N". Raises CrossFlowError for a checkpoint of another task.
    """

    def __init__(
        self,
        task: str,
        checkpoint: Path | None = None,
        *,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        where = own_device(device)
        path = shipped(task) if checkpoint is None else checkpoint
        from crossflow.model.settings import Override
        from crossflow.sampling.from_image import FromImage

        self._pipeline = FromImage.from_checkpoint(path, where, precision)
        self._override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        if self._pipeline.ends != ENDS[task]:
            read, given = self._pipeline.ends
            raise CrossFlowError(f"{path} is a checkpoint that makes {given} of {read}; give --ckpt one for {task}.")
        sampling = self._pipeline.defaults.but(self._override)
        self.name = path.stem
        self.identity: Mapping[str, Any] = sampled(self._pipeline.identity, sampling, where)

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one output an image file: a caption, float32 [h w] in metres, or uint8 [h w 3]."""
        images = [read_image(Path(source)) for source in sources]
        return list(self._pipeline.generate(images, seeds, self._override))


class CrossFlowBackward:
    """The shipped text-to-image model run backward, its source latents read as prompts: "CrossFlow-T2I" of Table 4."""

    name = "scenes-t2i-backward"

    def __init__(self, decoder: Path | None = None, checkpoint: Path | None = None, *, device: str = "auto") -> None:
        where = own_device(device)
        from crossflow.sampling.prompt_reader import READER, PromptReader

        self._reader = PromptReader.from_checkpoint(decoder or READER, checkpoint or shipped("t2i"), where)
        sampling = self._reader.defaults
        self.identity: Mapping[str, Any] = {
            **self._reader.identity,
            "solver": sampling.solver,
            "steps": sampling.steps,
            "device": where.partition(":")[0],
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return the prompt that each image file is read as."""
        images = [read_image(Path(source)) for source in sources]
        return list(self._reader.generate(images, seeds))


def backward() -> CrossFlowBackward:
    """The model, as ``--model`` builds it."""
    return CrossFlowBackward()
