"""The model that a site keeps: its card is read, and its weights are loaded as the card says."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_sites import write_classes
from safetensors import safe_open

from fl_client.images import make_views, read_image
from fl_client.learner import Learner
from fl_client.models import RunModels
from fl_client.site import read_site
from protocol.files import sha256_hex
from protocol.model_card import CARD, HEADER, WEIGHTS
from protocol.orders import Order
from protocol.sharing import Recipe
from protocol.spec import Spec


@pytest.mark.parametrize("recipe", ["adapter", "fine-tune"])
def test_a_card_says_how_to_load_the_model(
    recipe: Recipe, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = write_classes(tmp_path / "north", {"brain": 12, "lung": 10})
    (where / "site.toml").write_text('[task]\nname = "<img> of | `lungs`"\n')
    site = read_site(where)
    learner = Learner(site, spec, recipe, "cpu", 0)
    run = "../run one"
    order = Order(
        run=run,
        arm="alone",
        spec=spec,
        recipe=recipe,
        epochs=1,
        batch_size=8,
        learning_rate=0.05,
        seed=3,
    )
    scores = learner.train_alone(order)

    [folder] = (site.state / "final").iterdir()
    assert re.fullmatch(r"run-one-[0-9a-f]{8}", folder.name)
    assert {path.name for path in folder.iterdir()} == {CARD, WEIGHTS}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    card = (folder / CARD).read_text()
    assert sha256_hex((folder / WEIGHTS).read_bytes()) in card
    assert r"\<img\> of \| \`lungs\`" in card
    assert "<img>" not in card
    tested = len(learner.data.splits["test"])
    assert f"| north | test | {tested} images | {scores['test_balanced_accuracy']:.3f} |" in card
    assert str(spec.weights.sha256) in card
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        assert file.metadata()[HEADER] == f'{{"recipe": "{recipe}", "classes": ["brain", "lung"]}}'

    images = _prepared([read_image(path) for path in sorted(where.glob("*/*.png"))[:5]], spec)
    names: dict[str, Any] = {"images": images}
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    start = Path(spec.weights.source.removeprefix("file:"))
    (folder / start.name).write_bytes(start.read_bytes())
    monkeypatch.chdir(folder)
    with torch.inference_mode():
        exec(code, names)
        model = learner._model(order)
        model.load_arrays(RunModels(site, run, "alone").load("model"))
        body = names["backbone"](images) if recipe == "adapter" else images
        expected = model.eval()(body)
    np.testing.assert_allclose(names["scores"], expected, rtol=1e-4, atol=1e-4)


def _prepared(pixels: list[Any], spec: Spec) -> torch.Tensor:
    """Return images as the card says that they are prepared: float32 [n, 3, crop, crop]."""
    views = np.concatenate([make_views(one, spec, [0]) for one in pixels]) / np.float32(255)
    mean, std = (np.float32(v) for v in (spec.preprocess.mean, spec.preprocess.std))
    return torch.from_numpy(((views - mean) / std).transpose(0, 3, 1, 2))
