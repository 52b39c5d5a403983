"""The recipes of the paper's tasks from images: captions, depth and super-resolution, on the data sets that it names.

The paper gives data, the parameters of the flow's network, and the schedule (its appendix); docs/recipes.md lists what
it leaves open and what is chosen here. Each task has its baseline (``-standard``), which has the parameters of network
and encoder together, and both have a sister of about 30 million (``-small``) for one GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crossflow.flow.guidance import NoGuidance
from crossflow.losses import KL, Contrast, ImageReconstruction, LossConfig
from crossflow.modalities import TargetConfig
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.modalities.depth import DepthConfig, RelativeDepthConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import SetData, TrainConfig
from crossflow.sources import SourceConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.upsample import UpsampleConfig

COCO, KITTI, NYUV2 = 113_287, 23_158, 24_231
"""Images of the training sets: Karpathy's split, and BTS's lists."""
ENCODER = 4
"""Blocks of the image encoder, which are as wide as those of the flow's network."""
VARIED = 0.15
"""The share of captions that the text autoencoder's training varies."""
SMALL = TransformerConfig(width=384, heads=6, depth=17)
"""The network of the sisters for one GPU."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the tasks: its ends, latents of ``shape``, the network's sizes, and data and schedule as ``training``.

    ``patch`` is the side of an image encoder's patches in pixels, None for the upsampled image as the source; the
    network has a token for each patch, of the latents' ``cells`` a side. ``standard`` are the blocks of the baseline,
    in the size of the paper and in the small one.
    """

    reads: ImageConfig
    target: TargetConfig
    small_target: TargetConfig
    shape: tuple[int, int, int]
    cells: int
    patch: int | None
    losses: tuple[LossConfig, ...]
    width: int
    heads: int
    depth: int
    standard: tuple[int, int]
    common: Mapping[str, Any]
    training: Mapping[str, Any]

    def pair(self, name: str) -> dict[str, TrainConfig]:
        """CrossFlow and its baseline, in the task's own sizes."""
        own = TransformerConfig(width=self.width, heads=self.heads, depth=self.depth, patch=self.cells)
        return {
            name: self._crossflow(own, self.target),
            f"{name}-standard": self._standard(replace(own, depth=self.standard[0]), self.target),
        }

    def recipes(self, name: str) -> dict[str, TrainConfig]:
        """The four recipes of the task."""
        small = replace(SMALL, patch=self.cells)
        return {
            **self.pair(name),
            f"{name}-small": self._crossflow(small, self.small_target),
            f"{name}-small-standard": self._standard(replace(small, depth=self.standard[1]), self.small_target),
        }

    def _crossflow(self, network: TransformerConfig, target: TargetConfig) -> TrainConfig:
        source: SourceConfig
        if self.patch is None:
            source = UpsampleConfig(factor=self.shape[1] // self.reads.shape[1])
        else:
            source = ImageEncoderConfig(width=network.width, depth=ENCODER, heads=network.heads, patch=self.patch)
        model = FlowConfig(
            shape=self.shape,
            reads=self.reads,
            source=source,
            target=target,
            backbone=network,
            losses=self.losses,
            guidance=NoGuidance(),
            **self.common,
        )
        return _trained(model, self.training)

    def _standard(self, network: TransformerConfig, target: TargetConfig) -> TrainConfig:
        model = StandardConfig(
            shape=self.shape,
            reads=self.reads,
            target=target,
            backbone=network,
            condition="attention" if target.name == "text" else "channels",
            guidance=NoGuidance(),
            **self.common,
        )
        whole = replace(model.sampling, noise=1.0)  # the noise is all that its outputs differ by
        return _trained(replace(model, sampling=whole), self.training)


def _trained(model: FlowConfig | StandardConfig, training: Mapping[str, Any]) -> TrainConfig:
    """The hyperparameters that the tasks share: those of the paper's text-to-image, where it gives none."""
    schedule: dict[str, Any] = {"final_learning_rate": 1.0, "warmup": 1, "save_every": 1_000, "sample_every": 5_000}
    return TrainConfig(
        model=model, betas=(0.9, 0.9), weight_decay=0.03, clip=None, ema=0.9999, **{**schedule, **training}
    )


def _in_epochs(epochs: int, items: int, batch_size: int, warmup_epochs: int = 0) -> dict[str, Any]:
    """A schedule in epochs, with the steps that they are on the whole data set."""
    steps, warmup = (round(count * items / batch_size) for count in (epochs, warmup_epochs))
    fields = {"epochs": epochs, "warmup_epochs": warmup_epochs, "batch_size": batch_size}
    return {**fields, "steps": steps, "warmup": max(1, warmup)}


def _depth(target: DepthConfig | RelativeDepthConfig, size: tuple[int, int], **training: Any) -> Task:
    """Depth in pixel space, with the reconstruction loss of the image encoder."""
    return Task(
        reads=ImageConfig(shape=(3, *size)),
        target=target,
        small_target=target,
        shape=(1, *size),
        cells=16,
        patch=16,
        losses=(KL(weight=1e-5), ImageReconstruction(weight=0.1, patch=16)),
        width=1152,
        heads=16,
        depth=33,
        standard=(33 + ENCODER, SMALL.depth + ENCODER),
        common={"times": "uniform", "sampling": Sampling(solver="euler", steps=10)},
        training=training,
    )


_COSINE = {"learning_rate": 1e-4, "final_learning_rate": 1e-4, "decay": "cosine"}
_LONG = {"batch_size": 512, "learning_rate": 1e-4, "warmup": 5_000}

TASKS: Mapping[str, Task] = {
    "paper-caption": Task(
        reads=ImageConfig(shape=(3, 256, 256)),
        target=CLIPTextConfig(width=512, depth=4, heads=8, varied=VARIED),
        small_target=CLIPTextConfig(width=256, depth=2, heads=4, varied=VARIED),
        shape=(2, 16, 16),
        cells=1,
        patch=16,
        losses=(KL(weight=1e-2, form="official"), Contrast(weight=0.1)),
        width=1024,
        heads=16,
        depth=28,
        standard=(24, 16),
        common={"sampling": Sampling(solver="midpoint", steps=10, noise=0.0)},
        training={
            "data": SetData(layouts=("coco",), size=(256, 256)),
            "learning_rate": 2e-4,
            **_in_epochs(100, COCO, 256, warmup_epochs=5),
        },
    ),
    "paper-depth-kitti": _depth(
        DepthConfig(nearest=1.0, farthest=80.0),
        (352, 1216),
        data=SetData(layouts=("kitti",), size=(352, 1216), benchmark=True),
        **_COSINE,
        **_in_epochs(50, KITTI, 64),
    ),
    "paper-depth-nyuv2": _depth(
        DepthConfig(nearest=0.5, farthest=10.0),
        (480, 640),
        data=SetData(layouts=("nyuv2",), size=(480, 640)),
        **_COSINE,
        **_in_epochs(50, NYUV2, 64),
    ),
    "paper-depth-zeroshot": _depth(
        RelativeDepthConfig(),
        (480, 640),
        data=SetData(layouts=("hypersim", "virtual-kitti"), size=(480, 640), crop="random", flip=0.5, benchmark=True),
        steps=150_000,
        **_LONG,
    ),
    "paper-sr": Task(
        reads=ImageConfig(shape=(3, 64, 64), name="small image"),
        target=PixelsConfig(),
        small_target=PixelsConfig(),
        shape=(3, 256, 256),
        cells=8,
        patch=None,
        losses=(),
        width=1152,
        heads=16,
        depth=31,
        standard=(31, SMALL.depth),
        common={"times": "uniform", "sampling": Sampling(solver="midpoint", steps=10)},
        training={
            "data": SetData(layouts=("imagenet",), size=(256, 256)),
            "steps": 1_000_000,
            "save_every": 5_000,
            **_LONG,
        },
    ),
}

PAPER_TASKS: Mapping[str, TrainConfig] = {
    recipe: config for name, task in TASKS.items() for recipe, config in task.recipes(name).items()
}
"""Recipe name -> recipe."""
