"""The dashboard's pages and their addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from fl_server.dashboard import pool_pages
from fl_server.dashboard.guard import Guard
from fl_server.dashboard.live import live
from fl_server.dashboard.log_check import check_log
from fl_server.dashboard.merges import merges
from fl_server.dashboard.outcomes import arms_of, run_outcomes, tried
from fl_server.dashboard.rendering import Renderer
from fl_server.dashboard.runs import Results, Run, read_file
from fl_server.dashboard.site_page import site_context
from fl_server.dashboard.sources import NotFound, Sources
from fl_server.dashboard.task_map import task_map
from fl_server.pool import views
from fl_server.report import find_template
from fl_server.report_heatmap import MOST_CELLS, ranks
from protocol.errors import FedprintError
from protocol.runfiles import LedgerFile

STATIC = {
    "report.css": ("report.css", "text/css"),
    "style.css": ("dashboard/style.css", "text/css"),
    "live.js": ("dashboard/live.js", "text/javascript"),
}


def make_app(sources: Sources, names: Iterable[str] = ("localhost",), token: str = "") -> ASGIApp:
    """Return the dashboard as an ASGI application.

    Parameters
    ----------
    sources : Sources
        What to show.
    names : iterable of str
        Host names under which it may be asked for.
    token : str
        What readers must know; empty for none.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    pages = Pages(sources)
    for path, page in pages.routes().items():
        app.api_route(path, methods=["GET", "HEAD"], response_class=HTMLResponse)(page)
    pool_pages.add(app, sources, pages.show)
    app.exception_handler(FedprintError)(pages.complain)
    app.exception_handler(HTTPException)(pages.nothing)
    app.exception_handler(Exception)(pages.fail)
    return Guard(app, names, token)


class Pages:
    """Makes the pages of runs.

    Parameters
    ----------
    sources : Sources
        What to show.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources, self._renderer = sources, Renderer(bool(sources.pool))
        folder = find_template().parent
        self._static = {
            name: ((folder / path).read_bytes(), kind) for name, (path, kind) in STATIC.items()
        }

    def routes(self) -> dict[str, Callable[..., Response]]:
        """Return each page by its address."""
        return {
            "/": self.overview,
            "/live.json": self.overview_live,
            "/run/{name}": self.run,
            "/run/{name}/live.json": self.run_live,
            "/run/{name}/map": self.map,
            "/run/{name}/training": self.training,
            "/run/{name}/privacy": self.privacy,
            "/run/{name}/site/{site}": self.site,
            "/outcomes": self.outcomes,
            "/static/{name}": self.static,
        }

    def overview(self) -> Response:
        """Show all runs."""
        runs = self._sources.runs()
        return self.show("overview", runs=runs, root=self._sources.root, **_overview(runs))

    def overview_live(self) -> Response:
        """Return how far all runs are."""
        return JSONResponse(_overview(self._sources.runs())["now"])

    def run(self, name: str) -> Response:
        """Show a run: how far it is, and what came out."""
        return self._run_page("run", self._sources.run(name))

    def run_live(self, name: str) -> Response:
        """Return how far a run is."""
        return JSONResponse(live(self._sources.run(name)))

    def map(self, name: str) -> Response:
        """Show who is near whom, and the groups."""
        run, results = self._with_results(name)
        data = results.data
        drawn = task_map(data.sites, data.between, results.context["groups"])
        table = data.between if len(data.sites) <= MOST_CELLS else None
        more = {"rank": ranks(data.between), "merges": merges(data.sites, data.linkage)}
        return self._run_page("map", run, map=drawn, table=table, **more)

    def training(self, name: str) -> Response:
        """Show what training came to, and with which plans."""
        return self._run_page("training", self._with_results(name)[0])

    def privacy(self, name: str) -> Response:
        """Show what left each site, what it spent, and the log."""
        run = self._with_results(name)[0]
        ledger = read_file(run, "ledger.json", LedgerFile)
        return self._run_page("privacy", run, ledger=ledger, log=check_log(run.folder))

    def site(self, name: str, site: str) -> Response:
        """Show one site of a run."""
        run, results = self._with_results(name)
        if site not in results.data.sites:
            raise NotFound("the run has no site of this name")
        return self._run_page("site", run, **site_context(run, site))

    def outcomes(self) -> Response:
        """Show what came out over all runs and in the pool."""
        found, of_pool, problem = run_outcomes(self._sources.runs()), None, ""
        if self._sources.pool:
            try:
                with self._sources.opened_pool() as pool, pool.reading() as session:
                    of_pool = tried(views.experiments(session))
            except FedprintError as error:  # the runs can be shown all the same
                problem = str(error)
        arms = arms_of(found)
        return self.show("outcomes", outcomes=found, arms=arms, tried=of_pool, problem=problem)

    def static(self, name: str) -> Response:
        """Return a style sheet or script."""
        if name not in self._static:
            raise NotFound("there is no such file")
        content, kind = self._static[name]
        return Response(content, media_type=kind)

    def show(self, template: str, status: int = 200, **context: Any) -> Response:
        """Return a page."""
        return HTMLResponse(self._renderer.page(template, context), status)

    def complain(self, _: Request, error: Exception) -> Response:
        """Say in a page what is wrong."""
        status = 404 if isinstance(error, NotFound) else 500
        return self.show("message", status, title="This cannot be shown", words=str(error))

    def fail(self, _: Request, error: Exception) -> Response:
        """Say that a page could not be made; the server prints why."""
        words = (
            f"This page could not be made ({type(error).__name__}): the files of the run may not "
            "go together, see fedprint verify. The terminal of the dashboard says more."
        )
        return self.show("message", 500, title="This cannot be shown", words=words)

    def nothing(self, _: Request, error: Exception) -> Response:
        """Say that there is no such page."""
        status = error.status_code if isinstance(error, HTTPException) else 404
        words = "There is nothing at this address: start from the list of runs."
        return self.show("message", status, title="Nothing here", words=words)

    def _with_results(self, name: str) -> tuple[Run, Results]:
        run = self._sources.run(name)
        if run.results is None:
            raise NotFound(f"run {name} has no results: {run.problem}")
        return run, run.results

    def _run_page(self, template: str, run: Run, **more: Any) -> Response:
        context = dict(run.results.context) if run.results else {}
        links = {
            site: f"/run/{run.name}/site/{quote(site, safe='')}"
            for site in (run.results.data.sites if run.results else [])
        }
        return self.show(template, shown=run, now=live(run), **{**context, "links": links, **more})


def _overview(runs: list[Run]) -> dict[str, Any]:
    """Return what the overview says of each run, as it is shown and as the script asks for it."""
    said = {run.name: live(run) for run in runs}
    facts = {
        f"{name} {fact}": each["facts"][fact]
        for name, each in said.items()
        for fact in ("state", "phase", "since", "sites")
    }
    now = {
        "lives": any(each["lives"] for each in said.values()),
        "results": sorted(name for name, each in said.items() if each["results"]),
        "facts": facts,
        "rows": {},
    }
    return {"now": now}
