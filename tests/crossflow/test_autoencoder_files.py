"""Which files an autoencoder is read from, and which are refused by name."""

import os

import pytest
import torch
from compvis_files import compvis_state

from crossflow.errors import CrossFlowError
from crossflow.modalities.kl_autoencoder import KLAutoencoder


@pytest.fixture(scope="module")
def state():
    return compvis_state([32, 64], 1)


@pytest.fixture(scope="module")
def autoencoder(state, tmp_path_factory):
    """Of the bare weights, whose reading test_autoencoder.py holds to a forward of its own."""
    path = tmp_path_factory.mktemp("autoencoder") / "bare.pth"
    torch.save(state, path)
    return KLAutoencoder.from_path(path)


def some_images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", ["state_dict", "prefixed", "training", "safetensors", "linear attention"])
def test_every_form_of_the_file_gives_the_same(form, state, autoencoder, tmp_path):
    path = tmp_path / "autoencoder.pth"
    if form == "state_dict":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif form == "prefixed":
        whole = {f"first_stage_model.{name}": value for name, value in state.items()}
        torch.save({**whole, "model.diffusion_model.out.2.bias": torch.zeros(4)}, path)
    elif form == "training":
        torch.save({**state, "loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}, path)
    elif form == "linear attention":
        torch.save({name: v[..., 0, 0] if ".attn_1.q.weight" in name else v for name, v in state.items()}, path)
    else:
        from safetensors.torch import save_file

        path = path.with_suffix(".safetensors")
        save_file(state, path)
    assert torch.equal(KLAutoencoder.from_path(path).encode(some_images()), autoencoder.encode(some_images()))


def broken(state, name, value=None):
    changed = dict(state)
    changed.pop(name, None)
    return changed if value is None else {**changed, name: value}


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("decoder.up.1.block.0.conv1.bias", None, r"missing: decoder\.up\.1\.block\.0\.conv1\.bias; unknown: none"),
        (
            "encoder.down.1.attn.0.q.bias",
            torch.zeros(64),
            r"missing: none; unknown: encoder\.down\.1\.attn\.0\.q\.bias",
        ),
        ("decoder.conv_in.weight", None, r"lacks decoder\.conv_in\.weight"),
        ("encoder.down.0.block.0.conv1.weight", None, r"lacks encoder\.down\.0\.block\.0\.conv1\.weight"),
        ("quant_conv.bias", torch.zeros(9), r"shape of quant_conv\.bias does not fit"),
    ],
)
def test_a_wrong_weight_is_named(state, tmp_path, name, value, words):
    torch.save(broken(state, name, value), tmp_path / "kl.pth")
    with pytest.raises(CrossFlowError, match=words):
        KLAutoencoder.from_path(tmp_path / "kl.pth")


def test_a_folder_that_lacks_a_weight_is_refused(autoencoder, tmp_path):
    from safetensors.torch import load_file, save_file

    autoencoder.vae.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("quant_conv.weight")
    save_file(weights, path)
    with pytest.raises(CrossFlowError, match=r"holds no whole AutoencoderKL: it lacks quant_conv\.weight"):
        KLAutoencoder.from_path(tmp_path)


class Payload:
    """Runs code when it is unpickled without care."""

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "suffix, said", [(".pth", r"asks to run posix\.mkdir: nothing"), (".safetensors", "not a whole safetensors file")]
)
def test_a_pickle_with_code_is_refused(tmp_path, suffix, said):
    payload = Payload()
    payload.folder = tmp_path / "harm"
    torch.save({"state_dict": payload}, tmp_path / f"kl{suffix}")
    with pytest.raises(CrossFlowError, match=said):
        KLAutoencoder.from_path(tmp_path / f"kl{suffix}")
    assert not payload.folder.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"hello" * 100])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "kl.pth").write_bytes(content)
    with pytest.raises(CrossFlowError, match=r"kl\.pth is (not a whole file of tensors|no file of tensors alone)"):
        KLAutoencoder.from_path(tmp_path / "kl.pth")


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "kl.pth")
    with pytest.raises(CrossFlowError, match="holds no tensors by name"):
        KLAutoencoder.from_path(tmp_path / "kl.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "kl.pth")
    with pytest.raises(
        CrossFlowError, match=r"holds no autoencoder .* lacks encoder\.down\.0\.block\.0\.conv1\.weight"
    ):
        KLAutoencoder.from_path(tmp_path / "kl.pth")


def test_latents_of_another_model_are_refused(autoencoder):
    with pytest.raises(CrossFlowError, match="have 3 channels, but the autoencoder's have 4: give the autoencoder"):
        autoencoder.decode(torch.zeros(1, 3, 4, 4))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(CrossFlowError, match=r"nothing is not there: give a folder with config.*or CompVis' file"):
        KLAutoencoder.from_path(tmp_path / "nothing")
    with pytest.raises(
        CrossFlowError, match="run `hf download stabilityai/sd-vae-ft-mse`, or give a folder with config"
    ):
        KLAutoencoder.from_path("stabilityai/sd-vae-ft-mse")
    with pytest.raises(CrossFlowError, match="does not load as AutoencoderKL"):
        KLAutoencoder.from_path(tmp_path)
