"""Stages of a training, checkpoints that are kept, and the digest that names a training."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header, read_tensors
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData, Stage, TrainConfig
from crossflow.sources.variational import VariationalConfig
from crossflow.training.train import train

TINY = CONFIGS["scenes-tiny"]
SMALL = replace(
    TINY,
    model=replace(TINY.model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=32),
    batch_size=4,
    steps=4,
    log_every=1,
    save_every=2,
    sample_every=4,
)
TWO = (Stage(steps=2, trains="source", losses=("kl", "contrastive")), Stage(steps=2, trains="flow", losses=("flow",)))


def trained(recipe: TrainConfig, out: Path, **options: object) -> dict[str, Tensor]:
    """The weights in the state that a training leaves."""
    train(recipe, out, precision="fp32", device="cpu", **options)
    tensors = read_tensors(out / "state.safetensors")[1]
    return {name.removeprefix("model."): part for name, part in tensors.items() if name.startswith("model.")}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of the model whose weights differ."""
    return {name.split(".")[0] for name, part in after.items() if not torch.equal(part, before[name])}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> dict[str, Tensor]:
    """The weights that every training of the recipe begins with."""
    still = replace(SMALL, steps=1, learning_rate=0.0)
    return trained(still, tmp_path_factory.mktemp("start") / "run")


def test_a_stage_trains_its_own_part_alone(start, tmp_path):
    source = replace(SMALL, steps=2, stages=TWO[:1])
    assert moved(start, trained(source, tmp_path / "source")) == {"encoder", "terms"}
    flow = replace(SMALL, steps=2, stages=TWO[1:])
    assert moved(start, trained(flow, tmp_path / "flow")) == {"backbone"}


def test_the_average_restarts_with_a_stage(start, tmp_path):
    """So one step of the second stage leaves a tenth of what the flow's weights were before it."""
    recipe = replace(SMALL, steps=3, stages=(TWO[0], Stage(steps=1, trains="flow")))
    train(recipe, tmp_path, precision="fp32", device="cpu")
    tensors = read_tensors(tmp_path / "state.safetensors")[1]
    name = "backbone.patches.out.weight"
    torch.testing.assert_close(tensors[f"ema.{name}"], 0.1 * start[name] + 0.9 * tensors[f"model.{name}"])


def test_a_step_knows_how_far_it_is_inside_its_stage():
    recipe = replace(SMALL, stages=TWO)
    assert [recipe.inside(step) for step in range(4)] == [0, 1, 0, 1]
    assert [SMALL.inside(step) for step in range(4)] == [0, 1, 2, 3]


def test_stages_follow_each_other_and_resume_to_the_same_bits(start, tmp_path):
    both = replace(SMALL, stages=TWO)
    whole = trained(both, tmp_path / "whole")
    assert moved(start, whole) == {"encoder", "terms", "backbone"}
    first = replace(both, save_every=1)  # stopped by force after any step, it leaves the state of that step
    stopped = tmp_path / "stopped"
    with pytest.raises(RuntimeError, match="stopped"):
        trained(first, stopped, progress=stop_after(3))
    again = trained(first, stopped, resume=True)
    assert all(torch.equal(part, whole[name]) for name, part in again.items())


def stop_after(step: int):
    def progress(line: str) -> None:
        if line.startswith(f"step {step}:"):
            raise RuntimeError("stopped")

    return progress


