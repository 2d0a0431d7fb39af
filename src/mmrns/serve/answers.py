"""What the service answers, as its reference tells it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """An answer may have more keys than those named."""

    model_config = ConfigDict(extra="allow")


class Failure(Answer):
    """Why a question is not answered."""

    status: int
    message: str = Field(description="One line: what is wrong, and what to do.")
    field: str | None = Field(None, description="The part of the question at fault.")


class Failed(Answer):
    """Every answer whose status is 400 or more."""

    error: Failure


class Health(Answer):
    """Whether the service answers."""

    status: Literal["ok"]
    version: str
    runs: int


class RunHead(Answer):
    """A run in a line."""

    run: str = Field(description="What to call it in questions.")
    title: str
    scorer: str
    method: str
    dataset: str
    seed: int
    metrics: dict[str, Any] = Field(description="Realistic ones of test, or of valid where nothing was tested.")
    modalities: list[str]
    views: list[str]


class Runs(Answer):
    """The runs that are served."""

    runs: list[RunHead]


class RunFacts(RunHead):
    """All that is recorded of a run."""

    config: dict[str, Any]
    record: dict[str, Any]
    results: dict[str, Any]
    history: list[dict[str, Any]] = Field(description="What was recorded during the training, a row a step.")
    about: dict[str, Any] = Field(description="Counts, features and notes of the dataset.")


class Named(Answer):
    """An entity: its id and its readable name."""

    entity: str
    name: str | None


class Summary(Named):
    """An entity in a line."""

    description: str | None
    pictures: int = Field(description="How many there are; ask `picture` for number 0, 1, ...")
    triples: int = Field(description="Of train.")


class Found(Summary):
    """An entity that a search found."""

    match: Literal["exact", "begins", "word begins", "contains", "description", "alike"]


class Search(Answer):
    """What a search found, the closest first."""

    query: str
    entities: list[Found]


class Other(Named):
    """The other end of a triple."""

    split: Literal["train", "valid", "test"]


class Facts(Answer):
    """The known triples of an entity with one relation; `side` is where the other entities are."""

    relation: str
    name: str | None
    side: Literal["head", "tail"]
    total: int
    entities: list[Other] = Field(description="The first 50.")


class Number(Answer):
    """A row of `numbers.tsv`."""

    attribute: str
    value: float


class EntityPage(Summary):
    """All that the dataset knows of an entity."""

    seen: bool
    modalities: dict[str, bool]
    texts: dict[str, list[str]]
    numbers: list[Number]
    facts: list[Facts]
    total: int


class Relation(Answer):
    """A relation, and how many triples each split has of it."""

    relation: str
    name: str | None
    triples: dict[str, int]


class Relations(Answer):
    """The relations of a run's graph."""

    relations: list[Relation]


class Prediction(Answer):
    """One answer to a query, as `mmrns predict --json` prints it."""

    head: str
    relation: str
    tail: str
    score: float
    rank: int
    known: bool | None
    seen: bool
    asked: Literal["head", "relation", "tail"]
    head_name: str | None
    relation_name: str | None
    tail_name: str | None
    pictures: int = Field(0, description="Of the entity that answers; not of many queries at once.")


class Predictions(Answer):
    """The answers to one query."""

    run: str
    notes: list[str]
    answers: list[Prediction]


class ManyPredictions(Answer):
    """The answers to many queries, in their order."""

    run: str
    notes: list[str]
    answers: list[list[Prediction]]


class Score(Answer):
    """A triple and its score."""

    head: str
    relation: str
    tail: str
    score: float


class Scores(Answer):
    """The scores of triples, in their order."""

    run: str
    scores: list[Score]


class Neighbour(Named):
    """An entity that is similar to another one."""

    rank: int
    similarity: float
    pictures: int


class Neighbours(Answer):
    """The most similar entities, by one measure."""

    run: str
    by: str
    measures: list[str] = Field(description="What else to ask by.")
    neighbours: list[Neighbour]


class Placed(Named):
    """An answer of two runs: its rank and score in each, null where it is not among the first 1,000 of one."""

    known: bool
    ranks: list[int | None]
    scores: list[float | None]
    pictures: int


class Compared(Answer):
    """The best answers of two runs to one query, side by side."""

    runs: list[str]
    asked: Literal["head", "tail"]
    answers: list[Placed]
    shared: int = Field(description="How many of the first answers of one are among those of the other.")


class Inspected(Answer):
    """The negatives drawn for a triple, with the attention over the true entity; see `mmrns inspect --json`.

    In the place of `attention` each sampler has `maps`: tables of numbers and shades, and pictures with shades of their
    cells.
    """

    queries: list[dict[str, Any]]
    names: dict[str, str]


class Explained(Answer):
    """What speaks for a triple; see `mmrns explain --json`."""

    head: str
    relation: str
    tail: str
    side: Literal["head", "tail"]
    score: float
    rank: int


class Query(BaseModel):
    """A triple of which one part is left out, which is what is asked for."""

    model_config = ConfigDict(extra="forbid")
    head: str | None = Field(None, max_length=2000)
    relation: str | None = Field(None, max_length=2000)
    tail: str | None = Field(None, max_length=2000)


class Triple(BaseModel):
    """A triple, true or not."""

    model_config = ConfigDict(extra="forbid")
    head: str = Field(max_length=2000)
    relation: str = Field(max_length=2000)
    tail: str = Field(max_length=2000)
