"""``fedprint pool`` as it is typed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer

from fl_server import pool_commands
from fl_server.pool.add import OWN_KEY
from protocol import cli
from protocol.files import atomic_json
from protocol.keys import generate_key, public_pem, save_private_key
from tests.fl_server.audited import audited_run
from tests.fl_server.bad import Run
from tests.fl_server.joining import MEMBERS
from tests.fl_server.pool.pooling import SPEC, experiment, filled, released, task_id

COMMANDS = (
    "add", "list", "show", "query", "recommend", "export", "import", "merge", "withdraw",
)  # fmt: skip


@pytest.fixture
def pool_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the command line with ``pool``, also where fedprint was installed before it was."""
    build = cli.build_app

    def build_with_pool() -> typer.Typer:
        app = build()
        if all(group.name != "pool" for group in app.registered_groups):
            pool_commands.register(app)
        return app

    monkeypatch.setattr(cli, "build_app", build_with_pool)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody there to answer
    monkeypatch.setenv("COLUMNS", "200")
    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(pool_run: Run, name: str) -> None:
    done = pool_run("pool", name, "--help")
    assert done.code == 0
    assert f"Example: fedprint pool {name} pool.db" in " ".join(done.out.split())


def test_a_pool_from_its_first_run_to_a_withdrawal(pool_run: Run, tmp_path: Path) -> None:
    run, pool, out = audited_run(tmp_path), tmp_path / "pool.db", tmp_path / "out.json"
    done = pool_run("pool", "add", pool, run, "--json", out)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{pool}: tasks added: 5\nnote: {OWN_KEY}\n"
    assert json.loads(out.read_text()) == {"counts": {"tasks added": 5}, "notes": [OWN_KEY]}
    coordinator = run / "coordinator.pub.pem"
    done = pool_run("pool", "add", pool, run, "--coordinator", coordinator)
    assert done.out == f"{pool}: tasks known: 5\n"

    done = pool_run("pool", "list", pool, "--json", out)
    assert "tasks: 5" in done.out
    tasks = json.loads(out.read_text())["tasks"]
    assert [task["site"] for task in tasks] == list(MEMBERS)

    first = tasks[0]["id"]
    done = pool_run("pool", "show", pool, first[:8], "--json", out)
    assert f"site         {MEMBERS[0]}" in done.out
    assert json.loads(out.read_text())["card"]["name"] == "t"

    key, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private = generate_key()
    save_private_key(key, private)
    public.write_text(public_pem(private))
    shared = tmp_path / "shared.jsonl"
    done = pool_run("pool", "export", pool, shared, "--key", key, "--json", out)
    assert done.out.startswith(f"{shared}: release: 5, spec: 1; signed with key ")
    assert json.loads(out.read_text())["records"] == {"release": 5, "spec": 1}

    other = tmp_path / "other.db"
    done = pool_run("pool", "import", other, shared)
    assert (done.code, done.err) == (
        1,
        "fedprint: error: nobody is trusted: give the exporter's public key (--trust PEM)\n",
    )
    done = pool_run("pool", "import", other, shared, "--trust", public, "--json", out)
    assert done.out == f"{other}: tasks added: 5\n"
    assert pool_run("pool", "merge", pool, other).out == f"{pool}: tasks known: 5\n"

    done = pool_run("pool", "withdraw", pool, first[:8])
    assert done.code == 1
    assert "nothing was withdrawn: it is final" in done.err
    done = pool_run("pool", "withdraw", pool, first[:8], "--yes", "--json", out)
    assert done.out == f"{pool}: withdrawn: 1\n"
    assert "tasks: 4, withdrawn: 1" in pool_run("pool", "list", pool).out
    assert "withdrawal" in pool_run("pool", "show", pool, first[:8]).out
    assert "tasks known: 4, tasks withdrawn before: 1" in pool_run("pool", "merge", pool, other).out


def test_experiments_are_shown(pool_run: Run, tmp_path: Path) -> None:
    pool = tmp_path / "pool.db"
    filled(str(pool)).close()
    done = pool_run("pool", "show", pool, task_id(1))
    assert done.code == 0
    assert "grouped, 2" in " ".join(done.out.split())


def test_experiments_of_a_file_are_added(pool_run: Run, tmp_path: Path) -> None:
    pool, file = tmp_path / "pool.db", tmp_path / "search.jsonl"
    filled(str(pool)).close()
    told = [experiment(0, None), experiment(1, None), experiment(77, None)]
    file.write_text("".join(each.model_dump_json() + "\n" for each in told))
    done = pool_run("pool", "add", pool, file)
    assert done.out == f"{pool}: experiments added: 2, experiments without their tasks: 1\n"
    file.write_text(told[0].model_dump_json() + "\n{}\n")
    done = pool_run("pool", "add", pool, file)
    assert done.code == 1
    assert done.err.startswith(f"fedprint: error: {file}: line 2: scenario: Field required")


