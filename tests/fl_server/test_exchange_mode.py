"""An exchange without training: private releases, the ledger, and a log that sites hold on to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from fl_client.checkpoints import Checkpoints
from fl_server import report
from fl_server.closing import report_again
from fl_server.decisions import decide_as
from fl_server.job import run as run_job
from fl_server.runfolder import ENDINGS, write_exchange
from fl_server.settings import RunSettings
from fl_server.tasks import tasks_of_folder
from protocol import statement
from protocol.envelope import open_envelope, parse_statement, sign
from protocol.errors import BadLog, ConfigError, FedprintError
from protocol.files import atomic_json, sha256_hex
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.log import check_files, read_log
from protocol.privacy import epsilon_of, noised, rho_of, terms
from protocol.records import (
    from_checkpoint,
    from_release_request,
    to_hello,
    to_kept,
    to_refusal,
    to_reply,
)
from protocol.statement import BindingStatement, binding_statement, release_statement, utc_now
from protocol.taskcard import TaskCard
from tests.fl_server.bad import Run
from tests.fl_server.joining import FINGERPRINTS, MEMBERS, SPEC, federation
from tests.fl_server.running import Command
from tests.strategies.fake_grid import Dead, FakeGrid, Killed

EPSILON = 50.0


@dataclass
class PrivateSite:
    """A site that adds noise once, and checks the log as a real one does."""

    name: str
    state: Path
    like: str = ""
    epsilon: float | None = None
    key: Any = field(default_factory=generate_key)
    asked: list[str] = field(default_factory=list)
    payload: bytes = b""

    def __call__(self, message: Message) -> RecordDict:
        kind = message.metadata.message_type.removeprefix("query.")
        self.asked.append(kind)
        answers: dict[str, Callable[[RecordDict], RecordDict]] = {
            "hello": lambda _content: to_hello(self.name, public_pem(self.key)),
            "fingerprint": self.release,
            "checkpoint": self.checkpoint,
        }
        return answers[kind](message.content)

    def release(self, content: RecordDict) -> RecordDict:
        request, now = from_release_request(content), utc_now()
        fingerprint = FINGERPRINTS[self.like or self.name]
        private = request.terms.mode == "private"
        privacy = statement.Privacy()
        if private:
            epsilon = self.epsilon or request.terms.epsilon
            privacy = terms(SPEC.width, epsilon=epsilon, delta=request.terms.delta)
            spent = {"spent_rho": privacy.rho, "budget_rho": rho_of(90, 1e-5), "ledger": "c" * 64}
            privacy = privacy.model_copy(update=spent)
        if not self.payload:
            counts = fingerprint.counts
            self.payload = counts_to_bytes(
                noised(counts, privacy.sigma) if privacy.sigma else counts
            )
        said = statement.Release(
            site=self.name,
            spec_digest=SPEC.digest,
            spec_name=SPEC.name,
            images=fingerprint.n_images,
            contribution_cap=int(private),
            privacy=privacy,
            policy_digest="b" * 64,
            task_card=TaskCard(name="t"),
            issued=now,
            expires=now + timedelta(days=30),
        )
        envelope = sign(release_statement(self.payload, said), signer(self.key))
        binding = statement.Binding(
            site=self.name,
            run=request.run,
            nonce=request.nonce,
            issued=now,
            expires=now + timedelta(minutes=5),
        )
        session = sign(binding_statement(envelope, binding), signer(self.key))
        return to_reply(self.name, self.payload, envelope, session)

    def checkpoint(self, content: RecordDict) -> RecordDict:
        shown = from_checkpoint(content)
        left = sha256_hex(self.payload).__eq__
        try:
            return to_kept(self.kept(shown.run).accept(shown, self.name, left))
        except FedprintError as error:
            return to_refusal(str(getattr(error, "reason", "error")), str(error))

    def kept(self, name: str) -> Checkpoints:
        return Checkpoints(self.state / self.name, name)


class PlainSite(PrivateSite):
    def release(self, content: RecordDict) -> RecordDict:
        request = content["fedprint"]
        request["terms"] = '{"mode":"plain"}'  # type: ignore[index]
        return super().release(content)


class Doubting(PrivateSite):
    """Refuses what it is shown from the second time on."""

    first = 1

    def checkpoint(self, content: RecordDict) -> RecordDict:
        if self.asked.count("checkpoint") > self.first:
            return to_refusal("bad-log", "the coordinator rewrote it")
        return super().checkpoint(content)


class Exchanged:
    """A simulated exchange in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "run"
        atomic_json(folder / "spec.json", SPEC)
        self.sites = {name: PrivateSite(name, folder / "states") for name in MEMBERS}
        self.grid = FakeGrid({})

    def add(self, site: PrivateSite) -> None:
        self.sites[site.name] = site

    def go(self, lives: int | None = None, **changes: Any) -> Path:
        values = {
            "mode": "exchange",
            "epsilon": EPSILON,
            "spec": str(self.folder / "spec.json"),
            "out": str(self.out),
            "timeout": 5,
        }
        self.grid = FakeGrid({100 + i: site for i, site in enumerate(self.sites.values())})
        self.grid.lives = lives
        return run_job(self.grid, RunSettings.model_validate(values | changes), "run-1")

    def read(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())

    @property
    def pem(self) -> str:
        return (self.out / "coordinator.pub.pem").read_text()

    def entries(self, kind: str = "") -> list[dict[str, Any]]:
        log = read_log(self.out, self.pem)
        assert check_files(self.out, log) == []
        found = [json.loads(line) for line in log.lines]
        return [entry for entry in found if not kind or entry["kind"] == kind]


