"""What an any-to-any system costs: ``python -m benchmarks.any_cost --ckpt FILE --runs FOLDER``.

Objectives that are trained, by what the file says of itself, beside what other ways take of n modalities; parameters by
part; CPU minutes of the stages, whose trainings lie in the ``--runs``; evaluations of networks that a sample takes,
which are counted while it is made. Writes results/scenes/any_cost.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from crossflow.anytoany.environment import Environment
from crossflow.anytoany.system import AnyToAny, AnyToAnyConfig
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.hashes import file_sha256
from crossflow.files.plain_json import read_json_lines
from crossflow.files.writing import write_whole
from crossflow.networks.transformer import CrossAttentionTransformer, Transformer
from crossflow.sampling.any_to_any import METHODS, AnyToAnySampler
from crossflow.scenes.events import event
from crossflow.scenes.sense import value
from crossflow_eval.environment import hardware

SIZES = (2, 3, 4, 5, 10)
"""Numbers of modalities for which objectives are counted."""
PARTS = ("codecs", "prompts", "diffusers", "environments", "connections")
SORTS = {
    "prompts": "prompt encoders, aligned with text",
    "diffuser": "diffusers",
    "pair": "outputs aligned in pairs",
    "anchor": "rival: flows from a shared latent",
    "direct": "rival: direct flows",
}
TASKS = (
    (("text",), ("image",)),
    (("text",), ("audio", "video")),
    (("text",), ("image", "audio", "video")),
    (("text", "image", "audio"), ("audio", "video")),
)
"""Inputs and outputs of which evaluations are counted."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "independent": {"context": "none"},
    "as released": {"context": "self"},
    "others": {"context": "others"},
    **{name: {"method": name} for name in METHODS if name != "together"},
}
"""Methods by their options of ``AnyToAnySampler.generate``."""


def objectives(n: int) -> dict[str, int]:
    """How many things are trained so that each of n modalities can be made of each."""
    return {
        "CoDi: n - 1 prompts, n diffusers, n - 1 pairs": 3 * n - 2,
        "direct flows, one each way": n * (n - 1),
        "direct flows, run both ways": n * (n - 1) // 2,
        "direct flows to one hub, run both ways": n - 1,
        "flows from one shared latent": n,
        "each set of inputs to each set of outputs": (2**n - 1) ** 2,
    }


def parameters(system: AnyToAny) -> dict[str, dict[str, int]]:
    """Parameters by modality and part; of a rival, which has none, by its own name."""
    found: dict[str, dict[str, int]] = {name: {} for name in system.config.names}
    for part in PARTS:
        for name, module in getattr(system, part).items():
            found[name][part] = _size(module)
    for name in ("anchor", "direct"):
        if getattr(system, name) is not None:
            found[name] = {"rival": _size(getattr(system, name))}
    return found


def _size(module: nn.Module) -> int:
    """Learned numbers, and those that are fitted."""
    kept = [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]
    return sum(each.numel() for each in kept)


def minutes(runs: Sequence[Path]) -> dict[str, tuple[int, float]]:
    """Steps and CPU minutes of each training in the folders of ``runs``, by its name; CrossFlowError for none."""
    found: dict[str, tuple[int, float]] = {}
    for path, name in ((path, path.parent.relative_to(run.parent)) for run in runs for path in _timings(run)):
        lines = [line for _, line in read_json_lines(path.read_text(encoding="utf-8"), str(path))]
        found[name.as_posix()] = (int(lines[-1]["to"]), sum(float(line["cpu_seconds"]) for line in lines) / 60)
    if runs and not found:
        raise CrossFlowError(f"There is no timing.jsonl in {', '.join(map(str, runs))}: give folders of trainings.")
    return found


def _timings(run: Path) -> list[Path]:
    return sorted(run.glob("**/timing.jsonl"))


