#!/usr/bin/python3
"""Makes mechanical mutants of the core and counts how many the fast tests and the simulator notice.

    make mutate        or: tests/planted/mutate.py [--seed S] [--mutants N] [--jobs J]

The seed draws places in mesh/*.c and in the functions of mesh/*.h at which one operator is exchanged, one constant is one
more or less, one condition is negated, or one statement is left out. Assertions and the functions that only check are
left alone: they are tests themselves. A mutant that doesn't compile, or of which the compiler makes the same code, is
replaced by the next. Each of the rest is given to the unit tests of the core, the transcripts, 50 seeds of the simulator
and a few of a large site until one fails. What no test notices is a survivor; survivors.txt says which of them nobody could notice.

Results are kept in build/sim/mutants.jsonl as they come, and a run that was interrupted goes on there; the whole is in
build/sim/mutants.json. The exit code is 0 if no more than 15 % survive.
"""
import argparse
import collections
import concurrent.futures
import glob
import hashlib
import json
import os
import random
import re
import resource
import sys

import variant

SEEDS = 50
# Sites of 70 have an interior; of such worlds a few are enough, since each takes as long as ten others.
LARGE_SEEDS = 6
LARGE = ["--nodes", "76", "--site-nodes", "70", "--minutes", "3", "--jobs", "30", "--faults", "mixed:10"]
# The one unit test that takes longer than all of the others is a check of its own: they come first.
SOAKED = "mesh_journal_test"
SOAK = "nothing_acknowledged_is_lost_or_doubled"
SOAK_SEED = "20261124"
KILLED_PERCENT_MIN = 85
EXPLAINED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "survivors.txt")

EXCHANGED = {
    "<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",), "&&": ("||",), "||": ("&&",),
    "+": ("-",), "-": ("+",), "*": ("/",), "/": ("*",), "%": ("*",), "<<": (">>",), ">>": ("<<",),
    "++": ("--",), "--": ("++",), "+=": ("-=",), "-=": ("+=",),
}
TOKEN = re.compile(r"""
    (?P<skip>/\*.*?\*/|//[^\n]*|\s+)
  | (?P<line>^[ \t]*\#(?:[^\n\\]|\\.)*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|\d[\w.]*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<operator>->|\+\+|--|<<=|>>=|<<|>>|[-+*/%&|^!=<>]=|&&|\|\||\.\.\.|[-+*/%&|^~!=<>?:;,.(){}\[\]])
""", re.X | re.S | re.M)

Token = collections.namedtuple("Token", ["kind", "text", "at"])
Mutant = collections.namedtuple("Mutant", ["path", "at", "line", "old", "new", "text"])


def tokens_of(text):
    tokens = []
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if not found:
            raise ValueError("no C token at: " + text[at:at + 20])
        at = found.end()
        if found.lastgroup not in ("skip", "line"):
            tokens.append(Token(found.lastgroup, found.group(), found.start()))
    return tokens


def closing(tokens, index):
    """The index of the bracket that closes the one at `index`."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    depth = 0
    for i in range(index, len(tokens)):
        if tokens[i].kind == "operator":
            depth += tokens[i].text in pairs
            depth -= tokens[i].text in pairs.values()
        if depth == 0:
            return i
    raise ValueError("a bracket is not closed")


def function_bodies(tokens):
    """(name, first, last) of each function's body: a brace at the outermost level behind a parameter list."""
    index = 0
    name = None
    while index < len(tokens):
        token = tokens[index]
        if token.text == "(" and index > 0 and tokens[index - 1].kind == "word":
            name = tokens[index - 1].text
            index = closing(tokens, index)
            if index + 1 < len(tokens) and tokens[index + 1].text == "{":
                end = closing(tokens, index + 1)
                yield name, index + 1, end
                index = end
        elif token.text == "{":
            index = closing(tokens, index)
        index += 1


def is_check(name):
    return name.endswith("_check") or name.startswith("check") or "_check_" in name


def is_static(tokens, body):
    """Whether the function whose body begins there is declared so."""
    index = body - 1
    while index >= 0 and tokens[index].text not in (";", "}"):
        if tokens[index].text == "static":
            return True
        index -= 1
    return False


def checks_of(tokens):
    """Names of the functions that only check: by their names, and static ones that nothing but checks calls."""
    bodies = list(function_bodies(tokens))
    callers = {name: set() for name, first, _ in bodies if is_check(name) or is_static(tokens, first)}
    for caller, first, last in bodies:
        for index in range(first, last):
            if tokens[index].text in callers:
                callers[tokens[index].text].add(caller)
    checks = {name for name in callers if is_check(name)}
    while True:
        more = {name for name, by in callers.items() if by and by <= checks} - checks
        if not more:
            return checks
        checks |= more


def is_binary(tokens, index):
    """Whether the operator stands between two values: `*`, `-`, `+` and `&` may stand before one."""
    before = tokens[index - 1]
    return before.kind in ("number", "word") and before.text not in ("return", "case", "else", "const", "struct") or \
        before.text in (")", "]")


