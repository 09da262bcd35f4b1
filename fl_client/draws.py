"""The noised fingerprints of a site: each drawn once, paid for before, and kept as it was drawn.

Drawing again would let whoever sees both average the noise away, and spends again. So what was
drawn is used for every release of the same counts under the same or laxer terms; only what is
signed around it (policy, card, recipient, time) is made anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_client.history import must_be_written
from fl_client.ledger import DAMAGED, DRAWS, Budget, Ledger
from protocol.errors import PolicyError
from protocol.files import atomic_write, sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.ledger_lines import Drawn, LedgerLine
from protocol.noised_moments import to_bytes as moments_to_bytes
from protocol.privacy import epsilon_of, noised
from protocol.spec import Spec
from protocol.statement import Privacy


class Draw(NamedTuple):
    """A noised fingerprint: its safetensors bytes, and the ledger's line that paid for it."""

    payload: bytes
    line: LedgerLine

    def terms(self, asked: Privacy) -> Privacy:
        """Return what a release of these bytes states to who asked for no more noise than that.

        Terms may be laxer in rho and still name a smaller delta: epsilon is that of theirs then.
        """
        stated = self.line.privacy
        assert asked.epsilon is not None
        assert asked.delta is not None
        if self.line.epsilon <= asked.epsilon and self.line.delta <= asked.delta:
            return stated
        exact = epsilon_of(self.line.rho, asked.delta)
        return stated.model_copy(update={"epsilon": exact, "delta": asked.delta})


class Draws:
    """What was drawn at a site, below its state folder.

    A file is named by the SHA-256 of its content: half of one, or a damaged one, counts as absent.
    """

    def __init__(self, state: Path) -> None:
        self.root = state / DRAWS
        self.ledger = Ledger(state)

    def find(
        self, asked: Privacy, *, spec: Spec, data: str, cap: int, kind: Drawn = ""
    ) -> Draw | None:
        """Return the draw of these very counts with the least noise that is not below the asked.

        Raises
        ------
        PolicyError
            With reason ``ledger-damaged``.
        """
        assert asked.sigma is not None
        same = [
            line
            for line in self.ledger.read()
            if (line.kind, line.spec_digest, line.data, line.cap) == (kind, spec.digest, data, cap)
            and line.sigma >= asked.sigma
        ]
        for line in sorted(same, key=lambda line: line.sigma):
            payload = self._payload(line)
            if payload is not None:
                return Draw(payload, line)
        return None

    def draw(
        self,
        counts: NDArray[np.integer[Any]],
        asked: Privacy,
        budget: Budget,
        *,
        spec: Spec,
        data: str,
        cap: int,
        run: str = "",
        kind: Drawn = "",
    ) -> Draw:
        """Spend, then draw noise for these counts [m, b], then keep the result.

        Of moments the counts are their products [entries], see `protocol.noised_moments`.

        Raises
        ------
        PolicyError
            With reason ``budget-exhausted``, ``ledger-damaged`` or ``not-recorded``.
        """
        line = self.ledger.spend(asked, budget, spec=spec, data=data, cap=cap, run=run, kind=kind)
        with_noise = noised(counts, line.sigma)
        payload = moments_to_bytes(with_noise) if kind else counts_to_bytes(with_noise)
        with must_be_written():
            path = self.root / line.digest / f"{sha256_hex(payload)}.safetensors"
            atomic_write(path, payload, mode=0o600)
        return Draw(payload, line)

    def _payload(self, line: LedgerLine) -> bytes | None:
        try:
            for path in (self.root / line.digest).glob("*.safetensors"):
                payload = path.read_bytes()
                if sha256_hex(payload) == path.stem:
                    return payload
        except OSError as error:  # it is there: drawing it anew would spend for nothing
            raise PolicyError(
                f"a noised fingerprint that is kept cannot be read ({error.strerror}): restore it",
                DAMAGED,
            ) from error
        return None
