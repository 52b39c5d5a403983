"""Our own checkpoints whose sources are images: captions, depth and super-resolution.

Beside them a text-to-image model run backward, for captions: ``--ckpt MODEL --reader DECODER``, or the shipped ones by
``--model crossflow_eval.models.image_model:backward``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.models.crossflow import called, check_sampling, sampled
from crossflow_eval.types import Output

ENDS = {"caption": ("image", "text"), "depth": ("image", "depth"), "sr": ("small image", "image")}
"""What a model of each task reads and gives, in the names of its modalities."""


class CrossFlowImageModel:
    """A CrossFlow checkpoint for ``task`` (caption, depth or sr), or a baseline's; without ``checkpoint`` the shipped.

    ``solver``, ``steps`` and ``guidance_scale`` left None are the ones the checkpoint recommends. ``device``: "auto" (a
    GPU where there is one), "cpu", "cuda" or "cuda:N". Images of ``any_size`` are fitted to the model by a rule that is
    part of the identity (``crossflow.sampling.sizes``); ``of_originals``: they are to be shrunk first. ``ensemble``
    makes a depth map of so many seeds, by their median at every pixel. ``unit``: what its outputs must be in, where
    that matters. Raises CrossFlowError for a checkpoint of another task or unit.
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
        any_size: bool = False,
        of_originals: bool = False,
        ensemble: int | None = None,
        unit: str = "",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        if ensemble is not None and ensemble < 1:
            raise CrossFlowError(f"--ensemble must be at least 1, got {ensemble}.")
        where = own_device(device)
        path = shipped(task) if checkpoint is None else checkpoint
        from crossflow.model.settings import Override
        from crossflow.sampling.from_image import FromImage
        from crossflow.sampling.sizes import SHRUNK

        self._pipeline = FromImage.from_checkpoint(path, where, precision, any_size=any_size)
        self._override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        if self._pipeline.ends != ENDS[task]:
            read, given = self._pipeline.ends
            raise CrossFlowError(f"{path} is a checkpoint that makes {given} of {read}; give --ckpt one for {task}.")
        if unit not in ("", self._pipeline.unit):
            raise CrossFlowError(
                f"The outputs of {path} are {self._pipeline.unit or 'of no unit that it says'}, and this suite takes "
                f"{unit}: choose one that aligns them, --suite NAME_affine."
            )
        sampling = self._pipeline.defaults.but(self._override)
        self.name = called(path)
        self._members = ensemble or 1
        self._shrinks = of_originals
        more = {} if ensemble is None else {"ensemble": f"the median of {ensemble} seeds at every pixel"}
        more |= {"small_images": SHRUNK} if self._shrinks else {}
        self.identity: Mapping[str, Any] = {**sampled(self._pipeline.identity, sampling, where), **more}

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one output an image file: a caption, float32 [h w] in metres, or uint8 [h w 3]."""
        images = _seen(sources)
        if self._shrinks:
            return self._restored(images, seeds)
        first = self._answer(images, seeds)
        if self._members == 1:
            return first
        from crossflow.sampling.text_to_image import prompt_seed

        others = (
            self._answer(images, [prompt_seed(seed, "ensemble", k) for seed in seeds]) for k in range(1, self._members)
        )
        return [np.median(np.stack(each), axis=0).astype(np.float32) for each in zip(first, *others, strict=True)]

    def _answer(self, images: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Output]:
        return list(self._pipeline.generate(images, seeds, self._override))

    def _restored(self, originals: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Output]:
        """Originals, shrunk and enlarged to their size."""
        from crossflow.sampling.sizes import shrunk

        enlarged = self._answer([shrunk(each, self._factor) for each in originals], seeds)
        return [
            np.asarray(large)[: each.shape[0], : each.shape[1]] for large, each in zip(enlarged, originals, strict=True)
        ]

    @cached_property
    def _factor(self) -> int:
        """How often the model enlarges: as it does an empty image."""
        height, width = self._pipeline.size
        return np.asarray(self._answer([np.zeros((height, width, 3), np.uint8)], [0])[0]).shape[0] // height


class CrossFlowBackward:
    """A text-to-image model run backward, its source latents read as captions: "CrossFlow-T2I" of the paper's Table 4.

    ``reader`` is a decoder that ``crossflow train-reader`` made for ``checkpoint``; without both they are the shipped.
    ``autoencoder`` is the file of one that is not in the checkpoint, None for the default place. The other options are
    those of ``CrossFlowImageModel``, and a guidance scale other than 1 is refused.
    """

    def __init__(
        self,
        reader: Path | None = None,
        checkpoint: Path | None = None,
        *,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        autoencoder: Path | None = None,
        any_size: bool = False,
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        where = own_device(device)
        from crossflow.model.settings import Override
        from crossflow.sampling.prompt_reader import READER, PromptReader

        path = shipped("t2i") if checkpoint is None else checkpoint
        self._reader = PromptReader.from_checkpoint(
            reader or READER, path, where, precision, autoencoder=autoencoder, any_size=any_size
        )
        self._override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        sampling = self._reader.settings(self._override)
        self.name = f"{called(path)}-backward"
        self.identity: Mapping[str, Any] = {
            **self._reader.identity,
            "solver": sampling.solver,
            "steps": sampling.steps,
            "device": where.partition(":")[0],
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return the caption that each image file is read as."""
        images = _seen(sources)
        return list(self._reader.generate(images, seeds, self._override))


def _seen(sources: Sequence[str | Path]) -> list[np.ndarray]:
    """The images of files; CrossFlowError for a source that is no file: references may have no images."""
    if unseen := [str(source) for source in sources if not isinstance(source, Path)]:
        raise CrossFlowError(
            f"The references hold no image of {first_few(unseen)} for the model to see: put each beside its "
            "reference, or in a folder beside the references' and give the folder of both, under the same name."
        )
    return [read_image(Path(source)) for source in sources]


def captioner(
    checkpoint: Path | None = None, *, reader: Path | None = None, autoencoder: Path | None = None, **options: Any
) -> CrossFlowImageModel | CrossFlowBackward:
    """The model of captions: one that reads images or, with a ``reader``, one from text to images run backward."""
    if reader is not None:
        return CrossFlowBackward(reader, checkpoint, autoencoder=autoencoder, **options)
    if autoencoder is not None:
        raise CrossFlowError("--autoencoder is for a model that is run backward: give --reader too, or leave it out.")
    return CrossFlowImageModel("caption", checkpoint, **options)


def backward() -> CrossFlowBackward:
    """The shipped model run backward, as ``--model`` builds it."""
    return CrossFlowBackward()
