"""How real single outputs of any-to-any runs are: ``python -m benchmarks.any_fidelity --ckpt FILE --run RUN``.

From the outputs of finished runs of ``scenes-any-...``: a Frechet distance a modality on features of frozen networks,
beside what the codec alone costs; captions from every modality by the caption metrics; and of outputs that were made
together the cosine of their prompt vectors by the encoders of another system (``--verifier``), which the paper calls
SIM. A verifier with prompt encoders of the system itself is refused. Writes results/scenes/any_fidelity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float
from torch import nn

from benchmarks.any_retrieval import encoded
from benchmarks.scenes_reader import START
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.hashes import file_sha256
from crossflow.files.writing import write_whole
from crossflow.sampling.from_image import raw_values
from crossflow.scenes.events import Event, event
from crossflow.scenes.facts import MODALITIES
from crossflow.scenes.judges import load_features
from crossflow.scenes.sense import value
from crossflow.training.data.events import target
from crossflow_eval import records
from crossflow_eval.environment import hardware
from crossflow_eval.judges.efficientnet import EfficientNetFeatures
from crossflow_eval.judges.features import FeatureExtractor, extract
from crossflow_eval.metrics.any_to_any import shuffled
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.fid import distance_of
from crossflow_eval.metrics.frechet import Moments
from crossflow_eval.outputs import depth_colors, kind_of, sound_colors
from crossflow_eval.stats import bootstrap_mean
from crossflow_eval.types import Example, Value

CAPTIONED = ("bleu_4", "rouge_l", "cider_d")
PAGE = Path("results/scenes/any_fidelity.md")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How a modality is shown to a frozen network: as one ``picture`` of an output, by its place among all."""

    network: str
    says: str
    picture: Callable[[Any, int], np.ndarray]


