"""The training of a fold: setup, run folder, trainer, optimiser, schedule, checkpoints and finish."""

NAMES = {
    "sampler": {
        "shuffle": "pipeline.data.samplers:shuffle",
        "balanced": "pipeline.data.samplers:balanced",
        "weighted": "pipeline.data.samplers:weighted",
        "groups": "pipeline.data.samplers:groups",
        "sources": "pipeline.data.samplers:sources",
    },
    "loss": {"distillation": "pipeline.losses.distillation:Distillation"},
    "parameter_groups": {"default": "pipeline.training.optimizer:parameter_groups"},
    "schedule": {
        "constant": "pipeline.training.schedules:constant",
        "linear": "pipeline.training.schedules:linear",
        "cosine": "pipeline.training.schedules:cosine",
        "step": "pipeline.training.schedules:step",
        "flat_cosine": "pipeline.training.schedules:flat_cosine",
        "plateau": "pipeline.training.schedules:Plateau",
    },
}
