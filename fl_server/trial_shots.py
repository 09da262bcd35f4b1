"""From what is offered to a group to what its sites can try: each shot with all that it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import MessageType, RecordDict

from fl_server.asking import Problem
from fl_server.course import Course
from fl_server.offers import Offer
from protocol.experiment import Architecture, Policy, Weights
from protocol.files import canonical_json, sha256_hex
from protocol.plan import Knowledge, Start
from protocol.plan_records import (
    Recipes,
    RecipesRequest,
    from_recipes,
    recipes_request,
    to_recipes,
)
from protocol.spec import Spec

Told = Recipes | Problem
"""What a site says of architectures, or what kept it from saying anything."""

NOBODY = Recipes({}, {})


@dataclass(frozen=True)
class Shot:
    """A shot that can be tried.

    Attributes
    ----------
    offer : Offer
        As it was offered.
    knowledge : Knowledge
        All that is trained with: the offer on top of what the group chose before.
    missing : dict
        Sites of the group that cannot try it, with the reason.
    """

    offer: Offer
    knowledge: Knowledge
    missing: dict[str, str] = field(default_factory=dict)


def ask_recipes(names: Mapping[str, Sequence[str]], course: Course) -> dict[str, Told]:
    """Ask sites which architectures they hold, and how each sees an image there.

    Parameters
    ----------
    names : mapping of sequence of str
        By site: names of timm models; none asks nothing.
    course : Course
        The run.
    """
    seen = course.exchange.spec.preprocess
    run, size, window = course.exchange.run, course.settings.crop or seen.crop, seen.window
    contents = {
        site: recipes_request(RecipesRequest(run, list(wanted), size, window))
        for site, wanted in names.items()
        if wanted
    }
    if not contents:
        return {}
    steps = {
        site: f"trials/recipes-{sha256_hex(canonical_json([size, *names[site]]))[:16]}"
        for site in contents
    }
    course.steps.phase("trial recipes", list(contents), course.settings.train_timeout)
    kind = f"{MessageType.QUERY}.recipes"
    answers = course.steps.ask(steps, kind, contents, course.grid, check=_only_recipes)
    return {
        site: answer if isinstance(answer, Problem) else from_recipes(answer)
        for site, answer in answers.items()
    }


def make_ready(
    offers: Sequence[Offer],
    knowledge: Knowledge,
    sites: Sequence[str],
    told: Mapping[str, Told],
    spec: Spec,
) -> tuple[list[Shot], dict[str, str]]:
    """Return the shots that a group can try, and those that it cannot with the reason.

    What is there already is no shot, nor is what was offered before.

    Parameters
    ----------
    offers : sequence of Offer
        Best first.
    knowledge : Knowledge
        What the group chose before.
    sites : sequence of str
        Who would try.
    told : mapping of str to Recipes or Problem
        What sites say of the architectures offered.
    spec : Spec
        Of the run.
    """
    shots: list[Shot] = []
    untried: dict[str, str] = {}
    if not sites:
        return shots, untried
    present = (knowledge.architecture or spec).backbone
    for offer in offers:
        if isinstance(offer.detail, Architecture) and offer.detail.name == present:
            continue
        shot = _ready(offer, knowledge, present, sites, told)
        if len(shot.missing) == len(sites):
            untried[offer.label] = next(iter(shot.missing.values()))
        elif shot.knowledge != knowledge and all(s.knowledge != shot.knowledge for s in shots):
            shots.append(shot)
    return shots, untried


def _ready(
    offer: Offer,
    knowledge: Knowledge,
    present: str,
    sites: Sequence[str],
    told: Mapping[str, Told],
) -> Shot:
    detail = offer.detail
    if isinstance(detail, Architecture):
        recipe, missing = _agreed(detail.name, sites, told)
        return Shot(offer, knowledge.model_copy(update={"architecture": recipe}), missing)
    if isinstance(detail, Policy):
        return Shot(offer, knowledge.model_copy(update={"augmentation": detail}))
    if not isinstance(detail, Weights) or offer.body is None or not offer.sources:
        why = "was offered without its arrays, or without the tasks that they were trained on"
        return Shot(offer, knowledge, dict.fromkeys(sites, why))
    if detail.architecture not in (None, present):
        return Shot(offer, knowledge, dict.fromkeys(sites, f"is no start for {present}"))
    start = Start(sha256=detail.sha256, architecture=present, sources=list(offer.sources))
    return Shot(offer, knowledge.model_copy(update={"start": start}))


def _agreed(
    name: str, sites: Sequence[str], told: Mapping[str, Told]
) -> tuple[Spec | None, dict[str, str]]:
    """Return the recipe that most sites have of an architecture, and why the others cannot try it.

    Only what is the same network everywhere can be trained together. Of recipes that equally many
    sites have it is the one of the lower digest.
    """
    recipes = {site: found for site in sites if (found := _recipe(name, told.get(site, NOBODY)))}
    counts = Counter(recipe.digest for recipe in recipes.values())
    digest = min(counts, key=lambda each: (-counts[each], each), default="")
    missing = {
        site: _why(name, told.get(site, NOBODY))
        for site in sites
        if site not in recipes or recipes[site].digest != digest
    }
    return next((r for r in recipes.values() if r.digest == digest), None), missing


def _recipe(name: str, told: Told) -> Spec | None:
    recipe = None if isinstance(told, Problem) else told.recipes.get(name)
    whole = recipe is not None and recipe.backbone == name and recipe.weights.sha256 is not None
    return recipe if whole else None


def _why(name: str, told: Told) -> str:
    if isinstance(told, Problem):
        return str(told)
    if name in told.recipes:
        return "holds other weights of it, or prepares images otherwise, than most of the group"
    return told.missing.get(name, "did not say whether it has it")


def _only_recipes(content: RecordDict) -> RecordDict:
    return to_recipes(from_recipes(content))
