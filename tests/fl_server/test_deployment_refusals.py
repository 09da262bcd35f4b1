"""A real deployment among sites that cheat, and sites that may not take part any more.

Every fault is refused with its own reason code, and the other sites finish. What a cheating site
does is code at the end of the app's ClientApp, which asks the site's own folder what to do.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_server.certificates import issue, load_authority, make_authority
from fl_server.deployment import Deployment
from protocol.errors import FedprintError
from tests.conftest import digits, patches, write_subfolders
from tests.fl_server.deploying import EXCHANGE, add_plain_site, deployed, faulty_app, read_json

pytestmark = [pytest.mark.engine, pytest.mark.deployment]

CHEATING = '''
import base64
import json
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord

from fl_client.node import site_signer
from fl_client.release import make_binding
from protocol.fingerprint import counts_from_bytes, counts_to_bytes, pack, unpack
from protocol.records import from_release_request

honest, app = app, ClientApp()


@app.query("fingerprint")
def fingerprint(message, context):
    """Answer as the honest app does, then do what the site's file ``fault`` says."""
    reply = honest(message, context)
    folder = Path(str(context.node_config["site"]))
    fault = (folder / "fault").read_text() if (folder / "fault").exists() else ""
    record = reply.content["fedprint"]
    request = from_release_request(message.content)
    if fault == "changed histogram":
        payload = unpack(record["payload"], 10**8)
        counts = counts_from_bytes(payload, (request.spec.width, request.spec.bins)).copy()
        row = counts[0]
        row[np.argmax(row)] -= 1
        row[np.argmin(row)] += 1
        record["payload"] = pack(counts_to_bytes(counts))
    elif fault == "changed statement":
        envelope = json.loads(record["release"])
        said = json.loads(base64.b64decode(envelope["payload"]))
        said["predicate"]["images"] += 1
        envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()
        record["release"] = json.dumps(envelope).encode()
    elif fault == "stale nonce":
        signer = site_signer(context)
        record["binding"] = make_binding(
            str(record["site"]), record["release"], request.run, "0" * 64, signer
        )
    elif fault == "envelope of another site":
        stolen = next((folder.parent / "north" / "state" / "releases").glob("*/north.dsse.json"))
        record["release"] = stolen.read_bytes()
    elif fault == "replay":
        kept = folder / "state" / "first-answer"
        if kept.exists():
            names = ("payload", "release", "binding")
            values = {n: (kept / n).read_bytes() for n in names}
            reply.content["fedprint"] = ConfigRecord({"site": record["site"], **values})
        else:
            kept.mkdir()
            for name in ("payload", "release", "binding"):
                (kept / name).write_bytes(record[name])
    return reply
