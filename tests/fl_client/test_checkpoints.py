"""What a site is shown of a run's log: kept when it is in order, refused when it was rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st

from fl_client.checkpoints import KEY, REFUSED, Checkpoints
from protocol.envelope import sign
from protocol.errors import BadLog, BadSignature, FedprintError, UnknownKey, WrongRun
from protocol.keys import generate_key, key_id, public_pem, signer
from protocol.log import CHECKPOINT_TYPE, Log, open_checkpoint
from protocol.records import CheckpointMessage

LEFT = "d" * 64
COORDINATOR = generate_key()


def grown(*kinds: str, site: str = "north", payload: str = LEFT) -> Log:
    """Return a log with one entry a word; the entry ``release`` is the site's."""
    log = Log("run-1")
    for kind in kinds:
        log.append(kind, **({"site": site, "payload": payload} if kind == "release" else {}))
    return log


def showing(
    log: Log, earlier: int = 0, key: PrivateKeyTypes = COORDINATOR, **changes: Any
) -> CheckpointMessage:
    """Return what a coordinator shows of its log."""
    index = next(i for i, line in enumerate(log.lines) if json.loads(line)["kind"] == "release")
    message = CheckpointMessage(
        run=log.origin,
        coordinator=public_pem(key),
        checkpoint=sign(log.checkpoint(), signer(key), CHECKPOINT_TYPE),
        entry=log.lines[index],
        index=index,
        inclusion=log.inclusion(index),
        earlier=earlier,
        consistency=log.consistency(earlier) if 0 < earlier < len(log) else [],
    )
    return replace(message, **changes)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, "run-1")


def accept(kept: Checkpoints, shown: CheckpointMessage, coordinators: Any = ()) -> int:
    return kept.accept(shown, "north", LEFT.__eq__, coordinators)


def refusal(kept: Checkpoints, shown: CheckpointMessage, coordinators: Any = ()) -> FedprintError:
    """Return the error, having seen that nothing of it was kept but as evidence."""
    before = sorted(path.name for path in kept.folder.glob("*.*"))
    with pytest.raises(FedprintError) as caught:
        accept(kept, shown, coordinators)
    assert sorted(path.name for path in kept.folder.glob("*.*")) == before
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_log_that_grows_is_kept_each_time(kept: Checkpoints) -> None:
    log = grown("spec", "release", "groups")
    assert accept(kept, showing(log)) == 3
    assert accept(kept, showing(log, 3)) == 3  # the answer was lost, and it is asked again
    log.append("close")
    assert accept(kept, showing(log, 3)) == 4
    newest = kept.newest()
    assert newest is not None
    assert (newest.size, newest.origin) == (4, "run-1")
    assert sorted(path.name for path in kept.folder.iterdir()) == [
        *("00000003.dsse.json", "00000004.dsse.json", KEY)
    ]


def test_it_says_from_where_it_needs_the_proof(kept: Checkpoints) -> None:
    log = grown("spec", "release", "groups")
    accept(kept, showing(log))
    log.append("close")
    assert accept(kept, showing(log, earlier=2)) == 3
    assert accept(kept, showing(log)) == 3
    newest = kept.newest()
    assert newest is not None
    assert newest.size == 3
    assert accept(kept, showing(log, earlier=3)) == 4


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (
            ("spec", "release", "groups"),
            ("other", "release", "groups", "close"),
            "the log of run run-1 does not begin with the 3 entries that were there before: the "
            "coordinator rewrote it",
        ),
        (
            ("spec", "release", "groups"),
            ("spec", "release"),
            "the log of run run-1 has 2 entries, and had 3 before: the coordinator took entries "
            "away",
        ),
        (
            ("spec", "release", "groups"),
            ("spec", "release", "others"),
            "the coordinator signed two logs of run run-1 with 3 entries: it rewrote it, and the "
            "site keeps both signatures",
        ),
    ],
)
def test_a_rewritten_log_is_refused(
    kept: Checkpoints, before: tuple[str, ...], after: tuple[str, ...], text: str
) -> None:
    accept(kept, showing(grown(*before)))
    error = refusal(kept, showing(grown(*after), len(before)))
    assert isinstance(error, BadLog)
    assert str(error) == text
    (evidence,) = (kept.folder / REFUSED).iterdir()
    assert open_checkpoint(evidence.read_bytes(), public_pem(COORDINATOR)).size == len(after)


@pytest.mark.parametrize("earlier", [0, 1, 2, 3, 7])
def test_another_log_of_the_same_size_is_refused_whatever_it_is_said_to_extend(
    kept: Checkpoints, earlier: int
) -> None:
    accept(kept, showing(grown("spec", "release", "groups")))
    fork = grown("other", "release", "groups")
    error = refusal(kept, showing(fork, earlier))
    assert str(error) == (
        "the coordinator signed two logs of run run-1 with 3 entries: it rewrote it, and the site "
        "keeps both signatures"
    )
    (evidence,) = (kept.folder / REFUSED).iterdir()
    assert evidence.name == f"00000003-{fork.checkpoint().root[:16]}.dsse.json"
    newest = kept.newest()
    assert newest is not None
    assert newest.root != fork.checkpoint().root


