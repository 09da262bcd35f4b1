"""Strategies by name."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
from flwr.serverapp import strategy as stock

from protocol.errors import ConfigError
from strategies.flower import LINEAR, ROBUST, strategy_maker


@pytest.mark.parametrize("name", [*LINEAR, *ROBUST])
def test_every_name_makes_its_stock_strategy_for_all_nodes_of_a_group(name: str) -> None:
    maker = strategy_maker(f" {name.upper()} ")
    assert (maker.name, maker.linear) == (name, name in LINEAR)
    made = maker.make()
    assert type(made).__name__.lower() == name
    assert isinstance(made, stock.FedAvg)
    assert (made.fraction_train, made.fraction_evaluate) == (1.0, 0.0)
    # more than one would wait for ever for a node that was lost
    assert (made.min_train_nodes, made.min_available_nodes, made.min_evaluate_nodes) == (1, 1, 0)


def test_fedprox_gets_its_mu() -> None:
    made = strategy_maker("fedprox").make(proximal_mu=0.25)
    assert isinstance(made, stock.FedProx)
    assert made.proximal_mu == 0.25


def test_an_unknown_name_lists_the_known() -> None:
    expected = (
        "unknown strategy 'fedmagic': take one of bulyan, fedadagrad, fedadam, fedavg, fedavgm, "
        "fedmedian, fedprox, fedtrimmedavg, fedyogi, krum, multikrum, or package.module:factory"
    )
    with pytest.raises(ConfigError, match=rf"^{re.escape(expected)}$"):
        strategy_maker("fedmagic")


def test_a_factory_of_the_users_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(**options: object) -> stock.FedAvg:
        return stock.FedAvg(**options)  # type: ignore[arg-type]

    def averaging(**options: object) -> stock.FedAvg:
        return stock.FedAvg(**options)  # type: ignore[arg-type]

    averaging.linear = True  # type: ignore[attr-defined]
    module = ModuleType("my_strategies")
    vars(module).update(plain=plain, averaging=averaging, number=3)
    monkeypatch.setitem(sys.modules, "my_strategies", module)

    assert not strategy_maker("my_strategies:plain").linear
    maker = strategy_maker("my_strategies:averaging")
    assert maker.linear
    assert isinstance(maker.make(proximal_mu=1.0), stock.FedAvg)
    with pytest.raises(ConfigError, match=r"^strategy 'my_strategies:number' is not callable$"):
        strategy_maker("my_strategies:number")
    with pytest.raises(ConfigError, match=r"^strategy 'my_strategies:gone' cannot be imported: "):
        strategy_maker("my_strategies:gone")


@pytest.mark.parametrize("name", ["no_such_module:f", "json:nothing", ":", "a:", ":b", "..x:y"])
def test_what_cannot_be_imported_is_an_error_of_one_line(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        strategy_maker(name)
    assert str(caught.value).startswith(f"strategy {name!r} ")
    assert "\n" not in str(caught.value)