@pytest.fixture
def exchanged(tmp_path: Path) -> Exchanged:
    return Exchanged(tmp_path)


def test_an_exchange_ends_with_groups_and_trains_nothing(exchanged: Exchanged) -> None:
    exchanged.go()
    settings = RunSettings.model_validate(exchanged.read("run.json")["settings"])
    decided = decide_as(settings, tasks_of_folder(exchanged.out)).groups
    assert exchanged.read("groups.json") == decided.model_dump(mode="json")
    assert sorted(decided.sites) == sorted(MEMBERS)
    assert not (exchanged.out / "metrics.json").exists()
    assert not (exchanged.out / "models").exists()
    for site in exchanged.sites.values():
        assert site.asked == ["hello", "fingerprint", "checkpoint", "checkpoint"]
    assert (settings.release, settings.arms) == ("private", ())


def test_run_file_and_ledger_say_what_each_release_spent(exchanged: Exchanged) -> None:
    exchanged.sites["site-2-0"].epsilon = 20.0  # stricter than asked is welcome
    exchanged.go()
    ledger = exchanged.read("ledger.json")
    assert list(ledger["sites"]) == sorted(MEMBERS)
    for site, said in ledger["sites"].items():
        epsilon = 20.0 if site == "site-2-0" else EPSILON
        asked = terms(SPEC.width, epsilon=epsilon, delta=1e-5)
        assert (said["mode"], said["neighbours"], said["contribution_cap"]) == (
            *("private", "replace-one"),
            1,
        )
        assert said["rho"] == asked.rho
        assert said["sigma"] == asked.sigma
        assert epsilon_of(said["rho"], said["delta"]) <= epsilon
        assert said["images"] == FINGERPRINTS[site].n_images
        assert said["budget_rho"] > said["spent_rho"] == asked.rho
    assert ledger["total"] == {
        "private": 5,
        "plain": 0,
        "epsilon": EPSILON,
        "delta": 1e-5,
        "rho": ledger["sites"]["site-0-0"]["rho"],
    }
    entries = {entry["site"]: entry["privacy"] for entry in exchanged.read("run.json")["sites"]}
    assert entries == ledger["sites"]


def test_the_log_says_who_was_asked_for_what_and_what_came(exchanged: Exchanged) -> None:
    exchanged.go()
    kinds = [entry["kind"] for entry in exchanged.entries()]
    members = len(MEMBERS)
    assert kinds == [
        "spec",
        *(["enrolment"] * members),
        *(["request"] * members),
        *(["release"] * members),
        "groups",
        *(["checkpoint"] * members),
        "close",
    ]
    assert exchanged.entries("spec")[0]["terms"] == {
        "mode": "private",
        "epsilon": EPSILON,
        "delta": 1e-5,
    }
    nonces = {entry["site"]: entry["nonce"] for entry in exchanged.entries("request")}
    for entry in exchanged.entries("release"):
        files = exchanged.out / "fingerprints"
        binding = (files / f"{entry['site']}.binding.dsse.json").read_bytes()
        assert entry["binding"] == sha256_hex(binding)
        key = {k.keyid: k for k in [signer(exchanged.sites[entry["site"]].key).public_key]}
        content, _ = open_envelope(binding, key.__getitem__)  # type: ignore[arg-type]
        said = parse_statement(content, BindingStatement).predicate
        assert nonces[entry["site"]] == sha256_hex(said.nonce.encode())


