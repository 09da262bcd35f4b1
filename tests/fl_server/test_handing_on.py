"""What is made of a finished run for others: model cards, weights by consent, an RO-Crate."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import safetensors.numpy
import typer
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from fl_server import server_commands
from fl_server.models import load_model
from fl_server.runlog import RunLog
from fl_server.verify_evidence import Finding
from protocol.errors import ConfigError, FedprintError
from protocol.log import ENTRIES
from protocol.model_card import HEADER, ModelCard, Recipe, loading_code
from protocol.presets import OFFLINE
from protocol.sharing import BODY, row_name
from protocol.spec import Spec, Weights
from tests.fl_server.audited import copy_of, findings
from tests.fl_server.joining import (
    FINGERPRINTS,
    SHARING,
    SPEC,
    Federation,
    federation,
    write_run,
)
from tests.fl_server.test_reopen import take_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Federation]]:
    """Return a run whose first group hands its weights on, and whose second one does not."""
    folder = tmp_path_factory.mktemp("made") / "run"
    SHARING.update({"site-0-0", "site-0-1", "site-1-0"})
    try:
        run = federation()
        yield write_run(folder, run), run
    finally:
        SHARING.clear()


@pytest.fixture
def copied(made: tuple[Path, Federation], tmp_path: Path) -> Path:
    return copy_of(made[0], tmp_path / "run")


def command(*arguments: object) -> str:
    """Run a command of the coordinator; return what it says."""
    app = typer.Typer()
    server_commands.register(app)
    done = CliRunner().invoke(app, ["server", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def group_of(run: Path, *sites: str) -> str:
    """Return the name of the group that some sites trained in."""
    plans = json.loads((run / "metrics.json").read_text())["plans"]["grouped"]
    return str(next(plan["group"] for plan in plans if plan["sites"] == [*sites]))


def test_weights_lie_beside_a_card_only_where_all_sites_agreed(
    made: tuple[Path, Federation],
) -> None:
    run, _ = made
    shared, withheld = (group_of(run, f"site-{n}-0", f"site-{n}-1") for n in (0, 1))
    folders = sorted(path.name for path in (run / "models").iterdir() if path.is_dir())
    assert folders == sorted([shared, withheld])
    card = (run / "models" / shared / "README.md").read_text()
    weights = (run / "models" / shared / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card
    counted = FINGERPRINTS["site-0-0"].n_images
    assert f"| site-0-0 | t | 20 | plain, of {counted} images |" in card
    assert "| mean over sites | test | 2 sites | 0.750 | undefined |" in card
    assert "All sites of the group signed that they may be handed on." in card

    assert not (run / "models" / withheld / "model.safetensors").exists()
    card = (run / "models" / withheld / "README.md").read_text()
    assert "site-1-1 did not agree more." in card
    assert "The weights do not lie beside this card." in card
    assert "```" not in card


def test_weights_are_those_of_the_run_and_hold_no_row_that_is_not_shared(
    made: tuple[Path, Federation],
) -> None:
    run, _ = made
    group = group_of(run, "site-0-0", "site-0-1")
    arrays = load_model(run / "models" / f"{group}.safetensors")
    content = (run / "models" / group / "model.safetensors").read_bytes()
    named = safetensors.numpy.load(content)
    assert set(named) == {"adapter.weight", "adapter.bias", "head.weight", "head.bias"}
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(named[f"adapter.{name}"], arrays[BODY + name])
    row = arrays[row_name("y")]  # the one class that both hold
    np.testing.assert_array_equal(named["head.weight"], row[None, :-1])
    np.testing.assert_array_equal(named["head.bias"], row[-1:])
    length = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(said[HEADER]) == {"recipe": "adapter", "classes": ["y"]}


def test_cards_are_verified_and_stay_when_sites_join(
    copied: Path, made: tuple[Path, Federation]
) -> None:
    run = made[1]
    assert findings(copied, run.exchange.signer) == []
    before = {p: p.read_bytes() for p in (copied / "models").rglob("*") if p.is_file()}
    take_in(run, copied, "site-0-2")
    assert {p: p.read_bytes() for p in (copied / "models").rglob("*") if p.is_file()} == before
    assert findings(copied, run.exchange.signer) == []

    card = next((copied / "models").glob("*/README.md"))
    card.write_text(card.read_text().replace("0.750", "0.990"))
    lines = (copied / "log" / ENTRIES).read_bytes().splitlines()
    RunLog(lines).close(run.exchange.run, copied, run.exchange.signer)
    name = card.relative_to(copied).as_posix()
    assert Finding(name, "is not what the run's files give") in findings(
        copied, run.exchange.signer
    )


def test_an_earlier_runs_models_are_written_elsewhere(copied: Path, tmp_path: Path) -> None:
    shared, withheld = (group_of(copied, f"site-{n}-0", f"site-{n}-1") for n in (0, 1))
    (tmp_path / "models" / withheld).mkdir(parents=True)
    (tmp_path / "models" / withheld / "model.safetensors").write_text("of another run")
    said = command("models", copied, "--out", tmp_path / "models")
    assert not (tmp_path / "models" / withheld / "model.safetensors").exists()
    assert f"{tmp_path / 'models' / shared}\n" in said
    assert f"{withheld}: card only, not every site signed shares_weights = true\n" in said
    for path in (tmp_path / "models").rglob("*.*"):
        there = copied / "models" / path.relative_to(tmp_path / "models")
        assert path.read_bytes() == there.read_bytes()
    for path in (copied / "models").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(FedprintError) as caught:
        command("models", copied, "--out", tmp_path / "none")
    assert str(caught.value) == f"{copied} holds no model of a group: its arms trained none"


def test_a_groups_name_leads_nowhere_else(copied: Path, tmp_path: Path) -> None:
    path = copied / "metrics.json"
    path.write_text(path.read_text().replace('"grouped-1"', '"../../grouped-1"'))
    (tmp_path / "grouped-1.safetensors").write_bytes(b"")
    with pytest.raises(FedprintError, match=r"^names a group \.\./\.\./grouped-1$"):
        command("models", copied, "--out", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_crate_is_read_by_others(made: tuple[Path, Federation], tmp_path: Path) -> None:
    run, _ = made
    out = tmp_path / "crate"
    licence = "https://creativecommons.org/licenses/by/4.0/"
    said = command("crate", run, "--out", out, "--license", licence)
    assert said == f"crate: {out / 'ro-crate-metadata.json'}\n"
    crate = ROCrate(out)
    assert (crate.version, crate.name) == ("1.1", "fedprint run run-1")
    assert crate.license.id == licence
    files = {unquote(entity.id): entity for entity in crate.data_entities}
    there = {p.relative_to(out).as_posix() for p in (out / "run").rglob("*") if p.is_file()}
    assert set(files) == there
    for name, entity in files.items():
        content = (out / name).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest()
        assert entity["contentSize"] == str(len(content))
    action = crate.get("#run")
    assert action.type == "CreateAction"
    assert "run/groups.json" in {entity.id for entity in action["result"]}
    assert action["instrument"]["name"] == "fedprint"
    assert files["run/fingerprints/site-0-0.dsse.json"]["creator"]["name"] == "site-0-0"
    graph = json.loads((out / "ro-crate-metadata.json").read_text())["@graph"]
    ids = [entity["@id"] for entity in graph]
    assert len(set(ids)) == len(ids)
    links = set(re.findall(r'\{"@id": ?"([^"]+)"\}', json.dumps(graph)))
    known = {*ids, "https://w3id.org/ro/crate/1.1", "http://schema.org/CompletedActionStatus"}
    assert links <= known
    assert "Person" not in {entity["@type"] for entity in graph}


def test_a_crate_holds_no_key_and_no_model_that_is_not_handed_on(
    made: tuple[Path, Federation], tmp_path: Path
) -> None:
    run = copy_of(made[0], tmp_path / "run")
    for name in ("state/coordinator.pem", "sites/north/a/1.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("secret")
    command("crate", run)
    crate = tmp_path / "run-crate"
    assert sorted(path.name for path in crate.iterdir()) == ["ro-crate-metadata.json", "run"]
    assert not any(b"secret" in path.read_bytes() for path in crate.rglob("*") if path.is_file())
    withheld = group_of(run, "site-1-0", "site-1-1")
    assert findings(crate / "run", made[1].exchange.signer) == [
        Finding(f"models/{withheld}.safetensors", "is missing")
    ]


def test_what_cannot_become_a_crate_is_one_line(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    for out, says in (
        (tmp_path / "there", f"{tmp_path / 'there'} is there already: choose another --out"),
        (
            copied / "crate",
            f"{copied / 'crate'} lies in the run folder, whose log covers it: choose another --out",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            command("crate", copied, "--out", out)
        assert str(caught.value) == says
    (copied / "groups.json").write_text("{}")
    with pytest.raises(FedprintError) as found:
        command("crate", copied)
    assert str(found.value) == (
        f"{copied} is not as it was when its log was closed (groups.json: changed): "
        "take an unharmed copy"
    )
    with pytest.raises(FedprintError, match=r"holds no finished run: run it to its end$"):
        command("crate", tmp_path)


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
@pytest.mark.parametrize("source", [*OFFLINE.sources.values(), "file:/x/w.pt", "timm", "site"])
def test_code_of_a_card_is_python_whatever_others_call_their_networks(
    source: str, recipe: Recipe
) -> None:
    name = '"); import os; ("```\n'
    spec: Spec = SPEC.model_copy(update={"backbone": name, "weights": Weights(source=source)})
    code = loading_code(spec, recipe)
    compile(code, "card", "exec")
    assert "```" not in code
    assert "import os" not in code.replace('"\\"); import os; (\\"', "")
    assert "/x/" not in code


def test_code_of_a_card_sees_what_the_spec_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    from fl_client.backbone_shape import shape

    monkeypatch.chdir(tmp_path)
    seen = SPEC.preprocess.model_copy(update={"resize": 64, "crop": 64})
    changes = {"backbone": "vit_tiny_patch16_224", "pooling": "avg", "preprocess": seen}
    spec = SPEC.model_copy(update={**changes, "weights": Weights(source="file:w.safetensors")})
    backbone = timm.create_model(spec.backbone, num_classes=0).eval()
    save_file(backbone.state_dict(), "w.safetensors")
    shape(backbone, spec)
    head = {"head.weight": torch.ones(2, 192), "head.bias": torch.zeros(2)}
    save_file(head, "model.safetensors")
    names = {"images": torch.ones(1, 3, 64, 64)}
    with torch.no_grad():
        exec(loading_code(spec, "fine-tune"), names)
        expected = backbone(names["images"]) @ head["head.weight"].T
    torch.testing.assert_close(names["scores"], expected)


def test_a_card_of_several_labels_says_so() -> None:
    said = {
        objective: ModelCard(
            *("name", "run", "about", SPEC, "spec", "adapter", ["a"]),
            *({"objective": objective}, [], [], "consent"),
        ).to_markdown()
        for objective in ("multilabel", "ordinal")
    }
    assert "It scores its labels whatever it is shown" in said["multilabel"]
    assert "It names one of its classes whatever it is shown" in said["ordinal"]
