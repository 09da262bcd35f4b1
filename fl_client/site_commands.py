"""The commands of a deployed site: ``fedprint site init``, ``check``, ``start``, ``rotate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl_client import (
    adapt_command,
    architecture_command,
    gate_commands,
    plans_command,
    policy_command,
)
from fl_client.options import JsonFile
from protocol.files import atomic_json
from protocol.options import Panel

if TYPE_CHECKING:
    from protocol.enrolment import Enrolment

# what reads images, keys or Flower is imported inside the commands: `--help` starts at once

site = typer.Typer(
    name="site",
    help="Take part in a federation: set a site up, check it, start it, look at what leaves.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(help="The site's folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands ``fedprint site ...`` to the command line."""
    app.add_typer(site, name="site", rich_help_panel=Panel.DEPLOYMENT)


@site.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the site's images; asked for on a terminal.")
    ] = None,
    invitation: Annotated[
        Path | None, typer.Option(help="The coordinator's invitation.json.")
    ] = None,
    superlink: Annotated[
        str, typer.Option(help="Without it: the coordinator's HOST:PORT, ...")
    ] = "",
    ca: Annotated[Path | None, typer.Option(help="... and its authority's certificate.")] = None,
    name: Annotated[str, typer.Option(help="Name of the site; the folder's by default.")] = "",
    spec: Annotated[
        str, typer.Option(help="Spec that may leave: a name, or a JSON file; lite0-private.")
    ] = "",
    automatic: Annotated[
        bool, typer.Option("--automatic", help="Let fingerprints go without asking a person.")
    ] = False,
    signing_key: Annotated[
        str, typer.Option(help="Sign with this key: a file, or a URI such as hsm:...")
    ] = "",
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the public half of a key named by URI.")
    ] = None,
    separate_key: Annotated[
        bool, typer.Option("--separate-key", help="Sign with an encrypted key of its own.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps.")] = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Local port of Flower's processes; 0 = any.")
    ] = 0,
) -> None:
    """Make a site's folder: keys, settings, release policy, and the enrolment to hand over.

    The node's key is not encrypted, because Flower reads no encrypted one. With
    FEDPRINT_KEY_PASSPHRASE set, fingerprints are signed with a separate key that is.

    On a terminal and without --data it asks: where the images lie, how they are listed, what the
    task is, who invited. Without an invitation only site.toml is written, which is all that
    `fedprint fingerprint` and `fedprint simulate` need.

    Example: fedprint site init /srv/fedprint --data /data/images --invitation invitation.json
    """
    from fl_client.site_asking import ask
    from fl_client.site_init import NewSite, find_coordinator, init_site, write_settings
    from protocol.keys import key_id
    from protocol.names import check_site_name
    from protocol.spec import load_spec

    name = check_site_name(name or folder.expanduser().absolute().name)
    asked = ask(folder, data, told=bool(invitation or superlink or ca))
    invitation = invitation or asked.invitation
    if asked.alone:
        path = write_settings(folder, name, asked)
        typer.echo(f"{path} is written\nnext:\n  1. fedprint site check {folder} --data")
        typer.echo(f"  2. fedprint fingerprint {folder} --out prints")
        return
    invited, address, certificates = find_coordinator(invitation, superlink, ca)
    new = NewSite(
        name=name,
        data=asked.data,
        described=asked.described,
        superlink=address,
        certificates=certificates,
        invitation=invited,
        spec=load_spec(spec).require_ready() if spec else None,
        automatic=automatic,
        signing_key=signing_key or None,
        public_key=public_key,
        separate_key=separate_key,
        device=device,
        port=port,
    )
    enrolment = init_site(folder, new)
    typer.echo(f"site {new.name} is set up in {folder}")
    _show_enrolment(enrolment)
    for pem in invited.coordinators if invited is not None else []:
        typer.echo(f"  coordinator  {key_id(pem)}")
    typer.echo(f"""next:
  1. hand {folder / new.name}.enrol.json to the coordinator, and compare the key ids by telephone
  2. fedprint site check {folder}
  3. once the coordinator has enrolled the site: fedprint site start {folder}""")


@site.command("check")
def check(
    folder: Folder,
    images: Annotated[int, typer.Option(min=0, help="Images to decode as a sample.")] = 50,
    data: Annotated[
        bool, typer.Option("--data", help="Look at the data alone; no deployment is needed.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """See whether this site can take part, and how to mend what it lacks.

    Checks settings, keys, release policy, images and labels, disk, weights, device, Flower, and
    the way to the coordinator. With --data only images and labels: whether they can be read, sizes,
    text burnt in, classes, splits, patients, duplicates. The exit code is 1 when any check failed.

    Example: fedprint site check /srv/fedprint
    """
    from fl_client.doctor import examine, examine_data, show, summary

    findings = examine_data(folder, images) if data else examine(folder, images)
    if json_file is not None:
        atomic_json(json_file, summary(findings))
    show(findings)
    if not summary(findings)["ok"]:
        raise typer.Exit(1)


@site.command("start")
def start(
    folder: Folder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command and start nothing.")
    ] = False,
) -> None:
    """Run this site's Flower SuperNode until it is stopped (Ctrl-C, or systemd's SIGTERM).

    Example: fedprint site start /srv/fedprint
    """
    from fl_client.site_settings import load_site_settings
    from fl_client.supernode import shown_command, start_site

    settings = load_site_settings(folder)
    if dry_run:
        typer.echo(shown_command(settings))
    else:
        raise typer.Exit(start_site(settings))


@site.command("rotate")
def rotate(
    folder: Folder,
    finish: Annotated[
        bool, typer.Option("--finish", help="Switch to the new keys, once they are enrolled.")
    ] = False,
    signing_key: Annotated[
        str, typer.Option(help="New signing key where the old one is a file or URI of your own.")
    ] = "",
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of the public half of a key named by URI.")
    ] = None,
) -> None:
    """Make new keys beside the old ones; with --finish, switch to them.

    Between the two steps hand NAME.rotation.json to the coordinator. The site goes on with its old
    keys until then; stop it for the second step.

    Example: fedprint site rotate /srv/fedprint
    """
    from fl_client.site_rotation import finish_rotation, rotation_file, start_rotation
    from fl_client.site_settings import load_site_settings

    settings = load_site_settings(folder)
    if finish:
        kept = finish_rotation(settings)
        typer.echo(f"site {settings.name} has switched to its new keys; the old ones are in {kept}")
        return
    enrolment = start_rotation(settings, signing_key or None, public_key)
    typer.echo(f"site {settings.name} has new keys in {settings.folder / 'keys' / 'next'}")
    _show_enrolment(enrolment)
    typer.echo(f"""next:
  1. hand {rotation_file(settings)} to the coordinator, and compare the key ids by telephone
  2. once the coordinator has enrolled it: stop the site, and
     fedprint site rotate {folder} --finish""")


def _show_enrolment(enrolment: Enrolment) -> None:
    """Show the ids of the keys; people compare them over another channel."""
    if enrolment.key_id == enrolment.node_key_id:
        typer.echo(f"  node and signing key  {enrolment.key_id}")
        return
    typer.echo(f"  signing key  {enrolment.key_id}")
    typer.echo(f"  node key     {enrolment.node_key_id}")


gate_commands.add(site)
adapt_command.add(site)
architecture_command.add(site)
policy_command.add(site)
plans_command.add(site)