def test_a_fork_of_an_older_state_is_refused_too(kept: Checkpoints) -> None:
    log = grown("spec", "release", "groups")
    accept(kept, showing(log))
    log.append("close")
    accept(kept, showing(log, 3))
    error = refusal(kept, showing(grown("other", "release", "groups")))
    assert str(error).startswith("the coordinator signed two logs of run run-1 with 3 entries")


def test_of_what_was_refused_only_so_much_is_kept(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_client.checkpoints.MOST_REFUSED", 2)
    accept(kept, showing(grown("spec", "release", "groups")))
    for word in "abc":
        refusal(kept, showing(grown(word, "release", "groups")))
    assert len(list((kept.folder / REFUSED).iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"entry": b"{}"}, "the log's entry 1 is not the release that north made"),
        ({"entry": b"no JSON"}, "the log's entry 1 is not the release that north made"),
        ({"entry": b"[1]"}, "the log's entry 1 is not the release that north made"),
        ({"index": 0}, "the release of north is not in the log that the coordinator signed"),
        ({"inclusion": []}, "the release of north is not in the log that the coordinator signed"),
    ],
)
def test_the_own_release_must_be_in_it(
    kept: Checkpoints, change: dict[str, Any], text: str
) -> None:
    error = refusal(kept, showing(grown("spec", "release"), **change))
    assert str(error) == text


@pytest.mark.parametrize(
    "log", [grown("spec", "release", site="south"), grown("spec", "release", payload="e" * 64)]
)
def test_the_release_of_another_or_another_release_will_not_do(kept: Checkpoints, log: Log) -> None:
    assert str(refusal(kept, showing(log))) == (
        "the log's entry 1 is not the release that north made"
    )


def test_only_the_coordinators_key_may_sign(kept: Checkpoints) -> None:
    log, other = grown("spec", "release"), generate_key()
    invited = {key_id(public_pem(COORDINATOR))}
    stranger = key_id(public_pem(other))[:12]
    error = refusal(kept, showing(log, key=other), invited)
    assert isinstance(error, UnknownKey)
    assert str(error) == (
        f"the log is signed with key {stranger}, which is none of the coordinators' that the site "
        "knows: ask the coordinator for a new invitation.json"
    )
    accept(kept, showing(log), invited)
    mine = key_id(public_pem(COORDINATOR))[:12]
    assert str(refusal(kept, showing(log, 2, key=other))) == (
        f"the log of run run-1 is signed with key {stranger}, and was with {mine} before: it is "
        "not the same coordinator's"
    )
    claimed = showing(log, 2, key=other, coordinator=public_pem(COORDINATOR))
    assert isinstance(refusal(kept, claimed), UnknownKey)


def test_another_run_is_refused_and_kept_apart(kept: Checkpoints, tmp_path: Path) -> None:
    error = refusal(Checkpoints(tmp_path, "run-2"), showing(grown("release")))
    assert isinstance(error, WrongRun)
    assert str(error) == "the checkpoint is of run 'run-1', not 'run-2'"
    outside = Checkpoints(tmp_path, "../../etc")
    assert outside.folder.parent == tmp_path / "checkpoints"


def test_a_key_that_is_lost_refuses_and_what_is_no_checkpoint_is_passed_over(
    kept: Checkpoints,
) -> None:
    log = grown("spec", "release", "groups")
    accept(kept, showing(log))
    for name in ("junk.dsse.json", "7.dsse.json", "-0000009.dsse.json"):
        (kept.folder / name).write_text("x")
    newest = kept.newest()
    assert newest is not None
    assert newest.size == 3
    log.append("close")
    pinned = (kept.folder / KEY).read_bytes()
    (kept.folder / KEY).write_bytes(b"\xff")
    text = (
        "the coordinator's key that the site keeps with the log of run run-1 cannot be read: "
        "restore coordinator.pub.pem from a backup"
    )
    assert str(refusal(kept, showing(log, 3))) == text
    (kept.folder / KEY).unlink()
    assert str(refusal(kept, showing(log, 3))) == text
    (kept.folder / KEY).write_bytes(pinned)
    assert accept(kept, showing(log, 3)) == 4


def test_what_was_kept_and_changed_since_counts_no_more(kept: Checkpoints) -> None:
    log = grown("spec", "release")
    accept(kept, showing(log))
    path = kept.folder / "00000002.dsse.json"
    envelope = json.loads(path.read_bytes())
    envelope["payload"] = envelope["payload"][:-8] + "AAAAAAA="
    path.write_text(json.dumps(envelope))
    assert isinstance(refusal(kept, showing(log, 2)), BadSignature)


@given(st.data())
def test_any_log_that_is_no_extension_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    words = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=9)
    first, second = data.draw(words), data.draw(words)
    kept = Checkpoints(tmp_path_factory.mktemp("site"), "run-1")
    fixed: Callable[[list[str]], Log] = lambda kinds: _timeless(["release", *kinds])  # noqa: E731
    size = accept(kept, showing(fixed(first)))
    extends = second[: len(first)] == first
    try:
        accept(kept, showing(fixed(second), size))
    except BadLog:
        assert not extends
    else:
        assert extends


def _timeless(kinds: list[str]) -> Log:
    """Return a log whose entries differ by their kind alone."""
    log = grown(*kinds)
    log.lines = [
        json.dumps({k: v for k, v in json.loads(line).items() if k != "time"}).encode()
        for line in log.lines
    ]
    return log