def test_every_site_keeps_a_checkpoint_of_the_closed_log(exchanged: Exchanged) -> None:
    exchanged.go()
    log = read_log(exchanged.out, exchanged.pem)
    for site in exchanged.sites.values():
        newest = site.kept("run-1").newest()
        assert newest is not None
        assert (newest.size, newest.root) == (len(log), log.checkpoint().root)
    before = len(log) - 1 - len(MEMBERS)  # the close, and who keeps which checkpoint
    assert exchanged.read("run.json")["checkpoints"] == {
        name: {"size": before, "reason": "", "message": ""} for name in MEMBERS
    }


@pytest.mark.parametrize(
    ("kind", "epsilon", "text"),
    [
        (PlainSite, None, "the release of lax has no noise, and private was asked for"),
        (
            PrivateSite,
            60.0,
            "the release of lax spends epsilon 60 at delta 1e-05, and at most 50 was asked for",
        ),
    ],
)
def test_who_reveals_more_than_was_asked_is_left_out(
    exchanged: Exchanged, kind: type[PrivateSite], epsilon: float | None, text: str
) -> None:
    exchanged.add(kind("lax", exchanged.folder, "site-0-2", epsilon))
    exchanged.go()
    gone = exchanged.read("run.json")["left_out"]
    assert gone == [{"site": "lax", "reason": "bad-privacy", "message": text}]
    assert not list((exchanged.out / "fingerprints").glob("lax*"))
    assert [e["reason"] for e in exchanged.entries("left out")] == ["bad-privacy"]


def test_plain_releases_have_a_ledger_too(exchanged: Exchanged) -> None:
    exchanged.go(release="plain")
    ledger = exchanged.read("ledger.json")
    assert ledger["total"] == {
        "private": 0,
        "plain": 5,
        "rho": None,
        "epsilon": None,
        "delta": None,
    }
    assert {said["rho"] for said in ledger["sites"].values()} == {None}


@pytest.mark.parametrize("first", [0, 1])
def test_a_site_that_refuses_the_log_is_named_and_logged(exchanged: Exchanged, first: int) -> None:
    site = Doubting("site-2-0", exchanged.folder / "states")
    site.first = first
    exchanged.add(site)
    exchanged.go()
    said = exchanged.read("run.json")["checkpoints"]["site-2-0"]
    assert said == {"size": 0, "reason": "bad-log", "message": "the coordinator rewrote it"}
    refusals = exchanged.entries("checkpoint refused")
    assert {(entry["site"], entry["reason"]) for entry in refusals} == {("site-2-0", "bad-log")}
    assert "site-2-0" in [entry["site"] for entry in exchanged.read("run.json")["sites"]]


def test_a_site_that_is_away_for_the_log_holds_nobody_up(exchanged: Exchanged) -> None:
    class Leaving(PrivateSite):
        def checkpoint(self, content: RecordDict) -> RecordDict:
            raise Dead

    exchanged.add(Leaving("site-2-0", exchanged.folder / "states"))
    exchanged.go()
    assert "site-2-0" not in exchanged.read("run.json")["checkpoints"]
    assert exchanged.entries("checkpoint refused") == []


