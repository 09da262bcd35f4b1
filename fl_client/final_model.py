"""The model that a site keeps of a run, with its card, where people at the site find it.

It is the site's own: the group's body and the head rows of all of its classes, those that never
left it among them. It lies in ``final/<run>/`` of the state folder, and nothing sends it anywhere.
"""

from __future__ import annotations

import math
from pathlib import Path

from fl_client.models import RunModels, Scores
from fl_client.site import Site
from fl_client.splits import Split
from protocol.files import atomic_write
from protocol.model_card import CARD, WEIGHTS, ModelCard, Score, Trained, named_weights
from protocol.names import slug
from protocol.orders import Order
from protocol.sharing import Arrays
from protocol.spec import Spec

FOLDER = "final"


def final_folder(site: Site, run: str) -> Path:
    """Return where a site's model of a run lies; a run's name comes from elsewhere."""
    return site.state / FOLDER / slug(run)


def card_of(
    site: Site,
    order: Order,
    spec: Spec,
    classes: tuple[str, ...],
    splits: Split,
    scores: Scores,
    arrays: Arrays,
) -> str:
    """Return the card of a model that was trained at a site.

    Parameters
    ----------
    site : Site
        The site.
    order : Order
        What it trained by.
    spec : Spec
        The network that it trained, with the site's own source of its weights.
    classes : tuple of str
        Keys of the site's classes.
    splits : dict
        Indices of ``train``, ``val`` and ``test``.
    scores : dict
        What the model scored.
    arrays : dict of str to ndarray
        The model.
    """
    _, sha256 = named_weights(arrays, classes, order.recipe)
    card = ModelCard(
        name=f"{site.card.name}, {site.name}: {order.arm}",
        run=order.run,
        about=f"The model that site {site.name} trained in the arm {order.arm}.",
        spec=spec,
        fingerprints=f"spec {order.spec.name}, digest {order.spec.digest}",
        recipe=order.recipe,
        classes=classes,
        training={"objective": site.card.objective} | _training(order),
        trained=[
            Trained(site.name, site.card.name, len(splits["train"]), "see fedprint site history")
        ],
        scores=[
            Score(
                *(site.name, split, f"{len(splits[split])} images"),
                *(_known(scores[f"{split}_{m}"]) for m in ("balanced_accuracy", "auroc")),
            )
            for split in ("val", "test")
        ],
        consent="It stays at this site, with the head rows that nobody else has.",
        sha256=sha256,
    )
    return card.to_markdown()


def write_final(site: Site, order: Order, classes: tuple[str, ...], chosen: RunModels) -> Path:
    """Put the model that a site keeps, and its card, where people find them."""
    folder = final_folder(site, order.run)
    content, _ = named_weights(chosen.load("model"), classes, order.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / WEIGHTS, content, mode=0o600)
    atomic_write(folder / CARD, chosen.load_card(), mode=0o600)
    return folder


def _training(order: Order) -> dict[str, str]:
    """Say how the model was trained, as far as the site was told."""
    knowledge = order.knowledge
    said = {
        "epochs, of a round or alone": str(order.epochs),
        "batch size": str(order.batch_size),
        "seed": str(order.seed),
    }
    if knowledge.augmentation is not None:
        said["plan: augmentation"] = knowledge.augmentation.model_dump_json()
    if knowledge.start is not None:
        said["plan: weights"] = f"SHA-256 {knowledge.start.sha256}"
    if order.plan:
        said["signed plan"] = f"SHA-256 {order.plan}"
    return said


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
