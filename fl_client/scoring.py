"""Models of other sites on this site's own images: checked, run, scored.

Scores are of the training images only: validation and test data decide on models later, and must
not have had a say before.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from fl_client.learner import Learner
from fl_client.start import require_arrays
from fl_client.training import batches
from protocol.errors import BadShape, DigestMismatch, FedprintError, NotFinite
from protocol.scores import MOST_SCORE, ModelScores
from protocol.sharing import BODY, HEAD, Arrays
from protocol.weights import body_of, weights_sha256
from strategies.transferability import score_model

UNDEFINED = "undefined"
"""Reason code of a model of which no score is defined on the site's data."""
MOST_CLASSES = 10_000
DIGITS = 6
"""Significant digits of a score that leave: more differ from machine to machine, and only tell."""
_BATCH = 256

Labels = NDArray[np.int64]


def score(learner: Learner, model: Arrays, sha256: str) -> ModelScores:
    """Return how well a model of another site fits this site's training images.

    Parameters
    ----------
    learner : Learner
        The site's.
    model : dict
        What came: body and head rows by array name.
    sha256 : str
        The digest that it was announced with.

    Returns
    -------
    ModelScores
        Without values, and with a reason code, where the model cannot be scored.
    """
    try:
        require_model(learner, model, sha256)
        labels = learner.data.labels[learner.data.splits["train"]]  # [n]
        values = score_model(*outputs(learner, model), labels)
    except (FedprintError, ArithmeticError, ValueError) as error:  # the latter are numpy's, scipy's
        return ModelScores(model=sha256, unscored=str(getattr(error, "reason", UNDEFINED)))
    usable = {name: value for name, value in values.items() if abs(value) <= MOST_SCORE}  # no NaN
    rounded = {name: float(f"{value:.{DIGITS}g}") for name, value in usable.items()}
    return ModelScores(model=sha256, values=rounded, unscored="" if rounded else UNDEFINED)


def require_model(learner: Learner, model: Arrays, sha256: str) -> None:
    """Raise unless arrays are a model of the site's own network, with the digest that was said.

    Parameters
    ----------
    learner : Learner
        Its network and recipe must be those of the model.
    model : dict
        What came, by array name.
    sha256 : str
        What it was announced with.

    Raises
    ------
    BadShape, BadDtype, NotFinite, DigestMismatch
        Saying what is amiss.
    """
    body, width = learner.network()
    rows = [name for name in model if name.startswith(HEAD)]
    if not 2 <= len(rows) <= MOST_CLASSES:
        raise BadShape(f"the model has {len(rows)} classes, 2 to {MOST_CLASSES} can be scored")
    shapes = {BODY + name: tuple(p.shape) for name, p in body.named_parameters()}
    require_arrays(model, shapes | dict.fromkeys(rows, (width + 1,)), "model")
    if (found := weights_sha256(model)) != sha256:
        raise DigestMismatch(f"the model has SHA-256 {found[:12]}, not {sha256[:12]} as announced")


def outputs(learner: Learner, model: Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what a model makes of the site's training images.

    Parameters
    ----------
    learner : Learner
        The site's data and device.
    model : dict
        Body and head rows, checked.

    Returns
    -------
    embeddings : ndarray of float64, shape [n, h]
        Of the model's body.
    probabilities : ndarray of float64, shape [n, classes]
        Of the model's own classes, in the order of their arrays' names.

    Raises
    ------
    NotFinite
        If finite weights give what is not finite.
    """
    body, _ = learner.network()
    state = {name.removeprefix(BODY): torch.from_numpy(a) for name, a in body_of(model).items()}
    body.load_state_dict(state, strict=False)  # statistics of batch norm are the backbone's
    body.to(learner.device).eval()
    images = batches(learner.data.evaluation, learner.data.splits["train"], _BATCH)
    with torch.inference_mode():
        answers = [body(x.to(learner.device)).cpu() for x, _ in images]
    embeddings = torch.cat(answers).double().numpy()  # [n, h]
    rows = np.stack([model[name] for name in sorted(model) if name.startswith(HEAD)])  # [c, h + 1]
    if not np.isfinite(embeddings).all():
        raise NotFinite("the model's embeddings of the site's images are not finite")
    logits = embeddings @ rows[:, :-1].T.astype(np.float64) + rows[:, -1]  # [n, c]
    return embeddings, softmax(logits, axis=1)