def statements(tokens, first, last):
    """(first, last) tokens of expression statements and jumps; none declares anything or returns a value."""
    begins = True
    index = first
    while index <= last:
        token = tokens[index]
        if begins and token.kind == "word" and token.text not in (
                "if", "for", "while", "do", "switch", "case", "default", "else", "const", "struct", "enum", "static"):
            end = index
            while tokens[end].text != ";" and tokens[end].text not in "{}":
                end = closing(tokens, end) + 1 if tokens[end].text in "([" else end + 1
            declares = tokens[index + 1].kind == "word" and token.text != "return"
            returns = token.text == "return" and end > index + 1
            if tokens[end].text == ";" and not declares and not returns:
                yield index, end
        if begins and token.text in ("if", "for", "while", "switch"):
            index = closing(tokens, index + 1)
            begins = True
        else:
            begins = token.text in ("{", "}", ";", "else", "do", ":")
        index += 1


def changes(text):
    """(position, old, new) of all mutations of one file."""
    tokens = tokens_of(text)
    checks = checks_of(tokens)
    for name, first, last in function_bodies(tokens):
        if name in checks:
            continue
        skip_until = -1
        for index in range(first, last):
            token = tokens[index]
            if token.text in ("assert", "static_assert"):
                skip_until = closing(tokens, index + 1)
            if index <= skip_until:
                continue
            if token.kind == "operator" and token.text in EXCHANGED:
                if token.text not in "+-*" or is_binary(tokens, index):
                    for new in EXCHANGED[token.text]:
                        yield token.at, token.text, new
            elif token.kind == "number" and re.fullmatch(r"\d+", token.text):
                for more in (1, -1):
                    yield token.at, token.text, str(int(token.text) + more)
            elif token.text == "if":
                end = closing(tokens, index + 1)
                condition = text[tokens[index + 1].at:tokens[end].at + 1]
                yield tokens[index + 1].at, condition, "(!%s)" % condition
        for begin, end in statements(tokens, first + 1, last - 1):
            if tokens[begin].text not in ("assert", "static_assert"):
                dropped = text[tokens[begin].at:tokens[end].at + 1]
                yield tokens[begin].at, dropped, ";" + "\n" * dropped.count("\n")


def all_mutants():
    for path in sorted(glob.glob(os.path.join(variant.ROOT, "mesh", "*.[ch]"))):
        path = os.path.relpath(path, variant.ROOT)
        text = variant.read(path)
        for at, old, new in changes(text):
            changed = text[:at] + new + text[at + len(old):]
            yield Mutant(path, at, text.count("\n", 0, at) + 1, old, new, changed)


def words(text):
    return " ".join(text.split())


def name_of(mutant):
    return "%s:%d: %s -> %s" % (mutant.path, mutant.line, words(mutant.old), words(mutant.new))


Check = collections.namedtuple("Check", ["name", "program", "arguments", "cpu_s"])


def all_checks():
    for test in variant.UNIT_TESTS:
        if test == SOAKED:
            yield Check(test, test, [SOAK_SEED, "*", SOAK], 0)
            yield Check(SOAK, test, [SOAK_SEED, SOAK], 0)
        else:
            yield Check(test, test, [], 0)
    for scenario in sorted(glob.glob(os.path.join(variant.ROOT, "tests", "scenarios", "*.txt"))):
        yield Check(os.path.basename(scenario), "sim", ["--scenario", scenario], 0)
    for seed in range(1, SEEDS + 1):
        yield Check("seed %d" % seed, "sim", ["--seed", str(seed), "--hash-only"], 0)
    for seed in range(1, LARGE_SEEDS + 1):
        yield Check("large seed %d" % seed, "sim", ["--seed", str(seed), "--hash-only"] + LARGE, 0)


def measured(base):
    """The checks, which the core as it is must pass, quickest first: each mutant is killed as soon as can be."""
    checks = []
    for check in all_checks():
        program = os.path.join(base.folder, "whole-" + check.program)
        if not os.path.exists(program):
            base.link(check.program, program)
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        code, output = variant.run([program, *check.arguments], variant.SEED_CPU_S)
        if code != 0:
            raise SystemExit("mutate: without any mutant %s fails: %s" % (check.name, variant.verdict(code, output)))
        checks.append(check._replace(cpu_s=sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before))
    checks.sort(key=lambda check: check.cpu_s)
    print("%d checks take %.1f s" % (len(checks), sum(check.cpu_s for check in checks)), flush=True)
    return checks


def killer(mutated, checks):
    """What noticed the mutant, or None. Five times what a check takes otherwise is as good as no end."""
    for check in checks:
        code, output = variant.run([mutated.program(check.program), *check.arguments], int(2 + 5 * check.cpu_s))
        if code != 0:
            what = variant.verdict(code, output) if check.program == "sim" else ""
            return check.name + (": " + what if what else "")
    return None


