"""What several tests share: an Inception with random parameters, in the form of the published file."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def inception_pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as pytorch-fid's: torchvision's names and shapes, He's scale, batch norms that do something."""
    from torchvision.models import inception_v3

    state = inception_v3(num_classes=1008, aux_logits=False, init_weights=False, weights=None).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if name.endswith("running_var") or name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
            tensor.normal_(0, scale, generator=generator)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images to fill up Inception's forward passes with, for tests on a few."""
    monkeypatch.setattr("crossflow_eval.judges.inception.BATCH", 2)