def test_a_coordinator_that_rewrites_its_log_is_refused(exchanged: Exchanged) -> None:
    """The first log is thrown away, and another one made under the same name and key."""
    exchanged.go()
    key = (exchanged.out / "state" / "coordinator.pem").read_bytes()
    exchanged.out.rename(exchanged.folder / "before")
    (exchanged.out / "state").mkdir(parents=True)
    (exchanged.out / "state" / "coordinator.pem").write_bytes(key)
    (exchanged.out / "state" / "coordinator.pem").chmod(0o600)
    exchanged.go(partners=2)
    said = exchanged.read("run.json")["checkpoints"]
    size = len(read_log(exchanged.folder / "before", exchanged.pem))
    shown = size - 1 - len(MEMBERS)
    assert {entry["message"] for entry in said.values()} == {
        f"the coordinator signed two logs of run run-1 with {size} entries: it rewrote it, and the "
        "site keeps both signatures"
    }
    assert {entry["message"] for entry in exchanged.entries("checkpoint refused")} == {
        f"the coordinator signed two logs of run run-1 with {n} entries: it rewrote it, and the "
        "site keeps both signatures"
        for n in (shown, size)
    }


def test_an_exchange_that_was_killed_goes_on_with_the_log_that_sites_saw(
    exchanged: Exchanged,
) -> None:
    exchanged.go()
    messages = len(exchanged.grid.sent)
    for lives in range(len(MEMBERS), messages - len(MEMBERS), 2):
        one = Exchanged(exchanged.folder / str(lives))
        with pytest.raises(Killed):
            one.go(lives)
        before = (one.out / "log" / "entries.jsonl").read_bytes()
        one.go()
        assert (one.out / "log" / "entries.jsonl").read_bytes().startswith(before)
        assert one.entries("checkpoint refused") == []
        assert set(one.read("run.json")["checkpoints"]) == set(MEMBERS)


def test_a_report_that_is_the_same_changes_nothing(exchanged: Exchanged) -> None:
    exchanged.go()
    before = len(exchanged.entries())
    assert report_again(exchanged.out) == exchanged.out / "report.html"
    assert len(exchanged.entries()) == before


