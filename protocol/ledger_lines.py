"""The lines of a site's privacy ledger: what each noised fingerprint spent, one after the other.

A line names the line before it and carries its own digest, so that no line can be changed, taken
out, added or moved without a trace; a release statement names the last line there was when it was
signed. That digest leaves the site and must tell nothing of what was counted: each line is salted,
else who knows all but one patient's images could try out that patient's. Budgets are zCDP's rho,
which add up (Bun and Steinke, arXiv 1605.02065, lemma 2.3).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from protocol.errors import BadLedger, BadPrivacy, one_line
from protocol.files import canonical_json, sha256_hex
from protocol.names import Sha256Hex
from protocol.noised_moments import sensitivity as moment_sensitivity
from protocol.privacy import check_noise, sensitivity
from protocol.statement import Privacy

START = "0" * 64
"""What the first line names as the line before it."""

Drawn = Literal["", "moments"]
"""What noise was drawn for: a fingerprint, or the descriptor of this kind."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LedgerLine(BaseModel):
    """One noised fingerprint that was drawn, written down before it was.

    Parameters
    ----------
    time : datetime
        When.
    run : str
        The run that asked; empty where a person at the site did.
    spec_name, spec_digest : str
        What was drawn.
    kind : str
        What was drawn: empty for a fingerprint, else the kind of descriptor.
    data : str
        Digest of the images that were counted, see `fl_client.contribution.counted_digest`.
    width, cap : int
        Counted features, and most images of one patient: what the sensitivity follows from.
    rho, sigma, epsilon, delta : float
        What it spent, and how: see `protocol.statement.Privacy`.
    total_rho : float
        Sum of this line's rho and all before.
    previous : str
        Digest of the line before.
    salt : str
        32 random bytes, which never leave the site.
    digest : str
        SHA-256 of all the rest as canonical JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: AwareDatetime
    run: Annotated[str, Field(max_length=200)] = ""
    spec_name: Annotated[str, Field(max_length=200)]
    spec_digest: Sha256Hex
    kind: Drawn = ""
    data: Sha256Hex
    width: Annotated[int, Field(ge=1, le=2**53)]
    cap: Annotated[int, Field(ge=1, le=2**53)]
    rho: Positive
    sigma: Positive
    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    total_rho: Positive
    previous: Sha256Hex
    salt: Sha256Hex
    digest: str = ""

    @property
    def privacy(self) -> Privacy:
        """What the release states of the noise that this line pays for."""
        return Privacy(
            mode="private",
            rho=self.rho,
            sigma=self.sigma,
            neighbours="replace-one",
            epsilon=self.epsilon,
            delta=self.delta,
        )

    @property
    def sensitivity(self) -> float:
        """The most by which one patient moves what was drawn, in L2 norm."""
        return (moment_sensitivity if self.kind else sensitivity)(self.width, self.cap)

    def sealed(self) -> LedgerLine:
        """Return the line with its digest."""
        rest = {name: value for name, value in self._values().items() if name != "digest"}
        return self.model_copy(update={"digest": sha256_hex(canonical_json(rest))})

    def to_bytes(self) -> bytes:
        """Return the line as it lies in the ledger, without its end."""
        return canonical_json(self._values())

    def _values(self) -> dict[str, Any]:
        """Return the line as JSON values; of a fingerprint as it was before there were kinds."""
        return self.model_dump(mode="json", exclude=None if self.kind else {"kind"})


def parse_ledger(data: bytes) -> list[LedgerLine]:
    """Return the lines of a ledger, oldest first; form, chain and totals are checked.

    Parameters
    ----------
    data : bytes
        The whole file; empty for a site that has drawn nothing yet.

    Raises
    ------
    BadLedger
        When a line is cut off, not in canonical form, does not follow the one before, or does not
        add up.
    """
    if data and not data.endswith(b"\n"):
        raise BadLedger("its last line is cut off")
    lines: list[LedgerLine] = []
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        line = _parsed(text, number)
        before, spent = (lines[-1].digest, lines[-1].total_rho) if lines else (START, 0.0)
        if line.previous != before:
            raise BadLedger(f"line {number} does not follow the line before it")
        if line.total_rho != spent + line.rho:  # the very sum that was written: exactly equal
            raise BadLedger(
                f"line {number} says that rho {line.total_rho!r} was spent in all, it adds up to "
                f"{spent + line.rho!r}"
            )
        lines.append(line)
    return lines


def check_arithmetic(lines: list[LedgerLine]) -> None:
    """Check that every line's noise, rho and epsilon follow from one another.

    Raises
    ------
    BadLedger
        Naming the first line that contradicts itself.
    """
    for number, line in enumerate(lines, 1):
        try:
            check_noise(line.privacy, line.sensitivity)
        except BadPrivacy as error:
            raise BadLedger(f"line {number}: {error}") from None


def _parsed(text: bytes, number: int) -> LedgerLine:
    try:
        line = LedgerLine.model_validate_json(text)
    except ValidationError as error:
        raise BadLedger(f"line {number} cannot be read: {one_line(error)}") from None
    if line.to_bytes() != text:
        raise BadLedger(f"line {number} is not in canonical form")
    if line.digest != line.sealed().digest:
        raise BadLedger(f"line {number} was changed: its digest is that of another line")
    return line
