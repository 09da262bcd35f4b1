"""The published schemas are current, and the files that people write by hand fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from protocol.runfiles import MetricsFile, RunFile, json_schemas, write_schemas

from .conftest import Case

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
EXAMPLES: dict[str, dict[str, Any]] = {
    "run": {
        "mode": "simulation",
        "spec": {"name": "tiny", "digest": "0" * 64},
        "sites": [{"site": "north", "task": "tissue", "images": 40, "classes": ["a"]}],
        "left_out": [{"site": "node 7", "reason": "no-reply"}],
        "seed": 0,
        "versions": {"fedprint": "0.1.0"},
        "started": "2026-11-21T12:00:00Z",
        "python": "3.11",
    },
    "groups": {
        "groups": [{"name": "group-1", "sites": ["north", "south"]}],
        "sites": {
            "north": {
                "reason": "nearest to south",
                "margin": 0.4,
                "stability": None,
                "partners": [{"site": "south", "distance": 0.9, "percentile": 1.0, "rank": 1}],
            }
        },
    },
    "recommendations": {
        "sites": {"north": {"co-training": [{"rank": 1, "source": "south", "distance": 0.9}]}}
    },
    "metrics": {
        "sites": {"north": {"alone": 0.5, "grouped": 0.7, "final": 0.7, "kept": "grouped"}},
        "mean": {"alone": 0.5},
    },
}


def test_the_published_schemas_are_current(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write_schemas(tmp_path)}
    published = {path.name: path.read_text() for path in SCHEMAS.glob("*.json")}
    assert published == written, "run: python -m protocol.runfiles docs/schemas"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_fit(name: str) -> None:
    jsonschema.validate(EXAMPLES[name], json_schemas()[name])


def test_specs_and_statements_fit(case: Case) -> None:
    schemas = json_schemas()
    verified = case.verify()
    for name, model in (
        ("spec", case.spec),
        ("trust", case.store),
        ("release", verified.statement),
        ("card", verified.card),
    ):
        jsonschema.validate(model.model_dump(mode="json", by_alias=True), schemas[name])


def test_further_keys_survive() -> None:
    run = RunFile.model_validate(EXAMPLES["run"])
    assert json.loads(run.model_dump_json())["python"] == "3.11"
    with pytest.raises(ValueError, match="less than or equal to 1"):
        MetricsFile.model_validate({"sites": {"north": {"alone": 50.0}}})
