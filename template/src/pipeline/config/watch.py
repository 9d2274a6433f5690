"""What looks at a training, as settings."""

from typing import Literal

from pydantic import Field

from pipeline.config.groups import Strict


class Watch(Strict):
    """What looks at the training. These settings never count as a change of the experiment."""

    non_finite: Literal["stop", "skip"] = Field(
        default="stop", description="after a loss or gradient that is not finite: stop, or leave the step out and go on"
    )
    max_skips: int = Field(default=10, ge=1, description="so many steps of a fold are left out before it stops")
    gradient_steps: int | None = Field(
        default=None,
        ge=1,
        description="gradients of each block are looked at every so many steps; none: every 50, and in a run of less "
        "than 500 ten times",
    )
    figure_epochs: int = Field(
        default=10, ge=0, description="pictures of every so-many-th epoch, and of the last; 0: of none"
    )
    extremes_by: str | None = Field(
        default=None,
        description="what best and worst batches and samples are ranked by: loss, a term of it, or a metric; none: "
        "what the task says, or the loss",
    )
    explain: str | None = Field(
        default=None, description="what Grad-CAM explains: HEAD or HEAD:CLASS; none: what the first head says"
    )
    anomaly: bool = Field(default=False, description="torch's anomaly detection throughout: slow, for debugging")

    def draws(self, epoch: int, epochs: int) -> bool:
        """Whether pictures are drawn at the end of an epoch, counted from 0 of `epochs`."""
        every = self.figure_epochs
        return every > 0 and (epoch == epochs - 1 or (epoch + 1) % every == 0)