def test_another_report_is_entered_in_the_log(
    exchanged: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged.go()
    first = read_log(exchanged.out, exchanged.pem)
    monkeypatch.setattr(report, "_headline", lambda *_: ["Something else."])
    report_again(exchanged.out)
    assert "Something else." in (exchanged.out / "report.html").read_text()
    assert [entry["kind"] for entry in exchanged.entries()[-2:]] == ["close", "close"]
    assert read_log(exchanged.out, exchanged.pem).lines[: len(first)] == first.lines


def test_what_was_changed_since_is_not_signed_again(
    exchanged: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged.go()
    monkeypatch.setattr(report, "_headline", lambda *_: ["Something else."])
    (exchanged.out / "groups.json").open("a").write("\n")
    with pytest.raises(BadLog) as caught:
        report_again(exchanged.out)
    assert str(caught.value) == (
        f"{exchanged.out} is not as it was when its log was closed (groups.json: changed): take "
        "an unharmed copy, or write the report elsewhere with --out"
    )


def test_without_the_key_another_report_goes_elsewhere(
    exchanged: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanged.go()
    monkeypatch.setattr(report, "_headline", lambda *_: ["Something else."])
    (exchanged.out / "state" / "coordinator.pem").unlink()
    with pytest.raises(ConfigError) as caught:
        report_again(exchanged.out)
    assert str(caught.value) == (
        f"the key that signed the log of {exchanged.out} is not here: make the report where the "
        "coordinator's folder is, or elsewhere with --out"
    )


def test_two_releases_with_the_same_noise_are_warned_of(exchanged: Exchanged) -> None:
    exchanged.go()
    payload = exchanged.sites["site-0-0"].payload
    copied = Exchanged(exchanged.folder / "copied")
    copied.sites["site-0-0"].payload = payload
    copied.add(PrivateSite("thief", copied.folder, "site-0-0", payload=payload))
    copied.go()
    sites = copied.read("groups.json")["sites"]
    assert [site for site, why in sites.items() if why["warnings"]] == ["site-0-0", "thief"]
    assert "released the same noise" in sites["thief"]["warnings"][0]
    found = copied.entries("suspicion")
    assert [(e["site"], e["finding"], e["certain"]) for e in found] == [
        ("site-0-0", "duplicate", True),
        ("thief", "duplicate", True),
    ]
    assert "released the same noise" in (copied.out / "report.html").read_text()


def test_sites_that_certainly_deceive_can_be_left_out(exchanged: Exchanged) -> None:
    exchanged.go()
    payload = exchanged.sites["site-2-0"].payload
    copied = Exchanged(exchanged.folder / "copied")
    copied.sites["site-2-0"].payload = payload
    copied.add(PrivateSite("thief", copied.folder, "site-2-0", payload=payload))
    copied.go(suspects="leave-out")
    gone = {entry["site"]: entry["reason"] for entry in copied.read("run.json")["left_out"]}
    assert gone == {"site-2-0": "suspicious", "thief": "suspicious"}
    assert set(copied.read("groups.json")["sites"]) == set(MEMBERS) - {"site-2-0"}
    assert (copied.out / "fingerprints" / "thief.safetensors").exists()


def test_the_command_asks_for_an_exchange(
    run: Run, sites: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("fl_server.simulation.check_engine", lambda port: port)
    monkeypatch.setattr(
        "fl_server.simulation.simulate", lambda _count, values, **_: asked.update(values)
    )
    done = run("exchange", sites, "--out", tmp_path / "run", "--epsilon", "1", "--groups", "data")
    assert done.code == 0
    assert asked == {
        "mode": "exchange",
        "release": "private",
        "epsilon": 1.0,
        "groups": "data",
        "min-sites": 2,
        "sites-dir": str(sites.resolve()),
        "out": str((tmp_path / "run").resolve()),
        "pool": "",
    }
    assert run("exchange", sites, "--out", tmp_path / "plain", "--plain").code == 0
    assert asked["release"] == "plain"
    for option, value in (("--epsilon", 1), ("--delta", 1e-6)):
        done = run("exchange", sites, "--out", tmp_path / "both", "--plain", option, value)
        assert (done.code, done.error) == (
            1,
            "--epsilon and --delta belong to a private release: leave --plain",
        )
    assert not (tmp_path / "both").exists()


def test_an_epsilon_that_cannot_be_is_refused_in_one_line(
    run: Run, sites: Path, tmp_path: Path
) -> None:
    done = run("exchange", sites, "--out", tmp_path / "run", "--epsilon", "0")
    assert done.code == 1
    assert done.error == ("run-config epsilon=0.0: Input should be greater than or equal to 0.01")


@pytest.mark.engine
def test_a_second_exchange_sends_the_same_noise_and_spends_nothing(
    families: Path, tmp_path: Path
) -> None:
    sites = shutil.copytree(families, tmp_path / "sites")
    for name in ("first", "second"):
        command = Command("exchange", sites, "--out", tmp_path / name, "--epsilon", "20")
        output, errors = command.process.communicate(timeout=300)
        assert (command.process.returncode, errors) == (0, ""), output
        assert command.gone() == []
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "fingerprints").iterdir()}
        for name in ("first", "second")
    )
    counts = [name for name in first if name.endswith(".safetensors")]
    assert len(counts) == 4
    for name in counts:
        assert first[name] == second[name]
        signed = name.replace(".safetensors", ".dsse.json")
        assert first[signed] != second[signed]  # by the keys of another run
        state = sites / name.removesuffix(".safetensors") / ".fedprint"
        assert len((state / "ledger.jsonl").read_text().splitlines()) == 1
        assert len(list((state / "checkpoints").iterdir())) == 2
    ledgers = [(tmp_path / name / "ledger.json").read_text() for name in ("first", "second")]
    assert ledgers[0] == ledgers[1]
    states = [option for site in sites.iterdir() for option in ("--state", site / ".fedprint")]
    for name in ("first", "second"):
        verify = Command("verify", tmp_path / name, *states)
        output, errors = verify.process.communicate(timeout=120)
        assert (verify.process.returncode, errors) == (0, ""), output


def test_names_with_dots_keep_their_files(tmp_path: Path) -> None:
    made = federation().exchange
    first, *rest = made.releases
    renamed = {"north.v2": made.releases[first], **{s: made.releases[s] for s in rest[:2]}}
    write_exchange(tmp_path, replace(made, releases=renamed))
    (tmp_path / "fingerprints" / "north.safetensors").write_bytes(b"of an earlier run")
    write_exchange(tmp_path, replace(made, releases=renamed))
    names = {path.name for path in (tmp_path / "fingerprints").iterdir()}
    assert names == {site + ending for site in renamed for ending in ENDINGS.values()}
