"""Membership inference against releases of real sites: form, budget and number of images.

For each site, form (spec), rho and n: the AUC of the realistic attacker who knows one image and
everybody else's features, with its true positive rate at a false positive rate of 1 %, and of the
worst-case attacker, with the lower bounds of epsilon that its games prove (Clopper-Pearson and
through Gaussian differential privacy, 99.9 % certain), beside what is declared. Each of them plays
against the site's own counting and noise; rho 0 is a plain release. Images are drawn from the
site's own without replacement; a number that a site does not have is left out.

    fedprint demo --out runs/demo
    python benchmarks/audit.py runs/demo/sites/* --images 60,150 --json runs/audit.json

The exit code is 1 when a bound exceeds what is declared.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fl_client import audit_bounds as bounds
from fl_client.audit import FALSE_ALARM, FPR, MOST_VALUES
from fl_client.audit_mechanism import SiteMechanism
from fl_client.audit_membership import Features, population, realistic, worst_case
from fl_client.features import cached_features
from fl_client.site import Site, read_site
from protocol.privacy import epsilon_of, sensitivity, sigma_for
from protocol.spec import Spec, load_spec
from protocol.statement import Privacy

DELTA = 1e-5
COLUMNS = "site form n rho eps(decl) | AUC TPR@1% | worst-AUC bound | eps>= eps>=(GDP) games"


@dataclass(frozen=True)
class Row:
    """One line of the table; what only noise has is None for a plain release."""

    site: str
    form: str
    images: int
    rho: float
    declared: float | None
    auc: float
    tpr: float
    worst_auc: float
    limit: float | None
    epsilon: float
    epsilon_gaussian: float | None
    games: int
    failed: bool

    def __str__(self) -> str:
        declared = "   -" if self.declared is None else f"{self.declared:4.2f}"
        limit = "  - " if self.limit is None else f"{self.limit:.3f}"
        gaussian = "    -" if self.epsilon_gaussian is None else f"{self.epsilon_gaussian:5.2f}"
        proved = f"{self.epsilon:5.2f} {gaussian}"
        return (
            f"{self.site:12} {self.form:14} {self.images:4} {self.rho:5g} {declared} | "
            f"{self.auc:.3f} {self.tpr:.3f} | {self.worst_auc:.3f} {limit} | {proved} "
            f"{self.games:7,}{' FAILED' if self.failed else ''}"
        )


def declare(spec: Spec, rho: float) -> Privacy:
    """Return the terms of a release that spends `rho`, each image its own patient."""
    if rho == 0:
        return Privacy()
    return Privacy(
        mode="private",
        rho=rho,
        sigma=sigma_for(rho, sensitivity(spec.width)),
        neighbours="replace-one",
        epsilon=epsilon_of(rho, DELTA),
        delta=DELTA,
    )


def attack(
    site: Site, spec: Spec, features: Features, rho: float, games: int, rng: np.random.Generator
) -> Row:
    """Play both attackers against a release of `features` [n, M]."""
    privacy = declare(spec, rho)
    mechanism = SiteMechanism(site, spec, privacy, 1)
    if rho:
        games = min(games, MOST_VALUES // (2 * spec.width))
    alone = np.arange(len(features))
    people = population(mechanism, spec, features, alone, np.zeros_like(alone))
    real = realistic(mechanism, people, privacy.sigma or 0.0, max(100, games // 5), 1, rng)
    worst = worst_case(mechanism, spec, features[1:], 1, games, 1, rng)
    proved = bounds.certify(*worst, delta=DELTA, alpha=FALSE_ALARM)
    mu = bounds.declared_mu(rho)
    return Row(
        site=site.name,
        form=f"{spec.width} x {spec.bins}",
        images=len(features),
        rho=rho,
        declared=privacy.epsilon,
        auc=bounds.auc(*real),
        tpr=bounds.tpr_at(*real, FPR),
        worst_auc=bounds.auc(*worst),
        limit=bounds.gaussian_auc(mu) if rho else None,
        epsilon=proved.epsilon,
        epsilon_gaussian=proved.epsilon_gaussian if rho else None,
        games=games,
        failed=bool(rho) and (proved.mu > mu or proved.epsilon > (privacy.epsilon or 0)),
    )


def numbers(text: str) -> list[float]:
    """Read numbers that commas separate."""
    return [float(part) for part in text.split(",")]


def sweep(site: Site, spec: Spec, features: Features, options: argparse.Namespace) -> list[Row]:
    """Attack one site in one form by every rho and n; print each line as it comes."""
    rng, rows = np.random.default_rng(options.seed), []
    for images in (int(n) for n in options.images if n <= len(features)):
        chosen = features[rng.choice(len(features), images, replace=False)]
        for rho in options.rho:
            rows.append(attack(site, spec, chosen, rho, options.games, rng))
            print(rows[-1], flush=True)
    return rows


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sites", type=Path, nargs="+", help="site folders")
    parser.add_argument("--specs", default="lite0-private,lite0-100", help="names or files")
    parser.add_argument("--rho", type=numbers, default=numbers("0,0.05,0.107,0.125,0.5"))
    parser.add_argument("--images", type=numbers, default=numbers("60,150,300,600"))
    parser.add_argument("--games", type=int, default=100_000, help="of the worst-case attacker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="")
    parser.add_argument("--json", type=Path, help="write the table here")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = parse()
    print(COLUMNS)
    rows: list[Row] = []
    for folder in options.sites:
        site = read_site(folder)
        for name in options.specs.split(","):
            spec = load_spec(name).require_ready()
            features, _ = cached_features(site, spec, options.device or None, progress=True)
            rows += sweep(site, spec, features, options)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    sys.exit(any(row.failed for row in rows))


if __name__ == "__main__":
    main()
