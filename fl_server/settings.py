"""What one run was asked to do: the run-config of Flower, validated once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from protocol.descriptors import KINDS, Kind
from protocol.errors import ConfigError
from protocol.presets import PRESETS
from protocol.privacy import (
    DELTA,
    EPSILON,
    LEAST_DELTA,
    LEAST_EPSILON,
    MOST_DELTA,
    MOST_EPSILON,
    AskedTerms,
)
from strategies.measures import get

Arm = Literal["alone", "together", "random", "grouped", "planned"]
ARMS: tuple[Arm, ...] = get_args(Arm)
COMPARED: tuple[Arm, ...] = ("alone", "together", "random", "grouped")
"""Arms of a run that asks for none in particular: trials for plans cost several trainings more."""
Stage = Literal["architecture", "augmentation", "pretraining"]
SCENARIOS: tuple[Stage, ...] = get_args(Stage)
"""In this order: each scenario is tried on top of what was chosen before."""
SPECS = {"plain": "lite0-100", "private": "lite0-private"}
"""Which shipped spec is made for which release."""
FREE = (
    *("mode", "min_sites", "quorum", "device", "out", "server_dir", "sites_dir"),
    *("timeout", "connect_timeout", "exchange_timeout", "train_timeout", "await_approval"),
    *("pool", "track"),
)
"""Settings that may differ when a run is resumed: none of them changes what it computes."""
IF_ASKED = ("descriptors", "scores")
"""Settings that a run's log has only where they ask for something: older runs knew none of them."""
OF_PLANS = ("scenarios", "shots", "preset", "crop")
"""Settings that nothing depends on in a run without the arm ``planned``."""


