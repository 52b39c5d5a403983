"""The authors' convolutional head from a vector to a feature map, for their text encoder and image tower at 512 px."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Adaptor(nn.Module):
    """A vector to a flattened map [out_channels side side]: two linear layers, then three 3 x 3 convolutions.

    ``hidden`` is the width between the linear layers, ``channels`` the widths between the convolutions. Every layer but
    the last is followed by LayerNorm, over the whole map after a convolution, and ReLU.
    """

    def __init__(
        self, inputs: int, out_channels: int, side: int, hidden: int = 4096, channels: tuple[int, int] = (32, 64)
    ) -> None:
        super().__init__()
        first, second = channels
        self.side = side
        self.fc1 = nn.Linear(inputs, hidden)
        self.ln_fc1 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, side * side)
        self.ln_fc2 = nn.LayerNorm(side * side)
        self.conv1 = nn.Conv2d(1, first, 3, padding=1)
        self.ln_conv1 = nn.LayerNorm([first, side, side])
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.ln_conv2 = nn.LayerNorm([second, side, side])
        self.conv3 = nn.Conv2d(second, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """[b inputs] -> [b out_channels*side*side], channel first."""
        x = F.relu(self.ln_fc1(self.fc1(x)))
        x = F.relu(self.ln_fc2(self.fc2(x)))
        maps = F.relu(self.ln_conv1(self.conv1(x.unflatten(1, (1, self.side, self.side)))))
        maps = F.relu(self.ln_conv2(self.conv2(maps)))
        return self.conv3(maps).flatten(1)
