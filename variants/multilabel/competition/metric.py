"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

COMPANIONS = ("roc_auc", "f1_macro", "log_loss")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch and decides what a submission holds."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A score with settings of its own, such as F2 of the rows or a log loss whose labels count differently:
#
# from pipeline.metrics.multilabel import f_score, log_loss
# from pipeline.metrics.image_level import over_heads
#
# own = over_heads("f2_samples", {"multilabel": f_score(2, "samples")})
# own = over_heads("weighted_log_loss", {"multilabel": log_loss({"any": 2})})
#
# A metric of your own reads whole tables, indexed by id: the truth (0 or 1) and the predictions (probabilities), both
# with a column for each head and label. For example, the share of rows of which every label is right:
#
# def all_right(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
#     columns = [f"{head.name}:{name}" for head in heads for name in head.classes]
#     return float(((predictions[columns] >= 0.5) == (truth[columns] == 1)).all(axis=1).mean())
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     own = Metric("all_right", all_right, greater_is_better=True, needs="labels")
#     return (own, *(find_metric(name) for name in COMPANIONS))
