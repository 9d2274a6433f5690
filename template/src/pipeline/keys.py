"""Every dict key, one constant each.

`INPUT_*` goes into a model, `TARGET_*` is the truth, `OUTPUT_*` is what the model says. The three sets are
disjoint, so that a batch and the outputs can share one namespace.
"""

INPUT_ID = "input_id"  # list of str, (B,)
INPUT_ROW = "input_row"  # int64 (B,): position of the row in its table
INPUT_IMAGE = "input_image"  # uint8, or float32 in [0, 1], (B, H, W, C); float32 (B, C, H, W) after `Prepare`
INPUT_SIDE = "input_side"  # float32 (B, inputs): what the side columns say, NaN where they say nothing
INPUT_WEIGHT = "input_weight"  # float32 (B,): how much the row counts in the loss
INPUT_PARTNER = "input_partner"  # int64 (B,): the sample of the batch that is mixed in; there after mixup and cutmix
INPUT_SHARE = "input_share"  # float32 (B,): how much of the sample itself is left beside its partner

TARGET_PREFIX = "target_"
OUTPUT_PREFIX = "output_"

LOSS = "loss"  # float32 scalar, the only value that keeps its graph
LOSSES = "losses"  # dict of term -> float32 scalar
SAMPLE_LOSSES = "sample_losses"  # dict of term -> float32 (B,)
OUTPUTS = "outputs"  # dict of output key -> tensor

ROW_ID = "id"  # columns of a table of rows
ROW_IMAGE = "image"
ROW_GROUP = "group"
ROW_PREDICTION = "prediction_id"  # what one prediction is for, where it has several images
ROW_SOURCE = "source"
ROW_WEIGHT = "weight"
ROW_ONLY_FOLD = "only_fold"
ROW_FOLD = "fold"
SOURCE_COMPETITION = "competition"  # the rows that are scored; any other source only trains


def target_key(head: str) -> str:
    """The key under which a batch holds the truth of `head`."""
    return TARGET_PREFIX + head


def output_key(head: str) -> str:
    """The key under which a model returns its logits for `head`, and the name of its module: torch allows no dot there,
    and `%2E` stands for one, as in an address."""
    return OUTPUT_PREFIX + head.replace(".", "%2E")


def embedding_key(head: str) -> str:
    """The key under which a model returns the embedding for `head`, where its kind has one."""
    return f"{output_key(head)}@embedding"


def mask_key(key: str, mask: int) -> str:
    """The key of the same logits under another dropout mask: they train, and are never decoded."""
    return f"{key}@{mask}"
