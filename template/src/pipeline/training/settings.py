"""`--print-config`: every setting of an experiment, those of its by-name entries included."""

from pipeline import training
from pipeline.callbacks import NAMES as CALLBACK_NAMES
from pipeline.competition import Competition
from pipeline.config import Experiment, resolve_names
from pipeline.data import NAMES as DATA_NAMES
from pipeline.experiments import describe
from pipeline.registry import Names
from pipeline.tasks import rooms


def all_names(competition: Competition) -> Names:
    """Whatever can be chosen by name in this repository."""
    of_rooms = [task.NAMES for task in dict.fromkeys(rooms().values())]
    return Names(DATA_NAMES, training.NAMES, CALLBACK_NAMES, *of_rooms, competition.all_names())


def print_config(competition: Competition, config: Experiment) -> None:
    """Print the experiment as YAML with a line of explanation for each setting."""
    print("\n".join(describe(resolve_names(config, all_names(competition)))))
