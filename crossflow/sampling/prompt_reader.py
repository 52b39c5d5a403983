"""Captioning with a text-to-image model run backward: image to source latent, which a decoder maps to a prompt.

The row "CrossFlow-T2I" of the paper's Table 4. Only the decoder from source latents to words is trained, by
``crossflow train-reader``, on posteriors of the model's own frozen text encoder, which has no part in reading.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from crossflow.errors import CrossFlowError
from crossflow.files.folders import WEIGHTS
from crossflow.files.hashes import file_sha256
from crossflow.files.tensors import read_tensors, tensors_sha256, write_tensors
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig, Texts
from crossflow.model.checkpoint import check_tensors
from crossflow.model.config import FlowModel
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import OWN, Override, Sampling
from crossflow.sampling.from_image import check_images
from crossflow.sampling.text_to_image import TextToImage

READER = WEIGHTS / "scenes-t2i-reader.safetensors"
"""The shipped decoder, for the shipped text-to-image model."""
FORMAT = "crossflow-prompt-reader"
VERSION = "1"
COMMAND = "`crossflow train-reader`"
CROPPED = "the middle of an image, cropped and resized as training images are by crossflow cache"
"""What is read of an image of another size than the model's, as it stands in the settings of a run."""


class PromptReader:
    """A text-to-image pipeline and a decoder of its source latents: images in, prompts out, deterministically.

    The flow runs without guidance, by default with the solver and steps of the model's sampling settings.
    Images of ``any_size`` are cut to the model's as its training images were (``CROPPED``); without it they have that
    size. ``identity`` is everything here that can change an output, as plain JSON.
    """

    ends = ("image", "text")

    def __init__(
        self, pipeline: TextToImage, decoder: TextDecoder, decoder_sha256: str = "", any_size: bool = False
    ) -> None:
        self.pipeline = pipeline
        self.any_size = any_size
        self.decoder = copy.deepcopy(decoder).to(next(pipeline.model.parameters())).eval()
        blank = torch.zeros(1, *pipeline.model.config.shape).to(next(pipeline.model.parameters()))
        self.size = tuple(pipeline.autoencoder.decode(blank).shape[1:3])
        self.identity: dict[str, str] = {
            **pipeline.identity,
            "decoder_sha256": decoder_sha256,
            **({"sizes": CROPPED} if any_size else {}),
        }
        self.defaults: Sampling = replace(pipeline.defaults, guidance_scale=1.0)

    @classmethod
    def from_checkpoint(
        cls,
        decoder: str | Path,
        checkpoint: str | Path,
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int | None = None,
        autoencoder: Path | None = None,
        any_size: bool = False,
    ) -> "PromptReader":
        """Load both onto auto, cpu, cuda or cuda:N; for the ``autoencoder`` of released models see ``TextToImage``.

        CrossFlowError if a file or the device cannot be used, or the decoder was trained for another text encoder.
        """
        pipeline = TextToImage.from_checkpoint(
            checkpoint, device, autoencoder=autoencoder, precision=precision, batch_size=batch_size, prompts=False
        )
        return cls(pipeline, load_decoder(Path(decoder), pipeline.model), file_sha256(decoder), any_size)

    @torch.no_grad()
    def generate(
        self,
        images: Sequence[np.ndarray],
        seeds: Sequence[int],
        override: Override = OWN,
    ) -> list[str]:
        """One prompt per image; images are uint8 RGB [h w 3]. ``seeds`` have no effect."""
        if self.any_size:
            side = self.size[0]
            images = [i if i.shape[:2] == self.size else center_crop(Image.fromarray(i), side) for i in images]
        check_images(images, seeds, self.size)
        sampling = self.settings(override)
        return self.decoder.texts(self.pipeline.to_source(images, sampling)) if images else []

    def settings(self, override: Override) -> Sampling:
        """The reader's sampling settings, replaced where ``override`` is not None; CrossFlowError for guidance."""
        if override.guidance_scale not in (None, 1):
            raise CrossFlowError("Images are read without guidance: leave guidance_scale out.")
        return self.defaults.but(override).of_latents()


def encoder_of(model: FlowModel) -> torch.nn.Module:
    """The text encoder of ``model``; CrossFlowError for the baseline, whose source is noise."""
    if not isinstance(model, CrossFlow):
        raise CrossFlowError("The standard flow-matching baseline starts from noise: no prompt can be read of that.")
    return model.encoder


def encoder_sha256(model: FlowModel) -> str:
    """The sha256 of the text encoder's weights in float32, which identifies the latents that a decoder reads."""
    return tensors_sha256(encoder_of(model).state_dict())


def save_decoder(path: Path, decoder: TextDecoder, model: FlowModel, notes: Mapping[str, Any]) -> None:
    """Write a decoder of the source latents of ``model``; ``notes``, plain JSON values, go into the header."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": asdict(cast(TextDecoderConfig | CLIPTextConfig, decoder.config)),
    }
    write_tensors(path, decoder.state_dict(), {**notes, **header, "encoder_sha256": encoder_sha256(model)})


def load_decoder(path: Path, model: FlowModel) -> TextDecoder:
    """Read a decoder that was trained for ``model``. CrossFlowError for any other file or model."""
    header, tensors = read_tensors(path)
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise CrossFlowError(f"{path} is no decoder of prompts of version {VERSION}: make one by {COMMAND}.")
    if header.get("encoder_sha256") != encoder_sha256(model):
        raise CrossFlowError(f"{path} reads the latents of another text encoder: make one for this by {COMMAND}.")
    given: Any = header.get("config")
    of_clip = isinstance(given, dict) and cast(dict[str, Any], given).get("kind") == CLIPTextConfig.kind
    try:
        config: Texts = TypeAdapter(CLIPTextConfig if of_clip else TextDecoderConfig).validate_python(given)
    except ValidationError as error:
        raise CrossFlowError(f"The config in the header of {path} cannot be read ({error}).") from error
    with torch.device("meta"):  # nothing is allocated before the weights are checked
        decoder = TextDecoder(config, model.config.shape)
    check_tensors(path, tensors, decoder.state_dict())
    decoder.load_state_dict(tensors, assign=True)
    return decoder
