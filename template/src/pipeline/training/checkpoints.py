"""The one owner of checkpoints: resume state, and the weights of the best epochs.

`state.pt` holds all that continuing needs, as plain tensors and numbers; the one before it stays as
`state.previous.pt`. Weights of the best epochs are safetensors. A file is removed only after a state that no longer
needs it is on disk, so whichever state is read finds its files.
"""

import json
import math
import pickle
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.competition import rank
from pipeline.inference.weights import save_weights
from pipeline.types import Best
from toolkit.errors import UserError
from toolkit.files import atomic

VERSION = 1
RAW = "best.raw.safetensors"  # in a fold's folder, where a moving average is what is kept
# What reading anything else than a whole checkpoint may raise.
BROKEN_FILE = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError)
UNREADABLE = (*BROKEN_FILE, RuntimeError, OSError, ValueError, LookupError)


@dataclass(frozen=True)
class Kept:
    """The weights of one epoch on disk."""

    epoch: int
    score: float
    file: str
    loss: float = math.inf  # unknown in a state from before it was kept

    @property
    def raw_file(self) -> str:
        """The weights as they trained, where `file` holds their moving average."""
        return self.file.replace(".safetensors", ".raw.safetensors")


class CheckpointStore:
    """Checkpoints of one fold.

    Args:
        folder: `runs/<experiment>/fold_<k>/checkpoints`.
        keep: how many of the best epochs stay.
        greater_is_better: which way the monitored score is better.
    """

    def __init__(self, folder: Path, keep: int, greater_is_better: bool) -> None:
        self.folder = folder
        self.keep = keep
        self.greater_is_better = greater_is_better
        self.kept: list[Kept] = []
        self._needed_before: set[str] = set()  # by the state that the next save makes the previous one

    @property
    def best(self) -> Best | None:
        return Best(self.kept[0].epoch, self.kept[0].score) if self.kept else None

    @property
    def best_file(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / self.kept[0].file

    def offer(
        self, model: nn.Module, epoch: int, score: float, raw: nn.Module | None = None, loss: float = math.inf
    ) -> None:
        """Keep the weights if they are among the best. A NaN is worse than anything.

        Of equal scores the lower loss is better, and of equal ones of both the later epoch. `raw`, the same weights
        without averaging, is kept beside them.
        """
        entry = Kept(epoch, score, f"epoch_{epoch:03d}.safetensors", loss)
        ranked = sorted([*self.kept, entry], key=self._rank, reverse=True)
        if entry in ranked[: self.keep]:
            origin = {"best": json.dumps({"epoch": epoch, "score": score})}
            save_weights(model, self.folder / entry.file, origin)
            if raw is not None:
                save_weights(raw, self.folder / entry.raw_file, origin)
        self.kept = ranked[: self.keep]

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the resume state, then drop weights that no state needs any more."""
        kept = [[entry.epoch, entry.score, entry.file, entry.loss] for entry in self.kept]
        path = self.folder / "state.pt"
        with atomic(path) as temporary:
            try:
                torch.save({"version": VERSION, "kept": kept, **state}, temporary)
            except RuntimeError as error:  # torch's own writer reports a full disk so
                raise OSError(str(error).splitlines()[0]) from error
            if path.is_file():
                path.replace(self.folder / "state.previous.pt")
        needed = self._files()
        for file in self.folder.glob("epoch_*.safetensors"):
            if file.name not in needed | self._needed_before:
                file.unlink()
        self._needed_before = needed

    def load_state(self) -> dict[str, Any] | None:
        """The newest readable state, or none when the fold has not begun.

        Raises:
            UserError: states exist and none can be read.
        """
        problems = []
        for name in ("state.pt", "state.previous.pt"):
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                state = _read(path)
            except UserError as error:
                problems.append(str(error))
                continue
            if problems:
                print(f"note: {problems[0]}; going on from {name}")
                (self.folder / "state.pt").unlink()  # or the next save would put it in the place of the good one
            self.kept = [
                Kept(int(epoch), float(score), str(file), *map(float, loss))
                for epoch, score, file, *loss in state["kept"]
            ]
            self._needed_before = self._files()
            return state
        if problems:
            raise UserError(f"{problems[0]}; no earlier state can be read either: begin anew with --restart")
        return None

    def keep_raw(self, folder: Path) -> None:
        """Put the best epoch's weights without averaging, where there are any, beside those that are kept."""
        raw = self.folder / self.kept[0].raw_file
        if raw.is_file():
            with atomic(folder / RAW) as temporary:
                shutil.copyfile(raw, temporary)

    def clear(self, keep: int, best_is_copied: bool) -> None:
        """Drop what a finished fold needs no more: the resume states, and all epochs but the `keep` best ones.

        The best one lies in the fold's folder as well if it is what the fold keeps.
        """
        stay = {name for entry in self.kept[int(best_is_copied) : keep] for name in (entry.file, entry.raw_file)}
        states = [self.folder / "state.pt", self.folder / "state.previous.pt"]
        for path in (*states, *self.folder.glob("epoch_*.safetensors")):
            if path.name not in stay:
                path.unlink(missing_ok=True)

    def _files(self) -> set[str]:
        return {file for entry in self.kept for file in (entry.file, entry.raw_file)}

    def _rank(self, entry: Kept) -> tuple[float, float, int]:
        return *rank(entry.score, entry.loss, self.greater_is_better), entry.epoch


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