SEEN: Mapping[str, Seen] = {
    "image": Seen(network="scenes-features", says="as it is", picture=lambda raw, _: raw),
    "depth": Seen(network="efficientnet-lite0", says="in colours", picture=lambda raw, _: depth_colors(raw)),
    "audio": Seen(network="efficientnet-lite0", says="log-mel in colours", picture=lambda raw, _: sound_colors(raw)),
    "video": Seen(network="scenes-features", says="a frame by turns", picture=lambda raw, place: raw[place % len(raw)]),
}
NETWORKS: Mapping[str, Callable[[], FeatureExtractor]] = {
    "scenes-features": load_features,
    "efficientnet-lite0": EfficientNetFeatures,
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One row of a run: the event and the task that it is of, what was given, and its outputs by modality."""

    event: str
    task: str
    given: tuple[str, ...]
    outputs: Mapping[str, Any]


def read_run(folder: Path) -> tuple[str, list[Made]]:
    """The name of a run's model, and what it made. CrossFlowError for no finished run of outputs by modality."""
    run = records.run_in(folder)
    result = records.check_whole(run)
    found: list[Made] = []
    for row in records.read_rows(run):
        if "outputs" not in row:
            raise CrossFlowError(f"{folder} is a run of {result.settings.suite}: give runs of scenes-any-...")
        named = sorted(row["outputs"].items(), key=lambda each: MODALITIES.index(each[0]))
        paths = {modality: records.output_path(run, name) for modality, name in named}
        outputs = {modality: kind_of(path.name).decode(path.read_bytes()) for modality, path in paths.items()}
        split, index = str(row["id"]).split("-")[:2]
        given = tuple(name.partition("-")[0] for name in str(row["task"]).split("/")[0].split("+"))
        found.append(Made(event=f"{split}-{index}", task=str(row["task"]), given=given, outputs=outputs))
    return result.settings.model, found


def new(made: Sequence[Made], modality: str) -> list[Any]:
    """The outputs of a modality that were not given in it."""
    return [each.outputs[modality] for each in made if modality in each.outputs and modality not in each.given]


@torch.no_grad()
def through_codec(system: AnyToAny, modality: str, raw: Sequence[Any]) -> list[Any]:
    """Raw values encoded and decoded: the best that latents allow."""
    codec = system.codec(modality)
    latents = torch.cat([system.latents(modality, raw[start : start + 64]) for start in range(0, len(raw), 64)])
    return raw_values(codec.decode(latents))


def of_outputs(
    system: AnyToAny, runs: Mapping[str, Sequence[Made]], reference: Sequence[Event], real: Sequence[Event]
) -> dict[str, dict[str, Value]]:
    """The distances to the ``reference`` of ``real`` events, of these through the codecs, and of outputs of runs."""
    names = [name for name in SEEN if name in system.config.coded]
    aims, own = ({name: [value(item, name) for item in items] for name in names} for items in (reference, real))
    codec = {name: through_codec(system, name, values) for name, values in own.items()}
    made = {name: {kind: new(rows, kind) for kind in names} for name, rows in runs.items()}
    return distances({"real": own, "codec": codec, **made}, aims, len(real))


def distances(
    sets: Mapping[str, Mapping[str, Sequence[Any]]], reference: Mapping[str, Sequence[Any]], most: int
) -> dict[str, dict[str, Value]]:
    """The Frechet distance of each set to the ``reference``, by modality; all sets of a modality are cut to one n."""
    found: dict[str, dict[str, Value]] = {name: {} for name in sets}
    for network, make in NETWORKS.items():
        extractor = make()
        for modality in (name for name, seen in SEEN.items() if seen.network == network and name in reference):
            own = {name: of[modality] for name, of in sets.items() if len(of.get(modality, ())) > 1}
            n = min(most, *(len(each) for each in own.values()))
            aim = Moments.of_features(_features(extractor, modality, reference[modality]))
            for name, values in own.items():
                features = _features(extractor, modality, values[:n])
                found[name][modality] = distance_of(lambda kept, f=features: Moments.of_features(f[kept]), aim, n)
    return found


def _features(extractor: FeatureExtractor, modality: str, raw: Sequence[Any]) -> Float[np.ndarray, "n d"]:
    return extract(extractor, [SEEN[modality].picture(each, place) for place, each in enumerate(raw)])


def captioned(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Value]:
    """BLEU-4, ROUGE-L and CIDEr-D of captions, cut into words without Java."""
    metric = CaptionScores(tokens="words", with_meteor=False)
    examples = [Example(id=str(i), source="", target=tuple(each)) for i, each in enumerate(references)]
    metric.update(examples, captions)
    return {name: each for name, each in metric.compute().items() if name in CAPTIONED}


def of_captions(name: str, made: Sequence[Made], of: Callable[[str], Event]) -> dict[str, dict[str, Value]]:
    """The scores of the texts of each task that gives none, by the five true captions of its event."""
    tasks: dict[str, list[Made]] = {}
    for each in made:
        if "text" in each.outputs and "text" not in each.given:
            tasks.setdefault(each.task, []).append(each)
    return {
        f"{name}, {task.replace('/', ' → ')}": captioned(
            [each.outputs["text"] for each in rows], [of(each.event).captions for each in rows]
        )
        for task, rows in tasks.items()
    }


def of_true_captions(system: AnyToAny, events: Sequence[Event]) -> dict[str, dict[str, Value]]:
    """The scores of one true caption by the other four, and of full descriptions through the codec by all five."""
    one, others = zip(*((item.captions[1], item.captions[:1] + item.captions[2:]) for item in events), strict=True)
    described = through_codec(system, "text", [target(item, "text") for item in events])
    return {"real": captioned(one, others), "codec": captioned(described, [item.captions for item in events])}


def similarity(verifier: AnyToAny, pairs: Sequence[tuple[str, Any, str, Any]]) -> dict[str, tuple[Value, Value]]:
    """The mean cosine of the vectors of two outputs by their modalities: of each pair, and of pairs that are shuffled.

    A pair is a modality with its output, and another one with its.
    """
    groups: dict[str, list[tuple[str, Any, str, Any]]] = {}
    for pair in pairs:
        groups.setdefault(f"{pair[0]} + {pair[2]}", []).append(pair)
    found: dict[str, tuple[Value, Value]] = {}
    for name, of in groups.items():
        one = encoded(verifier, of[0][0], [pair[1] for pair in of])
        other = encoded(verifier, of[0][2], [pair[3] for pair in of])
        places = [(first, second) for first, second in shuffled(range(len(of)))]
        mixed = other[[second for _, second in sorted(places)]]
        found[name] = (_mean_cosine(one, other), _mean_cosine(one, mixed))
    return found


def _mean_cosine(one: torch.Tensor, other: torch.Tensor) -> Value:
    return bootstrap_mean((one * other).sum(-1).mean(-1).double().numpy())


def together(made: Sequence[Made]) -> list[tuple[str, Any, str, Any]]:
    """Two outputs that were made together of a text, and of no third, with their modalities."""
    return [
        (one, each.outputs[one], other, each.outputs[other])
        for each in made
        if each.given == ("text",) and len(each.outputs) == 2
        for one, other in [tuple(each.outputs)]
    ]


def of_events(pairs: Sequence[tuple[str, str]], events: Sequence[Event]) -> list[tuple[str, Any, str, Any]]:
    """The same of real events, of these ``pairs`` of modalities; a text is the full description."""
    return [(one, target(item, one), other, target(item, other)) for one, other in pairs for item in events]


def refuse_its_own(system: AnyToAny, verifier: AnyToAny) -> None:
    """CrossFlowError where the verifier has a prompt encoder that the system was trained with, rounded or not."""
    ours, theirs = ({name: part.prompts[name] for name in part.config.prompted} for part in (system, verifier))
    if shared := [name for name, encoder in theirs.items() if name in ours and _is_alike(ours[name], encoder)]:
        raise CrossFlowError(
            f"The verifier has the prompt encoders of the system that it is to judge, of {', '.join(shared)}: give one "
            "that was trained with another seed."
        )


def _is_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights in half precision, in which a system may be stored."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].half(), theirs[name].half()) for name in ours)


def refuse_its_runs(runs: Sequence[Path], verifier: Path) -> None:
    """CrossFlowError for a run that the verifier's file made."""
    own = file_sha256(verifier)
    for folder in runs:
        if records.read_settings(records.run_in(folder)).identity.get("weights_sha256") == own:
            raise CrossFlowError(
                f"{folder} was made by the verifier itself: give one that was trained with another seed."
            )


def report(
    fidelity: Mapping[str, Mapping[str, Value]],
    captions: Mapping[str, Mapping[str, Value]],
    similar: Mapping[str, Mapping[str, tuple[Value, Value]]],
    facts: Sequence[str],
) -> str:
    """The Markdown page; ``facts`` are lines on how it was made."""
    shown = [name for name in SEEN if any(name in of for of in fidelity.values())]
    sizes = {name: next(of[name].n for of in fidelity.values() if name in of) for name in shown}
    heads = [f"{name}, {SEEN[name].says}, {SEEN[name].network}, n = {sizes[name]}" for name in shown]
    lines = [
        "# How real the outputs of any-to-any runs are",
        "",
        *facts,
        "",
        "Brackets hold 95 % intervals.",
        "",
        "## Frechet distances",
        "",
        "Of outputs that are in no modality that was given, to real data of other events, on features of frozen "
        "networks: none is a FID, a FAD or an FVD, and none compares with a published number. A distance falls with n, "
        "so all of a column have one. Real: further events. Codec: these, encoded and decoded, which is the best that "
        "latents allow.",
        "",
        _table(["", *heads], [[name, *(_shown(of.get(each), 1) for each in shown)] for name, of in fidelity.items()]),
        "",
        "## Captions",
        "",
        "By the five true captions of the event; words are runs of letters, so METEOR and SPICE, which need Java, are "
        "left out, and numbers compare among each other alone. Real: one true caption by the other four.",
        "",
        _table(
            ["", *CAPTIONED, "n"],
            [
                [name, *(_shown(of[each], 3) for each in CAPTIONED), str(of[CAPTIONED[0]].n)]
                for name, of in captions.items()
            ],
        ),
    ]
    if similar:
        names = list(dict.fromkeys(pair for of in similar.values() for pair in of))
        rows = [
            [f"{name}{end}", *(_shown(of[pair][place] if pair in of else None, 3) for pair in names)]
            for name, of in similar.items()
            for place, end in enumerate(("", ", shuffled"))
        ]
        lines += [
            "",
            "## Similarity by an outside verifier",
            "",
            "The mean cosine of the prompt vectors of two outputs that were made together of a text alone, by the "
            "prompt encoders of another system, which no part of this one was trained with: the paper's SIM, on our "
            "encoders. Shuffled: the second of another example.",
            "",
            _table(["", *names], rows),
        ]
    return "\n".join([*lines, ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(each)} |" for each in (head, rule, *rows))


def _shown(of: Value | None, digits: int) -> str:
    if of is None:
        return ""
    interval = "" if of.ci_low is None else f" [{of.ci_low:.{digits}f}, {of.ci_high:.{digits}f}]"
    return f"{of.mean:.{digits}f}{interval}"


def main(
    ckpt: Annotated[Path, typer.Option(help="The file of the system, for its codecs.")],
    run: Annotated[list[Path], typer.Option(help="A finished run of scenes-any-...; several may be given.")],
    verifier: Annotated[Path | None, typer.Option(help="The file of a system of another seed.")] = None,
    n: Annotated[int, typer.Option(min=2, help="Outputs of a modality, at most.")] = 500,
    out: Annotated[Path, typer.Option()] = PAGE,
) -> None:
    """Measure the outputs of runs, and write the page."""
    with one_sentence():
        system = load_system(ckpt)
        outside = None if verifier is None else load_system(verifier)
        if verifier is not None and outside is not None:
            refuse_its_own(system, outside)
            refuse_its_runs(run, verifier)
        runs = dict(map(read_run, run))
        if len(runs) < len(run):
            raise CrossFlowError(f"Several runs are called {', '.join(runs)}: name each by --name.")
        asked = {(pair[0], pair[2]): None for made in runs.values() for pair in together(made)}
        if outside is not None:
            outside.config.needing("prompted", [name for pair in asked for name in pair])
        events = [event("test", START + i) for i in range(2 * n)]
        fidelity = of_outputs(system, runs, events[:n], events[n:])
        captions = of_true_captions(system, events[n:])
        for name, made in runs.items():
            captions |= of_captions(name, made, _event)
        similar: dict[str, Mapping[str, tuple[Value, Value]]] = {}
        if outside is not None:
            similar = {name: similarity(outside, pairs) for name, made in runs.items() if (pairs := together(made))}
            similar["real"] = similarity(outside, of_events(tuple(asked), events[n:]))
        given = "".join(f" --run {each.name}" for each in run) + (f" --verifier {verifier.name}" if verifier else "")
        facts = [
            f"`python -m benchmarks.any_fidelity --ckpt {ckpt.name}{given} --n {n}`: real data are events of `test` "
            f"from index {START:,}; weights {file_sha256(ckpt)[:12]}"
            + (f", verifier {file_sha256(verifier)[:12]}" if verifier else "")
            + f"; shuffled by seed 0. {hardware()}.",
        ]
        page = report(fidelity, captions, similar, facts)
        write_whole(out, page.encode())
        typer.echo(page)


def _event(name: str) -> Event:
    split, index = name.split("-")
    return event(split, int(index))


if __name__ == "__main__":
    typer.run(main)
