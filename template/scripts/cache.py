"""Decode and resize the training images once, into data/cache, for experiments with `image.cache: true`.

Training does the same by itself when it begins; this does it beforehand, and goes on where it was cut off.

examples:
  scripts/cache.py baseline                      the images of experiments/baseline.yaml
  scripts/cache.py exp001 exp002                 those of two experiments; what they share is decoded once
  scripts/cache.py baseline image.cache=true image.cache_size=256    before the file says so
  scripts/cache.py --clear                       remove every cache
"""

from _project import ROOT, parser
from toolkit.errors import UserError, run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("experiments", nargs="*", metavar="experiment", help="names of files in experiments/")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the files")
    options.add_argument("--clear", action="store_true", help="remove all caches in data/cache first")
    arguments = options.parse_intermixed_args()
    words = [*arguments.experiments, *arguments.overrides]
    experiments = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not experiments and not arguments.clear:
        raise UserError("name the experiments whose images are to be cached, or say --clear")

    from competition import competition
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    if arguments.clear:
        from pipeline.data.cache import clear_caches

        clear_caches(project)
    if experiments:
        from pipeline.training.setup import fill_caches

        fill_caches(project, competition, experiments, overrides)


if __name__ == "__main__":
    run_script(main)
