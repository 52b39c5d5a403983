"""Any text-to-image pipeline of ``diffusers`` as a model, from a folder of its own form; nothing is downloaded.

Each image has a generator of its own. Prompts are drawn one by one, unless batches are asked for: then every call of
the pipeline draws exactly so many, the last prompt repeated where there are fewer, and texts are padded to one length,
not to the longest of the batch. An image still depends on its batch by rounding, so a run draws batches whole.
"""

import hashlib
import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.plain_json import read_json_file
from crossflow_eval.judges.local_weights import checked_sha256, reason
from crossflow_eval.types import Output

HOLDS = "model_index.json and the folders it names, as `save_pretrained` writes them"
NEEDED = ("prompt", "generator", "output_type")
"""What a text-to-image pipeline takes at the least."""
_log = logging.getLogger(__name__)
READ = (".json", ".model", ".safetensors", ".txt")
MOST_TOKENS = 4096
"""What a length that texts are padded to stays below: tokenizers without one of their own say 10^30."""
SHARD = r"-\d{5}-of-\d{5}"
LONGEST = (True, "longest")
"""How a tokenizer is told to pad texts to the longest of their batch."""
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DiffusersModel:
    """The pipeline in ``folder``, its weights in safetensors; code that lies beside them is refused, not run.

    Where a part has the weights of a variant alone, as ``save_pretrained(variant="fp16")`` leaves it, that is read.
    ``steps`` and ``guidance_scale`` left None are the pipeline's own, and so is ``size``, the pixels a side.
    ``batch_size`` prompts are drawn at a time; beyond one, the first batch says how far its images are from those drawn
    one by one.
    ``precision`` auto is bfloat16 on a GPU and float32 on a CPU. A safety checker is left out: it would turn images
    black, and its verdicts are not what is measured. The noise is drawn on the CPU, so that devices agree.

    Raises:
        CrossFlowError: a folder that is no pipeline or is damaged; options that the pipeline does not take.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        size: int | None = None,
        batch_size: int = 1,
        precision: str = "auto",
        device: str = "cpu",
    ) -> None:
        kind = device.partition(":")[0]
        if precision == "auto":
            precision = "bfloat16" if kind == "cuda" else "float32"
        if precision not in PRECISIONS:
            raise unknown("precision of a diffusers pipeline", precision, ["auto", *PRECISIONS])
        if steps is not None and steps < 1:
            raise CrossFlowError(f"--steps must be at least 1, got {steps}.")
        self.name, self.batch_size = name, batch_size
        variant = _variant(folder)
        self._pipeline = _load(folder, PRECISIONS[precision], variant).to(device)
        known = inspect.signature(self._pipeline.__call__).parameters
        what = type(self._pipeline).__name__
        if lacking := [each for each in NEEDED if each not in known]:
            raise CrossFlowError(f"{what} in {folder} is no text-to-image pipeline: it does not take {lacking[0]!r}.")
        given = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "height": size, "width": size}
        self._options = {option: value for option, value in given.items() if value is not None}
        if unused := [option for option in self._options if option not in known]:
            raise CrossFlowError(f"{what} does not use {', '.join(unused)}; leave the option out.")
        self._told = batch_size == 1
        for tokenizer in _tokenizers(self._pipeline):
            if batch_size > 1:
                pad_to_one_length(tokenizer, name)
        own = {option: known[option].default for option in given if option in known}
        self.identity: Mapping[str, Any] = {
            "pipeline": what,
            "weights_sha256": _sha256(folder, variant),
            **({} if variant is None else {"variant": variant}),
            "steps": self._options.get("num_inference_steps", own.get("num_inference_steps")),
            "guidance_scale": self._options.get("guidance_scale", own.get("guidance_scale")),
            "size": size or "the pipeline's own",
            "batch_size": batch_size,
            "precision": precision,
            "device": kind,
            "diffusers": _version(),
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one uint8 image [h w 3] a prompt. CrossFlowError where the pipeline fails or gives no numbers."""
        images: list[Output] = []
        for start in range(0, len(sources), self.batch_size):
            part = slice(start, start + self.batch_size)
            prompts = [str(source) for source in sources[part]]
            images += self._draw(prompts, seeds[part], self.batch_size)
            if not self._told:
                self._told = True
                self._tell(prompts, seeds[part], images)
        return images

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], size: int) -> list[np.ndarray]:
        """The images of one call of the pipeline, with ``size`` prompts: the last one fills it up."""
        filled = [min(place, len(prompts) - 1) for place in range(size)]
        generators = [torch.Generator().manual_seed(seeds[place]) for place in filled]
        asked: dict[str, Any] = {"prompt": [prompts[place] for place in filled], "generator": generators}
        if size == 1:
            asked = {"prompt": prompts[0], "generator": generators[0]}
        try:
            made = self._pipeline(**asked, output_type="np", **self._options)
        except (TypeError, ValueError) as error:
            beside = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
            raise CrossFlowError(f"{self.name} cannot draw {prompts[0]!r}{beside}: {reason(error)}.") from error
        images = [np.asarray(image, dtype=np.float32) for image in made.images[: len(prompts)]]
        if not all(np.isfinite(image).all() for image in images):
            raise CrossFlowError(f"{self.name} gave an image that is not finite; try --precision float32.")
        return [(image * 255).round().clip(0, 255).astype(np.uint8) for image in images]

    def _tell(self, prompts: Sequence[str], seeds: Sequence[int], images: Sequence[Any]) -> None:
        """Say how far the images of a batch's shortest and longest prompts are from those that are drawn alone."""
        by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        chosen = sorted({by_length[0], by_length[-1]})
        alone = [self._draw([prompts[place]], [seeds[place]], 1)[0] for place in chosen]
        apart = [abs(one.astype(int) - images[place]) for one, place in zip(alone, chosen, strict=True)]
        _log.info(
            "In batches of %d: drawn one by one, the images of the shortest and the longest prompt of the first batch "
            "differ by at most %d of 255, by %.2g on average.",
            self.batch_size, max(each.max() for each in apart), np.mean([each.mean() for each in apart]),
        )  # fmt: skip


