"""What the gate writes into the site's history: departures, refusals, waiting and training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fl_client.descriptor_making import Described
from fl_client.history import DESCRIBED, Entry, History, make_entry, reason_of
from fl_client.policy import AWAITING, Policy
from fl_client.releases import Kept
from fl_client.site import Site
from protocol.errors import FedprintError
from protocol.files import sha256_hex
from protocol.spec import Spec
from protocol.statement import utc_now


@dataclass(frozen=True)
class Recorder:
    """Writes the decisions about one site's requests down; nothing where the site keeps nothing."""

    site: Site
    policy: Policy
    keeps: bool

    def departure(self, spec: Spec, run: str, kept: Kept) -> None:
        """Record that a release leaves: for the first time or again, as the history has it."""
        if not self.keeps:
            return
        history = History(self.site.state)
        again = history.has_left(sha256_hex(kept.payload))
        decision = "released-again" if again else "released"
        history.add(
            make_entry(
                self.site,
                spec,
                self.policy,
                decision,
                run=run,
                payload=kept.payload,
                terms=kept.terms,
            )
        )

    def training(self, spec: Spec, run: str, arm: str, trial: str = "") -> None:
        """Record that the site takes part in an arm's training, or tries what `trial` is, once."""
        made = make_entry(self.site, spec, self.policy, "training", run=run, arm=arm)
        if not trial:
            self._add(made)
        elif self.keeps and not any(History(self.site.state).read(run, trial)):
            History(self.site.state).add(made.model_copy(update={"sha256": trial}))

    def descriptor(self, spec: Spec, run: str, kind: str, made: Described) -> None:
        """Record that a descriptor leaves, each time that it does."""
        if self.keeps:
            entry = make_entry(
                self.site, spec, self.policy, DESCRIBED, run=run, arm=kind, payload=made.payload
            )
            said = {"images": made.images, "privacy": made.privacy}
            History(self.site.state).add(entry.model_copy(update=said))

    def sent(self, what: str, spec: Spec, run: str, content: bytes) -> None:
        """Record that the site's model, or its scores of others' models, leave for a run."""
        if self.keeps:
            made = make_entry(self.site, spec, self.policy, what, run=run, payload=content)
            History(self.site.state).add(made.model_copy(update={"bytes": len(content)}))

    def plan(self, released: Entry, sha256: str) -> None:
        """Record that the site accepted a plan for what it released in a run."""
        if self.keeps:
            History(self.site.state).add(self._about_plan(released, decision="plan", sha256=sha256))

    def refused_plan(self, released: Entry, error: FedprintError) -> None:
        """Record that it refused one."""
        said = {"reason": reason_of(error), "message": str(error)[:1000]}
        self._add(self._about_plan(released, decision="refused", sha256="", **said))

    def _about_plan(self, released: Entry, **values: str) -> Entry:
        more = {"time": utc_now(), "policy": self.policy.digest, "bytes": 0, "privacy": None}
        return released.model_copy(update={"arm": "planned", **more, **values})

    @contextmanager
    def refusals(self, spec: Spec, run: str, arm: str = "") -> Iterator[None]:
        """Record what is refused here, and that it waits where only a person's approval lacks."""
        try:
            yield
        except FedprintError as error:
            decision = AWAITING if reason_of(error) == AWAITING else "refused"
            made = make_entry(self.site, spec, self.policy, decision, run=run, arm=arm, error=error)
            self._add(made)
            raise

    def _add(self, entry: Entry) -> None:
        if not self.keeps:
            return
        history = History(self.site.state)
        # orders are given round by round, and who waits asks until somebody approves
        if entry.arm or entry.decision == AWAITING:
            history.add_once(entry)
        else:
            history.add(entry)
