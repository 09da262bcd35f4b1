"""The report: whole, self-contained, honest about what is missing, and deaf to hostile names."""

from __future__ import annotations

import itertools
import re
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fl_server import report
from fl_server.report import find_template, write_report
from fl_server.report_data import read_distances, site_order
from fl_server.report_heatmap import ranks
from fl_server.report_numbers import arm_means, paired
from protocol.envelope import sign
from protocol.errors import DataError, FedprintError
from protocol.files import atomic_json, atomic_write
from protocol.fingerprint import counts_to_bytes
from protocol.keys import generate_key, public_pem, signer
from protocol.runfiles import (
    GroupEntry,
    GroupsFile,
    LeftOut,
    MetricsFile,
    PartnerEntry,
    RunFile,
    SiteEntry,
    SiteGroupEntry,
    SiteMetrics,
    SpecEntry,
)
from protocol.spec import Spec, edges_digest
from protocol.statement import Release, release_statement, utc_now
from protocol.taskcard import ClassCard, TaskCard
from protocol.trust import TrustStore, sign_store

HOSTILE = '<script>alert("x")</script>&\'"><img src=x onerror=alert(1)>'
SITES = ("lung-a", "lung-b", "eye-1", "eye-2", "loner")
GROUPS = {"group-1": ["lung-a", "lung-b"], "group-2": ["eye-1", "eye-2"], "group-3": ["loner"]}


def make_spec(features: int = 3, bins: int = 4) -> Spec:
    low, high = np.zeros(features), np.ones(features)
    return Spec.model_validate(
        {
            "name": "tiny",
            "backbone": "none",
            "weights": {"source": "timm", "sha256": "0" * 64},
            "preprocess": {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3},
            "features": features,
            "bins": bins,
            "lower": low.tolist(),
            "upper": high.tolist(),
            "edges_sha256": edges_digest(low, high),
        }
    )


def write_distances(path: Path, names: tuple[str, ...]) -> None:
    home = {site: group for group, sites in GROUPS.items() for site in sites}
    lines = [",".join(["source", *names])]
    for source in names:
        values = [
            0.5 if source == t else 0.51 if home[source] == home[t] else 0.8 + 0.01 * len(source)
            for t in names
        ]
        lines.append(",".join([source, *map(str, values)]))
    path.write_text("\n".join(lines) + "\n")


def make_run(out: Path, *, metrics: bool = True, text: str = "chest") -> Path:
    """Write a run folder as the server does: five sites, three groups, one site left out."""
    out.mkdir(parents=True, exist_ok=True)
    spec, coordinator, now = make_spec(), generate_key(), utc_now()
    keys = {site: generate_key() for site in SITES}
    store = TrustStore.empty().enrol_all({site: public_pem(key) for site, key in keys.items()})
    for number, site in enumerate(SITES):
        counts = np.zeros((3, 4), dtype=np.uint8)
        counts[:, number % 4] = 10
        payload = counts_to_bytes(counts)
        release = Release(
            site=site,
            spec_digest=spec.digest,
            spec_name=spec.name,
            images=10,
            patients=5,
            policy_digest="0" * 64,
            task_card=TaskCard(name=text, classes=[ClassCard(name=text), ClassCard(name="other")]),
            issued=now,
            expires=now + timedelta(days=1),
        )
        atomic_write(out / "fingerprints" / f"{site}.safetensors", payload)
        envelope = sign(release_statement(payload, release), signer(keys[site]))
        atomic_write(out / "fingerprints" / f"{site}.dsse.json", envelope)
    atomic_json(out / "spec.json", spec)
    atomic_write(out / "trust.dsse.json", sign_store(store, signer(coordinator)))
    atomic_write(out / "coordinator.pub.pem", public_pem(coordinator))
    write_distances(out / "distances.csv", SITES)
    why = SiteGroupEntry(
        reason=f"Nearest: {text}.",
        margin=0.5,
        stability=None,
        partners=[PartnerEntry(site="eye-1", distance=0.5, percentile=1.0)],
    )
    groups = [GroupEntry(name=name, sites=sites) for name, sites in GROUPS.items()]
    atomic_json(out / "groups.json", GroupsFile(groups=groups, sites=dict.fromkeys(SITES, why)))
    atomic_json(
        out / "run.json",
        RunFile(
            run=text,
            mode="simulation",
            spec=SpecEntry(name=spec.name, digest=spec.digest),
            sites=[SiteEntry(site=site, task=text, images=10) for site in SITES],
            left_out=[LeftOut(site=text, reason="bad-signature", message=f"wrong: {text}")],
            seed=0,
            versions={"fedprint": "0.1.0"},
            started=now,
            ended=now + timedelta(seconds=12),
            seconds={"fingerprints": 3.0, text: 1.0},
            settings={"strategy": text},
        ),
    )
    if metrics:
        outcome = SiteMetrics(
            alone=0.5, together=0.55, random=None, grouped=0.75, final=0.75, kept=text
        )
        atomic_json(out / "metrics.json", MetricsFile(sites=dict.fromkeys(SITES, outcome)))
    return out