def test_a_single_release_is_added(pool_run: Run, tmp_path: Path) -> None:
    payload, envelope = released(1)
    atomic_json(tmp_path / "spec.json", SPEC)
    (tmp_path / "a.safetensors").write_bytes(payload)
    (tmp_path / "a.dsse.json").write_bytes(envelope)
    done = pool_run("pool", "add", tmp_path / "pool.db", tmp_path / "a.dsse.json")
    assert done.out.endswith("pool.db: tasks added: 1\n")
    assert "not enrolled" in " ".join(pool_run("pool", "list", tmp_path / "pool.db").out.split())


def test_what_is_near_and_what_to_try(pool_run: Run, tmp_path: Path) -> None:
    pool, out = tmp_path / "pool.db", tmp_path / "out.json"
    filled(str(pool)).close()
    done = pool_run("pool", "query", pool, task_id(1)[:8], "--top", "2", "--json", out)
    assert (done.code, done.err) == (0, "")
    assert "nearest to task 1 of site-1, of 3 tasks" in done.out
    found = json.loads(out.read_text())
    assert [row["place"] for row in found["nearest"]] == [1, 2]
    assert found["target"]["id"] == task_id(1)
    assert (found["candidates"], found["measure"]) == (3, "bkld-large-source")

    done = pool_run("pool", "recommend", pool, task_id(1)[:8], "--shots", "2", "--json", out)
    assert (done.code, done.err) == (0, "")
    assert "architecture, by nearness: nothing was measured on other tasks yet" in done.out
    assert "co-training, learnt from outcomes on other tasks: 1" in done.out
    scenarios = json.loads(out.read_text())["scenarios"]
    assert list(scenarios) == ["architecture", "pretraining", "augmentation", "co-training"]
    assert all(len(each["shots"]) == 2 for each in scenarios.values())
    words = " ".join(done.out.replace("│", " ").split())
    assert "Train together with site-" in words

    named = ("--scenario", "pretraining", "--json", out)
    pool_run("pool", "recommend", pool, task_id(1)[:8], *named)
    assert list(json.loads(out.read_text())["scenarios"]) == ["pretraining"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query", "{}/p.db", "nobody"), "'nobody' is neither the id of a task nor a release"),
        (("query", "{}/p.db", "ffffffff"), "the pool holds nothing with the id ffffffff"),
        (
            ("query", "{}/p.db", "TASK", "--measure", "cosine"),
            "measure 'cosine' cannot be retrieved by inner products: take one of bkld-large",
        ),
        (("query", "{}/p.db", "TASK"), "{}/p.db holds no other task of spec test: add some with"),
        (("recommend", "{}/p.db", "TASK"), "{}/p.db holds no other task of spec test"),
        (("recommend", "{}/p.db", "TASK", "--json", "{}"), "--json {} is a folder: name the file"),
    ],
)
def test_nobody_to_compare_with(
    pool_run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    filled(str(tmp_path / "p.db"), range(1)).close()
    given = [text.format(tmp_path).replace("TASK", task_id(0)[:8]) for text in arguments]
    done = pool_run("pool", *given)
    assert done.code == 1
    assert done.err.startswith(f"fedprint: error: {said.format(tmp_path)}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "{}/none.db"), "there is no pool {}/none.db: make it with fedprint pool add"),
        (("add", "{}/p.db", "{}/none"), "there is no {}/none: give a run folder, or a release"),
        (("add", "{}/p.db", "{}"), "{} is not in order: "),
        (("show", "{}/none.db", "123456"), "there is no pool {}/none.db"),
        (("import", "{}/p.db", "{}/x", "--trust", "{}"), "{} is no public key: give a PEM file"),
        (("merge", "{}/p.db", "{}/none.db"), "there is no pool {}/none.db"),
    ],
)
def test_errors_are_one_line(
    pool_run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = pool_run("pool", *(text.format(tmp_path) for text in arguments))
    assert done.code == 1
    assert done.err.startswith(f"fedprint: error: {said.format(tmp_path)}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", "there is no nothing"),
        ("run", "run is not in order"),
        ("a.dsse.json", "a.safetensors is missing"),
        ("tried.jsonl", "tried.jsonl: line 1: "),
        ("notes.txt", "notes.txt is neither a run folder"),
    ],
)
def test_what_is_refused_makes_no_pool(
    source: str, said: str, pool_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for name in ("a.dsse.json", "tried.jsonl", "notes.txt"):
        Path(name).write_text("{}\n")
    atomic_json(Path("spec.json"), SPEC)
    before = sorted(tmp_path.iterdir())
    done = pool_run("pool", "add", "pool.db", source)
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(said)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pool_in_no_folder_is_refused_before_the_run_is_read(
    pool_run: Run, tmp_path: Path
) -> None:
    pool = tmp_path / "nope" / "dir" / "pool.db"
    done = pool_run("pool", "add", pool, tmp_path)
    assert (done.code, done.error) == (1, f"folder {pool.parent} does not exist: make it first")
    assert not (tmp_path / "nope").exists()
