"""The application: the questions under `/api/v1`, and the explorer that asks them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from mmrns import __version__
from mmrns.errors import MmrnsError, UsageError, one_line
from mmrns.runs.run import Run
from mmrns.serve.guard import API, Guard
from mmrns.serve.limits import Limits, Refusal
from mmrns.serve.routes import Reply, router
from mmrns.serve.service import Service

EXPLORER = Path(__file__).with_name("explorer")
ABOUT = """Questions to finished runs: entities, predictions, evidence, neighbours, and the negatives of samplers.

Entities and relations are given by id or by name. A failure is `{"error": {"status", "message", "field"}}`, its message
one line that says what to do. `503` says in `Retry-After` when to ask again."""


def create_app(
    runs: Mapping[str, Run] | Sequence[Run],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The service of some runs, as an ASGI application: `uvicorn` or any other server runs it.

    Args:
        runs: by the name that questions give; of a list the names are those of their folders.
        token: what a client must give as `Authorization: Bearer TOKEN`; None = nothing.
        limits: of the work at a time.
        hosts: names under which the service may be asked, as in a browser's address; None = any.

    Raises:
        UsageError: there is no run.
    """
    named = runs if isinstance(runs, Mapping) else named_runs(runs)
    if not named:
        raise UsageError("there is no run to serve")
    service = Service(named, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await service.workers.quick(service.warm)
        yield
        service.workers.close()

    app = FastAPI(
        title="mmrns",
        version=__version__,
        description=ABOUT,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(MmrnsError, _failed)
    app.add_exception_handler(RequestValidationError, _unfit)
    for status in (400, 404, 405, 413):
        app.add_exception_handler(status, _not_there)
    for path, file in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(path, _page(file), include_in_schema=False)
    app.mount("/explorer", StaticFiles(directory=EXPLORER))
    app.add_middleware(Guard, token=token, hosts=hosts, body=service.limits.body)
    return app


def named_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names of their folders; of several with one name the further ones are numbered.

    >>> named_runs([])
    {}
    """
    found: dict[str, Run] = {}
    for run in runs:
        name = run.title if run.folder is None else _called(run.folder.resolve())
        number = 1
        while (called := name if number == 1 else f"{name}-{number}") in found:
            number += 1
        found[called] = run
    return found


def _called(folder: Path) -> str:
    """The name of a run folder; of one from the Hub, whose folders are named by revision, that of the repository.

    >>> _called(Path("runs/flags"))
    'flags'
    >>> _called(Path("hub/models--someone--flags/snapshots/0a1b"))
    'flags'
    """
    from_hub = folder.parent.name == "snapshots"
    return folder.parents[1].name.rpartition("--")[2] if from_hub else folder.name


def _page(file: str):
    async def page() -> Response:
        return FileResponse(EXPLORER / file, headers={"Cache-Control": "no-cache"})

    return page


def _reply(refusal: Refusal) -> Response:
    return Reply(refusal.body, refusal.status, refusal.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _reply(error)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, MmrnsError)
    service: Service = request.app.state.service
    return _reply(service.served(None).refusal(error))


async def _unfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    said = "is missing" if first["type"] == "missing" else one_line(first["msg"])
    return _reply(Refusal(422, f"{field}: {said}", field))


async def _not_there(request: Request, error: Exception) -> Response:
    # Of Starlette, whose own class FastAPI's extends.
    status, detail, headers = (getattr(error, name) for name in ("status_code", "detail", "headers"))
    said = f"there is nothing at {request.url.path!r}; /docs lists what there is" if status == 404 else detail
    return _reply(Refusal(status, said, headers=dict(headers or {})))
