"""A judge is in float32, as its protocol says, whatever the model beside it has set."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from crossflow_eval import judges
from crossflow_eval.judges.geneval.detector import Detector
from crossflow_eval.judges.precise import in_float32

ROUGH = "high"
"""What lets products of float32 be rounded to TF32."""


def settings() -> tuple[str, bool, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_inference_mode_enabled()


@pytest.fixture(autouse=True)
def rough():
    torch.set_float32_matmul_precision(ROUGH)
    yield
    torch.set_float32_matmul_precision("highest")


def test_what_was_set_is_set_again_also_after_an_error() -> None:
    before = settings()
    with pytest.raises(ValueError), in_float32():
        assert settings() == ("highest", False, True)
        raise ValueError
    assert settings() == before and before[0] == ROUGH


def test_the_detector_is_in_float32_where_convolutions_are_tf32_by_default() -> None:
    seen = []

    class Blank(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
            seen.append(settings())
            side = pixels.shape[-1] // 4
            return SimpleNamespace(
                class_queries_logits=torch.zeros(1, 2, 81), masks_queries_logits=torch.zeros(1, 2, side, side)
            )

    Detector(Blank(), "0" * 64)(np.zeros((32, 32, 3), np.uint8), fit=(32, 32))
    assert seen == [("highest", False, True)]


def test_no_judge_runs_its_network_in_another_way() -> None:
    for path in Path(judges.__path__[0]).rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert path.name == "precise.py" or not names & {"inference_mode", "no_grad", "allow_tf32"}, path
