"""The server of ``crossflow-eval view``: reads, never writes, and answers this machine alone.

It listens on 127.0.0.1; a request must name this machine as its host, so that no page of another site can ask through
a name that leads here; and every address begins with a token that is new each time. Runs and outputs are looked up
among those that were found, so that no address leads out of the folder.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from threading import Lock
from urllib.parse import urlencode

import uvicorn
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.report import Entry, tables_of
from crossflow_eval.report.curves import figure, training
from crossflow_eval.report.entry import PLAYED, each_output, kind_of_part
from crossflow_eval.report.grid import Grid
from crossflow_eval.report.page import CURVES, Section, Served, page, plotted, template
from crossflow_eval.report.pictures import media_type
from crossflow_eval.types import Row
from crossflow_eval.view.folder import Folder, newest, readable, training_line

HOST = "127.0.0.1"
MOST = 12
"""The most runs that one page shows."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ORIGINALS = {"png": "image/png", "wav": "audio/wav", "webp": "image/webp", "txt": "text/plain; charset=utf-8"}
"""As what outputs are sent; any other kind is a file to be saved."""
PACKAGE = "crossflow_eval.view"


def serve(root: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve the ``root`` until Ctrl-C, and ``say`` at which address. ``port`` 0 is any that is free.

    CrossFlowError where there is no such folder or the port is taken.
    """
    token = secrets.token_urlsafe(16)
    app = application(root, token)
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise CrossFlowError(f"Port {port} of {HOST} cannot be used ({error}); give another --port.") from error
    with listening, suppress(KeyboardInterrupt):
        say(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listening])


def application(root: Path, token: str) -> Starlette:
    """The pages of ``root`` under ``/<token>/``. CrossFlowError where there is no such folder."""
    viewer = _Viewer(Folder(root))
    places: dict[str, Callable[[Request], Response]] = {
        "": viewer.start,
        "show": viewer.show,
        "state": viewer.state,
        "picture": viewer.picture,
        "original": viewer.original,
    }

    def guarded(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def checked(request: Request) -> Response:
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                raise HTTPException(404)
            response = answer(request)
            response.headers.update(HEADERS)
            return response

        return checked

    return Starlette(
        routes=[Route(f"/{{token}}/{name}", guarded(answer)) for name, answer in places.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )


class _Viewer:
    """What is answered to each kind of request; one at a time, for they share what was read."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = Lock()

    def start(self, request: Request) -> Response:
        """The list of all that is there; the page itself where the root is a run, a model's folder or a training."""
        with self._lock:
            return self._shown(alone) if (alone := self._alone()) else self._list(request.query_params)

    def show(self, request: Request) -> Response:
        """The page of the runs and trainings that the address names."""
        with self._lock:
            return self._shown(request.query_params.getlist("run"))

    def state(self, request: Request) -> Response:
        """Whether anything changed of what a page of the same query shows."""
        names = request.query_params.getlist("run") or self._alone()
        return JSONResponse({"state": self._state(names)})

    def picture(self, request: Request) -> Response:
        """A small picture of an output, of its source or of its target; or what is played of it."""
        with self._lock:
            entry, row = self._row(request)
            part = request.query_params.get("part", "")
            try:
                played = kind_of_part(part) in PLAYED
                content = (entry.played(row) if played else entry.pictures(row)).get(part)
            except CrossFlowError as error:
                raise HTTPException(404, str(error)) from error
        if content is None:
            raise HTTPException(404)
        return Response(content, media_type=media_type(content))

    def original(self, request: Request) -> Response:
        """An output's own file."""
        with self._lock:
            entry, _ = self._row(request)
        name = request.query_params["output"]
        try:
            content = records.output_path(entry.folder or Path(), name).read_bytes()
        except (CrossFlowError, OSError) as error:
            raise HTTPException(404, str(error)) from error
        suffix = name.rpartition(".")[2]
        saved = {} if suffix in ORIGINALS else {"Content-Disposition": "attachment"}
        return Response(content, headers=saved, media_type=ORIGINALS.get(suffix, "application/octet-stream"))

    def _alone(self) -> list[str]:
        """All that is there, where the root itself is a run, a model's folder or a training; else nothing."""
        there = {**self._folder.trainings(), **self._folder.runs()}
        return list(there) if self._folder.root in {*there.values(), *map(records.home_of, there.values())} else []

    def _chosen(self, names: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
        """Those of the runs, and of the trainings, that are named; 404 where one of the names is of neither."""
        runs, trainings = self._folder.runs(), self._folder.trainings()
        if not names or not set(names) <= {*runs, *trainings}:
            raise HTTPException(404, "There is no such run; go back to the list.")
        names = list(dict.fromkeys(names))[:MOST]
        return {n: runs[n] for n in names if n in runs}, {n: trainings[n] for n in names if n in trainings}

    def _state(self, names: Sequence[str]) -> str:
        runs, trainings = self._chosen(names) if names else (self._folder.runs(), self._folder.trainings())
        return self._folder.state([*runs.values(), *trainings.values()])

    def _row(self, request: Request) -> tuple[Entry, Row]:
        """The run and the row of an output that a request names; 404 where there is none."""
        asked = request.query_params
        runs, _ = self._chosen([asked.get("run", "")])
        entries, _ = readable(runs, self._folder.entries)
        for entry in (entries[name][-1] for name in entries):
            for row in entry.rows:
                if any(each.get("output", "") == asked.get("output") for each in each_output(row).values()):
                    return entry, row
        raise HTTPException(404, "There is no such output.")

    def _shown(self, names: Sequence[str]) -> Response:
        runs, trainings = self._chosen(names)
        state = self._state(names)
        loaded, why = readable(runs, self._folder.entries)
        curves, why_not = readable(trainings, training)
        entries = _each_once([entry for name in loaded for entry in loaded[name]])
        finished = [entry for entry in entries if entry.expected is None]
        try:
            grids = tables_of(finished, allow_mixed=True) if finished else []
        except CrossFlowError as error:
            grids, why = [], {**why, "the table": str(error)}
        sections = [
            Section(
                title=f"Losses of {name}" if name != "." else "Losses",
                body=plotted(figure(of, "step", "loss", name, "log"), f"The losses of {name}"),
                tab=CURVES,
            )
            for name, of in curves.items()
            if of
        ]
        sections += [_left_out({**why, **why_not})] if why or why_not else []
        if list(names) == self._alone():
            return self._page(self._folder.root.absolute().name, state, grids, entries, sections)
        title = " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return self._page(title, state, grids, entries, sections, back=".")

    def _list(self, query: Mapping[str, str]) -> Response:
        state = self._state([])
        lines, why = readable(newest(self._folder.runs()), self._folder.line)
        trainings, why_not = readable(newest(self._folder.trainings()), training_line)
        chosen = {name: query.get(name, "") for name in ("suite", "model")}
        fitting = {
            id: line for id, line in lines.items() if all(value in ("", line[name]) for name, value in chosen.items())
        }
        body = template(PACKAGE, "runs.html.jinja").render(
            choices={name: sorted({line[name] for line in lines.values()}) for name in chosen},
            chosen=chosen,
            runs=[{"id": id, **line} for id, line in fitting.items()],
            trainings=[{"id": id, **line} for id, line in trainings.items()],
            unreadable={**why, **why_not},
        )
        return self._page(f"Runs in {self._folder.root}", state, [], [], [Section(title="Runs", body=body)])

    def _page(
        self,
        title: str,
        state: str,
        grids: Sequence[Grid],
        entries: Sequence[Entry],
        sections: Sequence[Section],
        back: str = "",
    ) -> Response:
        served = Served(
            title=title,
            says="Live: this page follows its runs.",
            state=state,
            album=_Linked(self._folder.root),
            script=(files(PACKAGE) / "assets" / "live.js").read_text(encoding="utf-8"),
            back=back,
        )
        return HTMLResponse(page(grids, entries, sections=sections, served=served))


def _each_once(entries: Sequence[Entry]) -> list[Entry]:
    return list({entry.of: entry for entry in entries}.values())


def _left_out(why: Mapping[str, str]) -> Section:
    lines = [Markup('<p class="note">{}: {}</p>').format(name, reason) for name, reason in why.items()]
    return Section(title="Left out", body=Markup().join(lines))


class _Linked:
    """Pictures and originals by the addresses at which they are asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parts: dict[tuple[Path, str], list[str]] = {}
        self.addresses: list[str] = []

    def places(self, entry: Entry, row: Row) -> dict[str, int]:
        """Every output of a run has the pictures that its first one has; of those made together, that of its task."""
        first = next(iter(each_output(row).values()), row)
        if entry.folder is None or "output" not in first:
            return {}
        alike = (entry.folder, str(row["task"]) if "outputs" in row and "task" in row else "")
        if alike not in self._parts:
            self._parts[alike] = [*entry.pictures(row), *entry.played(row)]
        found: dict[str, int] = {}
        for part in self._parts[alike]:
            found[part] = len(self.addresses)
            self.addresses.append(self._address("picture", entry.folder, first, part=part))
        return found

    def original(self, entry: Entry, row: Row) -> str | None:
        if entry.folder is None or "output" not in row:
            return None
        return self._address("original", entry.folder, row)

    def _address(self, place: str, folder: Path, row: Row, **more: str) -> str:
        run = folder.relative_to(self._root).as_posix()
        return f"{place}?{urlencode({'run': run, **more, 'output': row['output']})}"
