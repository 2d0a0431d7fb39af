"""`mmrns serve`: finished runs answer over HTTP, and in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmrns.cli.app import app
from mmrns.cli.options import RunDatasetOption, RunDeviceOption
from mmrns.cli.show import bar, say
from mmrns.errors import UsageError


@app.command(epilog="Example: mmrns serve runs/countries-TransE-mmrns-s0, then open http://127.0.0.1:8765")
def serve(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or hf://OWNER/NAME of the Hugging Face Hub.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that clients must give [default: $MMRNS_TOKEN, else none]."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let anybody ask who reaches the address, whatever it is.")
    ] = False,
    threads: Annotated[int, typer.Option(min=2, help="Calculations at a time.")] = 2,
    queue: Annotated[int, typer.Option(min=0, help="Questions that may wait; further ones get 503.")] = 128,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Until a question gets 504.")] = 30.0,
    dataset: RunDatasetOption = None,
    device: RunDeviceOption = None,
) -> None:
    """Serve runs: a JSON API with its reference at /docs, and the explorer at /, which needs no network.

    Answers hold names, numbers and pictures of the dataset, and no path of this machine. Ctrl+C or SIGTERM ends the
    service when what is being answered is answered.
    """
    from mmrns.serve.access import LOCAL, TOKEN, is_local, read_token

    if no_token and token_file is not None:
        raise UsageError("give either --token-file or --no-token")
    token = None if no_token else read_token(token_file)
    if token is None and not no_token and not is_local(host):
        remedy = f"give a token by --token-file FILE or ${TOKEN}, or --no-token if anybody may ask"
        raise UsageError(f"--host {host} is open to other machines; {remedy}")
    try:
        from mmrns.serve.app import create_app, named_runs
        from mmrns.serve.process import address_of, listen, run_until_stopped
    except ImportError as error:
        if (error.name or "").startswith("mmrns"):
            raise
        raise UsageError(
            f"{error.name} is not installed; serving needs the extra: pip install 'mmrns[serve]'"
        ) from error
    from mmrns.runs.run import load_run
    from mmrns.serve.limits import Limits

    with listen(host, port) as sock:
        opened = []
        with bar("opening runs", len(runs)) as advance:
            for run in runs:
                opened.append(load_run(run, dataset=dataset, device=None if device is None else device.value))
                advance(1)
        named = named_runs(opened)
        limits = Limits(threads=threads, queue=queue, seconds=timeout)
        # Without a token any page in a browser here could ask under a name of its own.
        hosts = None if token is not None or no_token else {*LOCAL, host}
        application = create_app(named, token=token, limits=limits, hosts=hosts)
        with_token = " with the token" if token is not None else ""
        told = f"{', '.join(named)} at {address_of(sock)}{with_token}; Ctrl+C ends it"
        run_until_stopped(application, sock, timeout, lambda: say(f"serving {told}"))
    say("ended")
