"""Renders projects and runs their scripts."""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import jinja2
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOT_TEMPLATE = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache", ".DS_Store")


def copy_template(folder: Path) -> Path:
    """Copy what copier reads into `folder`: the working tree as it is, whatever git thinks of it."""
    shutil.copytree(ROOT / "template", folder / "template", ignore=NOT_TEMPLATE)
    for name in ("includes", "variants"):
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_TEMPLATE)
    shutil.copy(ROOT / "copier.yml", folder)
    return folder


def render(template: Path, target: Path, answers: Mapping[str, Any] | None = None) -> Path:
    """`copier copy --defaults` in process; a warning is an error, since a user would see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copier.run_copy(str(template), target, data=dict(answers or {}), defaults=True, quiet=True)
    return target


def copier_command(*args: str) -> subprocess.CompletedProcess[str]:
    """The real command line."""
    command = [sys.executable, "-m", "copier", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, without what Python caches beside modules that a test has imported."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def metric_choices(task: str) -> dict[str, str]:
    """What copier offers as the metric of a task: meaning -> name."""
    question = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))["metric"]
    environment = jinja2.Environment()
    environment.filters["to_json"] = json.dumps
    choices: dict[str, str] = yaml.safe_load(environment.from_string(question["choices"]).render(task=task))
    return choices


@functools.cache
def source() -> Path:
    """The `src` of a render with both kinds of task, for modules that import the pipeline in their first lines."""
    folder = Path(tempfile.mkdtemp(prefix="source-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return render(copy_template(folder / "template"), folder / "project", {"extra_tasks": ["segmentation"]}) / "src"


class Renders:
    """Rendered projects of one test session. Copying a render is much cheaper than making it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = copy_template(folder / "template")

    def shared(self, answers: Mapping[str, Any] | None = None) -> Path:
        """The render for these answers, made once. Only for reading."""
        key = hashlib.sha256(json.dumps(dict(answers or {}), sort_keys=True).encode()).hexdigest()[:12]
        target = self.folder / key
        return target if target.exists() else render(self.template, target, answers)

    def copy(self, target: Path, answers: Mapping[str, Any] | None = None) -> Path:
        """A render of one's own at `target`."""
        return Path(shutil.copytree(self.shared(answers), target))


@dataclass(frozen=True)
class Result:
    """What a script left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line on standard error, where a script says what is wrong."""
        lines = self.stderr.strip().splitlines()
        return lines[-1] if lines else ""


def run_script(project: Path, script: str, *args: str, env: Mapping[str, str] | None = None) -> Result:
    """Run `scripts/<script>` of a rendered project in this process, which saves importing torch for every script.

    The project's own modules are imported afresh and forgotten afterwards, so that projects do not meet. What a
    process would lose at its end is put back: path, folder, environment, arguments, streams, signal handlers.
    """
    status = 0
    with _own_process(project, [str(project / "scripts" / script), *args], env or {}) as (out, err):
        try:
            runpy.run_path(str(project / "scripts" / script), run_name="__main__")
        except SystemExit as stop:
            status = _status(stop.code, err)
        except KeyboardInterrupt:
            status = 130
        except Exception:
            status = 1
            traceback.print_exc(file=err)
        out.seek(0)
        err.seek(0)
        return Result(status, out.read(), err.read())


def run_process(
    project: Path, script: str, *args: str, env: Mapping[str, str] | None = None, timeout: float = 300
) -> Result:
    """Run `scripts/<script>` as a user does, in a process of its own. It pays for its imports: use it sparingly."""
    environment = {**os.environ, **_THREADS, **(env or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode the imports take twice as long
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, str(project / "scripts" / script), *args],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def imported(project: Path) -> Iterator[None]:
    """Inside, `import pipeline` and `import competition` find this project's packages; afterwards, what they were."""
    path, before = list(sys.path), _forget_project()
    sys.path[:0] = [str(project / "src"), str(project / "scripts")]
    try:
        yield
    finally:
        _forget_project()
        sys.modules.update(before)
        sys.path[:] = path


# Two that wait for each other lose more than they win on small nets, and other tests run beside this one.
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg", "WANDB_MODE": "offline"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _own_process(project: Path, argv: list[str], env: Mapping[str, str]) -> Iterator[tuple[Any, Any]]:
    before = (sys.argv, list(sys.path), dict(os.environ), Path.cwd(), [signal.getsignal(name) for name in _SIGNALS])
    # Real files: some libraries ask a stream for its descriptor, which a StringIO does not have.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        ours = _forget_project()
        sys.argv = argv
        sys.path.insert(0, str(project / "scripts"))
        os.environ.update({**_THREADS, **env})
        os.chdir(project)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        try:
            yield out, err
        finally:
            sys.argv, sys.path[:], environment, folder, handlers = before
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            for name, handler in zip(_SIGNALS, handlers, strict=True):
                signal.signal(name, handler)
            _forget_project()
            sys.modules.update(ours)


def _forget_project() -> dict[str, Any]:
    """Take the projects' own modules out of the imported ones."""
    own = ("toolkit", "pipeline", "competition", "demo_data", "_project")
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}


def _status(code: Any, err: Any) -> int:
    """What the interpreter makes of the argument of `sys.exit`."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=err)
    return 1
