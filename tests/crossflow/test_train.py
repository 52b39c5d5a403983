"""Training ends at the same bits wherever it was killed, and at the same numbers on however many processes."""

import errno
import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from crossflow.errors import CrossFlowError, Stopped
from crossflow.files.tensors import read_header, read_tensors, write_tensors
from crossflow.flow.guidance import Autoguidance
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.minilm import MiniLM
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.sampling.text_to_image import TextToImage
from crossflow.training.previews import PHOTO_PROMPTS, SCENE_PROMPTS
from crossflow.training.run_state import Run
from crossflow.training.train import train

TINY = CONFIGS["scenes-tiny"]
SMALL = replace(
    TINY,
    model=replace(TINY.model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=32),
    batch_size=4,
    steps=4,
    log_every=2,
    save_every=2,
    sample_every=4,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache_folder) -> Path:
    """What ``training_processes.py`` leaves behind."""
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).with_name("training_processes.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_runs_end_byte_equal(runs, precision):
    """Killed around renames, inside log lines and between steps; bf16 with Muon, fp32 with AdamW."""
    whole, killed = runs / f"{precision}-undisturbed", runs / f"{precision}-killed"
    assert int((killed / "kills").read_text()) >= 4
    names = ["model.safetensors", "state.safetensors", "log.jsonl"]
    names += [f"samples/step-{step:06d}.png" for step in (4, 8)]
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert [row["step"] for row in rows(whole)] == [2, 4, 6, 8]
    assert not list(whole.rglob("*.tmp"))


def test_the_precisions_differ(runs):
    """Else the test above would not have tested both."""
    assert rows(runs / "fp32-undisturbed")[-1] != rows(runs / "bf16-undisturbed")[-1]


def free_keys(name: str, tensor: Tensor) -> int:
    """How many numbers are a bias of keys, which changes nothing: only rounding decides where training takes it."""
    if name.endswith("W_K.bias"):
        return len(tensor)
    return len(tensor) // 2 if name.endswith("key_value.bias") else 0


def assert_equal_training(one: Path, other: Path, atol: float = 2e-5) -> None:
    """``atol`` is for single weights whose gradient is next to nothing, which Adam moves all the same."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a == pytest.approx(b, rel=1e-5), a["step"]
    weights = load_file(other / "model.safetensors")
    for name, tensor in load_file(one / "model.safetensors").items():
        bound = slice(free_keys(name, tensor), None)
        assert torch.allclose(tensor[bound], weights[name][bound], rtol=1e-3, atol=atol), name


@pytest.mark.parametrize("recipe", ["short", "grid", "baseline", "quiet", "staged"])
def test_two_processes_train_as_one(runs, recipe):
    """The same losses to 1e-5 and the same weights to rounding, for every kind of model."""
    assert len(rows(runs / f"{recipe}-1")) == 5
    assert_equal_training(runs / f"{recipe}-1", runs / f"{recipe}-2")


@pytest.mark.parametrize("parts", ["parts-1", "parts-2"])
def test_accumulated_parts_train_as_one_batch(runs, parts):
    """With the contrast off; null targets come from the whole batch, whichever part they lie in."""
    assert_equal_training(runs / "quiet-1", runs / parts)


@pytest.mark.parametrize("kind", ["2", "sharded", "hop"])
def test_pairs_in_a_folder_train_the_same_on_any_processes(runs, kind):
    """On two; on two that share the weights and keep no activations; on one, then two that share them, then one."""
    assert len(rows(runs / "pairs-1")) == 6
    assert_equal_training(runs / "pairs-1", runs / f"pairs-{kind}", atol=1e-4)


def test_null_targets_of_single_items_come_from_the_whole_batch(runs):
    """Two processes with local batches of one train as one process with the batch of four."""
    assert_equal_training(runs / "quiet-pairs-1", runs / "quiet-pairs-singles", atol=1e-4)


def test_no_rank_goes_on_before_the_model_is_there(runs):
    """The next of several stages begins with it, on every rank."""
    assert len(list(runs.glob("slow-2-found-by-*"))) == 2


def test_a_lost_rank_changes_nothing(runs):
    """Byte-equal to the undisturbed run; dropout is on."""
    for name in ("model.safetensors", "state.safetensors", "log.jsonl"):
        assert (runs / "dropping-lost" / name).read_bytes() == (runs / "dropping-2" / name).read_bytes(), name
    assert rows(runs / "dropping-2")[0] != rows(runs / "pairs-2")[0], "without dropout this would show less"


def test_muon_steps_on_shared_weights(runs):
    """It orthogonalises in bfloat16, so other orders of summation show: weights agree to 1e-3."""
    one, two = (load_file(runs / name / "model.safetensors") for name in ("muon-1", "muon-sharded"))
    assert rows(runs / "muon-1")[0]["flow"] == pytest.approx(rows(runs / "muon-sharded")[0]["flow"], rel=1e-5)
    for name, tensor in one.items():
        bound = slice(free_keys(name, tensor), None)
        assert torch.allclose(tensor[bound], two[name][bound], atol=1e-3), name


def test_negatives_come_from_all_ranks(runs):
    """Without the gathering a rank would see half of them, and its contrastive loss would be another one."""
    gathered, alone = rows(runs / "short-2")[0], rows(runs / "ungathered-2")[0]
    assert gathered["flow"] == pytest.approx(alone["flow"], rel=1e-5)
    assert gathered["contrastive"] > alone["contrastive"] + 0.2


@pytest.fixture
def run(tmp_path) -> Path:
    train(SMALL, tmp_path / "run", precision="fp32", device="cpu")
    return tmp_path / "run"


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(CrossFlowError) as caught:
        train(*arguments, **({"precision": "fp32", "device": "cpu"} | options))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_the_log_goes_to_tensorboard_too_and_once_where_a_run_resumes(tmp_path, cache_folder):
    def stopped(line: str) -> None:
        if line.startswith("step 4"):
            raise KeyboardInterrupt

    told = partial(train, SMALL, tmp_path, device="cpu", trackers=("tensorboard",))
    with pytest.raises(KeyboardInterrupt):
        told(progress=stopped)
    told(resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "crossflow")).Reload()
    for name in ("flow", "total", "learning_rate"):
        written = [(each.step, each.value) for each in events.Scalars(name)]
        assert written == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows(tmp_path)], name


def test_a_tracker_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("crossflow.training.train.find_spec", lambda name: None)
    with pytest.raises(CrossFlowError, match=r"--wandb needs wandb: install it, or crossflow\[wandb\]"):
        train(SMALL, tmp_path, device="cpu", trackers=("wandb",))
    assert not list(tmp_path.iterdir())


def test_a_torch_without_onednn_trains_in_float32(tmp_path, monkeypatch):
    """That of a Mac has no such question to ask."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None, raising=False)
    path = train(replace(SMALL, steps=1, sample_every=9), str(tmp_path / "run"), device="cpu")
    assert read_header(path)["precision"] == "fp32"


def test_a_run_leaves_a_model_a_log_and_samples(run):
    model = load_checkpoint(run / "model.safetensors")
    assert model.config == SMALL.model
    header = read_header(run / "model.safetensors")
    assert (header["step"], header["seed"], header["precision"]) == (4, 0, "fp32")
    assert header["training"]["learning_rate"] == SMALL.learning_rate
    assert [row["step"] for row in rows(run)] == [2, 4]
    parts = {"total", "flow", "kl", "contrastive", "posterior_sd", "posterior_mean_square"}
    assert rows(run)[0].keys() == {"step", "learning_rate", *parts}
    with Image.open(io.BytesIO((run / "samples" / "step-000004.png").read_bytes())) as image:
        assert image.size == (3 * (8 * 34 - 2), 3 * (6 * 34 - 2))
    assert not any("tower" in name for name in load_file(run / "model.safetensors"))
    state = load_file(run / "state.safetensors")
    assert any(name.startswith("optimizer.terms.contrastive.tower.") for name in state)
    assert not torch.equal(state["model.terms.contrastive.tower.patches.out.weight"], torch.zeros(48, 96))


def test_a_finished_run_is_left_as_it_is(run):
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    lines: list[str] = []
    train(SMALL, run, resume=True, precision="fp32", device="cpu", progress=lines.append)
    short = "all below the recipe's rate: its warm-up takes 100"
    assert lines == ["resuming after step 4 of 4", f"{run}: 4 steps of 4 examples, {short}"]
    assert {path: path.read_bytes() for path in run.rglob("*.*")} == before


def test_a_run_is_not_begun_again_over_another(run):
    assert "add --resume" in refused(SMALL, run)
    assert "its seed differs, 0 there and 1 here: give the same" in refused(SMALL, run, seed=1, resume=True)
    longer = refused(replace(SMALL, steps=5), run, resume=True)
    assert (
        f"differs in steps: give the same, or train further in another --out from its model, by --init {run}" in longer
    )
    assert "its precision differs, fp32 there and bf16" in refused(SMALL, run, precision="bf16", resume=True)
    kl, contrast = SMALL.model.losses
    other = replace(SMALL, model=replace(SMALL.model, losses=(replace(kl, weight=0.5), contrast)))
    assert "its config differs" in refused(other, run, resume=True)
    (run / "state.safetensors").write_bytes((run / "state.safetensors").read_bytes()[:-100])
    assert "not a whole safetensors file" in refused(SMALL, run, resume=True)


def test_a_training_at_a_constant_rate_is_made_longer_and_ends_as_if_it_had_been(tmp_path):
    constant = replace(SMALL, final_learning_rate=1.0)
    longer = replace(constant, steps=6)
    whole = train(longer, tmp_path / "whole", precision="fp32", device="cpu")
    train(constant, tmp_path / "run", precision="fp32", device="cpu")
    path = train(longer, tmp_path / "run", precision="fp32", device="cpu", resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert [row["step"] for row in rows(tmp_path / "run")] == [2, 4, 6]
    assert "differs in steps" in refused(constant, tmp_path / "run", resume=True)
    kept = replace(longer, steps=8, keep_at=(1,))
    assert "differs in keep_at, steps" in refused(kept, tmp_path / "run", resume=True)


def test_a_state_of_an_earlier_version_lacks_the_fields_that_came_later(tmp_path):
    path = tmp_path / "state.safetensors"
    train(SMALL, tmp_path)
    header, found = read_tensors(path)
    del header["config"]["tail"], header["config"]["backbone"]["modulated"]
    header["training"].pop("keep_at")
    write_tensors(path, found, header)
    train(SMALL, tmp_path, resume=True)
    assert "tail" in read_header(tmp_path / "model.safetensors")["config"]


@pytest.mark.parametrize("name", ["model.safetensors", "timing.jsonl", "samples"])
def test_what_training_did_not_make_is_kept(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    assert f"{name} is there already, and is not replaced" in refused(SMALL, tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_log_that_is_none_is_refused(tmp_path):
    for diary in (b"a diary\n", b"\xff\n", b"[" * 99_999 + b"\n", b"3\n"):
        (tmp_path / "log.jsonl").write_bytes(diary)
        assert "is not the log of a training run" in refused(SMALL, tmp_path)
        assert (tmp_path / "log.jsonl").read_bytes() == diary


def test_a_damaged_cache_is_named(run):
    [cache] = (run / "cache").iterdir()
    cache.write_bytes(b"")
    assert f"The cache {cache} cannot be read: remove it" in refused(SMALL, run, resume=True)


def test_the_cache_of_other_settings_is_not_taken(tmp_path):
    """Each has a file of its own."""
    for config in (SMALL, replace(SMALL, data=SceneData(count=33)), replace(SMALL, steps=2)):
        (tmp_path / "state.safetensors").unlink(missing_ok=True)
        train(config, tmp_path, precision="fp32", device="cpu")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(SMALL, tmp_path / "file" / "run")
    assert "cannot be written" in refused(SMALL, tmp_path / "file")


@pytest.mark.parametrize("name", ["log.jsonl", ".model.safetensors.tmp", ".step-000004.png.tmp"])
def test_a_full_disk_ends_the_run_with_what_was_saved(tmp_path, monkeypatch, name):
    """Full from step 3 on: the run of step 2 stays, and can be resumed when there is room."""
    whole = train(SMALL, tmp_path / "whole", precision="fp32", device="cpu").read_bytes()
    run = tmp_path / "run"
    advance, opened, touched = Run.advance, Path.open, Path.touch
    full = False

    def full_after_two(self, shares):
        nonlocal full
        full = self.step == 2 or full
        return advance(self, shares)

    def failing(call):
        def attempt(self, *arguments, **options):
            if full and self.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(self, *arguments, **options)

        return attempt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", full_after_two)
        patch.setattr(Path, "open", failing(opened))
        patch.setattr(Path, "touch", failing(touched))
        patch.setattr(Image.Image, "save", lambda self, path, **_: failing(Path.write_bytes)(path, b""))
        assert "No space left" in refused(SMALL, run)
    assert read_header(run / "state.safetensors")["step"] == 2
    train(SMALL, run, resume=True, precision="fp32", device="cpu")
    assert (run / "model.safetensors").read_bytes() == whole


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    wild = replace(SMALL, optimizer="adamw", learning_rate=1e30, clip=1e30, warmup=1, steps=10, log_every=10)
    assert "The loss is " in refused(wild, tmp_path)


DIVERGING = replace(SMALL, optimizer="adamw", steps=6, log_every=100, save_every=2, sample_every=100)


def diverging(monkeypatch, step: int, change) -> None:
    """From here on the step ``step`` makes ``change`` to the run."""
    advance = Run.advance

    def broken(self, shares):
        found = advance(self, shares)
        if self.step == step:
            change(self)
        return found

    monkeypatch.setattr(Run, "advance", broken)


def of_the_backbone(run: Run) -> None:
    run.weights["backbone.patches.out.weight"].data.fill_(torch.nan)


def of_the_average(run: Run) -> None:
    run.averages["backbone.patches.out.weight"].fill_(torch.inf)


def of_a_tower(run: Run) -> None:
    run.weights["terms.contrastive.tower.patches.out.weight"].data.fill_(torch.inf)


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        (3, of_the_backbone, "The loss is nan at step 4"),
        (4, of_the_average, "Weights are no longer finite after step 4"),
        (6, of_a_tower, "Weights are no longer finite after step 6"),
    ],
    ids=["between records", "in a step that is saved", "in what only training needs, in the last step"],
)
def test_a_training_that_diverges_ends_with_the_last_whole_state(tmp_path, monkeypatch, step, change, said):
    """One sentence; nothing of it is kept as finished, and what was saved before is a whole run."""
    with monkeypatch.context() as patch:
        diverging(patch, step, change)
        assert re.search(said, refused(DIVERGING, tmp_path))
    saved = read_header(tmp_path / "state.safetensors")["step"]
    assert saved == read_header(tmp_path / "model.safetensors")["step"] == (step - 1) // 2 * 2
    train(DIVERGING, tmp_path, resume=True, precision="fp32", device="cpu")
    assert read_header(tmp_path / "model.safetensors")["step"] == DIVERGING.steps


def test_a_kept_checkpoint_is_finite_too(tmp_path, monkeypatch):
    """Also where its step is neither logged nor saved."""
    diverging(monkeypatch, 2, of_the_backbone)
    assert "at step 3" in refused(replace(DIVERGING, save_every=100, keep_at=(3,)), tmp_path)
    assert not list(tmp_path.glob("model*"))


GUIDED_BY_A_WEAKER = replace(
    SMALL.model,
    guidance=Autoguidance(checkpoint="weaker.safetensors"),
    sampling=Sampling(solver="euler", steps=1, guidance_scale=2.0),
)


def test_a_model_that_a_weaker_one_guides_is_trained_and_shown_without(tmp_path):
    """The weaker one is beside a model that is sampled; in training there is none."""
    train(replace(SMALL, model=GUIDED_BY_A_WEAKER, sample_every=2), tmp_path, precision="fp32", device="cpu")
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_a_model_that_no_pipeline_draws_is_trained_without_grids(tmp_path):
    lines: list[str] = []
    backbone, losses = replace(SMALL.model.backbone, patch=8), SMALL.model.losses[:1]
    depth = replace(SMALL.model, target=DepthConfig(), shape=(1, 32, 32), backbone=backbone, losses=losses)
    train(replace(SMALL, model=depth), tmp_path, precision="fp32", device="cpu", progress=lines.append)
    said = "No sample grids are drawn: they are of images, and this model makes depth."
    assert [line for line in lines if "drawn" in line] == [said]


def test_the_device_of_a_training_is_not_that_of_one_before_it(tmp_path, monkeypatch):
    """In a notebook one may follow on the CPU what was on a GPU; Accelerate keeps the first for the process."""
    brief = replace(SMALL, steps=1, sample_every=9)
    train(brief, tmp_path / "one", precision="fp32", device="cpu")
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("cuda"))
    path = train(brief, tmp_path / "two", precision="fp32", device="cpu")
    assert path.read_bytes() == (tmp_path / "one" / "model.safetensors").read_bytes()


def test_a_preview_that_cannot_be_drawn_ends_no_training(tmp_path, monkeypatch):
    lines: list[str] = []
    small = replace(SMALL, sample_every=2)
    whole = train(small, tmp_path / "whole", precision="fp32", device="cpu").read_bytes()

    def diverging(*_: object) -> None:
        raise CrossFlowError("The image ended in numbers that are not finite: sample with less guidance.")

    monkeypatch.setattr(TextToImage, "generate", diverging)
    path = train(small, tmp_path / "run", precision="fp32", device="cpu", progress=lines.append)
    assert path.read_bytes() == whole
    assert len([line for line in lines if line.startswith("No samples are drawn of this step: The image")]) == 2
    assert not (tmp_path / "run" / "samples").exists()


def test_a_signal_while_a_step_is_recorded_waits_for_one_that_is_saved(tmp_path):
    """What is said to be kept is kept."""

    def interrupted(line: str) -> None:
        if line.startswith("step 2"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match="as it was after step 3"):
        train(replace(SMALL, save_every=4), tmp_path, precision="fp32", device="cpu", progress=interrupted)
    assert read_header(tmp_path / "state.safetensors")["step"] == 3


def test_wrong_settings(tmp_path):
    assert "must be auto, cpu or cuda" in refused(SMALL, tmp_path, device="tpu")
    assert "must be auto, bf16 or fp32" in refused(SMALL, tmp_path, precision="fp8")
    with pytest.raises(CrossFlowError, match="does not divide into 3 equal parts"):
        replace(SMALL, accumulate=3)
    if not torch.cuda.is_available():
        assert "has no device 'cuda'" in refused(SMALL, tmp_path, device="cuda")


def test_prompts_of_the_grid_fit():
    """They are read whole by the models of every recipe."""
    longest = max(MiniLM().lengths(SCENE_PROMPTS + PHOTO_PROMPTS))
    read = [config.model.reads for config in CONFIGS.values() if config.model.reads.name == "text"]
    assert all(reads.count >= longest for reads in read)
