"""Outputs of any to any made elsewhere: files of a folder, looked up by example and modality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.listing import list_folder
from crossflow.files.names import shown
from crossflow_eval.models.media_folder import all_readable
from crossflow_eval.outputs import as_kind
from crossflow_eval.types import Ask, Example, Output, Outputs


class AnyFolder:
    """Files ``<id>.<modality>.*`` or, as a run's, ``<id>-<k>.<modality>.*``, read as ``crossflow generate`` does.

    ``kinds`` of output and ``shapes`` of raw values are by modality; ``check_output`` refuses what is no value of one.
    Every file is read once before any work. Raises CrossFlowError for those that cannot be, and as ``list_folder``.
    """

    name = "folder"

    def __init__(
        self,
        folder: Path,
        kinds: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        check_output: Callable[[str, Output], None],
    ) -> None:
        from crossflow.sampling.media import READERS, SIZES

        self.folder, self._kinds, self._shapes, self._check_output = folder, kinds, shapes, check_output
        found: dict[str, list[Path]] = defaultdict(list)
        suffixes = {suffix for modality in kinds for suffix in READERS[modality]}
        for path in list_folder(folder, suffixes, "output").all_read().read.values():
            found[path.stem.removesuffix(".mel")].append(path)
        if twice := [shown(path.name) for several in found.values() if len(several) > 1 for path in several]:
            raise CrossFlowError(
                f"{len(twice)} files in {folder} are of the same outputs ({first_few(twice)}); keep one of each."
            )
        self._paths = {name: path for name, (path,) in found.items()}
        self.files = all_readable(self._paths, self._value, folder, "output")
        self.identity: Mapping[str, Any] = {
            "outputs_sha256": self.files.sha256,
            "outputs": len(self.files.files),
            "sizes": dict(SIZES),
        }

    def read(self, example_id: str, index: int) -> Outputs:
        """Return the ``index``-th outputs of an example. CrossFlowError where a file is no longer what was found."""
        outputs: dict[str, Any] = {}
        for modality in self._kinds:
            if (name := self._name(example_id, index, modality)) is not None:
                outputs[modality] = self._value(name)
                self.files.check_unchanged(name)
        return outputs

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Check that every needed output is there, and that every file belongs to one of the ``known`` examples.

        Raises:
            CrossFlowError: missing or foreign files; counted, the first ones named.
        """
        asked = [(e.id, k, each) for e in needed for k in range(outputs_per_example) for each in _wanted(e)]
        missing = [self._names(*each)[-1] for each in asked if self._name(*each) is None]
        if missing:
            raise CrossFlowError(
                f"{len(missing)} of {len(asked)} outputs are missing in {self.folder}: {first_few(missing)}."
            )
        own = {self._name(e.id, k, each) for e in known for k in range(outputs_per_example) for each in _wanted(e)}
        if foreign := sorted(shown(path.name) for name, path in self._paths.items() if name not in own):
            raise CrossFlowError(
                f"{len(foreign)} of {len(self._paths)} files in {self.folder} belong to no example: "
                f"{first_few(foreign)}."
            )

    def _names(self, example_id: str, index: int, modality: str) -> list[str]:
        return [f"{example_id}-{index}.{modality}", *([f"{example_id}.{modality}"] if index == 0 else [])]

    def _name(self, example_id: str, index: int, modality: str) -> str | None:
        return next((name for name in self._names(example_id, index, modality) if name in self._paths), None)

    def _value(self, name: str) -> Any:
        """What the file of this name holds; None where it is of no modality."""
        from crossflow.sampling.media import read_value

        modality, path = name.rpartition(".")[2], self._paths[name]
        if modality not in self._kinds:
            return None
        value = as_kind(shown(path), read_value(modality, str(path), self._shapes[modality]), self._kinds[modality])
        try:
            self._check_output(modality, value)
        except CrossFlowError as error:
            raise CrossFlowError(f"{shown(path)} is not used: {error}") from error
        return value


def _wanted(example: Example) -> Sequence[str]:
    return example.source.wanted if isinstance(example.source, Ask) else ()
