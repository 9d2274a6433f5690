"""The helper that runs scripts in this process behaves as a process would, and leaves nothing behind."""

import os
import signal
import sys
from pathlib import Path

import pytest

from projects import run_process, run_script

SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
import pipeline

print(pipeline.WHO, Path.cwd().name, sys.argv[1:], file=sys.stderr if "--error" in sys.argv else sys.stdout)
os.environ["LEFT_BEHIND"] = "yes"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--exit" in sys.argv:
    sys.exit(2)
if "--message" in sys.argv:
    sys.exit("what is wrong")
if "--interrupt" in sys.argv:
    raise KeyboardInterrupt
if "--raise" in sys.argv:
    raise ValueError("no remedy")
"""


def small_project(folder: Path, who: str) -> Path:
    """A project that only says who it is."""
    for name, text in {"scripts/say.py": SCRIPT, "src/pipeline/__init__.py": f'WHO = "{who}"\n'}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_two_projects_in_one_process_do_not_meet(tmp_path: Path) -> None:
    first, second = (small_project(tmp_path / who, who) for who in ("first", "second"))
    assert run_script(first, "say.py", "a=1").stdout == "first first ['a=1']\n"
    assert run_script(second, "say.py", "--error").stderr == "second second ['--error']\n"
    assert run_process(second, "say.py", "b").stdout == run_script(second, "say.py", "b").stdout


@pytest.mark.parametrize(
    ("argument", "status", "last_line"),
    [("--exit", 2, ""), ("--message", 1, "what is wrong"), ("--raise", 1, "ValueError: no remedy")],
)
def test_status_and_last_line_are_those_of_a_process(
    argument: str, status: int, last_line: str, tmp_path: Path
) -> None:
    project = small_project(tmp_path / "project", "who")
    for run in (run_script, run_process):
        result = run(project, "say.py", argument)
        assert (result.status, result.last_line) == (status, last_line)
    assert run_script(project, "say.py", "--interrupt").status == 130


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        return (list(sys.path), sys.argv, Path.cwd(), dict(os.environ), signal.getsignal(signal.SIGTERM), sys.stdout)

    before = state()
    run_script(small_project(tmp_path / "project", "who"), "say.py")
    assert state() == before
    assert str(tmp_path) not in str(sys.modules.get("pipeline"))
