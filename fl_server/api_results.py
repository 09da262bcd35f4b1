"""What `fl_server.api` returns: results that show themselves as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fl_server.decisions import Decision
from fl_server.runfolder import distances_csv
from protocol.errors import ConfigError
from protocol.files import atomic_json, atomic_write
from protocol.notebook import Shown, Table
from protocol.runfiles import SiteGroupEntry
from strategies.advice_words import likely

if TYPE_CHECKING:
    import pandas as pd

    from fl_server.pool_advice import Recommendation
    from strategies.shots import Counsel, Shot


@dataclass(frozen=True, eq=False, repr=False)
class Distances(Shown):
    """Distances between tasks; row = source, column = target, lower = closer.

    They compare within one target only: in a notebook the darkest cell of a column is its nearest
    source.

    Parameters
    ----------
    measure : str
        Of which measure. Where its higher values are better these are the negative ones.
    names : tuple of str
        The s sites.
    values : ndarray of float64, shape [s, s]
        NaN is not known.
    lacking : mapping of str to tuple of str
        What sites have not released, for which they are compared with nobody.
    """

    measure: str
    names: tuple[str, ...]
    values: NDArray[np.float64]
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return them as a data frame with the sites as labels.

        Raises
        ------
        ConfigError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ConfigError(
                'a data frame needs pandas: run pip install "fedprint[notebook]"'
            ) from None
        return pd.DataFrame(
            self.values,
            index=pd.Index(self.names, name="source"),
            columns=pd.Index(self.names, name="target"),
        )

    def save(self, path: Path | str) -> Path:
        """Write them as CSV, as ``fedprint distances --out`` does, and return the path."""
        atomic_write(Path(path), distances_csv(self.names, self.values))
        return Path(path)

    def nearness(self) -> NDArray[np.float64]:
        """Return the share of other sources that are not nearer, float64 ``[s, s]``.

        1 is a target's nearest source; NaN on the diagonal and where nothing is known.
        """
        others = self.values.copy()  # [s, s]
        np.fill_diagonal(others, np.nan)
        known = np.maximum((~np.isnan(others)).sum(axis=0), 1)  # [s]
        place = rankdata(others, method="min", axis=0, nan_policy="omit")  # [s, s]
        return np.asarray(1 - (place - 1) / known, dtype=np.float64)

    def table(self) -> Table:
        """Return the table, its cells as dark as a source is near to the target."""
        cells = [
            [name, *(f"{value:.5f}" for value in row)]
            for name, row in zip(self.names, self.values.tolist(), strict=True)
        ]
        shades = [[np.nan, *row] for row in (0.6 * self.nearness()).tolist()]
        title = f"{self.measure} (row = source, column = target, lower = closer)"
        return Table(title, ["source", *self.names], cells, shades)


@dataclass(frozen=True, eq=False, repr=False)
class Groups(Shown):
    """Who should train with whom, and why.

    Parameters
    ----------
    measure : str
        By which measure.
    decision : Decision
        Distances, groups, reasons and what speaks against a fingerprint.
    """

    measure: str
    decision: Decision

    @property
    def members(self) -> dict[str, list[str]]:
        """The sites of each group, by its name."""
        return {group.name: list(group.sites) for group in self.decision.groups.groups}

    @property
    def sites(self) -> Mapping[str, SiteGroupEntry]:
        """Of each site: reason, margin, stability, certain, nearest, partners and warnings."""
        return self.decision.groups.sites

    @property
    def partners(self) -> dict[str, list[str]]:
        """Suggested co-training partners of each site, the best first."""
        return {site: [p.site for p in why.partners] for site, why in self.sites.items()}

    @property
    def distances(self) -> Distances:
        """What the distance file of a run with these groups holds."""
        return Distances(self.measure, tuple(self.decision.names), self.decision.distances)

    def save(self, path: Path | str) -> Path:
        """Write them as ``groups.json`` of a run folder, and return the path."""
        atomic_json(Path(path), self.decision.groups)
        return Path(path)

    def table(self) -> Table:
        """Return the table, one site a row."""
        rows = [
            [
                group,
                site,
                {True: "yes", False: "no", None: ""}[why.certain],
                _two_digits(why.margin),
                _two_digits(why.stability),
                " ".join([why.reason, *why.warnings]),
            ]
            for group, sites in self.members.items()
            for site in sites
            for why in [self.sites[site]]
        ]
        columns = ["group", "site", "certain", "margin", "stability", "why"]
        return Table(f"groups by {self.measure}", columns, rows)


@dataclass(frozen=True, eq=False, repr=False)
class Recommendations(Shown):
    """What a knowledge pool advises a task.

    Parameters
    ----------
    found : Recommendation
        Target, measure, candidates and, a scenario, the shots with their evidence.
    """

    found: Recommendation

    @property
    def shots(self) -> dict[str, tuple[Shot, ...]]:
        """The shots of each scenario, in rank order."""
        return {each.scenario: each.shots for each in self.found.counsels}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, as ``fedprint pool recommend --json`` writes them."""
        return self.found.to_json()

    def tables(self) -> list[Table]:
        """Return one table a scenario."""
        columns = ["shot", "from", "nearness", "better than typical", "in words"]
        return [
            Table(
                f"{each.scenario}, {_rests_on(each)}",
                columns,
                [_row(shot, self.found.candidates) for shot in each.shots],
            )
            for each in self.found.counsels
        ]

    def table(self) -> Table:
        """Return all shots in one table, by scenario."""
        tables = self.tables()
        rows = [
            [counsel.scenario, *row]
            for counsel, table in zip(self.found.counsels, tables, strict=True)
            for row in table.rows
        ]
        task = self.found.target.task
        title = f"what to try on {task.name} of {task.site}"
        return Table(title, ["scenario", *tables[0].columns], rows)


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rests_on(counsel: Counsel) -> str:
    if not counsel.outcomes:
        return "by nearness: nothing was measured on other tasks yet"
    return f"learnt from outcomes on other tasks: {counsel.outcomes}"


def _row(shot: Shot, candidates: int) -> list[str]:
    return [
        str(shot.rank),
        shot.task.id[:12],
        "" if shot.place is None else f"{shot.place} of {candidates}",
        "" if shot.better is None else likely(shot.better),
        shot.sentence,
    ]
