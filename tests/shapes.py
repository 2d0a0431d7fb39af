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
from typing import Any, NamedTuple, get_args, get_type_hints

import jaxtyping
import torch
from beartype import beartype
from jaxtyping._array_types import _anonymous_dim, _anonymous_variadic_dim, _any_dtype, _FixedDim, _NamedDim
from jaxtyping._storage import get_shape_memo
from torch import Tensor
from torch.nn import Parameter

# A second time this module is imported where its doctests are looked for.
_jaxtyped = getattr(jaxtyping.jaxtyped, "replaced", jaxtyping.jaxtyped)
same_axes = _jaxtyped("context")
"""Inside, axes of the same name have the same size. It keeps nothing itself: calls may nest."""


def enforce(package: str) -> None:
    """Check the arguments and results of every function of a package that is imported from now on."""
    # The hook writes this name over each function and class.
    checked.replaced = _jaxtyped
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(package, "beartype.beartype")
    quicken()


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
        with same_axes:
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


def quicken() -> None:
    """Answer whether a tensor fits an annotation without what jaxtyping prepares for a message.

    It copies all axes and spells the dtype for each argument, which took a tenth of the time of all tests. The answers
    are its own; what is refused here is asked of it again for the message.
    """
    kind: Any = type(jaxtyping.AbstractArray)
    asked = getattr(kind.__instancecheck__, "replaced", kind.__instancecheck__)
    plans: dict[Any, _Plan | None] = {}

    def fits(array: Any, given: Any) -> bool:
        if array not in plans:
            plans[array] = _plan(array)
        plan = plans[array]
        if plan is None or type(given) not in (Tensor, Parameter):
            return asked(array, given)
        dtypes, axes, place, name = plan
        shape, several, memo = given.shape, (), get_shape_memo()
        if given.dtype not in dtypes:
            return False
        if place is not None:
            # What stands for any number of axes, between the others.
            end = len(shape) - len(axes) + place
            if end < place:
                return False
            several, shape = shape[place:end], (*shape[:place], *shape[end:])
            if name is not None:
                broadcastable, known = memo[1].get(name, (False, several))
                if broadcastable:
                    return asked(array, given)
                if known != several:
                    return False
        elif len(shape) != len(axes):
            return False
        sizes, new = memo[0], list[str]()
        for axis, size in zip(axes, shape, strict=True):
            if axis is None or size == (axis if isinstance(axis, int) else sizes.get(axis)):
                continue
            if isinstance(axis, int) or axis in sizes:
                for known_now in new:
                    del sizes[known_now]
                return False
            sizes[axis] = size
            new.append(axis)
        if name is not None:
            memo[1][name] = False, several
        return True

    fits.replaced = asked
    kind.__instancecheck__ = fits


class _Plan(NamedTuple):
    """What a tensor has to have.

    Attributes:
        dtypes: one of these.
        axes: names, sizes or None for any.
        place: where among them any number of further axes stands; None for nowhere.
        name: of these; None where they may be whatever they are.
    """

    dtypes: frozenset[torch.dtype]
    axes: tuple[str | int | None, ...]
    place: int | None
    name: str | None


def _plan(array: Any) -> _Plan | None:
    """What a tensor has to have; None where there is more to it."""
    if array.array_type is not Tensor:
        return None
    if array.dtypes is not _any_dtype and not all(isinstance(dtype, str) for dtype in array.dtypes):
        return None
    axes: list[str | int | None] = []
    place, name = array.index_variadic, None
    if place is not None and (several := array.dims[place]) is not _anonymous_variadic_dim:
        if several.broadcastable or several.treepath:
            return None
        name = several.name
    for number, axis in enumerate(array.dims):
        if number == place:
            continue
        if axis is _anonymous_dim:
            axes.append(None)
        elif type(axis) is _FixedDim and not axis.broadcastable:
            axes.append(axis.size)
        elif type(axis) is _NamedDim and not axis.broadcastable and not axis.treepath:
            axes.append(axis.name)
        else:
            return None
    every = [dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)]
    named = [dtype for dtype in every if array.dtypes is _any_dtype or str(dtype).rsplit(".", 1)[-1] in array.dtypes]
    return _Plan(frozenset(named), tuple(axes), place, name)


def has_arrays(hint: Any) -> bool:
    """Whether an annotation has an array with axes anywhere in it."""
    return any(isinstance(part, type) and issubclass(part, jaxtyping.AbstractArray) for part in _parts(hint))


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)