def test_the_flow_is_not_run_where_it_does_not_count(tmp_path):
    import json

    trained(replace(SMALL, stages=TWO), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["flow" in row for row in rows] == [False, False, True, True]
    assert ["kl" in row for row in rows] == [True, True, False, False]


def test_checkpoints_are_kept_at_named_steps(tmp_path):
    trained(replace(SMALL, keep_at=(1, 3)), tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert kept == ["model-000001.safetensors", "model-000003.safetensors"]
    assert [read_header(tmp_path / name)["step"] for name in kept] == [1, 3]
    assert load_checkpoint(tmp_path / kept[0]).config == load_checkpoint(tmp_path / "model.safetensors").config


def test_a_checkpoint_that_is_kept_is_that_of_a_shorter_run_at_a_constant_rate(tmp_path):
    constant = replace(SMALL, final_learning_rate=1.0, keep_at=(2,))
    trained(constant, tmp_path / "long")
    trained(replace(constant, steps=2, keep_at=()), tmp_path / "short")
    long, short = (
        read_tensors(tmp_path / name)[1] for name in ("long/model-000002.safetensors", "short/model.safetensors")
    )
    assert long.keys() == short.keys()
    assert all(torch.equal(part, short[name]) for name, part in long.items())


def test_a_constant_rate_rises_and_stays():
    constant = replace(SMALL, steps=500, warmup=100, final_learning_rate=1.0)
    rates = [constant.rate(step) for step in (0, 49, 99, 100, 499)]
    assert rates == pytest.approx([2e-5, 1e-3, 2e-3, 2e-3, 2e-3])


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage(steps=3),), "let them add up"),
        ((Stage(steps=4, losses=("flow", "reconstruction")),), "counts the loss 'reconstruction'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, said):
    with pytest.raises(CrossFlowError, match=said):
        replace(SMALL, stages=stages)


def test_stages_that_train_nothing_are_refused():
    for wrong in ({"steps": 0}, {"steps": 1, "losses": ()}, {"steps": 1, "trains": "flow", "losses": ("kl",)}):
        with pytest.raises(CrossFlowError):
            Stage(**wrong)
    with pytest.raises(CrossFlowError, match="keep_at"):
        replace(SMALL, keep_at=(5,))


def test_the_digest_names_recipe_and_seed_and_stands_in_the_checkpoint(tmp_path):
    trained(replace(SMALL, steps=1), tmp_path, seed=3)
    recipe = replace(SMALL, steps=1)
    assert read_header(tmp_path / "model.safetensors")["digest"] == recipe.digest(3)
    others = [
        recipe.digest(4),
        replace(recipe, learning_rate=1e-3).digest(3),
        replace(recipe, model=replace(recipe.model, times="uniform")).digest(3),
    ]
    assert len({recipe.digest(3), *others}) == 4


def test_a_new_field_with_a_default_renames_no_training():
    @dataclass(frozen=True, kw_only=True)
    class Wider(VariationalConfig):
        further: float = 0.5
        sizes: list[int] = field(default_factory=list[int])

    source = SMALL.model.source
    wider = Wider(**asdict(source))
    assert digest_with(wider) == SMALL.digest(0)
    assert len({SMALL.digest(0), digest_with(replace(wider, further=0.6)), digest_with(replace(wider, sizes=[2]))}) == 3


def test_a_field_at_its_default_is_as_if_it_were_left_out():
    data = SceneData(count=SMALL.data.count, size=32, captions=(0,))
    assert replace(SMALL, data=data, accumulate=1, stages=()).digest(0) == SMALL.digest(0)
    assert replace(SMALL, stages=TWO).digest(0) != SMALL.digest(0)


def test_kinds_of_equal_fields_are_told_apart():
    @dataclass(frozen=True, kw_only=True)
    class Other(VariationalConfig):
        kind: Literal["other"] = "other"  # pyright: ignore[reportIncompatibleVariableOverride]

    sizes = asdict(SMALL.model.source)
    del sizes["kind"]
    assert digest_with(Other(**sizes)) != digest_with(VariationalConfig(**sizes)) == SMALL.digest(0)


def digest_with(source: VariationalConfig) -> str:
    return replace(SMALL, model=replace(SMALL.model, source=source)).digest(0)


def test_a_cosine_ends_at_its_final_rate_and_is_half_way_in_the_middle():
    cosine = replace(SMALL, steps=101, warmup=1, decay="cosine", learning_rate=1e-4, final_learning_rate=1e-4)
    assert cosine.rate(0) == pytest.approx(1e-4, rel=1e-12)
    assert cosine.rate(50) == pytest.approx((1e-4 + 1e-8) / 2, rel=1e-12)
    assert cosine.rate(100) == pytest.approx(1e-8, rel=1e-9)
    assert replace(cosine, warmup=10).rate(4) == pytest.approx(0.5 * cosine.rate(4), rel=1e-12)


def test_epochs_are_the_steps_that_they_take_on_the_items_that_there_are():
    recipe = replace(SMALL, steps=80, batch_size=8, epochs=10, warmup_epochs=2, keep_at=(40, 80))
    found = recipe.on(32)
    assert (found.steps, found.warmup, found.epochs, found.keep_at) == (40, 8, 10, (20, 40))
    assert recipe.on(1).steps == 1
    assert SMALL.on(10_000) == SMALL
    short = recipe.in_steps(3)
    assert (short.steps, short.epochs) == (3, None)
    assert short.on(10_000) == short
    with pytest.raises(CrossFlowError, match="warmup_epochs is 11"):
        replace(recipe, warmup_epochs=11)
