"""Texts as token embeddings of a frozen language model, as what a flow reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import TextEmbedder
from crossflow.modalities.text_embedders import embedder_named
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """``count`` token embeddings of width ``width`` per text, from the language model ``model``.

    Its name is one of ``text_embedders.EMBEDDERS``, or ``hf:ID_OR_FOLDER`` for any other.
    """

    model: str = "minilm"
    count: int = 16
    width: int = 384
    name: Literal["text"] = "text"
    kind: Literal["tokens"] = "tokens"

    def __post_init__(self) -> None:
        check_sizes(count=self.count, width=self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, width)."""
        return (self.count, self.width)

    def embedder(self, source: str | Path | None = None, device: str = "cpu") -> TextEmbedder:
        """The language model; ``source`` is the folder of its weights, None for the default location.

        CrossFlowError for one whose tokens are of another width.
        """
        found = embedder_named(self.model, source, device)
        if found.width != self.width:
            raise CrossFlowError(
                f"This model reads tokens of width {self.width}, and those of the text encoder are {found.width} wide: "
                "give the text encoder that it was trained with, or a recipe of that width."
            )
        return found
