"""Checks of what ``fedprint site init`` made: keys, enrolment, release policy, state folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from fl_client.check_tracking import check_tracking
from fl_client.contribution import counted_number
from fl_client.finding import Check, Finding, Visit, failed, ok, warning
from fl_client.ledger import Ledger, spent_by
from fl_client.offer import budget_of
from fl_client.policy import Policy, load_policy, unknown_specs
from fl_client.regions import has_masks
from fl_client.site import Site
from fl_client.site_keys import needs_passphrase, open_signer
from protocol.enrolment import open_enrolment
from protocol.errors import ConfigError, DataError, PolicyError, VerificationError
from protocol.files import atomic_write
from protocol.keys import PASSPHRASE, environment_passphrase, load_private_key, signer
from protocol.privacy import rho_of
from protocol.spec import list_specs

LITTLE_DISK = 2 * 2**30
TOO_LITTLE_DISK = 200 * 2**20

_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def check_node_key(visit: Visit) -> Iterator[Finding]:
    """See that Flower can read the node's key, and nobody else."""
    path = visit.settings.key
    try:
        kind = signer(load_private_key(path)).public_key.keytype
        openssh = path.read_bytes().lstrip().startswith(_OPENSSH)
    except ConfigError as error:
        yield failed("node key", str(error), "restore it, or run `site init` anew", "bad-key")
        return
    if kind != "ecdsa" or not openssh:
        yield failed(
            "node key",
            f"{path} is not what Flower reads: a NIST curve key in OpenSSH form",
            "make one with `ssh-keygen -t ecdsa -b 384 -N ''`, and enrol again",
            "bad-key",
        )
        return
    yield _private("node key", path)


def check_signing_key(visit: Visit) -> Iterator[Finding]:
    """See that the key that signs can be opened, and is as private as it must be."""
    settings = visit.settings
    key = settings.signing_key
    if key == settings.key:
        yield ok("signing key", "the node's key signs too")
        return
    if isinstance(key, Path) and key.is_file() and needs_passphrase(key):
        if environment_passphrase() is None:
            yield failed(
                "signing key",
                f"{key} is encrypted, and {PASSPHRASE} is not set",
                f"set {PASSPHRASE} for this check and for `site start`",
                "passphrase-missing",
            )
            return
        yield ok("passphrase", f"{PASSPHRASE} is set")
    try:
        open_signer(key, settings.public_pem)
    except ConfigError as error:
        yield failed("signing key", str(error), "correct key or passphrase", "bad-key")
        return
    yield _private("signing key", key) if isinstance(key, Path) else ok("signing key", key)


def _private(name: str, path: Path) -> Finding:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return failed(
            name, f"{path} can be read by others ({mode:o})", f"chmod 600 {path}", "key-not-private"
        )
    return ok(name, f"{path}, for its owner only")


def check_enrolment(visit: Visit) -> Iterator[Finding]:
    """See that the enrolment that was handed over names the keys that are there."""
    settings, path = visit.settings, visit.settings.enrolment
    if not path.is_file():
        yield warning(
            "enrolment", f"{path} is not there", "keep it beside site.toml", "enrolment-missing"
        )
        return
    try:
        named = open_enrolment(path.read_bytes())
        node = signer(load_private_key(settings.key)).public_key.keyid
        signing = open_signer(settings.signing_key, settings.public_pem).public_key.keyid
    except VerificationError as error:
        yield failed("enrolment", str(error), "restore the file", error.reason)
        return
    except ConfigError:  # the checks of the keys say so
        return
    if (named.site, named.node_key_id, named.key_id) != (settings.name, node, signing):
        yield failed(
            "enrolment",
            f"{path} names site {named.site} and other keys than those in site.toml",
            "restore the keys, or correct site.toml",
            "other-keys",
        )
        return
    yield ok("enrolment", f"signing key {signing[:16]}, node key {node[:16]}")


def check_policy(visit: Visit) -> Iterator[Finding]:
    """Say in words what the release policy permits, and whether the data fulfil it."""
    try:
        policy = load_policy(visit.settings.policy)
    except ConfigError as error:
        yield failed("policy", str(error), f"correct {visit.settings.policy}", "bad-policy")
        return
    if not policy.specs:
        yield failed("policy", "permits no spec", "add one to specs", "nothing-permitted")
        return
    if unknown := unknown_specs(policy):
        shipped = ", ".join(spec.name for spec in list_specs())
        yield failed(
            "policy",
            f"{visit.settings.policy.name} names spec {unknown[0]!r}, which is none of {shipped}",
            "take one of these or a digest",
            "unknown-spec",
        )
        return
    yield ok("policy", in_words(policy))
    if visit.site is not None:
        yield from _enough(visit.site, policy)
    yield from _budget(visit, policy)


