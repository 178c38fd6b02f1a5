"""Checks that the modules of each crate form no large import circle.

A module is a file; a module inside a file belongs to the file. A module uses another if a path in its code leads to an
item of the other: in a `use`, or elsewhere. A re-export leads on to the module that defines the item, so the table of
contents of a folder uses nothing by its re-exports. Tests do not count. The check reads the source as text and compiles
nothing. It expands no macro and follows no method, so it may miss an arrow.

    python3 tools/check_modules.py          checks all crates
    python3 tools/check_modules.py CRATE    prints all circles of one crate, also the small ones
"""

import pathlib
import re
import sys
import tempfile

CRATES = pathlib.Path(__file__).resolve().parent.parent / "crates"

# Most modules in a circle. A folder whose table of contents holds types that its files use is such a circle.
LARGEST = 7

# Modules that name every part of their crate, and that every part gets. Arrows to and from them do not count.
HUBS = {
    # AgentContext: the services that all tasks of the agent share.
    "agent": "context",
    # Server: the state that all handlers and tasks of the server share.
    "server": "assembly",
    # Simulation: the state of one run; every part implements its own events on it.
    "simulation": "simulation",
}

WORD = r"[A-Za-z_]\w*"
COMMENT_OR_TEXT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|\bb?r(\#*)".*?"\1|"(?:\\.|[^"\\])*"|'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\\n])'""", re.S
)
TEST = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]")
CHILD = re.compile(rf"\bmod\s+({WORD})\s*;")
USE = re.compile(r"(\bpub\b\s*(?:\([^)]*\)\s*)?)?\buse\s+([^;]+);")
VISIBILITY = re.compile(r"\bpub\s*\([^)]*\)")
PATH = re.compile(rf"\b{WORD}(?:\s*::\s*{WORD})+")


def item_end(text, begin):
    """Position behind the item that begins at `begin`.

    >>> item_end("mod a { fn b() {} } mod c;", 0)
    19
    >>> item_end("mod tests; mod c;", 0)
    10
    """
    depth = 0
    for found in re.compile(r"[{}()\[\];]").finditer(text, begin):
        char, at = found.group(), found.end()
        depth += (char in "{([") - (char in "})]")
        if depth < 0:
            return at - 1
        if depth == 0 and char in "};":
            return at
    return len(text)


def product(text):
    """The code without comments, texts and tests.

    >>> product("use a::b; // c::d")
    'use a::b;  '
    >>> product("#[cfg(test)] mod tests { use a::b; } use c::d;")
    ' use c::d;'
    >>> product("let a: &'static str = \\"b::c\\"; d('\\"', e::f)")
    "let a: &'static str =  ; d( , e::f)"
    """
    text = COMMENT_OR_TEXT.sub(" ", text)
    while found := TEST.search(text):
        text = text[: found.start()] + text[item_end(text, found.end()) :]
    return text


def leaves(tree, before=()):
    """The paths of a `use`, each with the name that it gets.

    >>> list(leaves("crate::a::{self, b::C as D, e::*}"))
    [(('crate', 'a'), 'a'), (('crate', 'a', 'b', 'C'), 'D'), (('crate', 'a', 'e', '*'), '*')]
    """
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(tree):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            parts.append(tree[begin:at])
            begin = at + 1
    for part in filter(None, map(str.strip, [*parts, tree[begin:]])):
        head, brace, rest = part.partition("{")
        path, _, alias = head.partition(" as ")
        path = before + tuple(word.strip() for word in path.split("::") if word.strip())
        if brace:
            yield from leaves(rest.rpartition("}")[0], path)
        else:
            path = path[:-1] if path[-1] == "self" and len(path) > 1 else path
            yield path, alias.strip() or path[-1]


