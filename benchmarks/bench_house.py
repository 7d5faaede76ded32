"""Structure of the package in numbers, beside another state of it: sizes, import circles, docstrings.

Usage: ``bench_house.py TREE [TREE ...]``, each a folder that holds ``aqdask/`` and ``README.md``, or a commit
of this repository. Prints a Markdown table, and writes it with ``--out``.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import subprocess
import tarfile
import tempfile
import tokenize
from pathlib import Path

import networkx

ROOT = Path(__file__).resolve().parents[1]
OPENINGS = re.compile(r"(what|whether|which|how|that|why|where|when|who)\b", re.I)
LONG = 60  # lines of a function
SIMULATOR = ("sky", "simulate", "models/pretrain.py", "cli/demo.py", "cli/evaluation.py")
KEPT = (
    "sky/apertures.py",
    "sky/photometry.py",
    "sky/difference.py",
    "sky/false_alarms.py",
    "sky/reference.py",
)
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trees", nargs="+", metavar="TREE", help="a folder, or a commit of this repository")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aqdask-house-") as folder:
        columns = {name: facts(checked_out(name, Path(folder))) for name in arguments.trees}
    names = list(columns)
    lines = [f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    lines += [
        f"| {fact} | {' | '.join(columns[name][fact] for name in names)} |" for fact in columns[names[0]]
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        command = f"python benchmarks/bench_house.py {' '.join(arguments.trees)}"
        arguments.out.write_text(f"# Structure of the package\n\n`{command}`\n\n{text}\n")


def checked_out(tree: str, folder: Path) -> Path:
    """Return a tree as a folder; a commit is unpacked below ``folder``."""
    if Path(tree).is_dir():
        return Path(tree)
    archive = subprocess.run(["git", "archive", tree], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
        packed.extractall(folder / tree, **safely)
    return folder / tree


def facts(tree: Path) -> dict[str, str]:
    """Count files, lines, functions, circles and docstrings of the package in a tree."""
    package = tree / "aqdask"
    files = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in files.items()}
    rest = [path for path in files if not is_simulator(path.relative_to(package).as_posix())]
    sizes = sorted(
        node.end_lineno - node.lineno + 1  # type: ignore[operator]
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    documented = [
        (getattr(node, "name", "module"), ast.get_docstring(node))
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    texts = [text for _, text in documented if text]
    public = [text for name, text in documented if not name.startswith("_")]
    odd = sum(bool(OPENINGS.match(text)) for text in texts)
    circles = import_circles(package, trees)
    readme = (tree / "README.md").read_text()
    return {
        "files / lines": f"{len(files)} / {count(files.values())}",
        "lines without the simulator": str(count(files[path] for path in rest)),
        "of these lines of code (no blank line, comment, docstring)": str(
            sum(code_lines(files[path], trees[path]) for path in rest)
        ),
        "function lines: median / p90 / above 60": f"{statistics.median(sizes):.0f} / "
        f"{sizes[int(0.9 * len(sizes))]} / {sum(size > LONG for size in sizes)}",
        "import circles, function-level ones too (files)": " + ".join(map(str, circles)) or "0",
        "public docstrings": f"{sum(map(bool, public)) / len(public):.0%}",
        "docstrings that open with what, whether, which, how, ...": f"{odd} ({odd / len(texts):.1%})",
        "README words": str(len(readme.split())),
    }


def is_simulator(name: str) -> bool:
    """Tell if a file belongs to the simulator."""
    return name.startswith(SIMULATOR) and name not in KEPT


def count(texts) -> int:
    """Count lines."""
    return sum(text.count("\n") for text in texts)


def code_lines(text: str, tree: ast.Module) -> int:
    """Count lines that hold code."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            held |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first = node.body[0]
            held -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(held)


def import_circles(package: Path, trees: dict[Path, ast.Module]) -> list[int]:
    """Return the sizes of the sets of modules that import each other, in functions too; largest first."""
    names = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in trees
    }
    graph = networkx.DiGraph()
    for name, path in names.items():
        for node in ast.walk(trees[path]):
            found = []
            if isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [target if target in names else str(node.module) for target in found]
            elif isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            graph.add_edges_from((name, target) for target in found if target in names and target != name)
    parts = networkx.strongly_connected_components(graph)
    return sorted((len(part) for part in parts if len(part) > 1), reverse=True)


if __name__ == "__main__":
    main()
