"""Registries of config classes by their ``kind``, which other packages can extend.

Each kind of part has one registry, such as ``crossflow.sources.SOURCES``. Another package adds to it by an entry point
in the registry's group, whose name is the kind and whose object is the config class, or in code by ``add``.
"""

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from pydantic import PlainValidator, TypeAdapter

from crossflow.errors import CrossFlowError


class Kinds(Mapping[str, type]):
    """Config classes of one ``sort`` ("source", "loss", ...) by their ``kind``; ``group`` is the entry-point group."""

    def __init__(self, sort: str, group: str, *own: type) -> None:
        self.sort, self.group = sort, group
        self._own = {_kind_of(each): each for each in own}

    def add(self, config: type) -> type:
        """Register and return a config class; also usable as a decorator. CrossFlowError for a kind that exists."""
        kind = _kind_of(config)
        if kind in self._own and self._own[kind] is not config:
            raise CrossFlowError(f"There is a {self.sort} of the kind {kind!r} already: give it another kind.")
        self._own[kind] = config
        return config

    def remove(self, kind: str) -> None:
        """Undo ``add``."""
        del self._own[kind]

    def __getitem__(self, kind: str) -> type:
        if kind in self._own:
            return self._own[kind]
        for entry in metadata.entry_points(group=self.group):
            if entry.name == kind:
                return self.add(loaded(entry))
        raise KeyError(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *(entry.name for entry in metadata.entry_points(group=self.group))]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def reader(self) -> PlainValidator:
        """A pydantic validator: a mapping becomes the config of its ``kind``; a config is returned as is."""
        return PlainValidator(self._read)

    def _read(self, value: Any) -> Any:
        """No other kind is imported than the value's own: a package of others that is broken is in nobody's way."""
        kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
        known = self[kind] if isinstance(kind, str) and kind in self else None
        if not isinstance(value, Mapping):
            if known is not type(value):
                raise ValueError(f"it is {type(value).__name__}, not the config of a {self.sort}")
            return value
        if known is None:
            raise ValueError(f"kind is {kind!r}, and there are {', '.join(self)}")
        return TypeAdapter(known).validate_python(dict(value))


def loaded(entry: metadata.EntryPoint) -> Any:
    """What an entry point of another package names; CrossFlowError where that cannot be imported."""
    try:
        return entry.load()
    except Exception as error:  # whatever code of others raises when it is imported
        raise CrossFlowError(
            f"{entry.name!r} of {entry.group} cannot be imported from {entry.value} ({type(error).__name__}: {error}): "
            "mend or remove the package that brings it."
        ) from error


def _kind_of(config: type) -> str:
    """The default of the field ``kind``."""
    return str(config.kind)
