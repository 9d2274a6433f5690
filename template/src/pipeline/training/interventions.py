"""What an experiment is in each epoch of its training: its settings, with the interventions of that epoch over them."""

from typing import Any

from pipeline.config import Experiment, Intervention, parse_experiment, resolve_names
from pipeline.errors import UserError
from pipeline.experiments import merge, nested
from pipeline.names import Names


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
            raise UserError(
                f"interventions.{number}: none of the {epochs} epochs is in {first} to {last}; "
                "epochs are counted from 1, or from -1 at the end"
            )
    known: dict[tuple[int, ...], Experiment] = {(): config}
    found = []
    for epoch in range(epochs):
        active = tuple(n for n, each in enumerate(config.interventions) if each.covers(epoch, epochs))
        if active not in known:
            known[active] = _with(config, names, [config.interventions[number] for number in active], active[-1])
        found.append(known[active])
    return found


def _with(config: Experiment, names: Names, interventions: list[Intervention], number: int) -> Experiment:
    values: dict[str, Any] = config.model_dump(mode="json")
    for intervention in interventions:
        for key, value in intervention.set.items():
            values = merge(values, nested(key, value))
    try:
        return resolve_names(parse_experiment(values, "the experiment"), names)
    except UserError as error:
        raise UserError(f"interventions.{number}: {error}") from error
