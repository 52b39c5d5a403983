"""A model's config is CrossFlow's or the baseline's; it builds its model, and a file says by ``kind`` which it is."""

from typing import Annotated

from pydantic import Field

from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.standard import StandardConfig, StandardFlow

ModelConfig = Annotated[FlowConfig | StandardConfig, Field(discriminator="kind")]
FlowModel = CrossFlow | StandardFlow
