"""Train the decoder from source latents to words, with which a text-to-image model run backward captions images.

Its inputs are samples from the posteriors that the model's frozen text encoder has of captions: those that the model
was trained on, or those of a file; its loss is the cross-entropy of their tokens. ``crossflow train-reader`` is the
command.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.captions import read_training
from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.files.locks import check_writable
from crossflow.files.progress import Stage, chunks, silent
from crossflow.files.seeds import check_seed
from crossflow.files.tensors import read_header
from crossflow.files.writing import refuse_existing
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.clip_text import CLIPTextConfig, clip_tokens
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig, Texts, tokenized, word_count
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.crossflow import CrossFlow
from crossflow.recipes.recipe import SceneData
from crossflow.recipes.scenes import WORDS
from crossflow.sampling.prompt_reader import save_decoder
from crossflow.scenes.retell import captions_of
from crossflow.scenes.splits import example
from crossflow.training.optimizer import Optimizer

STEPS, CAPTION_STEPS = 800, 20_000
"""Steps on scenes and on captions of a file; the latter are two epochs of COCO."""
EXAMPLES, BATCH, RATE, WARMUP = 12_000, 64, 2e-3, 100
CHUNK = 4096
"""Texts that are encoded at once."""


@dataclass(frozen=True)
class Lesson:
    """What a decoder of ``config`` learns: ``load`` maps the numbers of some of ``count`` texts to what is read.

    That is the posteriors of the texts and their token ids. ``notes`` say in the decoder's file what it learnt.
    """

    config: Texts
    count: int
    load: Callable[[Int[Tensor, " b"]], tuple[Gaussian, Int[Tensor, "b n"]]]
    notes: dict[str, Any]


def train_reader(
    checkpoint: Path,
    out: Path,
    *,
    captions: Path | None = None,
    text_encoder: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    stage: Stage = silent,
) -> Path:
    """Train a decoder of the source latents of the model in ``checkpoint``, write it to ``out`` and return that.

    It learns ``captions``, a file that ``read_training`` reads, in CLIP's tokens; without one the captions of the first
    scenes of ``train`` in the forms that the model was trained on, which the checkpoint's notes tell. ``text_encoder``
    is a folder of the model's language model, None for the hub's cache. ``steps`` are ``STEPS`` or ``CAPTION_STEPS``.
    The same seed on the same machine gives the same file. CrossFlowError for the baseline, for a model that reads no
    text, for one whose captions nobody knows, and, before any work, for an ``out`` that is there or cannot be written.
    """
    check_seed(seed)
    refuse_existing([out])
    check_writable(out.parent, "writing")
    device = usable_device(device)
    model = load_checkpoint(checkpoint, device)
    if model.config.reads.kind != "tokens":
        raise CrossFlowError(f"{checkpoint} reads {model.config.reads.name}: give a model from text to image.")
    scenes = _scenes_of(checkpoint) if captions is None else None
    embedder = cast(TokensConfig, model.config.reads).embedder(text_encoder, device)

    def checked(texts: Sequence[str]) -> None:
        limit = model.config.reads.shape[0]
        if cut := sum(length > limit for length in embedder.lengths(texts)):
            say(f"{cut} of {len(texts)} captions are longer than the {limit} tokens that the model reads")

    if scenes is not None:
        lesson, usual = _of_scenes(model, embedder, scenes, checked), STEPS
    else:
        lesson, usual = _of_captions(model, embedder, cast(Path, captions), checked), CAPTION_STEPS
    steps = usual if steps is None else steps
    decoder = train(lesson, model.config.shape, steps, seed, device, stage)
    notes = {**lesson.notes, "steps": steps, "seed": seed, "weights_sha256": file_sha256(checkpoint)}
    save_decoder(out, decoder, model, notes)
    return out


def _of_scenes(
    model: CrossFlow, embedder: TextEmbedder, data: SceneData, checked: Callable[[Sequence[str]], None]
) -> Lesson:
    """The captions of scenes, whose posteriors are computed once, in the words of the embedded world."""
    scenes = (example("train", index) for index in range(min(EXAMPLES, data.count)))
    captions = [captions_of(scene, scene.prompt)[kind] for scene in scenes for kind in data.captions]
    distinct = sorted(set(captions))
    checked(distinct)
    row = {caption: number for number, caption in enumerate(distinct)}
    order = torch.tensor([row[caption] for caption in captions])
    count = max(map(word_count, distinct)) + 2  # where a text ends must show, also of the longest
    config = TextDecoderConfig(words=WORDS, count=count, width=96, depth=2, heads=4)
    found, words = posteriors(model, embedder, distinct), tokenized(distinct, config)

    def load(picks: Int[Tensor, " b"]) -> tuple[Gaussian, Int[Tensor, "b n"]]:
        rows = order[picks]
        return Gaussian(found.mean[rows], found.log_var[rows]), words[rows]

    return Lesson(config, len(order), load, {"captions": data.captions})


def _of_captions(
    model: CrossFlow, embedder: TextEmbedder, path: Path, checked: Callable[[Sequence[str]], None]
) -> Lesson:
    """The captions of a file, which are encoded as they are needed, in those of CLIP's tokens that they contain."""
    texts = [pair.caption for pair in read_training(path)]
    checked(texts)
    tokens = {text: clip_tokens(text) for text in texts}
    if bare := [text for text, found in tokens.items() if not found]:
        raise CrossFlowError(
            f"{path} has captions without a token of CLIP's ({first_few(map(repr, bare), 3)}): leave them out."
        )
    known = tuple(sorted({token for found in tokens.values() for token in found}))
    config = CLIPTextConfig(width=256, depth=4, heads=8, known=known)

    def load(picks: Int[Tensor, " b"]) -> tuple[Gaussian, Int[Tensor, "b n"]]:
        chosen = [texts[pick] for pick in picks.tolist()]
        return posteriors(model, embedder, chosen), tokenized(chosen, config)

    return Lesson(config, len(texts), load, {"captions": path.name, "captions_sha256": file_sha256(path)})


