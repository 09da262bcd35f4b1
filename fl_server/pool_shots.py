"""What a pool proposes to a group: what it advises each of the sites, in one ranking."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fl_server.offers import Offer
from fl_server.pool import Pool, open_pool
from fl_server.pool_advice import MOST, recommend
from fl_server.pool_starts import fitting, starts, with_body
from fl_server.pool_target import Target, released, same_task
from fl_server.shots_of_run import OwnCandidates
from protocol.augmentations import shipped_policies
from protocol.experiment import Architecture, Policy, Scenario
from protocol.names import printable
from protocol.plan import Knowledge
from strategies.joint_advice import Joint, Ranked, joint_ranking
from strategies.shots import Shot

log = logging.getLogger("fedprint")


@dataclass(frozen=True)
class PoolShots:
    """Proposes what the run's pool advises, and then what the run could try by itself.

    See `fl_server.offers.Adviser`. Each site is advised as by ``fedprint pool recommend``, without
    a look at what was measured on its own task; `strategies.joint_advice` makes one list of it.
    Weights come from the pool's shelf: they fit the network, and no image of the group made them.

    Attributes
    ----------
    own : OwnCandidates
        Fills up what the pool leaves free.

    Notes
    -----
    A site is advised once and the advice kept: what is tried is what was written down before,
    whatever other runs add to the pool meanwhile.
    """

    own: OwnCandidates
    _kept: dict[tuple[Scenario, str, int], Sequence[Shot]] = field(default_factory=dict, repr=False)

    def shots(
        self, scenario: Scenario, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return the k best suggestions to a group.

        Raises
        ------
        ConfigError, PoolBusy
            When the pool cannot be used.
        DataError
            When weights on its shelf are damaged.
        """
        with open_pool(self.own.settings.pool) as pool:
            if scenario == "pretraining":
                advised = self._weights(pool, group, knowledge, k)
            else:
                lists = [self._named(pool, scenario, site, knowledge, k) for site in group]
                advised = self._together(lists, group)[:k]
        own = self.own.shots(scenario, group, knowledge, k + len(advised))
        known = {offer.knowledge_id for offer in advised}
        return [*advised, *(offer for offer in own if offer.knowledge_id not in known)][:k]

    def _named(
        self, pool: Pool, scenario: Scenario, site: str, knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return the architectures or policies that the pool advises a site, best first."""
        current = (Architecture(name=self.own.backbone(knowledge)), self.own.policy(knowledge))
        # one more than wanted: what the group does already may be among them
        shots = self._advice(pool, scenario, site, k + 1)
        known = [s for s in shots if s.knowledge is not None and s.knowledge not in current]
        return [_offer(shot) for shot in known[:k]]

    def _weights(
        self, pool: Pool, group: Sequence[str], knowledge: Knowledge, k: int
    ) -> list[Offer]:
        """Return the k weights that the pool advises a group most, with their arrays."""
        with pool.reading() as session:
            own = [i for site in group for i in same_task(session, self._target(site).task)]
        recipe = self.own.settings.recipe
        shelf = fitting(pool, self.own.backbone(knowledge), recipe, own)
        if not shelf:
            return []
        lists = [
            starts(self._advice(pool, "pretraining", site, MOST), shelf.values()) for site in group
        ]
        return [with_body(offer, shelf) for offer in self._together(lists, group)[:k]]

    def _advice(self, pool: Pool, scenario: Scenario, site: str, k: int) -> Sequence[Shot]:
        asked = (scenario, site, k)
        if asked not in self._kept:
            if all(known != site for _, known, _ in self._kept):
                log.info("asking the pool what %s might try", site)
            seed = self.own.settings.seed
            found = recommend(pool, self._target(site), [scenario], k=k, seed=seed)
            self._kept[asked] = found.counsels[0].shots
        return self._kept[asked]

    def _target(self, site: str) -> Target:
        exchange = self.own.exchange
        release = exchange.releases[site].verified
        return released(release, self.own.release_of(site), exchange.spec)

    def _together(self, lists: Sequence[Sequence[Offer]], group: Sequence[str]) -> list[Offer]:
        """Return what was advised to the sites of a group in one ranking, each once."""
        ranked = [[Ranked(each.knowledge_id, _standing(each)) for each in one] for one in lists]
        told: dict[str, list[tuple[int, str, Offer]]] = defaultdict(list)
        for site, one in zip(group, lists, strict=True):
            for place, offer in enumerate(one, 1):
                told[offer.knowledge_id].append((place, site, offer))
        return [
            self._for_group(joint, sorted(told[joint.knowledge], key=lambda each: each[:2]), group)
            for joint in joint_ranking(ranked)
        ]

    def _for_group(
        self, joint: Joint, told: Sequence[tuple[int, str, Offer]], group: Sequence[str]
    ) -> Offer:
        """Return one offer out of what sites were told of the same knowledge, best place first.

        Its source is a task of another group: an experiment's source cannot be its target.
        """
        _, site, best = told[0]
        inside = {self.own.release_of(member) for member in group}
        source = next((offer.source for *_, offer in told if offer.source not in inside), None)
        words = best.sentence if len(group) == 1 else _of_group(best, site, joint, len(group))
        return replace(best, source=source, sentence=words)


def _offer(shot: Shot) -> Offer:
    detail = shot.knowledge
    assert isinstance(detail, Architecture | Policy)
    label = detail.name if isinstance(detail, Architecture) else f"policy of {shot.task.site}"
    shipped = [name for name, policy in shipped_policies().items() if policy == detail]
    return Offer(
        printable(shipped[0] if shipped else label, 200),
        detail,
        source=shot.task.id,
        sentence=shot.sentence,
        evidence=shot,
    )


def _standing(offer: Offer) -> float | None:
    return offer.evidence.standing if offer.evidence else None


def _of_group(offer: Offer, site: str, joint: Joint, sites: int) -> str:
    """Say to whom it was advised so, and how the group's other sites see it."""
    return (
        f"{offer.sentence} This is the advice for {site}; among what the group's {sites} sites are "
        f"advised it has place {joint.place:.1f} on average."
    )
