"""The task card: the public description of a task, as its site words it."""

from __future__ import annotations

from typing import Annotated

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    modality: Text = ""
    anatomy: Text = ""
    keywords: Annotated[list[Text], Field(max_length=100)] = []
    objective: Text = "classification"
    classes: Annotated[list[ClassCard], Field(max_length=10_000)] = []
    shares_weights: bool = False


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
