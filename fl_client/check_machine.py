"""Checks of the site's machine and of its way to the coordinator."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator

from fl_client.coordinator_probe import probe
from fl_client.finding import Check, Finding, Visit, failed, ok, warning
from fl_client.site_init import SPEC_FILE
from fl_client.site_texts import SPEC
from fl_client.supernode import supernode_environment
from protocol.errors import ConfigError, SiteError, WeightsError
from protocol.spec import Spec, list_specs, load_spec

DAYS_LEFT = 30
"""Days before a certificate expires from which on it is time to renew it."""

# How far our clock may be ahead of and behind the coordinator's until Flower refuses our node
_AHEAD, _BEHIND = 5.0, 300.0
_DRIFT = 2.0  # the coordinator tells whole seconds

_PROGRAMS = ("flower-supernode", "flower-superexec", "flwr-clientapp")


def check_weights(visit: Visit) -> Iterator[Finding]:
    """See that the weights that the permitted specs name are on this machine."""
    from fl_client.backbone import load_backbone

    for spec in _permitted(visit):
        name = f"weights of {spec.name}"
        try:
            load_backbone(spec)
        except (WeightsError, ConfigError) as error:
            yield failed(name, str(error), "install the weights on this machine", "no-weights")
        else:
            yield ok(name, f"{spec.backbone} from {spec.weights.source}, as the spec names them")


def _permitted(visit: Visit) -> list[Spec]:
    """Return the specs at hand that the policy names, one for each backbone."""
    own = visit.settings.folder / SPEC_FILE
    specs = [spec for spec in list_specs() if spec.ready]
    specs += [load_spec(own)] if own.is_file() else []
    named = set(visit.policy.specs) if visit.policy is not None else set()
    wanted = [spec for spec in specs if named & {spec.name, spec.digest}]
    if "*" in named:
        wanted = [spec for spec in specs if spec.name == SPEC]
    return list({spec.weights.sha256: spec for spec in reversed(wanted)}.values())


def check_device(visit: Visit) -> Iterator[Finding]:
    """See what will compute."""
    from fl_client.device import choose_device

    try:
        device = choose_device(visit.settings.device or None)
    except ConfigError as error:
        yield failed("device", str(error), "correct device in site.toml", "no-device")
        return
    if device.type == "cpu":
        mend = "fine without a GPU, only slower; where there is one, see the driver"
        yield warning("device", "no GPU is used", mend, "cpu-only")
        return
    import torch

    label = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield ok("device", f"{device} ({label})")


def check_flower(visit: Visit) -> Iterator[Finding]:
    """See that Flower's programs are there."""
    path = supernode_environment(visit.settings)["PATH"]
    missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        mend = "run `pip install flwr` in the environment of fedprint"
        yield failed("Flower", f"{', '.join(missing)} is missing", mend, "flower-missing")
        return
    yield ok("Flower", f"flwr {importlib.metadata.version('flwr')}")


def check_coordinator(visit: Visit) -> Iterator[Finding]:
    """Knock at the coordinator's door: reachable, the right one, and its clock like ours."""
    settings = visit.settings
    try:
        answer = probe(settings.superlink, settings.certificates)
    except SiteError as error:
        found, _, mend = str(error).partition(": ")
        yield failed("coordinator", found, mend, error.reason)
        return
    found = f"{settings.superlink} answers, its certificate is valid for {answer.days_left} days"
    if answer.days_left < DAYS_LEFT:
        mend = "ask the coordinator to renew it"
        yield warning("coordinator", found, mend, "certificate-expires-soon")
    else:
        yield ok("coordinator", found)
    if answer.skew is not None:
        yield clock(answer.skew)


def clock(skew: float) -> Finding:
    """Judge by how many seconds the coordinator's clock is ahead of ours."""
    found = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the coordinator's"
    mend = "set this machine's clock by a time server (NTP)"
    if skew < -_AHEAD or skew > _BEHIND:
        return failed("clock", f"{found}: Flower refuses the node", mend, "clock-skew")
    if abs(skew) > _DRIFT:
        return warning("clock", found, mend, "clock-drift")
    return ok("clock", "agrees with the coordinator's")


MACHINE_CHECKS: tuple[Check, ...] = (
    check_weights,
    check_device,
    check_flower,
    check_coordinator,
)
