"""What a person sees in the terminal while a fold trains: one line per epoch, and a bar inside the epoch."""

import math
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from pipeline.callbacks import Callback
from pipeline.competition import rank
from pipeline.keys import INPUT_ID
from pipeline.types import Batch, Run, Stage, StageResult, StepResult
from toolkit.terminal import console, progress_bar

MARK = "*"


class EpochTable(Callback):
    """A header once per fold, then a row per epoch; a `*` stands beside the best score so far.

    The bar is drawn on a terminal only. Piped output is plain aligned lines.

    Args:
        valid_count: how many rows are held out; without any there is nothing to compare.
    """

    def __init__(self, valid_count: int, out: Console | None = None) -> None:
        self.valid_count = valid_count
        self.out = out or console()
        self.best: tuple[float, float] | None = None  # score and loss
        self.train: StageResult | None = None
        self.rate = 0.0
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_run_start(self, run: Run) -> None:
        held_out = f"{self.valid_count:,} rows held out" if self.valid_count else "nothing held out"
        title = f"{run.experiment} / fold {run.fold}"
        size = f"{run.epochs} epoch{'s' if run.epochs > 1 else ''} of {run.batches_per_epoch:,} batches, {held_out}"
        self._print(Text.assemble("\n", (title, "bold"), f": {size}"))
        self._print(Text("  ".join(name.rjust(width) for name, width in self._columns(run)), style="dim"))

    def on_epoch_start(self, run: Run, stage: Stage) -> None:
        self._stop_bar()
        total, done = (run.batches_per_epoch, run.progress.batch) if stage == "train" else (self.valid_count, 0)
        self.bar = progress_bar(self.out)
        self.task = self.bar.add_task(f"epoch {run.progress.epoch + 1}, {stage}", total=total, completed=done)
        self.bar.start()

    def on_batch_end(self, run: Run, stage: Stage, batch: Batch, result: StepResult) -> None:
        if stage == "train":
            self.rate = max(float(group["lr"]) for group in run.optimizer.param_groups)
        if self.bar is not None:
            rows = len(batch[INPUT_ID]) * run.processes.size  # about: the shares of held-out rows differ a little
            self.bar.advance(self.task, 1 if stage == "train" else rows)

    def on_epoch_end(self, run: Run, result: StageResult) -> None:
        self._stop_bar()
        if result.stage == "train":
            self.train = result
        if result.stage == "valid" or not self.valid_count:
            self._print_row(run, result)
            self.train = None

    def on_run_end(self, run: Run, result: StageResult | None) -> None:
        self._stop_bar()
        if run.best is not None and result is not None:
            scores = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
            weights = result.weights or f"best epoch {run.best.epoch + 1}"
            self._print(Text.assemble(weights, ("  on the held-out rows: ", "dim"), scores))

    def on_exception(self, run: Run, error: BaseException) -> None:
        self._stop_bar()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best[0], "loss": self.best[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = (state["best"], state.get("loss", math.inf)) if "best" in state else None

    def _columns(self, run: Run) -> list[tuple[str, int]]:
        """Names and widths."""
        valid = ["valid loss", run.metrics[0].name] if self.valid_count else []
        columns = [(name, max(10, len(name))) for name in ["train loss", *valid]]
        return [("epoch", max(7, 2 * len(str(run.epochs)) + 1)), *columns, ("lr", 8), ("time", 6), ("data", 4)]

    def _print_row(self, run: Run, result: StageResult) -> None:
        seconds = result.seconds + (self.train.seconds if self.train and result is not self.train else 0.0)
        cells = [f"{result.epoch + 1}/{run.epochs}", _loss(self.train)]
        if self.valid_count:
            cells += [_loss(result), f"{result.metrics[run.metrics[0].name]:.4f}"]
        cells += [f"{self.rate:.1e}", _duration(seconds), _share(self.train)]
        row = Text("  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, self._columns(run), strict=True)))
        if self.valid_count and self._improves(run, result):
            row.append(f"  {MARK} best", style="bold green")
        self._print(row)

    def _improves(self, run: Run, result: StageResult) -> bool:
        """Whether this is the best epoch so far, by what the best checkpoint is chosen by. A NaN never is."""
        by_loss = run.config.training.monitor == "loss"
        metric, loss = run.metrics[0], result.losses["loss"]
        score = loss if by_loss else result.metrics[metric.name]
        if not math.isfinite(score):
            return False
        greater = metric.greater_is_better and not by_loss
        better = self.best is None or rank(score, loss, greater) >= rank(*self.best, greater)  # the later of equal ones
        self.best = (score, loss) if better else self.best
        return better

    def _stop_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print(self, line: Text) -> None:
        self.out.print(line, soft_wrap=True)


def _loss(result: StageResult | None) -> str:
    return "-" if result is None else f"{result.losses['loss']:.4f}"


def _share(result: StageResult | None) -> str:
    """How much of the training's time was spent waiting for batches."""
    return "-" if result is None or not result.seconds else f"{result.waited / result.seconds:.0%}"


def _duration(seconds: float) -> str:
    """`4.1s`, `2m05s`, `1h20m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
