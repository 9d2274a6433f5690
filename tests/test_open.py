"""What stands in the open: the model and the dataset of a project are changed as its README says."""

import re
from pathlib import Path

import pytest
import torch

from projects import Renders, imported, run_script
from training import demo_project, expect


def blocks(project: Path) -> list[str]:
    """The Python of `Where to change what`."""
    readme = (project / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", readme.split("## Where to change what")[1].split("\n## ")[0], re.DOTALL)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_readmes_model_and_second_image_train_and_open_in_a_notebook(
    task: str, renders: Renders, tmp_path: Path
) -> None:
    project = demo_project(renders, tmp_path / "project", task=task)
    model, second, notebook = blocks(project)
    file = project / "src/competition/model.py"
    text = file.read_text()
    if task == "classification":
        model_file = text[: text.index("class EncoderHeads")] + model
    else:
        model_file = text[: text.index("class MaskNetwork")] + model
    file.write_text(model_file)
    dataset = project / "src/competition/dataset.py"
    before, entry = second.split("# and in what it returns\n")
    lines = "".join(line + "\n" for line in before.splitlines() if not line.startswith("#"))
    changed = dataset.read_text().replace("        return {\n", f"{lines}        return {{\n{entry}", 1)
    assert changed.count("input_second") == 1
    dataset.write_text(changed)
    small = project / "experiments/small.yaml"
    small.write_text(re.sub(r"\nmodel: .*", "\nmodel: {params: {width: 8}}", small.read_text()))
    demo = project / "experiments/demo.yaml"  # which small.yaml extends
    demo.write_text(re.sub(r"\n  params: {decoder_channels.*", "", demo.read_text()))
    expect(run_script(project, "train.py", "small", "--fold", "0"))
    expect(run_script(project, "predict.py", "small"))
    snapshot = project / "runs/small/code/competition"
    assert "input_second" in (snapshot / "dataset.py").read_text()
    with imported(project):
        found: dict[str, object] = {}
        exec(notebook.replace('"baseline", ["image.size=64"]', '"small"'), found)
        sample, outputs = found["sample"], found["outputs"]
        assert isinstance(sample, dict) and isinstance(outputs, dict)
        assert sample["input_second"].shape == sample["input_image"].shape
        assert all(torch.is_tensor(value) for value in outputs.values())


def test_what_a_project_left_out_is_the_pipelines_own(renders: Renders, tmp_path: Path) -> None:
    project = demo_project(renders, tmp_path / "project")
    package = project / "src/competition"
    init = package / "__init__.py"
    (package / "dataset.py").unlink()
    refused = expect(run_script(project, "train.py", "small", "--fold", "0"), 2)
    assert "competition.dataset" in refused.last_line
    init.write_text(re.sub(r'    (dataset|model)="[^"]*",\n', "", init.read_text()))
    (package / "model.py").unlink()
    expect(run_script(project, "train.py", "small", "--fold", "0"))
