"""The tree shows the pipeline: a lower package never imports a higher one, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "python" / "tessera"

# From low to high; packages of one line may import each other.
ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "config", "_core"),
    ("ir",),
    ("op",),
    ("transform",),
    ("dist",),
    ("schedule",),
    ("tile",),
    ("target",),
    ("artifact",),
    ("interop",),  # concrete arrays and conversions, which the user's graph functions take and return
    ("graph",),
    ("optim",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

# The top of the tree re-exports, so it stands above everything and nothing below may need it.
TOP = {"__init__.py", "__main__.py"}


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from executed(node)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of this package that can run, absolute or relative, inside functions too."""
    package = ("tessera", *path.relative_to(ROOT).parent.parts)
    for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] == "tessera")
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(x for x in (base, node.module) if x)
            if module == "tessera":
                names = [a.name for a in node.names if a.name != "__version__"]
                yield from ((node.lineno, f"tessera.{name}") for name in names)
            elif module.startswith("tessera."):
                yield node.lineno, module


def test_lower_packages_never_import_higher_ones() -> None:
    wrong: list[str] = []
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if file in TOP:
            continue
        own = file.split("/")[0].removesuffix(".py")
        for line, module in imports(path):
            parts = module.split(".")
            target = parts[1] if len(parts) > 1 else ""
            if RANK.get(target, len(ORDER)) > RANK[own]:
                wrong.append(f"{file}:{line}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_place() -> None:
    found = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    found |= {p.stem for p in ROOT.glob("*.py") if p.name not in TOP}
    assert found <= set(RANK), f"not in ORDER: {found - set(RANK)}"
