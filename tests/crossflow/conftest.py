"""What the tests of the models share: one cache of embeddings for a whole run, away from the user's own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Set for this process and the ones it starts."""
    folder = tmp_path_factory.mktemp("embeddings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFLOW_CACHE", str(folder))
        yield folder
