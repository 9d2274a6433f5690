"""What an experiment is in each epoch of its training: its settings, with the interventions of that epoch over them."""

from typing import Any

from pipeline.config import Experiment, Intervention, parse_experiment, resolve_names
from pipeline.experiments import merge, nested, together
from pipeline.registry import Names
from toolkit.errors import UserError


def by_epoch(config: Experiment, names: Names) -> list[Experiment]:
    """The experiment as it trains in each epoch; where no intervention is at work it is `config` itself.

    Later interventions of the list go over earlier ones.

    Raises:
        UserError: an intervention sets what is not valid, or covers no epoch.
    """
    epochs = config.training.epochs
    for number, intervention in enumerate(config.interventions):
        if not any(intervention.covers(epoch, epochs) for epoch in range(epochs)):
            first, last = intervention.epochs
            raise UserError(f"interventions.{number}: none of the {epochs} epochs is in {first} to {last}")
    known: dict[tuple[int, ...], Experiment] = {(): config}
    found = []
    for epoch in range(epochs):
        active = tuple(n for n, each in enumerate(config.interventions) if each.covers(epoch, epochs))
        if active not in known:
            known[active] = _with(config, names, [config.interventions[number] for number in active], active[-1])
        found.append(known[active])
    return found


def written_out(config: Experiment, names: Names) -> Experiment:
    """The experiment with every default of what its interventions choose by name written out, as a run keeps it."""
    before = config.model_dump(mode="json")
    found = []
    for number, intervention in enumerate(config.interventions):
        values = _with(config, names, [intervention], number).model_dump(mode="json")
        settings = dict(intervention.set)
        for key in settings:
            if key == "losses" or (key in ("augmentations", "step") and values[key]["name"] != before[key]["name"]):
                settings[key] = values[key]
            elif key == "training.batch_transforms":
                settings[key] = values["training"]["batch_transforms"]
        found.append(intervention.model_copy(update={"set": settings}))
    return config.model_copy(update={"interventions": tuple(found)})


def _with(config: Experiment, names: Names, interventions: list[Intervention], number: int) -> Experiment:
    values: dict[str, Any] = config.model_dump(mode="json")
    for intervention in interventions:
        values = merge(values, together(nested(key, value) for key, value in intervention.set.items()))
    try:
        return resolve_names(parse_experiment(values, "the experiment"), names)
    except UserError as error:
        raise UserError(f"interventions.{number}: {error}") from error
