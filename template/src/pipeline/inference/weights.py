"""Weights of a run (safetensors: written atomically, refused by name when they do not fit), and those that training
starts from: `model.weights`, a file, or what another run has learned on the same fold."""

import copy
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from timm.models import adapt_input_conv, clean_state_dict, load_state_dict
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.inference.snapshot import FINISHED, finished_folds
from pipeline.project import Project
from toolkit.errors import UserError, listed
from toolkit.files import atomic, read_json

BEST = "best.safetensors"  # in a fold's folder, once the fold is finished
CHECKSUM = "crc32"
DAMAGED = "is damaged; remove the fold's folder and train it again"
RUN = "run:"
OWN = ("network.", "network.encoder.")  # where weights of a whole model, or of an encoder alone, belong
PACK = 200_000_000  # bytes that cross from a device at once, and the room there that they need for it
State = TypeVar("State")


def host_copy(state: State) -> State:
    """Copy nested dicts and lists with their tensors to the host, contiguous: a training that goes on changes nothing
    of it. What lies on a device crosses in one copy for each `PACK` bytes; tied weights stay tied."""
    leaves = [leaf for leaf in tree_leaves(state) if type(leaf) in (Tensor, nn.Parameter)]
    keys = {id(leaf): (leaf.device, leaf.dtype, leaf.data_ptr(), leaf.shape, leaf.stride()) for leaf in leaves}
    tensors = {keys[id(leaf)]: leaf.detach() for leaf in leaves}
    packs, filled, copies = defaultdict(list), Counter[object](), dict[object, Tensor]()
    for key, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):  # so all are aligned
        if tensor.is_cpu or not tensor.numel():
            copies[key] = tensor.cpu().clone(memory_format=torch.contiguous_format)
            continue
        filled[tensor.device] += tensor.nbytes
        packs[tensor.device, filled[tensor.device] // PACK].append(key)
    for (device, _), members in packs.items():
        flat = torch.cat([tensors[key].flatten().view(torch.uint8) for key in members])
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=device.type == "cuda").copy_(flat)
        ends = np.cumsum([tensors[key].nbytes for key in members])
        # Each with a storage of its own, or a file would hold all of them for each.
        for key, part in zip(members, np.split(host.numpy(), ends[:-1]), strict=True):
            copies[key] = torch.frombuffer(part, dtype=tensors[key].dtype).view(tensors[key].shape)
    return copy.deepcopy(state, {number: copies[key] for number, key in keys.items()})


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a model's `state_dict`, its checksum, and a few strings that say where it comes from."""
    model: nn.Module = SimpleNamespace(state_dict=lambda: dict(weights))  # type: ignore[assignment]  # all it asks for
    with atomic(path) as temporary:
        try:
            save_model(model, str(temporary), metadata={**metadata, CHECKSUM: checksum(weights)})
        except SafetensorError as error:  # it hides the operating system's error inside its own
            raise OSError(str(error)) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights; a `UserError` where the file is missing, damaged, or made for another model."""
    expected = stored_checksum(path)
    try:
        load_model(model, str(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} was made by another model than that of the experiment: {reason}") from error
    if expected not in (None, checksum(model.state_dict())):
        raise UserError(f"{path} {DAMAGED} (its checksum differs)")


def stored_checksum(path: Path) -> str | None:
    """The checksum that a file of weights holds, if any; a `UserError` where the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"there are no weights at {path}; train this fold first")
    try:
        with safe_open(str(path), "pt") as file:
            return (file.metadata() or {}).get(CHECKSUM)
    except SafetensorError as error:
        raise UserError(f"{path} {DAMAGED} ({error})") from error


def weights_file(fold: Path, choice: str) -> Path:
    """The weights of a finished fold (or of one seed of it) by name: those it kept, `best`, or another candidate that
    its settings asked for; a `UserError` names those it has."""
    files = {name: one["file"] for name, one in read_json(fold / FINISHED).get("candidates", {}).items()}
    files = {"best": BEST, **files}
    if choice not in files:
        what = f"{'/'.join(fold.parts[-2:])} has no weights '{choice}'; it has {', '.join(files)}"
        raise UserError(f"{what}; averaging.best_epochs (mean), swa_start (swa) and ema_decay (ema) ask for others")
    return fold / files[choice]


