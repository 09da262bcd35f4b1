"""Does grouped training pay? Four arms on one budget, through the sites' own training code.

Usage: python benchmarks/cotrain.py SITES_DIR [SITES_DIR ...] [--lr LR ...] [--json FILE]

Every folder is a federation, a folder of site folders as `fedprint demo` writes it, and counts as
one repetition. Sites train as in a run, the coordinator's FedAvg is computed in this process, and
the groups are those found from the fingerprints. Learning rates are compared by the arm *alone* on
validation data; the chosen one then serves every arm, so that no arm is tuned against another.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from fl_client.features import cached_features
from fl_client.learner import Learner
from fl_client.site import Site, read_site
from fl_server.arms import arm_groups
from fl_server.settings import ARMS
from protocol.fingerprint import Fingerprint
from protocol.orders import Order
from protocol.sharing import HIDDEN, Arrays, initial_adapter, initial_rows
from protocol.spec import Spec, load_spec
from protocol.taskcard import TaskCard
from strategies.cotrain import plan_group, row_factors
from strategies.grouping import GroupingOptions, group

Scores = dict[str, dict[str, float]]
Groups = Sequence[Sequence[str]]


class Federation:
    """The sites of one folder, ready to train.

    Parameters
    ----------
    folder : Path
        A folder of site folders.
    spec : Spec
        What to fingerprint with.
    states : Path
        Where feature caches and models go, one folder a site.
    seed : int
        Of splits and starting weights.
    """

    def __init__(self, folder: Path, spec: Spec, states: Path, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.learners: dict[str, Learner] = {}
        fingerprints = []
        for path in sorted(p for p in folder.iterdir() if (p / "site.toml").is_file()):
            site: Site = read_site(path, state=states / path.name)
            features, counts = cached_features(site, spec, "cpu")
            fingerprints.append(Fingerprint(site.name, counts, spec.digest, len(features)))
            self.learners[site.name] = Learner(site, spec, "adapter", "cpu", seed)
        found = group(fingerprints, spec, GroupingOptions())
        self.groups = [list(members.sites) for members in found.groups]

    @property
    def cards(self) -> dict[str, TaskCard]:
        """Task card of every site."""
        return {name: learner.site.card for name, learner in self.learners.items()}


def train_group(federation: Federation, sites: Sequence[str], order: Order, rounds: int) -> Scores:
    """Co-train one group under FedAvg; a group with nothing to gain trains alone."""
    learners = {site: federation.learners[site] for site in sites}
    plan = plan_group("group", {site: federation.cards[site] for site in sites})
    if not plan.trainable:
        budget = order.model_copy(update={"epochs": rounds * order.epochs})
        return {site: learner.train_alone(budget) for site, learner in learners.items()}
    examples = {site: learner.examples for site, learner in learners.items()}
    factors = row_factors(plan, examples)
    arrays: Arrays = initial_adapter(federation.spec.features, order.seed)
    arrays |= initial_rows(plan.shared_classes, HIDDEN, order.seed)
    for number in range(1, rounds + 1):
        update = {"server_round": number, "factors": factors}
        asked = order.model_copy(update=update)
        replies = {site: learner.train_round(asked, arrays) for site, learner in learners.items()}
        arrays = weighted_mean(replies, examples)
    return {site: learner.finish(asked, arrays) for site, learner in learners.items()}


def weighted_mean(replies: Mapping[str, Arrays], examples: Mapping[str, int]) -> Arrays:
    """Return FedAvg's mean, as `flwr.serverapp.strategy.FedAvg` computes it."""
    total = sum(examples.values())
    names = next(iter(replies.values()))
    return {
        name: np.sum(
            [arrays[name] * (examples[site] / total) for site, arrays in replies.items()], axis=0
        ).astype(np.float32)
        for name in names
    }


def run_arm(federation: Federation, arm: str, groups: Groups, order: Order, rounds: int) -> Scores:
    """Train every group of an arm; return the scores by site."""
    named = order.model_copy(update={"arm": arm})
    scores: Scores = {}
    for sites in groups:
        scores |= train_group(federation, sites, named, rounds)
    return scores


def mean(scores: Scores, metric: str) -> float:
    """Return a metric's mean over the sites."""
    return float(np.mean([values[metric] for values in scores.values()]))


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % t interval of paired differences; repetitions are the unit."""
    centre = float(np.mean(differences))
    if len(differences) < 2:
        return centre, float("nan"), float("nan")
    spread = float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    half = float(student.ppf(0.975, len(differences) - 1)) * spread
    return centre, centre - half, centre + half


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of site folders")
    parser.add_argument("--spec", default="lite0-100")
    parser.add_argument("--state", type=Path, help="keep features here between calls")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--local-epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.0], help="0: the default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Choose the learning rate by the arm alone, then compare the arms."""
    options = arguments()
    torch.set_num_threads(1)
    spec = load_spec(options.spec)
    with tempfile.TemporaryDirectory() as scratch:
        states = options.state or Path(scratch)
        federations = [
            Federation(folder, spec, states / folder.name, seed)
            for seed, folder in enumerate(options.folders)
        ]
        figures = compare(federations, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def compare(federations: Sequence[Federation], options: argparse.Namespace) -> dict[str, object]:
    """Print and return what every arm reached on every federation."""

    def order(federation: Federation, lr: float) -> Order:
        return Order(
            run="benchmark",
            arm="alone",
            spec=federation.spec,
            recipe="adapter",
            epochs=options.local_epochs,
            batch_size=options.batch_size,
            learning_rate=lr,
            seed=federation.seed,
        )

    def everyone(federation: Federation) -> list[list[str]]:
        return [[site] for site in federation.learners]

    tried: dict[float, float] = {}
    for lr in options.lr if len(options.lr) > 1 else []:
        reached = [
            run_arm(f, "alone", everyone(f), order(f, lr), options.rounds) for f in federations
        ]
        tried[lr] = float(np.mean([mean(scores, "val_balanced_accuracy") for scores in reached]))
        print(f"alone, lr {lr:g}: validation {tried[lr]:.4f}", flush=True)
    chosen = max(tried, key=lambda lr: tried[lr]) if tried else options.lr[0]

    table: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for federation in federations:
        for arm in ARMS:
            started = time.monotonic()
            sites = sorted(federation.learners)
            groups = arm_groups(arm, federation.groups, sites, federation.seed)
            scores = run_arm(federation, arm, groups, order(federation, chosen), options.rounds)
            table[arm].append(mean(scores, "test_balanced_accuracy"))
            seconds = time.monotonic() - started
            print(f"{federation.seed} {arm:9s} {table[arm][-1]:.4f}  {seconds:.1f} s", flush=True)
    gains = {arm: differences(table, arm) for arm in ARMS if arm != "grouped"}
    for arm, (centre, low, high) in gains.items():
        print(f"grouped - {arm}: {100 * centre:+.1f} [{100 * low:.1f}, {100 * high:.1f}] points")
    return {"lr": chosen, "alone by lr": tried, "balanced accuracy": table, "gains": gains}


def differences(table: Mapping[str, Sequence[float]], arm: str) -> tuple[float, float, float]:
    """Return how far grouped training lies above an arm, with its 95 % interval."""
    pairs = zip(table["grouped"], table[arm], strict=True)
    return interval([grouped - other for grouped, other in pairs])


if __name__ == "__main__":
    main()