def pad_to_one_length(tokenizer: Any, name: str) -> None:
    """Let a tokenizer pad several texts to the most tokens there may be, where it is told to pad to the longest.

    What there is no such number of, in the pipeline ``name``, is refused by a CrossFlowError as a batch is drawn.
    """

    class Fixed:
        def __call__(self, text: Any = None, *more: Any, padding: Any = False, **options: Any) -> Any:
            if padding in LONGEST and isinstance(text, list) and len(text) > 1:
                most = options.get("max_length") or tokenizer.model_max_length
                if most > MOST_TOKENS:
                    raise CrossFlowError(f"{name} pads texts to no length of its own; give --batch-size 1.")
                padding, options["max_length"] = "max_length", most
            return super().__call__(text, *more, padding=padding, **options)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    tokenizer.__class__ = type(type(tokenizer).__name__, (Fixed, type(tokenizer)), {})


def _tokenizers(pipeline: Any) -> list[Any]:
    """The pipeline's tokenizers; one that says no length of its own has that of its text encoder."""
    found = {name: part for name, part in pipeline.components.items() if hasattr(part, "model_max_length")}
    for name, tokenizer in found.items():
        encoder = pipeline.components.get(name.replace("tokenizer", "text_encoder"))
        most = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if tokenizer.model_max_length > MOST_TOKENS and most is not None:
            tokenizer.model_max_length = most
    return list(found.values())


def _load(folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    checker = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in _parts(folder) else {}
    try:
        with _quiet():
            pipeline = DiffusionPipeline.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                torch_dtype=dtype,
                variant=variant,
                **checker,
            )
    except (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = reason(error).rstrip(". ")
        raise CrossFlowError(f"{folder} does not load as a pipeline ({why}); it should hold {HOLDS}.") from error
    _check_whole(pipeline, folder, variant)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_whole(pipeline: Any, folder: Path, variant: str | None) -> None:
    """Raise CrossFlowError for a part whose files hold fewer numbers than it has: the rest would be drawn at random."""
    for name, part in pipeline.components.items():
        if not isinstance(part, nn.Module):
            continue
        held = 0
        for file in _read(folder / name, variant):
            if file.suffix != ".safetensors":
                continue
            with safe_open(file, framework="pt") as content:
                held += sum(math.prod(content.get_slice(key).get_shape()) for key in content.keys())  # noqa: SIM118
        needed = sum(parameter.numel() for parameter in part.parameters())
        if held < needed:
            raise CrossFlowError(f"{folder / name} holds {held} of the {needed} weights of its model; fetch it again.")


def _variant_of(weights: Path) -> str:
    """The variant that a file of weights is of: ``fp16`` of ``model.fp16.safetensors``, and none of a plain one."""
    return re.sub(SHARD, "", weights.stem.partition(".")[2])


def _variant(folder: Path) -> str | None:
    """The variant that is read, None where every part has plain weights. CrossFlowError where no one variant fits."""
    found = {part: {_variant_of(file) for file in (folder / part).glob("*.safetensors")} for part in _parts(folder)}
    alone = {part: variants for part, variants in found.items() if variants and "" not in variants}
    common = set[str].intersection(*alone.values()) if alone else set[str]()
    if alone and len(common) != 1:
        names = "; ".join(f"{part} {', '.join(sorted(variants))}" for part, variants in alone.items())
        raise CrossFlowError(f"{folder} holds variants of weights, and not one for all parts ({names}): keep one.")
    return common.pop() if common else None


def _read(part: Path, variant: str | None) -> list[Path]:
    """The files of a part that the pipeline reads: configs, tokenizers, the weights of ``variant`` where it has them.

    Files with further dots in their names, such as the index of shards, say nothing that these do not.
    """
    weights = [file for file in part.glob("*.safetensors") if variant and _variant_of(file) == variant]
    plain = [file for file in part.glob("*") if file.suffix in READ and "." not in file.stem]
    return [*weights, *(file for file in plain if not weights or file.suffix != ".safetensors")]


@contextmanager
def _quiet() -> Iterator[None]:
    """No notices and no progress bars of diffusers and transformers."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both = [(each, each.get_verbosity(), each.is_progress_bar_enabled()) for each in (of_diffusers, of_transformers)]
    for each, _, _ in both:
        each.set_verbosity(each.CRITICAL)
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that newer releases of diffusers give to options
            yield
    finally:
        for each, verbosity, shown in both:
            each.set_verbosity(verbosity)
            if shown:
                each.enable_progress_bar()


def _parts(folder: Path) -> list[str]:
    """The names of the pipeline's parts: models, tokenizers, scheduler."""
    try:
        index = read_json_file(folder / "model_index.json")
        return [name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")]
    except (AttributeError, CrossFlowError) as error:
        raise CrossFlowError(f"{folder} is no pipeline of diffusers: it should hold {HOLDS}.") from error


def _sha256(folder: Path, variant: str | None) -> str:
    """Of the files that the pipeline reads, with their names."""
    files = [folder / "model_index.json", *(file for part in _parts(folder) for file in _read(folder / part, variant))]
    lines = [f"{file.relative_to(folder).as_posix()} {checked_sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _version() -> str:
    import diffusers

    return diffusers.__version__
