"""Checks of the model cards: they must be what the run folder's files give."""

from __future__ import annotations

from collections.abc import Iterator

from fl_server.verify_evidence import Broken, Evidence, Finding, strange_files
from fl_server.verify_results import writer
from fl_server.weights_out import MODELS, model_files


def check_models(evidence: Evidence) -> Iterator[Finding]:
    """Make cards and handed-on weights again; runs of before there were any have none.

    Those of a model that is missing cannot be made: that the model is missing is found elsewhere.
    """
    if strange := next(strange_files(evidence.run), None):  # what they are made of is opened below
        raise Broken(*strange)
    there = sorted(path for path in (evidence.run / MODELS).glob("*/*") if path.is_file())
    if not there:
        return
    wanted, written_by = dict(model_files(evidence.run)), writer(evidence)
    for path in there:
        name = path.relative_to(evidence.run / MODELS).as_posix()
        if not path.parent.with_suffix(".safetensors").is_file():
            continue
        if evidence.read(f"{MODELS}/{name}") != wanted.get(name):
            yield Finding(f"{MODELS}/{name}", f"is not what the run's files give{written_by}")
