"""Checks of a site's labels: classes, splits, and images that are there twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator

from fl_client.check_images import each
from fl_client.finding import DataCheck, DataVisit, Finding, failed, ok, warning
from fl_client.images import pixel_digest
from fl_client.site import ImageItem, Site
from fl_client.site_file import SITE_FILE, read_site_file
from fl_client.splits import split_site
from protocol.errors import DataError
from protocol.taskcard import class_keys

FEW = 5
"""Images below which a class can hardly be learned."""


def check_labels(visit: DataVisit) -> Iterator[Finding]:
    """See that there are classes to tell apart, and enough images of each."""
    site = visit.site
    if site is None or site.card.objective == "segmentation":
        return
    counts = site.targets.sum(axis=0, dtype=int).tolist()  # [classes]
    names = [held.name for held in site.card.classes]
    sizes = [f"{name}: {count}" for name, count in zip(names, counts, strict=True)]
    shown = ", ".join(sizes[:12])
    several = site.card.objective == "multilabel"
    if several:
        shown += f"; none of them: {int((~site.targets.any(axis=1)).sum())}"
    twice = [key for key, times in Counter(class_keys(site.card)).items() if times > 1]
    if several and not counts:
        yield failed("labels", "no image shows any class", "label some images", "no-labels")
    elif several and (found := _never_or_always(visit, site)):
        yield warning("labels", f"{found} ({shown})", "leave the class out", "no-contrast")
    elif not several and len(counts) < 2:
        yield failed("labels", f"one class only ({shown})", "add another class", "one-class")
    elif twice:
        yield failed(
            "labels",
            f"several classes mean {twice[0]!r}",
            "merge them, or give them other names or codes",
            "same-class",
        )
    elif small := [name for name, count in zip(names, counts, strict=True) if count < FEW]:
        yield warning(
            "labels",
            f"fewer than {FEW} images of {', '.join(small[:5])} ({shown})",
            "add images, or merge or leave out the class",
            "small-class",
        )
    else:
        yield ok("labels", shown)


def _never_or_always(visit: DataVisit, site: Site) -> str:
    """Say which classes of a multi-label task have nothing to tell them by; empty if all have."""
    held = {card.name for card in site.card.classes}
    named = read_site_file(visit.folder / SITE_FILE).labels.names
    if absent := [name for name in named if name not in held]:
        return f"no image shows {', '.join(absent[:5])}"
    always = [
        card.name
        for card, shown in zip(site.card.classes, site.targets.T, strict=True)
        if shown.all()
    ]
    return f"every image shows {', '.join(always[:5])}" if always else ""


def check_splits(visit: DataVisit) -> Iterator[Finding]:
    """See that there is something to train on, to choose by and to test on."""
    site = visit.site
    if site is None or site.card.objective == "segmentation":
        return
    sizes = {part: len(rows) for part, rows in split_site(site).items()}
    given = any(item.split is not None for item in site.images)
    shown = ", ".join(f"{part} {sizes[part]}" for part in ("train", "val", "test"))
    dealt = "dealt out" if site.patients is None else "dealt out by subject"
    found = f"{shown} ({'as the site says' if given else dealt})"
    if not sizes["train"]:
        yield failed("splits", found, "give some images the split train", "no-training-images")
    elif empty := [part for part, size in sizes.items() if not size]:
        mend = f"without {' and '.join(empty)} images no model can be judged: add some"
        yield warning("splits", found, mend, "empty-split")
    else:
        yield ok("splits", found)


def check_patients(visit: DataVisit) -> Iterator[Finding]:
    """See that the files agree with the manifest on whose images they are."""
    site = visit.site
    if site is None:
        return
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for item in site.images:
        own = item.held.subject
        if own is not None:
            parts[own].add(_apart(item))
    if not parts:
        return
    if torn := [own for own, where in parts.items() if len(where) > 1]:
        first = next(item.held.name for item in site.images if item.held.subject == torn[0])
        yield failed(
            "patients",
            f"{len(torn)} of {len(parts)} patients have images under several subjects or splits, "
            f"as their PatientID says: {first}",
            "give all images of a patient one subject_id and one split",
            "patients-torn",
        )
    else:
        yield ok("patients", f"{len(parts)} by their files, each in one subject or split")


def check_duplicates(visit: DataVisit) -> Iterator[Finding]:
    """Look for images that are there twice where it spoils labels or test data."""
    site = visit.site
    if site is None:
        return
    groups = _same_content(site)
    labels = [group for group in groups if len({item.label for item in group}) > 1]
    parts = [group for group in groups if len({_apart(item) for item in group}) > 1]
    if labels:
        yield _twice(labels, "in different classes", "label each once", "duplicate-labels")
    if parts:
        where = "where training and test data may share them"
        mend = "take one out, or give both the same subject_id"
        yield _twice(parts, where, mend, "duplicate-images")
    if not labels and not parts:
        yield ok("duplicates", "no image is in two classes or splits")


def _apart(item: ImageItem) -> str:
    """Return what is never torn apart: the site's own split, else the subject."""
    return item.split if item.split is not None else item.subject


def _twice(groups: list[list[ImageItem]], where: str, mend: str, reason: str) -> Finding:
    first = " = ".join(item.held.name for item in groups[0][:2])
    many = f"{len(groups)} images are" if len(groups) > 1 else "one image is"
    found = f"{many} there twice {where}: {first}"
    return warning("duplicates", found, mend, reason)


def _same_content(site: Site) -> list[list[ImageItem]]:
    """Return the groups of images with the same content; of equal pixels where formats differ."""
    groups = _equal(site.images, lambda item: item.held.extent, _content)
    if len({item.path.suffix.lower() for item in site.images}) > 1:
        known = {id(item) for group in groups for item in group[1:]}
        rest = [item for item in site.images if id(item) not in known]
        groups += [
            group
            for group in _equal(rest, lambda item: item.held.size, _pixels)
            if len({item.path.suffix.lower() for item in group}) > 1
        ]
    return groups


def _equal(
    items: list[ImageItem],
    roughly: Callable[[ImageItem], Hashable],
    exactly: Callable[[ImageItem], bytes | None],
) -> list[list[ImageItem]]:
    """Return the groups of equal images; only those that are roughly equal are read."""
    alike: defaultdict[Hashable, list[ImageItem]] = defaultdict(list)
    for item in items:
        try:
            alike[roughly(item)].append(item)
        except DataError:
            continue  # the check of the images says so
    suspects = [item for group in alike.values() if len(group) > 1 for item in group]
    digests: defaultdict[bytes, list[ImageItem]] = defaultdict(list)
    for item, digest in zip(suspects, each("images compared", suspects, exactly), strict=True):
        if digest is not None:
            digests[digest].append(item)
    return [group for group in digests.values() if len(group) > 1]


def _content(item: ImageItem) -> bytes | None:
    try:
        return item.held.content_digest()
    except DataError:
        return None


def _pixels(item: ImageItem) -> bytes | None:
    try:
        return pixel_digest(item.pixels())
    except DataError:
        return None


LABEL_CHECKS: tuple[DataCheck, ...] = (check_labels, check_splits, check_patients, check_duplicates)
