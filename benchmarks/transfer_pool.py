"""Measured transfers as a knowledge pool: a release a task, and an experiment a transfer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.transfer_describing import counts_of
from benchmarks.transfer_training import BATCH, FEW, METRICS, ROUNDS, Kept, model_of
from fl_client.learner import Learner
from fl_client.policy import local_policy
from fl_client.release import make_release
from fl_server.pool import add as adding
from fl_server.pool.session import Pool, open_pool
from protocol.experiment import Detail, Experiment, Partner, Weights
from protocol.files import atomic_write, sha256_hex
from protocol.keys import Signer, generate_key, signer
from protocol.statement import utc_now
from protocol.weights import body_of, weights_sha256


def write_pool(where: Path, every: dict[str, Learner], kept: Kept) -> None:
    """Make a pool of all that was measured; releases and experiments are signed with a new key."""
    key = signer(generate_key())
    where.unlink(missing_ok=True)
    with open_pool(where, create=True) as pool:
        tasks = {name: _add_task(pool, where.parent, one, key) for name, one in every.items()}
        adding.add(pool, adding.of_experiments(_experiments(every, kept, tasks), key))


def _add_task(pool: Pool, folder: Path, learner: Learner, key: Signer) -> str:
    """Release a task's fingerprint and add it; return the digest that names the task."""
    train = learner.data.splits["train"]
    site = replace(learner.site, images=[learner.site.images[i] for i in train])
    counts = counts_of(learner, train)
    payload, envelope = make_release(site, counts, learner.spec, key, local_policy())
    place = folder / "releases"
    place.mkdir(parents=True, exist_ok=True)
    atomic_write(place / f"{site.name}.safetensors", payload)
    atomic_write(place / f"{site.name}{adding.ENDING}", envelope)
    atomic_write(place / "spec.json", learner.spec.model_dump_json(indent=1) + "\n")
    adding.add(pool, adding.of_release(place / f"{site.name}{adding.ENDING}"))
    return sha256_hex(payload)


def _experiments(every: dict[str, Learner], kept: Kept, tasks: dict[str, str]) -> list[Experiment]:
    found, now = [], utc_now()
    settings = {"images": FEW, "epochs": ROUNDS, "batch_size": BATCH, "recipe": "adapter"}
    for (scenario, seed, source, target), scores in kept.scores.items():
        if scenario not in ("pretraining", "co-training"):
            continue
        alone = kept.scores["alone", seed, "", target]
        detail: Detail = Partner(arm="co-training", tasks=2)
        if scenario == "pretraining":
            body = body_of(model_of(every[source], seed))
            network = every[source].spec.backbone
            detail = Weights(sha256=weights_sha256(body), architecture=network)
        found += [
            Experiment(
                scenario=scenario,  # type: ignore[arg-type]  # of the two
                target=tasks[target],
                source=tasks[source],
                detail=detail,
                hyperparameters=dict(settings),
                seed=seed,
                metric=metric,
                performance=scores[metric],
                baseline=alone[metric],
                run="measured transfer",
                recorded=now,
            )
            for metric in METRICS
        ]
    return found
