"""Measures by name agree with the paper's weights, written out with scipy."""

import re

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from protocol.errors import ConfigError, FedprintError, SpecMismatch
from protocol.fingerprint import Fingerprint
from strategies.measures import LargeUnweighted, Measure, available, get, register, released
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=6, bins=8)
SITES, _ = make_sites([[30, 50], [40], [7]], SPEC)


def expected(name: str, source: Fingerprint, target: Fingerprint) -> float:
    kl = rel_entr(target.rows, softmax(source.rows, axis=1)).sum(axis=1)  # [m]
    source_means = (source.rows * SPEC.centres).sum(axis=1)
    target_means = (target.rows * SPEC.centres).sum(axis=1)
    weights = {
        "bkld-small-target": softmax(target_means),
        "bkld-large-source": np.abs(source_means) / np.abs(source_means).sum(),
        "bkld-large-unweighted": np.full(6, 1 / 6),
    }[name]
    return float((weights * kl).sum())


@pytest.mark.parametrize(
    "name", ["bkld-small-target", "bkld-large-source", "bkld-large-unweighted"]
)
def test_measure_agrees_with_the_formula(name: str) -> None:
    matrix = get(name).matrix(released(SITES[:3], SPEC), released(SITES, SPEC))
    np.testing.assert_allclose(
        matrix, [[expected(name, s, t) for t in SITES] for s in SITES[:3]], rtol=0, atol=1e-9
    )
    assert get(name).direction == "lower"


def test_registry_lists_and_refuses() -> None:
    assert {"bkld-small-target", "bkld-large-source", "bkld-large-unweighted"} <= set(available())
    text = f"unknown measure 'nope': known are {', '.join(available())}"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        get("nope")


def test_another_distance_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.measures.base._REGISTRY", {})

    class Twice(LargeUnweighted):
        name = "twice"

    assert register(Twice) is Twice
    assert available() == ["twice"]
    assert register(Twice) is Twice  # importing a module twice is no fault

    class Other(LargeUnweighted):
        name = "twice"

    with pytest.raises(ConfigError, match=r"^measure 'twice' is registered already: .+$"):
        register(Other)


def test_measure_is_abstract() -> None:
    with pytest.raises(TypeError):
        Measure()  # type: ignore[abstract]


def test_wrong_fingerprints_are_refused() -> None:
    measure = get("bkld-large-unweighted")
    foreign = Fingerprint("b", SITES[0].counts, "f" * 64, 30)
    text = (
        f"fingerprint of b was made by spec {'f' * 12}, not by test ({SPEC.digest[:12]}): "
        "fingerprint it again with the spec of the others"
    )
    with pytest.raises(SpecMismatch, match=f"^{re.escape(text)}$"):
        measure.matrix(released([foreign], SPEC), released(SITES, SPEC))
    narrow = Fingerprint("c", SITES[0].counts[:2], SPEC.digest, 30)
    text = "fingerprint of c has shape (2, 8), but spec test says 6 features x 8 bins"
    with pytest.raises(SpecMismatch, match=f"^{re.escape(text)}$"):
        measure.matrix(released(SITES, SPEC), released([narrow], SPEC))
    text = "there are no fingerprints to compare: give at least one"
    with pytest.raises(FedprintError, match=f"^{re.escape(text)}$"):
        measure.matrix([], released(SITES, SPEC))
