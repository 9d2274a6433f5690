"""What only you know about this competition. `competition` is the one object that the pipeline receives."""

from pipeline.competition import Competition
from pipeline.settings import read_settings

competition = Competition(
    settings=read_settings(__file__),
    dataset="competition.dataset:ImageDataset",
    model="competition.model:EncoderHeads",
    # Whatever an experiment chooses by name can be added to here: kind -> name -> "module:attribute". What the
    # pipeline passes to a callable is positional; its keyword-only parameters are the `params` of an experiment.
    names={
        # "reader": {"dicom": "competition.readers:dicom"},
        # "model": {"two_views": "competition.model:TwoViews"},
        # "loss": {"focal": "competition.losses:Focal"},
        # "callback": {"my_watch": "competition.callbacks:MyWatch"},
    },
)
