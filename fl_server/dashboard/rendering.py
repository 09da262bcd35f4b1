"""Making pages of templates; every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fl_server.report import environment
from protocol.names import printable


class Renderer:
    """Renders the dashboard's templates.

    Parameters
    ----------
    with_pool : bool
        Whether there is a pool to lead to.
    """

    def __init__(self, with_pool: bool) -> None:
        self._environment = environment()
        self._environment.filters |= {"said": _said, "moment": _moment}
        self._shared = {"with_pool": with_pool, "standalone": False, "links": {}, "now": None}

    def page(self, name: str, context: Mapping[str, Any]) -> str:
        """Return a page as HTML.

        Parameters
        ----------
        name : str
            Of a template in ``templates/dashboard``.
        context : mapping
            What it names.
        """
        template = self._environment.get_template(f"dashboard/{name}.html")
        return template.render({**self._shared, "page": name, **context})


def _said(value: object, most: int = 300) -> str:
    """Return words that others wrote, in one line and not too long."""
    return printable(str(value), most)


def _moment(time: datetime | None) -> str:
    return "–" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"
