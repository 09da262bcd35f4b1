"""A finished run of five sites in three groups, and sites that come after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fl_server.arms import arm_groups, run_arm
from fl_server.decisions import Decision, decide
from fl_server.exchange import Exchange, Release
from fl_server.models import save_model
from fl_server.outcomes import metrics_file, recommendations_file
from fl_server.report import write_report
from fl_server.runfolder import distances_csv, run_file, write_exchange, write_log
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of
from fl_server.weights_out import write_models
from protocol import statement
from protocol.envelope import sign
from protocol.files import atomic_json, atomic_write
from protocol.fingerprint import Fingerprint, counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.orders import order_from_config
from protocol.runfiles import LeftOut
from protocol.statement import binding_statement, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from protocol.trust import TrustStore
from protocol.verify import verify_release
from tests.strategies.fake_grid import Dead, FakeGrid, values
from tests.strategies.synthetic import make_sites, make_spec

SPEC = make_spec(features=48, bins=20)
SETTINGS = RunSettings(rounds=2, local_epochs=3, timeout=5, arms=("alone", "grouped"), seed=4)
MEMBERS = ("site-0-0", "site-0-1", "site-1-0", "site-1-1", "site-2-0")
CLASSES = {  # by site: one letter a class
    "site-0-0": "xy",
    "site-0-1": "yz",
    "site-1-0": "uv",
    "site-1-1": "uv",
    "site-2-0": "ab",
    "site-0-2": "yq",
    "site-1-2": "rs",
    "site-2-1": "ab",
    "site-3-0": "kl",
    "site-3-1": "kl",
}
EXAMPLES = 20
SHARING: set[str] = set()
"""Sites whose cards say that their weights may be handed on."""
FINGERPRINTS = {
    f.site: f for f in make_sites([[120, 60, 90], [150, 90, 60], [300, 80], [90, 120]], SPEC)[0]
}


@dataclass
class Site:
    """A site that moves what it is sent by one, and notes what it is asked."""

    name: str
    fails: str = ""
    keeps: bool = True
    asked: list[tuple[str, Any]] = field(default_factory=list)
    sent: dict[str, Any] = field(default_factory=dict)

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type
        order = order_from_config(message.content.config_records["config"])
        self.asked.append((kind, order))
        if kind == self.fails:
            raise Dead
        metrics: dict[str, Any] = {"num-examples": EXAMPLES}
        if kind == "train":
            arrays = message.content.array_records["arrays"]
            moved = {name: Array(a + np.float32(1)) for name, a in values(arrays).items()}
            record = MetricRecord(metrics)
            return RecordDict({"arrays": ArrayRecord(moved), "metrics": record})
        if kind == "train.join":
            self.sent = values(message.content.array_records["arrays"])
        accuracy = {"train.alone": 0.5, "evaluate": 0.75, "train.join": 0.8}[kind]
        metrics |= {"test_balanced_accuracy": accuracy, "val_loss": 1.0}
        if order.guard_against:
            metrics["keeps-group"] = int(self.keeps)
        return RecordDict({"metrics": MetricRecord(metrics)})


@dataclass
class Federation:
    """Keys, trust store, sites and the run so far."""

    keys: dict[str, PrivateKeyTypes]
    exchange: Exchange
    decision: Decision
    outcomes: dict[str, ArmOutcome]
    sites: dict[str, Site]
    grid: FakeGrid

    def newcomers(self, *names: str) -> dict[str, Release]:
        """Return the verified releases of sites that are in no group."""
        return {
            name: make_release(FINGERPRINTS[name], self.keys[name], self.exchange) for name in names
        }


def make_release(fingerprint: Fingerprint, key: PrivateKeyTypes, exchange: Exchange) -> Release:
    """Sign and verify as site and coordinator do."""
    site, now = fingerprint.site, utc_now()
    payload = counts_to_bytes(fingerprint.counts)
    release = statement.Release(
        site=site,
        spec_digest=SPEC.digest,
        spec_name=SPEC.name,
        images=fingerprint.n_images,
        policy_digest="b" * 64,
        task_card=TaskCard(
            name="t",
            classes=[ClassCard(name=c) for c in CLASSES[site]],
            shares_weights=site in SHARING,
        ),
        issued=now,
        expires=now + timedelta(days=30),
    )
    envelope = sign(release_statement(payload, release), signer(key))
    binding = statement.Binding(
        site=site, run=exchange.run, nonce="n", issued=now, expires=now + timedelta(minutes=5)
    )
    session = sign(binding_statement(envelope, binding), signer(key))
    verified = verify_release(
        site=site,
        payload=payload,
        release=envelope,
        binding=session,
        store=exchange.store,
        spec=SPEC,
        run=exchange.run,
        nonce="n",
        now=utc_now(),
    )
    return Release(node_of(site), verified, payload, envelope, session)


def node_of(site: str) -> int:
    """Return a site's Flower node id."""
    return 100 + list(CLASSES).index(site)


def federation(**sites: Site) -> Federation:
    """Run the arms alone and grouped among the members; the others come later."""
    all_sites = {name: sites.get(name.replace("-", "_"), Site(name)) for name in CLASSES}
    grid = FakeGrid({node_of(name): site for name, site in all_sites.items()})
    keys: dict[str, PrivateKeyTypes] = {name: generate_key() for name in CLASSES}
    store = TrustStore.empty().enrol_all({name: public_pem(key) for name, key in keys.items()})
    exchange = Exchange("run-1", SPEC, store, signer(generate_key()))
    exchange.log.asked(SPEC, SETTINGS.terms, SETTINGS.decisive)
    exchange.releases = {
        name: make_release(FINGERPRINTS[name], keys[name], exchange) for name in MEMBERS
    }
    exchange.left_out = [LeftOut(site="site-3-0", reason="no-reply", message="too late")]
    decision = decide(tasks_of(exchange))
    outcomes: dict[str, ArmOutcome] = {}
    for arm in SETTINGS.arms:
        groups = [group.sites for group in decision.groups.groups]
        who = arm_groups(arm, groups, decision.names, SETTINGS.seed)
        outcomes[arm] = run_arm(arm, who, grid, exchange, SETTINGS, outcomes.get("alone"))
    return Federation(keys, exchange, decision, outcomes, all_sites, grid)


def write_run(out: Path, run: Federation) -> Path:
    """Write the run folder as the coordinator does."""
    exchange, decision, now = run.exchange, run.decision, utc_now()
    write_exchange(out, exchange)
    atomic_write(out / "distances.csv", distances_csv(decision.names, decision.distances))
    atomic_json(out / "groups.json", decision.groups)
    atomic_json(out / "recommendations.json", recommendations_file(decision))
    for name, arrays in run.outcomes["grouped"].models.items():
        save_model(out / "models" / f"{name}.safetensors", arrays)
    atomic_json(out / "metrics.json", metrics_file(run.outcomes, decision.names))
    atomic_json(out / "run.json", run_file(exchange, SETTINGS, {"fingerprints": 1.0}, now, now))
    write_models(out)
    write_report(out)
    write_log(out, exchange)
    return out
