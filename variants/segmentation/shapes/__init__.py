"""A small competition for the tests: where are the shapes? They copy this package as `src/competition`.

It is also the shortest example of one: what a competition has to say, and a few ideas of its own by name.
"""

from pipeline.competition import Competition
from pipeline.settings import read_settings

competition = Competition(
    settings=read_settings(__file__),
    names={"model": {"small": "competition.ideas:Small"}, "loss": {"squared": "competition.ideas:Squared"}},
)