class Page(HTMLParser):
    """Collects what a browser would act on, and checks that every tag is closed."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href", "action")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("&#39;", "'")


def test_report_tells_the_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = write_report(run)
    assert path == run / "report.html"
    text = words(path.read_text())
    assert (
        "5 sites with 50 images were put into 2 co-training groups, and 1 site on its own" in text
    )
    assert "Grouped training differs from alone by +25.0 points" in text
    assert "1 site left out; see why below." in text
    for heading in (
        "Did training together pay?",
        "Who is near whom",
        "Groups, and why",
        "What left each site",
        "Left out",
        "Timings",
        "Notes",
    ):
        assert heading in text
    assert text.count("valid, enrolled") == len(SITES)
    assert "no clinical benchmark" in text
    assert "5 releases left without noise" in text


def test_report_is_self_contained(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "run")).read_text())
    assert not page.open
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not page.handlers
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert page.tags.count("svg") == 4


def test_figures_have_titles_for_screen_readers(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run")).read_text()
    for label in re.findall(r'aria-labelledby="([^"]+)"', page):
        for name in label.split():
            assert f'id="{name}"' in page


def test_same_run_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run", text=HOSTILE)).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not page.handlers
    assert not page.open
    assert "&lt;script&gt;" in text


def test_exchange_without_training(tmp_path: Path) -> None:
    text = words(write_report(make_run(tmp_path / "run", metrics=False)).read_text())
    assert "Fingerprints were exchanged and compared; nothing was trained." in text
    assert "Did training together pay?" not in text
    assert "Training then sent model weights" not in text


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("bkld-large-unweighted", "from signed histograms alone"),
        ("fid", "from signed means and covariances alone"),
        ("flux", "from task cards and signed moments of each class alone"),
        ("of-a-package", "by measure of-a-package"),
    ],
)
def test_page_says_what_decided(tmp_path: Path, measure: str, said: str) -> None:
    run = make_run(tmp_path / "run", metrics=False)
    file = RunFile.model_validate_json((run / "run.json").read_text())
    atomic_json(run / "run.json", file.model_copy(update={"settings": {"measure": measure}}))
    text = words(write_report(run).read_text())
    assert f"{said}. No image left a site." in text
    assert ("of task cards only the objective" in text) == measure.startswith("bkld-")


def test_page_says_what_left_beside_fingerprints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", metrics=False)
    assert "No image, no feature of an image" in words(write_report(run).read_text())
    for name in (
        "eye-1.moments.safetensors",
        "eye-1.features.safetensors",
        "eye-1.moments.dsse.json",
    ):
        atomic_write(run / "descriptors" / name, b"x" * 1234)
    atomic_write(run / "scores" / "eye-1.dsse.json", b"{}")
    text = words(write_report(run).read_text())
    assert "moments 1 1,234 mean and covariance of the features" in text
    assert "features 1 1,234 features and class of every single image" in text
    assert "scores 1 2 how well models" in text
    assert "fisher" not in text
    assert "no feature of an image" not in text


def test_single_site_has_no_dendrogram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SITES", ("loner",))
    monkeypatch.setattr(sys.modules[__name__], "GROUPS", {"group-1": ["loner"]})
    page = Page(write_report(make_run(tmp_path / "run")).read_text())
    assert page.tags.count("svg") == 3


def test_changed_fingerprint_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    changed = np.full((3, 4), 2, dtype=np.uint8)
    (run / "fingerprints" / "eye-1.safetensors").write_bytes(counts_to_bytes(changed))
    text = words(write_report(run).read_text())
    assert "digest-mismatch: the fingerprint of eye-1 is not the one that was signed" in text
    assert text.count("valid, enrolled") == len(SITES) - 1


def test_foreign_trust_store_enrols_nobody(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    atomic_write(run / "coordinator.pub.pem", public_pem(generate_key()))
    text = words(write_report(run).read_text())
    assert text.count("valid, not enrolled") == len(SITES)


def test_many_sites_become_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_server.report_heatmap.MOST_CELLS", 2)
    page = Page(write_report(make_run(tmp_path / "run")).read_text())
    assert any(link.startswith("data:image/png;base64,") for link in page.links)


@pytest.mark.parametrize("name", ["run.json", "groups.json", "distances.csv"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(DataError) as error:
        write_report(run)
    assert str(error.value) == f"{run} has no {name}: give the folder of a finished run"
    assert not (run / "report.html").exists()


def test_malformed_file_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "groups.json").write_text('{"groups": 1}')
    with pytest.raises(DataError, match=r"groups\.json is not as it should be: groups: "):
        write_report(run)


@pytest.mark.parametrize("table", ["", "source,a\nb,1\n", "source,a\na,inf\n", "source,a\na,x\n"])
def test_bad_distances_are_refused(tmp_path: Path, table: str) -> None:
    path = tmp_path / "distances.csv"
    path.write_text(table)
    with pytest.raises(DataError, match=r"distances\.csv is not a"):
        read_distances(path)


def test_groups_of_other_sites_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "groups.json").write_text('{"groups": [], "sites": {}}')
    with pytest.raises(DataError, match="are not those of distances"):
        write_report(run)


def test_template_is_found_behind_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_template()
    bundle = tmp_path / "bundle" / "fl_server"
    bundle.mkdir(parents=True)
    monkeypatch.setattr(report, "__file__", str(bundle / "report.py"))
    monkeypatch.setattr(sys, "path", [str(bundle.parent), str(real.parents[2])])
    assert find_template() == real
    monkeypatch.setattr(sys, "path", [str(bundle.parent)])
    with pytest.raises(FedprintError) as error:
        find_template()
    assert str(error.value) == (
        "the report's template fl_server/templates/report.html is missing: run pip install fedprint"
    )


fractions = st.floats(0, 1)


@given(st.lists(st.tuples(fractions, fractions), min_size=2, max_size=30))
def test_paired_difference_is_the_t_test(values: list[tuple[float, float]]) -> None:
    rows = [SiteMetrics(alone=a, grouped=b) for a, b in values]
    found = paired([*rows, SiteMetrics(alone=0.3)], "grouped", "alone")
    assert found is not None
    difference = np.array([b - a for a, b in values])
    assert found.sites == len(values)
    assert found.mean == pytest.approx(difference.mean())
    assert found.low is not None
    if difference.std() > 1e-6:
        interval = stats.ttest_1samp(difference, 0).confidence_interval()
        assert (found.low, found.high) == pytest.approx(tuple(interval))


def test_means_are_over_sites_with_all_arms() -> None:
    rows = [SiteMetrics(alone=0.2, grouped=0.4), SiteMetrics(alone=0.4, grouped=0.8)]
    assert arm_means([*rows, SiteMetrics(alone=1.0)]) == pytest.approx(
        {"alone": 0.3, "grouped": 0.6}
    )
    assert arm_means([]) == {}
    assert paired(rows, "grouped", "random") is None


@given(st.integers(1, 12), st.integers(0, 99))
def test_order_is_a_permutation_that_keeps_groups(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, count)
    groups = [np.flatnonzero(label == g).tolist() for g in np.unique(label)]
    order = site_order(rng.random((count, count)), groups)
    assert sorted(order) == list(range(count))
    seen = [int(label[site]) for site in order]
    assert sum(a != b for a, b in itertools.pairwise(seen)) == len(groups) - 1


@given(st.integers(1, 8), st.integers(0, 99))
def test_ranks_count_nearer_sites(count: int, seed: int) -> None:
    between = np.random.default_rng(seed).random((count, count))
    found = ranks(between)
    for row in range(count):
        for column in range(count):
            nearer = sum(
                between[other, column] < between[row, column]
                for other in range(count)
                if other not in (row, column)
            )
            assert found[row, column] == (0 if row == column else nearer + 1)
