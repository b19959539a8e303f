"""Named things: bases, models, data sets. One registry class, one way to report an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not there: the value, the nearest known name, and all known names."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."


E = TypeVar("E")


class Registry(Generic[T]):
    """A mapping from names to registered objects that suggests the nearest name when one is missing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters an object under `name`. Raises ValueError when the name is taken."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered; choose another name")
            self._entries[name] = entry
            return entry

        return enter

    def adding(self, name: str, *, as_name: bool = False) -> Callable[[E], E]:
        """As `register`, for decorators that others use: the decorated object keeps its own type.

        Args:
            name: of the entry.
            as_name: give the entry, a class, its name as the attribute `name`.
        """

        def enter(entry: E) -> E:
            added: Any = entry
            self.register(name)(added)
            if as_name:
                added.name = name
            return entry

        return enter

    def unregister(self, name: str) -> None:
        """Remove `name`; meant for tests and notebooks that register the same name again."""
        self[name]
        del self._entries[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise ValueError(unknown_name(self.kind, name, self._entries)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
