"""Compiled kernels are kept on disk from one process to the next, where there is a place for them.

Numba's own cache (https://numba.readthedocs.io/en/stable/developer/caching.html) has one index a function, which lists
the files of its types and processors. Two processes that compile at the same time overwrite each other's index, after
which a file may be read for another type or processor than it was compiled for. Here each kernel, type and processor
has files of its own, so that whoever writes last writes the same.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from mmrns.errors import note


def cached(dispatcher: Any) -> Any:
    """A compiled function that looks for its machine code on disk before it compiles, and puts it there.

    Its `__qualname__` must be its own within its file: what it closes over is not looked at.

    Where Numba finds no folder to write to (`$NUMBA_CACHE_DIR`, the module's, the user's), it is compiled in every
    process, which a note says once.
    """
    # With NUMBA_DISABLE_JIT nothing is compiled.
    if hasattr(dispatcher, "py_func"):
        try:
            dispatcher._cache = _Cache(dispatcher.py_func)
        except (RuntimeError, OSError):
            message = "no folder can be written to keep compiled kernels in, so that every start takes seconds longer"
            note(f"{message}; set NUMBA_CACHE_DIR to one that can")
    return dispatcher


class _Cache(FunctionCache):
    """Files that cannot be read are as good as none, and what cannot be written is not kept."""

    def __init__(self, function: Any):
        super().__init__(function)
        self._stamp = self._impl.locator.get_source_stamp()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # What is damaged or of another making may raise anything.
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):  # The disk is full, or what could not be read could not be removed either.
            super().save_overload(sig, data)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Asked for at the begin of each reading and writing: which files these are.
        key = sig, codegen.magic_tuple()
        name = f"{self._impl.filename_base}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
        self._cache_file = IndexDataCacheFile(self._cache_path, name, self._stamp)
        return key
