"""docs/rfc.md from the catalogues docs/rfc/NUMBER.toml and the markers beside code and tests.

Code is marked with comments `# rfc: 9293:MUST-24 MUST-25, 5482:3.1` directly above a function or in it, tests with
`@pytest.mark.rfc("9293:MUST-28")`. `python -m tools.rfc` writes the document, and
tests/source/test_rfc.py checks it.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = ("MUST", "SHOULD", "MAY")
STATUSES = ("", "not", "partly", "n/a")
COMPARED = {
    "whole": "compared with the whole text of the RFC",
    "extracts": "compared with extracts that hold the RFC's requirements, not with its whole text",
    "forerunner": "compared with what the RFC has replaced, a draft of it or an earlier RFC, and with extracts",
    "": "written from knowledge of the RFC: it may lack requirements",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Requirement:
    """One line of a catalogue, and where it is done and tested."""

    name: str
    section: str
    level: str
    text: str
    status: str = ""
    reason: str = ""
    functions: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)


@dataclass
class Catalogue:
    """One RFC. `compared`: a key of COMPARED, what the list of requirements rests on."""

    number: int
    title: str
    requirements: dict[str, Requirement]
    compared: str = ""


@dataclass(frozen=True)
class Marker:
    """A name of a requirement, and the function or test that it stands at ("" when it stands at none)."""

    requirement: str
    place: str
    where: str


def read_catalogue(path: Path) -> Catalogue:
    """Raises ValueError, in one line, when the file is not as it should be."""
    table = tomllib.loads(path.read_text())
    requirements: dict[str, Requirement] = {}
    for row in table["requirement"]:
        strange = set(row) - {"id", "section", "level", "text", "status", "reason"}
        if strange:
            raise ValueError(f"{path.name}: unknown keys {sorted(strange)}")
        name = f"{path.stem}:{row['id']}"
        found = Requirement(
            name, row["section"], row["level"], row["text"], row.get("status", ""), row.get("reason", "")
        )
        if name in requirements:
            raise ValueError(f"{path.name}: {name} is there twice")
        if found.level not in LEVELS or found.status not in STATUSES:
            raise ValueError(f"{path.name}: {name}: level {found.level!r}, status {found.status!r}")
        if found.status and not found.reason:
            raise ValueError(f"{path.name}: {name}: a status needs a reason")
        requirements[name] = found
    compared = table.get("compared", "")
    if compared not in COMPARED:
        raise ValueError(f"{path.name}: compared {compared!r}")
    return Catalogue(int(path.stem), table["title"], requirements, compared)


def names_in(text: str) -> Iterator[str]:
    """The requirements of a marker: `9293:MUST-24 MUST-25, 5482:3.1` names three."""
    for part in text.split(","):
        number, _, rest = part.strip().partition(":")
        for name in rest.split() or [""]:
            yield f"{number}:{name}"


def first_line(node: Function) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def function_at(functions: list[Function], lines: list[str], line: int) -> str:
    """The innermost function around a comment's line, or the one that begins below it."""
    around = [f for f in functions if first_line(f) <= line <= (f.end_lineno or 0)]
    if around:
        return max(around, key=first_line).name
    while line < len(lines) and lines[line - 1].lstrip().startswith("#"):
        line += 1
    return next((f.name for f in functions if first_line(f) == line), "")


def code_markers(text: str, name: str) -> list[Marker]:
    """Markers in Python; `name` is the file's, for the reader."""
    found = []
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, Function)]
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.string.startswith("# rfc:"):
            line = token.start[0]
            function = function_at(functions, lines, line)
            place = f"{name}: {function}" if function else ""
            found += [Marker(n, place, f"{name}:{line}") for n in names_in(token.string[len("# rfc:") :])]
    return found


def declaration_markers(text: str, name: str) -> list[Marker]:
    """Markers in .pxd files, above a declaration `cdef inline uint32_t f(...)` or `cdef struct S:`."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("# rfc:"):
            below = next((x for x in lines[number:] if not x.lstrip().startswith("#")), "")
            match = re.search(r"(\w+)\s*\(|(?:struct|enum)\s*(\w*)", below)
            place = f"{name}: {match[1] or match[2]}".rstrip(": ") if match else ""
            found += [Marker(n, place, f"{name}:{number}") for n in names_in(line.split("rfc:")[1])]
    return found


def test_markers(text: str, name: str) -> list[Marker]:
    """`@pytest.mark.rfc(...)` on tests; on anything else it stands at nothing."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function | ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rfc":
                place = f"{name}: {node.name}" if node.name.startswith("test_") else ""
                names = [a.value if isinstance(a, ast.Constant) else ast.unparse(a) for a in mark.args]
                found += [Marker(str(n), place, f"{name}:{mark.lineno}") for n in names or [""]]
    return found


