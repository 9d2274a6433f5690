"""Labels that out-of-fold predictions speak against."""

import numpy as np

from toolkit.audit.label_errors import worst_first


def doubted_labels(held: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are given a label and should not be, or the other way round, by confident learning: C. Northcutt,
    L. Jiang and I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021,
    arXiv:1911.00068.

    From the probability of either answer cleanlab takes its mean over the rows that were given it, and the score is by
    how much the other answer is ahead then. So a rare label may be missing where its probability is below one half,
    which the filters of `cleanlab.multilabel_classification` never find.

    Args:
        held: which rows are given the label, bool (N,).
        probabilities: of the label, out of fold, float (N,), finite.

    Returns:
        Positions of suspects, highest score first, and the scores, (M,) each.
    """
    from cleanlab.rank import get_label_quality_scores  # not needed to train

    if not len(held):  # which cleanlab refuses
        return np.empty(0, np.int64), np.empty(0)
    sure = np.clip(probabilities, 0, 1)
    answers = np.column_stack([1 - sure, sure])
    quality = get_label_quality_scores(
        held.astype(np.int64), answers, method="normalized_margin", adjust_pred_probs=True
    )
    return worst_first(1 - 2 * quality, quality < 0.5)
