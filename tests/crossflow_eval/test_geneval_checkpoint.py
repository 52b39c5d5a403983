"""mmdetection's checkpoint in transformers' model: nothing lost, nothing guessed, nothing in the file executed."""

import os
import sys
import types
from pathlib import Path

import pytest
import torch
from golden_files import golden_file
from torch.nn.functional import unfold

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.geneval.checkpoint import UNUSED, load_mask2former, place_first, rename
from crossflow_eval.judges.geneval.pickled import read_tensors
from crossflow_eval.metrics.geneval import Detector

FILE = golden_file("mask2former_small.pth")


@pytest.fixture(scope="module")
def tensors():
    return read_tensors(FILE)


def saved(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def test_every_tensor_has_its_place(tensors):
    """Every number of the file arrives; only what inference never reads is left as it was made."""
    model = load_mask2former(FILE)
    names = set(rename(tensors, FILE))
    assert set(model.state_dict()) - names == UNUSED
    assert names <= set(model.state_dict())
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith("position_index"))
    unused = sum(model.state_dict()[name].numel() for name in UNUSED)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) - unused == numbers
    assert model.config.backbone_config.depths == [1, 1, 2, 1]
    assert not model.training


def test_patch_merging_gives_the_same_sums_in_either_order():
    """Law: mmdet's weight on unfolded patches is the reordered weight on Swin's four strided quarters."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 4, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    original = unfold(x, 2, stride=2).transpose(1, 2) @ weight.T
    quarters = [x[:, :, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    concatenated = torch.cat(quarters, dim=1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(concatenated @ place_first(weight).T, original)


def test_a_tensor_that_is_missing_unknown_or_misshapen_is_named(tensors, tmp_path):
    name = "panoptic_head.pixel_decoder.mask_feature.bias"
    lacking = {key: tensor for key, tensor in tensors.items() if key != name}
    cases = {
        "mask_projection.bias": lacking,
        "backbone.extra.weight": tensors | {"backbone.extra.weight": torch.zeros(1)},
        "size mismatch for .*mask_projection.bias": tensors | {name: torch.zeros(3)},
        "patch_embed": {key: tensor for key, tensor in tensors.items() if "patch_embed" not in key},
    }
    for message, content in cases.items():
        with pytest.raises(CrossFlowError, match=message):
            load_mask2former(saved(tmp_path / "other.pth", {"state_dict": content}))


def test_other_programs_weights_are_recognised(tensors, tmp_path):
    layer = "panoptic_head.transformer_decoder.layers.0."
    mmdet3 = {key.replace(layer + "attentions.0", layer + "cross_attn"): tensor for key, tensor in tensors.items()}
    cases = {
        "mmdet 3": {"state_dict": mmdet3},
        "transformers' own form": {"model.pixel_level_module.encoder.norm.weight": torch.zeros(2)},
        "detectron2": {"state_dict": {"sem_seg_head.predictor.query_feat.weight": torch.zeros(2)}},
    }
    for message, content in cases.items():
        with pytest.raises(CrossFlowError, match=message):
            load_mask2former(saved(tmp_path / "other.pth", content))


def test_another_number_of_classes_is_refused(tensors, tmp_path):
    names = ("panoptic_head.cls_embed.weight", "panoptic_head.cls_embed.bias")
    fewer = dict(tensors) | {name: tensors[name][:11] for name in names}
    with pytest.raises(CrossFlowError, match="knows 10 classes"):
        Detector.from_checkpoint(saved(tmp_path / "ten.pth", {"state_dict": fewer}))


class Trap:
    """An object whose unpickling leaves a mark."""

    mark = Path()

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_that_the_file_names_is_executed(tensors, tmp_path, zipped, monkeypatch):
    """Tensors come out whole, whichever classes the training's record is of and in either of torch's formats."""
    monkeypatch.setattr(Trap, "mark", tmp_path / "executed")
    module = types.ModuleType("mmengine_of_test")
    module.Config = type("Config", (dict,), {"__module__": "mmengine_of_test"})
    module.Series = type("Series", (list,), {"__module__": "mmengine_of_test"})
    monkeypatch.setitem(sys.modules, "mmengine_of_test", module)
    meta = module.Config(trap=Trap(), series=module.Series([1, 2]), seed=1)
    meta.note = "an attribute"
    path = saved(tmp_path / "meta.pth", {"meta": meta, "state_dict": tensors}, zipped)
    torch.load(path, weights_only=False)
    Trap.mark.rmdir()  # it is there: the trap works
    monkeypatch.delitem(sys.modules, "mmengine_of_test")
    read = read_tensors(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert not Trap.mark.exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(CrossFlowError, match=r"damaged\.pth"):
        read_tensors(path)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "half.pth"
    path.write_bytes(FILE.read_bytes()[:1_000_000])
    with pytest.raises(CrossFlowError, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": [1]}, {"state_dict": {"a": 1}}])
def test_what_holds_no_tensors_by_name_is_refused(tmp_path, content):
    with pytest.raises(CrossFlowError, match="no state_dict"):
        read_tensors(saved(tmp_path / "other.pth", content))