def tracked(root: Path, folder: str, *suffixes: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files", folder], cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / n for n in names.splitlines() if n.endswith(suffixes) and (root / n).exists()]


def all_markers(root: Path) -> tuple[list[Marker], list[Marker]]:
    """Of code, and of tests."""
    code: list[Marker] = []
    for path in tracked(root, "src/neatstack", ".py", ".pxd"):
        text = path.read_text()
        if "# rfc:" in text:
            name = str(path.relative_to(root / "src/neatstack"))
            code += (code_markers if path.suffix == ".py" else declaration_markers)(text, name)
    tests: list[Marker] = []
    for path in tracked(root, "tests", ".py"):
        text = path.read_text()
        if "mark.rfc" in text and "tests/source" not in str(path):
            tests += test_markers(text, str(path.relative_to(root / "tests")))
    return code, tests


def join(catalogues: list[Catalogue], code: list[Marker], tests: list[Marker]) -> list[str]:
    """Put the markers' places into the requirements. What is wrong, a line each."""
    known = {name: r for c in catalogues for name, r in c.requirements.items()}
    wrong = []
    for markers, which in ((code, "functions"), (tests, "tests")):
        for m in markers:
            if not m.place:
                wrong.append(f"{m.where}: the marker stands at no {which[:-1]}")
            elif m.requirement not in known:
                wrong.append(f"{m.where}: no requirement {m.requirement}")
            elif m.place not in getattr(known[m.requirement], which):
                getattr(known[m.requirement], which).append(m.place)
    for r in known.values():
        if r.level == "MUST" and not r.status and not r.functions:
            wrong.append(f"{r.name}: no function is marked")
        if r.level == "MUST" and not r.status and not r.tests:
            wrong.append(f"{r.name}: no test is marked")
        if r.status in ("not", "n/a") and r.functions and r.tests:
            wrong.append(f"{r.name}: is marked by now; take its status away")
        if r.status == "partly" and not r.tests:
            wrong.append(f"{r.name}: no test is marked for what is done of it")
    return wrong


def row(r: Requirement) -> str:
    done = "done" if r.functions and r.tests else "optional, not marked"
    status = f"{r.status}: {r.reason}" if r.status else done
    name = r.name.partition(":")[2]
    functions, tests = ("<br>".join(f"`{p}`" for p in places) for places in (r.functions, r.tests))
    return f"| {r.section} | {name} | {r.text} | {r.level} | {functions} | {tests} | {status} |"


def document(catalogues: list[Catalogue], notes: str) -> str:
    lines = [
        "# RFC section → requirement → function → test",
        "",
        "Written by `make docs` from `docs/rfc/*` and the markers beside code and tests: do not edit.",
        "Functions are below `src/neatstack/`, tests below `tests/`. *n/a*: it asks nothing of this stack.",
        "",
        "What the list of an RFC's requirements rests on; each count is of what is listed:",
        "",
    ]
    for compared, what in COMPARED.items():
        numbers = [str(c.number) for c in catalogues if c.compared == compared]
        if numbers:
            lines.append(f"- {', '.join(numbers)}: {what}.")
    for c in catalogues:
        lines += ["", f"## RFC {c.number}, {c.title}", ""]
        musts = [r for r in c.requirements.values() if r.level == "MUST"]
        tied = sum(1 for r in musts if not r.status)
        lines += [f"{tied} of {len(musts)} MUSTs have function and test.", ""]
        lines += ["| section | id | requirement | level | function | test | status |", "|---|---|---|---|---|---|---|"]
        lines += [row(r) for r in c.requirements.values()]
    return "\n".join(lines) + "\n\n" + notes


def generate(root: Path) -> tuple[str, list[str]]:
    """The document, and what is wrong with catalogues and markers."""
    paths = sorted((root / "docs/rfc").glob("*.toml"), key=lambda p: int(p.stem))
    catalogues = [read_catalogue(p) for p in paths]
    wrong = join(catalogues, *all_markers(root))
    return document(catalogues, (root / "docs/rfc/notes.md").read_text()), wrong


def main() -> int:
    text, wrong = generate(ROOT)
    (ROOT / "docs/rfc.md").write_text(text)
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
