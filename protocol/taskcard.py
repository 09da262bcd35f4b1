"""The task card: the public description of a task, as its site words it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(max_length=200)]


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
    objective : str
        What is learnt; ``"classification"``.
    classes : list of ClassCard
        The classes that the site holds, in the order of its labels.
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
    objective: Text = "classification"
    classes: Annotated[list[ClassCard], Field(max_length=10_000)] = []
    shares_weights: bool = False
    properties: TaskProperties = TaskProperties()


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
