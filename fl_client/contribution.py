"""Which images, or regions, of a site a private release counts: of each patient at most so many."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

from fl_client.data_digest import remembered
from fl_client.regions import (
    choose,
    chosen_number,
    items_of,
    region_digest,
    regions_of,
    subjects_with,
)
from fl_client.site import ImageItem, Site
from protocol.files import canonical_json
from protocol.spec import Spec

MEMO = "counted.json"
REGIONS_MEMO = "counted_regions.json"


def cap_of(site: Site, cap: int) -> int:
    """Return how many images of one patient are counted; without subject ids each is its own."""
    return cap if site.has_subjects else 1


def counted(site: Site, cap: int) -> list[int]:
    """Choose the images that a private release counts.

    Of each patient the images with the smallest SHA-256 of their content are taken. So the choice
    goes by no name and no order, and what one patient's images are never changes which images of
    another are counted: all that replacing one patient can change are `cap` images.

    Parameters
    ----------
    site : Site
        Whose images.
    cap : int
        Most images of one patient; see `cap_of`.

    Returns
    -------
    list of int
        Indices into `site.images`, ascending.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    if not site.has_subjects:
        return list(range(len(site.images)))
    images: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for index, item in enumerate(site.images):
        images[item.subject].append((item.content_digest(), index))
    return sorted(index for those in images.values() for _, index in sorted(those)[:cap])


def counted_images(site: Site, cap: int) -> list[ImageItem]:
    """Return the images themselves, see `counted`."""
    return [site.images[index] for index in counted(site, cap)]


def counted_items(site: Site, spec: Spec, cap: int) -> list[ImageItem]:
    """Return what is counted under a spec: all images where `cap` is 0, else those of `counted`.

    Where the spec counts regions, a region takes the place of an image: of each patient `cap` of
    them are chosen, see `fl_client.regions.choose`, and the masks show nothing else.
    """
    if spec.regions is not None:
        regions = regions_of(site, spec)
        return items_of(site, choose(site, regions, cap) if cap else regions)
    return counted_images(site, cap) if cap else site.images


def counted_number(site: Site, cap: int, spec: Spec | None = None) -> int:
    """Return how many images, or regions of a spec, are counted; all where `cap` is 0.

    No image is opened. Masks are, once, where the spec counts regions.
    """
    if spec is not None and spec.regions is not None:
        regions = regions_of(site, spec)
        return chosen_number(site, regions, cap) if cap else len(regions)
    if not site.has_subjects or not cap:
        return len(site.images)
    sizes = Counter(item.subject for item in site.images)
    return sum(min(size, cap) for size in sizes.values())


def counted_patients(site: Site, spec: Spec) -> int:
    """Return of how many subjects something is counted; without subject ids of how many images.

    Of regions that may be fewer than the site has: in some masks there are none.
    """
    if spec.regions is not None:
        return len(subjects_with(site, regions_of(site, spec)))
    return len(site.images) if site.patients is None else site.patients


def counted_digest(site: Site, cap: int, spec: Spec | None = None) -> str:
    """Return a SHA-256 over the content of what is counted, whatever names and order of the files.

    It is remembered like `fl_client.data_digest.known_digest`. New images that are not counted, and
    renamed files, leave it as it is: the noised fingerprint that was drawn of them still holds.

    Raises
    ------
    DataError
        If an image cannot be found or read.
    """
    regions = spec is not None and spec.regions is not None

    def digest() -> str:
        if spec is not None and regions:
            chosen = choose(site, regions_of(site, spec), cap)
            contents = sorted(region_digest(site, region) for region in chosen)
        else:
            contents = sorted(item.content_digest() for item in counted_images(site, cap))
        return hashlib.sha256(b"".join(contents)).hexdigest()

    subjects = [item.subject for item in site.images] if site.has_subjects else []
    of = [spec.digest] if spec is not None and regions else []
    owner = hashlib.sha256(canonical_json([cap, subjects, *of])).hexdigest()
    return remembered(site, REGIONS_MEMO if regions else MEMO, owner, digest)
