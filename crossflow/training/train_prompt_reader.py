"""Train the decoder from source latents to words, with which a text-to-image model run backward captions images.

Its inputs are samples from the posteriors that the model's frozen text encoder has of the captions that the model was
trained on; its loss is the cross-entropy of their words. ``crossflow train-reader`` is the command.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.locks import check_writable
from crossflow.files.progress import Stage, chunks, silent
from crossflow.files.seeds import check_seed
from crossflow.files.tensors import read_header
from crossflow.files.writing import refuse_existing
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig, tokenized, word_count
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.crossflow import CrossFlow
from crossflow.recipes.recipe import SceneData
from crossflow.recipes.scenes import WORDS
from crossflow.sampling.prompt_reader import save_decoder
from crossflow.scenes.splits import example
from crossflow.training.optimizer import Optimizer

STEPS, EXAMPLES, BATCH, RATE, WARMUP = 800, 12_000, 64, 2e-3, 100
CHUNK = 4096
"""Texts that are encoded at once."""


def train_reader(
    checkpoint: Path,
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    stage: Stage = silent,
) -> Path:
    """Train a decoder of the source latents of the model in ``checkpoint``, write it to ``out`` and return that.

    It reads the captions of the first scenes of ``train`` in the forms that the model was trained on, which the
    checkpoint's notes tell. The same seed on the same machine gives the same file. CrossFlowError for the baseline, for
    a model that reads no text, for one that was not trained on scenes, whose captions nobody knows, and, before any
    work, for an ``out`` that is there or cannot be written.
    """
    check_seed(seed)
    refuse_existing([out])
    check_writable(out.parent, "writing")
    model = load_checkpoint(checkpoint)
    if model.config.reads.kind != "tokens":
        raise CrossFlowError(f"{checkpoint} reads {model.config.reads.name}: give a model from text to image.")
    data = _scenes_of(checkpoint)
    scenes = (example("train", index) for index in range(min(EXAMPLES, data.count)))
    captions = [scene.captions[kind] for scene in scenes for kind in data.captions]
    distinct = sorted(set(captions))
    row = {caption: number for number, caption in enumerate(distinct)}
    order = torch.tensor([row[caption] for caption in captions])
    count = max(map(word_count, distinct)) + 2  # where a text ends must show, also of the longest
    config = TextDecoderConfig(words=WORDS, count=count, width=96, depth=2, heads=4)
    embedder = cast(TokensConfig, model.config.reads).embedder()
    limit = model.config.reads.shape[0]
    if cut := sum(length > limit for length in embedder.lengths(distinct)):
        say(f"{cut} of {len(distinct)} captions are longer than the {limit} tokens that the model reads")
    found = posteriors(model, embedder, distinct)
    decoder = train(found, tokenized(distinct, config), order, config, steps, seed, stage)
    notes = {"captions": data.captions, "steps": steps, "seed": seed, "weights_sha256": file_sha256(checkpoint)}
    save_decoder(out, decoder, model, notes)
    return out


def _scenes_of(checkpoint: Path) -> SceneData:
    """The scenes that a model was trained on, by the notes in its file."""
    given = read_header(checkpoint).get("training", {}).get("data")
    try:
        return TypeAdapter(SceneData).validate_python(given)
    except ValidationError as error:
        raise CrossFlowError(
            f"{checkpoint} does not say that it was trained on scenes, and only of these the captions are known: "
            "give a checkpoint of crossflow train."
        ) from error


@torch.no_grad()
def posteriors(model: CrossFlow, embedder: TextEmbedder, texts: Sequence[str]) -> Gaussian:
    """The posteriors of ``texts`` under the encoder of ``model``."""
    count = model.config.reads.shape[0]
    parts = [
        model.encoder(*embedder.embed(texts[start : start + CHUNK], count)) for start in range(0, len(texts), CHUNK)
    ]
    return Gaussian(*(torch.cat(part) for part in zip(*parts, strict=True)))


def train(
    found: Gaussian,
    words: Int[Tensor, "p n"],
    order: Int[Tensor, " e"],
    config: TextDecoderConfig,
    steps: int,
    seed: int,
    stage: Stage = silent,
) -> TextDecoder:
    """Train a decoder from samples of the posteriors ``found`` to ``words``; ``order`` has a row index per example."""
    torch.manual_seed(seed)
    shape = found.mean.shape[1:]
    decoder = TextDecoder(config, (shape[0], shape[1], shape[2]))
    optimizer = Optimizer("muon", decoder, (0.9, 0.95), 0.01)
    for step in chunks(stage, "training", "steps", steps, 1):
        picks = order[torch.randint(len(order), (BATCH,))]
        latents = Gaussian(found.mean[picks], found.log_var[picks]).sample(torch.randn(BATCH, *shape))
        loss = F.cross_entropy(decoder(latents).flatten(0, 1), words[picks].flatten())
        loss.backward()
        optimizer.step(RATE * min(1.0, (step + 1) / WARMUP) * (1.0 - step / steps))
    if not all(part.isfinite().all() for part in decoder.parameters()):
        raise CrossFlowError("The decoder diverged, for some posteriors are far too wide: train the model longer.")
    return decoder.eval()
