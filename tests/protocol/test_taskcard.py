"""What a task card may say of what is learnt."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from protocol.errors import one_line
from protocol.taskcard import ClassCard, TaskCard


def fails(**card: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TaskCard.model_validate({"name": "t", **card})
    return one_line(caught.value)


def test_objectives_are_a_closed_set() -> None:
    assert TaskCard(name="t").objective == "classification"
    assert fails(objective="regression") == (
        "objective: Input should be 'classification', 'multilabel', 'ordinal' or 'segmentation'"
    )


def test_classes_of_an_ordinal_task_are_grades_in_order() -> None:
    held = [ClassCard(name="none"), ClassCard(name="severe")]
    order = ["none", "mild", "severe"]
    card = TaskCard(name="t", objective="ordinal", classes=held, order=order)
    assert card.ranks == [0, 2]
    assert TaskCard(name="t", classes=held).ranks == []
    assert TaskCard.model_validate_json(card.model_dump_json()) == card
    only = "an order of grades belongs to an ordinal task, and to no other"
    assert fails(objective="ordinal", classes=held) == only
    assert fails(classes=held, order=order) == only
    assert fails(objective="ordinal", order=["a", "a"]) == "order names a grade twice"
    wrong = "the classes of an ordinal task must be grades of its order, in order"
    for classes in (held[::-1], [*held, ClassCard(name="worse")], [held[0], held[0]]):
        assert fails(objective="ordinal", classes=classes, order=order) == wrong
