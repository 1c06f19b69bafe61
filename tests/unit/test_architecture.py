"""The shape of the code, checked: directions, fences, names, lengths, configs.

Everything is read from the syntax tree, so imports inside functions count too.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.config.loader import parse
from sightline.config.zero import read_deepspeed

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "platform" / "sightline"
ENTRANCES = ("jobs", "serve", "tune")

LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "records", "look", "torchvision_cpu"),
    ("config",),
    ("data", "metrics", "activations"),
    ("world",),
    ("models",),
    ("probes", "interventions", "decoding", "preference", "training", "retrieval", "knowledge"),
    ("mitigations",),
    ("evaluation", "guard"),
    ("distributed",),
    ("__main__",),
)
"""From the floor up. A part imports from levels below its own; siblings do not know each other."""
LEVEL = {name: height for height, names in enumerate(LEVELS) for name in names}

FENCES = {
    "ray": ("distributed",),
    "deepspeed": ("distributed",),
    "mlflow": ("distributed",),
    "fastapi": (),
}
"""Third-party package -> the parts of the library that may import it. Entrances: see the test."""
NO_TORCH = ("config", "metrics", "errors", "records")
MODEL_CLASS = re.compile(
    r"^(Auto)?Model|Model$|For(ConditionalGeneration|CausalLM|ImageTextToText|Vision2Seq)"
)

MAX_FILE, MAX_FUNCTION = 400, 60
LONG_ON_PURPOSE: dict[str, str] = {}
"""`path` or `path:function` -> why it may be longer."""


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def part_of(path: Path) -> str:
    """`preference` for platform/sightline/preference/pairs.py, `errors` for errors.py."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, str | None, int]]:
    """(module, name, line) of every import in a file; relative ones resolved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = ("sightline", *path.relative_to(LIBRARY).parts[: -node.level])
                module = ".".join([*package, module]).rstrip(".")
            for alias in node.names:
                yield module, alias.name, node.lineno


def library_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The parts of sightline that a file imports."""
    for module, name, line in imports(path):
        parts = module.split(".")
        if parts[0] != "sightline":
            continue
        part = parts[1] if len(parts) > 1 else name
        if part in LEVEL:
            yield part, line


def attributes(path: Path) -> Iterator[tuple[str, str, int]]:
    """(owner, attribute, line) of every `owner.attribute` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr, node.lineno


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_has_a_level():
    parts = {part_of(path) for path in python_files(LIBRARY)} - {"__init__"}
    assert parts <= set(LEVEL), f"add to LEVELS: {sorted(parts - set(LEVEL))}"


def test_imports_point_down():
    wrong = []
    for path in python_files(LIBRARY):
        own = part_of(path)
        if own == "__init__":
            continue
        for part, line in library_imports(path):
            sibling = part != own and LEVEL[part] == LEVEL[own]
            if LEVEL[part] > LEVEL[own] or (sibling and LEVEL[own] > 0):
                wrong.append(f"{where(path, line)}: {own} imports {part}")
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_opens_only_the_floor():
    assert {part for part, _ in library_imports(LIBRARY / "__init__.py")} <= set(LEVELS[0])


@pytest.mark.parametrize("package", FENCES)
def test_fences(package):
    wrong = [
        where(path, line)
        for path in python_files(LIBRARY)
        for module, _, line in imports(path)
        if module.split(".")[0] == package and part_of(path) not in FENCES[package]
    ]
    assert not wrong, f"{package} outside {FENCES[package]}: {wrong}"


def test_fences_of_the_entrances():
    """jobs, serve and tune may know Ray; serve alone FastAPI; none DeepSpeed or MLflow."""
    wrong = []
    for path in python_files(*(ROOT / name for name in ENTRANCES)):
        own = path.relative_to(ROOT).parts[0]
        allowed = {"ray", "fastapi"} if own == "serve" else {"ray"}
        for module, _, line in imports(path):
            if module.split(".")[0] in set(FENCES) - allowed:
                wrong.append(f"{where(path, line)}: {module}")
    assert not wrong, wrong


def test_model_classes_of_transformers_only_in_models():
    wrong = []
    for path in python_files(LIBRARY, *(ROOT / name for name in ENTRANCES)):
        if path.is_relative_to(LIBRARY / "models"):
            continue
        for module, name, line in imports(path):
            if module.split(".")[0] != "transformers":
                continue
            if module.startswith("transformers.models") or (name and MODEL_CLASS.search(name)):
                wrong.append(f"{where(path, line)}: {name or module}")
        for owner, name, line in attributes(path):
            if owner == "transformers" and MODEL_CLASS.search(name):
                wrong.append(f"{where(path, line)}: transformers.{name}")
    assert not wrong, "\n".join(wrong)


def test_no_torch_where_help_and_numbers_live():
    heavy = {"torch", "transformers", "ray", "peft", "trl"}
    wrong = [
        where(path, line)
        for path in python_files(LIBRARY)
        if part_of(path) in NO_TORCH
        for module, _, line in imports(path)
        if module.split(".")[0] in heavy
    ]
    assert not wrong, wrong


def test_platform_is_no_package():
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the stdlib's platform"


def test_no_module_is_named_like_an_installed_one():
    """A script's folder comes first on sys.path: jobs/profile.py would shadow `profile` everywhere."""
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    files = python_files(LIBRARY, *(ROOT / name for name in ENTRANCES), ROOT / "tests" / "bench")
    folders = {path.parent for path in files} - {ROOT / name for name in (*ENTRANCES, "tests/bench")}
    names = [path for path in [*files, *folders] if path.name not in ("__init__.py", "__main__.py")]
    wrong = [path for path in names if path.stem in taken and path != LIBRARY]
    assert not wrong, [str(path.relative_to(ROOT)) for path in wrong]


