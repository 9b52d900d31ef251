"""Names and paths that a shell or a file system would trip over: refused, or taken as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.bad_input.case import ROOT, Case, Project, change
from tpsweep.perfmodel.model_folder import make_model_folder

DUMMY = {"dtype": "float32", "weights": "dummy"}
SHAPE = "workflow/models/tiny-llama.json"
AWKWARD = """it's "1" $(touch pwned) `touch pwned` {x} ; touch pwned # \\ é漢"""


def model(name: str = "tiny-llama", **fields: Any) -> Callable[[Project], object]:
    """One model, of this name, with these fields besides dtype and weights."""
    return change("models", {name: {**DUMMY, **fields}})


def _folder_without_config(project: Project) -> None:
    (project.folder / "empty folder").mkdir()
    project.set("models", {"tiny-llama": {**DUMMY, "path": "empty folder"}})


def awkward(project: Project) -> None:
    """Every name that is free, and the model's folder, are awkward; there is no row of it yet."""
    make_model_folder(ROOT / SHAPE, project.folder / AWKWARD)
    project.set("models", {AWKWARD: {**DUMMY, "path": f"./{AWKWARD}"}})
    project.set("variants", {AWKWARD: {"enforce_eager": True}})


CASES = (
    Case(
        "label_twice",
        "two models with one label",
        ".label: 'Llama': allowed: a text that names this model alone",
        change(
            "models",
            {
                "tiny-llama": {**DUMMY, "shape": SHAPE, "label": "Llama"},
                "other": {**DUMMY, "shape": SHAPE, "label": "Llama"},
            },
        ),
    ),
    Case(
        "model_without_config",
        "a model folder without config.json",
        "config: models.tiny-llama.path: 'empty folder': it has no config.json; allowed: ",
        _folder_without_config,
    ),
    Case(
        "model_missing",
        "a model path with $( ) that does not exist",
        "models.tiny-llama.path: './$(touch pwned)': no such folder; allowed: a folder with",
        model(path="./$(touch pwned)"),
    ),
    Case(
        "model_long_path",
        "a model path of 300 characters",
        "File name too long; allowed: a folder with a config.json",
        model(path="x" * 300),
    ),
    Case(
        "shape_long_path",
        "a shape path of 300 characters",
        "no shape: ",
        model(shape="x" * 300),
    ),
    Case(
        "model_long_name",
        "a model name of 300 characters",
        "allowed: 1 to 100 characters, no control characters",
        model("m" * 300, shape=SHAPE),
    ),
    Case(
        "model_periodic",
        "a model name that is one letter 20 times",
        "allowed: a name that does not end in 20 repeats of the same letters",
        model("m" * 20, shape=SHAPE),
    ),
    Case(
        "model_newline",
        "a model name with a newline",
        r"config: models.a\nb: 'a\nb': allowed: 1 to 100 characters",
        model("a\nb", shape=SHAPE),
    ),
    Case(
        "path_newline",
        "a model path with a newline",
        r"models.tiny-llama.path: './a\ntouch pwned': allowed: 1 to 1000 characters",
        model(path="./a\ntouch pwned"),
    ),
    Case(
        "model_number",
        "a model name that is a number",
        "config: models.8: 8: allowed: text (quote it",
        change("models", {8: {**DUMMY, "shape": SHAPE}}),
    ),
    Case(
        "results_braces",
        "{x} in the results path",
        "config: results: 'results/{x}': allowed: a path without { and }",
        change("results", "results/{x}"),
    ),
    Case(
        "results_long",
        "a results path of 300 characters",
        "allowed: names of at most 255 bytes",
        change("results", "r" * 300),
    ),
    Case(
        "names_of_all_kinds",
        "quotes, $( ), {x}, unicode and spaces in names of models, variants and paths (planned)",
        "This was a dry-run",
        awkward,
        act=lambda project: project.run("-n"),
        code=0,
        is_running=True,
    ),
)
