"""What one training step is given: items of several modalities, by the name of the modality."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Item(NamedTuple):
    """What a batch holds of one modality, one row an item; ``mask`` marks what is no padding, None where nothing is."""

    values: Shaped[Tensor, "b *dims"]
    mask: Bool[Tensor, "b *n"] | None = None

    def to(self, device: torch.device) -> "Item":
        """On a device."""
        return Item(self.values.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class Batch(Mapping[str, Item]):
    """Paired items by modality, beside them what only loss terms read (``pixels``, ``image_features``, ``negatives``).

    ``same`` numbers the sources, so that items with the same one can be told. ``goal`` holds what the flow is to reach:
    for null items the target of another (``Draws.donor``). None means that the batch is whole, so that the donors are
    in it.
    """

    items_by_name: Mapping[str, Item]
    same: Int[Tensor, " b"]
    goal: Shaped[Tensor, "b *dims"] | None = field(default=None)

    def __getitem__(self, name: str) -> Item:
        return self.items_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_by_name)

    def __len__(self) -> int:
        return len(self.items_by_name)

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self.same)

    def reaching(self, name: str, donor: Int[Tensor, " b"]) -> Shaped[Tensor, "b *dims"]:
        """What the flow is to reach, of the modality ``name``; ``donor`` is used where the batch is whole."""
        return self[name].values[donor] if self.goal is None else self.goal

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        items = {name: item.to(device) for name, item in self.items_by_name.items()}
        return Batch(items, self.same.to(device), None if self.goal is None else self.goal.to(device))
