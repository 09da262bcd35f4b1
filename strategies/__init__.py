"""Decisions: distances between tasks, co-training groups, partners. No I/O, no database."""

from strategies.assign import Assignment, assign
from strategies.bkld import bkld_matrix
from strategies.excess import debiased, excess, sampling_variance, symmetrised
from strategies.explain import Explanation, Neighbour
from strategies.grouping import Group, Grouping, GroupingOptions, find_groups, group, site_distances
from strategies.measures import Measure, available, get, register
from strategies.partners import Partner, partners

__all__ = [
    "Assignment",
    "Explanation",
    "Group",
    "Grouping",
    "GroupingOptions",
    "Measure",
    "Neighbour",
    "Partner",
    "assign",
    "available",
    "bkld_matrix",
    "debiased",
    "excess",
    "find_groups",
    "get",
    "group",
    "partners",
    "register",
    "sampling_variance",
    "site_distances",
    "symmetrised",
]
