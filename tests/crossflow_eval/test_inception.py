"""The network against those in use, on the same random weights in the published forms; features under each protocol.

torch-fidelity's network, clean-fid's copy of pytorch-fid's, and a TorchScript program of NVIDIA's form, whose names and
forward pass are stated here once more and which clean-fid itself loads and runs.
"""

from functools import reduce
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid import inception_pytorch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import FeatureExtractor, extract
from crossflow_eval.judges.inception import (
    CONVERSIONS,
    TAPS,
    InceptionFeatures,
    Weights,
    load_weights,
    published_weights,
)

A = ("conv", "tower.conv", "tower.conv_1", "tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_2.conv")
B = ("conv", "tower.conv", "tower.conv_1", "tower.conv_2")
C = (*A[:3], "tower.conv_2", *A[3:6], "tower_1.conv_3", "tower_1.conv_4", "tower_2.conv")
D = (*A[1:6], "tower_1.conv_3")
E = ("conv", "tower_conv", "tower_mixed_conv", "tower_mixed_conv_1", "tower_1_conv", "tower_1_conv_1",
     "tower_1_mixed_conv", "tower_1_mixed_conv_1", "tower_2_conv")  # fmt: skip
BLOCKS = {f"mixed{f'_{i}' if i else ''}": names for i, names in enumerate((A, A, A, B, C, C, C, C, D, E, E))}
STEM = ["conv", "conv_1", "conv_2", "conv_3", "conv_4"]
NAMES = [*STEM, *(f"{block}.{name}" for block, names in BLOCKS.items() for name in names)]
"""Of the convolutions of NVIDIA's program, in the order of pytorch-fid's state dict."""
HALVING = {"conv", "mixed_3.conv", "mixed_3.tower.conv_2", "mixed_8.tower.conv_1", "mixed_8.tower_1.conv_3"}
UNPADDED = HALVING | {"conv_1", "conv_3", "conv_4"}


class Layer(nn.Module):
    """A convolution, a batch norm without factor, which goes into the weights and the mean here, and ReLU."""

    def __init__(self, state: dict[str, Tensor], ours: str, theirs: str) -> None:
        super().__init__()
        factor = state[f"{ours}.bn.weight"]
        self.weight = nn.Parameter(state[f"{ours}.conv.weight"] * factor[:, None, None, None])
        self.beta = nn.Parameter(state[f"{ours}.bn.bias"])
        self.mean = nn.Parameter(state[f"{ours}.bn.running_mean"] * factor)
        self.var = nn.Parameter(state[f"{ours}.bn.running_var"])
        self.stride = 2 if theirs in HALVING else 1
        self.padding = [0 if theirs in UNPADDED else size // 2 for size in self.weight.shape[2:]]

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, None, self.stride, self.padding)
        return F.relu(F.batch_norm(x, self.mean, self.var, None, self.beta, eps=1e-3))


class Layers(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
        for ours, theirs in zip(names, NAMES, strict=True):
            *path, leaf = theirs.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.add_module(leaf, Layer(state, ours, theirs))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.run(x, *STEM[:3]), 3, 2)
        x = F.max_pool2d(self.run(x, *STEM[3:]), 3, 2)
        for block, names in BLOCKS.items():
            x = torch.cat(self.wide(x, block) if names is E else self.deep(x, block, names), 1)
        return F.avg_pool2d(x, 8)

    def run(self, x: Tensor, *names: str) -> Tensor:
        return reduce(lambda x, name: self.get_submodule(name)(x), names, x)

    def deep(self, x: Tensor, block: str, names: tuple[str, ...]) -> list[Tensor]:
        """Blocks of towers; those that halve end with a maximum, the others pool before their last convolution."""
        pooled = F.max_pool2d(x, 3, 2) if names in (B, D) else mean_pool(x)
        towers = [
            [f"{block}.{name}" for name in tower] for _, tower in groupby(names, lambda name: name.rpartition(".")[0])
        ]
        if names in (B, D):
            return [*(self.run(x, *tower) for tower in towers), pooled]
        return [*(self.run(x, *tower) for tower in towers[:-1]), self.run(pooled, *towers[-1])]

    def wide(self, x: Tensor, block: str) -> list[Tensor]:
        """The last two blocks; the very last pools by maximum."""
        conv, *names = (f"{block}.{name}" for name in E)
        first, second = self.run(x, names[0]), self.run(x, *names[3:5])
        pooled = mean_pool(x) if block == "mixed_9" else F.max_pool2d(x, 3, 1, 1)
        sides = [self.run(y, name) for y, pair in ((first, names[1:3]), (second, names[5:7])) for name in pair]
        return [self.run(x, conv), *sides, self.run(pooled, names[7])]


def mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Program(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.layers = Layers(state)
        self.output = nn.Linear(2048, 1008)
        self.output.weight.data, self.output.bias.data = state["fc.weight"], state["fc.bias"]

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x).flatten(1))


def pictures(n: int, size: int = 256, seed: int = 0) -> list[np.ndarray]:
    """Blocks of noise, coarse and fine, dark and bright, so that features of two images differ."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(n):
        side = 2 ** (1 + index % 5)
        coarse = generator.integers(0, 100 + 155 * index // n, size=(side, side, 3))
        fine = generator.integers(0, 30, size=(size, size, 3))
        made.append((np.kron(coarse, np.ones((size // side, size // side, 1))) * 0.88 + fine).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def weights(inception_pth: Path) -> Weights:
    return load_weights(inception_pth, published=False)


@pytest.fixture(scope="module")
def program(inception_pth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a TorchScript program under NVIDIA's names."""
    path = tmp_path_factory.mktemp("nvidia") / "inception-2015-12-05.pt"
    state = torch.load(inception_pth, weights_only=True)
    with pytest.warns():
        torch.jit.trace(
            Program(state).eval().requires_grad_(False), torch.rand(1, 3, 299, 299), check_trace=False
        ).save(path)
    return path