def test_files_and_functions_stay_small():
    long = []
    for path in python_files(LIBRARY, *(ROOT / name for name in ENTRANCES)):
        text, name = path.read_text(), str(path.relative_to(ROOT))
        if text.count("\n") > MAX_FILE and name not in LONG_ON_PURPOSE:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION and f"{name}:{node.name}" not in LONG_ON_PURPOSE:
                    long.append(f"{name}:{node.name}: {length} lines")
    assert not long, "\n".join(long)


def test_no_drawers_for_odds_and_ends():
    wrong = [p for p in LIBRARY.rglob("*") if p.stem in {"utils", "util", "helpers", "common", "misc"}]
    assert not wrong, wrong


def test_the_library_does_not_print():
    wrong = [
        where(path, node.lineno)
        for path in python_files(LIBRARY)
        if path.name != "__main__.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, wrong


def test_the_library_swallows_nothing():
    """`except Exception` and bare `except` only where the error is raised again."""
    wrong = []
    for path in python_files(LIBRARY, *(ROOT / name for name in ENTRANCES)):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                wrong.append(where(path, node.lineno))
    assert not wrong, wrong


def test_nothing_is_pickled_to_disk():
    """Artefacts are safetensors, parquet and JSON. DeepSpeed's own checkpoints are its affair."""
    wrong = [
        where(path, line)
        for path in python_files(LIBRARY)
        for module, _, line in imports(path)
        if module.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill"}
    ]
    assert not wrong, wrong


def config_files(suffix: str) -> list[Path]:
    return sorted((ROOT / "configs").rglob(f"*{suffix}"))


@pytest.mark.parametrize("path", config_files(".yaml"), ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_every_config_loads(path):
    """configs/<job>/x.yaml goes through that job's schema, configs/tune/<sweep>_x.yaml the sweep's."""
    job = path.relative_to(ROOT / "configs").parts[0]
    job = f"sweep_{path.stem.partition('_')[0]}" if job == "tune" else job
    parse(schema_of(job), ["--config", str(path)])


@pytest.mark.parametrize("path", config_files(".json"), ids=lambda p: p.name)
def test_every_deepspeed_file_loads(path):
    assert "zero_optimization" in read_deepspeed(str(path))


def test_every_job_has_a_schema_and_loads_it():
    for path in python_files(ROOT / "jobs", ROOT / "tune"):
        schema = schema_of(path.stem if path.parent.name == "jobs" else f"sweep_{path.stem}")
        names = {name for _, name, _ in imports(path)}
        assert schema.__name__ in names, f"{path.name} does not import {schema.__name__}"


def schema_of(job: str) -> type:
    """`DpoConfig` of sightline.config.dpo for the job `dpo`; a sweep is called `sweep_probe`."""
    module = importlib.import_module(f"sightline.config.{job}")
    return getattr(module, f"{job.title().replace('_', '')}Config")
