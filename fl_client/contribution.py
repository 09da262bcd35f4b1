"""Which images of a site a private release counts: of each patient at most so many."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

from fl_client.data_digest import remembered
from fl_client.site import ImageItem, Site
from protocol.files import canonical_json

MEMO = "counted.json"


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


def counted_number(site: Site, cap: int) -> int:
    """Return how many images `counted` chooses, without opening any."""
    if not site.has_subjects:
        return len(site.images)
    sizes = Counter(item.subject for item in site.images)
    return sum(min(size, cap) for size in sizes.values())


def counted_digest(site: Site, cap: int) -> str:
    """Return a SHA-256 over the content of the counted images, whatever their names and order.

    It is remembered like `fl_client.data_digest.known_digest`. New images that are not counted, and
    renamed files, leave it as it is: the noised fingerprint that was drawn of them still holds.

    Raises
    ------
    DataError
        If an image cannot be found or read.
    """

    def digest() -> str:
        contents = sorted(item.content_digest() for item in counted_images(site, cap))
        return hashlib.sha256(b"".join(contents)).hexdigest()

    subjects = [item.subject for item in site.images] if site.has_subjects else []
    owner = hashlib.sha256(canonical_json([cap, subjects])).hexdigest()
    return remembered(site, MEMO, owner, digest)
