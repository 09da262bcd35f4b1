"""The main job over a real deployment on this machine: SuperLink, SuperNodes, TLS, people.

Four sites of two tasks, each a SuperNode of its own with keys and a release policy; all of them add
noise to what they release, three by themselves, at one a person looks first. Everything is stopped
at the end.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fl_server.demo_data import PRIVATE_SITES, write_demo_sites
from fl_server.deployment import Deployment
from fl_server.engine import TERMINATED
from fl_server.local_site import LocalSite
from fl_server.processes import handling, require_psutil
from fl_server.simulation import check_settings, parse_run_config, prepare_run_folder
from protocol.errors import ConfigError

SITES = PRIVATE_SITES
APPROVES_FIRST = "texture-2"
SETTINGS = {"rounds": 3, "arms": "alone,grouped", "timeout": 300.0, "await-approval": 180.0}

DEPLOYMENT, IMAGES = "deployment", "sites"


def run_deployment_demo(
    out: Path,
    run_config: str = "",
    *,
    seed: int = 0,
    verbose: bool = False,
    show: Callable[[str], None] = print,
) -> Path:
    """Deploy, run the main job, stop everything.

    Parameters
    ----------
    out : Path
        Run folder; an earlier demo's is replaced. The images go to ``sites/``, the folders of the
        coordinator and of the sites to ``deployment/`` in it.
    run_config : str
        Overrides of the app's settings, ``key=value`` separated by blanks.
    seed : int
        Which images the sites draw, and all training.
    verbose : bool
        Show the ServerApp's whole log.
    show : callable
        Receives one line of progress at a time.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    FedprintError
        If anything could not be started or the run did not complete.
    """
    require_psutil()
    values = {**SETTINGS, "min-sites": len(SITES), "seed": seed, **parse_run_config(run_config)}
    settings = check_settings(values)
    _clear(out / DEPLOYMENT)
    prepare_run_folder(out, overwrite=True)
    folders = write_demo_sites(out / IMAGES, seed=seed, sites=SITES)
    stop = {signal.SIGTERM: lambda *_: sys.exit(TERMINATED)}  # as Ctrl-C: end all, then go
    with handling(stop), Deployment(out / DEPLOYMENT) as deployment:
        show(f"coordinator: {deployment.coordinator}, SuperLink on {deployment.address} with TLS")
        for folder in folders:
            first = folder.name == APPROVES_FIRST
            deployment.add_site(folder.name, folder, approve_first=first)
            how = "a person approves each release" if first else "releases by its policy"
            show(f"site {folder.name}: keys made, enrolled, SuperNode started; {how}")
        person = Person(deployment, deployment.sites[APPROVES_FIRST], show)
        values |= {"out": str(out.resolve()), "pool": settings.pool}
        deployment.run(values, show=show, meanwhile=person.look, verbose=verbose)
    show("SuperLink and SuperNodes stopped")
    show(f"report: {out / 'report.html'}")
    return out / "report.html"


class Person:
    """Who approves at a site: looks at each request once it has come, and lets it go.

    Parameters
    ----------
    deployment : Deployment
        Where the site is.
    site : LocalSite
        Their site.
    show : callable
        Told what was seen and done.
    """

    def __init__(
        self, deployment: Deployment, site: LocalSite, show: Callable[[str], None]
    ) -> None:
        self._deployment, self._site, self._show = deployment, site, show
        self._approved: set[str] = set()

    def look(self) -> None:
        """Preview and approve what waits; do nothing while nothing does."""
        requests = self._site.folder / "state" / "requests"
        for request in sorted(requests.glob("*/request.json")):
            if request.parent.name not in self._approved:
                self._approved.add(request.parent.name)
                self._approve()

    def _approve(self) -> None:
        self._show(f"{self._site.name}: a request waits for a person")
        for line in self._deployment.fedprint("site", "preview", self._site.folder).splitlines():
            self._show(f"  {line}".rstrip())
        self._deployment.fedprint("site", "approve", self._site.folder, "--yes")
        self._show(f"{self._site.name}: approved")


def _clear(folder: Path) -> None:
    """Remove an earlier demo's deployment, and nothing that is none."""
    if folder.exists() and not (folder / "coordinator" / "server.toml").exists():
        raise ConfigError(f"{folder} is not the deployment of a demo: choose another --out")
    shutil.rmtree(folder, ignore_errors=True)
