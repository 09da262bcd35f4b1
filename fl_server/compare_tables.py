"""From a comparison to plain rows, for a terminal, a CSV file and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_server.compare import Comparison, Computed
from fl_server.settings import RunSettings
from strategies.measures import Need
from strategies.transfer_evidence import JUDGEMENTS, interval

__all__ = ["CHANCE", "REFERENCE", "comparison_csv", "comparison_tables"]

Floats = NDArray[np.float64]

REFERENCE: str = RunSettings.model_fields["measure"].default
"""The measure that a run takes unless it is told another: what the others must beat."""
CHANCE = "(random)"
ENDS = ("", "_low", "_high")
COLUMNS = (*JUDGEMENTS, "over_default")


def comparison_tables(
    comparison: Comparison, sizes: Mapping[Need, Sequence[int]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the content of the JSON file: plain values, None where nothing is known.

    Parameters
    ----------
    comparison
        What was found.
    sizes
        Bytes that each task released, by need.
    seed
        Of the bootstrap.
    """
    return {
        "sites": comparison.tasks,
        "families": comparison.families,
        "measures": [
            {**_measure_row(each, sizes), **_recovery_row(comparison, i)}
            for i, each in enumerate(comparison.computed)
        ],
        "left_out": comparison.left_out,
        "agreement": [[_plain(value) for value in row] for row in comparison.agreement],
        "transfer": _transfer_rows(comparison, seed),
        "nearest_by_chance": _chance(comparison),
        "groups": _groups_row(comparison),
    }


def comparison_csv(tables: Mapping[str, Any]) -> str:
    """Return one line a measure: what it costs, what it finds, with which others it agrees.

    One that could not be computed has nothing but the reason.
    """
    names = [row["name"] for row in tables["measures"]]
    rows = []
    for row, agrees in zip(tables["measures"], tables["agreement"], strict=True):
        own = [t for t in tables["transfer"] if t["measure"] == row["name"]]
        flat = {**row, "needs": " ".join(row["needs"])}
        for t in own:
            where = f"{t['origin']}/{t['scenario']}/{t['metric']}"
            flat[f"{where}/targets"] = t["targets"]
            flat |= {f"{where}/{name}{end}": t[name + end] for name in COLUMNS for end in ENDS}
        flat |= {f"agreement/{name}": value for name, value in zip(names, agrees, strict=True)}
        rows.append(flat)
    rows += [{"name": name, "left_out": why} for name, why in tables["left_out"].items()]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], "left_out"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _measure_row(computed: Computed, sizes: Mapping[Need, Sequence[int]]) -> dict[str, Any]:
    measure = computed.measure
    needed = [sizes[need] for need in sorted(measure.needs)]
    return {
        "name": measure.name,
        "needs": sorted(measure.needs),
        "privacy": measure.privacy,
        "direction": measure.direction,
        "source": measure.source,
        "sites": computed.tasks,
        "seconds_per_pair": computed.seconds,
        "bytes_per_site": _mean_bytes(needed),
    }


def _mean_bytes(needed: Sequence[Sequence[int]]) -> float | None:
    """Return what a site released for a measure, on average over those that released it all."""
    totals = [sum(sizes) for sizes in zip(*needed, strict=True) if all(sizes)]
    return sum(totals) / len(totals) if totals else None


def _recovery_row(comparison: Comparison, i: int) -> dict[str, Any]:
    if not comparison.recovered:
        return {"adjusted_rand": None, "nearest": None}
    found = comparison.recovered[i]
    return {"adjusted_rand": _plain(found.adjusted_rand), "nearest": _plain(found.nearest)}


def _chance(comparison: Comparison) -> float | None:
    """Return how often a random source is of the target's family."""
    known = [found.chance for found in comparison.recovered if math.isfinite(found.chance)]
    return max(known) if known else None  # measures that know every target all have the same


def _groups_row(comparison: Comparison) -> dict[str, Any] | None:
    """Return how well a run's own grouping does, which chooses the number of groups itself."""
    if comparison.grouped is None:
        return None
    return asdict(comparison.grouped)


def _transfer_rows(comparison: Comparison, seed: int) -> list[dict[str, Any]]:
    """Return all measures for each scenario and metric, highest weighted tau first, and chance."""
    names = [each.measure.name for each in comparison.computed]
    rows = []
    for measured, judged, by_chance in zip(
        comparison.measured, comparison.judged, comparison.by_chance, strict=True
    ):
        where = {
            "origin": measured.origin,
            "scenario": measured.scenario,
            "metric": measured.metric,
        }
        reference = judged[names.index(REFERENCE)] if REFERENCE in names else by_chance * np.nan
        of_measures = [
            {"measure": name, **where, **_judgements(own, reference, seed)}
            for name, own in zip(names, judged, strict=True)
        ]
        rows += sorted(of_measures, key=_worst_last)
        rows.append({"measure": CHANCE, **where, **_judgements(by_chance, reference, seed)})
    return rows


def _judgements(own: Floats, reference: Floats, seed: int) -> dict[str, Any]:
    """Return a measure's judgements [judgement, target] over the targets, and what it gains."""
    found = dict(zip(JUDGEMENTS, own, strict=True))
    found["over_default"] = own[0] - reference[0]  # on the same targets: weighted taus
    out: dict[str, Any] = {"targets": int(np.isfinite(own[0]).sum())}
    for name, values in found.items():
        for end, value in zip(ENDS, interval(values, seed), strict=True):
            out[name + end] = _plain(float(value))
    return out


def _worst_last(row: Mapping[str, Any]) -> float:
    tau: float | None = row[JUDGEMENTS[0]]
    return math.inf if tau is None else -tau


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
