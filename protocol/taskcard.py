"""The task card: the public description of a task, as its site words it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(max_length=200)]

Objective = Literal["classification", "multilabel", "ordinal", "segmentation"]
"""What is learnt of an image: its class, all classes that it shows, its grade, its regions."""

ONE_CLASS: tuple[Objective, ...] = ("classification", "ordinal")
"""Objectives that give each image exactly one class, which scores of models take for granted."""


class ClassCard(BaseModel):
    """One class of a task.

    Parameters
    ----------
    name : str
        The site's own name of the class.
    code : str or None
        Code of a public vocabulary such as SNOMED CT, which beats the name when sites are matched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    code: Text | None = None


class TaskProperties(BaseModel):
    """What an expert says of a task's images; None is not known.

    Parameters
    ----------
    origin : {"natural", "medical"}
        Photographs of the world, or images made for medicine.
    colour : {"grey", "colour"}
        Whether colour tells something.
    shows : {"texture", "object"}
        What tells the classes apart: a surface, or a thing with a shape.
    kind : str
        Free word for what is told apart, such as ``"organ"`` or ``"artefact"``.
    diversity : {"low", "medium", "high"}
        How much images of one class differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: Literal["natural", "medical"] | None = None
    colour: Literal["grey", "colour"] | None = None
    shows: Literal["texture", "object"] | None = None
    kind: Text | None = None
    diversity: Literal["low", "medium", "high"] | None = None


class TaskCard(BaseModel):
    """Public description of a task.

    Parameters
    ----------
    name : str
        Name of the task.
    modality, anatomy : str
        Free text, empty when unknown.
    keywords : list of str
        Free keywords.
    objective : {"classification", "multilabel", "ordinal", "segmentation"}
        What is learnt; sites of different objectives are never trained together.
    classes : list of ClassCard
        The classes that the site holds, in the order of its labels.
    order : list of str
        Names of all grades of an ordinal task from the lowest to the highest, held or not; its
        classes are some of them, in this order. Empty for every other objective.
    shares_weights : bool
        Whether weights that were trained on its images may be handed on to other groups and runs.
    properties : TaskProperties
        What an expert says of the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    modality: Text = ""
    anatomy: Text = ""
    keywords: Annotated[list[Text], Field(max_length=100)] = []
    objective: Objective = "classification"
    classes: Annotated[list[ClassCard], Field(max_length=10_000)] = []
    order: Annotated[list[Text], Field(max_length=10_000)] = []
    shares_weights: bool = False
    properties: TaskProperties = TaskProperties()

    @model_validator(mode="after")
    def _has_grades_in_order(self) -> Self:
        names = [held.name for held in self.classes]
        if (self.objective == "ordinal") != bool(self.order):
            raise ValueError("an order of grades belongs to an ordinal task, and to no other")
        if len(set(self.order)) < len(self.order):
            raise ValueError("order names a grade twice")
        if self.order and names != [grade for grade in self.order if grade in set(names)]:
            raise ValueError("the classes of an ordinal task must be grades of its order, in order")
        return self

    @property
    def ranks(self) -> list[int]:
        """Places of an ordinal task's classes among all grades, ascending; of others nothing."""
        return [self.order.index(held.name) for held in self.classes] if self.order else []


def class_keys(card: TaskCard) -> tuple[str, ...]:
    """Return what two sites must agree on to mean the same class, one key a class.

    Parameters
    ----------
    card : TaskCard
        The card of one site.

    Returns
    -------
    tuple of str
        The code where one is given, else the name in lower case without outer white space.
    """
    return tuple((c.code or "").strip() or c.name.strip().lower() for c in card.classes)
