"""What is audited: the way from features over counts to the bytes that leave the site."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_client.audit_scratch import fresh_state
from fl_client.site import ImageItem, Site
from protocol.fingerprint import counts_from_bytes
from protocol.privacy import noised
from protocol.spec import Spec
from protocol.statement import Privacy

Counts = NDArray[np.int64]


class Mechanism(Protocol):
    """How a site makes a release of its images; an audit plays against nothing else."""

    def counts(self, features: NDArray[np.float32]) -> Counts:
        """Return the counts [m, b] of images, given by the backbone's features [n, M]."""
        ...

    def release(self, counts: Counts) -> Counts:
        """Return what leaves of counts: an array of any shape, noised value by value."""
        ...

    def answers(self, queries: int) -> Counts:
        """Return what a site that never released before answers to several requests, [q, m, b]."""
        ...


@dataclass(frozen=True)
class SiteMechanism:
    """The site's own: its counting, its noise, and its release gate.

    Parameters
    ----------
    site : Site
        Whose images.
    spec : Spec
        What is released.
    privacy : Privacy
        Declared terms; in mode plain nothing is added.
    cap : int
        At most so many images of one patient are counted.
    device : str or None
        Where the gate computes.
    """

    site: Site
    spec: Spec
    privacy: Privacy
    cap: int
    device: str | None = None

    def counts(self, features: NDArray[np.float32]) -> Counts:
        """Count features [n, M] as an extraction does."""
        import torch

        from fl_client.histogram import BinCounter

        counter = BinCounter(self.spec, torch.device("cpu"))
        counter.add(torch.from_numpy(np.ascontiguousarray(features)))
        return counter.counts()

    def release(self, counts: Counts) -> Counts:
        """Add the declared noise, which is drawn for every count alone, to counts of any shape.

        So counts of many games can be noised in one call, and those that an attacker does not read
        need not be drawn.
        """
        return noised(counts, self.privacy.sigma) if self.privacy.sigma else counts

    def answers(self, queries: int) -> Counts:
        """Ask the site's gate in a fresh state folder, so that no budget of the site is spent."""
        from fl_client.gate import Gate
        from fl_client.policy import local_policy
        from protocol.keys import generate_key, signer
        from protocol.records import AskedTerms, ReleaseRequest
        from protocol.statement import new_nonce

        key = signer(generate_key())
        limits = {"epsilon": self.privacy.epsilon, "delta": self.privacy.delta}
        policy = local_policy(name="audit", release="private", contribution_cap=self.cap, **limits)
        asked = AskedTerms.model_validate({"mode": "private", **limits})
        with fresh_state(self.site.state) as state:
            gate = Gate(
                replace(self.site, state=state, images=self._images),
                policy,
                lambda: key,
                device=self.device,
                keeps_features=True,
            )
            requests = [
                ReleaseRequest(f"audit-{number}", new_nonce(), self.spec, asked)
                for number in range(queries)
            ]
            return np.stack([counts_from_bytes(gate.answer(request)[0]) for request in requests])

    @cached_property
    def _images(self) -> list[ImageItem]:
        return [
            _KnownItem(**{f.name: getattr(i, f.name) for f in fields(i)}) for i in self.site.images
        ]


class _KnownItem(ImageItem):
    """An image whose bytes are read once in an audit, however often the gate asks for its digest.

    Would it change meanwhile, the features that the audit plays with were of the past as well.
    """

    @cached_property
    def _digest(self) -> bytes:
        return super().content_digest()

    def content_digest(self) -> bytes:
        return self._digest


def made_up(spec: Spec, bins: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return features [M] of an image that falls in the middle of bin `bins[i]` of feature i."""
    values = np.take_along_axis(spec.centres, bins[:, None], axis=1)[:, 0]  # [m]
    if spec.projection is not None:
        values = np.linalg.pinv(spec.projection.array) @ values  # [M]
    return values.astype(np.float32)
