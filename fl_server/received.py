"""Verified releases on the coordinator's disk, so that a run begun again need not ask for them.

They lie where the run folder has them anyway; ``state/received.jsonl`` adds, one line a release,
what only a verification needs: the nonce, when the answer came, and from which node. It only
grows, and memory holds no fingerprint that lies on the disk, so that neither depends on how many
sites there are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ValidationError

from fl_server.release import ENDINGS, StoredRelease
from fl_server.release import Release as Release
from protocol.errors import FedprintError
from protocol.files import append, atomic_write, atomic_writes
from protocol.runfiles import LeftOut
from protocol.spec import Spec
from protocol.statement import utc_now
from protocol.trust import TrustStore
from protocol.verify import verify_release

log = logging.getLogger("fedprint")

RECEIVED = "state/received.jsonl"


class _Answer(BaseModel):
    site: str
    node: int
    nonce: str
    time: AwareDatetime


class _End(BaseModel):
    left_out: list[LeftOut]


class _Line(BaseModel):
    """One line of the file: a verified release, or the end of an exchange."""

    answer: _Answer | None = None
    end: _End | None = None


class Received:
    """What a run has received so far.

    Parameters
    ----------
    folder : Path
        The run folder.
    stays : bool
        Whether what lies there stays as long as its releases are of use. If not, they are held
        in memory.
    """

    def __init__(self, folder: Path, *, stays: bool = True) -> None:
        self._folder, self._stays = folder, stays
        self._answers: dict[str, _Answer] = {}
        self._end: _End | None = None
        for line in _read(folder / RECEIVED):
            self._know(line)

    @property
    def sites(self) -> set[str]:
        """Sites whose releases were verified."""
        return set(self._answers)

    @property
    def complete(self) -> bool:
        """Whether the exchange had ended when the run was interrupted."""
        return self._end is not None

    @property
    def left_out(self) -> list[LeftOut]:
        """Who was left out when the exchange ended."""
        return list(self._end.left_out) if self._end is not None else []

    def recall(self, store: TrustStore, spec: Spec, run: str) -> dict[str, Release]:
        """Verify again what lies there; a site revoked meanwhile is asked again, and refused.

        The binding must have been fresh when it came, the key must be good now.
        """
        releases = {}
        for site, answer in sorted(self._answers.items()):
            try:
                payload, envelope, binding = (path.read_bytes() for path in self._paths(site))
                verified = verify_release(
                    site=site,
                    payload=payload,
                    release=envelope,
                    binding=binding,
                    store=store,
                    spec=spec,
                    run=run,
                    nonce=answer.nonce,
                    now=answer.time,
                )
                store.key_for(verified.key_id, site, utc_now())
            except (OSError, FedprintError) as error:
                log.warning("release of %s is not used again: %s", site, error)
                continue
            release = Release(answer.node, verified, payload, envelope, binding)
            releases[site] = self._held(site, release, spec)
        return releases

    def keep(
        self, releases: Mapping[str, Release], nonces: Mapping[str, str], spec: Spec
    ) -> dict[str, Release]:
        """Write verified releases; what names them is written last.

        Parameters
        ----------
        releases : mapping of str to Release
            By site: some dozen at a time, for which the disk is awaited together.
        nonces : mapping of str to str
            What each site was asked with.
        spec : Spec
            What they were verified against.

        Returns
        -------
        dict of str to Release
            The same releases, of which memory holds no more than it must.
        """
        contents: dict[Path, bytes] = {}
        for site, release in releases.items():
            parts = (release.payload, release.envelope, release.binding)
            contents |= zip(self._paths(site), parts, strict=True)
        atomic_writes(contents)
        now = utc_now()
        self._write(
            *(
                _Line(answer=_Answer(site=s, node=r.node_id, nonce=nonces[s], time=now))
                for s, r in releases.items()
            )
        )
        return {site: self._held(site, release, spec) for site, release in releases.items()}

    def close(self, left_out: list[LeftOut]) -> None:
        """Say that the exchange has ended."""
        self._write(_Line(end=_End(left_out=left_out)))

    def _held(self, site: str, release: Release, spec: Spec) -> Release:
        return StoredRelease(release, self._place(site), spec) if self._stays else release

    def _place(self, site: str) -> str:
        return str(self._folder / "fingerprints" / site)

    def _paths(self, site: str) -> tuple[Path, ...]:
        return tuple(Path(self._place(site) + ending) for ending in ENDINGS.values())

    def _write(self, *lines: _Line) -> None:
        text = "".join(line.model_dump_json(exclude_none=True) + "\n" for line in lines)
        append(self._folder / RECEIVED, text.encode())
        for line in lines:
            self._know(line)

    def _know(self, line: _Line) -> None:
        if line.answer is not None:
            self._answers[line.answer.site] = line.answer
        self._end = line.end or self._end


def _read(path: Path) -> list[_Line]:
    """Read what was received, up to a line that is damaged: sites named after it are asked again.

    The file goes on behind the last line that is whole.
    """
    if not path.is_file():
        return []
    data, lines, end = path.read_bytes(), [], 0
    while (after := data.find(b"\n", end) + 1) > 0:
        try:
            lines.append(_Line.model_validate_json(data[end:after]))
        except ValidationError:
            break
        end = after
    if end < len(data):
        atomic_write(path, data[:end])
    return lines
