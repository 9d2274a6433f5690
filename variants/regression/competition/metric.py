"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

COMPANIONS = ("rmse", "mae", "r2")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch and decides what a submission holds."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A metric of your own reads whole tables, indexed by id: the truth and the predictions, both with a column of numbers
# for each head. For example, the share of rows in which every number is at most a tenth off:
#
# def within_a_tenth(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
#     columns = [head.name for head in heads]
#     off = (predictions[columns] - truth[columns]).abs()
#     return float((off <= 0.1 * truth[columns].abs()).all(axis=1).mean())
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     own = Metric("within_a_tenth", within_a_tenth, greater_is_better=True, needs="probabilities")
#     return (own, *(find_metric(name) for name in COMPANIONS))