def gap(ours: np.ndarray, theirs: Tensor) -> float:
    return float(abs(ours - theirs.detach().numpy().reshape(ours.shape)).max())


def test_all_taps_are_torch_fidelitys(inception_pth: Path, weights: Weights) -> None:
    """Its preprocessing is ``legacy_tensorflow``; features of this network lie around 5 and logits around 8."""
    taps = ("2048", "logits_unbiased", "logits")
    theirs = FeatureExtractorInceptionV3("inception", list(taps), feature_extractor_weights_path=inception_pth)
    spatial: list[Tensor] = []
    theirs.get_submodule("Mixed_6d.branch1x1").register_forward_hook(lambda module, x, y: spatial.append(y[:, :7]))
    images = pictures(3)
    expected = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    extractor = InceptionFeatures(weights, "legacy_tensorflow", ("pool", "logits_unbiased", "logits", "spatial"))
    assert isinstance(extractor, FeatureExtractor)
    found = extractor.split(extractor(images))
    assert gap(found["pool"], expected[0]) <= 1e-4
    assert gap(found["logits_unbiased"], expected[1]) <= 1e-4
    assert gap(found["logits"], expected[2]) <= 1e-4
    assert gap(found["spatial"], spatial[0].permute(0, 2, 3, 1)) <= 1e-4
    length = np.linalg.norm(expected[0])
    assert np.linalg.norm(found["pool"] - expected[0].numpy()) <= 1e-6 * length
    assert {tap: part.shape[1] for tap, part in found.items()} == TAPS and extractor.dim == sum(TAPS.values())
    assert np.std(found["pool"], axis=0).mean() > 0.05, "features of different images must differ"


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
@pytest.mark.usefixtures("small_batches")
def test_legacy_pytorch_features_are_pytorch_fids(
    inception_pth: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(inception_pth, weights_only=True)
    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = inception_pytorch.InceptionV3(resize_input=False).eval()
    images = pictures(2)
    batch = np.stack([build_resizer("legacy_pytorch")(image) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        [expected] = theirs(torch.from_numpy(batch) / 255)
    assert gap(InceptionFeatures(weights, "legacy_pytorch")(images), expected) <= 1e-4


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")
@pytest.mark.usefixtures("small_batches")
def test_clean_features_are_clean_fids_on_its_own_kind_of_file(program: Path) -> None:
    theirs = InceptionV3W(str(program.parent), download=False)
    images = pictures(2, size=128)
    batch = np.stack([build_resizer("clean")(image) for image in images]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(batch))
    ours = InceptionFeatures(load_weights(program, published=False), "clean")(images)
    assert gap(ours, expected) <= 1e-4


def test_both_kinds_of_file_are_one_network(program: Path, weights: Weights) -> None:
    """The factors of its batch norms are in the program's weights."""
    other = load_weights(program, published=False).state
    for name in weights.state:
        if name.endswith("running_var") or name.startswith("fc."):
            assert torch.equal(other[name], weights.state[name])
        if name.endswith("conv.weight"):
            factor = weights.state[name.replace("conv.weight", "bn.weight")][:, None, None, None]
            assert torch.equal(other[name], weights.state[name] * factor)


def test_a_feature_does_not_depend_on_its_batch(weights: Weights) -> None:
    """Bit for bit: in another order, among other sizes, and in the padded chunks of ``extract``."""
    extractor = InceptionFeatures(weights, "crossflow")
    images = [*pictures(2, size=512), *pictures(3, size=64)]
    together = extractor(images)
    assert np.array_equal(extract(extractor, [images[4], images[1]]), together[[4, 1]])


@pytest.mark.usefixtures("small_batches")
def test_sixteen_bits_are_another_extractor(weights: Weights) -> None:
    images = pictures(2, size=64)
    exact, rough = InceptionFeatures(weights, "clean"), InceptionFeatures(weights, "clean", precision="bfloat16")
    expected = exact(images)
    assert 1e-4 < np.linalg.norm(rough(images) - expected) / np.linalg.norm(expected) < 2e-2
    assert exact.name != rough.name and exact.fingerprint != rough.fingerprint


def test_a_fingerprint_says_what_can_change_a_number(weights: Weights) -> None:
    assert dict(InceptionFeatures(weights, "clean").fingerprint) == {
        "protocol": "clean",
        "resize": "Pillow bicubic, antialiased, 32-bit float channels",
        "quantisation": "none",
        "normaliser": "(x - 128) / 128",
        "weights": "random.pth",
        "weights_sha256": weights.sha256,
        "taps": ["pool"],
        "precision": "float32",
    }


def test_only_the_published_files_are_read(inception_pth: Path, program: Path, tmp_path: Path) -> None:
    assert {sha256[:8] for sha256 in CONVERSIONS} == {"6726825d", "f58cb9b6"}
    for path in (inception_pth, program):
        with pytest.raises(CrossFlowError, match=r"6726825d.*f58cb9b6"):
            load_weights(path)
    with pytest.raises(CrossFlowError, match=r"none\.pth cannot be read \(No such file"):
        load_weights(tmp_path / "none.pth")


@pytest.mark.parametrize(("protocol", "file"), [("clean", "inception-2015-12-05.pt"), ("crossflow", "6726825d.pth")])
def test_a_protocol_names_the_file_that_it_is_published_with(
    protocol: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    with pytest.raises(CrossFlowError, match=file):
        published_weights(protocol)
