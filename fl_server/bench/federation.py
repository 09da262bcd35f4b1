"""Speed of a whole exchange in Flower's simulation engine, against a bare query round of Flower.

Virtual sites hold a few images and a release of made-up counts that they let go before, so that no
image is opened. Both sides run in the real engine, in processes of their own, and load the same
modules; a bare query carries as many (random) bytes to every site and back.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np

from fl_server.bench.memory import PeakMemory
from fl_server.engine import assemble_app, check_engine, simulate
from protocol.benchmark import Findings, Options, Ratio, seconds

IMAGES = 60
"""Of each virtual site: enough for the built-in release policy, and soon listed."""

MOST_TURNS = 2
"""Of the largest federation: each takes minutes."""

TIMEOUT = 1200.0
GIB = 2**30

_SERVER, _CLIENT = "fl_server.bench.federation_app:app", "fl_client.bench.federation:app"
_CONFIG = "[tool.flwr.app.config]"


def measure(options: Options) -> Findings:
    """Time exchanges of growing numbers of sites, and the largest against Flower alone."""
    check_engine()
    sizes = (100, 300, 1000) if options.size == "full" else (8,)
    app = federation_app(options.scratch / "app")
    figures: dict[str, float] = {}
    with patch.dict(os.environ, {"OMP_NUM_THREADS": str(options.threads)}):
        for sites in sizes:
            federation = Federation(options.scratch / f"of-{sites}", sites, app)
            turns = min(options.turns, MOST_TURNS) if sites == sizes[-1] else 1
            rounds, whole = federation.rounds(turns), federation.whole_runs(turns)
            figures |= federation.figures
    return Findings(
        {
            "of_bare_flower": Ratio.over(
                whole,
                f"a run of {sites} sites from start to end: one bare query / exchange, distances "
                "and groups",
            ),
            "of_bare_round": Ratio.over(
                rounds, "the same within a run, all started and loaded before"
            ),
        },
        figures,
        [
            f"{sites} virtual sites of spec {federation.spec}, releases cached at the sites; "
            "seconds of a run and peak memory are of the whole engine.",
        ],
    )


def federation_app(folder: Path) -> Path:
    """Return fedprint's app with the benchmark's components, and settings, in place of its own."""
    app = assemble_app(folder)
    project = (app / "pyproject.toml").read_text()
    for ours, its in (
        ("fl_server.server_app:app", _SERVER),
        ("fl_client.client_app:app", _CLIENT),
        (_CONFIG, f'{_CONFIG}\nsteps = ""\nreply-bytes = 0'),
    ):
        assert project.count(ours) == 1, ours
        project = project.replace(ours, its)
    (app / "pyproject.toml").write_text(project)
    return app


@dataclass
class Federation:
    """Virtual sites that the engine can run.

    Parameters
    ----------
    folder : Path
        Where they lie.
    sites : int
        How many there are.
    app : Path
        See `federation_app`.
    spec : str
        What they are fingerprinted with.
    reply_bytes : int
        What a site answers, once an exchange has shown it.
    """

    folder: Path
    sites: int
    app: Path
    spec: str = "lite0-100"
    reply_bytes: int = 0
    runs: int = 0
    figures: dict[str, float] = field(default_factory=dict)

    def steps(self, names: str) -> list[tuple[str, float]]:
        """Run the engine once; return every step's name and seconds, see `federation_app`."""
        self.runs += 1
        out = self.folder / f"run-{self.runs}"
        out.mkdir(parents=True)
        values: dict[str, str | int | float | bool] = {
            "sites-dir": str(self.folder / "sites"),
            "out": str(out),
            "mode": "exchange",
            "release": "plain",
            "spec": self.spec,
            "min-sites": self.sites,
            "timeout": TIMEOUT,
            "steps": names,
            "reply-bytes": self.reply_bytes,
        }
        simulate(self.sites, values, app=self.app, show=lambda _: None)
        said = json.loads((out / "steps.json").read_bytes())
        self.reply_bytes = said["reply_bytes"]
        self._note(request_bytes=said["request_bytes"], reply_bytes=said["reply_bytes"])
        return [(name, float(taken)) for name, taken in said["steps"]]

    def rounds(self, turns: int) -> list[float]:
        """Let each site keep a release; then time both sides in turns within one run.

        Returns
        -------
        list of float
            By turn the seconds of a bare round over those of an exchange; the first exchange, in
            which modules are loaded, does not count.
        """
        write_sites(self.folder / "sites", self.sites)
        taken = self.steps(",".join(["prepare", *["exchange", "bare"] * (turns + 1), "run"]))[2:]
        bare = [each for name, each in taken if name == "bare"]
        mine = [each for name, each in taken if name == "exchange"]
        self._note(
            exchange_seconds=statistics.median(mine),
            bare_round_seconds=statistics.median(bare),
            with_log_and_report_seconds=taken[-1][1],
        )
        return _ratios(mine, bare)

    def whole_runs(self, turns: int) -> list[float]:
        """Time whole runs in turns; return by turn the seconds of a bare one over those of ours."""
        others = [self._whole("bare")]
        mine = []
        for _ in range(turns):
            mine.append(self._whole("exchange"))
            others.append(self._whole("bare"))
        return _ratios(mine, others)

    def _whole(self, name: str) -> float:
        with PeakMemory() as memory:
            taken = seconds(lambda: self.steps(name))
        self._note(**{f"{name}_run_seconds": taken, f"{name}_run_peak_gib": memory.peak / GIB})
        return taken

    def _note(self, **values: float) -> None:
        """Keep figures under their names and the number of sites; of whole runs the last."""
        self.figures |= {f"of_{self.sites}_sites_{name}": value for name, value in values.items()}


def _ratios(mine: list[float], others: list[float]) -> list[float]:
    """Return others over mine by turn, of the others the mean of those before and after."""
    return [(a + b) / 2 / own for own, (a, b) in zip(mine, pairwise(others), strict=True)]


def write_sites(folder: Path, sites: int) -> None:
    """Write folders of virtual sites, each with images of no meaning in an npz file."""
    images, labels = np.zeros((IMAGES, 4, 4), dtype=np.uint8), np.arange(IMAGES) % 2
    for number in range(sites):
        site = folder / f"site-{number:0{len(str(sites - 1))}d}"
        site.mkdir(parents=True)
        np.savez(site / "site.npz", train_images=images, train_labels=labels)
        (site / "site.toml").write_text('[data]\nnpz = "site.npz"\n')
