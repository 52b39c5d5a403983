"""A training batch: paired items of several modalities, by the name of the modality."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Item(NamedTuple):
    """The values of one modality in a batch, one row per item; ``mask`` is False at padding, None if there is none."""

    values: Shaped[Tensor, "b *dims"]
    mask: Bool[Tensor, "b *n"] | None = None

    def to(self, device: torch.device) -> "Item":
        return Item(self.values.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class Batch(Mapping[str, Item]):
    """Paired items by modality, and inputs that only loss terms read (``pixels``, ``image_features``, ``negatives``).

    ``same`` is an id of the source: equal for items that share it, such as images with the same caption. ``goal`` is
    the target that the flow is trained on: an item's own or, for null items, another's (``Draws.donor``). None means
    that the batch is that of the whole step, so that it contains the donors. ``measured`` says where that target is
    known, and the flow loss is taken; None is everywhere.
    """

    items_by_name: Mapping[str, Item]
    same: Int[Tensor, " b"]
    goal: Shaped[Tensor, "b *dims"] | None = field(default=None)
    measured: Bool[Tensor, "b 1 h w"] | None = field(default=None)

    def __getitem__(self, name: str) -> Item:
        return self.items_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_by_name)

    def __len__(self) -> int:
        return len(self.items_by_name)

    @property
    def count(self) -> int:
        """The batch size."""
        return len(self.same)

    def reaching(self, name: str, donor: Int[Tensor, " b"]) -> Shaped[Tensor, "b *dims"]:
        """The targets of the flow, of the modality ``name``; ``donor`` selects them if the batch is whole."""
        return self[name].values[donor] if self.goal is None else self.goal

    def to(self, device: torch.device) -> "Batch":
        items = {name: item.to(device) for name, item in self.items_by_name.items()}
        goal, measured = (None if part is None else part.to(device) for part in (self.goal, self.measured))
        return Batch(items, self.same.to(device), goal, measured)
