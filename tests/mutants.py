"""Break one operator, number or condition of a module at a time: do its tests notice?

`python tests/mutants.py [MODULE]...` prints those that no test notices, and ends with 1 if one of
them is not explained in docs/mutants.md. Mutants live in copies; nothing here is changed.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "mlxspec"
TESTS = {
    "speculative/accept.py": ["speculative/test_accept.py"],
    "speculative/rejection.py": ["speculative/test_rejection.py"],
    "speculative/sample.py": ["speculative/test_sample.py"],
}
"""Modules, and who should notice."""
SECONDS = 120
OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """What was done, and the whole module in which it was."""
    for number, node in enumerate(ast.walk(ast.parse(source))):
        tree = ast.parse(source)
        twin = next(twin for at, twin in enumerate(ast.walk(tree)) if at == number)
        if _mutate(twin):
            line = getattr(node, "lineno", 0)
            yield f"{line}: {ast.unparse(node)} -> {ast.unparse(twin)}", ast.unparse(tree)


def _mutate(node: ast.AST) -> bool:
    """Change this node, if it is one that can be told apart from its mutant."""
    match node:
        case ast.BinOp() | ast.BoolOp() if type(node.op) in OTHERS:
            node.op = OTHERS[type(node.op)]()  # type: ignore[assignment]
        case ast.Compare() if type(node.ops[0]) in OTHERS:
            node.ops[0] = OTHERS[type(node.ops[0])]()  # type: ignore[call-overload]
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            node.op = ast.UAdd()
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant(value=int() | float()):
            node.value += 1
        case _:
            return False
    return True


def survives(module: str, text: str) -> bool:
    """Whether the module's tests pass where this is its text, in a copy of the package."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    paths = [str(ROOT / "tests" / "unit" / it) for it in TESTS[module]]
    with tempfile.TemporaryDirectory() as folder:
        package = shutil.copytree(PACKAGE, Path(folder) / "mlxspec")
        (package / module).write_text(text)
        environment = os.environ | {"PYTHONPATH": folder}
        try:
            done = subprocess.run(
                [*command, *paths], cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def main(modules: list[str]) -> int:
    """Try all mutants of these modules, or of all, on all cores."""
    explained = (ROOT / "docs" / "mutants.md").read_text()
    surprises = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for module in modules or TESTS:
            source = (PACKAGE / module).read_text()
            assert survives(module, source), "the tests fail without a mutant"
            changes, texts = zip(*mutants(source), strict=True)
            alive = pool.map(partial(survives, module), texts)
            for what, lives in zip(changes, alive, strict=True):
                if lives:
                    known = f"`{what.partition(': ')[2]}`" in explained
                    surprises += not known
                    print(f"{module}:{what}{' (explained)' if known else ''}", flush=True)
            print(f"{module}: {len(changes)} mutants", flush=True)
    return int(surprises > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
