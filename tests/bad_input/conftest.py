"""One try of all selected cases of a module, for each of its tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bad_input.trying import Tried, trying


@pytest.fixture(scope="module")
def tried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tried]:
    """Of the module's ``ALONE``."""
    with trying(request.module.ALONE, request, tmp_path_factory.mktemp("bad_input")) as found:
        yield found
