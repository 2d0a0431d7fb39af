"""The questions of the service, one function each."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response

from mmrns import __version__
from mmrns.runs.queries import Known
from mmrns.serve import answers
from mmrns.serve.guard import API
from mmrns.serve.limits import NAME, QUERIES, STEPS, TOP, TRIPLES, Refusal
from mmrns.serve.served import ServedRun
from mmrns.serve.service import Service

FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": answers.Failed, "description": "The question is not fit."},
    "5XX": {"model": answers.Failed, "description": "The service is not fit, or has too much to do."},
}
router = APIRouter(prefix=API, responses=FAILURES)

Side = Literal["head", "tail"]


class Reply(Response):
    """JSON as it is: what is computed here needs no checks on its way out."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See `Response`."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def service_of(request: Request) -> Service:
    """The service that is asked."""
    return request.app.state.service


Asked = Annotated[Service, Depends(service_of)]
RunName = Annotated[str | None, Query(max_length=NAME, description="Which run; the first one by default.")]


def run_of(service: Asked, run: RunName = None) -> ServedRun:
    """The run that is asked."""
    return service.served(run)


Of = Annotated[ServedRun, Depends(run_of)]
Entity = Annotated[str, Query(min_length=1, max_length=NAME, description="Its id, or its name.")]
Relation = Annotated[str, Query(min_length=1, max_length=NAME, description="Its id, or its name.")]
Part = Annotated[str | None, Query(max_length=NAME, description="Leave out what is asked for.")]
Top = Annotated[int, Query(ge=1, le=TOP, description="How many.")]
KnownQuery = Annotated[Known, Query(description="Known triples: flag them, drop them, or keep them unmarked.")]
Replaced = Annotated[Side, Query(description="Which end is replaced.")]


@router.get("/health", response_model=answers.Health, tags=["runs"])
async def health(service: Asked) -> Response:
    """Whether the service answers; needs no token."""
    return Reply({"status": "ok", "version": __version__, "runs": len(service.runs)})


@router.get("/runs", response_model=answers.Runs, tags=["runs"])
async def runs(service: Asked) -> Response:
    """The runs that are served."""
    return Reply({"runs": [served.head for served in service.runs.values()]})


@router.get("/runs/{run}", response_model=answers.RunFacts, tags=["runs"])
async def run_facts(service: Asked, run: str) -> Response:
    """A run: its configuration, metrics and history, and its dataset."""
    return Reply(service.served(run).facts)


@router.get("/relations", response_model=answers.Relations, tags=["graph"])
async def relations(served: Of) -> Response:
    """The relations of a run's graph, the most frequent first."""
    return Reply({"relations": served.relations})


