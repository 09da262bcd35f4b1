"""The two files that ``fedprint site init`` writes for people to read and change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fl_client.site_file import STATE, DataTable, SiteTable, TaskTable

SPEC = "lite0-private"

_NOTE = 44  # column of the comments
_POLICY = """\
# The release policy of site {name}: what may leave it. The coordinator cannot change this file.
# What it does not allow is refused.

# Shown in messages.
name = {quoted}

# Specs whose fingerprints may leave: names as `fedprint spec list` shows them, or digests.
specs = [{spec}]

# Fewest images, and fewest patients; a site without subject ids counts its images as patients.
# Of a private release these are the images that are counted, see contribution_cap.
min_images = 20
min_patients = 1

# Fewest patients of each class: the names of the classes leave without noise, and a class that only
# one patient has tells of that patient.
min_class_patients = 5

# Fewest images for each bin of the spec: with fewer, noise would hide what the counts say.
images_per_bin = 10

# Most bins that a fingerprint may have a feature.
max_bins = 1000

# "private": noise is added to every fingerprint that leaves (differential privacy), whatever the
#            coordinator asks for. Where it asks for more noise than this policy, it gets more.
# "plain":   exact counts leave when the coordinator asks for them. Whoever knows an image can tell
#            from exact counts whether it is among them.
release = "private"

# Most that one private fingerprint spends of the patients' privacy: epsilon, at this delta. With
# epsilon = 2 the best test whether a known patient is among them is right 60 times in 100.
epsilon = 2.0
delta = 1e-5

# Most that all private fingerprints of this site spend together, ever. What was released once is
# sent again as it is, and spends nothing: only other images, another spec or more noise do.
# `fedprint site ledger` shows what is spent. The ledger lies in the state folder: never delete it.
budget_epsilon = 8.0

# A private fingerprint counts so many images of each patient at most; more need more noise.
contribution_cap = 1

# false: each fingerprint waits until a person has looked at it (`fedprint site preview`) and
#        let it go (`fedprint site approve`).
# true:  whatever this policy allows leaves without asking.
automatic = {automatic}

# false: the site gives fingerprints only and does not train with others.
training = true

# false: the site trains with the architecture, augmentation and start of the run itself only. It
#        tries no others for its group, and accepts no plan that its coordinator signs.
plans = true

# What may leave beside fingerprints, for measures that need more than histograms: "moments" (mean
# and covariance of the features), "class-moments" (the same of each class, with its number of
# images) and "fisher" (how a network's filters react to the task). Where releases are private only
# moments leave, with noise that is paid for out of the same budget. Nobody sees any of them before:
# they leave only where automatic = true.
descriptors = []

