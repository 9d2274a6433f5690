"""The run of a fold: its folder, loop, optimiser, schedule and checkpoints."""

NAMES = {
    "sampler": {"shuffle": "pipeline.data.loaders:shuffle"},
    "parameter_groups": {"default": "pipeline.training.optimizer:parameter_groups"},
    "schedule": {
        "cosine": "pipeline.training.optimizer:cosine",
        "constant": "pipeline.training.optimizer:constant",
    },
}
