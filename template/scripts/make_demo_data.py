"""Write the demo competition, handwritten digits, into the data folder as Kaggle would lay it out.

examples:
  scripts/make_demo_data.py                       into data/raw
  scripts/make_demo_data.py --data /tmp/digits    into another folder

Columns and paths are those of competition.yaml. Files that are not the demo's are never overwritten.
"""

from _project import ROOT, parser
from toolkit.errors import run_script


def main() -> None:
    options = parser(__doc__)
    arguments = options.parse_args()

    from competition import competition
    from demo_data.demo import write_demo
    from pipeline.project import Project

    project = Project.at(ROOT, arguments.data)
    summary = write_demo(competition.settings, project.data)
    print(f"{summary} in {project.shown(project.data)}")


if __name__ == "__main__":
    run_script(main)