# true: the site scores models of other sites. Scores say how well such a model fits the site's
#       training images: a few numbers a model, without noise, and no image leaves. Who makes models
#       up can tell by them whether an image that it guesses is among these.
scores = false
"""

_DATA = [
    ("folder", "images", "images in class subfolders, or what the next lines name"),
    ("manifest", "labels.csv", "columns path,label,subject_id[,split]: CSV or Parquet"),
    ("npz", "site.npz", "or arrays with MedMNIST's keys"),
    ("dataset", "images.hf", "or a Hugging Face dataset: its folder, or a name"),
    ("labels", ["edema", "effusion"], "columns of 0 and 1, one a class"),
    ("image", "image", "columns of the dataset ..."),
    ("label", "label", ""),
    ("subject", "patient", ""),
    ("partition", 0, "... and which part of it, counted from 0,"),
    ("partitions", 4, "of so many equal ones"),
    ("plane", "axial", "of a volume's slices; or coronal, sagittal"),
    ("slices", 16, "how many of each volume, evenly spaced; 0 takes all"),
    ("tile", 256, "cut whole slides into squares of so many pixels"),
    ("mpp", 0.5, "micrometres a pixel there; or level = 0"),
    ("level", 0, "of the slide's pyramid"),
]

_PROPERTIES = [
    ("origin", "medical", "or natural: what the images are of"),
    ("colour", "grey", "or colour: whether colour tells something"),
    ("shows", "texture", "or object: what tells the classes apart"),
    ("kind", "organ", "a word for what is told apart"),
    ("diversity", "low", "or medium, high: how much images of a class differ"),
]


def site_toml(site: SiteTable, task: TaskTable, data: DataTable) -> str:
    """Return a ``site.toml`` with a comment on each line."""
    key = site.signing_key or site.key
    lines = [
        "# This site in its federation. Paths are absolute, or relative to this folder.",
        "",
        "[site]",
        _line("name", site.name, "under this name the coordinator enrols the site"),
        _line(
            "superlink",
            site.superlink,
            "the coordinator's host and port",
            instead="fl.example.org:9092",
        ),
        _line("certificates", site.certificates, "vouches for the coordinator; it handed it out"),
        _line("key", site.key, "authenticates Flower's node; it never leaves this machine"),
        _line("signing-key", key, "signs what leaves: a file, or a URI such as hsm:..."),
        _line(
            "public-key",
            site.public_key,
            "public half of a signing key that is a URI",
            instead="keys/signing.pub.pem",
        ),
        _line("policy", site.policy, "what may leave this site"),
        _line(
            "state",
            site.state,
            "what fedprint keeps here: features, models, releases",
            instead=STATE,
        ),
        _line("device", site.device, "cpu, cuda, cuda:1 or mps; empty takes the first there is"),
        _line("port", site.port, "local port of Flower's processes; 0 takes a free one"),
        "",
        "# The task card: a public description, which leaves with every fingerprint.",
        "[task]",
        *_task_lines(task),
        "",
        "[data]",
        *[
            _line(key, getattr(data, key), note, instead=example)
            for key, example, note in _DATA
            if (key != "level" or data.level is not None) and (key != "labels" or data.labels)
        ],
        "",
        "# Curves of training here, for people here; nobody elsewhere has a say in it.",
        "[tracking]",
        _line("logger", None, "or mlflow: what writes them", instead="tensorboard"),
        _line("to", None, "a folder, or MLflow's URI", instead="curves"),
    ]
    return "\n".join(lines) + "\n"


def policy_toml(name: str, *, automatic: bool, specs: Iterable[str] = (SPEC,)) -> str:
    """Return a release policy with comments: release after a person approved, or automatic."""
    return _POLICY.format(
        name=name,
        quoted=_toml(f"release policy of {name}"),
        spec=", ".join(_toml(spec) for spec in specs),
        automatic=_toml(automatic),
    )


def _task_lines(task: TaskTable) -> list[str]:
    return [
        _line("name", task.name, "the site's name by default", instead="brain tissue"),
        _line("modality", task.modality or None, "", instead="MRI"),
        _line("anatomy", task.anatomy or None, "", instead="brain"),
        _line("keywords", task.keywords or None, "", instead=["brain", "tissue"]),
        _line(
            "objective",
            task.objective,
            "or multilabel; ordinal with order = [grades, lowest first]; segmentation with classes",
        ),
        *([_line("order", task.order, "grades, the lowest first")] if task.order else []),
        *(
            [_line("classes", task.classes, "by value of the masks' pixels")]
            if task.classes
            else []
        ),
        _line(
            "codes",
            task.codes or None,
            "of classes, from a public vocabulary",
            instead={"lesion": "SCT:52988006"},
        ),
        # what an expert knows, for the measure "properties": each may be left out
        *[
            _line(
                f"properties.{name}",
                getattr(task.properties, name),
                note,
                instead=example,
            )
            for name, example, note in _PROPERTIES
        ],
        _line(
            "shares_weights", task.shares_weights, "may trained weights go to other groups, runs?"
        ),
    ]


def _line(key: str, value: Any, note: str, *, instead: Any = None) -> str:
    """Return ``key = value  # note``; without a value the line is an example, commented out."""
    text = f"{key} = {_toml(value)}" if value is not None else f"# {key} = {_toml(instead)}"
    return f"{text:<{_NOTE}}# {note}" if note else text


def _toml(value: Any) -> str:
    """Return a value as TOML; JSON's strings, numbers, booleans and lists are TOML already."""
    if isinstance(value, dict):
        pairs = (f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