def checksum(weights: Mapping[str, Tensor]) -> str:
    """CRC-32 of all weights and buffers in their order, which safetensors itself does not keep."""
    crc = 0
    for value in weights.values():
        crc = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def load_initial_weights(model: nn.Module, source: str, project: Project, fold: str, folds_hash: str) -> None:
    """Copy what fits of `source` into the model (`Prepare`, whose buffers are settings of the experiment, and network),
    and print what did not: tensors of another shape stay as they were, the first convolution is adapted to channels.

    Args:
        source: a file with a state dict, relative to the project or absolute, or what `run_weights` knows.
        fold, folds_hash: the fold that trains (`0`, `1`, ..., `full`), and of which folds.

    Raises:
        UserError: no such file or run, a run on other folds, a file that cannot be read, or nothing in it fits.
    """
    path = run_weights(source, project, fold, folds_hash) if source.startswith(RUN) else project.root / source
    where = project.shown(path)
    given, state = read_weights(path, where), model.state_dict()
    settings = {f"prepare.{name}" for name, _ in getattr(model, "prepare", nn.Module()).named_buffers()}
    wanted = {name: value for name, value in state.items() if name not in settings}
    names = best_names(given, wanted)
    found = {name: given[names[name]] for name in wanted if name in names}
    convolutions = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    stem = f"{next(convolutions, '')}.weight"
    if stem in found and found[stem].ndim == 4 and found[stem].shape[1] == 3:  # made for RGB
        found[stem] = adapt_input_conv(wanted[stem].shape[1], found[stem])
    fitting = {name: value for name, value in found.items() if value.shape == wanted[name].shape}
    if not fitting:
        what = f"it holds {listed(given)}, and the model wants {listed(wanted)}"
        raise UserError(f"nothing in {where} fits the model: {what}; choose the encoder they were made for")
    model.load_state_dict(fitting, strict=False)
    print(f"weights: {len(fitting)} of {len(wanted)} tensors of the model are from {where}")
    shapes = {name: f"{tuple(value.shape)} for {tuple(wanted[name].shape)}" for name, value in found.items()}
    left = {
        "of another shape": [f"{name} {both}" for name, both in shapes.items() if name not in fitting],
        "not in the file": [name for name in wanted if name not in found],
        "not in the model": [old for name, old in names.items() if name not in state],
    }
    for what, which in left.items():
        if which:
            print(f"  {what}, {len(which)}: {listed(which)}")


def run_weights(source: str, project: Project, fold: str, folds_hash: str) -> Path:
    """The best weights of `run:NAME` for the fold that trains, or of the fold that `run:NAME/FOLD` names: these may
    have been trained on the rows that are held out now, which is printed."""
    name, _, asked = source.removeprefix(RUN).partition("/")
    folder, source_fold = project.require_run(name), asked or fold
    same_folds = read_json(folder / "run.json").get("folds") == folds_hash
    if not asked and not same_folds:
        remedy = f"name one of its folds to take its weights all the same: run:{name}/full or run:{name}/3"
        raise UserError(f"model.weights: the run '{name}' was trained on other folds, and would leak; {remedy}")
    weights = folder / f"fold_{source_fold}" / BEST
    if not weights.is_file():
        what = f"fold {source_fold} of the run '{name}' is not trained to the end"
        there = listed(finished_folds(folder), 9) or "none"
        raise UserError(f"model.weights: {what} (finished: {there}); scripts/train.py {name} --fold {source_fold}")
    if fold != "full" and not (same_folds and source_fold == fold):
        what = f"{source} may have been trained on rows that fold {fold} holds out"
        print(f"warning: {what}: scores on them will be too good")
    return weights


def read_weights(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a state dict of torch, alone or in a trainer's checkpoint."""
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {where}; the path starts at the project's folder")
    try:
        found = dict(load_state_dict(str(path), device="cpu", weights_only=True))
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        remedy = "save its state dict alone as safetensors"
        raise UserError(f"model.weights: cannot read {where} as weights ({reason}); {remedy}") from error
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"model.weights: {where} holds no tensors by name ({listed(found)}); save a state dict")
    return clean_state_dict(tensors)


def best_names(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the model -> name in the file, as it fits most tensors, the fewest changes first: without a prefix that
    half of the names share, and with the encoder's place in our model before them."""
    parts = [name.split(".") for name in given]
    shared = Counter(".".join(each[:count]) + "." for each in parts for count in range(1, len(each)))
    prefixes = ["", *(prefix for prefix, count in shared.items() if 2 * count >= len(given))]
    options = [{own + name.removeprefix(old): name for name in given} for old in prefixes for own in ("", *OWN)]

    def matches(names: dict[str, str]) -> tuple[int, int]:
        known = [name for name in names if name in wanted]
        return sum(given[names[name]].shape == wanted[name].shape for name in known), len(known)

    return max(options, key=matches)
