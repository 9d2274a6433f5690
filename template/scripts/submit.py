"""Build and check the submission of an experiment, or check any csv.

examples:
  scripts/submit.py baseline                      submissions/baseline.csv, from the predictions in runs/baseline
  scripts/submit.py baseline --check other.csv    check a file made elsewhere, with the classes of runs/baseline
  scripts/submit.py --check other.csv             the same, with the classes of folds/classes.json
"""

from pathlib import Path

from _project import ROOT, parser
from toolkit.errors import UserError, run_script


def main() -> None:
    options = parser(__doc__)
    options.add_argument("name", metavar="NAME", nargs="?", help="an experiment with test predictions")
    options.add_argument("--check", metavar="FILE", type=Path, help="check this csv instead; nothing is written")
    arguments = options.parse_args()
    if arguments.name is None and arguments.check is None:
        raise UserError("what is to be submitted? name an experiment, or a csv with --check FILE")

    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    if arguments.check is None:
        from demo_data.leaderboard import answer_rows
        from pipeline.submission.command import submit

        submit(project, arguments.name, answer_rows)
    else:
        from competition import competition
        from pipeline.submission.command import check_file

        check_file(project, arguments.name, arguments.check, competition)


if __name__ == "__main__":
    run_script(main)
