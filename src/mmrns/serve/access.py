"""Who may ask: the token, and which addresses are of this machine alone. This module loads nothing heavy."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from mmrns.errors import DataError, UsageError

TOKEN = "MMRNS_TOKEN"
"""The environment variable that may hold the token."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine that need no token."""
SHORTEST = 16
"""Characters of a token at least: it can be guessed as often as one likes."""


def read_token(file: Path | None) -> str | None:
    """The token of a file, else of `$MMRNS_TOKEN`; None where there is neither.

    Raises:
        DataError: the file cannot be read.
        UsageError: it is too short, or cannot stand in a header.
    """
    if file is not None:
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise DataError(file, f"cannot be read ({reason})", "put the token there, one line") from error
    elif TOKEN in os.environ:
        text, where = os.environ[TOKEN], f"${TOKEN}"
    else:
        return None
    token = text.strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        remedy = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        raise UsageError(f"{where}: a token is one line of at least {SHORTEST} letters, digits and signs; {remedy}")
    return token


def is_local(host: str) -> bool:
    """Whether a host is this machine, as seen from itself alone.

    >>> is_local("127.0.0.1"), is_local("::1"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
