"""Train the decoder from source latents to prompts: ``python -m crossflow.training.prompt_reader``.

Its inputs are samples from the frozen text encoder's posteriors of prompts of the split ``train``, its loss is the
cross-entropy of their words. One CPU thread, about two minutes; the same seed on the same machine gives the same
weights. ``python -m benchmarks.prompt_reader`` measures the result.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.files.folders import shipped
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.minilm import MiniLM
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig, tokenized
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.crossflow import CrossFlow
from crossflow.recipes.scenes import WORDS
from crossflow.sampling.prompt_reader import READER, save_decoder
from crossflow.scenes.splits import example
from crossflow.training.optimizer import Optimizer

SHIPPED = shipped("t2i")
CONFIG = TextDecoderConfig(words=WORDS, count=12, width=96, depth=2, heads=4)
"""The longest prompt, of two objects with their colours, has ten words."""
STEPS, EXAMPLES, BATCH, RATE, WARMUP = 800, 12_000, 64, 2e-3, 100


@torch.no_grad()
def posteriors(model: CrossFlow, embedder: TextEmbedder, prompts: Sequence[str]) -> Gaussian:
    """The posteriors of ``prompts`` under the encoder of ``model``."""
    return model.encoder(*embedder.embed(prompts, model.config.reads.shape[0]))


def train(
    found: Gaussian,
    words: Int[Tensor, "p n"],
    order: Int[Tensor, " e"],
    config: TextDecoderConfig,
    steps: int,
    seed: int,
) -> TextDecoder:
    """Train a decoder from samples of the posteriors ``found`` to ``words``; ``order`` has a row index per example."""
    torch.manual_seed(seed)
    shape = found.mean.shape[1:]
    decoder = TextDecoder(config, (shape[0], shape[1], shape[2]))
    optimizer = Optimizer("muon", decoder, (0.9, 0.95), 0.01)
    for step in range(steps):
        picks = order[torch.randint(len(order), (BATCH,))]
        latents = Gaussian(found.mean[picks], found.log_var[picks]).sample(torch.randn(BATCH, *shape))
        loss = F.cross_entropy(decoder(latents).flatten(0, 1), words[picks].flatten())
        loss.backward()
        optimizer.step(RATE * min(1.0, (step + 1) / WARMUP) * (1.0 - step / steps))
        if step % 100 == 0:
            sys.stderr.write(f"step {step}/{steps} loss {loss.item():.4f}\n")
    return decoder.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Train on the prompts of the first scenes of ``train``, and write the decoder."""
    parser = argparse.ArgumentParser(prog="python -m crossflow.training.prompt_reader", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="the text-to-image model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=READER)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    start = time.process_time()
    model = load_checkpoint(args.checkpoint)
    prompts = [example("train", index).prompt for index in range(args.examples)]
    distinct = sorted(set(prompts))
    row = {prompt: number for number, prompt in enumerate(distinct)}
    order = torch.tensor([row[prompt] for prompt in prompts])
    found = posteriors(model, MiniLM(), distinct)
    decoder = train(found, tokenized(distinct, CONFIG), order, CONFIG, args.steps, args.seed)
    command = (
        f"python -m crossflow.training.prompt_reader --steps {args.steps} --examples {args.examples} --seed {args.seed}"
    )
    notes = {"command": command, "cpu_seconds": round(time.process_time() - start)}
    save_decoder(args.out, decoder, model, notes)
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    try:
        main()
    except CrossFlowError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
