"""Any text-to-image pipeline of ``diffusers`` as a model, from a folder of its own form; nothing is downloaded.

Prompts are drawn one by one, each with a generator of its own: many pipelines pad the prompts of a batch to the longest
of them, so that an image would depend on its whole batch. Several processes share a run as they do with any model.
"""

import hashlib
import inspect
import math
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
READ = (".json", ".model", ".safetensors", ".txt")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class DiffusersModel:
    """The pipeline in ``folder``, its weights in safetensors; code that lies beside them is refused, not run.

    ``steps`` and ``guidance_scale`` left None are the pipeline's own, and so is ``size``, the pixels a side.
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
        self.name = name
        self._pipeline = _load(folder, PRECISIONS[precision]).to(device)
        known = inspect.signature(self._pipeline.__call__).parameters
        what = type(self._pipeline).__name__
        if lacking := [each for each in NEEDED if each not in known]:
            raise CrossFlowError(f"{what} in {folder} is no text-to-image pipeline: it does not take {lacking[0]!r}.")
        given = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "height": size, "width": size}
        self._options = {option: value for option, value in given.items() if value is not None}
        if unused := [option for option in self._options if option not in known]:
            raise CrossFlowError(f"{what} does not use {', '.join(unused)}; leave the option out.")
        own = {option: known[option].default for option in given if option in known}
        self.identity: Mapping[str, Any] = {
            "pipeline": what,
            "weights_sha256": _sha256(folder),
            "steps": self._options.get("num_inference_steps", own.get("num_inference_steps")),
            "guidance_scale": self._options.get("guidance_scale", own.get("guidance_scale")),
            "size": size or "the pipeline's own",
            "precision": precision,
            "device": kind,
            "diffusers": _version(),
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one uint8 image [h w 3] a prompt. CrossFlowError where the pipeline fails or gives no numbers."""
        return [self._draw(str(source), seed) for source, seed in zip(sources, seeds, strict=True)]

    def _draw(self, prompt: str, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        try:
            made = self._pipeline(prompt=prompt, generator=generator, output_type="np", **self._options)
        except (TypeError, ValueError) as error:
            raise CrossFlowError(f"{self.name} cannot draw {prompt!r}: {reason(error)}.") from error
        image = np.asarray(made.images[0], dtype=np.float32)
        if not np.isfinite(image).all():
            raise CrossFlowError(f"{self.name} gave an image that is not finite; try --precision float32.")
        return (image * 255).round().clip(0, 255).astype(np.uint8)


def _load(folder: Path, dtype: torch.dtype) -> Any:
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
                **checker,
            )
    except (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = reason(error).rstrip(". ")
        raise CrossFlowError(f"{folder} does not load as a pipeline ({why}); it should hold {HOLDS}.") from error
    _check_whole(pipeline, folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_whole(pipeline: Any, folder: Path) -> None:
    """Raise CrossFlowError for a part whose files hold fewer numbers than it has: the rest would be drawn at random."""
    for name, part in pipeline.components.items():
        if not isinstance(part, nn.Module):
            continue
        held = 0
        for file in filter(_is_read, (folder / name).glob("*.safetensors")):
            with safe_open(file, framework="pt") as content:
                held += sum(math.prod(content.get_slice(key).get_shape()) for key in content.keys())  # noqa: SIM118
        needed = sum(parameter.numel() for parameter in part.parameters())
        if held < needed:
            raise CrossFlowError(f"{folder / name} holds {held} of the {needed} weights of its model; fetch it again.")


def _is_read(file: Path) -> bool:
    """Whether the pipeline reads a file: weights, configs, tokenizers, but no variants such as ``model.fp16.*``."""
    return file.suffix in READ and "." not in file.stem


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


def _sha256(folder: Path) -> str:
    """Of the files that the pipeline reads, with their names."""
    files = [folder / "model_index.json", *(file for part in _parts(folder) for file in (folder / part).glob("*"))]
    lines = [f"{file.relative_to(folder).as_posix()} {checked_sha256(file)}\n" for file in filter(_is_read, files)]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _version() -> str:
    import diffusers

    return diffusers.__version__
