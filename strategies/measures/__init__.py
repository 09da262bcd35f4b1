"""Every measure of how much one task may serve another, by name."""

from strategies.measures.angles import PrincipalAngles
from strategies.measures.base import (
    Direction,
    Measure,
    Need,
    PrivacyClass,
    Task,
    available,
    feature_means,
    get,
    register,
    released,
    require_one_spec,
    rows_of,
    stack,
)
from strategies.measures.bkld import LargeSource, LargeUnweighted, SmallTarget
from strategies.measures.cards import Manual, Properties
from strategies.measures.excess import Excess
from strategies.measures.fisher import FisherEmbeddingDistance, Task2Vec, Task2VecAsymmetric
from strategies.measures.flux import Flux
from strategies.measures.frechet import FrechetInception
from strategies.measures.histograms import FluxMoments, FrechetDiagonal, VisualDna
from strategies.measures.label_transport import OtceOfClasses, OtceOfImages
from strategies.measures.model_scores import HScore, HScoreShrunk, Leep, LogMe, Nce
from strategies.measures.needs import (
    both_rows,
    cards_of,
    class_moments_of,
    features_of,
    fisher_of,
    lacks,
    moments_of,
    require,
    same_spec,
)
from strategies.measures.p2l import PredictToLearn, PredictToLearnWithSize
from strategies.measures.sinkhorn import Sinkhorn, SinkhornProjected

__all__ = [
    "Direction",
    "Excess",
    "FisherEmbeddingDistance",
    "Flux",
    "FluxMoments",
    "FrechetDiagonal",
    "FrechetInception",
    "HScore",
    "HScoreShrunk",
    "LargeSource",
    "LargeUnweighted",
    "Leep",
    "LogMe",
    "Manual",
    "Measure",
    "Nce",
    "Need",
    "OtceOfClasses",
    "OtceOfImages",
    "PredictToLearn",
    "PredictToLearnWithSize",
    "PrincipalAngles",
    "PrivacyClass",
    "Properties",
    "Sinkhorn",
    "SinkhornProjected",
    "SmallTarget",
    "Task",
    "Task2Vec",
    "Task2VecAsymmetric",
    "VisualDna",
    "available",
    "both_rows",
    "cards_of",
    "class_moments_of",
    "feature_means",
    "features_of",
    "fisher_of",
    "get",
    "lacks",
    "moments_of",
    "register",
    "released",
    "require",
    "require_one_spec",
    "rows_of",
    "same_spec",
    "stack",
]
