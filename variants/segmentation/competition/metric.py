"""The leaderboard's metric, computed on all out-of-fold rows at once, and what else is worth watching."""

from pipeline.competition import Metric
from pipeline.metrics.masks import find_metric
from pipeline.settings import Settings

COMPANIONS = ("dice", "iou")


def metrics(settings: Settings) -> tuple[Metric, ...]:
    """The leaderboard's metric first: it chooses the best epoch, and thresholds are tuned for it."""
    names = dict.fromkeys((settings.metric, *COMPANIONS))
    return tuple(find_metric(name) for name in names)


# A metric of your own reads whole tables, indexed by id: the truth, whose cells `read()` planes, uint8 (C, H, W) of 0,
# 1 and 255 (ignored), and the predictions, which `pipeline.heads.mask_decoding.decoded` turns into masks, bool
# (C, H, W). For example, the share of images in which exactly the right classes are found:
#
# def classes_right(truth: pd.DataFrame, predictions: pd.DataFrame, heads: Sequence[Head]) -> float:
#     pairs = zip(truth[heads[0].name], decoded(predictions, heads[0]), strict=True)
#     return float(np.mean([((true.read() == 1).any((1, 2)) == masks.any((1, 2))).all() for true, masks in pairs]))
#
#
# def metrics(settings: Settings) -> tuple[Metric, ...]:
#     return (Metric("classes_right", classes_right), *(find_metric(name) for name in COMPANIONS))
