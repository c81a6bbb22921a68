"""Where variants, studies, data sets and reports are found by name.

Installed packages register through entry points (groups ``ablate.variants``, ``ablate.studies``,
``ablate.datasets``, ``ablate.reports``; the built-in ones too), a single file through ``--plugin FILE`` and
``@register("name")``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from suite.config import Study
from suite.errors import UserError, unknown
from suite.files import read_bytes

Kind = Literal["variant", "study", "dataset", "report"]
Registered = TypeVar("Registered")

_GROUPS: dict[Kind, str] = {
    "variant": "ablate.variants",
    "study": "ablate.studies",
    "dataset": "ablate.datasets",
    "report": "ablate.reports",
}
_from_plugins: dict[tuple[Kind, str], Any] = {}
_plugin_files: dict[str, Path] = {}


def register(name: str, kind: Kind = "variant") -> Callable[[Registered], Registered]:
    """Decorator: makes a plug-in's class or function known as ``name``.

    Raises UserError where the name is taken.
    """

    def keep(thing: Registered) -> Registered:
        check_name(kind, name)
        if name in names(kind):
            raise UserError(f"{thing} registers the {kind} '{name}', which exists already. Choose another name.")
        _from_plugins[kind, name] = thing
        return thing

    return keep


NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_name(kind: Kind, name: Any) -> None:
    """Raises UserError where ``name`` cannot be part of a folder's name, as that of a variant is of its cells'."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"A {kind} is called by up to 100 letters, digits, '_', '-' and '.', of which the first is a letter, a "
            f"digit or '_'; received {repr(name)[:120]}. Choose another name."
        )


def names(kind: Kind) -> list[str]:
    """The registered names of ``kind``, sorted."""
    plugins = [name for known_kind, name in _from_plugins if known_kind == kind]
    return sorted([*_entry_points(kind), *plugins])


def find(kind: Kind, name: str) -> Any:
    """What is registered as ``name``; an unknown name is a UserError that suggests the nearest."""
    if (kind, name) in _from_plugins:
        return _from_plugins[kind, name]
    check_name(kind, name)
    if name not in _entry_points(kind):
        raise unknown(kind, name, names(kind))
    return _load(kind, name)


def make_study(name: str) -> Study:
    """The study ``name``; what a plug-in's function does wrong is a UserError with its line."""
    make = find("study", name)
    path = _plugin_files.get(make.__module__)
    try:
        study = make()
    except Exception as error:
        if path is None or isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}:{_line_in(path, error)}: the study '{name}' is not made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(study, Study):
        raise UserError(
            f"{path}: the function of the study '{name}' is expected to return a suite.config.Study, and returned "
            f"{study!r}."
        )
    return study


def load_plugin(path: Path | str) -> None:
    """Runs the Python file at ``path``, whose ``@register`` lines make its parts known. Once per content."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no plug-in file {path}. Give --plugin the path of a Python file.")
    if not path.stem.isascii() or not NAME.fullmatch(path.stem):
        raise UserError(f"The plug-in {path} has a name that no Python module can have. Rename it to letters.")
    module = f"ablate_plugin_{path.stem.replace('-', '_')}_{_digest({'': path})}"
    if module in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file. Give --plugin a file that ends in .py.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    _plugin_files[module] = path
    before = set(_from_plugins)
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        del sys.modules[module], _plugin_files[module]
        for key in set(_from_plugins) - before:
            del _from_plugins[key]
        if isinstance(error, UserError):
            raise
        line = _line_in(path, error)
        raise UserError(f"{path}:{line}: the plug-in does not load: {type(error).__name__}: {error}") from error
    if set(_from_plugins) == before:
        del sys.modules[module], _plugin_files[module]
        raise UserError(f'{path} registers nothing. Put @register("name") above its variant.')


def load_kept_plugin(path: Path | str) -> None:
    """As ``load_plugin``, for a copy in a study's folder, in a folder named by its digest (``plugin_digest``).

    Raises UserError where it is not what was copied there: others may write there, and disks rot.
    """
    path = Path(path)
    content = {source.name: read_bytes(source) for source in source_files(path)}
    if plugin_digest(content) != path.parent.name:
        raise UserError(
            f"The plug-in {path} is not the file that the launch copied there. Run the same command again: it "
            "copies the file anew."
        )
    load_plugin(path)


def plugin_digest(content: Mapping[str, bytes]) -> str:
    """Of a plug-in's files, by name."""
    return hashlib.sha256(b"\n".join(content.values())).hexdigest()[:32]


def source_digest(name: str) -> str:
    """A digest of the source of variant ``name``, of the C beside it, and of what it imports from packages that
    register here.

    An edit of any of these files gives new cells; an edit of the engine does not (it marks cells as stale).
    """
    if ("variant", name) in _from_plugins:
        module = _from_plugins["variant", name].__module__
        files = {"": _plugin_files.get(module) or Path(sys.modules[module].__file__ or "")}
    elif name in _entry_points("variant"):
        module = _entry_points("variant")[name].module
        files = {module: _file_of(module)}
    else:
        raise unknown("variant", name, names("variant"))
    waiting = list(files.items())
    while waiting:
        for imported in _imports(*waiting.pop()):
            if (
                imported not in files
                and imported.partition(".")[0] in _registering_packages()
                and _is_module(imported)
            ):
                files[imported] = _file_of(imported)
                waiting.append((imported, files[imported]))
    return _digest(files)


def source_files(path: Path) -> list[Path]:
    """The Python file ``path``, and the C that lies beside it under the same name."""
    return [source for source in (path, path.with_suffix(".c")) if source.exists()]


@cache
def _entry_points(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUPS[kind])}


@cache
def _load(kind: Kind, name: str) -> Any:
    return _entry_points(kind)[name].load()


@cache
def _registering_packages() -> set[str]:
    """Packages other than the engine that hold variants: where a variant's own source may lie."""
    return {entry.module.partition(".")[0] for entry in _entry_points("variant").values()} - {"suite"}


def _file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"The module {module} is registered but is not installed. Install its package again.")
    return Path(spec.origin)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # A name inside a module that is no package.
        return False


def _imports(module: str, path: Path) -> list[str]:
    """The full names of what ``module``, the file at ``path``, imports: modules, and names that may be modules."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return found


def _digest(files: dict[str, Path]) -> str:
    hashed = hashlib.sha256()
    for module, path in sorted(files.items()):
        for source in source_files(path):
            hashed.update(f"{module}\n".encode() + source.read_bytes().replace(b"\r\n", b"\n"))
    return hashed.hexdigest()[:16]


def _line_in(path: Path, error: Exception) -> int:
    """The last line of ``path`` on the error's traceback."""
    line = getattr(error, "lineno", None) or 1
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            line = step.tb_lineno
        step = step.tb_next
    return line
