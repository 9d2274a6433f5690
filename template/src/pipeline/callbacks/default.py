"""What every fold's run is watched by: numbers for the trackers, lines for the terminal, pictures."""

import pandas as pd

from pipeline.callbacks import Callback
from pipeline.callbacks.extremes import Extremes
from pipeline.callbacks.gradients import Gradients
from pipeline.callbacks.log import Log
from pipeline.callbacks.non_finite import NonFinite
from pipeline.callbacks.pictures import Pictures
from pipeline.tasks import Task
from pipeline.types import SampleDataset


def default_callbacks(
    task: Task, train_rows: pd.DataFrame, valid_rows: pd.DataFrame, valid_dataset: SampleDataset
) -> list[Callback]:
    """The callbacks that are always there. Of `valid_rows`, the held-out ones, there are none when all rows train."""
    # Gradients before the log: theirs is an earlier step, and not every tracker goes back.
    numbers = [NonFinite(), Gradients(), Log(len(valid_rows))]
    return [*numbers, Extremes(task, train_rows, valid_rows), Pictures(task, valid_rows, valid_dataset)]
