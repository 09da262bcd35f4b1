"""A member that lies: is it found out, and what does it do to the groups of the others?

Usage: python benchmarks/poisoning.py FOLDER [--pools 100] [--images 150] [--spec lite0-private]
                                      [--plain] [--halves --truth data] [--json FILE]

FOLDER holds one npz a task with features `F` [n, M] and labels `L` [n], as ``--extract SITES_DIR``
writes them from site folders (those of one task in one file). Each pool draws four tasks with 4, 3,
3 and 2 honest sites of different images, and one more member that mounts an attack. Columns, in
percent of pools: `certain` and `warned`: a finding against one of the liars; `honest`: a finding
against anybody else, but for those that were copied; `moved`: pools in which the liars change a
group of the others at all; and the agreement (adjusted Rand index) of the honest sites' groups with
their tasks, `without` the liars, with them `within`, and `guarded`: with those of them against whom
nothing is certain.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.histogram import BinCounter
from protocol.fingerprint import Fingerprint
from protocol.privacy import terms
from protocol.spec import Spec, load_spec
from strategies.grouping import GroupingOptions, group
from strategies.influence import agreement, members
from strategies.suspicion import suspicions

Features = NDArray[np.float32]
SHARES = (4, 3, 3, 2)  # honest sites of each task


class Pool(NamedTuple):
    """Honest sites, and what an attacker may use."""

    spec: Spec
    sigma: float
    rng: np.random.Generator
    honest: list[Fingerprint]
    counts: list[NDArray[np.int64]]  # of the honest sites before noise, which nobody else knows
    truth: dict[str, str]
    own: NDArray[np.int64]  # true counts of images of the attacker's own, of the first task
    other: NDArray[np.int64]  # and of a task that nobody else has

    @property
    def images(self) -> int:
        """How many images the attacker has."""
        return int(self.own[0].sum())

    def release(self, counts: NDArray[Any], site: str = "liar", **changes: Any) -> Fingerprint:
        """Return counts with noise; `changes` names another declared sigma or number of images."""
        drawn = changes.pop("noise", self.sigma)
        noise = np.rint(self.rng.normal(0.0, drawn, counts.shape)) if drawn else 0
        values = {"sigma": self.sigma, "n_images": self.images, **changes}
        noisy = (np.rint(counts) + noise).astype(np.int64)
        return Fingerprint(site, noisy, self.spec.digest, **values)

    def of_two(self, share: float = 0.5) -> NDArray[np.int64]:
        """Return counts as if images of the first two tasks were mixed; rows add up to n."""
        first, second = self.counts[0], self.counts[SHARES[0]]
        split = self.rng.binomial(first, share)  # [m, b]
        rest = first.sum(1) - split.sum(1)  # [m]
        return np.asarray(split + self.rng.multinomial(rest, second / second.sum(1)[:, None]))


Attack = Callable[[Pool], list[Fingerprint]]


def _scaled(pool: Pool) -> list[Fingerprint]:
    """A copy that claims another number of images."""
    copied = pool.honest[0]
    images = round(copied.n_images * 1.4)
    larger = copied.counts * (images / copied.n_images)
    if pool.sigma == 0:  # rows must add up
        larger = np.floor(larger)
        larger[:, 0] += images - larger.sum(1)
    return [pool.release(larger, noise=0.0, n_images=images)]


def _corner(pool: Pool) -> list[Fingerprint]:
    """All images in the last bin of every feature."""
    counts = np.zeros_like(pool.own)
    counts[:, -1] = pool.images
    return [pool.release(counts)]


def _even(pool: Pool) -> list[Fingerprint]:
    """Every bin holds as many."""
    counts = np.full_like(pool.own, pool.images // pool.spec.bins)
    counts[:, 0] += pool.images - counts.sum(1)
    return [pool.release(counts)]


def _few(pool: Pool) -> list[Fingerprint]:
    """Two images, as the smallest fingerprint that grouping may have to bear."""
    counts = pool.rng.multinomial(2, pool.own / pool.own.sum(1, keepdims=True))
    return [pool.release(counts, n_images=2)]


def _chain(pool: Pool) -> list[Fingerprint]:
    """Three that collude: a chain of mixtures between two tasks."""
    images = pool.honest[0].n_images
    return [
        pool.release(pool.of_two(share), f"liar-{share}", n_images=images)
        for share in (0.25, 0.5, 0.75)
    ]


def _lifted(amplitude: int) -> Attack:
    """Two bins of a mixture lifted and the others sunk, row sums kept: beyond what images give."""

    def attack(pool: Pool) -> list[Fingerprint]:
        shift = np.full(pool.spec.bins, -float(amplitude))
        shift[:2] = amplitude * (pool.spec.bins - 2) / 2
        images = pool.honest[0].n_images
        return [pool.release(pool.of_two() + np.rint(shift), n_images=images)]

    return attack


def _negative(pool: Pool) -> list[Fingerprint]:
    """All in one bin of every feature and more, so that the others hold less than nothing."""
    counts = np.full(pool.own.shape, -round(2.5 * pool.sigma))
    counts[:, -1] = pool.images - counts[:, :-1].sum(1)
    return [pool.release(counts)]


def _huge(pool: Pool) -> list[Fingerprint]:
    """Two that collude and claim ten million images, each in another bin."""
    liars, images = [], 10**7
    for bin_ in (-1, 0):
        counts = np.zeros_like(pool.own)
        counts[:, bin_] = images
        liars.append(pool.release(counts, f"liar{bin_}", n_images=images))
    return liars


def _huge_mixture(pool: Pool) -> list[Fingerprint]:
    """A mixture of two tasks that claims ten million images."""
    images = pool.honest[0].n_images
    factor = 10**7 // images
    return [pool.release(pool.of_two() * factor, n_images=images * factor)]


def _copied(pool: Pool) -> list[Fingerprint]:
    copied = pool.honest[0]
    return [pool.release(copied.counts, noise=0.0, n_images=copied.n_images)]


BOTH: dict[str, Attack] = {
    "honest": lambda pool: [pool.release(pool.own)],
    "honest, a task of its own": lambda pool: [
        pool.release(pool.other, n_images=int(pool.other[0].sum()))
    ],
    "copy of another's release": _copied,
    "copy, other number of images": _scaled,
    "between two tasks": lambda pool: [
        pool.release(pool.of_two(), n_images=pool.honest[0].n_images)
    ],
    "three between two tasks": _chain,
    "all in the last bin": _corner,
    "every bin alike": _even,
    "two images": _few,
    "two of ten million images": _huge,
    "ten million images between two tasks": _huge_mixture,
    "wrong labels": lambda pool: [pool.release(pool.own)],  # a fingerprint reads no label
}
PRIVATE: dict[str, Attack] = {
    "copy with half the noise added": lambda pool: [
        pool.release(pool.honest[0].counts, noise=pool.sigma / 2, n_images=pool.honest[0].n_images)
    ],
    "no noise": lambda pool: [pool.release(pool.own, noise=0.0)],
    "half the noise": lambda pool: [pool.release(pool.own, noise=pool.sigma / 2)],
    "twice the noise": lambda pool: [pool.release(pool.own, noise=2 * pool.sigma)],
    **{f"two bins lifted, others lowered by {a}": _lifted(a) for a in (20, 35, 50)},
    "less than nothing in all bins but one": _negative,
    "hundred times the noise, declared": lambda pool: [
        pool.release(pool.own, noise=100 * pool.sigma, sigma=100 * pool.sigma)
    ],
}


def draw_pool(
    families: Sequence[Sequence[Features]],
    spec: Spec,
    sigma: float,
    images: int,
    rng: np.random.Generator,
) -> Pool:
    """Draw the tasks, and disjoint images for each site."""
    order = [task for i in rng.permutation(len(families)) for task in families[i]]
    *chosen, alone = order[: len(SHARES) + 1]
    counts, truth, own = [], {}, None
    for number_of_task, (task, share) in enumerate(zip(chosen, SHARES, strict=True)):
        needed = share + (own is None)
        drawn = rng.permutation(len(task))[: needed * images]
        size = min(images, len(drawn) // needed)
        for number in range(share):
            truth[f"site-{len(counts):02d}"] = str(number_of_task)
            part = drawn[number * size : (number + 1) * size]
            counts.append(_counted(task[part], spec))
        if own is None:
            own = _counted(task[drawn[share * size :][:size]], spec)
    assert own is not None
    other = _counted(rng.permutation(alone)[:images], spec)
    pool = Pool(spec, sigma, rng, [], counts, truth, own, other)
    for site, true in zip(truth, counts, strict=True):
        pool.honest.append(pool.release(true, site, n_images=int(true[0].sum())))
    return pool


def read_families(folder: Path, halves: bool) -> list[list[Features]]:
    """Return the tasks of each npz: one, or the two halves of its classes (`L` [n]) apart."""
    families = []
    for file in sorted(folder.glob("*.npz")):
        data = np.load(file)
        features = data["F"]
        if not halves:
            families.append([features])
        elif len(classes := np.unique(data["L"])) > 1:
            first = np.isin(data["L"], classes[::2])
            families.append([features[first], features[~first]])
    return families


def _counted(features: Features, spec: Spec) -> NDArray[np.int64]:
    counter = BinCounter(spec, torch.device("cpu"))
    counter.add(torch.from_numpy(features))
    return counter.counts()


def one_pool(pool: Pool, attack: Attack, options: GroupingOptions) -> dict[str, float]:
    """Mount one attack on one pool; values are 0 to 1."""

    def groups(sites: Sequence[Fingerprint]) -> dict[str, str]:
        return members(group(sites, pool.spec, options))

    liars = attack(pool)
    everybody, names = [*pool.honest, *liars], {liar.site for liar in liars}
    found = suspicions(everybody, pool.spec)
    # of two equal releases nobody can tell the copy, so both sites are named
    accused = [s for s in found if s.site not in names and s.kind != "duplicate"]
    certain = {s.site for s in found if s.certain and s.kind != "duplicate"}
    without, within = groups(pool.honest), groups(everybody)
    guarded = groups([f for f in everybody if f.site not in certain])
    return {
        "certain": any(s.certain for s in found if s.site in names),
        "warned": any(s.site in names for s in found),
        "honest": bool(accused),
        "without": agreement(without, pool.truth),
        "within": agreement(within, pool.truth),
        "guarded": agreement(guarded, pool.truth),
        "moved": agreement(without, within) < 1 - 1e-9,
        "influence": 1 - agreement(without, within),
    }


def extract_tasks(sites: Path, folder: Path) -> None:
    """Write the features of site folders, those of one task in one npz, into `folder`."""
    from fl_client.extract import extract
    from fl_client.site import read_site

    spec, tasks = load_spec("lite0-100"), {}
    for path in sorted(p for p in sites.iterdir() if p.is_dir()):
        site = read_site(path)
        features = extract(site.images, spec, want_features=True).features
        labels = [site.card.classes[item.label].name for item in site.images]
        tasks.setdefault(site.card.name, []).append((features, labels))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in tasks.items():
        features, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.npz", F=features, L=labels)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the figures as Markdown, all but the indices in percent of pools."""
    heads = ["certain", "warned", "honest", "moved", "without", "within", "guarded"]
    lines = [
        "| attack | certain | warned | honest accused | moved | ARI without | within | guarded |",
        "|---" * 8 + "|",
    ]
    for name, row in rows.items():
        percents = [f"{100 * row[head]:.1f}" for head in heads[:4]]
        indices = [f"{row[head]:.3f}" for head in heads[4:]]
        lines.append(f"| {' | '.join([name, *percents, *indices])} |")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extract", type=Path, help="first make the npz from these site folders")
    parser.add_argument("--spec", default="lite0-private")
    parser.add_argument("--plain", action="store_true", help="releases without noise")
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--halves", action="store_true", help="half the classes are a task")
    parser.add_argument("--truth", choices=["task", "data"], default="task")
    parser.add_argument("--attacks", nargs="+", help="these only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.extract:
        extract_tasks(options.extract, options.folder)
    families = read_families(options.folder, options.halves)
    tasks = sum(map(len, families))
    if tasks <= len(SHARES):
        sys.exit(f"{options.folder} needs {len(SHARES) + 1} tasks or more, it has {tasks}")
    spec = load_spec(options.spec)
    privacy = terms(spec.width, epsilon=options.epsilon, delta=1e-5)
    sigma = 0.0 if options.plain else float(privacy.sigma or 0)
    truth: Literal["task", "data"] = options.truth
    how = GroupingOptions(draws=0, truth=truth)
    attacks = BOTH if options.plain else BOTH | PRIVATE
    rows: dict[str, dict[str, float]] = {}
    for name, attack in attacks.items():
        if options.attacks and name not in options.attacks:
            continue
        rng = np.random.default_rng(options.seed)  # every attack meets the same pools
        seeds = rng.integers(0, 2**32, options.pools)
        results = [
            one_pool(
                draw_pool(families, spec, sigma, options.images, np.random.default_rng(seed)),
                attack,
                how,
            )
            for seed in seeds
        ]
        rows[name] = {key: float(np.mean([r[key] for r in results])) for key in results[0]}
        print(name, {k: round(v, 3) for k, v in rows[name].items()}, file=sys.stderr, flush=True)
    print(f"{options.pools} pools, {tasks} tasks, {spec.name}, sigma {sigma:.4g}\n")
    print(table(rows))
    if options.json:
        figures = {"tasks": tasks, "spec": spec.name, "sigma": sigma, "attacks": rows}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
