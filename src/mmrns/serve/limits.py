"""What one client may ask of the service, and what it is told where that is too much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAME = 2_000
"""Characters of a name of an entity or a relation in a question."""
QUERIES = 256
"""Queries of one call."""
TRIPLES = 1_000
"""Triples that are scored in one call."""
TOP = 200
"""Answers to a query."""
STEPS = 50
"""Draws of a sampler."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the work that is done at a time.

    Attributes:
        threads: calculations at a time, at least 2: one is kept for quick questions while others draw negatives.
        queue: questions that may wait for a thread; further ones are turned away (503).
        seconds: until a question is given up (504).
        body: bytes of a question.
    """

    threads: int = 2
    queue: int = 128
    seconds: float = 30.0
    body: int = 2**18


class Refusal(Exception):
    """A question that is not answered.

    Args:
        status: of HTTP.
        message: one line that says what is wrong and what to do.
        field: the part of the question that is at fault, where there is one.
        headers: of the answer.
        more: further keys of the answer.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ):
        super().__init__(message)
        self.status, self.message, self.field, self.headers, self.more = status, message, field, headers, more

    @property
    def body(self) -> dict[str, Any]:
        """The answer."""
        return {"error": {"status": self.status, "message": self.message, "field": self.field, **self.more}}
