"""What an experiment names as its model, with what prepares its batches."""

from collections.abc import Sequence

from pipeline.competition import Head
from pipeline.config import Experiment
from pipeline.registry import Named, Names
from pipeline.types import PreparedModel


def prepared_model(
    heads: Sequence[Head],
    experiment: Experiment,
    names: Names,
    pretrained: bool,
    side_columns: Sequence[str] | None = None,
) -> PreparedModel:
    """`Prepare` and network as one module; images are normalised as the network's encoder wants it.

    Args:
        side_columns: what it sees beside the image; none: as the experiment says.
    """
    size = experiment.model.image_size or experiment.image.size
    settings = experiment.model.model_copy(update={"pretrained": pretrained, "image_size": size})
    if side_columns is not None:
        settings = settings.model_copy(update={"side_columns": tuple(side_columns)})
    network = names.bind("model", Named(name=settings.name, params=settings.params))(heads, settings, names)
    mean = getattr(network, "mean", [0.0] * settings.in_chans)
    std = getattr(network, "std", [1.0] * settings.in_chans)
    return PreparedModel(names.bind("prepare", experiment.image.prepare)(mean, std), network)
