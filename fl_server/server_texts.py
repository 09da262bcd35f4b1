"""The files of a coordinator's folder that Flower, the shell and systemd read."""

from __future__ import annotations

import getpass
import shlex
import sys
from pathlib import Path

from fl_server.certificates import CA_CERT, CERT, KEY
from fl_server.connection import NAME
from fl_server.engine import OFFLINE
from fl_server.server_file import ServerFile, quoted
from protocol.keys import PASSPHRASE

POLL_SECONDS = "0.25"
ENVIRONMENT_FILE = "coordinator.env"
_SCRIPT = """\
#!/bin/sh
# Starts the SuperLink of {name}. Made by `fedprint server init`; --upgrade makes it anew.
# {passphrase}, where the coordinator's key needs it, comes from the caller's environment.
set -eu
cd {folder}
export PATH={binaries}"${{PATH:+:$PATH}}"
{exports}
exec flower-superlink \\
{options}
"""
_SERVICE = """\
# systemd unit of the SuperLink of {name}. Made by `fedprint server init`; to use it:
#   sudo cp {script} /etc/systemd/system/fedprint-superlink.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now fedprint-superlink
# Where the coordinator's key is encrypted, a file of mode 0600 has its passphrase:
#   {environment}: {passphrase}=...
[Unit]
Description=fedprint coordinator {name} (Flower SuperLink)
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart=/bin/sh {start}
EnvironmentFile=-{environment}
Restart=on-failure
RestartSec=5
TimeoutStopSec=30

# Only the coordinator's folder may be written. Runs and pools elsewhere need more ReadWritePaths,
# and so does a PostgreSQL pool: the weights that it knows lie in ~/.local/share/fedprint.
# Devices stay visible: a signing key may live in a hardware module.
ReadWritePaths={writable}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=true
NoNewPrivileges=true
ProtectControlGroups=true
ProtectKernelModules=true
ProtectKernelTunables=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictSUIDSGID=true
LockPersonality=true

[Install]
WantedBy=multi-user.target
"""
_CONNECTION = """\
[superlink]
default = {name}

[superlink.{name}]
address = {address}
root-certificates = {certificates}
"""


def superlink_script(folder: Path, settings: ServerFile) -> str:
    """Return ``superlink.sh``: the environment, and Flower's SuperLink with every option."""
    tls = folder / "tls"
    options = [
        f"--host {shlex.quote(settings.host)} --port {settings.port}",
        f"--ssl-ca-certfile {_word(tls / CA_CERT)}",
        f"--ssl-certfile {_word(tls / CERT)}",
        f"--ssl-keyfile {_word(tls / KEY)}",
        "--enable-supernode-auth --isolation subprocess",
        f"--database {_word(folder / 'superlink.db')}",
        "--disable-runtime-dependency-installation",
    ]
    return _SCRIPT.format(
        name=settings.name,
        passphrase=PASSPHRASE,
        folder=_word(folder),
        binaries=_word(Path(sys.executable).parent),
        exports="\n".join(f"export {key}={_word(value)}" for key, value in _variables(folder)),
        options=" \\\n".join(f"  {option}" for option in options),
    )


def superlink_service(folder: Path, settings: ServerFile) -> str:
    """Return ``superlink.service``, a systemd unit for ``superlink.sh``."""
    return _SERVICE.format(
        name=settings.name.replace("%", "%%"),
        passphrase=PASSPHRASE,
        script=_word(folder / "superlink.service"),
        user=getpass.getuser(),
        start=_unit_word(folder / "superlink.sh").replace("$", "$$"),
        environment=_unit_text(folder / ENVIRONMENT_FILE),
        writable=_unit_word(folder),
    )


def flower_connection(folder: Path, settings: ServerFile) -> str:
    """Return Flower's ``config.toml`` with the connection to this coordinator's SuperLink.

    It goes straight there: what stands before the SuperLink may let only the sites' calls through.
    """
    host = settings.dialled[-1]
    local = f"[{host}]" if ":" in host else host
    return _CONNECTION.format(
        name=quoted(NAME),
        address=quoted(f"{local}:{settings.port}"),
        certificates=quoted(str(folder / "tls" / CA_CERT)),
    )


def run_config(folder: Path) -> str:
    """Return ``run.toml``, the settings that each run of this coordinator needs."""
    return (
        "# For `flwr run APP fedprint --run-config FILE`: whose trust store and key a run uses.\n"
        f"server-dir = {quoted(str(folder))}\n"
        "\n# What sites are asked for: fingerprints with noise, each of which reveals of no\n"
        "# patient more than epsilon at delta. A site whose policy is stricter gives less.\n"
        'release = "private"\n'
        'spec = "lite0-private"\n'
        "epsilon = 2.0\n"
        "delta = 1e-5\n"
    )


def _variables(folder: Path) -> list[tuple[str, object]]:
    kept = {key: value for key, value in OFFLINE.items() if not key.startswith("RAY_")}
    own = {"FLWR_HOME": folder / "flwr", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": POLL_SECONDS}
    return [*own.items(), *kept.items(), ("PYTHONUNBUFFERED", "1")]


def _word(value: object) -> str:
    return shlex.quote(str(value))


def _unit_text(value: object) -> str:
    return str(value).replace("%", "%%")


def _unit_word(value: object) -> str:
    text = _unit_text(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
