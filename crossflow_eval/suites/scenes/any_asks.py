"""What the suites ``scenes-any-*`` ask for, as files for another program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossflow.files.locks import writing_in
from crossflow.files.progress import Stage
from crossflow.files.writing import refuse_existing, write_whole
from crossflow_eval.suites.scenes.any_to_any import event, real
from crossflow_eval.types import Ask, Example

ASKS = "asks.jsonl"


def write_asks(examples: Sequence[Example], out: Path, stage: Stage) -> int:
    """Write the inputs of a suite's examples into the folder ``out``/inputs, and an example a line into asks.jsonl.

    A line has the ``id``; ``from``, pairs of a modality and a text or a file; ``to``, what is to be made together of
    these; ``mix``, weights of the inputs; ``via``, what is to be made on the way. Returns how many lines there are.
    CrossFlowError where there are some.
    """
    asks = [(example.id, example.source) for example in examples if isinstance(example.source, Ask)]
    with writing_in(out, "writing"), stage("asks", "inputs") as at:
        refuse_existing([out / ASKS])
        needed = {(modality, of): None for _, ask in asks for modality, several in ask.given.items() for of in several}
        first: dict[tuple[str, str], str] = {}
        for number, (modality, of) in enumerate(needed):
            at(number, len(needed))
            contents = {} if modality == "text" else _files(modality, of)
            for suffix, content in contents.items():
                write_whole(out / "inputs" / f"{of}.{modality}{suffix}", content)
            first[modality, of] = f"inputs/{of}.{modality}{next(iter(contents))}" if contents else of
        rows = [
            {
                "id": example,
                "from": [[name, first[name, of]] for name, several in ask.given.items() for of in several],
                "to": list(ask.wanted),
                "mix": dict(ask.mix),
                "via": list(ask.via),
            }
            for example, ask in asks
        ]
        write_whole(out / ASKS, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    return len(rows)


def _files(modality: str, of: str) -> Mapping[str, bytes]:
    """What an event is in a modality as the content of files by suffix, the exact one first; its sound as it is."""
    from crossflow.files.mel import RATE
    from crossflow.files.sounds import encode_wav
    from crossflow.sampling.media import writers
    from crossflow.scenes.sound import waveform

    value = real(of, modality)
    if modality == "audio":
        return {".npy": writers(modality)[".npy"](value), ".wav": encode_wav(waveform(event(of)), rate=RATE)}
    return {suffix: write(value) for suffix, write in writers(modality).items()}
