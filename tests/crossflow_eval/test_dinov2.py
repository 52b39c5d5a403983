"""A tiny random DINOv2 in both file formats against the network written out, and its inputs against torchvision's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from transformers import Dinov2Config, Dinov2Model

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.dinov2 import MEAN, STD, load_dinov2, resample, to_input
from crossflow_eval.judges.features import FeatureExtractor
from crossflow_eval.metrics.fid import FID
from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.types import Example

DIM, DEPTH, PATCH, PLACES = 128, 2, 14, 37


def authors_state() -> dict[str, Tensor]:
    """Random weights under the names and shapes of ``dinov2_vitl14_pretrain.pth``, two layers and two heads."""
    shapes = {
        "cls_token": (1, 1, DIM),
        "pos_embed": (1, 1 + PLACES**2, DIM),
        "mask_token": (1, DIM),
        "patch_embed.proj.weight": (DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
    }
    layers = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), "mlp.fc1": (4 * DIM, DIM), "mlp.fc2": (DIM, 4 * DIM)}
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        shapes |= {f"{block}.{norm}.{kind}": (DIM,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.{scale}.gamma": (DIM,) for scale in ("ls1", "ls2")}
        for layer, shape in layers.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def written_out(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The forward pass of the authors' vision transformer: class token after the last norm, [n DIM]."""

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    patches = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + authors_places(state["pos_embed"], 16)
    for index in range(DEPTH):
        block = f"blocks.{index}"
        heads = linear(normed(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(2, (3, 2, 64))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        weights = (query / 8 @ key.transpose(2, 3)).softmax(dim=-1)
        attended = (weights @ value).transpose(1, 2).flatten(2)
        x = x + state[f"{block}.ls1.gamma"] * linear(attended, f"{block}.attn.proj")
        hidden = F.gelu(linear(normed(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return normed(x, "norm")[:, 0]


def authors_places(places: Tensor, side: int) -> Tensor:
    """Their ``interpolate_pos_encoding``, with the historical 0.1 that it adds to the size."""
    square = places[:, 1:].reshape(1, PLACES, PLACES, DIM).permute(0, 3, 1, 2)
    scale = float((side + 0.1) / np.sqrt(PLACES**2))
    square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic").permute(0, 2, 3, 1)
    return torch.cat([places[:, :1], square.reshape(1, -1, DIM)], dim=1)


def save_folder(state: dict[str, Tensor], path: Path) -> None:
    config = Dinov2Config(
        hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=PLACES * PATCH, patch_size=PATCH
    )
    model, embeddings = Dinov2Model(config), {"cls_token": "cls_token", "mask_token": "mask_token"}
    embeddings |= {"position_embeddings": "pos_embed", "patch_embeddings.projection.weight": "patch_embed.proj.weight"}
    embeddings |= {"patch_embeddings.projection.bias": "patch_embed.proj.bias"}
    with torch.no_grad():
        for ours, theirs in embeddings.items():
            model.embeddings.get_parameter(ours).copy_(state[theirs])
        for kind in ("weight", "bias"):
            model.layernorm.get_parameter(kind).copy_(state[f"norm.{kind}"])
            for index, layer in enumerate(model.encoder.layer):
                for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    layer.get_parameter(f"{name}.{kind}").copy_(state[f"blocks.{index}.{name}.{kind}"])
                qkv = state[f"blocks.{index}.attn.qkv.{kind}"].chunk(3)
                for name, third in zip("qkv", qkv, strict=True):
                    layer.attention.get_parameter(f"{name}_proj.{kind}").copy_(third)
                layer.attention.get_parameter(f"o_proj.{kind}").copy_(state[f"blocks.{index}.attn.proj.{kind}"])
        for index, layer in enumerate(model.encoder.layer):
            layer.layer_scale1.lambda1.copy_(state[f"blocks.{index}.ls1.gamma"])
            layer.layer_scale2.lambda1.copy_(state[f"blocks.{index}.ls2.gamma"])
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, state = tmp_path_factory.mktemp("dinov2"), authors_state()
    torch.save(state, folder / "tiny.pth")
    save_folder(state, folder / "folder")
    return folder


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((224, 224), (100, 180), (300, 40))]


@pytest.mark.parametrize("name", ["tiny.pth", "folder"])
def test_both_formats_give_the_authors_class_token(name: str, files: Path) -> None:
    extractor = load_dinov2(files / name)
    assert isinstance(extractor, FeatureExtractor)
    assert (extractor.name, extractor.dim) == (f"{name.split('.')[0]}-224", DIM)
    with torch.inference_mode():
        expected = written_out(authors_state(), torch.stack([to_input(image) for image in pictures()])).numpy()
    assert extractor(pictures()) == pytest.approx(expected, abs=1e-5)
    assert np.std(expected, axis=0).mean() > 1e-3


def test_fd_dinov2_is_the_frechet_distance_of_its_features(files: Path) -> None:
    extractor, images = load_dinov2(files / "tiny.pth"), pictures()
    reference = np.random.default_rng(1).normal(size=(9, DIM)).astype(np.float32)
    metric = FID(extractor, reference, reference_name="random", name="fd_dinov2")
    metric.update([Example(id="x", source="")] * 3, images)
    expected = frechet_distance(Moments.of_features(extractor(images)), Moments.of_features(reference))
    assert metric.compute()["fd_dinov2"].mean == pytest.approx(expected, rel=1e-6)


def test_inputs_are_torchvisions(files: Path) -> None:
    """dgm-eval: Resize((224, 224), bicubic) of the Pillow image, ToTensor, Normalize; to one rounding of float32."""
    steps = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for image in pictures():
        assert torch.allclose(to_input(image), steps(Image.fromarray(image)), rtol=0, atol=1e-6)


def test_places_are_resampled_as_the_authors_do_it_and_not_to_the_exact_size() -> None:
    places = authors_state()["pos_embed"]
    found = resample(places, 16)
    assert torch.allclose(found, authors_places(places, 16), rtol=0, atol=1e-7)
    square = places[:, 1:].reshape(1, PLACES, PLACES, DIM).permute(0, 3, 1, 2)
    exact = F.interpolate(square, size=(16, 16), mode="bicubic").flatten(2).transpose(1, 2)
    assert (found[:, 1:] - exact).abs().max() > 1e-2
    assert resample(places, PLACES) is places


def test_another_network_is_refused(files: Path, tmp_path: Path) -> None:
    state = authors_state()
    torch.save(state | {"register_tokens": torch.zeros(1, 4, DIM)}, tmp_path / "registers.pth")
    torch.save({name: tensor for name, tensor in state.items() if "ls1" not in name}, tmp_path / "scales.pth")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    for name in ("registers.pth", "scales.pth", "broken.pth", "none.pth"):
        with pytest.raises(CrossFlowError, match=name):
            load_dinov2(tmp_path / name)
    with pytest.raises(CrossFlowError, match="sha256"):
        load_dinov2(files / "tiny.pth", "d5383ea8")


@pytest.mark.parametrize("change", [{"embeddings.register_tokens": torch.zeros(1, 4, DIM)}, None])
def test_a_folder_of_another_network_is_refused(change: dict[str, Tensor] | None, files: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(files / "folder" / "model.safetensors") | (change or {})
    if change is None:
        del state["layernorm.bias"]
    (tmp_path / "config.json").write_bytes((files / "folder" / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrossFlowError, match=r"is of another network|holds no whole Dinov2Model"):
        load_dinov2(tmp_path)
