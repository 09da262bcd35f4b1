"""What the pages say: the figures of the run's files, and whatever sites wrote as plain words."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from fl_server.dashboard.merges import merges
from fl_server.dashboard.runs import Reader
from fl_server.dashboard.sources import Sources
from fl_server.pool import open_pool
from fl_server.progress import Progress
from fl_server.report_data import read_run
from fl_server.runstate import locked
from protocol.errors import ConfigError
from tests.fl_server.dashboard.conftest import client_of
from tests.fl_server.test_report import HOSTILE, make_run

RUN_PAGES = ("", "/map", "/training", "/privacy", "/site/site-0-0")


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str, name: str) -> list[str]:
        """Return the values of one attribute of all tags of a kind."""
        return [str(attrs[name]) for each, attrs in self.tags if each == tag and name in attrs]


def words(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def shown(client: TestClient, path: str) -> str:
    found = client.get(path)
    assert found.status_code == 200, found.text
    return words(found.text)


def addresses(client: TestClient) -> set[str]:
    """Follow every link from the start, and return the pages that there are."""
    seen: set[str] = set()
    left = ["/"]
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        found = client.get(path)
        assert found.status_code == 200, path
        page = Page(found.text)
        left += [link.partition("#")[0] or path for link in page.all("a", "href")]
    return seen


def test_every_link_leads_somewhere(client: TestClient) -> None:
    found = addresses(client)
    assert {"/", "/outcomes", "/pool", "/run/trained", "/run/private"} <= found
    for run in ("trained", "private"):
        assert {f"/run/{run}{page}" for page in RUN_PAGES} - {"/run/private/training"} <= found
    assert sum(path.endswith("/advice") for path in found) >= 5


def test_pages_are_whole_and_run_nothing_inline(client: TestClient) -> None:
    for path in sorted(addresses(client)):
        text = client.get(path).text
        page = Page(text)
        names = [name for _, attrs in page.tags for name in attrs]
        assert not [name for name in names if name.startswith("on") or name == "style"], path
        assert "style" not in [tag for tag, _ in page.tags]
        assert [tag for tag, _ in page.tags].count("h1") == 1
        assert [tag for tag, _ in page.tags].count("main") == 1
        sources = [*page.all("script", "src"), *page.all("link", "href"), *page.all("img", "src")]
        assert all(source.startswith(("/static/", "data:")) for source in sources)
        for label in page.all("svg", "aria-labelledby") + page.all("section", "aria-labelledby"):
            assert all(f'id="{name}"' in text for name in label.split())
        ids = [str(attrs["id"]) for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids)), path


def test_the_run_page_has_the_figures_of_its_files(client: TestClient, runs: Path) -> None:
    run = json.loads((runs / "trained" / "run.json").read_text())
    metrics = json.loads((runs / "trained" / "metrics.json").read_text())["sites"]
    groups = json.loads((runs / "trained" / "groups.json").read_text())["groups"]
    text = shown(client, "/run/trained")
    assert (
        f"{len(run['sites'])} sites with {sum(s['images'] for s in run['sites']):,} images" in text
    )
    home = {site: group["name"] for group in groups for site in group["sites"]}
    for entry in run["sites"]:
        of = metrics[entry["site"]]
        row = (
            f"{entry['site']} {entry['task']} {home[entry['site']]} {entry['images']} "
            f"{100 * of['alone']:.1f}\u00a0% {100 * of['final']:.1f}\u00a0% {of['kept']}"
        )
        assert row.replace("\u00a0", " ") in text


def test_the_map_page_has_all_distances(client: TestClient, runs: Path) -> None:
    data = read_run(runs / "trained")
    text = shown(client, "/run/trained/map")
    for i, row in enumerate(data.sites):
        for j, column in enumerate(data.sites):
            if i != j:
                assert f"{row} and {column}: {data.between[i, j]:.4f}" in text
                assert f"{data.between[i, j]:.4f} (" in text
    for heading in ("Map of the tasks", "Distances between sites", "Dendrogram of the sites"):
        assert heading in text


def test_the_dendrogram_is_told_in_words(client: TestClient, runs: Path) -> None:
    data = read_run(runs / "trained")
    text = shown(client, "/run/trained/map")
    nearest = data.linkage[0]
    names = [data.sites[int(leaf)] for leaf in nearest[:2]]
    assert f"{nearest[2]:.4f} {names[0]} {names[1]}" in text
    assert [merge.height for merge in merges(data.sites, data.linkage)] == data.linkage[
        :, 2
    ].tolist()
    assert merges(["a"], np.empty((0, 4))) == []


def test_what_was_read_is_kept_up_to_a_size(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    first = reader.read("a", runs / "trained")
    assert reader.read("a", runs / "trained").results is first.results
    monkeypatch.setattr("fl_server.dashboard.runs.KEPT", 5)
    reader.read("b", runs / "private")
    assert reader.read("a", runs / "trained").results is not first.results


def test_a_sites_page_has_partners_advice_and_outcome(client: TestClient, runs: Path) -> None:
    groups = json.loads((runs / "trained" / "groups.json").read_text())["sites"]
    advice = json.loads((runs / "trained" / "recommendations.json").read_text())["sites"]
    for site, entry in groups.items():
        text = shown(client, f"/run/trained/site/{quote(site)}")
        assert entry["reason"] in text
        for place, partner in enumerate(entry["partners"], 1):
            assert f"{partner['site']} {place} {partner['distance']:.4f}" in text
        for shot in advice[site]["co-training"]:
            assert f"{shot['rank']} {shot['source']}" in text
        assert "enrolled" in text


def test_the_privacy_page_has_the_ledger_and_the_log(client: TestClient, runs: Path) -> None:
    ledger = json.loads((runs / "private" / "ledger.json").read_text())
    text = shown(client, "/run/private/privacy")
    assert f"{ledger['total']['private']} releases with noise, 0 without." in text
    assert f"no more than ε = {ledger['total']['epsilon']:.2f} at δ = 1e-05" in text
    for site, line in ledger["sites"].items():
        row = (
            f"{site} private {line['epsilon']:.2f} 1e-05 {line['rho']:.4f} {line['spent_rho']:.4f}"
        )
        assert row in text
        assert line["ledger"][:12] in text
    entries = (runs / "private" / "log" / "entries.jsonl").read_text().splitlines()
    assert f"The log's {len(entries)} entries are those of its signed checkpoint" in text
    assert "fedprint verify" in text


def test_a_log_that_was_changed_is_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "private", tmp_path / "private")
    path = tmp_path / "private" / "log" / "entries.jsonl"
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    text = shown(client_of(Sources(tmp_path)), "/run/private/privacy")
    assert "The log is not in order: the log's" in text


def test_outcomes_compare_runs_and_the_pool(client: TestClient, pool: str) -> None:
    text = shown(client, "/outcomes")
    assert "trained" in text
    assert "grouped − alone" in text
    with open_pool(pool) as opened, opened.reading() as session:
        from fl_server.pool.views import experiments

        count = sum(each.scenario == "co-training" for each in experiments(session))
    assert "co-training balanced_accuracy" in text
    assert count > 0


def test_a_pool_that_is_gone_takes_nothing_else_along(
    runs: Path, pool: str, tmp_path: Path
) -> None:
    shutil.copy(pool, tmp_path / "pool.db")
    client = client_of(Sources(runs, str(tmp_path / "pool.db")))
    (tmp_path / "pool.db").unlink()
    text = shown(client, "/outcomes")
    assert "The pool cannot be shown: there is no pool" in text
    assert "grouped − alone" in text
    found = client.get("/pool")
    assert found.status_code == 500
    assert "there is no pool" in words(found.text)


def test_the_pool_is_searched(client: TestClient) -> None:
    assert "5 of 5 tasks." in shown(client, "/pool")
    assert "2 of 5 tasks." in shown(client, "/pool?q=SITE-0")
    assert "No task has these words." in shown(client, "/pool?q=nothing+of+that")
    page = Page(client.get("/pool?q=site-0-0").text)
    task = next(link for link in page.all("a", "href") if link.startswith("/pool/"))
    text = shown(client, task)
    assert "Nearest tasks" in text
    assert "site-0-1" in text
    assert "better than typical" in shown(client, f"{task}/advice")


def test_the_pool_is_not_changed(client: TestClient, pool: str) -> None:
    before = Path(pool).read_bytes()
    addresses(client)
    assert Path(pool).read_bytes() == before


@pytest.mark.parametrize(
    "path",
    [
        "/run/nothing", "/run/..%2f..%2fetc", "/run/trained/nothing", "/run/trained/site/nobody",
        "/static/nothing", "/static/..%2f..%2freport.py", "/static/report.html", "/pool/zzzzzz",
        "/pool/abc", "/pool/..%2fx.dsse.json", "/pool/aaaaaaaa", "/pool/aaaaaaaa/advice", "/docs",
        "/openapi.json", "/run/trained/", "/run/../etc/passwd", "/trained/run.json",
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(client: TestClient, path: str) -> None:
    found = client.get(path)
    assert found.status_code == 404
    assert "All runs" in found.text
    assert "root:" not in found.text


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "bad", text=HOSTILE)
    progress = Progress(run, HOSTILE)
    client = client_of(Sources(tmp_path / "runs"))
    with locked(run):
        progress.phase(HOSTILE, [HOSTILE, "b"])
        progress.lost("b", HOSTILE, HOSTILE)
        for path in ("/", "/outcomes", *(f"/run/bad{page}" for page in RUN_PAGES[:-1])):
            text = client.get(path).text
            page = Page(text)
            assert set(page.all("script", "src")) <= {"/static/live.js"}
            assert "img" not in [tag for tag, _ in page.tags]
            assert "<script>alert" not in text
        assert client.get("/run/bad/site/eye-1").status_code == 200
        assert "&lt;script&gt;" in client.get("/run/bad").text
        said = client.get("/run/bad/live.json")
        assert said.headers["content-type"] == "application/json"
        assert said.json()["rows"]["waiting"][0][0] == HOSTILE


def test_a_run_that_lives_is_told_as_it_goes(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    progress = Progress(run, "r")
    client = client_of(Sources(tmp_path / "runs"))
    with locked(run):
        progress.phase("fingerprints", ["north", "south", "west"], 600)
        progress.awaits_approval("south", 600)
        progress.done("north", "5 bytes verified")
        progress.lost("west", "no-reply", "too late")
        text = client.get("/run/new").text
        assert '<meta http-equiv="refresh" content="5">' in text
        assert 'data-live="/run/new/live.json"' in text
        assert "1 of 2 answered, 1 lost" in words(text)
        assert "Results appear here" in text
        assert "has no run.json" not in text
        said = client.get("/run/new/live.json").json()
        assert said["lives"]
        assert said["facts"]["phase"] == "fingerprints"
        assert [row[0] for row in said["rows"]["waiting"]] == ["south"]
        assert "a person there was asked to approve" in said["rows"]["waiting"][0][2]
        assert said["rows"]["answered"] == [["north"]]
        assert said["rows"]["lost"] == [["west", "fingerprints", "no-reply: too late"]]
        assert [row[2] for row in said["rows"]["events"]] == [
            "lost", "done", "awaiting-approval", "phase",
        ]  # fmt: skip
        assert client.get("/run/new/map").status_code == 404
        assert client.get("/live.json").json()["facts"]["new phase"] == "fingerprints"
    text = client.get("/run/new").text
    assert "http-equiv" not in text
    assert "interrupted" in words(text)
    progress.finish("failed", "the quorum was not met")
    assert "failed" in shown(client, "/run/new")
    assert "the quorum was not met" in shown(client, "/run/new")


def test_a_broken_run_among_others_is_shown_as_such(runs: Path, tmp_path: Path) -> None:
    for name in ("trained", "half"):
        shutil.copytree(runs / "trained", tmp_path / name)
    (tmp_path / "half" / "groups.json").write_text('{"groups": [{"name": "g", "sites": []}]')
    client = client_of(Sources(tmp_path))
    text = shown(client, "/")
    assert "broken" in text
    assert "groups.json is not as it should be" in text
    assert "finished" in text
    assert client.get("/run/trained").status_code == 200
    assert "groups.json is not as it should be" in shown(client, "/run/half")
    assert client.get("/run/half/map").status_code == 404
    assert "trained" in shown(client, "/outcomes")


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_files_that_do_not_go_together_are_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "trained", tmp_path / "r")
    path = tmp_path / "r" / "groups.json"
    said = json.loads(path.read_text())
    said["groups"].append({"name": "nobody", "sites": []})
    path.write_text(json.dumps(said))
    assert "do not go together" in shown(client_of(Sources(tmp_path)), "/run/r")


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:All-NaN", "ignore:invalid value")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("distances.csv", r"(?<=\n)([^,]+),[^,]+,", r"\1,nan,"),
        ("groups.json", '"site-0-0"', '"nobody"'),
        ("metrics.json", '"site-0-0"', '"nobody"'),
        ("run.json", '"site-0-0"', '"nobody"'),
    ],
)
def test_unknown_sites_and_nan_are_no_bare_error(
    runs: Path, tmp_path: Path, name: str, old: str, new: str
) -> None:
    shutil.copytree(runs / "trained", tmp_path / "r")
    path = tmp_path / "r" / name
    changed = re.sub(old, new, path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    client = client_of(Sources(tmp_path))
    for page in ("", *RUN_PAGES):
        assert "</html>" in client.get(f"/run/r{page}").text


def test_what_nobody_foresaw_is_a_page_as_well(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_server.dashboard.app.task_map", lambda *_: 1 / 0)
    client = TestClient(
        client_of(sources).app, base_url="http://localhost", raise_server_exceptions=False
    )
    found = client.get("/run/trained/map")
    assert found.status_code == 500
    assert "This page could not be made (ZeroDivisionError): the files of" in words(found.text)
    assert found.headers["X-Frame-Options"] == "DENY"


def test_a_file_that_is_far_too_large_is_not_read(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_server.dashboard.runs.check_file.__defaults__", (100,))
    shutil.copytree(runs / "trained", tmp_path / "r")
    assert "has more than 100 bytes: it is not one of" in shown(client_of(Sources(tmp_path)), "/")


@pytest.mark.parametrize("name", ["groups.json", "fingerprints/site-0-0.safetensors"])
def test_links_and_pipes_in_a_run_are_not_opened(runs: Path, tmp_path: Path, name: str) -> None:
    for run in ("link", "pipe"):
        shutil.copytree(runs / "trained", tmp_path / "runs" / run)
        (tmp_path / "runs" / run / name).unlink()
    (tmp_path / "runs" / "link" / name).symlink_to(runs / "trained" / name)
    os.mkfifo(tmp_path / "runs" / "pipe" / name)
    text = shown(client_of(Sources(tmp_path / "runs")), "/")
    for run in ("link", "pipe"):
        path = tmp_path / "runs" / run / name
        assert f"{path} is no plain file: put a copy in the place of links" in text


def test_what_changes_is_read_again(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "trained", tmp_path / "r")
    client = client_of(Sources(tmp_path))
    assert "site-0-0" in shown(client, "/run/r")
    (tmp_path / "r" / "metrics.json").unlink()
    assert client.get("/run/r").text.count("Training") == 0


def test_a_run_by_itself_and_a_pool_by_itself(runs: Path, pool: str) -> None:
    alone = client_of(Sources(runs / "trained"))
    assert alone.get("/run/trained").status_code == 200
    assert "/pool" not in Page(alone.get("/").text).all("a", "href")
    assert alone.get("/pool").status_code == 404
    only = client_of(Sources(None, pool))
    assert "No runs were named." in shown(only, "/")
    assert only.get("/pool").status_code == 200


def test_names_in_addresses_are_plain(runs: Path, tmp_path: Path) -> None:
    for name in ("a b", "a-b", "é", "2026/first"):
        shutil.copytree(runs / "private", tmp_path / name)
    client = client_of(Sources(tmp_path))
    assert sorted(run.name for run in Sources(tmp_path).runs()) == [
        "2026-first", "a-b", "a-b-2", "run",
    ]  # fmt: skip
    for name in ("2026-first", "a-b", "a-b-2", "run"):
        assert client.get(f"/run/{name}").status_code == 200


def test_links_are_not_followed(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(runs / "trained")
    assert Sources(tmp_path).runs() == []


def test_before_anything_is_served_faults_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Sources(tmp_path / "none").check()
    assert str(error.value) == (
        f"there is no folder {tmp_path / 'none'}: give a run folder or a folder of runs"
    )
    with pytest.raises(ConfigError) as error:
        Sources(tmp_path).check()
    assert str(error.value) == (
        f"there is no run in {tmp_path}: give a run folder or a folder of runs"
    )
    shutil.copytree(runs / "trained", tmp_path / "half")
    (tmp_path / "half" / "groups.json").unlink()
    with pytest.raises(ConfigError) as error:
        Sources(tmp_path / "half").check()
    assert str(error.value) == (
        f"{tmp_path / 'half'} has no groups.json: give the folder of a finished run"
    )
    with pytest.raises(ConfigError, match=r"^there is no pool .*none\.db: make it with"):
        Sources(runs, str(tmp_path / "none.db")).check()
    (tmp_path / "text.db").write_text("x" * 5000)
    with pytest.raises(ConfigError, match=r"is no pool, and no database at all: name another$"):
        Sources(runs, str(tmp_path / "text.db")).check()
