"""What sites send as the models that they trained alone: sorted out before anybody scores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flwr.app import RecordDict

from fl_server.asking import Problem
from fl_server.backbone import FLOAT32, only_arrays
from protocol.names import printable
from protocol.sharing import BODY, HEAD, HIDDEN, Arrays, Recipe, row_name
from strategies.replies import flaw

__all__ = ["body_shapes", "model_of", "only_model"]

Shapes = Mapping[str, tuple[int, ...]]


def only_model(content: RecordDict) -> RecordDict:
    """Return the model that an answer holds, body and head, see `only_arrays`."""
    return only_arrays(content, "model", BODY, HEAD)


def body_shapes(recipe: Recipe, features: int) -> Shapes | None:
    """Return the shapes of a body's arrays; None where only the sites know their network."""
    if recipe != "adapter":
        return None
    return {f"{BODY}weight": (HIDDEN, features), f"{BODY}bias": (HIDDEN,)}


def model_of(content: RecordDict, classes: Collection[str], shapes: Shapes | None) -> Arrays:
    """Return the arrays of a model that `only_model` let pass.

    Parameters
    ----------
    content : RecordDict
        The answer.
    classes : collection of str
        Keys of the classes on the site's signed card: the model has a head row of each, no other.
    shapes : mapping or None
        Of the body's arrays, see `body_shapes`.

    Raises
    ------
    Problem
        If it is no such model, or not finite.
    """
    model = content.array_records["arrays"]
    rows = {row_name(key) for key in classes}
    body = model.keys() - rows
    if not rows <= model.keys() or not all(name.startswith(BODY) for name in body) or not body:
        raise Problem("malformed-message", "sent a model of other classes than its card names")
    if shapes is not None and body != shapes.keys():
        raise Problem("bad-shape", "sent a model with another body than the run trains")
    for name, array in model.items():
        wanted = (shapes or {}).get(name, array.shape)
        if why := flaw(array, wanted, FLOAT32):
            raise Problem("malformed-message", f"sent {printable(name, 100)} {why}")
    return {name: array.numpy() for name, array in model.items()}
