"""TensorBoard: `tensorboard --logdir runs` shows every experiment and fold on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking import RunInfo
from pipeline.tracking.images import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Event files in the run's folder."""

    def __init__(self, info: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = info.folder / FOLDER
        continues = folder.is_dir() and any(folder.iterdir())
        # TensorBoard hides what an earlier process logged at this step or later; this one logs it again.
        purge_step = info.step + 1 if continues else None
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge_step)  # type: ignore[no-untyped-call]
        self.config = dict(_flat(info.config))
        self.step = info.step

    def scalars(self, values: dict[str, float], step: int) -> None:
        """One point per tag."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.step = step

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """A picture under Images."""
        self.writer.add_image(name, pixels(figure), step, dataformats="HWC")

    def summary(self, values: dict[str, Any]) -> None:
        """The hyper-parameters beside the final values, under HParams."""
        from torch.utils.tensorboard.summary import hparams

        final = {tag: float(value) for tag, value in values.items() if isinstance(value, (int, float))}
        # `SummaryWriter.add_hparams` would open a second run, named by the time, below this one.
        for event in hparams(self.config, final):  # type: ignore[no-untyped-call]
            self.writer.file_writer.add_summary(event)
        self.scalars(final, self.step)

    def checkpoint(self, path: Path) -> None:
        """TensorBoard keeps no files."""

    def finish(self, succeeded: bool) -> None:
        """Flush and close."""
        self.writer.close()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool]]:
    """`optimizer.lr` and the like: HParams takes numbers, truths and texts only."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, (bool, int, float, str)) else str(value)


TRACKER = TensorBoardTracker
