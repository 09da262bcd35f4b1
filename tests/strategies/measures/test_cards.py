"""Measures on cards: by hand, against scipy's Hamming, and ties."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import hamming

from protocol.taskcard import ClassCard, TaskCard, TaskProperties
from strategies.measures import Task, get
from strategies.measures.cards import words
from tests.strategies.measures.made_up import SPEC, make_task


def task(images: int = 40, classes: int = 2, **card: object) -> Task:
    names = [ClassCard(name=str(i)) for i in range(classes)]
    return Task(
        "x", images, SPEC, card=TaskCard.model_validate({"name": "t", "classes": names, **card})
    )


def test_words_are_taken_from_keywords_modality_and_anatomy() -> None:
    card = TaskCard(name="Name", keywords=["Brain tissue", "T1"], modality="MRI", anatomy="brain")
    assert words(card) == {"brain", "tissue", "t1", "mri"}


def test_manual_by_hand() -> None:
    a = task(keywords=["brain", "tissue"], modality="MRI")
    b = task(keywords=["brain"], modality="CT")
    d = get("manual").matrix([a], [b, a])
    tie = 0.5 / 4**2 / 41
    assert d[0].tolist() == pytest.approx([1 - 1 / 4 + tie, tie])


def test_nothing_said_is_nothing_known() -> None:
    assert isnan(get("manual").matrix([task()], [task()])[0, 0])
    assert isnan(get("manual").matrix([task()], [task(keywords=["a"])])[0, 0])
    assert isnan(get("properties").matrix([task(classes=0)], [task(classes=0)])[0, 0])


WORDS = st.sets(st.sampled_from("abcdefgh"), min_size=1)


@given(st.lists(st.tuples(WORDS, st.integers(1, 1000)), min_size=2, max_size=8), WORDS)
def test_ties_go_to_the_larger_source_and_nothing_else_moves(
    sources: list[tuple[set[str], int]], target: set[str]
) -> None:
    own = [task(images, keywords=sorted(said)) for said, images in sources]
    d = get("manual").matrix(own, [task(keywords=sorted(target))])[:, 0]
    expected = sorted(
        range(len(sources)),
        key=lambda i: (
            1 - len(sources[i][0] & target) / len(sources[i][0] | target),
            -sources[i][1],
        ),
    )
    ranked = sorted(range(len(sources)), key=lambda i: d[i])
    assert [sources[i][1] for i in ranked] == [sources[i][1] for i in expected]


PROPERTIES = st.builds(
    TaskProperties,
    origin=st.sampled_from(["natural", "medical"]),
    colour=st.sampled_from(["grey", "colour"]),
    shows=st.sampled_from(["texture", "object"]),
    kind=st.sampled_from(["organ", "animal"]),
    diversity=st.sampled_from(["low", "medium", "high"]),
)


@given(PROPERTIES, PROPERTIES)
def test_properties_are_a_hamming_distance(a: TaskProperties, b: TaskProperties) -> None:
    fields = [list(p.model_dump().values()) for p in (a, b)]
    codes = [np.unique([x, y], return_inverse=True)[1] for x, y in zip(*fields, strict=True)]
    codes.append(np.array([0, 0]))  # the number of classes is the same
    expected = hamming(*np.array(codes).T)
    d = get("properties").matrix([task(properties=a)], [task(properties=b)])
    assert d[0, 0] == pytest.approx(expected)


def test_what_is_not_known_counts_neither_way() -> None:
    a = task(properties=TaskProperties(origin="natural", colour="grey"))
    b = task(properties=TaskProperties(origin="medical", kind="organ"))
    assert get("properties").matrix([a], [b])[0, 0] == 0.5  # origin differs, class number does not


def test_classes_count_in_bands() -> None:
    two, three, five, six = (task(classes=n) for n in (2, 3, 5, 6))
    assert get("properties").matrix([three], [two, five, six])[0].tolist() == [1, 0, 1]


def test_kind_is_a_word_in_any_case() -> None:
    a, b = (task(properties=TaskProperties(kind=kind)) for kind in (" Organ", "organ"))
    assert get("properties").matrix([a], [b])[0, 0] == 0


def test_size_of_the_source_is_what_breaks_ties() -> None:
    target = make_task("t", 0, keywords=["a"])
    small, large = (replace(make_task("s", 0, keywords=["a"]), images=i) for i in (5, 9))
    d = get("manual").matrix([small, large], [target])
    assert d[1, 0] < d[0, 0]
