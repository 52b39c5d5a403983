"""Tensors out of a pickled checkpoint, without running anything that the file names.

A checkpoint of mmdet holds, beside its tensors, a record of how it was trained, whose objects may be of classes that
are not installed here. Where torch's own restricted reader refuses such a file, every object but a tensor is replaced
by one that takes what pickle does to it and keeps nothing.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crossflow.errors import CrossFlowError

if TYPE_CHECKING:
    from torch import Tensor


class Inert:
    """Stands for any object of a class, or result of a function, that a checkpoint names and that is no tensor."""

    def __new__(cls, *arguments: Any, **named: Any) -> Inert:
        """Accept what the real class would take."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None:
        """Keep nothing."""

    def extend(self, items: Any) -> None:
        """Keep nothing."""


class TensorsOnly(pickle.Unpickler):
    """An unpickler that knows tensors and their dictionary; everything else becomes ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for."""
        import torch._utils

        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        return Inert


class _TensorsOnlyPickle:
    """The part of the module ``pickle`` that ``torch.load`` asks for."""

    Unpickler = TensorsOnly

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        return TensorsOnly(file, **options).load()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The ``state_dict`` of a checkpoint, on the CPU. Nothing in the file is executed.

    Raises CrossFlowError for a file that cannot be read or holds no ``state_dict`` of tensors.
    """
    import torch

    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TensorsOnlyPickle)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise CrossFlowError(
            f"{path} cannot be read as a checkpoint of torch ({type(error).__name__}); it is damaged or "
            "of another format: fetch it again."
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CrossFlowError(f"{path} holds no state_dict of tensors, so it is no checkpoint of a model.")
    return dict(tensors)
