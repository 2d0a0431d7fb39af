"""Every annotation of the package is enforced while the tests run: types by beartype, shapes by jaxtyping.

`jaxtyping.jaxtyped` checks the arguments of a call twice and binds them to the signature besides, so that it can say
more when a check fails. That took half of the time of many tests. Here every argument and every result is checked
once, and only functions with arrays have axes to agree on.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype

# A second time this module is imported where its doctests are looked for.
_jaxtyped = getattr(jaxtyping.jaxtyped, "replaced", jaxtyping.jaxtyped)
_same_axes = _jaxtyped("context")
"""Inside, axes of the same name have the same size. It keeps nothing itself: calls may nest."""


def enforce(package: str) -> None:
    """Check the arguments and results of every function of a package that is imported from now on."""
    # The hook writes this name over each function and class.
    checked.replaced = _jaxtyped
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def checked(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """What decorates functions and dataclasses in the place of `jaxtyping.jaxtyped`."""

    def decorate(given: Any) -> Any:
        if isinstance(given, type):
            # One that a dataclass wrote itself, or inherits, was decorated before.
            if is_dataclass(given) and not hasattr(given.__init__, "__wrapped__"):
                given.__init__ = decorate(given.__init__)
            return given
        if isinstance(given, classmethod | staticmethod):
            return type(given)(decorate(given.__func__))
        if isinstance(given, types.FunctionType) and not _runs_later(given):
            return _checked_once(given)
        return _jaxtyped(given, typechecker=typechecker)

    return decorate


def _runs_later(function: Callable[..., Any]) -> bool:
    """Whether a call returns before the body runs: its axes would be gone."""
    kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return any(kind(function) for kind in kinds)


def _checked_once(function: types.FunctionType) -> Callable[..., Any]:
    hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    inner = beartype(_twin(function, hints))
    if not any(has_arrays(hint) for hint in hints.values()):
        return functools.wraps(function)(inner)

    @functools.wraps(function)
    def with_axes(*args: Any, **kwargs: Any) -> Any:
        with _same_axes:
            return inner(*args, **kwargs)

    return with_axes


def _twin(function: types.FunctionType, hints: dict[str, Any]) -> types.FunctionType:
    """The same function with other annotations: its own stay as they are written."""
    what = function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    twin = types.FunctionType(*what)
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, hints
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    return twin


def _resolved(hint: Any, function: types.FunctionType) -> Any:
    """An annotation as what it means where the function is defined; a name that is not there yet allows anything."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:
        return Any


def has_arrays(hint: Any) -> bool:
    """Whether an annotation has an array with axes anywhere in it."""
    return any(isinstance(part, type) and issubclass(part, jaxtyping.AbstractArray) for part in _parts(hint))


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)