@contextmanager
def counting(system: AnyToAny) -> Iterator[Counter[str]]:
    """Counts the items that velocity networks and environment encoders are asked for."""
    found: Counter[str] = Counter()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found["environments" if isinstance(module, Environment) else "networks"] += len(inputs[0])

    networks = (Transformer, CrossAttentionTransformer, Environment)
    hooks = [each.register_forward_pre_hook(count) for each in system.modules() if isinstance(each, networks)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def evaluations(sampler: AnyToAnySampler, given: Sequence[str], wanted: Sequence[str], way: str) -> Counter[str] | None:
    """Evaluations that a sample of the ``wanted`` takes in a way of ``WAYS``; None where the system cannot make it."""
    item = {name: [value(event("test", 0), name)] for name in given}
    with counting(sampler.system) as found:
        try:
            sampler.generate([item], wanted, [0], **WAYS[way])
        except CrossFlowError:
            return None
    return found


def report(
    config: AnyToAnyConfig,
    sizes: Mapping[str, Mapping[str, int]],
    trained: Mapping[str, tuple[int, float]],
    asked: Mapping[str, Mapping[str, Counter[str] | None]],
    facts: Sequence[str],
) -> str:
    """The Markdown page; ``facts`` are lines on how it was made."""
    pairs = {frozenset(pair) for note in config.trained for pair in note.pairs if note.stage in ("prompts", "diffuser")}
    joined = {frozenset(pair) for note in config.trained for pair in note.pairs if note.stage == "pair"}
    n = len(config.names)
    lines = [
        "# What an any-to-any system costs",
        "",
        *facts,
        "",
        "## Training objectives",
        "",
        f"By its file {len(pairs)} of the {n * (n - 1) // 2} pairs of {n} modalities were seen as prompt and output, "
        f"and {len(joined)} as outputs made together.",
        "",
        "| trained | objectives | pairs |",
        "|---|---:|---|",
    ]
    for sort, says in SORTS.items():
        notes = [note for note in config.trained if note.stage == sort]
        if notes:
            seen = dict.fromkeys("-".join(pair) for note in notes for pair in note.pairs)
            lines.append(f"| {says} | {len(notes)} | {', '.join(seen)} |")
    lines += [
        "",
        "CoDi's argument is that its objectives grow linearly where flows between any two grow as the square, and "
        "tasks of sets exponentially. Objectives for n modalities:",
        "",
        f"| n | {' | '.join(map(str, SIZES))} |",
        f"|---|{'---:|' * len(SIZES)}",
    ]
    counts = [objectives(size) for size in SIZES]
    lines += [f"| {way} | {' | '.join(f'{each[way]:,}' for each in counts)} |" for way in counts[0]]
    parts = [part for part in (*PARTS, "rival") if any(part in of for of in sizes.values())]
    lines += [
        "",
        "## Parameters",
        "",
        "In thousands, with the numbers that are fitted.",
        "",
        f"| | {' | '.join(parts)} | all |",
        f"|---|{'---:|' * (len(parts) + 1)}",
        *(_sizes(name, of, parts) for name, of in sizes.items()),
        _sizes("all", sum((Counter(of) for of in sizes.values()), Counter()), parts),
        "",
        "## CPU minutes of training",
        "",
        "Without the encoding of data, which is done once. What a stage was trained for before it was stopped counts.",
        "",
        "| stage | steps | CPU minutes |",
        "|---|---:|---:|",
        *(f"| {name} | {steps:,} | {spent:.1f} |" for name, (steps, spent) in trained.items()),
        f"| all | | {sum(spent for _, spent in trained.values()):.1f} |",
        "",
        "## Evaluations a sample",
        "",
        "How often a velocity network is asked for an item, and an environment encoder (+), with the settings that the "
        "file has. Guidance asks twice, with the prompt and without; a midpoint step takes two. Reading the inputs is "
        "one evaluation of a small encoder each, and is left out. A dash: this system, or this way, cannot make it.",
        "",
        f"| | {' | '.join(WAYS)} |",
        f"|---|{'---:|' * len(WAYS)}",
        *(f"| {task} | {' | '.join(_counted(of[way]) for way in WAYS)} |" for task, of in asked.items()),
    ]
    return "\n".join([*lines, ""])


def _sizes(name: str, of: Mapping[str, int], parts: Sequence[str]) -> str:
    cells = [f"{of[part] / 1000:,.1f}" if part in of else "" for part in parts]
    return f"| {name} | {' | '.join(cells)} | {sum(of.values()) / 1000:,.1f} |"


def _counted(found: Counter[str] | None) -> str:
    if found is None:
        return "—"
    beside = f" + {found['environments']}" if found["environments"] else ""
    return f"{found['networks']}{beside}"


def main(
    ckpt: Annotated[Path, typer.Option(help="The file of a system.")],
    runs: Annotated[list[Path] | None, typer.Option(help="A folder of trainings; several may be given.")] = None,
    out: Annotated[Path, typer.Option()] = Path("results/scenes/any_cost.md"),
) -> None:
    """Count what a system costs, and write the page."""
    with one_sentence():
        sampler = AnyToAnySampler.from_checkpoint(ckpt, device="cpu", precision="float32")
        trained = minutes(runs or [])
        asked = {
            f"{' + '.join(given)} → {' + '.join(wanted)}": {
                way: evaluations(sampler, given, wanted, way) for way in WAYS
            }
            for given, wanted in TASKS
        }
        given = "".join(f" --runs {run.name}" for run in runs or [])
        facts = [
            f"`python -m benchmarks.any_cost --ckpt {ckpt.name}{given}`: counted from the file, weights "
            f"{file_sha256(ckpt)[:12]}, and one sample of each kind, so there is no n and no seed. {hardware()}; the "
            "minutes are those of the machine that trained.",
        ]
        page = report(sampler.system.config, parameters(sampler.system), trained, asked, facts)
        write_whole(out, page.encode())
        typer.echo(page)


if __name__ == "__main__":
    typer.run(main)
