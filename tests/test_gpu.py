"""``python -m benchmarks.gpu``: its trial on a CPU, its cuts; and with ``-m gpu`` this GPU against the CPU."""

import json
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_file
from safetensors.numpy import load_file

from benchmarks import gpu, gpu_parts, plain_fid
from benchmarks.inception import clean_fid, random_state, write_images
from crossflow.errors import CrossFlowError
from crossflow_eval.judges.geneval.detector import Detector

ROOT = Path(__file__).parents[1]
BUNDLE = re.findall(r"^GPU_BUNDLE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
THERE = (
    *("torch", "torchvision", "triton", "numpy", "scipy", "pillow", "safetensors", "accelerate", "transformers"),
    *("timm", "jaxtyping", "wadler-lindig", "typing-extensions", "packaging", "filelock", "fsspec", "sympy", "mpmath"),
    *("jinja2", "markupsafe", "networkx", "pyyaml", "regex", "requests", "tqdm", "tokenizers", "huggingface-hub"),
    *("hf-xet", "psutil", "setuptools", "opencv-python-headless", "certifi", "charset-normalizer", "idna", "urllib3"),
    *("httpx", "httpcore", "httpcore2", "truststore", "h11", "anyio", "click", "typer", "rich", "shellingham"),
)
"""What a machine with PyTorch has beside it, as far as any of this asks for it."""
HIDDEN = """
import re, runpy, sys
from importlib import metadata
from importlib.machinery import PathFinder
there, named = set(sys.argv.pop(1).split(",")), metadata.packages_distributions()
class Found(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = {re.sub("[-_.]+", "-", owner.lower()) for owner in named.get(name, ())}
        hidden = path is None and owners and not owners & there and name != "nvidia"
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Found
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""
"""Runs the benchmark where the packages of no other distribution than those named can be found."""


def test_the_trial_on_a_cpu_measures_every_part_without_what_a_gpu_machine_lacks(tmp_path):
    """Everything but what is there and what the bundle carries is hidden; what is compared with itself is equal."""
    command = [sys.executable, "-c", HIDDEN, ",".join((*THERE, *BUNDLE)), "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, [f"{tmp_path}/gpu.md"]), done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == [name for name, part in gpu.PARTS.items() if not part.compiles]
    assert {part["state"] for part in parts.values()} == {"whole"}
    rows = [row for part in parts.values() for row in part["rows"]]
    assert all(row.get("met", True) and row.get("same bits", True) for row in rows), rows
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {part.title}\n" in page for part in gpu.PARTS.values() if not part.compiles)
    assert "| — |\n\n## CUDA works" not in page, "no goal is without its measurement"


def test_the_bundle_carries_all_that_pydantic_needs_and_is_not_there():
    needed = {re.split(r"[ <>=!~;\[]", each)[0] for each in metadata.requires("pydantic") if "extra ==" not in each}
    assert needed <= {*THERE, *BUNDLE}
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(f"{name}==" in pinned for name in BUNDLE)


@pytest.fixture
def toy(monkeypatch):
    """Four parts of a row each: the second fails, the third takes ever longer; and the names of those that were run."""
    run: list[str] = []

    def part(name: str, trouble: str = "") -> gpu.Part:
        def rows(device):
            run.append(name)
            yield {"path": "ours", "times faster": 2.0}
            if trouble == "fails":
                raise ValueError("broken\nas planned")
            if trouble == "lasts":
                time.sleep(60)

        return gpu.Part(f"Part {name}", rows, 1)

    troubles = {"sampling": "", "b": "fails", "c": "lasts", "d": ""}
    monkeypatch.setattr(gpu, "PARTS", {name: part(name, trouble) for name, trouble in troubles.items()})
    return run


def test_a_cut_leaves_what_was_measured_and_the_next_call_goes_on(toy, tmp_path):
    names, cpu = list(gpu.PARTS), torch.device("cpu")
    left = gpu.measure(names, cpu, gpu.Record(tmp_path, "here"), 10)
    assert (toy, left) == (["sampling", "b", "c"], ["b", "c", "d"])
    page = (tmp_path / "gpu.md").read_text()
    assert "## Part sampling\n" in page and "## Part c (cut)\n" in page and "## Part d" not in page
    assert "## Part b (failed: ValueError: broken)\n" in page
    assert "| sampling, times the official sampler | 1.6 | 2 |" in page, "measured beside its goal"
    assert "| sampling, share of the bfloat16 peak | 0.55 | — |" in page
    record = gpu.Record(tmp_path, "here")
    assert [name for name in names if record.whole(name)] == ["sampling"]
    assert gpu.measure(["d"], cpu, record, 60) == []
    assert [name for name in names if gpu.Record(tmp_path, "here").whole(name)] == ["sampling", "d"]


def test_a_part_that_is_whole_stays_until_it_is_whole_again(tmp_path):
    """A number that JSON has not is named."""
    record = gpu.Record(tmp_path, "here")
    record.keep("check", [{"what": "peak", "value": float("nan")}], "whole", 1.0)
    before = (tmp_path / "gpu.json").read_bytes()
    for state in ("cut", "failed: OSError: gone"):
        gpu.Record(tmp_path, "here").keep("check", [], state, 2.0)
    assert (tmp_path / "gpu.json").read_bytes() == before
    assert "| peak | nan |" in (tmp_path / "gpu.md").read_text()
    gpu.Record(tmp_path, "here").keep("check", [{"what": "peak", "value": 1234.5}], "whole", 3.0)
    assert "| peak | 1234 |" in (tmp_path / "gpu.md").read_text()


def test_a_record_of_another_machine_is_left_alone(tmp_path):
    gpu.Record(tmp_path, "there").keep("check", [], "whole", 1.0)
    before = (tmp_path / "gpu.json").read_bytes()
    with pytest.raises(CrossFlowError, match="is of another machine, there: choose another --out"):
        gpu.Record(tmp_path, "here")
    (tmp_path / "gpu.json").write_text("[1]")
    with pytest.raises(CrossFlowError, match="is no record of this benchmark"):
        gpu.Record(tmp_path, "here")
    assert before.startswith(b'{\n "machine": "there"')


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_so_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="Error: This machine has no device 'cuda': it has cpu"):
        gpu.main()
    assert not list(tmp_path.iterdir())


def test_clean_fids_way_written_out_is_clean_fids(tmp_path):
    """To float32's rounding over the layers."""
    paths = write_images(tmp_path, 2, 256, np.random.default_rng(0))
    state = random_state(0)
    found = plain_fid.features(state, torch.device("cpu"), 0)(paths)
    theirs = clean_fid(state)(paths)
    assert np.linalg.norm(found - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.gpu
def test_sampling_training_and_features_on_the_gpu_are_those_of_the_cpu():
    """To 1e-4 in float32, and within 40 dB in bfloat16."""
    rows = [*gpu_parts.equality(torch.device("cuda")), *gpu_parts.nccl(torch.device("cuda"))]
    assert all(row["met"] for row in rows), rows


@pytest.mark.gpu
def test_a_training_resumed_on_the_gpu_ends_at_the_same_bits():
    rows = list(gpu_parts.resume(torch.device("cuda")))
    assert all(row["same bits"] for row in rows), rows


@pytest.mark.gpu
def test_the_detector_on_the_gpu_finds_what_it_finds_on_the_cpu():
    path = golden_file("mask2former_small.pth")
    image = next(iter(load_file(golden_file("mask2former_small.images.safetensors")).values()))
    with gpu_parts.exact_float32():
        found, exact = (Detector.from_checkpoint(path, device=device)(image) for device in ("cuda", "cpu"))
    assert [each.label for each in found[:10]] == [each.label for each in exact[:10]]
    assert [each.score for each in found] == pytest.approx([each.score for each in exact], abs=1e-4)
