"""A finished run folder, read back and checked, so that sites which come later can join it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord
from pydantic import BaseModel, ValidationError

from fl_server.amend import settle
from fl_server.exchange import Exchange, Release
from fl_server.models import load_model
from fl_server.release import ENDINGS
from fl_server.runfolder import CHECKPOINT
from fl_server.runlog import RunLog, participants
from fl_server.settings import FREE, RunSettings
from protocol.errors import BadLog, ConfigError, DataError, DigestMismatch, one_line
from protocol.files import sha256_hex
from protocol.keys import Signer
from protocol.log import Log, check_files, read_log
from protocol.runfiles import GroupsFile, MetricsFile, RecommendationsFile, RunFile
from protocol.sharing import GroupPlan
from protocol.spec import Spec, load_spec
from protocol.trust import TrustStore
from protocol.verify import verify_local

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Reopened:
    """What a finished run left.

    Attributes
    ----------
    folder : Path
        The run folder.
    run, groups, recommendations, metrics
        Its JSON files; metrics is None where nothing was trained.
    spec : Spec
        Of all its fingerprints.
    releases : dict
        By site, as they were verified in the run; node ids are unknown, hence 0.
    models : dict
        Final arrays of the groups that trained, by name of the plan.
    log : Log
        The transparency log.
    """

    folder: Path
    run: RunFile
    spec: Spec
    releases: dict[str, Release]
    groups: GroupsFile
    recommendations: RecommendationsFile
    metrics: MetricsFile | None
    models: dict[str, ArrayRecord]
    log: Log

    @property
    def plans(self) -> list[GroupPlan]:
        """What each group shared in the arm ``grouped``."""
        return _plans(self.metrics)

    def exchange(self, store: TrustStore, signer: Signer) -> Exchange:
        """Return the run's exchange under the present trust store, to go on with."""
        return Exchange(
            *(self.run.run, self.spec, store, signer),
            releases=dict(self.releases),
            left_out=list(self.run.left_out),
            terms=self.settings(RunSettings()).terms,
            log=RunLog(self.log.lines),
        )

    def settings(self, asked: RunSettings) -> RunSettings:
        """Return the run's settings; only what changes no result is taken from those asked for."""
        free = {name: value for name, value in asked.model_dump().items() if name in FREE}
        before = {"release": "plain", **self.run.settings}  # all were, before there was a choice
        return RunSettings.model_validate({**before, **free})


def reopen(run: Path, coordinator_pem: str) -> Reopened:
    """Read a finished run folder; every byte must be as its signed log says.

    The releases are those that the log names. They were verified, nonce included, when they came;
    whether a key is still good now is no matter of what was done then.

    Parameters
    ----------
    run : Path
        The run folder; a join that was interrupted while it was written is ended first.
    coordinator_pem : str
        Public key of the coordinator, whose log it must be.

    Raises
    ------
    ConfigError
        If the folder holds no finished run.
    VerificationError
        If the log is not the coordinator's, or a file is not as it was when the log was closed.
    DataError
        If a file cannot be read by this version.
    """
    settle(run)
    if not (run / CHECKPOINT).is_file():
        raise ConfigError(f"{run} holds no finished run that a site could join: run it to its end")
    log = read_log(run, coordinator_pem)
    if differs := check_files(run, log):
        more = f" and {len(differs) - 1} more" if differs[1:] else ""
        raise BadLog(
            f"{run} is not as it was when its log was closed ({differs[0]}{more}): take an "
            "unharmed copy of the run folder"
        )
    spec = load_spec(run / "spec.json")
    metrics = _read(run / "metrics.json", MetricsFile) if (run / "metrics.json").exists() else None
    return Reopened(
        folder=run,
        run=_read(run / "run.json", RunFile),
        spec=spec,
        releases=_releases(run / "fingerprints", log, spec),
        groups=_read(run / "groups.json", GroupsFile),
        recommendations=_read(run / "recommendations.json", RecommendationsFile),
        metrics=metrics,
        models=_models(run / "models", _plans(metrics)),
        log=log,
    )


def _read(path: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is not as it should be: {one_line(error)}") from None


def _releases(folder: Path, log: Log, spec: Spec) -> dict[str, Release]:
    named = participants(json.loads(line) for line in log.lines)
    return {site: _release(folder, entry, spec) for site, entry in named.items()}


def _release(folder: Path, entry: Mapping[str, Any], spec: Spec) -> Release:
    """Return one release, which must be the one that was verified and entered in the log."""
    site = entry["site"]
    payload, envelope, binding = (
        (folder / f"{site}{ending}").read_bytes() for ending in ENDINGS.values()
    )
    verified = verify_local(folder, site, spec)
    found = (verified.key_id, sha256_hex(payload), sha256_hex(envelope))
    if found != (entry["key"], entry["payload"], entry["release"]):
        raise DigestMismatch(f"the release of {site} is not the one that the log names")
    return Release(0, replace(verified, enrolled=True), payload, envelope, binding)


def _plans(metrics: MetricsFile | None) -> list[GroupPlan]:
    plans = ((metrics.model_extra or {}) if metrics else {}).get("plans", {})
    return [GroupPlan.model_validate(plan) for plan in plans.get("grouped", [])]


def _models(folder: Path, plans: list[GroupPlan]) -> dict[str, ArrayRecord]:
    paths = {plan.group: folder / f"{plan.group}.safetensors" for plan in plans}
    return {
        name: ArrayRecord({array: Array(value) for array, value in load_model(path).items()})
        for name, path in paths.items()
        if path.is_file()
    }
