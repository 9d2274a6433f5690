"""The usual step."""

from pipeline.seam import Batch, PreparedModel, StepContext, StepResult


def step(batch: Batch, model: PreparedModel, context: StepContext) -> StepResult:
    """The usual step: batch in, losses and detached outputs out."""
    prepared = model.prepare(batch)
    for transform in context.transforms:
        prepared = transform(prepared)
    outputs = model.network(prepared)
    result = context.criterion(outputs, prepared)
    return {**result, "outputs": {key: value.detach() for key, value in outputs.items()}}
