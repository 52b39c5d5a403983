"""Previews during training: samples for fixed prompts, or outputs for fixed images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.folders import cache_folder
from crossflow.files.writing import replacing
from crossflow.modalities.depth import grey
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.modality import Autoencoder, TextEmbedder
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import TrainedModel
from crossflow.model.settings import OWN, Override
from crossflow.recipes.recipe import TrainConfig
from crossflow.sampling.from_image import FromImage
from crossflow.sampling.samples import grid
from crossflow.sampling.text_to_image import AUTOENCODER, TextToImage
from crossflow.training.data import Data

SCENE_PROMPTS = (
    "a photo of a ball",
    "a photo of a ring and a cone",
    "a photo of three boxes",
    "a photo of a purple cross",
    "a photo of a pillar left of a ball",
    "a photo of a red box and a blue ring",
)
"""One prompt of each task, for the sample grids of scenes."""
PHOTO_PROMPTS = (
    "a photo of a bear",
    "a photo of a bench and a bird",
    "a photo of three apples",
    "a photo of a purple car",
    "a photo of a clock left of a chair",
    "a photo of a red bowl and a blue vase",
)
"""The same for recipes on photographs."""
PROMPTS: Mapping[str, tuple[str, ...]] = {"scenes": SCENE_PROMPTS, "folder": PHOTO_PROMPTS}
"""Prompts by the kind of a recipe's data, where these have none of their own."""
COLUMNS = 8


class PromptGrids:
    """Sample grids: one row of images for each of ``prompts``, without guidance where a weaker model guides.

    A model with an external autoencoder needs the weights of text encoder and autoencoder, given or in the default
    locations of ``TextToImage``. CrossFlowError if they are given and cannot be read. If the defaults are missing, or
    the model makes no images, a message says so once, and no grids are drawn.
    """

    def __init__(
        self,
        config: TrainConfig,
        prompts: Sequence[str],
        text_encoder: Path | None,
        autoencoder: Path | None,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.device = device
        self.prompts = prompts
        self.parts: tuple[TextEmbedder, Autoencoder | None] | None = None
        reads, target = cast(TokensConfig, config.model.reads), config.model.target
        try:
            if target.name != "image":
                raise CrossFlowError(f"they are of images, and this model makes {target.name}.")
            embedder, vae = reads.embedder(text_encoder), None
            if target.external:
                source = autoencoder or cache_folder() / AUTOENCODER
                if not (autoencoder or source.exists()):
                    raise CrossFlowError(f"they need the autoencoder {source}, which is not there: give --autoencoder.")
                vae = cast(KLConfig, target).load(source, str(device))
            self.parts = (embedder, vae)
        except CrossFlowError as error:
            if text_encoder or autoencoder:
                raise
            say(f"No sample grids are drawn: {error}")

    def of(self, model: TrainedModel) -> Image.Image | None:
        """A sample grid of the model, or None."""
        if self.parts is None or not self.prompts:
            return None
        embedder, autoencoder = self.parts
        pipeline = TextToImage(model.to(self.device), embedder, autoencoder=autoencoder)
        prompts = [prompt for prompt in self.prompts for _ in range(COLUMNS)]
        alone = OWN if model.config.guidance.weaker is None else Override(guidance_scale=1.0)
        return _grid(pipeline.generate(prompts, list(range(len(prompts))), alone), COLUMNS)


class Answers:
    """A model's outputs for a few fixed images, ``sources``, beside the ``truths``.

    Images and depth maps become a grid of three rows: inputs, outputs, ground truth. Captions become a text.
    """

    def __init__(self, sources: list[np.ndarray], truths: list[Any]) -> None:
        self.sources, self.truths = sources, truths

    def of(self, model: TrainedModel) -> Image.Image | str | None:
        """The grid, the captions above the true ones, or None where there is no image."""
        if not self.sources:
            return None
        answers = FromImage(model).generate(self.sources, range(len(self.sources)))
        if isinstance(answers[0], str):
            return "".join(f"{answer}\n    {truth}\n" for answer, truth in zip(answers, self.truths, strict=True))
        shown = [_shown(each, answers[0].shape[0]) for each in [*self.sources, *answers, *self.truths]]
        return _grid(shown, len(self.sources))


def _grid(images: list[np.ndarray], columns: int) -> Image.Image:
    """Images in rows, of about 96 pixels a side at least."""
    return grid(images, columns, scale=max(1, 96 // images[0].shape[0]))


def _shown(picture: np.ndarray | str, side: int) -> np.ndarray:
    """An image or a depth map as an image of ``side`` pixels, by nearest-neighbour upsampling."""
    image = cast(np.ndarray, picture)
    image = grey(np.nan_to_num(image, nan=np.inf)) if image.ndim == 2 else image
    times = side // image.shape[0]
    return image.repeat(times, axis=0).repeat(times, axis=1)


Previews = PromptGrids | Answers


def draw(previews: Previews, model: TrainedModel, path: Path, say: Callable[[str], None]) -> None:
    """Write what ``previews`` show of a model to ``path``, a text with the suffix .txt.

    What cannot be sampled, or has no memory left for it, is said: a training does not end with its previews.
    """
    try:
        shown = previews.of(model)
    except (CrossFlowError, torch.OutOfMemoryError) as error:
        say(f"No samples are drawn of this step: {error}")
        return
    if isinstance(shown, str):
        with replacing(path.with_suffix(".txt")) as temporary:
            temporary.write_text(shown, encoding="utf-8")
    elif shown is not None:
        with replacing(path) as temporary:
            shown.save(temporary, format="PNG")


def previews_of(
    config: TrainConfig,
    data: Data,
    text_encoder: Path | None,
    autoencoder: Path | None,
    device: torch.device,
    say: Callable[[str], None],
) -> Previews:
    """The previews for ``config`` on ``data``; the other arguments are those of ``PromptGrids``."""
    if (examples := data.examples()) is not None:
        return Answers(*examples)
    prompts = data.prompts() or PROMPTS.get(config.data.kind, ())
    return PromptGrids(config, prompts, text_encoder, autoencoder, device, say)
