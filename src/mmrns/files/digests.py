"""What tells one content of a file from another."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Number, size and time of the last change of a file: what differs once it is another one or was written to.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spot_sha256_of(path: Path) -> str:
    """The SHA-256 digest of 64 blocks of 64 KiB, evenly spaced over a file from its first to its last byte.

    It tells another file of the same size, such as features encoded anew, in the time that 4 MiB take.
    """
    block, spots = 2**16, 64
    digest = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, os.fstat(file.fileno()).st_size - block)
        for i in range(spots):
            file.seek(last * i // (spots - 1))
            digest.update(file.read(block))
    return digest.hexdigest()
