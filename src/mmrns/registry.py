"""Names for classes: what stands behind `--scorer TransE`, `sampler.name: hard`, `mmrns encode --image classical`.

Every seam (sampler, scorer, embedder, mixture, loss, ...) has a `Registry` in its own package. A class enters it where
it is defined, by the keyword `name` of its class statement, inside this package or outside of it:

    class Peers(Sampler, name="peers"): ...

or later, by `mmrns.register(Peers, "peers")`. Wherever a name is taken the class itself may stand in its place.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, ClassVar, Generic, TypeVar

from mmrns.errors import UsageError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by name.

    Args:
        kind: what they are, in words, for messages.
        package: where our own are. Its modules are imported when a name is first asked for, and not before.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._classes: dict[str, type[T]] = {}
        self._met: dict[str, type[T]] = {}
        self._found = False

    def names(self) -> list[str]:
        """All names: ours in alphabetical order of their modules, then those from outside as they came."""
        self._discover()
        ours = {name: cls.__module__ for name, cls in self._classes.items() if self._is_ours(cls)}
        return [*sorted(ours, key=lambda name: ours[name]), *(name for name in self._classes if name not in ours)]

    def add(self, name: str, cls: type[T]) -> None:
        """Let a name stand for a class. A class that is defined anew, as in a notebook, replaces its former self.

        Raises:
            UsageError: the name stands for another class.
        """
        # Ours come first, so that nothing from outside can take one of their names.
        if not self._is_ours(cls):
            self._discover()
        held = self._classes.get(name)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(f"the {self.kind} {name!r} is {path_of(held)} already; choose another name")
        self._classes[name] = cls

    def get(self, name: str | type[T]) -> type[T]:
        """The class that a name stands for: a registered name, or `package.module:Class`; a class stands for itself.

        Raises:
            UsageError: no such name; the message lists the known ones.
        """
        if not isinstance(name, str):
            return self._checked(name, name.__name__)
        self._discover()
        if name in self._classes:
            return self._classes[name]
        if name in self._met:
            return self._met[name]
        module, colon, path = name.partition(":")
        if not colon:
            raise unknown(self.kind, name, self._classes)
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"no {self.kind} at {name!r} ({error}); define it there, or mmrns.register it") from error
        return self._checked(found, name)

    def name_of(self, cls: type[T]) -> str:
        """The name of a class: the registered one, or else `package.module:Class`, which is found again by `get`."""
        self._discover()
        for name, held in self._classes.items():
            if held is cls:
                return name
        # Also what no import finds, such as a class that a function defines, is found as long as this process lives.
        self._met[path_of(cls)] = cls
        return path_of(cls)

    def _is_ours(self, cls: type[T]) -> bool:
        return cls.__module__ == self.package or cls.__module__.startswith(f"{self.package}.")

    def _checked(self, found: Any, name: str) -> type[T]:
        if not (inspect.isclass(found) and getattr(found, "registry", None) is self):
            raise UsageError(f"{name} is no {self.kind}: subclass the base class of {self.package}")
        cls: Any = found
        return cls

    def _discover(self) -> None:
        if self._found:
            return
        self._found = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{self.package}."):
            importlib.import_module(module.name)


class Named:
    """Mixed into the base class of a seam: its subclasses enter `registry` by `class Mine(Base, name="mine")`."""

    registry: ClassVar[Registry[Any]]

    def __init_subclass__(cls, *, name: str | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if name is not None:
            cls.registry.add(name, cls)


def register(cls: type[Any], name: str | None = None) -> type[Any]:
    """Let a name stand for a class of your own: a sampler, scorer, embedder, mixture, loss, encoder, ...

    Args:
        cls: a subclass of the base class of one of them.
        name: by default the class's own name.

    Returns:
        The class, so that it serves as a decorator.

    Raises:
        UsageError: a class of another kind, or the name is taken.
    """
    registry: Registry[Any] | None = getattr(cls, "registry", None)
    if not isinstance(registry, Registry):
        raise UsageError(
            f"{cls.__name__} can have no name here: it is no sampler, scorer, embedder, mixture, loss, encoder, "
            "layout, callback, tracker"
        )
    registry.add(name or cls.__name__, cls)
    return cls


def path_of(cls: type[Any]) -> str:
    """`package.module:Class`."""
    return f"{cls.__module__}:{cls.__qualname__}"
