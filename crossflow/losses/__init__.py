"""What training adds to the flow loss: a term a file, each with the networks that only it needs."""

from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from torch import nn

from crossflow.files.kinds import Kinds
from crossflow.losses.contrast import Contrast, TextContrast
from crossflow.losses.kl import KL
from crossflow.losses.reconstruction import ImageReconstruction, TextReconstruction

LOSSES = Kinds("loss", "crossflow.losses", KL, Contrast, TextContrast, ImageReconstruction, TextReconstruction)


@runtime_checkable
class Term(Protocol):
    """What the config of a term has."""

    @property
    def kind(self) -> str:
        """The name by which a file holds it."""
        ...

    @property
    def name(self) -> str:
        """The name that the log has for it."""
        ...

    @property
    def weight(self) -> float:
        """What multiplies it in the total."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """What of a batch it takes beside the two ends."""
        ...

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError where it cannot go with a source that ``accepts`` this and has this ``variance``.

        ``guided`` says whether some items are trained towards targets not their own, ``learns`` whether the latents of
        the target are learned along with the flow.
        """
        ...

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        """The module of ``Step -> loss`` for values of the shape ``reads`` and latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    LossConfig = KL | Contrast | TextContrast | ImageReconstruction | TextReconstruction
else:
    LossConfig = Annotated[Term, LOSSES.reader]
