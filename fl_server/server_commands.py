"""``fedprint server``: the coordinator's folder, its sites, and who signs for them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_server import handing_on_commands, status_commands
from fl_server.dashboard import command as dashboard_command
from protocol.options import Panel

if TYPE_CHECKING:
    from fl_server.enrolling import Change
    from protocol.enrolment import Enrolment

CERTIFICATE_DAYS = 397
COMPARE = "nothing was changed: compare the key ids first, then say yes (or --yes)"
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: the key ids were compared.")]
Final = Annotated[bool, typer.Option("--yes", help="Do not ask, although it is final.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Do not talk to the SuperLink; show what is left to do.")
]
SignerKey = Annotated[
    str, typer.Option("--key", help="Signing key: a file, or a URI such as hsm:... or awskms:...")
]
PublicKey = Annotated[
    Path | None, typer.Option("--public-key", help="PEM file: the public half of a key by URI.")
]


def register(app: typer.Typer) -> None:
    """Add ``fedprint server`` to the command line."""
    server = typer.Typer(no_args_is_help=True, help="Set up and run a coordinator.")
    server.command(epilog="Example: fedprint server init /srv/fl --address fl.example.org:8000")(
        init
    )
    server.command(epilog="Example: fedprint server enrol /srv/fl north.enrol.json")(enrol)
    server.command(epilog="Example: fedprint server revoke /srv/fl north")(revoke)
    server.command(
        epilog="Example: fedprint server sign pending.dsse.json --key second.pem; "
        "then, at the first coordinator: fedprint server sign /srv/fl pending.dsse.json"
    )(sign)
    status_commands.add(server)
    handing_on_commands.add(server)
    dashboard_command.add(server)
    app.add_typer(server, name="server", rich_help_panel=Panel.DEPLOYMENT)


def init(
    folder: Folder,
    address: Annotated[
        str, typer.Option(help="HOST:PORT under which sites reach the SuperLink.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address that the SuperLink listens on.")] = "0.0.0.0",
    name: Annotated[str, typer.Option(help="The coordinator's name; by default DIR's.")] = "",
    san: Annotated[
        list[str] | None, typer.Option(help="Further name or address of the server; repeatable.")
    ] = None,
    ca_cert: Annotated[
        Path | None, typer.Option(help="Authority's certificate; by default one is made.")
    ] = None,
    ca_key: Annotated[Path | None, typer.Option(help="Authority's key, to issue with.")] = None,
    cert: Annotated[
        Path | None, typer.Option(help="Server's certificate, with those between it and the CA.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key of --cert, not encrypted.")] = None,
    validity: Annotated[
        int, typer.Option(min=1, help="Days that a server certificate made here is valid.")
    ] = CERTIFICATE_DAYS,
    co_signer: Annotated[
        list[Path] | None,
        typer.Option(help="Another coordinator's public key, a PEM file; repeatable."),
    ] = None,
    threshold: Annotated[
        int, typer.Option(min=1, help="How many coordinators must sign a trust store.")
    ] = 1,
    key: SignerKey = "",
    public_key: PublicKey = None,
    renew_certificate: Annotated[
        bool, typer.Option("--renew-certificate", help="Only renew the server's certificate.")
    ] = False,
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Only make app, scripts and connection anew."),
    ] = False,
) -> None:
    """Make a coordinator's folder: keys, certificates, trust store, SuperLink, app.

    Set FEDPRINT_KEY_PASSPHRASE to have private keys encrypted; the SuperLink needs it then, too.
    """
    from fl_server import server_folder, server_tls
    from fl_server.server_file import read_server_file
    from protocol.errors import ConfigError

    source = server_tls.CertificateSource(ca_cert, ca_key, cert, key_file, san or [], validity)
    if upgrade or renew_certificate:
        settings = read_server_file(folder)
        if renew_certificate:
            server_tls.renew_certificate(folder, source)
            typer.echo(f"new certificate for {settings.address}: restart the SuperLink")
        if upgrade:
            server_folder.upgrade(folder)
            typer.echo(f"{folder}: app and scripts made anew: restart the SuperLink")
        return
    if not address:
        raise ConfigError("--address is missing: give HOST:PORT under which sites reach you")
    new = server_folder.NewServer(
        name or folder.resolve().name,
        address,
        host,
        source,
        co_signer or [],
        threshold,
        key,
        public_key,
    )
    settings = server_folder.init_server(folder, new)
    _show_new(folder.resolve(), settings.coordinators(folder)[0], settings.threshold)


def enrol(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="The site's NAME.enrol.json.", metavar="FILE")],
    yes: Yes = False,
    grace: Annotated[
        float, typer.Option(min=0, help="In a rotation, hours for which the old key stays valid.")
    ] = 0,
    offline: Offline = False,
) -> None:
    """Take a site in, or its new keys: into the trust store, and its node into Flower.

    Compare the key ids with the site's people over another channel, such as the telephone: the
    file alone does not say who made it.
    """
    from fl_server import enrolling

    enrolment = _read_enrolment(file)
    known = enrolling.check(folder, enrolment)  # before anybody telephones
    typer.echo(f"site         {enrolment.site}")
    typer.echo(f"signing key  {enrolment.key_id}")
    typer.echo(f"node key     {enrolment.node_key_id}")
    if enrolment.replaces is not None:
        typer.echo(f"replaces     {enrolment.replaces}, which has signed this too")
    typer.echo(f"made         {enrolment.issued:%Y-%m-%d %H:%M} UTC")
    if not yes and not known:
        _agree("Did the site read out the same key ids?", COMPARE)
    done = enrolling.enrol(folder, enrolment, grace=timedelta(hours=grace), offline=offline)
    if done.known:
        typer.echo(f"{enrolment.site} is enrolled already with this key: nothing changed")
        _show_left(folder, done)
    else:
        _show_change(folder, f"{enrolment.site} is enrolled", done)
    if done.node:
        typer.echo(f"Flower knows its node as {done.node}")
    elif not offline:
        typer.echo("Flower knew its node already, under an id that nodes.json lacks")
    if grace and enrolment.replaces is not None:
        typer.echo(f"the old key stays valid for {grace:g} h; the next enrol or revoke after that")
        typer.echo("unregisters the old node, if it had another key")


def revoke(
    folder: Folder,
    site: Annotated[str, typer.Argument(help="The site's name.", metavar="SITE")],
    yes: Final = False,
    offline: Offline = False,
) -> None:
    """Revoke all keys of a site: nothing of it is believed any more, and Flower shuts it out.

    This is final: the site comes back only with new keys, from a new folder.
    """
    from fl_server import enrolling

    keys = enrolling.keys_to_revoke(folder, site)
    if keys and not yes:
        named = ", ".join(key[:12] for key in keys)
        _agree(
            f"Revoke {site} (key {named}) for ever?",
            f"nothing was revoked: it is final for the keys of {site}: say yes, or give --yes",
        )
    _show_change(folder, f"{site} is revoked", enrolling.revoke(folder, site, offline=offline))


def sign(
    target: Annotated[
        Path,
        typer.Argument(
            help="A trust store that waits for your signature, or your folder, in which one waits.",
            metavar="FILE|DIR",
        ),
    ],
    signed: Annotated[
        Path | None,
        typer.Argument(help="With DIR: the copy that others have signed.", metavar="[SIGNED]"),
    ] = None,
    key: SignerKey = "",
    public_key: PublicKey = None,
    yes: Yes = False,
) -> None:
    """Sign a trust store that several coordinators must sign, or make a signed one current."""
    from fl_server import cosigning, enrolling
    from fl_server.coordinator import changing
    from fl_server.server_file import read_public_key
    from protocol.errors import ConfigError
    from protocol.keys import environment_passphrase, load_signer

    pem = read_public_key(public_key) if public_key is not None else None
    signer = load_signer(key, environment_passphrase(), pem) if key else None
    if not target.is_dir():
        if signer is None or signed is not None:
            raise ConfigError("to sign a FILE give your --key and nothing else")
        _show_store(target)
        if not yes:
            _agree("Is this right, and are these the other coordinators' keys?", COMPARE)
        typer.echo(f"{target} has {cosigning.sign_file(target, signer)} signatures now")
        return
    with changing(target) as coordinator:
        done = cosigning.complete(coordinator, signed, signer)
        if done is None:
            typer.echo(f"{coordinator.pending} still waits for other coordinators: send them it")
            return
        typer.echo(f"trust store version {done.store.version} is current")
        for node in enrolling.sweep(done):
            typer.echo(f"Flower has unregistered node {node}")


def _agree(question: str, otherwise: str) -> None:
    """Ask a person; nobody there to answer is a no."""
    from protocol.errors import ConfigError

    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise ConfigError(otherwise)


def _show_new(folder: Path, public_pem: str, threshold: int) -> None:
    from fl_server.coordinator import PENDING
    from protocol.keys import key_id

    typer.echo(f"coordinator's key  {key_id(public_pem)}")
    if threshold > 1:
        typer.echo(f"have the others sign {folder / PENDING}: fedprint server sign")
    typer.echo(f"start the SuperLink: {folder / 'superlink.sh'} (systemd: superlink.service)")
    typer.echo(f"hand to every site:  {folder / 'invitation.json'}")
    typer.echo(f"enrol a site:        fedprint server enrol {folder} NAME.enrol.json")


def _show_change(folder: Path, what: str, done: Change) -> None:
    state = "" if done.current else ", once other coordinators have signed"
    typer.echo(f"{what}: trust store version {done.version}{state}")
    _show_left(folder, done)


def _show_left(folder: Path, done: Change) -> None:
    """Say what Flower did, and what people must still do."""
    from fl_server.coordinator import PENDING

    if not done.current:
        typer.echo(f"have them sign {folder / PENDING}: fedprint server sign")
    for node in done.unregistered:
        typer.echo(f"Flower has unregistered node {node}")
    if done.unnoted:
        typer.echo(
            "warning: nodes.json does not say which node of Flower's is the site's: find it and "
            "unregister it, or it stays connected",
            err=True,
        )
    for command in done.by_hand:
        typer.echo(f"left to do when the SuperLink runs: {command}")


def _show_store(path: Path) -> None:
    from fl_server.cosigning import look_into
    from fl_server.tables import show_table

    store, keys = look_into(path.read_bytes())
    rows = [
        [entry.site, entry.status, entry.key_id, f"{entry.not_after:%Y-%m-%d %H:%M}"]
        for entry in store.entries
    ]
    title = f"trust store, version {store.version} of {store.issued:%Y-%m-%d %H:%M} UTC"
    show_table(title, ["site", "status", "signing key", "valid until (UTC)"], rows)
    for key in keys:
        typer.echo(f"signed with {key}")


def _read_enrolment(path: Path) -> Enrolment:
    from protocol.enrolment import LIMIT, open_enrolment
    from protocol.errors import ConfigError, TooLarge, VerificationError

    try:
        if path.stat().st_size > LIMIT:
            raise TooLarge(f"it has more than {LIMIT} bytes")
        return open_enrolment(path.read_bytes())
    except OSError as error:
        hint = "give the file that the site sent"
        raise ConfigError(f"{path}: {error.strerror}: {hint}") from error
    except VerificationError as error:
        raise type(error)(
            f"{path} is no enrolment ({error}): take the NAME.enrol.json or NAME.rotation.json "
            "that the site sent"
        ) from error
