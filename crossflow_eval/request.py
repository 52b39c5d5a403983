"""What a measurement is asked by: the options, each once, and the commands that take them.

The fields of :class:`Request` are the options. The commands of ``crossflow_eval.cli`` are made from them, and so is the
refusal of an option that a model does not take. Nothing heavy is imported here, for ``--help`` needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

CHECKPOINTS = (".safetensors", ".pth")
"""How the files of our own and of released checkpoints end."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How an option is called on the command line (``--steps``), and who takes it.

    ``shown`` stands for the default in ``--help``, where a value that is not given is somebody else's choice.
    ``models``: the kinds of model that take it; None where it does not depend on the model. ``tasks``: those it is
    for; None for all but those ``without`` it. ``chooses``: it says what is measured on, which a command may have
    settled.
    """

    flag: str
    help: str
    shown: str | bool = False
    models: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    chooses: bool = False

    def fits(self, model: str, task: str) -> bool:
        """Whether a ``model`` of this kind takes the option in this ``task``."""
        return (self.models is None or model in self.models) and self.belongs(task)

    def belongs(self, task: str) -> bool:
        """Whether the option is for this ``task``."""
        return (self.tasks is None or task in self.tasks) and task not in self.without


def _said(flag: str, help: str, **more: Any) -> dict[str, Option]:
    """What a field of ``Request`` carries."""
    return {"option": Option(flag=flag, help=help, **more)}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that measures: what it is for, and the suite it takes where none is named.

    ``with_data`` is taken instead where the data or outputs made elsewhere are given, ``with_captions`` where captions
    are, ``with_references`` where references of one's own are. A ``settled`` command has no other suite. ``defaults``
    and ``says`` are values and words of its own, by the field of the option; what it ``needs`` has no default.
    """

    task: str
    help: str
    suite: str
    with_data: str | None = None
    with_captions: str | None = None
    with_references: str | None = None
    settled: bool = False
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)

    @property
    def suites(self) -> str:
        """The suites that are taken where none is named, in words."""
        data = f"; {self.with_data} with --data or outputs" if self.with_data else ""
        captions = f"; {self.with_captions} with --captions" if self.with_captions else ""
        references = f"; {self.with_references} with --references" if self.with_references else ""
        return self.suite + data + captions + references


OURS = {"model": "crossflow"}
OF_IMAGES = {
    "checkpoint": "A checkpoint, or the images with --model folder.",
    "model": "crossflow, folder, diffusers:PATH_OR_ID, or package.module:factory.",
    "references": "What images are compared with as a set: a folder of them, statistics .npz, or as in `fid` a name.",
}
"""What text to image has by default, and says in its own words."""

COMMANDS: dict[str, Command] = {
    "t2i": Command(
        task="t2i",
        help="Measure a text-to-image model; without options the shipped one. Run it again to resume.",
        suite="scenes-t2i",
        with_captions="folder",
        with_references="own-images",
        defaults=OURS,
        says=OF_IMAGES,
    ),
    "geneval": Command(
        task="t2i",
        help="Measure a text-to-image model by GenEval: `t2i --suite geneval`. --model folder reads GenEval's own "
        "layout.",
        suite="geneval",
        settled=True,
        defaults=OURS,
        says=OF_IMAGES,
    ),
    "caption": Command(
        task="caption",
        help="Measure captions; without options the shipped model's. --ckpt may be a COCO results .json or a .jsonl.",
        suite="scenes-caption",
        with_data="coco_karpathy",
        with_references="own-captions",
        says={
            "references": "True captions of your own: COCO's .json, .jsonl of id and caption, a dataset on disk, a "
            "folder of images with them."
        },
    ),
    "depth": Command(
        task="depth",
        help="Measure depth maps; without options the shipped model's. --ckpt may be a folder of .npy or .npz of "
        "metres, or of 16-bit .png: metres times 256 in KITTI's suites, times 1000 in all others. The suites *_affine "
        "take any scale and shift.",
        suite="scenes-depth",
        with_data="kitti_eigen",
        with_references="own-depth",
        says={"references": "A folder of true depth maps of your own, in metres, under the names of the predictions."},
    ),
    "sr": Command(
        task="sr",
        help="Measure super-resolution; without options the shipped model's. --ckpt may be a folder of images.",
        suite="scenes-sr",
        with_data="imagenet_sr",
        with_references="own-sr",
        says={"references": "A folder of originals of your own, under the names of the outputs."},
    ),
    "t2a": Command(
        task="t2a",
        help="Measure sounds of captions. --ckpt is a folder of WAV files, of any rate.",
        suite="audiocaps",
        needs=("checkpoint", "data"),
        defaults={"model": "folder"},
        says={"checkpoint": "The folder of the sounds.", "model": "folder, or package.module:factory."},
    ),
    "t2v": Command(
        task="t2v",
        help="Measure films of captions. --ckpt is a folder of .webp, .gif or .mp4 files, of any size and length.",
        suite="msrvtt",
        needs=("checkpoint", "data"),
        defaults={"model": "folder"},
        says={"checkpoint": "The folder of the films.", "model": "folder, or package.module:factory."},
    ),
    "arithmetic": Command(
        task="arithmetic",
        help="Measure sums of source latents: words added to a prompt and taken from it; without options the shipped "
        "model's.",
        suite="scenes-arithmetic",
        says={"checkpoint": "A checkpoint, or a folder of image pairs, prompt and sum side by side."},
    ),
    "compression": Command(
        task="compression",
        help="Measure what the latent of a prompt keeps of its tokens, by the decoder that was trained with the model "
        "and lies beside --ckpt.",
        suite="scenes-compression",
    ),
    "any": Command(
        task="any",
        help="Measure a model from any modalities to any: text, images, depth, sound and film; without options the "
        "shipped one. --limit takes the first examples, of all tasks alike. --ckpt may be a folder of outputs, "
        "ID.MODALITY and a suffix, for `prepare any`.",
        suite="scenes-any-matrix",
        says={
            "checkpoint": "A checkpoint, or a folder of outputs.",
            "model": "crossflow, folder, or package.module:factory.",
        },
    ),
}

