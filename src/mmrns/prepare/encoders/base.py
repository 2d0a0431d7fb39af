"""`Encoder`: what turns the inputs of an entity into tokens; and how one is found by its name or a model's."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mmrns.errors import UsageError
from mmrns.prepare.encoders.files import Block
from mmrns.registry import Named, Registry

ENCODERS: Registry[Encoder] = Registry("encoder", "mmrns.prepare.encoders")

Inputs = Sequence[Sequence[Any]]
"""The inputs of each entity: strings, pictures (`PIL.Image.Image`, RGB), or pairs of an attribute and a number."""


class Encoder(Named, ABC):
    """Turns the inputs of entities into tokens: L vectors of width D for each entity, and a mask of those present.

    Args:
        batch_size: how many inputs to encode at a time.
        device: where a model runs.

    Attributes:
        reads: which inputs `encode` is given: sentences (`texts`), `pictures`, or `numbers`.
        revision: to be changed with what the encoder computes, so that files that it made before are made anew.
    """

    registry = ENCODERS
    reads: ClassVar[Literal["texts", "pictures", "numbers"]]
    revision: str = "1"

    def __init__(self, *, batch_size: int = 32, device: str | None = "cpu"):
        self.batch_size, self.device = batch_size, device

    @abstractmethod
    def encode(self, inputs: Inputs, tokens: int) -> Block:
        """The tokens of some entities.

        Args:
            inputs: the inputs of each of n entities, of which none is without. Texts come a sentence each, the most
                telling first. Of numbers all entities come in one call, of texts and pictures a part of them.
            tokens: the most tokens that an entity may have.

        Returns:
            values [n, L, D] with L <= `tokens`, the same L and D in every call; mask [n, L], True where a token is
            present. The order of an entity's inputs should be that of its tokens.
        """

    def settings(self, tokens: int) -> dict[str, str]:
        """What decides about the tokens, for the metadata of the file; another value has everything encoded anew."""
        return {
            "encoder": ENCODERS.name_of(type(self)),
            "revision": self.revision,
            "pooling": f"at most {tokens} tokens an entity",
        }


def open_encoder(
    given: str | type[Encoder] | Encoder, reads: str, default: type[Encoder] | None = None, **options: Any
) -> Encoder:
    """An encoder by name, `package.module:Class`, class, or the name or folder of a model that `default` loads.

    Args:
        given: which encoder; one that is made already is taken as it is.
        reads: what it must read.
        default: the class for a name that is no encoder's, which then is a model's.
        options: keywords of the constructor; those that it does not take are left out.

    Raises:
        UsageError: no such encoder or model, or one that reads something else.
    """
    found, arguments = given, ()
    if isinstance(found, str):
        path = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", found) and not Path(found).exists()
        if default is None or path or found in ENCODERS.names():
            found = ENCODERS.get(found)
        else:
            found, arguments = default, (found,)
    name = given if isinstance(given, str) else ENCODERS.name_of(found if isinstance(found, type) else type(found))
    if found.reads != reads:
        raise UsageError(f"the encoder {name!r} reads {found.reads}, not {reads}; choose another")
    if isinstance(found, Encoder):
        return found
    parameters = inspect.signature(found).parameters
    if not arguments and "model" in parameters and parameters["model"].default is inspect.Parameter.empty:
        raise UsageError(f"the encoder {name!r} needs a model; give the model's name or folder in place of {name!r}")
    every = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    made: Any = found
    return made(*arguments, **{key: value for key, value in options.items() if every or key in parameters})


def checked(encoder: Encoder, tokens: int) -> Callable[[Inputs], Block]:
    """`encode` of an encoder that may come from outside: what does not fit is refused, absent tokens are zeros.

    Raises (by the function):
        UsageError: values or mask of another shape, or values that are not finite in half precision.
    """
    name = ENCODERS.name_of(type(encoder))
    first: tuple[int, ...] | None = None

    def encode(inputs: Inputs) -> Block:
        nonlocal first
        answer = encoder.encode(inputs, tokens)
        values, mask = np.asarray(answer[0]), np.asarray(answer[1])
        usual = values.ndim == 3 and values.dtype.kind in "fiu" and mask.dtype == np.bool_
        fits = usual and len(values) == len(inputs) and values.shape[1] <= tokens and mask.shape == values.shape[:2]
        if not fits or (first is not None and values.shape[1:] != first):
            found = f"values {values.dtype} {list(values.shape)} and mask {mask.dtype} {list(mask.shape)}"
            wanted = f"[{len(inputs)}, L <= {tokens}, D] and booleans [{len(inputs)}, L], with one L and D in all calls"
            raise UsageError(f"the encoder {name} answers {found} where {wanted} are expected")
        first = values.shape[1:]
        with np.errstate(over="ignore"):
            half = np.where(mask[..., None], values, 0).astype(np.float16)
        if not np.isfinite(half).all():
            raise UsageError(f"the encoder {name} answers a value that half precision cannot hold; scale its values")
        return half, mask.astype(np.bool_)

    return encode


def settings_of(encoder: Encoder, tokens: int, prepared: str = "") -> dict[str, str]:
    """The encoder's settings; `prepared` says what was done with the inputs before they came to it."""
    found = {key: str(value) for key, value in encoder.settings(tokens).items()}
    steps = [step for step in (prepared, found.get("preprocessing", "")) if step]
    return {**found, "preprocessing": "; ".join(steps) or "none"}
