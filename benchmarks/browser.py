"""A headless Chromium through its WebDriver, as little of W3C's protocol as pages need to be looked at and tested."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Browser:
    """One session; ``driver`` is the address of chromedriver."""

    def __init__(self, driver: str) -> None:
        self._root = driver
        options = {"binary": BROWSER, "args": ARGUMENTS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._root = f"{driver}/session/{session['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path | str, tab: str = "") -> None:
        """Open a file or an address anew, at one of the page's tabs."""
        self._ask("POST", "/url", {"url": "about:blank"})
        address = page.absolute().as_uri() if isinstance(page, Path) else page
        self._ask("POST", "/url", {"url": f"{address}#{tab}" if tab else address})

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: of the ``browser``'s console, or of its ``performance``."""
        return self._ask("POST", "/se/log", {"type": kind})

    def screen(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """Show pages on a screen of so many CSS pixels; below 600 it is a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def plain(self) -> None:
        """Undo ``screen``."""
        self.command("Emulation.clearDeviceMetricsOverride")
        self.command("Emulation.setEmulatedMedia", media="", features=[])

    def picture(self) -> bytes:
        """The PNG bytes of what is on the screen."""
        return base64.b64decode(self.command("Page.captureScreenshot")["data"])

    def sheets(self) -> bytes:
        """The page as a PDF on A4."""
        return base64.b64decode(self.command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

    def close(self) -> None:
        """End the session."""
        self._ask("DELETE", "")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, and the driver that it needs, until the block ends."""
    if not (BROWSER and DRIVER):
        raise SystemExit("No chromium and chromedriver here (Debian: apt install chromium chromium-driver).")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        session = Browser(f"http://127.0.0.1:{port}")
        try:
            yield session
        finally:
            session.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)