class RunSettings(BaseModel):
    """Settings of one run; the names are those of ``[tool.flwr.app.config]``, kebab-case there.

    Attributes
    ----------
    arms : tuple of str
        Trainings that are compared on the same budget; empty exchanges fingerprints only.
    scenarios : tuple of str
        What the arm ``planned`` tries before it: architecture, augmentation, pretraining.
    shots : int
        Suggestions to try in each scenario; every site of a group trains each at the whole budget.
    preset : str
        Named candidates among which architectures are tried where no pool suggests one.
    crop : int
        Pixels that every architecture sees of an image; 0 takes those of the run's spec.
    learning_rate : float
        Step size of local training; 0 takes the recipe's default, negative asks Lightning's finder.
    max_group_size : int
        Largest group; 0 means no limit.
    mode : str
        ``run``; ``exchange``: fingerprints, distances and groups, no training; or ``join``: take
        the sites that came after a finished run into its groups.
    release : str
        What sites are asked for: ``private`` (noised counts) or ``plain`` ones. Empty stands for
        private in a deployment and in an exchange, plain otherwise, and is replaced by it.
    epsilon, delta : float
        Most that one private release may reveal; a site's policy may allow less.
    spec : str
        What to fingerprint with; empty is replaced by the spec made for such releases.
    groups : str
        What counts as alike: the ``task``, whatever the images' look, or the ``data``.
    scores : bool
        Have every site score the models that the others trained alone on its own training images,
        those whose task cards let weights travel. A measure of such scores turns it on by itself.
    suspects : str
        ``warn`` of fingerprints that cannot be honest, or ``leave-out`` their sites.
    server_dir : str
        The coordinator's folder (``fedprint server init``); every deployment needs it.
    descriptors : tuple of str
        What sites are asked for beside the fingerprint: ``moments``, ``class-moments``, ``fisher``,
        and in a simulation ``features``; what the measure needs is asked for anyway.
    quorum : int
        Fewest sites to go on with once a deadline has passed.
    timeout : float
        Seconds that one phase may wait for the sites' replies.
    connect_timeout, exchange_timeout, train_timeout : float
        The same for one kind of phase; 0 means `timeout`, and is replaced by it.
    await_approval : float
        Seconds to wait for people at the sites to approve a release; 0 goes on without them.
    track : str
        ``tensorboard`` or ``mlflow``: write metrics for people to watch, see `fl_server.tracking`.
        The sites of a simulation do the same; deployed ones go by their own ``site.toml``.
    pool : str
        Knowledge pool that advises the run and takes it in when it is finished: a SQLite file, or
        a PostgreSQL URL, whose password is better in ``PGPASSWORD`` or ``~/.pgpass``: command lines
        can be read by others. Empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    mode: Literal["run", "exchange", "join"] = "run"
    sites_dir: str = ""
    server_dir: str = ""
    out: str = "runs/flower"
    release: Literal["", "plain", "private"] = ""
    epsilon: float = Field(EPSILON, ge=LEAST_EPSILON, le=MOST_EPSILON)
    delta: float = Field(DELTA, ge=LEAST_DELTA, le=MOST_DELTA)
    spec: str = ""
    groups: Literal["task", "data"] = "task"
    suspects: Literal["warn", "leave-out"] = "warn"
    measure: str = "bkld-large-unweighted"
    descriptors: tuple[Kind, ...] = ()
    scores: bool = False
    strategy: str = "fedavg"
    recipe: Literal["adapter", "fine-tune"] = "adapter"
    arms: tuple[Arm, ...] = COMPARED
    scenarios: tuple[Stage, ...] = SCENARIOS
    shots: int = Field(2, ge=1, le=20)
    preset: str = "offline"
    crop: int = Field(0, ge=0, le=512)
    rounds: int = Field(10, ge=1, le=10_000)
    local_epochs: int = Field(4, ge=1, le=1_000)
    batch_size: int = Field(16, ge=1, le=4096)
    learning_rate: float = Field(0.0, ge=-1, lt=100)
    proximal_mu: float = Field(0.0, ge=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**31)
    min_group_size: int = Field(1, ge=1)
    max_group_size: int = Field(0, ge=0)
    partners: int = Field(3, ge=1)
    device: str = Field("", pattern=r"^(cpu|mps|cuda(:\d+)?)?$")
    min_sites: int = Field(2, ge=1)
    quorum: int = Field(2, ge=2)
    timeout: float = Field(1800.0, gt=0, allow_inf_nan=False)
    connect_timeout: float = Field(0.0, ge=0, allow_inf_nan=False)
    exchange_timeout: float = Field(0.0, ge=0, allow_inf_nan=False)
    train_timeout: float = Field(0.0, ge=0, allow_inf_nan=False)
    await_approval: float = Field(0.0, ge=0, allow_inf_nan=False)
    track: Literal["", "tensorboard", "mlflow"] = ""
    pool: str = Field("", exclude=True)  # its URL may hold a password: no file of the run has it

    @field_validator("arms", "scenarios", "descriptors", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if not isinstance(value, tuple | list):
            raise ValueError(
                'give names in quotes, with commas between them, such as "alone,grouped"'
            )
        return value

    @field_validator("arms")
    @classmethod
    def _guard_needs_alone(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        """Order the arms and add ``alone``: without it nobody can tell a gain from a loss.

        What a plan gains is told apart from what the group gains by ``grouped``.
        """
        wanted = {*arms, "alone"} if arms else set()
        wanted |= {"grouped"} if "planned" in arms else set()
        return tuple(arm for arm in ARMS if arm in wanted)

    @field_validator("scenarios")
    @classmethod
    def _in_order(cls, scenarios: tuple[Stage, ...]) -> tuple[Stage, ...]:
        return tuple(scenario for scenario in SCENARIOS if scenario in scenarios)

    @field_validator("descriptors")
    @classmethod
    def _each_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if kind in kinds)

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"there is no such preset: take one of {', '.join(PRESETS)}")
        return preset

    @model_validator(mode="before")
    @classmethod
    def _fill_timeouts(cls, values: dict[str, object]) -> dict[str, object]:
        phases = ("connect_timeout", "exchange_timeout", "train_timeout")
        whole = values.get("timeout", cls.model_fields["timeout"].default)
        return values | {phase: values.get(phase) or whole for phase in phases}

    @model_validator(mode="before")
    @classmethod
    def _fill_release(cls, values: dict[str, object]) -> dict[str, object]:
        """Decide what is released: out of doors nothing leaves without noise unless asked."""
        exchange = values.get("mode") == "exchange"
        private = bool(values.get("server_dir")) or exchange
        release = values.get("release") or ("private" if private else "plain")
        spec = values.get("spec", "") or SPECS.get(str(release), "")
        return values | {"release": release, "spec": spec} | ({"arms": ()} if exchange else {})

    @property
    def terms(self) -> AskedTerms:
        """What sites are asked to release under."""
        mode: Literal["plain", "private"] = "private" if self.release == "private" else "plain"
        return AskedTerms(mode=mode, epsilon=self.epsilon, delta=self.delta)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Which descriptors sites are asked for, those that the measure needs among them.

        Raises
        ------
        ConfigError
            If there is no such measure.
        """
        needed = {*self.descriptors, *get(self.measure).needs}
        return tuple(kind for kind in KINDS if kind in needed)

    @property
    def wants_scores(self) -> bool:
        """Whether models are scored: it was asked for, or the measure needs it.

        Raises
        ------
        ConfigError
            If there is no such measure.
        """
        return self.scores or "scores" in get(self.measure).needs

    @property
    def decisive(self) -> dict[str, Any]:
        """All that results depend on, but the spec, which is known by its digest."""
        unused = {
            *(() if "planned" in self.arms else OF_PLANS),
            *(name for name in IF_ASKED if not getattr(self, name)),
        }
        return self.model_dump(mode="json", exclude={*FREE, *unused, "spec"})

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> RunSettings:
        """Read a Flower run-config.

        Raises
        ------
        ConfigError
            Naming the first key whose value cannot be used.
        """
        try:
            return cls.model_validate({key.replace("-", "_"): v for key, v in config.items()})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"][:1]).replace("_", "-")
            fault = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"run-config {key}={first['input']!r}: {fault}") from error
