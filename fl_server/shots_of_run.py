"""What a run tries where no pool knows more: preset networks, shipped policies, its own models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np

from fl_server.decisions import Decision
from fl_server.exchange import Exchange
from fl_server.offers import Offer
from fl_server.scores import ArmOutcome
from fl_server.settings import RunSettings
from protocol.augmentations import USUAL, shipped_policies
from protocol.experiment import Architecture, Policy, Scenario, Weights
from protocol.plan import Knowledge
from protocol.presets import find_preset
from protocol.sharing import Arrays, GroupPlan
from protocol.weights import body_of, weights_sha256
from strategies.grouping_by_distance import there_and_back


@dataclass(frozen=True)
class OwnCandidates:
    """Proposes a run's own candidates, see `fl_server.offers.Adviser`.

    Architectures are those of the preset, in its order; policies are the shipped ones; weights are
    the models of the other groups, the nearest group's first.

    Attributes
    ----------
    settings, exchange, decision
        The run.
    outcomes : mapping of str to ArmOutcome
        The models of the arm ``grouped`` are handed on where all their sites agreed to it.
    """

    settings: RunSettings
    exchange: Exchange
    decision: Decision
    outcomes: Mapping[str, ArmOutcome]

    def shots(
        self, scenario: Scenario, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return the first k candidates."""
        if scenario == "architecture":
            found = self._architectures(knowledge)
        elif scenario == "augmentation":
            found = self._policies(knowledge)
        else:
            found = self._weights(group, knowledge)
        return list(islice(found, k))

    def backbone(self, knowledge: Knowledge) -> str:
        """Return the name of the network that training by this knowledge uses."""
        return (knowledge.architecture or self.exchange.spec).backbone

    def policy(self, knowledge: Knowledge) -> Policy | None:
        """Return how training by this knowledge augments; fine-tuning does so by itself."""
        if knowledge.augmentation is None and self.settings.recipe == "fine-tune":
            return shipped_policies()[USUAL]
        return knowledge.augmentation

    def release_of(self, site: str) -> str:
        """Return the SHA-256 of a site's release: the id of its task."""
        return self.exchange.releases[site].digests["payload"]

    def _architectures(self, knowledge: Knowledge) -> Iterator[Offer]:
        preset = find_preset(self.settings.preset)
        for name in preset.candidates:
            if name not in (self.exchange.spec.backbone, self.backbone(knowledge)):
                said = f"Use {name}, a candidate of the preset {preset.name}"
                yield Offer(name, Architecture(name=name), sentence=f"{said}: {UNKNOWN}.")

    def _policies(self, knowledge: Knowledge) -> Iterator[Offer]:
        for name, policy in shipped_policies().items():
            if policy != self.policy(knowledge):
                said = f"Augment as {name}, a policy that ships with fedprint"
                yield Offer(name, policy, sentence=f"{said}: {UNKNOWN}.")

    def _weights(self, group: Sequence[str], knowledge: Knowledge) -> Iterator[Offer]:
        grouped = self.outcomes.get("grouped", ArmOutcome())
        if self.backbone(knowledge) != self.exchange.spec.backbone:
            return
        plans = [
            plan
            for plan in grouped.plans
            if plan.group in grouped.models
            and not {*plan.sites} & {*group}
            and all(self.exchange.releases[s].verified.card.shares_weights for s in plan.sites)
        ]
        for plan in sorted(
            plans, key=lambda plan: (self._apart(group, plan.taking_part), plan.group)
        ):
            yield self._start(group, plan, _body(grouped, plan.group))

    def _start(self, group: Sequence[str], plan: GroupPlan, body: Arrays) -> Offer:
        """Return the weights of another group; its nearest site is said to be the source."""
        members = sorted(plan.taking_part, key=lambda site: (self._apart(group, [site]), site))
        name, backbone = weights_sha256(body), self.exchange.spec.backbone
        who = ", ".join(plan.taking_part)
        return Offer(
            f"weights of {who}"[:200],
            Weights(sha256=name, architecture=backbone),
            source=self.release_of(members[0]),
            sources=tuple(sorted(self.release_of(site) for site in plan.taking_part)),
            body=body,
            sentence=f"Start from the weights of {who}, another group of this run: {UNKNOWN}.",
        )

    def _apart(self, group: Sequence[str], others: Sequence[str]) -> float:
        """Return the mean distance of two groups of sites, symmetrised; lower is closer."""
        distances, names = there_and_back(self.decision.distances), self.decision.names  # [k, k]
        rows, columns = ([names.index(site) for site in part] for part in (group, others))
        return float(np.mean(distances[np.ix_(rows, columns)]))


UNKNOWN = "nothing is known of it yet"


def _body(grouped: ArmOutcome, group: str) -> Arrays:
    arrays = {name: array.numpy() for name, array in grouped.models[group].items()}
    return body_of(cast(Arrays, arrays))
