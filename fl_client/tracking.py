"""Training curves that stay at the site: where its own ``site.toml`` wants them, and nowhere else.

What the coordinator sends never says where metrics go, nor that there be any. Only in a
simulation, which is one person's, the run's own setting ``track`` asks all sites for curves, each
in its own state folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from protocol.tracking import KINDS, Kind, Series, Tracking

if TYPE_CHECKING:
    from fl_client.site import Site
    from protocol.orders import Order

FOLDER = "tracking"


class TrackingTable(BaseModel):
    """``[tracking]`` of ``site.toml``.

    Parameters
    ----------
    logger : {"tensorboard", "mlflow"} or None
        What writes the site's training curves; None writes none.
    to : str or None
        A folder, relative to the site's own, or MLflow's URI; by default one in the state folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    logger: Kind | None = None
    to: str | None = None


def site_tracking(
    site: Site, table: TrackingTable, run_config: Mapping[str, object]
) -> Tracking | None:
    """Return where a site's training curves go, None where nobody wants them.

    Parameters
    ----------
    site : Site
        The site.
    table : TrackingTable
        What its ``site.toml`` says; it goes first.
    run_config : mapping
        A simulation's settings; empty in a deployment, where the coordinator has no say.
    """
    if table.logger is not None:
        return Tracking(table.logger, place_of(site.folder, site.state, table.to))
    asked = next((kind for kind in KINDS if kind == run_config.get("track")), None)
    return Tracking(asked, place_of(site.folder, site.state, None)) if asked else None


def place_of(folder: Path, state: Path, to: str | None) -> str:
    """Return where curves go: as the site says, relative to its folder, or in its state folder."""
    if to is None:
        return str(state / FOLDER)
    return to if "://" in to else str(folder / Path(to).expanduser())


def open_series(tracking: Tracking | None, site: str, order: Order) -> Series | None:
    """Open the curve of a training; None where nothing is tracked.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    if tracking is None:
        return None
    from pytorch_lightning import loggers

    return tracking.open(loggers, site, order.run, order.arm)