'''


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    """Reason codes by run and site, of two runs among the same sites."""
    root = tmp_path_factory.mktemp("refusals")
    app = faulty_app(root / "app", CHEATING)
    with deployed(root / "deployment", app=app) as deployment:
        cheats = ("alpha", "beta", "gamma")
        images = write_subfolders(root / "digits", digits((3, 8), 6))
        for name in ("north", *cheats, "revoked", "rotated", "twin", "swap-a", "swap-b"):
            add_plain_site(deployment, name, images, start=False)
        photos = write_subfolders(root / "photos", patches(6, seed=1))
        add_plain_site(deployment, "south", photos)
        _swap(deployment, "swap-a", "swap-b")
        for name, site in deployment.sites.items():
            if name != "south":
                site.start()
        _run_old_and_new(deployment, "twin")
        _register_without_enrolling(deployment, root, images)
        # last, and --offline: Flower itself would shut these two out
        revoke = ("server", "revoke", deployment.coordinator, "revoked", "--yes", "--offline")
        deployment.fedprint(*revoke)
        _rotate_but_run_the_old(deployment, "rotated")
        _await_nodes(deployment, len(deployment.sites))
        found = {}
        for run, faults in {
            "first": ("changed histogram", "changed statement", "replay"),
            "second": ("stale nonce", "envelope of another site", "replay"),
        }.items():
            for name, fault in zip(cheats, faults, strict=True):
                (deployment.sites[name].folder / "fault").write_text(fault)
            deployment.run({**EXCHANGE, "out": run, "min-sites": 8}, show=lambda _line: None)
            run_file = read_json(deployment.coordinator / run, "run.json")
            found[run] = {gone["site"]: gone["reason"] for gone in run_file["left_out"]}
            found[run] |= {site["site"]: "verified" for site in run_file["sites"]}
        yield found


def _await_nodes(deployment: Deployment, count: int) -> None:
    deadline = time.monotonic() + 120
    while sum(node.status == "online" for node in deployment.connection.nodes()) < count:
        assert time.monotonic() < deadline, "not all SuperNodes connected"
        time.sleep(0.5)


def _swap(deployment: Deployment, one: str, other: str) -> None:
    """Let each site say that it is the other, and sign with the other's key."""
    folders = [deployment.sites[name].folder for name in (one, other)]
    for folder in folders:
        shutil.copy(folder / "keys" / "node", folder.parent / f"{folder.name}.key")
    for folder, claimed in zip(folders, (other, one), strict=True):
        stolen = folder.parent / f"{claimed}.key"
        text = (folder / "site.toml").read_text()
        text = text.replace(f'name = "{folder.name}"', f'name = "{claimed}"', 1)
        text = text.replace('signing-key = "keys/node"', f'signing-key = "{stolen}"')
        (folder / "site.toml").write_text(text)


def _rotation(deployment: Deployment, name: str) -> Path:
    deployment.fedprint("site", "rotate", deployment.sites[name].folder)
    return deployment.sites[name].folder / f"{name}.rotation.json"


def _rotate_but_run_the_old(deployment: Deployment, name: str) -> None:
    rotation = _rotation(deployment, name)
    deployment.fedprint("server", "enrol", deployment.coordinator, rotation, "--yes", "--offline")


def _run_old_and_new(deployment: Deployment, name: str) -> None:
    """Rotate with a grace, and run a SuperNode with each of the two keys."""
    old = deployment.sites[name]
    rotation = _rotation(deployment, name)
    deployment.fedprint(
        *("server", "enrol", deployment.coordinator, rotation, "--yes", "--grace", 1)
    )
    copy = old.folder.parent / f"{name}-new"
    shutil.copytree(old.folder, copy, ignore=shutil.ignore_patterns("state"))
    deployment.fedprint("site", "rotate", copy, "--finish")
    deployment.adopt_site(f"{name}-new", copy)


def _register_without_enrolling(deployment: Deployment, root: Path, images: Path) -> None:
    """Make a site whose node key Flower knows, and the trust store does not."""
    folder = deployment.folder / "sites" / "stranger"
    invitation = deployment.coordinator / "invitation.json"
    deployment.fedprint(
        *("site", "init", folder, "--name", "stranger", "--invitation", invitation),
        *("--data", images, "--automatic"),
    )
    deployment.connection.register(folder / "keys" / "node.pub", "stranger")
    deployment.adopt_site("stranger", folder)


@pytest.mark.parametrize(
    ("run", "site", "reason"),
    [
        ("first", "alpha", "digest-mismatch"),
        ("first", "beta", "bad-signature"),
        ("second", "alpha", "stale-nonce"),
        ("second", "beta", "wrong-site"),
        ("second", "gamma", "wrong-run"),
        ("first", "swap-a", "wrong-node"),
        ("first", "swap-b", "wrong-node"),
        ("first", "revoked", "key-revoked"),
        ("first", "rotated", "key-rotated"),
        ("first", "twin", "duplicate-site"),
        ("first", "node stranger", "unknown-node"),
    ],
)
def test_each_fault_has_its_reason_code(
    refusals: dict[str, dict[str, str]], run: str, site: str, reason: str
) -> None:
    assert refusals[run][site] == reason


def test_the_others_finish(refusals: dict[str, dict[str, str]]) -> None:
    for run, honest in {"first": {"gamma", "north", "south"}, "second": {"north", "south"}}.items():
        verified = {site for site, reason in refusals[run].items() if reason == "verified"}
        assert verified == honest


def test_strangers_and_wrong_certificates_end_with_their_code(tmp_path: Path) -> None:
    """Flower itself would meet them with silence, or try again for ever."""
    images = write_subfolders(tmp_path / "digits", digits((3, 8), 6))
    with deployed(tmp_path / "deployment") as deployment:
        stranger = tmp_path / "stranger"
        invitation = deployment.coordinator / "invitation.json"
        deployment.fedprint(
            *("site", "init", stranger, "--invitation", invitation, "--data", images)
        )
        with pytest.raises(FedprintError, match=r"not-registered: .* does not know the key of"):
            deployment.fedprint("site", "start", stranger)
        tls = deployment.coordinator / "tls"
        lasts = timedelta(seconds=10)
        authority = load_authority(tls / "ca.crt", tls / "ca.key")
        expires = issue(tls, authority, ["127.0.0.1", "localhost"], lasts).not_valid_after_utc
        deployment.superlink.stop()
        deployment.superlink.start()
        while datetime.now(UTC) <= expires:
            time.sleep(0.5)
        with pytest.raises(FedprintError, match=r"certificate-expired: the certificate of 127.0.0"):
            deployment.fedprint("site", "start", stranger)
        (stranger / "ca.crt").unlink()
        (stranger / "ca.crt").write_bytes(
            make_authority("another").certificate.public_bytes(Encoding.PEM)
        )
        with pytest.raises(FedprintError, match=r"wrong-ca: the certificate of 127.0.0.1:"):
            deployment.fedprint("site", "start", stranger)