SAMPLED = ("crossflow", "diffusers")
"""The kinds of model whose sampling has options."""
PROMPTED = ("t2i", "arithmetic")
"""The tasks whose models make images of prompts."""
ENCODED = ("compression",)
"""The tasks whose models encode, and carry nothing along the flow."""
UNSAMPLED = (*ENCODED, "t2a", "t2v")
"""The tasks in which no model is sampled: the others' outputs are made elsewhere."""
TOGETHER = "any"
"""The task whose models make several outputs together."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What ``crossflow-eval`` was asked to measure; None means not given.

    Without ``model`` a checkpoint's file is a model of ours, and so is no file at all; what else ``checkpoint`` names
    are outputs made elsewhere. Text to image has our own models alone by default.
    """

    task: str = "t2i"
    checkpoint: Path | None = field(
        default=None,
        metadata=_said(
            "--ckpt", "A checkpoint, or outputs made elsewhere.", shown="shipped", models=("crossflow", "folder")
        ),
    )
    model: str | None = field(
        default=None,
        metadata=_said("--model", "crossflow, folder, or package.module:factory.", shown="by what --ckpt is"),
    )
    suite: str | None = field(default=None, metadata=_said("--suite", "See `list`.", chooses=True))
    data: Path | None = field(default=None, metadata=_said("--data", "The suite's data root.", chooses=True))
    space: str | None = field(
        default=None,
        metadata=_said(
            "--space", "depth or disparity: what the predictions are.", shown="the suite's", tasks=("depth",)
        ),
    )
    captions: Path | None = field(
        default=None,
        metadata=_said(
            "--captions",
            "Prompts: .csv or .jsonl (image, caption), samples.jsonl, COCO .json, .txt, one a line, a dataset on disk, "
            "a folder of images with them.",
            tasks=("t2i",),
            chooses=True,
        ),
    )
    references: Path | None = field(
        default=None,
        metadata=_said(
            "--references",
            "References of your own.",
            tasks=("t2i", "caption", "depth", "sr"),
            chooses=True,
        ),
    )
    also: str | None = field(
        default=None,
        metadata=_said(
            "--also",
            "More metrics, by commas: torchmetrics:NAME, an image metric of torchmetrics.",
            shown="none",
            tasks=("t2i", "sr"),
        ),
    )
    limit: int | None = field(default=None, metadata=_said("--limit", "Only the first examples.", shown="all"))
    shuffle_seed: int | None = field(
        default=None,
        metadata=_said("--shuffle-seed", "Seed by which --limit draws its examples.", shown="the first"),
    )
    ids: Path | None = field(
        default=None, metadata=_said("--ids", "Only the examples that a text file lists, an id a line.", shown="all")
    )
    name: str | None = field(
        default=None, metadata=_said("--name", "What tables and pages call the model.", shown="its own")
    )
    steps: int | None = field(
        default=None, metadata=_said("--steps", "Solver steps.", shown="the model's", models=SAMPLED, without=UNSAMPLED)
    )
    guidance_scale: float | None = field(
        default=None,
        metadata=_said("--guidance-scale", "1 is none.", shown="the model's", models=SAMPLED, without=UNSAMPLED),
    )
    weaker: Path | None = field(
        default=None,
        metadata=_said(
            "--weaker",
            "An earlier checkpoint of the model, which guides it.",
            models=("crossflow",),
            tasks=("t2i",),
        ),
    )
    reader: Path | None = field(
        default=None,
        metadata=_said(
            "--reader",
            "Decoder of crossflow train-reader: --ckpt is from text to images, and runs backward.",
            models=("crossflow",),
            tasks=("caption",),
        ),
    )
    solver: str | None = field(
        default=None,
        metadata=_said(
            "--solver",
            "Name of a solver.",
            shown="the checkpoint's",
            models=("crossflow",),
            without=UNSAMPLED,
        ),
    )
    context: str | None = field(
        default=None,
        metadata=_said(
            "--context",
            "What an output sees of those made with it: others, self or none.",
            shown="the model's",
            models=("crossflow",),
            tasks=(TOGETHER,),
        ),
    )
    merge: str | None = field(
        default=None,
        metadata=_said(
            "--merge",
            "How an output reads several others: mean or concat.",
            shown="the model's",
            models=("crossflow",),
            tasks=(TOGETHER,),
        ),
    )
    method: str | None = field(
        default=None,
        metadata=_said(
            "--method",
            "together, in-turn, chain (by way of a text), anchor (one shared latent) or direct (flows from one input).",
            shown="together",
            models=("crossflow",),
            tasks=(TOGETHER,),
        ),
    )
    ensemble: int | None = field(
        default=None,
        metadata=_said(
            "--ensemble",
            "Depth maps of so many seeds, their median at every pixel.",
            shown="1",
            models=("crossflow",),
            tasks=("depth",),
        ),
    )
    scale: float | None = field(
        default=None,
        metadata=_said(
            "--scale",
            "What the words that are added and subtracted are multiplied by.",
            shown="1",
            models=("crossflow",),
            tasks=("arithmetic",),
        ),
    )
    size: int | None = field(
        default=None,
        metadata=_said(
            "--size", "Pixels a side, of diffusers.", shown="the pipeline's", models=("diffusers",), tasks=("t2i",)
        ),
    )
    text_encoder: Path | None = field(
        default=None,
        metadata=_said(
            "--text-encoder",
            "Folder of CLIP or T5.",
            shown="the hub's cache",
            models=("crossflow",),
            tasks=(*PROMPTED, *ENCODED),
        ),
    )
    autoencoder: Path | None = field(
        default=None,
        metadata=_said(
            "--autoencoder",
            "autoencoder_kl.pth or diffusers' folder.",
            shown="in CROSSFLOW_CACHE",
            models=("crossflow",),
            tasks=(*PROMPTED, "caption"),
        ),
    )
    precision: str | None = field(
        default=None,
        metadata=_said(
            "--precision", "auto, or a type such as bfloat16.", shown="auto", models=SAMPLED, without=UNSAMPLED
        ),
    )
    seed: int = field(default=0, metadata=_said("--seed", "Seed of the whole run.", shown=True))
    device: str | None = field(
        default=None,
        metadata=_said("--device", "auto, cpu, cuda, cuda:N, of our models and of the judges.", shown="auto"),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_said(
            "--batch-size",
            "Outputs asked of the model at a time. Images of diffusers depend on it, by rounding; of others none does.",
            shown="64; of diffusers 1",
        ),
    )
    workers: int | None = field(
        default=None, metadata=_said("--workers", "Threads that read and decode files.", shown="by the cores")
    )
    fresh: bool = field(
        default=False, metadata=_said("--fresh", "Make all outputs anew; the run's old ones are set aside.")
    )
    out: Path | None = field(
        default=None, metadata=_said("--out", "The run's folder.", shown="runs/SUITE/MODEL-DIGEST")
    )

    @property
    def model_name(self) -> str:
        """The model that was asked for."""
        if self.model is not None:
            return self.model
        path = self.checkpoint
        by_default = COMMANDS[self.task].defaults.get("model") if self.task in COMMANDS else None
        ours = path is None or (path.suffix.lower() in CHECKPOINTS and not path.is_dir())
        return by_default or ("crossflow" if ours else "folder")

    @property
    def own_references(self) -> Path | None:
        """The references of one's own; a file of captions may be given by --data too, where a folder is the archive."""
        if self.references is None and self.task == "caption" and self.data is not None:
            return self.data if self.suite is None and self.data.suffix.lower() in (".json", ".jsonl") else None
        return self.references

    @property
    def suite_name(self) -> str:
        """The suite that was asked for; else the embedded one, unless data or outputs made elsewhere are given."""
        if self.suite is not None:
            return self.suite
        command = COMMANDS[self.task]
        if self.own_references is not None and command.with_references is not None:
            return command.with_references
        if self.captions is not None and command.with_captions is not None:
            return command.with_captions
        elsewhere = self.data is not None or self.model_name == "folder"
        return command.with_data if elsewhere and command.with_data is not None else command.suite

    @property
    def of_model(self) -> dict[str, Any]:
        """What was given of the options that models take, the checkpoint aside: the values by their field."""
        found = {each.name: getattr(self, each.name) for each, option in options() if option.models is not None}
        return {name: value for name, value in found.items() if value is not None and name != "checkpoint"}

    def unused(self, model: str) -> list[str]:
        """The options that were given and that a ``model`` of this kind does not take."""
        return [
            option.flag
            for each, option in options()
            if option.models is not None and getattr(self, each.name) is not None and not option.fits(model, self.task)
        ]


def options() -> list[tuple[Field[Any], Option]]:
    """Every option with its field of ``Request``, in the order of ``--help``."""
    return [(each, each.metadata["option"]) for each in fields(Request) if "option" in each.metadata]
