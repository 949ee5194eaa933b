"""Every reason to skip, drop or shed that the code can give stands in the tables that the docs are made from."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shadowproxy.pairs import adoption
from shadowproxy.pairs.ledger import DROPPED, SHED, SKIPPED

PACKAGE = Path(__file__).parent.parent / "shadowproxy"
TABLES = {"skip": SKIPPED, "drop": DROPPED, "_refused": SHED}
PASSED_ON = {"reason", "self._admission.refusal", "policy.off", "pair.dropped", "self.dropped"}
"""What is decided at one place and counted at another; the first is looked at, too."""


def constants(tree: ast.Module) -> dict[str, str]:
    """What the module's names stand for, where that is text."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target): str(node.value.value) for target in targets}
    return found


def parts(value: ast.expr | None) -> Iterator[ast.expr]:
    """What an expression may turn out to be."""
    if isinstance(value, ast.IfExp):
        yield from (*parts(value.body), *parts(value.orelse))
    elif isinstance(value, ast.BoolOp):
        for one in value.values:
            yield from parts(one)
    elif value is not None:
        yield value


def given(tree: ast.Module, *, decides: bool) -> Iterator[tuple[str, ast.expr]]:
    """(method, reason): `ledger.skip(…)`, `ledger.drop(…)`, a gate's `_refused(…)`, and where the module decides for
    others, what `refusal` returns and what is put in `dropped` or `off`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            method, owner = node.func.attr, ast.unparse(node.func.value)
            if method in TABLES and ("ledger" in owner or method == "_refused"):
                yield method, node.args[0]
        elif decides and isinstance(node, ast.FunctionDef) and node.name == "refusal":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from (("skip", part) for part in parts(inner.value))
        elif decides and isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            method = "drop" if target.endswith(".dropped") else "skip"
            if method == "drop" or target in ("off", "reason"):
                yield from ((method, part) for part in parts(node.value))


def text(value: ast.expr, names: Mapping[str, str]) -> str:
    """The reason that an expression is, or how it is written where that can't be told."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func)
    if isinstance(value, ast.Constant):
        return str(value.value)
    return names.get(ast.unparse(value), ast.unparse(value))


def reasons(folder: Path = PACKAGE) -> set[tuple[str, str, str]]:
    """(file, method, reason)"""
    found = set()
    files = (*(folder / "proxy").glob("*.py"), *(folder / "pairs").glob("*.py"))
    trees = {path.name: ast.parse(path.read_text()) for path in files}
    # A name that is imported is some other file's.
    names = {name: value for tree in trees.values() for name, value in constants(tree).items()}
    for file, tree in trees.items():
        for method, value in given(tree, decides=file in ("admission.py", "mirror.py")):
            found.add((file, method, text(value, names | constants(tree))))
    return found


def unknown(folder: Path = PACKAGE) -> list[tuple[str, str, str]]:
    known = PASSED_ON | {""}
    return sorted(entry for entry in reasons(folder) if entry[2] not in known | TABLES[entry[1]].keys())


def test_every_reason_in_the_code_is_in_the_table() -> None:
    assert unknown() == []


@pytest.mark.parametrize(
    "line", ['recorder.ledger.skip("new")', "self._ledger.drop(NEW, 3)", "self._ledger.drop(somewhere.NEW)"]
)
def test_a_reason_that_is_not_in_the_table_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "new.py").write_text(f'NEW: Final = "brand_new"\n{line}\n')
    assert len(unknown(tmp_path)) == 1


@pytest.mark.parametrize("method", TABLES)
def test_every_reason_in_the_table_is_in_the_code(method: str) -> None:
    used = {reason for _, found, reason in reasons() if found == method}
    # Goes into the account of a producer that has died, and has no ledger any more.
    used.add(adoption.CRASHED)
    assert TABLES[method].keys() - used == set()


def test_each_is_a_label_and_described_by_a_sentence() -> None:
    for table in TABLES.values():
        for reason, description in table.items():
            assert reason.replace("_", "").isalpha()
            assert reason.islower()
            assert description.endswith(".")
