"""What training adds to the flow loss: a term a file, each with the networks that only it needs.

A term's config has a ``weight``, the ``name`` that the log has for it, what it ``reads`` of a batch beside the two
ends, ``check(...)``, which refuses what it cannot go with, and ``build(reads, shape)``: a module of ``Step -> loss``.
"""

from typing import Annotated

from pydantic import Field

from crossflow.losses.contrast import Contrast, TextContrast
from crossflow.losses.kl import KL
from crossflow.losses.reconstruction import ImageReconstruction, TextReconstruction

LossConfig = Annotated[
    KL | Contrast | TextContrast | ImageReconstruction | TextReconstruction, Field(discriminator="kind")
]
