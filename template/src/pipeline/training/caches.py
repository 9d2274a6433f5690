"""What `scripts/cache.py` does: the caches of experiments, filled before they are trained."""

import time
from collections.abc import Sequence

from pipeline.competition import Competition
from pipeline.data.cache import open_cache
from pipeline.data.folds import load_folds
from pipeline.experiments import load_experiment
from pipeline.project import Project
from pipeline.training.setup import checked_task
from toolkit.errors import UserError
from toolkit.terminal import console


def fill_caches(
    project: Project, competition: Competition, experiments: Sequence[str], overrides: Sequence[str] = ()
) -> None:
    """Decode and resize, for each experiment, every training row of its fold file.

    Raises:
        UserError: an experiment does not use the cache, or its task can do nothing with one, or what `open_cache` says.
    """
    configs = [load_experiment(project, name, overrides) for name in experiments]
    for name, config in zip(experiments, configs, strict=True):
        if not config.image.cache:
            raise UserError(
                f"'{name}' reads no cache; add image.cache=true here, "
                f"and write `image: {{cache: true}}` into experiments/{name}.yaml before it is trained"
            )
    every_names = [checked_task(project, competition.stage(config.stage), config)[1] for config in configs]
    table = competition.train_rows(project.require_data())
    for name, config, names in zip(experiments, configs, every_names, strict=True):
        began = time.monotonic()
        rows = load_folds(project, config.folds, table, competition.settings).rows
        open_cache(project, config, names, rows)
        seconds = time.monotonic() - began
        console().print(f"'{name}': all {len(rows):,} training rows are in the cache ({seconds:.1f} s)", soft_wrap=True)
