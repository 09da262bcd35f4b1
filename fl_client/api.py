"""Fingerprints from Python: what ``fedprint fingerprint`` does, and nothing else.

from fl_client.api import fingerprint

north = fingerprint("hospitals/north")
north.save("prints")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fl_client.fingerprint_folder import check_folder, write_fingerprint
from fl_client.local_release import (
    check_descriptors,
    release_descriptors,
    release_plain,
    release_private,
)
from fl_client.options import require_writable
from fl_client.policy import Policy, gate, local_policy
from fl_client.site import read_site
from fl_client.site_keys import open_signer
from protocol.descriptors import Kind, parse_kinds
from protocol.errors import ConfigError, one_line
from protocol.keys import Signer, signer, user_key
from protocol.notebook import Table
from protocol.signed import SignedFingerprint
from protocol.spec import Spec, load_spec

if TYPE_CHECKING:
    from fl_client.stages import Stages

__all__ = ["SiteFingerprint", "SpecName", "fingerprint"]

SpecName = Spec | Path | str
"""A spec, its JSON file, or the name of one that is shipped."""


@dataclass(frozen=True, eq=False, repr=False)
class SiteFingerprint(SignedFingerprint):
    """A fingerprint that was just made, with what there is to say of its making.

    Parameters
    ----------
    line, warning : str
        In one line what was done and how long it took; and what speaks against the result, if
        anything does.
    facts : dict
        Seconds, rates or privacy, as ``fedprint fingerprint --json`` writes them.
    stages : Stages or None
        What each stage of the extraction could do; None when no image was opened.
    """

    line: str = ""
    warning: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    stages: Stages | None = None

    def table(self) -> Table:
        """Return what it says of itself, and what speaks against it."""
        said = super().table()
        return replace(said, rows=[*said.rows, ["but", self.warning]]) if self.warning else said

    def save(self, folder: Path | str) -> Path:
        """Write it into a folder, in which the fingerprints of several sites can be collected.

        Parameters
        ----------
        folder : Path or str
            For NAME.safetensors, NAME.dsse.json, spec.json and, in descriptors/, what was released
            besides; made where it is missing.

        Returns
        -------
        Path
            The signed statement, NAME.dsse.json.

        Raises
        ------
        SpecMismatch
            If the folder holds fingerprints of another spec.
        DataError
            If it cannot be written.
        """
        check_folder(Path(folder), self.spec)
        return write_fingerprint(Path(folder), self)


def fingerprint(
    folder: Path | str,
    spec: SpecName = "",
    *,
    out: Path | str | None = None,
    name: str = "",
    key: Path | str | None = None,
    private: bool = False,
    epsilon: float | None = None,
    delta: float | None = None,
    cap: int | None = None,
    budget: float | None = None,
    also: str | Sequence[Kind] = (),
    state: Path | str | None = None,
    device: str = "",
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
) -> SiteFingerprint:
    """Fingerprint a site's images and sign the result.

    Parameters
    ----------
    folder : Path or str
        The site's folder of images, see `fl_client.site.read_site`.
    spec : Spec, Path or str
        What makes fingerprints comparable; by default lite0-100, lite0-private if `private`.
    out : Path or str, optional
        Folder to save into, looked at before the work; else `SiteFingerprint.save` does it.
    name : str
        Name of the site; by default the one that its ``site.toml`` says, else the folder's.
    key : Path or str, optional
        Private key file (PEM or OpenSSH); by default a key of yours that is made once.
    private : bool
        Whether to add noise. It is drawn once and kept, and its cost written into a ledger: a
        second call gives the same bytes and spends nothing.
    epsilon, delta : float, optional
        Private: most that this release spends, 2 at 1e-5 by default.
    cap : int, optional
        Private: most images of one patient that count, 1 by default.
    budget : float, optional
        Private: most epsilon of all releases together, 8 by default.
    also : str or sequence of str
        Descriptors to release besides, for measures that need more than histograms: ``"moments"``,
        ``"class-moments"``, ``"fisher"``; in one text with commas.
    state : Path or str, optional
        Where ledger and features lie; FOLDER/.fedprint by default.
    device : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; by default the first that is there.
    batch_size : int
        Views in one forward pass.
    workers : int
        Decoding threads; 0 is one a core.
    progress : bool
        Whether to show how far it is.

    Returns
    -------
    SiteFingerprint

    Raises
    ------
    ConfigError
        If spec, key, terms or device cannot be used.
    DataError
        If the folder or an image cannot be read, or a folder not be written.
    PolicyError
        If there are too few images, or the budget is used up.
    SpecMismatch
        If `out` holds fingerprints of another spec.

    Examples
    --------
    >>> north = fingerprint("hospitals/north", private=True, epsilon=1)  # doctest: +SKIP
    >>> north.save("prints")  # doctest: +SKIP
    """
    chosen = spec_of(spec, private=private)
    policy = _policy(
        private, epsilon=epsilon, delta=delta, contribution_cap=cap, budget_epsilon=budget
    )
    signing, kinds = (
        _signer(key),
        parse_kinds(also if isinstance(also, str) else ",".join(also), "--also"),
    )
    site = read_site(folder, state, name=name or None)
    gate(policy, chosen, site, private=private)  # before the work, and again at the release
    check_descriptors(site, chosen, policy, kinds, private=private)
    if out is not None:
        check_folder(Path(out), chosen)
    if private or kinds:
        require_writable(site.state, "state folder", "--state")
    told: list[Stages] = []
    options = {
        "batch_size": batch_size,
        "workers": workers or None,
        "progress": progress,
        "tell": told.append,
    }
    release = release_private if private else release_plain
    made = release(site, chosen, policy, signing, device, options)
    sent = release_descriptors(
        site, chosen, policy, signing, device, kinds, made.payload, private=private
    )
    done = SiteFingerprint(
        made.payload,
        made.envelope,
        chosen,
        sent,
        line=made.line,
        warning=made.warning,
        facts=made.facts,
        stages=told[-1] if told else None,
    )
    if out is not None:
        write_fingerprint(Path(out), done)
    return done


def spec_of(spec: SpecName, *, private: bool = False) -> Spec:
    """Return a spec that is ready to use; without a name the default one.

    Raises
    ------
    ConfigError
        If there is none of the name, or it is a recipe without bin edges.
    """
    if not isinstance(spec, Spec):
        spec = load_spec(spec or ("lite0-private" if private else "lite0-100"))
    return spec.require_ready()


def _policy(private: bool, **given: float | None) -> Policy:
    """Return the policy of local commands with the terms of a private release."""
    changes = {name: value for name, value in given.items() if value is not None}
    if not private:
        if changes:
            raise ConfigError(
                "epsilon, delta, cap and budget belong to a private fingerprint: give --private, "
                "in Python private=True"
            )
        return local_policy()
    try:
        limits = Policy.model_validate(changes)
    except ValidationError as error:
        raise ConfigError(f"private release: {one_line(error)}") from None
    chosen = {"release", "epsilon", "delta", "contribution_cap", "budget_epsilon"}
    return local_policy(**limits.model_dump(include=chosen))


def _signer(path: Path | str | None) -> Signer:
    return signer(user_key()) if path is None else open_signer(Path(path))
