"""The usual step."""

from pipeline.keys import INPUT_PARTNER, INPUT_ROW, INPUT_SHARE
from pipeline.types import Batch, PreparedModel, StepContext, StepResult


def step(batch: Batch, model: PreparedModel, context: StepContext) -> StepResult:
    """The usual step: batch in, losses and detached outputs out."""
    prepared = model.prepare(batch)
    for transform in context.transforms:
        prepared = transform(prepared)
    outputs = model.network(prepared)
    result = context.criterion(outputs, prepared)
    found: StepResult = {
        "loss": result["loss"],
        "losses": result["losses"],
        "sample_losses": result["sample_losses"],
        "outputs": {key: value.detach() for key, value in outputs.items()},
    }
    if INPUT_PARTNER in prepared:
        # By row: a position in the batch would mean nothing once the shares of several processes are joined.
        found["mixed"] = {
            INPUT_PARTNER: prepared[INPUT_ROW][prepared[INPUT_PARTNER]],
            INPUT_SHARE: prepared[INPUT_SHARE],
        }
    return found