def _scenes_of(checkpoint: Path) -> SceneData:
    """The scenes that a model was trained on, by the notes in its file."""
    given = read_header(checkpoint).get("training", {}).get("data")
    try:
        return TypeAdapter(SceneData).validate_python(given)
    except ValidationError as error:
        raise CrossFlowError(
            f"{checkpoint} does not say that it was trained on scenes, and only of these the captions are known: "
            "give the captions that its reader is to learn."
        ) from error


@torch.no_grad()
def posteriors(model: CrossFlow, embedder: TextEmbedder, texts: Sequence[str]) -> Gaussian:
    """The posteriors of ``texts`` under the encoder of ``model``, where that is."""
    count, device = model.config.reads.shape[0], next(model.encoder.parameters()).device
    parts: list[Gaussian] = []
    for start in range(0, len(texts), CHUNK):
        tokens, mask = embedder.embed(texts[start : start + CHUNK], count)
        parts.append(model.encoder(tokens.to(device), mask.to(device)))
    return Gaussian(*(torch.cat(part) for part in zip(*parts, strict=True)))


def train(
    lesson: Lesson, shape: tuple[int, int, int], steps: int, seed: int, device: str = "cpu", stage: Stage = silent
) -> TextDecoder:
    """Train a decoder from latents of ``shape`` (c, h, w) by samples of the posteriors of a ``lesson``."""
    torch.manual_seed(seed)
    decoder = TextDecoder(lesson.config, shape).to(device)
    optimizer = Optimizer("muon", decoder, (0.9, 0.95), 0.01)
    for step in chunks(stage, "training", "steps", steps, 1):
        posterior, words = lesson.load(torch.randint(lesson.count, (BATCH,)))
        latents = posterior.sample(torch.randn(BATCH, *shape).to(posterior.mean))
        decoder.loss(latents, words.to(latents.device)).backward()
        optimizer.step(RATE * min(1.0, (step + 1) / WARMUP) * (1.0 - step / steps))
    if not all(part.isfinite().all() for part in decoder.parameters()):
        raise CrossFlowError("The decoder diverged, for some posteriors are far too wide: train the model longer.")
    return decoder.cpu().eval()
