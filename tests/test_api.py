"""The steps from Python: the same as those of the command line, and what they refuse."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import typer
from scipy.special import rel_entr, softmax
from typer.testing import CliRunner

from fl_client import commands
from fl_client.api import SiteFingerprint, fingerprint
from fl_client.spec_commands import spec_json
from fl_server import measure_commands, pool_commands
from fl_server.api import add_to_pool, distances, groups, open_fingerprint, recommend
from protocol.errors import (
    ConfigError,
    DataError,
    DigestMismatch,
    FedprintError,
    PolicyError,
    SpecMismatch,
    UnknownKey,
    WrongSite,
)
from protocol.keys import generate_key, save_private_key
from protocol.spec import Spec
from protocol.verify import read_fingerprints
from tests.fl_client.fixtures_sites import projected, tiny_spec

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "python.md"
SITES = ("digits-a", "digits-b", "photos-a", "photos-b")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return tiny_spec(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def made(
    families: Path, spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> list[SiteFingerprint]:
    state, also = tmp_path_factory.mktemp("state"), ("moments", "class-moments")
    return [
        fingerprint(families / site, spec, also=also, state=state / site, device="cpu")
        for site in SITES
    ]


@pytest.fixture(scope="module")
def folder(made: list[SiteFingerprint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prints")
    for each in made:
        assert each.save(out) == out / f"{each.name}.dsse.json"
    return out


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a command line that is typed and returns what is printed."""
    app = typer.Typer()
    for room in (commands, measure_commands, pool_commands):
        room.register(app)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def refused(kind: type[FedprintError], text: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        call()


def test_a_fingerprint_says_what_was_signed(made: list[SiteFingerprint], spec: Spec) -> None:
    one = made[1]
    assert (one.name, one.card.name, one.terms.images) == ("digits-b", "handwriting", 32)
    assert one.counts.shape == (512, 10)
    assert one.counts.sum(axis=1).tolist() == [32] * 512
    assert (one.private, one.spec) == (False, spec)
    assert repr(one).splitlines()[:6] == [
        "fingerprint of digits-b",
        "  task           handwriting",
        "  classes        digit 3, digit 8",
        "  images         32",
        "  patients       16",
        "  spec           tiny, 512 features x 10 bins",
    ]
    assert one.line.startswith("digits-b: 32 images, spec tiny, ")
    assert one.stages is not None


def test_the_command_writes_what_the_function_returns(
    families: Path, made: list[SiteFingerprint], folder: Path, tmp_path: Path,
    typed: Callable[..., str],
) -> None:  # fmt: skip
    (tmp_path / "tiny.json").write_text(spec_json(made[0].spec))
    site, state = families / "digits-a", tmp_path / "state"
    kinds = ("--also", "moments,class-moments", "--state", state, "--device", "cpu")
    typed("fingerprint", site, "--spec", tmp_path / "tiny.json", "--out", tmp_path / "p", *kinds)
    names = [path.relative_to(tmp_path / "p") for path in (tmp_path / "p").rglob("*.*")]
    assert len(names) == 7
    for name in (name for name in names if name.suffix != ".json" or name.stem == "spec"):
        assert (tmp_path / "p" / name).read_bytes() == (folder / name).read_bytes()
    assert [r.fingerprint.site for r in read_fingerprints(folder)[1]] == [*SITES]


def test_distances_are_those_of_a_loop_over_pairs(made: list[SiteFingerprint]) -> None:
    rows = [each.counts / each.counts.sum(axis=1, keepdims=True) for each in made]
    found = distances(made)
    assert found.names == SITES
    assert found.values.dtype == np.float64
    for s, source in enumerate(rows):
        for t, target in enumerate(rows):
            expected = rel_entr(target, softmax(source, axis=1)).sum(axis=1).mean()
            assert found.values[s, t] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("measure", ["bkld-excess", "fid", "flux"])
def test_fingerprints_folder_and_command_agree(
    made: list[SiteFingerprint], folder: Path, tmp_path: Path, typed: Callable[..., str],
    measure: str,
) -> None:  # fmt: skip
    found = distances(list(reversed(made)), measure)
    np.testing.assert_array_equal(found.values, distances(folder, measure).values)
    printed = typed("distances", folder, "--measure", measure, "--out", tmp_path / "c.csv")
    assert printed == f"{tmp_path / 'c.csv'}: 4 x 4 {measure} distances\n"
    assert found.save(tmp_path / "f.csv").read_text() == (tmp_path / "c.csv").read_text()
    grouped = groups(str(folder), measure, partners=2)
    options = ("--measure", measure, "--partners", 2, "--json", tmp_path / "g.json")
    shown = " ".join(typed("groups", folder, *options).split())
    assert json.loads(grouped.save(tmp_path / "f.json").read_text()) == json.loads(
        (tmp_path / "g.json").read_text()
    )
    assert all(why.reason in shown for why in grouped.sites.values())


def test_groups_name_members_partners_and_reasons(made: list[SiteFingerprint]) -> None:
    found = groups(made, partners=2, alike="data", max_size=2)
    assert sorted(chain(*found.members.values())) == [*SITES]
    assert all(len(partners) == 2 for partners in found.partners.values())
    np.testing.assert_array_equal(found.distances.values, distances(made).values)
    for group, members in found.members.items():
        for site in members:
            why = found.sites[site]
            row = f"  {group}  {site:8}  .*{why.stability:.2f} +{re.escape(why.reason)}"
            assert re.search(row, repr(found), re.M), repr(found)


def test_a_frame_has_the_sites_as_labels(
    made: list[SiteFingerprint], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = distances(made)
    frame = found.to_frame()
    assert frame.loc["photos-b", "digits-a"] == found.values[3, 0]
    assert (frame.index.name, frame.columns.name) == ("source", "target")
    plain = builtins.__import__

    def without_pandas(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    text = 'a data frame needs pandas: run pip install "fedprint[notebook]"'
    refused(ConfigError, text, found.to_frame)


def test_nearness_is_the_share_of_sources_that_are_not_nearer(
    made: list[SiteFingerprint],
) -> None:
    values = np.array([[0.0, 5, 1], [2, 0, np.nan], [3, 4, 0]])
    found = replace(distances(made[:3]), values=values)
    expected = [[np.nan, 0.5, 1], [1, np.nan, np.nan], [0.5, 1, np.nan]]
    np.testing.assert_array_equal(found.nearness(), expected)
    assert found._repr_html_().count("background:rgba") == 5


def test_a_pool_recommends_as_its_command_does(
    made: list[SiteFingerprint], folder: Path, tmp_path: Path, typed: Callable[..., str]
) -> None:
    pool, out = tmp_path / "pool.db", tmp_path / "out.json"
    assert add_to_pool(pool, made[1:]).counts == {"tasks added": 3}
    assert typed("pool", "add", pool, folder / "photos-b.dsse.json").endswith("tasks known: 1\n")
    found = recommend(made[0], pool, scenarios=["co-training"], shots=2)
    assert [shot.rank for shot in found.shots["co-training"]] == [1, 2]
    assert [shot.place for shot in found.shots["co-training"]] == [1, 2]
    options = ("--scenario", "co-training", "--shots", 2, "--json", out)
    shown = typed("pool", "recommend", pool, folder / "digits-a.dsse.json", *options)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found.to_json()))
    assert found.shots["co-training"][0].sentence in " ".join(shown.split())
    assert found.shots["co-training"][0].sentence in repr(found)
    assert recommend(made[1].id[:12], str(pool)).found.target.task.site == "digits-b"
    assert add_to_pool(pool, made[0]).counts == {"tasks added": 1}


def test_a_private_fingerprint_is_drawn_once(families: Path, spec: Spec, tmp_path: Path) -> None:
    narrow, state = projected(spec), tmp_path / "state"
    options: dict[str, Any] = {"private": True, "epsilon": 1.0, "state": state, "device": "cpu"}
    one = fingerprint(families / "digits-b", narrow, **options)
    again = fingerprint(families / "digits-b", narrow, out=tmp_path / "prints", **options)
    assert (again.payload, again.id) == (one.payload, one.id)
    assert len((state / "ledger.jsonl").read_text().splitlines()) == 1
    assert one.terms.privacy.epsilon == pytest.approx(1, rel=1e-3)
    assert one.facts["privacy"] == one.terms.privacy.model_dump(mode="json")
    assert "  privacy   epsilon 1 at delta 1e-05, noise of " in repr(one)
    assert (one.terms.images, one.terms.held) == (16, 32)
    assert "  but       Little is left to see: 16 images are counted, " in repr(one)
    text = (
        "epsilon, delta, cap and budget belong to a private fingerprint: give --private, in "
        "Python private=True"
    )
    refused(ConfigError, text, lambda: fingerprint(families / "digits-b", narrow, epsilon=1))
    text = "private release: contribution_cap: Input should be greater than or equal to 1"
    refused(
        ConfigError,
        text,
        lambda: fingerprint(families / "digits-b", narrow, cap=0, **options),
    )


def test_what_a_site_cannot_release(families: Path, spec: Spec, tmp_path: Path) -> None:
    site = families / "digits-a"
    text = "--also: there is no descriptor 'median': take moments, class-moments, fisher, features"
    refused(ConfigError, text, lambda: fingerprint(site, spec, also="median"))
    text = "unknown device 'abacus': take cpu, cuda, cuda:N or mps"
    refused(ConfigError, text, lambda: fingerprint(site, spec, device="abacus"))
    text = f"site folder {tmp_path / 'no'} does not exist or is no folder"
    refused(DataError, text, lambda: fingerprint(tmp_path / "no", spec))
    (tmp_path / "one" / "a").mkdir(parents=True)
    (tmp_path / "one" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(PolicyError, match="has 1 images, at least 2 are needed"):
        fingerprint(tmp_path / "one", spec, out=tmp_path / "prints")
    assert not (tmp_path / "prints").exists()


def test_a_folder_holds_one_spec(
    made: list[SiteFingerprint], families: Path, spec: Spec, tmp_path: Path
) -> None:
    narrow = projected(spec)
    other = fingerprint(families / "digits-b", narrow, out=tmp_path, device="cpu")
    with pytest.raises(SpecMismatch, match=r"^specs tiny and tiny differ in projection \("):
        made[0].save(tmp_path)
    with pytest.raises(SpecMismatch, match=r"^specs tiny and tiny differ in projection \("):
        distances([made[0], other])
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"spec.json", "digits-b.safetensors", "digits-b.dsse.json"}


def test_nothing_that_is_given_is_believed(
    made: list[SiteFingerprint], families: Path, spec: Spec, tmp_path: Path
) -> None:
    one, two = made[:2]
    changed = replace(one, payload=two.payload)
    text = "the fingerprint of digits-a is not the one that was signed"
    for call in (
        lambda: changed.counts,
        lambda: distances([changed, two]),
        lambda: add_to_pool(tmp_path / "pool.db", changed),
        lambda: changed.save(tmp_path / "prints"),
    ):
        refused(DigestMismatch, text, call)
    assert list(tmp_path.rglob("*.db")) == []
    save_private_key(tmp_path / "key.pem", generate_key())
    forged = fingerprint(
        families / "digits-a", spec, key=tmp_path / "key.pem", also="moments",
        state=tmp_path / "state", device="cpu",
    )  # fmt: skip
    mixed = replace(one, descriptors=forged.descriptors)
    text = "the moments of digits-a are signed with another key than its release"
    refused(UnknownKey, text, lambda: distances([mixed, two], "fid"))


def test_a_fingerprint_is_opened_as_it_was_saved(
    made: list[SiteFingerprint], folder: Path, tmp_path: Path
) -> None:
    opened = open_fingerprint(folder / "photos-a.dsse.json")
    assert (opened.payload, opened.envelope) == (made[2].payload, made[2].envelope)
    assert opened.descriptors == made[2].descriptors
    assert opened.spec.digest == made[2].spec.digest
    mixed = distances([str(folder / "digits-b.dsse.json"), made[0], opened], "fid")
    np.testing.assert_array_equal(mixed.values, distances(made[:3], "fid").values)
    text = f"{folder / 'spec.json'} is no signed fingerprint: give NAME.dsse.json"
    refused(ConfigError, text, lambda: groups([folder / "spec.json"]))
    text = f"{folder / 'nobody.safetensors'} is missing: make the fingerprint again"
    refused(ConfigError, text, lambda: open_fingerprint(folder / "nobody.dsse.json"))
    copytree(folder, tmp_path, dirs_exist_ok=True)
    for ending in ("safetensors", "dsse.json"):
        (tmp_path / f"photos-a.{ending}").rename(tmp_path / f"other.{ending}")
    text = "the signed site is 'photos-a', expected 'other'"
    refused(WrongSite, text, lambda: open_fingerprint(tmp_path / "other.dsse.json"))


def test_what_cannot_be_compared(made: list[SiteFingerprint], tmp_path: Path) -> None:
    one, pool = made[0], tmp_path / "pool.db"
    refused(ConfigError, "there is no fingerprint to compare: give some", lambda: groups([]))
    text = "two fingerprints are of site digits-a: leave one out"
    refused(ConfigError, text, lambda: distances([one, one]))
    text = f"there is no pool {pool}: make it with fedprint pool add {pool} RUN"
    refused(ConfigError, text, lambda: recommend(one, pool))
    text = f"there is no {tmp_path / 'run'}: give a run folder, or a release NAME.dsse.json"
    refused(ConfigError, text, lambda: add_to_pool(pool, tmp_path / "run"))
    add_to_pool(pool, one)
    text = "there is no scenario 'luck': take architecture, pretraining, augmentation, co-training"
    refused(ConfigError, text, lambda: recommend(one, pool, scenarios=["luck"]))
    refused(ConfigError, "the seed is -1: take 0 or more", lambda: recommend(one, pool, seed=-1))
    text = f"{pool} holds no other task of spec tiny: add some with fedprint pool add"
    refused(ConfigError, text, lambda: recommend(one, pool))


def test_the_page_runs_word_for_word(
    families: Path, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With a small network instead of the shipped one, which takes longer to load than the rest."""
    shipped = {"lite0-100": spec, "lite0-private": projected(spec)}
    monkeypatch.setattr("fl_client.api.load_spec", shipped.__getitem__)
    monkeypatch.chdir(tmp_path)
    Path("hospitals").mkdir()
    for name, site in {"north": "digits-b", "south": "digits-a", "west": "photos-b"}.items():
        copytree(families / site, Path("hospitals") / name)
    program, wrong = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len([line for line in program.splitlines() if line]) <= 10
    exec(program, {})
    said = re.search(r"members\) +# (.*)", program)
    assert said is not None
    assert said.group(1) in capsys.readouterr().out
    for folder in ("prints", "private-prints"):
        files = {path.name for path in Path(folder).iterdir()}
        assert files == {"north.safetensors", "north.dsse.json", "spec.json"}
    call, text = re.findall(r">>> (.*)\nConfigError: (.*)", wrong)[0]
    refused(ConfigError, text, lambda: eval(call))
