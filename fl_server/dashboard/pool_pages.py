"""The pool's pages: its tasks, what is near to one, and what it advises; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from fl_server.dashboard.sources import NotFound, Sources
from fl_server.pool import Pool, views
from fl_server.pool.texts import facts, outcome_row, shown_name
from fl_server.pool_advice import recommend
from fl_server.pool_nearest import MEASURE, described, find_near
from fl_server.pool_target import Target, read_target
from protocol.errors import ConfigError
from strategies.advice_words import likely

Show = Callable[..., Response]

MOST = 200
"""Tasks or experiments that one page lists."""
TOP, SHOTS = 10, 3
"""Nearest tasks, and shots a scenario."""
LONGEST = 200
"""Letters of a search."""


def add(app: FastAPI, sources: Sources, show: Show) -> None:
    """Add the pool's pages to the dashboard."""
    pages = PoolPages(sources, show)
    routes: dict[str, Show] = {
        "/pool": pages.tasks,
        "/pool/{identity}": pages.task,
        "/pool/{identity}/advice": pages.advice,
    }
    for path, page in routes.items():
        app.api_route(path, methods=["GET", "HEAD"], response_class=HTMLResponse)(page)


class PoolPages:
    """Makes the pool's pages.

    Parameters
    ----------
    sources : Sources
        Where the pool is.
    show : callable
        Makes a page of a template and its values.
    """

    def __init__(self, sources: Sources, show: Show) -> None:
        self._sources, self._show = sources, show
        self._turn = Lock()  # searching and advising take all cores: one at a time

    def tasks(self, q: str = "") -> Response:
        """List the tasks of the pool, or those that a search finds."""
        words = q[:LONGEST].lower().split()
        with self._sources.opened_pool() as pool, pool.reading() as session:
            tasks, gone = views.list_tasks(session), views.list_withdrawals(session)
            where = shown_name(pool.where)
        found = [task for task in tasks if all(word in _text(task) for word in words)]
        return self._show(
            "pool",
            where=where,
            query=q[:LONGEST],
            tasks=found[:MOST],
            found=len(found),
            held=len(tasks),
            withdrawn=len(gone),
            most=MOST,
        )

    def task(self, identity: str) -> Response:
        """Show a task, what was tried on it, and the tasks that are nearest to it."""
        with self._sources.opened_pool() as pool:
            found = _shown(pool, identity)
            near, problem = self._near(pool, identity) if found["kind"] == "task" else ([], "")
            tried = found.get("experiments", [])
            return self._show(
                "task",
                task=found,
                facts=list(facts(found)),
                near=near,
                problem=problem,
                rows=[outcome_row(each, found["id"]) for each in tried[:MOST]],
                count=len(tried),
            )

    def advice(self, identity: str) -> Response:
        """Show what to try on a task, and why."""
        with self._sources.opened_pool() as pool:
            target, found = _target(pool, identity), _shown(pool, identity)
            with self._turn:
                counsels = recommend(pool, target, k=SHOTS, device="cpu").counsels
            return self._show("advice", task=found, counsels=counsels, likely=likely)

    def _near(self, pool: Pool, identity: str) -> tuple[list[dict[str, Any]], str]:
        target = _target(pool, identity)
        try:
            with self._turn:
                own = [target.task.id]
                near = find_near(pool, target, TOP, MEASURE, exclude=own, device="cpu")
                return described(pool, near), ""
        except (ConfigError, OSError) as error:  # an index beside the pool that cannot be used
            return [], str(error)


def _shown(pool: Pool, identity: str) -> dict[str, Any]:
    try:
        with pool.reading() as session:
            return views.show(session, identity)
    except ConfigError as error:
        raise NotFound(str(error)) from None


def _target(pool: Pool, identity: str) -> Target:
    """Return a task by its id: never a file, whatever the address says."""
    if not set(identity) <= set("0123456789abcdef"):
        raise NotFound("a task is named by its id: see the list")
    try:
        with pool.reading() as session:
            return read_target(session, identity)
    except ConfigError as error:
        raise NotFound(str(error)) from None


def _text(task: dict[str, Any]) -> str:
    return " ".join(str(task[name]) for name in ("id", "site", "name", "spec")).lower()
