"""A download that stops anywhere goes on there, and a file is at its place whole and right or not at all."""

import hashlib
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.fetch import fetch
from crossflow_eval.judges.weights import PUBLISHED, EvaluatorWeights

CONTENT = bytes(range(256)) * 9000


class Server(ThreadingHTTPServer):
    """Gives CONTENT, with ranges unless told otherwise; ``cut`` ends each answer after so many bytes."""

    ranges, cut, asked = True, len(CONTENT), ()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked = (*self.server.asked, wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0
        if self.path != "/net.pt":
            return self.send_error(404)
        if start >= len(CONTENT):
            return self.send_error(416)
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_: object):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def weights(server, tmp_path, monkeypatch) -> EvaluatorWeights:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path / "home"))
    url = f"http://127.0.0.1:{server.server_port}/net.pt"
    digest = hashlib.sha256(CONTENT).hexdigest()
    return EvaluatorWeights(metric="FID", file="net.pt", sha256=digest, source="example.org", url=url)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home").glob("*"))


def test_a_file_arrives_and_is_not_fetched_again(weights, server, tmp_path):
    told = []
    path = fetch(weights, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(weights) == path
    assert len(server.asked) == 1
    assert files(tmp_path) == ["net.pt"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_goes_on(weights, server, tmp_path, ranges):
    server.ranges, server.cut = ranges, 1_500_000
    with pytest.raises(CrossFlowError, match="call again to go on"):
        fetch(weights)
    assert files(tmp_path) == ["net.pt.part"]
    server.cut = len(CONTENT)
    assert fetch(weights).read_bytes() == CONTENT
    assert server.asked == (None, "bytes=1500000-")
    assert files(tmp_path) == ["net.pt"]


def test_what_was_whole_when_it_stopped_is_only_checked(weights, server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "net.pt.part").write_bytes(CONTENT)
    assert fetch(weights).read_bytes() == CONTENT


def test_another_file_is_not_kept(weights, tmp_path):
    with pytest.raises(CrossFlowError, match=r"has sha256 .*, expected 0000"):
        fetch(replace(weights, sha256="0" * 64))
    assert files(tmp_path) == []


def test_a_file_that_differs_is_never_overwritten(weights, server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "net.pt").write_bytes(b"mine")
    with pytest.raises(CrossFlowError, match="has sha256"):
        fetch(weights)
    assert (tmp_path / "home" / "net.pt").read_bytes() == b"mine"
    assert server.asked == ()


def test_no_server_no_page_and_no_address(weights, server):
    with pytest.raises(CrossFlowError, match="answers 404"):
        fetch(replace(weights, url=weights.url + "x"))
    with pytest.raises(CrossFlowError, match=r"Cannot fetch http.*refused.*put the file at"):
        fetch(replace(weights, url="http://127.0.0.1:9/net.pt"))
    with pytest.raises(CrossFlowError, match="has no address of its own"):
        fetch(replace(weights, url=""))


def test_a_folder_that_cannot_be(weights, tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(CrossFlowError, match="Cannot write"):
        fetch(weights)


def test_the_published_files_are_known_well_enough_to_fetch():
    for each in PUBLISHED:
        assert each.url.startswith("https://")
        assert unquote(urlsplit(each.url).path).endswith(f"/{each.file}")
        assert re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", each.sha256)
        assert each.licence
    assert len({each.file for each in PUBLISHED}) == len(PUBLISHED)