@router.get("/entities", response_model=answers.Search, tags=["graph"])
async def entities(
    service: Asked,
    served: Of,
    q: Annotated[str, Query(max_length=NAME, description="Part of a name, an id or a description; may be misspelt.")],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """Search entities by what they are called or described as."""
    found = await service.quick(served, lambda: served.found(q, limit))
    return Reply({"query": q, "entities": found})


@router.get("/entity", response_model=answers.EntityPage, tags=["graph"])
async def entity(service: Asked, served: Of, entity: Entity) -> Response:
    """An entity: description, numbers, pictures, and its known triples by relation."""
    place = served.entity(entity, "entity")
    return Reply(await service.quick(served, lambda: served.page(place)))


@router.get("/picture", response_class=Response, tags=["graph"])
async def picture(
    service: Asked,
    served: Of,
    request: Request,
    entity: Entity,
    number: Annotated[int, Query(ge=0, le=10_000, description="Which of its pictures, from 0.")] = 0,
    size: Annotated[Literal["small", "large"], Query(description="At most 192 or 512 pixels wide and high.")] = "small",
) -> Response:
    """A picture of an entity, made small: PNG, JPEG, GIF or WebP."""
    place = served.entity(entity, "entity")
    found = await service.quick(served, lambda: served.picture(place, number, size))
    if found is None:
        raise Refusal(404, f"{entity!r} has no picture {number} that can be read", "number")
    # A dataset that is served does not change; its pictures are asked for again and again.
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(found.data, media_type=found.type, headers=headers)


@router.get("/predict", response_model=answers.Predictions, tags=["model"])
async def predict(
    service: Asked,
    served: Of,
    head: Part = None,
    relation: Part = None,
    tail: Part = None,
    top: Top = 10,
    known: KnownQuery = "flag",
) -> Response:
    """The best answers for the part of a triple that is left out."""
    query = answers.Query(head=head, relation=relation, tail=tail)
    return Reply(await service.predict(served, query, top, known))


@router.post("/predict", response_model=answers.ManyPredictions, tags=["model"])
async def predict_many(
    service: Asked,
    queries: Annotated[list[answers.Query], Body(min_length=1, max_length=QUERIES)],
    run: Annotated[str | None, Body(max_length=NAME)] = None,
    top: Annotated[int, Body(ge=1, le=TOP)] = 10,
    known: Annotated[Known, Body()] = "flag",
) -> Response:
    """The best answers of many queries."""
    if len(queries) * top > QUERIES * 50:
        raise Refusal(
            422, f"{len(queries)} queries of {top} answers are too many; {QUERIES * 50:,} answers a call", "top"
        )
    return Reply(await service.predict_many(service.served(run), queries, top, known))


@router.post("/score", response_model=answers.Scores, tags=["model"])
async def score(
    service: Asked,
    triples: Annotated[list[answers.Triple], Body(min_length=1, max_length=TRIPLES)],
    run: Annotated[str | None, Body(max_length=NAME)] = None,
) -> Response:
    """The scores of triples, true or not; larger is more plausible, and comparable within a run only."""
    return Reply(await service.score(service.served(run), triples))


@router.get("/explain", response_model=answers.Explained, tags=["model"])
async def explain(
    service: Asked,
    served: Of,
    head: Entity,
    relation: Relation,
    tail: Entity,
    side: Replaced = "tail",
    top: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    """What speaks for a triple: triples of train, the parts of the score, paths, and what its removal would hurt."""
    triple = answers.Triple(head=head, relation=relation, tail=tail)
    return Reply(await service.explain(served, triple, side, top))


@router.get("/neighbours", response_model=answers.Neighbours, tags=["model"])
async def neighbours(
    service: Asked,
    served: Of,
    entity: Entity,
    by: Annotated[str | None, Query(max_length=NAME, description="`structure`, or a modality.")] = None,
    top: Top = 10,
) -> Response:
    """The entities that are most similar to one."""
    return Reply(await service.neighbours(served, entity, by, top))


@router.get("/inspect", response_model=answers.Inspected, tags=["model"])
async def inspect(
    service: Asked,
    served: Of,
    head: Entity,
    relation: Relation,
    tail: Entity,
    against: Annotated[
        list[str] | None, Query(max_length=3, description="Further relations, for triples beside it.")
    ] = None,
    side: Replaced = "tail",
    steps: Annotated[int, Query(ge=1, le=STEPS, description="How often to draw.")] = 8,
    top: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    """The negatives that the run's sampler draws for a triple, and how it looks at the true entity."""
    triple = answers.Triple(head=head, relation=relation, tail=tail)
    return Reply(await service.inspect(served, triple, against or (), side, steps, top))


@router.get("/compare", response_model=answers.Compared, tags=["model"])
async def compare(
    service: Asked,
    run: Annotated[list[str], Query(min_length=2, max_length=2, description="Two runs.")],
    relation: Relation,
    head: Part = None,
    tail: Part = None,
    top: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    """The answers of two runs to one question, side by side."""
    first, second = (service.served(name) for name in run)
    query = answers.Query(head=head, relation=relation, tail=tail)
    return Reply(await service.compare((first, second), query, top))
