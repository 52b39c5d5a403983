"""The recipes of the paper's tables: what each row changes, what both methods share, and other numbers of steps."""

from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import NoGuidance
from crossflow.losses import KL, Contrast, TextContrast, TextReconstruction
from crossflow.recipes import CONFIGS
from crossflow.recipes.ablations import NOISES
from crossflow.recipes.recipe import Stage
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig

SCALES = ("smoke", "tiny", "base", "paper")
PUBLISHED = ("70m", "150m", "300m", "500m", "1b")


def differences(a: object, b: object, where: str = "") -> set[str]:
    """The fields in which two recipes differ, dotted."""
    if a == b:
        return set()
    if is_dataclass(a) and type(a) is type(b):
        names = [each.name for each in fields(a)]
        return set().union(*(differences(getattr(a, n), getattr(b, n), f"{where}.{n}") for n in names))
    return {where.removeprefix(".")}


def changed(scale: str, row: str, other: str) -> set[str]:
    return differences(CONFIGS[f"{scale}-{row}"], CONFIGS[f"{scale}-{other}"])


@pytest.mark.parametrize("scale", SCALES)
def test_each_row_changes_the_one_thing_that_the_paper_varies(scale):
    """Against its neighbour; a source without a posterior has no KL, and a row without guidance samples without it."""
    noises = [f"encoder-noise-{sd:g}" for sd in NOISES]
    for noise in noises:
        assert changed(scale, "encoder", noise) == {"model.source"}
    assert changed(scale, noises[0], noises[1]) == {"model.source.sd"}
    assert changed(scale, noises[0], "text-reconstruction") == {"model.source", "model.losses"}
    assert changed(scale, "text-reconstruction", "text-contrast") == {"model.losses"}
    assert changed(scale, "text-contrast", "image-contrast") == {"model.losses", "keep_at"}
    assert changed(scale, "image-contrast", "crossflow") == {
        *("model.guidance", "model.sampling.guidance_scale", "keep_at"),
    }
    assert changed(scale, "crossflow", "sincos") == {"model.path"}
    for row in ("separate", "finetuned"):
        assert changed(scale, f"two-stage-{row}-total", "crossflow") == {"stages"}
    assert changed(scale, "two-stage-separate-total", "two-stage-finetuned-total") == {"stages"}
    assert changed(scale, "two-stage-separate", "two-stage-finetuned") == {"stages", "keep_at"}


@pytest.mark.parametrize("scale", SCALES)
def test_rows_of_the_source_have_the_source_of_the_final_setting_within(scale):
    final = CONFIGS[f"{scale}-crossflow"].model
    encoder = CONFIGS[f"{scale}-encoder"].model
    assert encoder.source == DeterministicConfig(mean_of=final.source)
    assert [type(term) for term in encoder.losses] == [TextReconstruction]
    for sd in NOISES:
        assert CONFIGS[f"{scale}-encoder-noise-{sd:g}"].model.source == FixedNoiseConfig(mean_of=final.source, sd=sd)
    kinds = {"text-reconstruction": TextReconstruction, "text-contrast": TextContrast, "image-contrast": Contrast}
    for row, kind in kinds.items():
        model = CONFIGS[f"{scale}-{row}"].model
        assert [type(term) for term in model.losses] == [KL, kind]
        assert (model.source, model.guidance, model.sampling.guidance_scale) == (final.source, NoGuidance(), 1.0)


@pytest.mark.parametrize("scale", SCALES)
def test_other_language_models_change_the_text_and_what_reads_it(scale):
    others = {"smoke": ("random", "words"), "tiny": ("random", "words"), "base": ("t5",), "paper": ("t5",)}
    for row in others[scale]:
        assert all(each.startswith(("model.reads", "model.source")) for each in changed(scale, row, "crossflow"))
        assert changed(scale, row, "crossflow")


@pytest.mark.parametrize("scale", SCALES)
def test_two_stages_pay_for_their_pre_training(scale):
    joint = CONFIGS[f"{scale}-crossflow"]
    first = joint.steps // 4
    for row in ("separate", "finetuned"):
        total, beside = CONFIGS[f"{scale}-two-stage-{row}-total"], CONFIGS[f"{scale}-two-stage-{row}"]
        assert (total.steps, beside.steps) == (joint.steps, joint.steps + first)
        for recipe in (total, beside):
            encoder, flow = recipe.stages
            assert (encoder.steps, encoder.trains, encoder.losses) == (first, "source", ("kl", "contrastive"))
            assert (flow.trains, flow.losses) == (("flow", ("flow",)) if row == "separate" else ("all", None))


