"""New keys for a site: made beside the old ones, switched to once the coordinator has them.

    keys/next/      the new keys, until the switch
    keys/old-ID/    the keys before, by the id of the signing key, after it

A switch that was cut short is completed by doing it again.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fl_client.site_file import SITE_FILE
from fl_client.site_keys import NODE_KEY, SIGNING_KEY, existing_signer, make_keys, open_signer
from fl_client.site_lock import only_one
from fl_client.site_settings import SiteSettings
from protocol.enrolment import Enrolment, make_enrolment, open_enrolment
from protocol.errors import ConfigError, one_line
from protocol.files import atomic_json, atomic_write
from protocol.keys import environment_passphrase, is_uri
from protocol.names import Sha256Hex

_PLAN = "rotation.json"  # in keys/next


class _Plan(BaseModel):
    """What the switch has to do: the id of the old signing key, and the new one where it moves."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
    )

    old: Sha256Hex
    signing_key: str | None = None
    public_key: str | None = None


def rotation_file(settings: SiteSettings) -> Path:
    """Return the file to hand to the coordinator."""
    return settings.folder / f"{settings.name}.rotation.json"


def start_rotation(
    settings: SiteSettings, signing_key: str | None = None, public_key: Path | None = None
) -> Enrolment:
    """Make new keys, and the file that tells the coordinator, signed with the old and new ones.

    Parameters
    ----------
    settings : SiteSettings
        The site's.
    signing_key : str or None
        The new signing key where it is not fedprint that makes it: a file or a URI.
    public_key : Path or None
        PEM file of the public half of a `signing_key` that is a URI.

    Returns
    -------
    Enrolment
        As it lies in `rotation_file`.

    Raises
    ------
    ConfigError
        If a rotation is under way, or a key cannot be used; nothing is left behind then.
    """
    folder = settings.folder / "keys" / "next"
    if folder.exists():
        raise ConfigError(
            f"a rotation is under way ({folder}): finish it with --finish, or delete that folder"
        )
    old = open_signer(settings.signing_key, settings.public_pem)
    try:
        separate = signing_key is None and _separate(settings)
        signing, node = make_keys(folder, separate)
        named, public = SIGNING_KEY if separate else None, None
        if signing_key is not None:
            signing, named = existing_signer(signing_key, public_key)
            if public_key is not None and is_uri(signing_key):
                public = str(public_key.expanduser().absolute())
        data = make_enrolment(settings.name, signing, node, old)
        plan = _Plan(old=old.public_key.keyid, signing_key=named, public_key=public)
        atomic_json(folder / _PLAN, plan)
        atomic_write(rotation_file(settings), data)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return open_enrolment(data)


def finish_rotation(settings: SiteSettings) -> Path:
    """Switch to the new keys; return the folder of the old ones.

    Raises
    ------
    ConfigError
        If no rotation is under way, or the site is running.
    """
    keys = settings.folder / "keys"
    new = keys / "next"
    if not (new / _PLAN).is_file():
        raise ConfigError(f"no rotation is under way in {keys}: begin with `fedprint site rotate`")
    plan = _read_plan(new / _PLAN)
    kept = keys / f"old-{plan.old[:12]}"
    with only_one(settings):
        kept.mkdir(mode=0o700, exist_ok=True)
        for name, target in _targets(settings):
            if (new / name).exists():  # else an interrupted switch has done it
                _switch(new / name, target, kept)
        _name_signing_key(settings, plan)
        if rotation_file(settings).exists():
            rotation_file(settings).replace(settings.enrolment)
        shutil.rmtree(new)
    return kept


def _read_plan(path: Path) -> _Plan:
    try:
        return _Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not in order: {one_line(error)}: restore it, or delete {path.parent} and "
            "begin again with `fedprint site rotate`"
        ) from None


def _separate(settings: SiteSettings) -> bool:
    """Tell whether to make a separate signing key; refuse where somebody else made the old one."""
    if settings.signing_key == settings.key:
        return environment_passphrase() is not None
    if settings.signing_key == settings.folder / SIGNING_KEY:
        return True
    raise ConfigError(
        f"fedprint did not make the signing key {settings.signing_key}: make a new one where you "
        "made it, and name it with --signing-key"
    )


def _targets(settings: SiteSettings) -> list[tuple[str, Path]]:
    node = settings.key
    return [
        (Path(NODE_KEY).name, node),
        (f"{Path(NODE_KEY).name}.pub", node.with_name(f"{node.name}.pub")),
        (Path(SIGNING_KEY).name, settings.folder / SIGNING_KEY),
    ]


def _switch(new: Path, target: Path, kept: Path) -> None:
    if target.exists() and not (kept / target.name).exists():
        atomic_write(kept / target.name, target.read_bytes(), mode=target.stat().st_mode & 0o777)
    new.replace(target)


def _name_signing_key(settings: SiteSettings, plan: _Plan) -> None:
    """Let ``site.toml`` name a signing key that lies elsewhere than before; its comments stay."""
    if plan.signing_key is None:
        return
    path = settings.folder / SITE_FILE
    text = _with_value(path.read_text(encoding="utf-8"), "signing-key", plan.signing_key)
    if plan.public_key is not None or settings.public_key is not None:
        text = _with_value(text, "public-key", plan.public_key)
    atomic_write(path, text)


def _with_value(text: str, key: str, value: str | None) -> str:
    """Set a key of the table [site], or comment it out when there is no value for it."""
    line = rf"""^(# *)?({key} *= *)("(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
    if value is None:
        return re.sub(line, r"# \2\3", text, count=1, flags=re.MULTILINE)
    new = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    text, found = re.subn(line, lambda _: new, text, count=1, flags=re.MULTILINE)
    return text if found else text.replace("[site]", f"[site]\n{new}", 1)
