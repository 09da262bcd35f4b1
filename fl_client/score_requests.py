"""What a site answers to who asks for its model, or for scores of others' models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fl_client.gate import Gate
from fl_client.history import DEPARTURES, History
from fl_client.kept_scores import KeptScores
from fl_client.models import RunModels
from fl_client.site import Site
from fl_client.turns import turn
from protocol.errors import PolicyError
from protocol.orders import Order
from protocol.score_records import ScoreRequest
from protocol.scores import SCORES_VALIDITY, Scores, sign_scores
from protocol.sharing import Arrays
from protocol.statement import utc_now
from protocol.taskcard import ONE_CLASS
from protocol.weights import weights_file

if TYPE_CHECKING:
    from fl_client.learner import Learner  # it imports torch, which the gate comes before

ALONE = "alone"
"""The arm whose models are scored."""
MODEL, SCORES = "model", "scores"
"""What left, as the site's history has it."""


def own_model(gate: Gate, order: Order) -> Arrays:
    """Return the model that the site trained alone in a run, for other sites to score.

    Raises
    ------
    PolicyError
        As in `Gate.judging`, or with reason ``other-objective``, ``weights-not-shared`` or
        ``nothing-trained``.
    """
    site = gate.site
    with gate.judging(order.spec, order.run, MODEL):
        _require_one_class(site)
        if not site.card.shares_weights:
            raise PolicyError(
                f"site {site.name} hands its weights to nobody: shares_weights = true in "
                "site.toml would permit it",
                "weights-not-shared",
            )
        model = RunModels(site, order.run, ALONE).load("model")
        if not model:
            raise PolicyError(
                f"site {site.name} has trained no model alone in run {order.run}", "nothing-trained"
            )
        gate.recorder.sent(MODEL, order.spec, order.run, weights_file(model))
    return model


def signed_scores(
    gate: Gate, order: Order, request: ScoreRequest, learner: Callable[[], Learner]
) -> bytes:
    """Return the signed scores of those models of a request that the site has seen.

    Models that do not fit into one message come in several. Each answer covers what was scored
    before in the run, too, so that the last one says all.

    Parameters
    ----------
    gate : Gate
        The site's.
    order : Order
        As the models were trained.
    request : ScoreRequest
        Which models, and the arrays of some.
    learner : callable
        Returns what holds the site's data; called after the gate let the request pass.

    Raises
    ------
    PolicyError
        As in `Gate.judging` and `Gate.require_scores`, or with reason ``other-objective``,
        ``nothing-released`` or ``too-many-models``.
    """
    site, spec, run = gate.site, order.spec, order.run
    # one request at a time: two at once would each score as many models as one may
    with gate.judging(spec, run, SCORES), turn(site.state):
        gate.require_scores()
        _require_one_class(site)
        release = _released(site, run)
        scored = KeptScores(site, order)
        sent = (c for c in request.candidates if c.source in request.arrays)
        new = [candidate for candidate in sent if candidate.sha256 not in scored]
        scored.require_room(len({candidate.sha256 for candidate in new}))
        data = learner()
        from fl_client.scoring import score

        for candidate in new:
            scored.keep(score(data, request.arrays[candidate.source], candidate.sha256))
        now = utc_now()
        scores = Scores(
            site=site.name,
            run=run,
            nonce=request.nonce,
            spec_digest=spec.digest,
            images=data.examples,
            models={c.source: scored[c.sha256] for c in request.candidates if c.sha256 in scored},
            policy_digest=gate.policy.digest,
            issued=now,
            expires=now + SCORES_VALIDITY,
        )
        envelope = sign_scores(scores, release, gate.find_signer())
        gate.recorder.sent(SCORES, spec, run, envelope)
    return envelope


def _require_one_class(site: Site) -> None:
    """Raise where scores would mean nothing: they are of probabilities that add up to 1."""
    if site.card.objective not in ONE_CLASS:
        raise PolicyError(
            f"site {site.name} has no part in scores of models: these need one class an image, and "
            f"its task is {site.card.objective}",
            "other-objective",
        )


def _released(site: Site, run: str) -> str:
    """Return the SHA-256 of the last fingerprint that left the site for a run."""
    left = [e.sha256 for e in History(site.state).read(run) if e.decision in DEPARTURES]
    if not left:
        raise PolicyError(
            f"site {site.name} released nothing for run {run}, and scores nothing for it",
            "nothing-released",
        )
    return left[-1]
