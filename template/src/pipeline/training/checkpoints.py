"""The one owner of checkpoints: resume state, and the weights of the best epochs.

`state.pt` holds all that continuing needs, as plain tensors and numbers; the one before it stays as
`state.previous.pt`. Weights of the best epochs are safetensors. A file is removed only after a state that no longer
needs it is on disk, so whichever state is read finds its files.

A thread writes, from a copy on the host (as much memory as the state has, and the weights of a new best epoch), while
the training goes on. `wait` ends when all is on disk.
"""

import json
import pickle
import shutil
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.competition import rank
from pipeline.inference.weights import host_copy, save_weights
from pipeline.types import Best
from toolkit.errors import UserError
from toolkit.files import atomic

VERSION = 2
STATES = ("state.pt", "state.previous.pt")
RAW = "best.raw.safetensors"  # in a fold's folder, where a moving average is what is stored as the best
# What reading anything else than a whole checkpoint may raise.
BROKEN_FILE = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError)
UNWRITTEN = "PytorchStreamWriter", "inline_container"  # how torch's own writer reports a full disk
UNREADABLE = (*BROKEN_FILE, RuntimeError, OSError, ValueError, LookupError)


class CheckpointStore:
    """Checkpoints of one fold in `runs/<experiment>/fold_<k>/checkpoints`; `ranked` are its `keep` best epochs."""

    def __init__(self, folder: Path, keep: int, greater_is_better: bool) -> None:
        self.folder, self.keep, self.greater_is_better = folder, keep, greater_is_better
        self.ranked: list[Best] = []
        self._needed_before: set[Path] = set()  # by the state that the next save makes the previous one
        self._offered: dict[Path, tuple[dict[str, Tensor], dict[str, str]]] = {}  # weights that are still to be written
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    @property
    def best(self) -> Best | None:
        return self.ranked[0] if self.ranked else None

    def file(self, epoch: int, raw: bool = False) -> Path:
        """An epoch's weights; the `raw` ones are those that trained, where their moving average is in the other."""
        return self.folder / f"epoch_{epoch:03d}{'.raw' if raw else ''}.safetensors"

    def offer(self, model: nn.Module, entry: Best, raw: nn.Module | None = None) -> None:
        """Take a copy of an epoch's weights for the next state if they are among the best, by `rank`, and of equal ones
        the later epoch. `raw`, the same weights without averaging, is saved beside them."""
        ranked = sorted(
            [*self.ranked, entry],
            key=lambda one: (*rank(one.score, one.loss, self.greater_is_better, one.ties), one.epoch),
            reverse=True,
        )
        self.ranked = ranked[: self.keep]
        if entry in self.ranked:
            origin = {"best": json.dumps({"epoch": entry.epoch, "score": entry.score})}
            found = {self.file(entry.epoch): model.state_dict()}
            if raw is not None:
                found[self.file(entry.epoch, raw=True)] = raw.state_dict()
            self.wait()
            self._offered |= {path: (weights, origin) for path, weights in host_copy(found).items()}

    def save_state(self, state: dict[str, Any]) -> None:
        """Copy the resume state, which a thread then writes; what is wrong with the disk is said by the next `wait`."""
        self.wait()
        ranked = [astuple(one) for one in self.ranked]
        copied = host_copy({"version": VERSION, "ranked": ranked, **state})
        self._writing = self._writer.submit(self._write, copied, self._needed(self.keep))

    def wait(self) -> None:
        """Wait until all that was saved is on disk; a UserError where it cannot be written."""
        if self._writing is not None:
            error = self._writing.exception()
            self._writing = None
            if error is not None:
                raise error

    def _write(self, state: dict[str, Any], needed: set[Path]) -> None:
        """Write weights, then the state that names them, then drop weights that no state needs any more."""
        for path, (weights, origin) in list(self._offered.items()):
            save_weights(weights, path, origin)
            del self._offered[path]
        path, previous = (self.folder / name for name in STATES)
        with atomic(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                if not any(name in str(error) for name in UNWRITTEN):
                    raise
                raise OSError(str(error).splitlines()[0]) from error
            if path.is_file():
                path.replace(previous)
        for file in self.folder.glob("epoch_*.safetensors"):
            if file not in needed | self._needed_before:
                file.unlink()
        self._needed_before = needed

    def load_state(self) -> dict[str, Any] | None:
        """The newest readable state, none when the fold has not begun; a UserError where none can be read."""
        problem = None
        for path in (self.folder / name for name in STATES):
            if not path.is_file():
                continue
            try:
                state = _read(path)
            except UserError as error:
                problem = problem or error
                continue
            if problem is not None:
                print(f"note: {problem}; going on from {path.name}")
                (self.folder / STATES[0]).unlink()  # or the next save would put it in the place of the good one
            self.ranked = [Best(*one) for one in state["ranked"]]
            self._needed_before = self._needed(self.keep)
            return state
        if problem is not None:
            raise UserError(f"{problem}; no earlier state can be read either: begin anew with --restart")
        return None

    def save_raw(self, folder: Path) -> bool:
        """Put the best epoch's weights without averaging beside those of the finished fold, if there are any."""
        raw = self.file(self.ranked[0].epoch, raw=True)
        if raw.is_file():
            with atomic(folder / RAW) as temporary:
                shutil.copyfile(raw, temporary)
        return raw.is_file()

    def clear(self, keep: int, best_is_copied: bool) -> None:
        """Drop what a finished fold needs no more: the resume states, and all epochs but the `keep` best ones; of
        these also the first one if it lies in the fold's folder as well."""
        stay = self._needed(keep) - (self._needed(1) if best_is_copied else set())
        for path in (*(self.folder / name for name in STATES), *self.folder.glob("epoch_*.safetensors")):
            if path not in stay:
                path.unlink(missing_ok=True)

    def _needed(self, count: int) -> set[Path]:
        return {self.file(one.epoch, raw) for one in self.ranked[:count] for raw in (False, True)}


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()  # torch itself does not look at the checksums it has written
        if broken is not None:
            raise UserError(f"{path} is damaged (checksum of {broken})")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise UserError(f"{path} was not written by this pipeline")
    return state