def judge(base, checks, mutant):
    """Returns (state, by): killed, survived, or no mutant at all."""
    try:
        mutated = variant.Variant(base, mutant.path, mutant.text)
    except variant.Unbuildable:
        return "does not compile", None
    try:
        if not mutated.differs():
            return "same code", None
        by = killer(mutated, checks)
        return ("killed" if by else "survived"), by
    finally:
        mutated.close()


def tree_hash():
    """Of all that decides about a mutant: the core, the simulator, the tests, and this."""
    digest = hashlib.sha256()
    for pattern in ("mesh/*.[ch]", "node/sim/*.[ch]", "tests/unit/mesh_*", "tests/scenarios/*.txt", "tests/planted/*.py"):
        for path in sorted(glob.glob(os.path.join(variant.ROOT, pattern))):
            with open(path, "rb") as file:
                digest.update(path[len(variant.ROOT):].encode() + b"\0" + file.read())
    return digest.hexdigest()


class Ledger:
    """What is known already, of this very tree, in lines of JSON."""

    def __init__(self, tree):
        self.path = os.path.join(variant.OUT, "mutants.jsonl")
        self.tree = tree
        self.known = {}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line) if line.endswith("\n") else {}
                    if entry.get("tree") == tree:
                        self.known[entry["mutant"]] = (entry["state"], entry["by"])

    def add(self, mutant, state, by):
        self.known[mutant] = (state, by)
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"tree": self.tree, "mutant": mutant, "state": state, "by": by}) + "\n")


def run_all(base, mutants, count, ledger):
    """Judges mutants in their order until `count` have been judged that are mutants at all."""
    checks = measured(base)
    judged = []

    def one(mutant):
        name = "%s @%d" % (name_of(mutant), mutant.at)
        state, by = ledger.known.get(name) or judge(base, checks, mutant)
        return name, state, by

    with concurrent.futures.ThreadPoolExecutor(variant.JOBS) as pool:
        waiting = collections.deque()
        place = 0
        while len(judged) < count and (waiting or place < len(mutants)):
            while len(waiting) < 2 * variant.JOBS and place < len(mutants):
                waiting.append((mutants[place], pool.submit(one, mutants[place])))
                place += 1
            mutant, future = waiting.popleft()
            name, state, by = future.result()
            if name not in ledger.known:
                ledger.add(name, state, by)
            if state not in ("killed", "survived"):
                continue
            judged.append((mutant, state, by))
            if state == "survived" or len(judged) % 20 == 0:
                print("%4d  %-9s %s" % (len(judged), state, name_of(mutant)), flush=True)
        for _, future in waiting:
            future.cancel()
    return judged


def place_of(mutant):
    """What stays the same when lines move: the file, the line's text, and the change."""
    return "%s: %s: %s -> %s" % (mutant.path, words(variant.read(mutant.path).splitlines()[mutant.line - 1]),
                                 words(mutant.old), words(mutant.new))


def read_explained():
    """Lines `file: the line's text: old -> new | why nobody could notice`."""
    explained = {}
    if os.path.exists(EXPLAINED):
        with open(EXPLAINED, encoding="utf-8") as lines:
            for line in lines:
                if line.strip() and not line.startswith("#"):
                    mutant, _, why = line.strip().rpartition(" | ")
                    explained[mutant] = why
    return explained


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="draws the mutants (1)")
    parser.add_argument("--mutants", type=int, default=200, help="how many (200)")
    parser.add_argument("--count", action="store_true", help="only say how many there are to draw from")
    parser.add_argument("--jobs", type=int, default=variant.JOBS, help="how many at a time (%d)" % variant.JOBS)
    options = parser.parse_args()
    variant.JOBS = options.jobs
    mutants = list(all_mutants())
    print("seed %d draws %d of %d places" % (options.seed, options.mutants, len(mutants)), flush=True)
    if options.count:
        return 0
    random.Random(options.seed).shuffle(mutants)
    base = variant.Base("mutants", tests=True)
    judged = run_all(base, mutants, options.mutants, Ledger(tree_hash()))
    killed = sum(state == "killed" for _, state, _ in judged)
    explained = read_explained()
    survivors = []
    for mutant, state, _ in judged:
        if state == "survived":
            survivors.append({"at": "%s:%d" % (mutant.path, mutant.line), "old": words(mutant.old),
                              "new": words(mutant.new), "why": explained.get(place_of(mutant))})
    with open(os.path.join(variant.OUT, "mutants.json"), "w", encoding="utf-8") as out:
        json.dump({"seed": options.seed, "mutants": len(judged), "killed": killed, "survivors": survivors,
                   "each": [{"at": "%s:%d" % (m.path, m.line), "old": words(m.old), "new": words(m.new), "by": by}
                            for m, state, by in judged if state == "killed"]}, out, indent=1)
        out.write("\n")
    print("%d of %d mutants killed; of %d survivors %d are explained" % (
        killed, len(judged), len(survivors), sum(s["why"] is not None for s in survivors)))
    return 0 if 100 * killed >= KILLED_PERCENT_MIN * len(judged) else 1


if __name__ == "__main__":
    sys.exit(main())
