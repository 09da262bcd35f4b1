"""``fedprint pool query`` and ``recommend``: what is near to a task, and what to try on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from fl_server.pool_commands import JsonOut, Where
from fl_server.tables import show_table
from protocol.files import atomic_json

Asking = Annotated[
    str,
    typer.Argument(
        help="First digits of a task's id; or a release, NAME.dsse.json with its files beside it.",
        metavar="TARGET",
    ),
]
MEASURE = "bkld-large-source"  # fl_server.pool_nearest says why; importing it takes a second
MeasureName = Annotated[str, typer.Option(help="Distance between tasks.")]
Device = Annotated[
    str,
    typer.Option(help="What searches: auto, cpu, cuda, mps or faiss; all find the same."),
]


class ScenarioName(StrEnum):
    """What kind of knowledge is handed over."""

    ARCHITECTURE = "architecture"
    PRETRAINING = "pretraining"
    AUGMENTATION = "augmentation"
    CO_TRAINING = "co-training"


def query(
    pool: Where,
    target: Asking,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    measure: MeasureName = MEASURE,
    device: Device = "auto",
    json_out: JsonOut = None,
) -> None:
    """Show the tasks whose fingerprints are nearest to one.

    Distances compare within one target only; PERCENTILE is the share of tasks that are not nearer.
    """
    from fl_server.pool.session import open_pool
    from fl_server.pool_nearest import described, find_near, require_somebody
    from fl_server.pool_target import read_target

    with open_pool(pool) as opened:
        with opened.reading() as session:
            asking = read_target(session, target)
        near = find_near(opened, asking, top, measure, exclude=[asking.task.id], device=device)
        require_somebody(opened, near.candidates, asking.spec.name)
        rows = described(opened, near)
    if json_out is not None:
        said = {"target": asking.to_json(), "measure": measure, "candidates": near.candidates}
        atomic_json(json_out, {**said, "nearest": rows})
    show_table(
        f"nearest to {asking.task.name} of {asking.task.site}, of {near.candidates} tasks",
        ["", "id", "site", "task", "distance", "percentile", "images", "what"],
        [
            [
                str(row["place"]),
                row["id"][:12],
                row["site"],
                row["name"],
                f"{row['distance']:.6f}",
                f"{row['percentile']:.1%}",
                str(row["images"]),
                _card(row["card"]),
            ]
            for row in rows
        ],
    )


def recommend(
    pool: Where,
    target: Asking,
    scenario: Annotated[
        list[ScenarioName] | None,
        typer.Option(help="What kind of knowledge; repeatable, else all four."),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Suggestions a scenario.")] = 3,
    measure: MeasureName = MEASURE,
    seed: Annotated[int, typer.Option(min=0, help="Of which doubtful ones are tried.")] = 0,
    device: Device = "auto",
    json_out: JsonOut = None,
) -> None:
    """Suggest what to try on a task, in rank order, and say why.

    By nearness while nothing was measured; then by what came of it on other
    tasks, never by what was measured on TARGET itself. "Better than typical"
    compares with what else could be tried, not with training without it.

    TARGET: first digits of an id (fedprint pool list), or NAME.dsse.json.
    """
    from fl_server import api

    wanted = [each.value for each in scenario or ()]
    found = api.recommend(
        target, pool, scenarios=wanted, shots=shots, measure=measure, seed=seed, device=device
    )
    if json_out is not None:
        atomic_json(json_out, found.to_json())
    for table in found.tables():
        show_table(table.title, table.columns, table.rows)


def _card(card: dict[str, object]) -> str:
    from protocol.names import printable

    said = [str(card[name]) for name in ("modality", "anatomy") if card.get(name)]
    words = card.get("keywords")
    said += [str(word) for word in words] if isinstance(words, list) else []
    return printable(", ".join(dict.fromkeys(said)), 80)
