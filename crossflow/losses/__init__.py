"""Loss terms added to the flow loss: one file per term, with the networks that only training needs."""

from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from torch import nn

from crossflow.files.kinds import Kinds
from crossflow.losses.contrast import Contrast, TextContrast
from crossflow.losses.kl import KL
from crossflow.losses.reconstruction import ImageReconstruction, TextReconstruction

LOSSES = Kinds("loss", "crossflow.losses", KL, Contrast, TextContrast, ImageReconstruction, TextReconstruction)


@runtime_checkable
class Term(Protocol):
    """The interface of a loss-term config."""

    @property
    def kind(self) -> str:
        """Its name in checkpoints and in the registry."""
        ...

    @property
    def name(self) -> str:
        """Its name in the training log."""
        ...

    @property
    def weight(self) -> float:
        """Its weight in the total loss."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """The entries of a batch that it reads besides source and target."""
        ...

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError if it does not apply to a source that ``accepts`` this kind and has this ``variance``.

        ``guided`` says whether there are null items, trained on other items' targets; ``learns`` whether the target's
        autoencoder is trained jointly with the flow.
        """
        ...

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        """A module ``Step -> loss``, for source data of shape ``reads`` and latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
    LossConfig = KL | Contrast | TextContrast | ImageReconstruction | TextReconstruction
else:
    LossConfig = Annotated[Term, LOSSES.reader]
