"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

COMPANIONS = ("accuracy", "log_loss")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch and decides what a submission holds."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A metric of your own reads whole tables, indexed by id: the truth (class names, one column per head) and the
# predictions (probabilities, one column per head and class). For example, the share of rows whose class is among the
# two most probable ones:
#
# def top_two(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
#     head = heads[0]
#     columns = [f"{head.name}:{name}" for name in head.classes]
#     best = predictions[columns].to_numpy().argsort(axis=1)[:, -2:]
#     true = pd.Index(head.classes).get_indexer(truth[head.name])
#     return float((best == true[:, None]).any(axis=1).mean())
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     own = Metric("top_two", top_two, greater_is_better=True, needs="probabilities")
#     return (own, *(find_metric(name) for name in COMPANIONS))
