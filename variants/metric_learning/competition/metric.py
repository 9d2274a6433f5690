"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

COMPANIONS = ("map_at_5", "accuracy", "recall_at_1")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch and decides what a submission holds."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A metric of your own reads whole tables, indexed by id. The truth has a column of labels per head; the predictions
# have the best labels, `id:label_1`, `id:label_2`, ..., and their cosines `id:score_1`, ... A submission lists as many
# labels as `top_k` says. For example, what finding an identity at once earns more than finding it second:
#
# def points_at_2(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
#     name = heads[0].name
#     first, second = (predictions[f"{name}:label_{place}"] == truth[name] for place in (1, 2))
#     return float((3 * first + second).mean())
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     return (Metric("points_at_2", points_at_2, top_k=2), *(find_metric(name) for name in COMPANIONS))
