"""KL divergence of the source posterior from N(0, I)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.losses.term import Step


@dataclass(frozen=True, kw_only=True)
class KL:
    """The KL, summed over latent dimensions; ``form`` is the paper's ``standard`` or the authors' ``official``."""

    weight: float = 1e-2
    form: Literal["standard", "official"] = "official"
    kind: Literal["kl"] = "kl"
    name: ClassVar[str] = "kl"
    reads: ClassVar[tuple[str, ...]] = ()

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError for a source without a learned variance: the loss would be infinite or useless."""
        if variance != "learned":
            raise CrossFlowError(f"A KL needs a source whose variance is learned, and this one's is {variance}.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "KLTerm":
        return KLTerm(self)


class KLTerm(nn.Module):
    """See ``crossflow.flow.losses.kl``."""

    def __init__(self, config: KL) -> None:
        super().__init__()
        self.config = config

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """The mean over items, unweighted."""
        return losses.kl(step.posterior.mean, step.posterior.log_var, self.config.form).mean()
