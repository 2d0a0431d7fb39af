"""Shapes are checked while the tests run: every annotation of the package is enforced."""

from pathlib import Path

import jaxtyping
import pytest

jaxtyping.install_import_hook("mmrns", "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real datasets and recorded steps beside the repository; tests that need it skip without."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name}/ beside the repository")
    return folder
