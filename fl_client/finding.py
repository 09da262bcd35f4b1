"""What a check of ``fedprint site check`` looks at, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from fl_client.policy import Policy, load_policy
from fl_client.site import Site, read_site
from fl_client.site_settings import SiteSettings
from protocol.errors import FedprintError


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    name : str
        What was checked.
    state : str
        ``ok``, ``warning`` or ``failed``.
    found : str
        What is the case.
    mend : str
        What to do about it; empty when it is ok.
    reason : str
        Stable reason code of what is not ok.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    mend: str = ""
    reason: str = ""


def ok(name: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, mend: str, reason: str) -> Finding:
    """Return a finding that the site can live with."""
    return Finding(name, "warning", found, mend, reason)


def failed(name: str, found: str, mend: str, reason: str) -> Finding:
    """Return a finding with which the site cannot take part."""
    return Finding(name, "failed", found, mend, reason)


class DataVisit:
    """What checks of the data look at; what several of them need is read once.

    Parameters
    ----------
    folder : Path
        The site's folder.
    images : int
        How many images to decode as a sample.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images

    @cached_property
    def site(self) -> Site | None:
        """The site; None when it cannot be read, which another check reports."""
        try:
            return read_site(self.folder)
        except FedprintError:
            return None


class Visit(DataVisit):
    """What all checks of a deployed site look at.

    Parameters
    ----------
    settings : SiteSettings
        The site's.
    images : int
        How many images to decode as a sample.
    """

    def __init__(self, settings: SiteSettings, images: int) -> None:
        super().__init__(settings.folder, images)
        self.settings = settings

    @cached_property
    def policy(self) -> Policy | None:
        """The site's release policy; None when it cannot be read, which another check reports."""
        try:
            return load_policy(self.settings.policy)
        except FedprintError:
            return None


Check: TypeAlias = Callable[[Visit], Iterator[Finding]]
DataCheck: TypeAlias = Callable[[DataVisit], Iterator[Finding]]
