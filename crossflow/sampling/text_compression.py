"""What a source latent keeps of its text: tokens encoded, sampled and decoded again, as in the paper's Table 10.

The decoder is the one that the loss ``TextReconstruction`` trained with the model.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_embedders import weights_of
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import DECODER, load_checkpoint, load_text_decoder
from crossflow.model.crossflow import CrossFlow
from crossflow.sampling.text_to_image import seeded_noise


class Kept(NamedTuple):
    """The token embeddings of one text without padding: the language model's, and those decoded from its latent."""

    tokens: Float[Tensor, "n d"]
    of_sample: Float[Tensor, "n d"]
    of_mean: Float[Tensor, "n d"]


class TextCompression:
    """A model's text encoder, with the ``decoder`` of its latents, both in float64, and its language model.

    ``token_values`` and ``latent_values`` count the numbers of a text before and after. ``identity`` is everything here
    that can change a result, as plain JSON.
    """

    def __init__(
        self, model: CrossFlow, decoder: nn.Module, embedder: TextEmbedder, identity: Mapping[str, str] | None = None
    ) -> None:
        self.config = model.config
        self.encoder = copy.deepcopy(model.encoder).double().eval()
        self.decoder = copy.deepcopy(decoder).double().eval()
        self.embedder = embedder
        self.token_values, self.latent_values = math.prod(self.config.reads.shape), math.prod(self.config.shape)
        self.identity: dict[str, str] = dict(identity or {})
        self.device = next(model.parameters()).device

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "cpu", text_encoder: Path | None = None
    ) -> "TextCompression":
        """Load a checkpoint and the decoder beside it onto auto, cpu, cuda or cuda:N; see ``load_text_decoder``.

        ``text_encoder`` is the folder of the language model, None for the default location.
        """
        device, path = usable_device(device), Path(path)
        decoder = load_text_decoder(path, device)
        model = load_checkpoint(path, device)
        embedder = cast(TokensConfig, model.config.reads).embedder(text_encoder, device)
        files = {"weights_sha256": file_sha256(path), "decoder_sha256": file_sha256(path.with_name(DECODER))}
        return cls(model, decoder, embedder, {**files, **weights_of(embedder)})

    @torch.no_grad()
    def reconstruct(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Kept]:
        """What is decoded from a sample, with noise of its own seed, and from the posterior's mean, of each text."""
        tokens, mask = self.embedder.embed(texts, self.config.reads.shape[0])
        noise = torch.stack([seeded_noise(seed, self.config.shape) for seed in seeds])
        posterior = self.encoder(tokens.double().to(self.device), mask.to(self.device))
        latents = (posterior.sample(noise.double().to(self.device)), posterior.mean)
        decoded = [self.decoder(each).float().cpu() for each in latents]
        return [Kept(*(each[i, mask[i]] for each in (tokens.float(), *decoded))) for i in range(len(texts))]

    def mean_tokens(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """The mean token embedding at each position over ``texts``, padding excluded; zero where all are padded."""
        tokens, mask = self.embedder.embed(texts, self.config.reads.shape[0])
        real = mask[..., None].double()
        return ((tokens * real).sum(0) / real.sum(0).clamp(min=1)).float()
