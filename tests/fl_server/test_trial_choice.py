"""What a group is told of its choices."""

from __future__ import annotations

import pytest

from fl_server.trial_choice import choose
from protocol.experiment import Architecture, Scenario
from protocol.plan import Knowledge
from protocol.trials import Scores, Tried


def scores(*auroc: float | None) -> dict[str, Scores]:
    """Scores of sites a, b, ...; the loss falls as AUROC rises."""
    return {
        site: {"val_auroc": value, "val_loss": None if value is None else 1 - value}
        for site, value in zip("abc", auroc, strict=False)
    }


def tried(*auroc: float | None) -> Tried:
    detail = Architecture(name="net-b")
    return Tried(label="net-b", detail=detail, knowledge=Knowledge(), scores=scores(*auroc))


@pytest.mark.parametrize(
    ("baseline", "shot", "expected"),
    [
        ((0.8, 0.7), (0.85, 0.77), "+0.060 +- 0.010."),
        ((0.8, 0.7), (0.8004, 0.7002), "+0.0003 +- 0.0001."),
        ((0.8, 0.7), (0.8, 0.7), "+0.000 +- 0.000: not enough to change what the run does."),
    ],
)
def test_a_gain_is_shown_with_digits_enough(
    baseline: tuple[float, ...], shot: tuple[float, ...], expected: str
) -> None:
    choice, _ = choose("architecture", scores(*baseline), [tried(*shot)], {})
    start = "Best of 1 tried at 2 sites: net-b; mean gain in AUROC on validation data "
    assert choice.sentence == start + expected


@pytest.mark.parametrize(
    ("scenario", "shots", "untried", "expected"),
    [
        ("architecture", [], {"net-b": "why"}, "Nothing was tried: no site could try any of 1."),
        (
            *("pretraining", [], {}),
            "Nothing was tried: there are no weights of this architecture that may be handed on "
            "to this group.",
        ),
        ("augmentation", [], {}, "Nothing was tried: there was nothing to try."),
        ("architecture", [tried(None)], {}, "Nothing was tried that could be compared."),
    ],
)
def test_where_nothing_was_tried_it_says_why(
    scenario: Scenario, shots: list[Tried], untried: dict[str, str], expected: str
) -> None:
    choice, taken = choose(scenario, scores(0.8), shots, untried)
    assert (choice.sentence, taken) == (expected, None)
