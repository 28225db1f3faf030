"""The scenarios that came with us, and how a user names one. Files are parsed, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pytest_ocrepro.errors import UsageError

CATALOGUE = "scenarios"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One test function that takes the fixture. ``control``: as its mark says.

    ``parameters``: of one set of a parametrized test, as pytest words it; "": all, or it takes none.
    """

    file: Path
    test: str
    control: bool = False
    parameters: str = ""
    parametrized: bool = False

    @property
    def node(self) -> str:
        """What pytest is given: the whole test, whose parameters stand beside the build's in pytest's own ids."""
        return f"{self.file}::{self.test}"

    @property
    def name(self) -> str:
        """``scenarios/file.py::test`` wherever the catalogue lies; a path below here relative to it."""
        test = f"{self.test}[{self.parameters}]" if self.parameters else self.test
        if self.file.is_relative_to(catalogue()):
            return f"{CATALOGUE}/{self.file.relative_to(catalogue())}::{test}"
        here = Path.cwd()
        shown = self.file.relative_to(here) if self.file.is_relative_to(here) else self.file
        return f"{shown}::{test}"


def catalogue() -> Path:
    """Where the shipped scenarios are: in the wheel beneath the package, in a checkout beside it."""
    package = Path(__file__).parent
    inside = package / CATALOGUE
    return inside if inside.is_dir() else package.parent / CATALOGUE


def all_scenarios() -> list[Scenario]:
    """Every scenario of the catalogue, by file and line."""
    return [one for file in sorted(catalogue().glob("test_*.py")) for one in scenarios_in(file)]


def find_scenario(name: str) -> Scenario:
    """``FILE::TEST``, a file with one scenario, or the name of one of the catalogue, with or without "test_".

    Of a parametrized test ``TEST[parameters]`` is one. Raises UsageError, which lists what there is.
    """
    whole, _, parameters = name.removesuffix("]").partition("[")
    return msgspec.structs.replace(_find(whole), parameters=parameters)


def scenarios_in(file: Path) -> list[Scenario]:
    """The tests of a file that take the fixture ``ocrepro``. Raises UsageError where it is no Python."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file} is no Python file ({error}): name a file of scenarios") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): name a file of scenarios") from None
    return [
        Scenario(
            file=file,
            test=function.name,
            control=_is_control(function),
            parametrized=any("mark.parametrize(" in ast.unparse(one) for one in function.decorator_list),
        )
        for function in scenario_functions(tree)
    ]


def scenario_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Those of the module itself that take the fixture."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            taken = {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            if "ocrepro" in taken:
                yield node


def mark_of(function: ast.FunctionDef) -> ast.Call | None:
    """The call ``pytest.mark.ocrepro(...)`` that decorates it."""
    calls = (one for one in function.decorator_list if isinstance(one, ast.Call))
    return next((one for one in calls if ast.unparse(one.func).endswith("mark.ocrepro")), None)


def scenario_code(scenario: Scenario, moves: Sequence[str], words: str) -> str:
    """The scenario alone in a file, under a schedule; ``words`` say what it shows. Raises UsageError."""
    tree = ast.parse(scenario.file.read_text(encoding="utf-8"))
    wanted = next((one for one in scenario_functions(tree) if one.name == scenario.test), None)
    if wanted is None:
        raise UsageError(f"{scenario.file} has no scenario {scenario.test} any more: look at the file")
    mark = mark_of(wanted)
    kept = [word for word in mark.keywords if word.arg in ("issue", "title")] if mark else []
    told = ast.Tuple(elts=[ast.Constant(move) for move in moves], ctx=ast.Load())
    own = ast.Call(
        func=ast.parse("pytest.mark.ocrepro", mode="eval").body,
        args=[],
        keywords=[*kept, ast.keyword(arg="schedule", value=told)],
    )
    wanted.decorator_list = [own, *(one for one in wanted.decorator_list if one is not mark)]
    indented = words.strip().replace("\n", "\n    ").replace("\\", "/")
    wanted.body = [ast.Expr(ast.Constant(f"{indented}\n    ")), *wanted.body[_has_docstring(wanted) :]]
    others = [one for one in tree.body[_has_docstring(tree) :] if not _is_test(one)]
    if not any(isinstance(one, ast.Import) and one.names[0].name == "pytest" for one in others):
        others.insert(0, ast.Import(names=[ast.alias(name="pytest")]))
    head = ast.Expr(ast.Constant(f"Found by `ocrepro explore {scenario.name}`."))
    module = ast.Module(body=[head, *others, wanted], type_ignores=[])
    return ast.unparse(ast.fix_missing_locations(module)) + "\n"


def _is_test(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test")


def _has_docstring(node: ast.Module | ast.FunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _find(name: str) -> Scenario:
    path, _, test = name.partition("::")
    places = (Path(path).absolute(), catalogue() / path.removeprefix(f"{CATALOGUE}/"))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        found = [one for one in all_scenarios() if one.test in (name, f"test_{name}")]
        return _only(found, f"there is no scenario {name}", all_scenarios())
    inside = scenarios_in(file)
    found = [one for one in inside if test in ("", one.test)]
    return _only(found, f"{name} names {len(found) or 'no'} scenario{'s' * (len(found) != 1)}", inside)


def _is_control(function: ast.FunctionDef) -> bool:
    mark = mark_of(function)
    values = [word.value for word in mark.keywords if word.arg == "control"] if mark else []
    return any(isinstance(value, ast.Constant) and value.value is True for value in values)


def _only(found: list[Scenario], what: str, known: list[Scenario]) -> Scenario:
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.test.removeprefix("test_") for one in known) or "none: it needs a test that takes `ocrepro`"
    raise UsageError(f"{what}: give FILE::TEST, or one of {names}")
