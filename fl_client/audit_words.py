"""What an audit found, in sentences for people who are no statisticians."""

from __future__ import annotations

import shlex

from fl_client.audit_result import AuditResult, kept
from fl_client.data_digest import known_digest
from fl_client.site import Site
from protocol.errors import DataError
from protocol.names import printable
from protocol.spec import Spec
from protocol.statement import Privacy

ENOUGH = 10_000  # games: fewer find hardly a mechanism that is half as private as it says
_GUESSING = 0.52  # an AUC up to here is called no better than guessing


def audit_words(site: Site, spec: Spec, privacy: Privacy, cap: int = 1) -> list[str]:
    """Return what the site's audit of a release found; or that there is none that holds.

    Parameters
    ----------
    site : Site
        Whose; its audits lie in its state folder.
    spec : Spec
        What would be released.
    privacy : Privacy
        Under which terms.
    cap : int
        Most images of one patient that are counted; plain releases count all.
    """
    how = f"run {_command(site, spec, privacy, cap)}"
    result = kept(site.state, spec, privacy.mode)
    if result is None:
        return [printable(f"No audit of this release was run. To measure what it tells, {how}")]
    told = f"The audit of {result.time:%Y-%m-%d} was of"
    try:
        same = known_digest(site) == result.data_digest
    except DataError:
        same = False
    if not same:
        return [printable(f"{told} other images than the site holds now. Audit anew: {how}")]
    if privacy.mode == "private" and (result.privacy.rho, result.cap) != (privacy.rho, cap):
        return [printable(f"{told} a release with other noise. Audit anew: {how}")]
    return words(result)


def _command(site: Site, spec: Spec, privacy: Privacy, cap: int) -> str:
    """Return the command that audits such a release."""
    parts = ["fedprint", "audit", str(site.folder), "--state", str(site.state), "--spec", spec.name]
    if privacy.mode == "plain":
        return shlex.join([*parts, "--plain"])
    terms = [f"{privacy.epsilon:g}", "--delta", f"{privacy.delta:g}", "--cap", str(cap)]
    return shlex.join([*parts, "--epsilon", *terms])


def words(result: AuditResult) -> list[str]:
    """Return sentences that a clinician understands."""
    sentences = [
        f"Audited on {result.time:%Y-%m-%d}: attacks were played against {_what(result)}, before "
        "anything left the site.",
        _realistic(result),
        _worst(result),
        *([_asked(result)] if result.asked else []),
        *_shares(result),
        _rebuilt(result),
        _verdict(result),
    ]
    return [printable(sentence) for sentence in sentences]


def _what(result: AuditResult) -> str:
    privacy, whose = result.privacy, f"{result.images} images"
    if result.unit == "patient":
        whose += f" of {result.units} patients"
    if privacy.mode == "plain":
        return f"a plain release of {whose}, without noise"
    return (
        f"a private release of {whose}, with noise for epsilon {privacy.epsilon:.2f} at delta "
        f"{privacy.delta:g}"
    )


def _realistic(result: AuditResult) -> str:
    auc, tpr, unit = result.realistic.auc, result.realistic.tpr, result.unit
    return (
        f"Somebody who already has the images of one {unit} and knows what such images look like "
        f"here is told which of two releases holds that {unit} rightly {_percent(auc)} of the time"
        f"{', which is hardly better than tossing a coin (50 %)' if auc <= _GUESSING else ''}"
        f"{' (a coin would be right 50 %)' if auc > _GUESSING else ''}, and when making one false "
        f"accusation in a hundred finds {_percent(tpr)} of the true ones (guessing: 1 %)."
    )


def _worst(result: AuditResult) -> str:
    limits = result.limits
    most = f"; the declared noise permits nobody more than {_percent(limits.auc)}" if limits else ""
    return (
        f"Somebody who knows every other image, and only doubts which of two {result.unit}s is "
        f"among them, is right {_percent(result.worst.auc)} of the time{most}."
    )


def _asked(result: AuditResult) -> str:
    asked = result.asked
    assert asked is not None
    again = (
        f"Asked {asked.times} times for the same, the site gave the same bytes: asking again tells "
        "nothing more."
    )
    if asked.different > 1:
        again = (
            f"Asked {asked.times} times for the same, the site gave {asked.different} different "
            "answers: whoever averages them takes the noise away."
        )
    return (
        f"{again} In {asked.states} trials from the beginning its noise was {asked.noise:.2f} times"
        f" the declared one (from {asked.noise_least:.2f} to {asked.noise_most:.2f} is chance)."
    )


def _shares(result: AuditResult) -> list[str]:
    told = result.population
    if told.shares_error is None or told.shares_trivial is None or told.rare_auc is None:
        return ["The site has one class only: what the release tells of classes was not measured."]
    error, trivial = _percent(told.shares_error), _percent(told.shares_trivial)
    tells = (
        f"tells the share of each from the release with a mean error of {error} (guessing: "
        f"{trivial})"
        if told.shares_error < told.shares_trivial
        else f"tells the share of each no better than by guessing (mean errors {error}, {trivial})"
    )
    return [
        "What is true of the patients together is not protected: somebody with such images of "
        f"every class {tells}, and is right {_percent(told.rare_auc)} of the time on whether 5 % "
        "of the images are of one more class (a coin: 50 %)."
    ]


def _rebuilt(result: AuditResult) -> str:
    told = result.population
    return (
        "Counts hold no picture; but of two images of this site, one counted and "
        f"one not, the counted one fits the release better {_percent(told.rebuilt_auc)} of the "
        f"time (a coin: 50 %), and the image that fits best of all is a counted one "
        f"{_percent(told.rebuilt_first)} of the time (guessing: {_percent(told.rebuilt_chance)})."
    )


def _verdict(result: AuditResult) -> str:
    bounds, sure = result.bounds, f"{100 * result.bounds.confidence:.1f} % certainty"
    if result.limits is None:
        return (
            "Nothing was declared, so nothing can be broken: a plain release protects no "
            f"{result.unit} (with {sure}, epsilon is at least {bounds.epsilon:.1f})."
        )
    if result.findings:
        return f"FAILED: {'; '.join(result.findings)}. Nothing should be released."
    few = " So few games prove little: play more (--games)." if result.worst.games < ENOUGH else ""
    return (
        f"Passed: in {result.worst.games:,} games epsilon was proved, with {sure}, to be at least "
        f"{max(bounds.epsilon, bounds.epsilon_gaussian):.2f}, which does not exceed the declared "
        f"{result.privacy.epsilon:.2f}.{few}"
    )


def _percent(share: float) -> str:
    return (
        f"{100 * share:.0f} %" if 0.1 <= share <= 0.9 or share in (0, 1) else f"{100 * share:.1f} %"
    )