class Crate:
    """The modules of a crate: paths from the root, each with what its code imports and names.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     folder = pathlib.Path(folder)
    ...     (folder / "b").mkdir()
    ...     for file, code in {
    ...         "lib.rs": "mod a; mod b; use std::fmt;",
    ...         "a.rs": "use crate::b::{self, C}; fn f() { b::f(super::b::g()) }",
    ...         "b/mod.rs": "mod c; pub(crate) use c::C; use crate::a; #[cfg(test)] use crate::a::f;",
    ...         "b/c.rs": "pub(in crate::b) struct C(std::io::Error);",
    ...     }.items():
    ...         _ = (folder / file).write_text(code)
    ...     for module, used in Crate(folder).uses().items():
    ...         print(text(module), {text(other): sorted(names) for other, names in used.items()})
    the root {}
    a {'b': ['f', 'g'], 'b::c': ['C']}
    b {}
    b::c {}
    """

    def __init__(self, folder):
        self.named = {}
        self.imported = {}
        self.names = {}
        root = next(root for root in (folder / "lib.rs", folder / "main.rs") if root.exists())
        self.add((), root, folder)

    def add(self, module, file, folder):
        code = product(file.read_text())
        imports = [(bool(public), leaf) for public, tree in USE.findall(code) for leaf in leaves(tree)]
        self.names[module] = {name: path for _, (path, name) in reversed(imports) if name != "*"}
        self.imported[module] = [path for public, (path, _) in imports if not public]
        rest = VISIBILITY.sub("", USE.sub("", code))
        self.named[module] = {tuple(re.split(r"\s*::\s*", path)) for path in PATH.findall(rest)}
        for name in CHILD.findall(code):
            for child in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if child.exists():
                    self.add((*module, name), child, folder / name)

    def absolute(self, module, path, seen=frozenset()):
        """The path from the crate's root; none for a path to another crate."""
        first, rest = path[0], path[1:]
        if first == "crate":
            return rest
        if first == "self":
            return (*module, *rest)
        if first == "super":
            return self.absolute(module[:-1], rest if rest[:1] == ("super",) else ("self", *rest))
        if (*module, first) in self.names:
            return (*module, *path)
        known = self.names[module].get(first)
        if known is None or known[0] == first or first in seen:
            return None
        there = self.absolute(module, known, seen | {first})
        return None if there is None else (*there, *rest)

    def definer(self, path, seen=frozenset()):
        """The module that defines an item, behind all re-exports; none for the item of another crate."""
        length = next(length for length in range(len(path), -1, -1) if path[:length] in self.names)
        module, rest = path[:length], path[length:]
        if not rest or path in seen:
            return module
        exported = self.names[module].get(rest[0])
        if exported is None:
            return module
        there = self.absolute(module, exported)
        return None if there is None else self.definer((*there, *rest[1:]), seen | {path})

    def uses(self):
        """For each module, the modules that it uses, each with the names of the items."""
        uses = {}
        for module in self.names:
            used = uses[module] = {}
            # The import of a module is a name for it; the paths that begin with that name count.
            imports = (path for path in self.imported[module] if self.absolute(module, path) not in self.names)
            for path in sorted({*imports, *self.named[module]}):
                there = self.absolute(module, path)
                definer = None if there is None else self.definer(there)
                if definer not in (None, module):
                    used.setdefault(definer, set()).add(path[-1])
        return uses


def circles(uses):
    """The strongly connected components of more than one module, largest first (Tarjan).

    >>> circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]})
    [['b', 'c']]
    """
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in uses[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            circle = stack[stack.index(module) :]
            del stack[-len(circle) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in uses:
        if module not in index:
            visit(module)
    return sorted(found, key=len, reverse=True)


def without_hub(uses, hub):
    """The arrows that neither begin nor end at the hub."""
    others = {module: used for module, used in uses.items() if module != hub}
    return {module: {other: names for other, names in used.items() if other != hub} for module, used in others.items()}


def text(module):
    return "::".join(module) or "the root"


def describe(circle, uses):
    """The arrows of a circle, one a line."""
    for module in circle:
        for other in circle:
            if other in uses[module]:
                yield f"  {text(module)} → {text(other)}: {', '.join(sorted(uses[module][other]))}"


def main(wanted):
    sys.setrecursionlimit(10_000)
    problems, count = [], 0
    for folder in sorted(CRATES.glob("*/src")):
        name = folder.parent.name
        if wanted and name not in wanted:
            continue
        uses = Crate(folder).uses()
        hub = HUBS.get(name)
        if hub is not None and (hub,) not in uses:
            problems.append(f"{name} has no module {hub}; remove it from HUBS in tools/check_modules.py")
        uses = without_hub(uses, (hub,))
        count += len(uses)
        for circle in circles(uses):
            if wanted or len(circle) > LARGEST:
                rule = f"; at most {LARGEST} may: move what several of them share into a module below them"
                problems.append(f"{name}: {len(circle)} modules form an import circle{rule * (len(circle) > LARGEST)}")
                problems.extend(describe(circle, uses))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{count} modules: no import circle of more than {LARGEST}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
