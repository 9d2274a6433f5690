"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching.

A metric by name is the mean over the heads that it can score, each over the rows that have a truth for it.
"""

from pipeline.competition import Metric
from pipeline.metrics.image_level import find_metric
from pipeline.settings import Settings

COMPANIONS = ("balanced_accuracy", "accuracy", "log_loss")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch and decides what a submission holds."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A metric that combines heads, each with a score and a weight of its own:
#
# from pipeline.metrics.combined import combined
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     own = combined("recall_and_fit", {"digit": ("balanced_accuracy", 2), "loop": ("f1_macro", 1), "ink": ("r2", 1)})
#     return (own, *(find_metric(name) for name in COMPANIONS))
