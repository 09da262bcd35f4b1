"""One deployment's day: kills, an approval, a late and a new site; then a run with plans."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fl_client.turns import LOCK
from fl_server.deployment import Deployment
from fl_server.following import COMPLETED, await_end
from fl_server.progress import read_status
from tests.conftest import digits, patches, write_subfolders
from tests.fl_server.deploying import add_plain_site, events, faulty_app

OUT = "runs/life"
ROUNDS = 5  # a killed node needs half a minute to come back, two or three rounds
SETTINGS: dict[str, str | int | float | bool] = {
    "out": OUT,
    "arms": "alone,grouped",
    "release": "plain",
    "rounds": ROUNDS,
    "local-epochs": 1,
    "min-sites": 4,
    "await-approval": 200.0,
    "timeout": 300.0,
}

PLANNED = "runs/planned"
POOL = "ours.db"  # counts from the coordinator's folder, as the run folder does
WITH_PLANS: dict[str, str | int | float | bool] = {
    **SETTINGS,
    "out": PLANNED,
    "pool": POOL,
    "arms": "grouped,planned",
    "scenarios": "architecture",
    "shots": 1,
    "rounds": 1,
    "min-sites": 3,
}
PAYING = """
judged = _judged


def _judged(learner, order, scores):
    \"\"\"Let the other network pay: what it does for a handful of images is chance.\"\"\"
    if order.arm == "alone":
        scores = {**scores, "val_auroc": 0.5}
    elif order.arm.startswith("trial-architecture"):
        scores = {**scores, "val_auroc": 0.9, "val_loss": 0.0}
    return judged(learner, order, scores)
"""


class Day:
    """Drives one deployment through its day and keeps what it saw on the way."""

    def __init__(self, deployment: Deployment, root: Path) -> None:
        self.deployment, self.root = deployment, root
        self.run_folder = deployment.coordinator / OUT

    def set_up(self) -> None:
        """Three sites of digits, and one of photographs where a person must approve."""
        for number, name in enumerate(("digits-a", "digits-b", "digits-c")):
            images = write_subfolders(self.root / name, digits((3, 8), 18, first=20 * number))
            if name == "digits-b":  # its row of this class stays private
                write_subfolders(images, digits((5,), 8))
            add_plain_site(self.deployment, name, images)
        photos = write_subfolders(self.root / "photos", patches(18, seed=1))
        add_plain_site(self.deployment, "photos", photos, approve_first=True)
        self.deployment.await_online(self.deployment.sites)

    def until_training(self) -> None:
        """Kill a SuperNode while it fingerprints, approve at another, start the killed one."""
        self.deployment.submit(SETTINGS)
        at_its_gate = self.deployment.sites["digits-c"].folder / "state" / LOCK
        self.wait("fingerprinting", lambda _: at_its_gate.exists())
        self.deployment.sites["digits-c"].kill()
        self.deployment.sites["digits-c"].start()
        photos = self.deployment.sites["photos"].folder
        self.wait("a request", lambda _: bool(events(self.run_folder, "awaiting-approval")))
        self.deployment.fedprint("site", "preview", photos)
        self.deployment.fedprint("site", "approve", photos, "--yes")
        self.wait("training", lambda s: s["phase"] == "train alone")

    def kill_superlink(self) -> str:
        """Kill the SuperLink between the arms, and everything that it had started."""
        self.wait("groups", lambda s: s["phase"] == "train grouped")
        self.deployment.superlink.kill()
        self.deployment.superlink.start()
        self.deployment.await_online(self.deployment.sites, timeout=120)
        return self.deployment.submit(SETTINGS)

    def kill_serverapp(self) -> str:
        """Kill the ServerApp once a round is done."""
        self.wait("a round", lambda _: bool(events(self.run_folder, "round")))
        assert self.deployment.superlink.kill_serverapps() == 1
        return self.deployment.submit(SETTINGS)

    def kill_supernode_in_training(self) -> None:
        """Kill one of the group's SuperNodes in the middle of a round, and start it again."""
        self.wait("resuming", lambda _: len(events(self.run_folder, "resumed")) == 2)
        self.wait("training again", lambda s: s["phase"] == "train grouped")
        site = self.deployment.sites["digits-b"]
        orders = site.folder / "state" / "history.jsonl"
        assert '"arm":"grouped"' in orders.read_text()
        time.sleep(2)
        site.kill()
        site.start()

    def finish(self, run_id: str) -> None:
        """Wait for the end of a run; asking Flower for it all the time would take a core."""
        self.wait("the end", lambda s: s.get("state") in ("finished", "failed"), 600)
        assert await_end(self.deployment.connection, run_id, 120) == COMPLETED

    def plan(self) -> None:
        """Run once more, with plans, in which one site takes no part."""
        sites, others = self.deployment.sites, ("photos", "digits-d")
        for name in others:  # three are enough for what is seen here
            sites[name].ask_to_stop()
        for name in others:
            sites[name].stop()
        policy = sites["digits-c"].folder / "policy.toml"
        policy.write_text(policy.read_text().replace("plans = true", "plans = false"))
        self.deployment.app = faulty_app(self.root / "app", PAYING)
        self.deployment.run(WITH_PLANS, show=lambda _line: None)

    def wait(
        self, what: str, reached: Callable[[dict[str, Any]], bool], timeout: float = 300
    ) -> None:
        deadline = time.monotonic() + timeout
        while not reached(dict(read_status(self.run_folder) or {"phase": ""})):
            assert time.monotonic() < deadline, f"{what}: {read_status(self.run_folder)}"
            time.sleep(0.1)
