"""All that is known of the tasks of a run or of a folder: what measures compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fl_server.descriptor_folder import open_descriptor, read_descriptors
from fl_server.exchange import Exchange
from fl_server.score_folder import read_scores
from protocol.descriptors import ClassMoments, Descriptor, Features, Fisher, Kind, Moments
from protocol.errors import BadShape, ConfigError
from protocol.signed import SignedFingerprint
from protocol.spec import Spec, check_same
from protocol.verify import VerifiedRelease, read_fingerprints
from strategies.measures import Task

Described = Mapping[str, Mapping[Kind, Descriptor]]
"""Descriptors by site and kind."""
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By target, measure and source: how well the source's model fits the target."""


def tasks_of(
    exchange: Exchange, descriptors: Described | None = None, scores: Scores | None = None
) -> list[Task]:
    """Return the tasks of a run's sites, by name.

    Parameters
    ----------
    exchange : Exchange
        Whose releases were verified.
    descriptors : mapping, optional
        What they released besides, verified too.
    scores : mapping, optional
        How well models fit, as the targets' sites signed it.
    """
    verified = {site: release.verified for site, release in exchange.releases.items()}
    return make_tasks(exchange.spec, verified, descriptors or {}, scores or {})


def tasks_of_folder(folder: Path) -> list[Task]:
    """Read and verify all that a run folder, or a folder of fingerprints, holds of its tasks.

    Descriptors lie in its subfolder ``descriptors``, scores in ``scores``. As with fingerprints,
    the keys are those that the envelopes bring along: `fedprint verify` looks at a run's trust
    store too.

    Raises
    ------
    ConfigError
        If the folder holds no spec or no fingerprint, or a file that goes with none.
    VerificationError
        If something is not what its envelope signed, or is of another spec.
    """
    spec, releases = read_fingerprints(folder)
    by_site = {release.fingerprint.site: release for release in releases}
    found = read_descriptors(folder, by_site, spec.require_ready())
    descriptors = {
        site: {kind: verified.descriptor for kind, verified in kinds.items()}
        for site, kinds in found.items()
    }
    return make_tasks(spec, by_site, descriptors, read_scores(folder, by_site))


def tasks_of_fingerprints(given: Sequence[SignedFingerprint]) -> list[Task]:
    """Verify fingerprints, and what was released beside them, as if they lay in a folder.

    Raises
    ------
    ConfigError
        If there is none, or there are two of one site.
    VerificationError
        If something is not what was signed, or is of another spec.
    """
    if not given:
        raise ConfigError("there is no fingerprint to compare: give some")
    spec, by_site = given[0].spec, dict[str, VerifiedRelease]()
    for each in given:
        check_same(spec, each.spec)
        if each.name in by_site:
            raise ConfigError(f"two fingerprints are of site {each.name}: leave one out")
        by_site[each.name] = each.verified
    descriptors = {
        each.name: {
            kind: open_descriptor(each.name, kind, *sent, each.verified, spec).descriptor
            for kind, sent in each.descriptors.items()
        }
        for each in given
    }
    return make_tasks(spec, by_site, descriptors, {})


def make_tasks(
    spec: Spec, releases: Mapping[str, VerifiedRelease], descriptors: Described, scores: Scores
) -> list[Task]:
    """Return the tasks of verified releases, by name of site.

    Raises
    ------
    BadShape
        If Fisher embeddings are of networks with different numbers of filters.
    """
    tasks = [
        _task(spec, releases[site], descriptors.get(site, {}), scores.get(site, {}))
        for site in sorted(releases)
    ]
    lengths = {task.name: len(task.fisher.values) for task in tasks if task.fisher is not None}
    for name, length in lengths.items():
        if length != (first := next(iter(lengths.values()))):
            raise BadShape(
                f"fisher of {name} has {length} filters, that of {next(iter(lengths))} {first}: "
                "they are not of one network"
            )
    return tasks


def _task(
    spec: Spec,
    release: VerifiedRelease,
    descriptors: Mapping[Kind, Descriptor],
    scores: Mapping[str, Mapping[str, float]],
) -> Task:
    moments, class_moments, fisher, features = (
        descriptors.get(kind) for kind in ("moments", "class-moments", "fisher", "features")
    )
    return Task(
        release.fingerprint.site,
        release.fingerprint.n_images,
        spec,
        fingerprint=release.fingerprint,
        card=release.card,
        moments=moments if isinstance(moments, Moments) else None,
        class_moments=class_moments if isinstance(class_moments, ClassMoments) else None,
        fisher=fisher if isinstance(fisher, Fisher) else None,
        features=features if isinstance(features, Features) else None,
        scores=scores,
    )
