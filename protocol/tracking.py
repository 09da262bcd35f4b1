"""Where metrics are written for people to watch: TensorBoard's files, or MLflow.

Both are written through Lightning's loggers. Lightning brings torch along, which this room does
without: who tracks hands in the module ``pytorch_lightning.loggers``.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from protocol.errors import ConfigError
from protocol.names import slug

Kind = Literal["tensorboard", "mlflow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXPERIMENT = "fedprint"
DATABASE = "mlflow.db"
_NAMED = "fedprint.run"
"""Tag by which a later message of the same training finds its run again."""

log = logging.getLogger("fedprint")


def require_installed(kind: str) -> None:
    """Raise unless what writes these metrics is installed.

    Raises
    ------
    ConfigError
        Naming what to install.
    """
    if find_spec(kind) is None:
        raise ConfigError(f"{kind} is not installed: run `pip install 'fedprint[{kind}]'`")


@dataclass(frozen=True)
class Tracking:
    """Where metrics go.

    Attributes
    ----------
    kind : {"tensorboard", "mlflow"}
        What writes them.
    to : str
        A folder; for MLflow it holds a database, or this is the URI of a server or database.
    """

    kind: Kind
    to: str

    @property
    def uri(self) -> str:
        """MLflow's address: as given, else a database in the folder."""
        return self.to if "://" in self.to else f"sqlite:///{Path(self.to).resolve() / DATABASE}"

    def open(self, loggers: Any, *name: str) -> Series:
        """Open the metrics of one training; opened again by the same name, they go on.

        Parameters
        ----------
        loggers : module
            ``pytorch_lightning.loggers``.
        *name : str
            What is tracked, such as a run and its arm; may hold anything.

        Raises
        ------
        ConfigError
            If it is not installed, or nothing can be written there.
        """
        require_installed(self.kind)
        called = slug(*name)
        try:
            with _OPENING:
                made = _OPEN[self.kind](loggers, self, called)
        except Exception as error:  # OSError, SQLAlchemy's, MLflow's, requests' errors
            raise ConfigError(
                f"cannot track to {_without_password(self.to)} by {self.kind}: {_first_line(error)}"
            ) from None  # whose text may hold the password
        return Series(called, made)


@dataclass
class Series:
    """Metrics of one training over its steps.

    What cannot be written later on costs no training: it is said once, and then no more is tried.
    """

    name: str
    logger: Any
    _works: bool = field(default=True, repr=False)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a step."""
        if not self._works:
            return
        try:
            with _OPENING:
                self.logger.log_metrics(dict(metrics), step)
                self.logger.save()
        except Exception as error:
            self._works = False
            log.warning("tracking of %s ends here: %s", self.name, _first_line(error))

    def close(self) -> None:
        """Write what is waiting; MLflow's run counts as finished."""
        if not self._works:
            return
        try:
            with _OPENING:
                self.logger.finalize("success")
        except Exception as error:
            log.warning("tracking of %s ends here: %s", self.name, _first_line(error))


_OPENING = threading.Lock()  # groups train side by side, and share one database


def _open_tensorboard(loggers: Any, tracking: Tracking, name: str) -> Any:
    if "://" in tracking.to:
        raise ValueError("TensorBoard writes into a folder, not to a URI")
    logger = loggers.TensorBoardLogger(tracking.to, name=name, version="")
    _ = logger.experiment  # makes the folder, or says why not
    return logger


def _open_mlflow(loggers: Any, tracking: Tracking, name: str) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
    for noisy in ("mlflow", "alembic", "pytorch_lightning.loggers.mlflow"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if "://" not in tracking.to:
        Path(tracking.to).mkdir(parents=True, exist_ok=True)
    earlier = _earlier(importlib.import_module("mlflow").MlflowClient(tracking.uri), name)
    logger = loggers.MLFlowLogger(
        EXPERIMENT,
        run_name=name,
        run_id=earlier,
        tracking_uri=tracking.uri,
        tags=None if earlier else {_NAMED: name},
    )
    _ = logger.experiment  # makes the run, or says why not
    return logger


def _earlier(client: Any, name: str) -> str | None:
    """Return MLflow's id of the run that an earlier message began."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    same = f"tags.`{_NAMED}` = '{name}'"  # a slug: nothing in it could end the quotes
    found = client.search_runs([experiment.experiment_id], same) if experiment else []
    return str(found[0].info.run_id) if found else None


_OPEN = {"tensorboard": _open_tensorboard, "mlflow": _open_mlflow}


def _first_line(error: Exception) -> str:
    return _without_password((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _without_password(text: str) -> str:
    """Return a text without what stands between a URI's user and its host."""
    return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:***@", text)
