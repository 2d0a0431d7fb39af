"""Methods: a sampler and what it is trained with, under one name."""

from __future__ import annotations

from dataclasses import dataclass

from mmrns.errors import unknown
from mmrns.samplers.base import Sampler
from mmrns.types import SidePolicy


@dataclass(frozen=True)
class Method:
    """What a method's name stands for.

    Attributes:
        sampler: name of the sampler.
        alpha: inverse temperature of the loss's self-adversarial weights; 0 is the plain mean over the negatives.
        sides: the side policy.
        loss: name of the loss.
        queries: batches hold every distinct query once instead of every triple.
    """

    sampler: str
    alpha: float
    sides: SidePolicy = "alternate"
    loss: str = "self-adversarial"
    queries: bool = False

    @classmethod
    def of(cls, sampler: str) -> Method:
        """A sampler with its own recipe."""
        recipe = Sampler.registry.get(sampler).recipe
        return cls(sampler, recipe.alpha, recipe.sides, recipe.loss, recipe.queries)


_FURTHER = {
    "self-adversarial": Method("uniform", 1.0),
    "bernoulli": Method("uniform", 0.0, "bernoulli"),
    "k-vs-all": Method("1-vs-all", 0.0, loss="k-vs-all", queries=True),
}
"""Methods that are not a sampler with its own recipe."""


def method_names() -> list[str]:
    """All names: every sampler's, each a method with the sampler's own recipe, and a few more."""
    return sorted({*Sampler.registry.names(), *_FURTHER})


def method_of(name: str) -> Method:
    """What a name stands for; a sampler's name, also `package.module:Class`, stands for it with its own recipe.

    Raises:
        UsageError: no such method; the message lists the known ones.
    """
    if name in _FURTHER:
        return _FURTHER[name]
    if name not in Sampler.registry.names() and ":" not in name:
        raise unknown("method", name, method_names())
    return Method.of(name)