def _enough(site: Site, policy: Policy) -> Iterator[Finding]:
    """See that the data fulfil the policy, counted as a release counts them."""
    cap = policy.contribution_cap if policy.release == "private" else 0
    images = counted_number(site, cap)
    for what, there, least in (
        ("images", images, policy.min_images),
        ("patients", site.patients or images, policy.min_patients),
    ):
        if there < least:
            yield failed(
                "policy",
                f"the site has {there} {what}, its policy asks for {least}",
                f"add {what}, or lower min_{what}",
                f"too-few-{what}",
            )
    try:
        behind = site.patients_by_class
    except DataError:  # of a mask: the check of the masks says so
        return
    rare = {k: n for k, n in behind.items() if n < policy.min_class_patients}
    if rare:
        yield failed(
            "policy",
            f"class {min(rare, key=rare.__getitem__)!r} has {min(rare.values())} patients, the "
            f"policy asks for {policy.min_class_patients} of each class",
            "leave the class out or merge it, or lower min_class_patients",
            "small-class",
        )
    for spec in list_specs():
        needed = policy.images_per_bin * spec.bins
        if spec.name not in policy.specs or (spec.regions is not None and not has_masks(site)):
            continue
        if (there := counted_number(site, cap, spec)) < needed:
            what = "images" if spec.regions is None else "regions"
            yield failed(
                "policy",
                f"the site has {there} {what}, its policy asks for {needed} for the {spec.bins} "
                f"bins of {spec.name}",
                f"add {what}, or lower images_per_bin",
                "too-many-bins",
            )


def _budget(visit: Visit, policy: Policy) -> Iterator[Finding]:
    """See that the privacy ledger is whole, and that something is left to spend."""
    budget, one = budget_of(policy), rho_of(policy.epsilon, policy.delta)
    try:
        spent = spent_by(Ledger(visit.settings.state).check())
    except PolicyError as error:
        yield failed("ledger", str(error), "restore the state folder", error.reason)
        return
    left = f"{100 * min(spent / budget.rho, 1):.0f} % of the privacy budget is spent"
    if spent + one > budget.rho:
        yield warning(
            "ledger",
            f"{left}: too little is left for another draw of epsilon {policy.epsilon:g}",
            "raise budget_epsilon, or go on with what was released",
            "budget-exhausted",
        )
    else:
        yield ok("ledger", left)


def in_words(policy: Policy) -> str:
    """Say what a release policy permits."""
    specs = "any spec" if "*" in policy.specs else ", ".join(name[:16] for name in policy.specs)
    how = "without asking" if policy.automatic else "after a person approved"
    bins = f", up to {policy.max_bins} bins" if policy.max_bins is not None else ""
    noise = (
        f"with noise (epsilon {policy.epsilon:g} at delta {policy.delta:g} each, "
        f"{policy.budget_epsilon:g} in all)"
        if policy.release == "private"
        else "with noise where the coordinator asks for it, else plain"
    )
    more = ["trials", "plans"] if policy.plans else []
    parts = ["training", *more, *(["scores of others' models"] if policy.scores else [])]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
    rest = f"and takes part in {listed}" if policy.training else "and no training"
    described = f", {', '.join(policy.descriptors)}" if policy.descriptors else ""
    return (
        f"lets fingerprints{described} of {specs} go {how}, from {policy.min_images} images and "
        f"{policy.min_patients} patients on{bins}, {noise}, {rest}"
    )


def check_state(visit: Visit) -> Iterator[Finding]:
    """See that fedprint can keep what it must, and nobody else looks at it."""
    folder = visit.settings.state
    try:
        atomic_write(folder / ".probe", b"")
        (folder / ".probe").unlink()
    except OSError as error:
        yield failed(
            "state",
            f"{folder} cannot be written ({error.strerror})",
            "give it to the user who runs fedprint, or name another state in site.toml",
            "state-not-writable",
        )
        return
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < TOO_LITTLE_DISK:
        yield failed("state", found, "free some disk space", "disk-full")
    elif free < LITTLE_DISK:
        yield warning("state", found, "free some disk space", "little-disk")
    elif folder.stat().st_mode & 0o077:
        yield warning(
            "state", f"{folder} can be read by others", f"chmod 700 {folder}", "state-not-private"
        )
    else:
        yield ok("state", found)


SETUP_CHECKS: tuple[Check, ...] = (
    check_node_key,
    check_signing_key,
    check_enrolment,
    check_policy,
    check_state,
    check_tracking,
)
