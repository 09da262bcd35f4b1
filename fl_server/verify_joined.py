"""Checks of the sites that joined a finished run: each is placed once more, in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fl_server.placing import assigned
from fl_server.verify_evidence import Broken, Evidence, Finding
from fl_server.verify_same import close
from protocol.runfiles import GroupEntry, GroupsFile
from strategies.assign import Assignment


def joined_sites(evidence: Evidence) -> list[str]:
    """Return who joined after the groups were made, in the order in which they were placed."""
    joined = (evidence.run_file.model_extra or {}).get("joined", [])
    try:
        sites = [str(entry["site"]) for entry in joined]
    except (TypeError, KeyError):
        raise Broken("run.json", "does not say properly who joined") from None
    logged = [str(e.get("site")) for e in evidence.entries if e["kind"] == "joined"]
    if sites != logged:
        raise Broken("run.json", "names others as joined than the log does")
    return sites


def base_of(groups: GroupsFile, late: Sequence[str]) -> GroupsFile:
    """Return groups as they were before some sites joined."""
    before = [
        GroupEntry(name=group.name, sites=[site for site in group.sites if site not in late])
        for group in groups.groups
    ]
    return GroupsFile(
        groups=[group for group in before if group.sites],
        sites={site: why for site, why in groups.sites.items() if site not in late},
    )


def check_joined(evidence: Evidence, groups: GroupsFile, late: Sequence[str]) -> Iterator[Finding]:
    """Place everybody who joined again, each among those who were there before."""
    for number, site in enumerate(late):
        before = base_of(groups, late[number:])
        members = [member for group in before.groups for member in group.sites]
        known = {name: evidence.release(name) for name in [site, *members]}
        placed = assigned(site, known, before, evidence.spec, evidence.settings)
        if not _is_as_placed(site, placed, before, groups):
            yield Finding("groups.json", f"{site} was not placed where its counts put it")


def _is_as_placed(site: str, placed: Assignment, before: GroupsFile, groups: GroupsFile) -> bool:
    """Tell whether a site's entry is what placing it gives; a note may follow the reason."""
    said = groups.sites.get(site)
    home = [group.name for group in groups.groups if site in group.sites]
    known = {group.name for group in before.groups}
    alone = placed.group is None and len(home) == 1 and home[0] not in known
    if said is None or not (home == [placed.group] or alone):
        return False
    partners = [(p.site, p.percentile) for p in said.partners]
    return (
        said.joined
        and said.reason.startswith(placed.reason)
        and said.margin is not None
        and close(said.margin, placed.margin)
        and partners == [(p.site, p.percentile) for p in placed.partners]
        and all(
            close(a.distance, b.distance)
            for a, b in zip(said.partners, placed.partners, strict=True)
        )
        and [n.site for n in said.nearest] == [n.site for n in placed.nearest]
    )
