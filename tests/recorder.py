"""Callbacks of tests that record what an engine does, and get in its way."""

CALLBACKS = '''"""Callbacks for tests."""

import json
import os
import signal

import torch

from pipeline.callbacks import Callback
from toolkit.errors import UserError
from pipeline.keys import INPUT_ID
from pipeline.types import Verdict


def gradient_norm(run):
    norms = [weight.grad.norm() for weight in run.model.parameters() if weight.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class Record(Callback):
    """Writes every event into `events.jsonl`, one a line."""

    def __init__(self):
        self.worst = {}

    def write(self, run, event, stage="", **values):
        now = run.progress
        line = {"event": event, "stage": stage, "epoch": now.epoch, "batch": now.batch, "step": now.step, **values}
        with (run.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")

    def on_run_start(self, run):
        self.write(run, "run_start")

        def stepped(optimizer, *_):
            rates = [group["lr"] for group in optimizer.param_groups]
            self.write(run, "optimizer_step", rates=rates, norm=gradient_norm(run))

        run.optimizer.register_step_post_hook(stepped)

    def on_epoch_start(self, run, stage):
        self.write(run, "epoch_start", stage)

    def on_batch_start(self, run, stage, batch):
        self.write(run, "batch_start", stage, training=run.model.training, ids=batch[INPUT_ID])

    def on_batch_end(self, run, stage, batch, result):
        losses = sum(result["sample_losses"].values())
        worst = (float(losses.max()), batch[INPUT_ID][int(losses.argmax())])
        self.worst[stage] = max(self.worst.get(stage, worst), worst)
        rates = [group["lr"] for group in run.optimizer.param_groups]
        self.write(run, "batch_end", stage, loss=float(result["loss"].detach()), rates=rates)

    def on_gradients_ready(self, run):
        self.write(run, "gradients_ready", norm=gradient_norm(run))
        return Verdict.GO

    def on_epoch_end(self, run, result):
        self.write(run, "epoch_end", result.stage, worst=self.worst.pop(result.stage)[1])

    def on_run_end(self, run, result):
        self.write(run, "run_end")

    def on_exception(self, run, error):
        self.write(run, "exception", error=str(error))

    def state_dict(self):
        return {"worst": {stage: list(worst) for stage, worst in self.worst.items()}}

    def load_state_dict(self, state):
        self.worst = {stage: tuple(worst) for stage, worst in state.get("worst", {}).items()}


class Interrupt(Callback):
    """Sends Ctrl-C at a batch, once."""

    def __init__(self, *, epoch: int, batch: int):
        self.at = (epoch, batch)

    def on_batch_start(self, run, stage, batch):
        flag = run.folder / "interrupted"
        if stage == "train" and (run.progress.epoch, run.progress.batch) == self.at and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGINT)


class OwnError(Exception):
    pass


class Raise(Callback):
    """Raises an error of its own at an event, and notes whether that very one came out."""

    def __init__(self, *, at: str, kind: str):
        self.error = {"own": OwnError, "ctrl_c": KeyboardInterrupt, "user": UserError}[kind]("this one")
        self.at, self.raised = at, False

    def reached(self, at):
        if at == self.at:
            self.raised = True
            raise self.error

    def on_batch_start(self, run, stage, batch):
        self.reached(stage)

    def on_gradients_ready(self, run):
        self.reached("gradients")
        return Verdict.GO

    def on_epoch_end(self, run, result):
        self.reached("epoch")

    def on_exception(self, run, error):
        found = {"raised": self.raised, "same": error is self.error}
        (run.folder.parents[1] / f"raised-{run.experiment}.json").write_text(json.dumps(found))


class SkipFirst(Callback):
    """Vetoes the first steps, and notes after each step whether all weights are still what they were."""

    def __init__(self, *, steps: int):
        self.steps, self.unchanged = steps, {}

    def on_run_start(self, run):
        self.before = [weight.detach().clone() for weight in run.model.parameters()]

    def on_gradients_ready(self, run):
        return Verdict.SKIP if run.progress.step < self.steps else Verdict.GO

    def on_batch_end(self, run, stage, batch, result):
        pairs = zip(self.before, run.model.parameters(), strict=True)
        self.unchanged[run.progress.step] = all(torch.equal(before, now) for before, now in pairs)

    def on_run_end(self, run, result):
        (run.folder / "unchanged.json").write_text(json.dumps(self.unchanged))
'''
CLASSES = {name: name for name in ("Record", "Interrupt", "Raise", "SkipFirst")}
