"""CLAP (Y. Wu et al., 2023) through transformers' ``ClapModel``: sounds and texts in one space.

The published model is ``laion/clap-htsat-unfused``, whose folder the local hub cache has after `hf download`. Of a
sound it hears the first channel at 48 kHz, of one that is longer than its window the beginning, where LAION's code
draws a place; a shorter one is repeated to fill the window. Models that fuse several windows draw at random and are
refused. Nobody publishes a sha256 of the weights: that of the file that was used is in the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import local_folder, readable
from crossflow.files.recordings import Recording
from crossflow_eval.judges.audioldm import resampled
from crossflow_eval.judges.features import of_distinct
from crossflow_eval.judges.local_weights import checked_sha256, load_folder
from crossflow_eval.judges.precise import in_float32

PUBLISHED = "laion/clap-htsat-unfused"
HOLDS = "config.json, model.safetensors, preprocessor_config.json and the tokenizer's files"
LENGTH = 77
"""Tokens of a text, at most, as LAION's code cuts it."""


class Clap:
    """A ``FeatureExtractor`` of recordings and, as :meth:`embed_texts`, of texts; made by :func:`load_clap`.

    ``fingerprint`` is what can change a number beside the weights.
    """

    def __init__(self, model: Any, sounds: Any, tokenizer: Any, name: str, weights_sha256: str, device: str) -> None:
        self._model, self._sounds, self._tokenizer, self._device = model.to(device), sounds, tokenizer, device
        self.name, self.weights_sha256, self.dim = name, weights_sha256, int(model.config.projection_dim)
        self.fingerprint: Mapping[str, Any] = {
            "channels": "the first",
            "rate": sounds.sampling_rate,
            "resampling": "torchaudio.functional.resample, Hann-windowed sinc, width 6, rolloff 0.99, float32",
            "window": f"the first {sounds.nb_max_samples} samples; shorter sounds: {sounds.padding}",
            "spectrogram": f"window {sounds.fft_window_size}, hop {sounds.hop_length}, {sounds.feature_size} Slaney "
            f"mel bands from {sounds.frequency_min} to {sounds.frequency_max} Hz, decibels",
            "text": f"as it is, at most {LENGTH} tokens of RoBERTa's",
            "precision": "float32",
        }

    def __call__(self, recordings: Sequence[Recording]) -> np.ndarray:
        """The embeddings of the sounds, float32 [n dim], not brought to one length. Each sound passes alone."""
        return of_distinct(self._embed, recordings, 1)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of the texts, float32 [n dim], not brought to one length."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"].to(self._device), tokens["attention_mask"].to(self._device)
        with in_float32():
            pooled = self._model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return self._model.text_projection(pooled).cpu().numpy()

    def _embed(self, recordings: Sequence[Recording]) -> np.ndarray:
        rate, most = self._sounds.sampling_rate, self._sounds.nb_max_samples
        waves = [resampled(recording, rate)[:most] for recording in recordings]
        heard = self._sounds(waves, sampling_rate=rate, return_tensors="pt")["input_features"].float()
        with in_float32():
            pooled = self._model.audio_model(input_features=heard.to(self._device)).pooler_output
            return self._model.audio_projection(pooled).cpu().numpy()


def load_clap(source: str | Path, *, device: str = "cpu") -> Clap:
    """The CLAP of a folder, or of a name in the local hub cache.

    Raises CrossFlowError where there is neither, where its files are damaged or of another network, and for one that
    fuses several windows.
    """
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    folder = local_folder(source, HOLDS)
    model = load_folder(ClapModel, folder)
    with readable(folder, "CLAP's preparation of sounds and texts"):
        sounds = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if model.config.audio_config.enable_fusion or sounds.truncation != "rand_trunc":
        raise CrossFlowError(f"{folder} fuses several windows of a sound, drawn at random; give {PUBLISHED}.")
    digest = checked_sha256(folder / "model.safetensors")
    return Clap(model, sounds, tokenizer, Path(source).name, digest, device)
