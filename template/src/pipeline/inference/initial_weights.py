"""`model.weights`: training starts from a file, or from what another run has learned on the same fold."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from timm.models import adapt_input_conv, clean_state_dict, load_state_dict
from torch import Tensor, nn

from pipeline.inference.predict import BEST, FINISHED
from pipeline.project import Project
from toolkit.errors import UserError, listed
from toolkit.files import read_json

RUN = "run:"
OWN = ("network.", "network.encoder.")  # where weights of a whole model, or of an encoder alone, belong


def load_initial_weights(model: nn.Module, source: str, project: Project, fold: str, folds_hash: str) -> None:
    """Copy what fits of `source` into the model, and print what did not.

    Names are matched after prefixes that wrappers and trainers add are taken off, and the encoder's place in our model
    is put before them: the combination that fits most tensors is taken. The first convolution is adapted to another
    number of channels (timm's `adapt_input_conv`). Tensors of another shape stay as they were initialised.

    Args:
        model: `Prepare` and network. Buffers of `Prepare` are settings of the experiment, and are not loaded.
        source: a file with a state dict, relative to the project or absolute; `run:NAME` for the weights of the same
            fold of that run, or `run:NAME/FOLD` for those of another fold.
        fold: the fold that trains: `0`, `1`, ..., `full`.
        folds_hash: of the folds that hold out.

    Raises:
        UserError: no such file or run, a run on other folds, a file that cannot be read, or nothing in it fits.
    """
    path = run_weights(source, project, fold, folds_hash) if source.startswith(RUN) else project.root / source
    where = project.shown(path)
    given = read_weights(path, where)
    state, settings = model.state_dict(), _settings(model)
    wanted = {name: value for name, value in state.items() if name not in settings}
    names = best_names(given, wanted)
    found = {name: given[names[name]] for name in wanted if name in names}
    stem = _first_convolution(model)
    if stem in found:
        found[stem] = _adapted(found[stem], wanted[stem])
    fitting = {name: value for name, value in found.items() if value.shape == wanted[name].shape}
    if not fitting:
        raise UserError(
            f"nothing in {where} fits the model: it holds {listed(given)}, and the model wants {listed(wanted)}; "
            "choose the encoder these weights were made for, or other weights"
        )
    model.load_state_dict(fitting, strict=False)
    print(f"weights: {len(fitting)} of {len(wanted)} tensors of the model are from {where}")
    shapes = [
        f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
        for name, value in found.items()
        if name not in fitting
    ]
    left = {
        "of another shape": shapes,
        "not in the file": [name for name in wanted if name not in found],
        "not in the model": [old for name, old in names.items() if name not in state],
    }
    for what, which in left.items():
        if which:
            print(f"  {what}, {len(which)}: {listed(which)}")


def run_weights(source: str, project: Project, fold: str, folds_hash: str) -> Path:
    """The best weights of `run:NAME` for the fold that trains, or of the fold that `run:NAME/FOLD` names.

    The same fold of a run on the same folds has not been trained on the rows that are held out now. A named fold may
    have been: that is printed.
    """
    name, _, asked = source.removeprefix(RUN).partition("/")
    folder = project.require_run(name)
    same_folds = read_json(folder / "run.json").get("folds") == folds_hash
    if not asked and not same_folds:
        raise UserError(
            f"model.weights: the run '{name}' was trained on other folds, so its weights may know the rows that are "
            f"held out now; name one of its folds to take them all the same: run:{name}/full or run:{name}/3"
        )
    chosen = asked or fold
    weights = folder / f"fold_{chosen}" / BEST
    if not weights.is_file():
        finished = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{FINISHED}"))
        raise UserError(
            f"model.weights: fold {chosen} of the run '{name}' is not trained to the end "
            f"(finished: {listed(finished, 9) or 'none'}); run scripts/train.py {name} --fold {chosen}"
        )
    if fold != "full" and not (same_folds and chosen == fold):
        print(
            f"warning: {source} may have been trained on rows that fold {fold} holds out: "
            "scores on them will be too good"
        )
    return weights


def read_weights(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a state dict of torch, alone or in a trainer's checkpoint."""
    if not path.is_file():
        raise UserError(
            f"model.weights: there is no file {where}; correct the path, which starts at the project's folder"
        )
    try:
        found = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"model.weights: cannot read {where} as weights ({reason}); "
            "download it again, or save its state dict alone as safetensors"
        ) from error
    tensors = {name: value for name, value in dict(found).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"model.weights: {where} holds no tensors by name ({listed(found)}); save a state dict")
    return clean_state_dict(tensors)


def best_names(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the model -> name in the file, as it fits most tensors; the fewest changes win a tie."""
    best: dict[str, str] = {}
    most = (-1, -1)
    for taken in _prefixes(given):
        for added in ("", *OWN):
            names = {added + name.removeprefix(taken): name for name in given}
            known = [name for name in names if name in wanted]
            matches = (sum(given[names[name]].shape == wanted[name].shape for name in known), len(known))
            if matches > most:
                best, most = names, matches
    return best


def _prefixes(names: Mapping[str, Tensor]) -> Iterator[str]:
    """Nothing, and every dotted prefix that at least half of the names share, shortest first."""
    yield ""
    candidates = {name[: position + 1] for name in names for position, sign in enumerate(name) if sign == "."}
    for prefix in sorted(candidates, key=lambda prefix: (len(prefix), prefix)):
        if 2 * sum(name.startswith(prefix) for name in names) >= len(names):
            yield prefix


def _settings(model: nn.Module) -> set[str]:
    prepare = getattr(model, "prepare", None)
    return {f"prepare.{name}" for name, _ in prepare.named_buffers()} if isinstance(prepare, nn.Module) else set()


def _first_convolution(model: nn.Module) -> str:
    """The name of its weight; empty for a network without one."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return next((f"{name}.weight" for name in names), "")


def _adapted(given: Tensor, wanted: Tensor) -> Tensor:
    """Weights for RGB (out, 3, h, w) for another number of channels; others as they are."""
    shape = given.shape
    if given.ndim != 4 or shape[1] != 3 or (shape[0], *shape[2:]) != (wanted.shape[0], *wanted.shape[2:]):
        return given
    adapted: Tensor = adapt_input_conv(wanted.shape[1], given)
    return adapted
