"""Every test run: Hypothesis draws the same examples each time, and nothing beyond this machine is reached."""

import socket

import pytest
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave the machine, unless the test is marked ``network``."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"A default test tried to reach {host}; mark it network, or do without.")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    if "network" not in request.keywords:
        monkeypatch.setattr(socket.socket, "connect", local_connect)
