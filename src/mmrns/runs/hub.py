"""Runs on the Hugging Face Hub: where one is that is called `hf://owner/name`, and how one gets there."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from mmrns.errors import DataError, MmrnsError, UsageError

_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>\S+))?")
"""Also with one slash: that is what is left where an address was taken for a path."""
_REASON = 160
"""Characters of a server's reason that are told."""


def located(run: str | Path) -> Path:
    """The folder of a run: itself, or for `hf://owner/name[@revision]` that in the cache, downloaded where need be.

    The server is that of `HF_ENDPOINT`, the cache that of `HF_HOME`; without a network what is in the cache is taken.

    Raises:
        UsageError: no such address, or `huggingface_hub` is not installed.
        DataError: there is no such repository or revision, or neither the server nor a copy is at hand.
    """
    if not str(run).startswith("hf:/"):
        return Path(run)
    found = _ADDRESS.fullmatch(str(run))
    if found is None:
        raise UsageError(f"{run} is no address of a run; write hf://owner/name or hf://owner/name@revision")
    hub = _hub()
    with _told(f"hf://{found['name']}"):
        return Path(hub.snapshot_download(found["name"], revision=found["revision"]))


def upload(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Make a folder's files those of a repository, in one commit; the repository is made where there is none.

    Args:
        folder: whose files to send.
        name: of the repository, `owner/name`.
        private: whether one that is made is seen by its owner only.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UsageError: `huggingface_hub` is not installed.
        DataError: the server refuses, or cannot be reached.
    """
    hub = _hub()
    api = hub.HfApi(library_name="mmrns")
    with _told(name):
        url = api.create_repo(name, private=private, exist_ok=True)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        gone = {*api.list_repo_files(name)} - files.keys() - {".gitattributes"}
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
        deletes = [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(gone)]
        with warnings.catch_warnings():
            # What these libraries have to say of themselves is not the user's concern.
            warnings.simplefilter("ignore")
            api.create_commit(name, [*adds, *deletes], commit_message=message)
    return str(url)


def check_name(name: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UsageError: it is not `owner/name`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UsageError(f"{name!r} is no name of a repository; write owner/name, as in someone/countries-transe")


def check_login() -> None:
    """Find out before long work whether anybody is logged in.

    Raises:
        UsageError: nobody is, or `huggingface_hub` is not installed.
    """
    if _hub().get_token() is None:
        raise UsageError("push needs a login: run `hf auth login`, or set HF_TOKEN to a token that may write")


def _hub() -> Any:
    """The library, loaded late.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError("the Hub needs huggingface_hub; pip install 'mmrns[hub]'") from error
    return huggingface_hub


@contextmanager
def _told(what: str) -> Generator[None]:
    """Whatever the Hub's library raises becomes one line about a repository; its bars are for terminals."""
    from huggingface_hub import errors, utils

    quiet = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    login = "check the name, and that you may see it (`hf auth login`, HF_TOKEN)"
    try:
        yield
    except MmrnsError:
        raise
    except errors.RevisionNotFoundError as error:
        raise DataError(what, "has no such revision", "leave it out, or give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(what, "is no repository of the Hub", login) from error
    except errors.HFValidationError as error:
        raise UsageError(f"{what} is no name of a repository: {error}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise DataError(what, f"is refused (HTTP {status})", f"{login}, and that the token may write") from error
        raise DataError(what, f"the Hub answers with an error ({_reason(error)})", "try again later") from error
    except Exception as error:  # What connects raises errors of libraries of its own, which change.
        remedy = "check the network and HF_ENDPOINT, and whether HF_HUB_OFFLINE is set"
        raise DataError(what, f"the exchange with the Hub failed ({_reason(error)})", remedy) from error
    finally:
        if quiet:
            utils.enable_progress_bars()


def _reason(error: BaseException) -> str:
    # Of a file among several the library tells which, and only its cause tells why.
    error = error.__cause__ or error
    return shorten(str(error).strip() or type(error).__name__, _REASON, placeholder=" ...")