def parameters(name: str, part: str) -> int:
    """Those that sampling needs, in all or of one part."""
    with torch.device("meta"):
        model = CONFIGS[name].model.build(training=False)
    return sum(each.numel() for each in (model if part == "all" else getattr(model, part)).parameters())


@pytest.mark.parametrize(
    ("part", "crossflow", "standard"),
    [
        ("all", "tiny-crossflow", "tiny-standard"),
        ("all", "scenes-t2i", "scenes-t2i-standard"),
        *(("all", f"tiny-figure3-crossflow-{width}", f"tiny-figure3-standard-{width}") for width in (64, 96, 128)),
        *(("backbone", f"{scale}-crossflow", f"{scale}-standard") for scale in ("base", "paper")),
        *(("backbone", f"base-figure3-crossflow-{size}", f"base-figure3-standard-{size}") for size in PUBLISHED),
    ],
)
def test_both_methods_have_nearly_as_many_parameters_and_are_trained_alike(part, crossflow, standard):
    """The paper counts those of the network of the flow alone, without the text encoder that CrossFlow has besides."""
    assert parameters(standard, part) == pytest.approx(parameters(crossflow, part), rel=0.05)
    ours, theirs = CONFIGS[crossflow], CONFIGS[standard]
    apart = differences(ours, theirs) - {"data.negatives"}  # of a contrast, which the baseline has not
    assert {each.partition(".")[0] for each in apart} == {"model"}
    for part in ("shape", "reads", "target", "guidance", "times", "sampling"):
        assert getattr(ours.model, part) == getattr(theirs.model, part)


@pytest.mark.parametrize("scale", SCALES)
def test_checkpoints_along_one_run_serve_the_steps_of_figure_3(scale):
    """Which they do where the rate is constant, and its weights are averaged."""
    names = [name for name in CONFIGS if name.startswith(f"{scale}-figure3-") and not name.endswith("-features")]
    assert len(names) >= 4
    for name in names:
        recipe = CONFIGS[name]
        assert recipe.keep_at == tuple(round(share * recipe.steps) for share in (0.25, 0.5, 0.75, 1.0))
        assert recipe.final_learning_rate == 1
        assert recipe.ema > 0
        assert recipe.rate(recipe.steps - 1) == recipe.learning_rate * min(1, recipe.steps / recipe.warmup)


def test_another_number_of_steps_keeps_the_shares_of_stages_and_checkpoints():
    recipe = CONFIGS["tiny-two-stage-finetuned"]
    for steps in (1, 3, 10, 187, 1875, 5000):
        if steps == 1:
            with pytest.raises(CrossFlowError, match="A stage has 0 steps"):
                recipe.in_steps(steps)
            continue
        other = recipe.in_steps(steps)
        assert sum(stage.steps for stage in other.stages) == other.steps == steps
        assert other.stages[0].steps == pytest.approx(steps / 5, abs=0.5)
        assert other.keep_at == pytest.approx([max(1, steps * step / recipe.steps) for step in recipe.keep_at], abs=0.5)
        assert replace(other, steps=recipe.steps, stages=recipe.stages, keep_at=recipe.keep_at) == recipe
    assert recipe.in_steps(recipe.steps) == recipe
    plain = CONFIGS["scenes-tiny"]
    assert plain.in_steps(7) == replace(plain, steps=7)


def test_the_rate_rises_and_decays_in_each_stage_anew():
    recipe = replace(
        CONFIGS["scenes-tiny"],
        steps=30,
        stages=(Stage(steps=10, trains="source", losses=("kl",)), Stage(steps=20)),
        warmup=2,
        learning_rate=1.0,
        final_learning_rate=0.02,
    )
    alone = replace(recipe, steps=20, stages=())
    assert [recipe.rate(step) for step in range(10, 30)] == pytest.approx([alone.rate(step) for step in range(20)])
    assert [recipe.rate(step) for step in (0, 1, 5, 9)] == pytest.approx([0.5, 0.9, 0.5, 0.1])
    assert [recipe.stage(step).trains for step in (0, 9, 10, 29)] == ["source", "source", "all", "all"]


def test_every_digest_of_an_ablation_is_another():
    """But those of rows that are the same recipe under two names."""
    found: dict[str, list[str]] = {}
    for name, recipe in CONFIGS.items():
        if name.startswith(tuple(f"{scale}-" for scale in SCALES)):
            found.setdefault(recipe.digest(0), []).append(name)
    twice = [names for names in found.values() if len(names) > 1]
    for names in twice:
        assert len({repr(CONFIGS[name]) for name in names}) == 1
