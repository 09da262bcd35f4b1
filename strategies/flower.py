"""Stock Flower strategies by name, or any factory of the user's, made for one group."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.serverapp import strategy as stock
from flwr.serverapp.strategy import Strategy

from protocol.errors import ConfigError

Factory = Callable[..., Strategy]


@dataclass(frozen=True)
class StrategyMaker:
    """How to make the strategy of a group.

    Attributes
    ----------
    name : str
        As the user gave it.
    factory : callable
        Takes the keyword arguments of `FedAvg`.
    linear : bool
        Whether it aggregates by a weighted mean, so that sites with differing label sets may
        share head rows (see `protocol.sharing.scale_rows`).
    """

    name: str
    factory: Factory
    linear: bool

    def make(self, *, proximal_mu: float = 0.0) -> Strategy:
        """Make a strategy that trains on every node its grid shows and asks for no evaluation.

        The minima are 1, because a group's grid shows only its nodes: a strategy that insists on
        more waits for ever once a node is lost.
        """
        options: dict[str, Any] = {
            "fraction_train": 1.0,
            "fraction_evaluate": 0.0,
            "min_train_nodes": 1,
            "min_evaluate_nodes": 0,
            "min_available_nodes": 1,
        }
        if self.name == "fedprox":
            options["proximal_mu"] = proximal_mu
        return self.factory(**options)


# Their aggregate is a weighted mean, or a server step along the weighted mean's pseudo-gradient.
LINEAR: dict[str, Factory] = {
    "fedadagrad": stock.FedAdagrad,
    "fedadam": stock.FedAdam,
    "fedavg": stock.FedAvg,
    "fedavgm": stock.FedAvgM,
    "fedprox": stock.FedProx,
    "fedyogi": stock.FedYogi,
}
ROBUST: dict[str, Factory] = {
    "bulyan": stock.Bulyan,
    "fedmedian": stock.FedMedian,
    "fedtrimmedavg": stock.FedTrimmedAvg,
    "krum": stock.Krum,
    "multikrum": stock.MultiKrum,
}


def strategy_maker(name: str) -> StrategyMaker:
    """Find a strategy by name, or import ``package.module:factory``.

    A factory of the user's gets the keyword arguments of `FedAvg`; it may set the attribute
    ``linear = True`` to let sites with differing label sets share head rows.

    Raises
    ------
    ConfigError
        If there is no such strategy or the factory cannot be imported.
    """
    key = name.strip().lower()
    if key in LINEAR or key in ROBUST:
        return StrategyMaker(key, {**LINEAR, **ROBUST}[key], key in LINEAR)
    if ":" not in name:
        known = ", ".join(sorted({**LINEAR, **ROBUST}))
        raise ConfigError(
            f"unknown strategy {name!r}: take one of {known}, or package.module:factory"
        )
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"strategy {name!r} cannot be imported: {reason}") from error
    if not callable(factory):
        raise ConfigError(f"strategy {name!r} is not callable")
    return StrategyMaker(name, factory, bool(getattr(factory, "linear", False)))
