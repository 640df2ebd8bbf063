#!/usr/bin/python3
"""Plants bugs in the core, one at a time, and counts the seeds that the simulator takes to catch each.

    make planted        or: tests/planted/planted.py [--seeds N] [--first N] [NAME...]

bugs.txt says what is planted where. What catches a bug is a claim of node/sim/check.c, an assertion of the core, or
that a run does not end; transcripts are not asked, and a unit test only where the table says that the bug is caught by
it. The core as it is must pass the same seeds. The result is in build/sim/planted.json, all together and apart: what
the simulator's seeds were to catch, and what a unit test. The exit code is 0 if every bug was caught, 1 if not, 2 if the
table is stale.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import sys

import variant

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bugs.txt")
FIELDS = ("bug", "why", "file", "in", "old", "new", "with", "by")
WEATHER_SEEDS = 5  # that the core as it is must pass in worlds of other options
UNIT_SEEDS = 5     # of a unit test: each has many claims, and a soak of its own behind them

Bug = collections.namedtuple("Bug", ["name", "why", "file", "text", "line", "world", "test"])


class Stale(Exception):
    """A line of the table that no longer fits the tree."""


def function_span(text, name):
    """Where the definition of that function begins and ends."""
    found = list(re.finditer(r"^[a-z][^\n;#]*\b%s\([^;{]*\)\n\{.*?^\}\n" % re.escape(name), text, re.M | re.S))
    return found[0].span() if len(found) == 1 else None


def planted_text(fields, where):
    """The file's text with the bug in it; spaces and line breaks of `old` stand for any."""
    text = variant.read(fields["file"])
    begin, end = 0, len(text)
    if "in" in fields:
        span = function_span(text, fields["in"])
        if span is None:
            raise Stale("%s: %s has no single function %s" % (where, fields["file"], fields["in"]))
        begin, end = span
    pattern = r"\s+".join(re.escape(word) for word in fields["old"].split())
    found = list(re.finditer(pattern, text[begin:end]))
    if len(found) != 1:
        raise Stale("%s: the old text of '%s' occurs %d times in %s" % (
            where, fields["bug"], len(found), fields.get("in", fields["file"])))
    at = begin + found[0].start()
    until = begin + found[0].end()
    return text[:at] + fields.get("new", ";" if fields["old"][-1] in ";}" else "") + text[until:], text.count("\n", 0, at) + 1


def read_bugs():
    bugs = []
    stale = []
    fields = {}
    name = os.path.relpath(TABLE, variant.ROOT)
    with open(TABLE, encoding="utf-8") as table:
        lines = table.read().split("\n") + [""]
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        if line.strip():
            word, _, rest = line.partition(" ")
            if word not in FIELDS or word in fields:
                raise Stale("%s:%d: '%s' is no field, or comes twice" % (name, number, word))
            fields[word] = rest.strip()
            continue
        if fields:
            missing = [field for field in ("bug", "why", "file", "old") if not fields.get(field)]
            if missing:
                raise Stale("%s:%d: the bug before this line has no '%s'" % (name, number, missing[0]))
            try:
                text, at = planted_text(fields, "%s:%d" % (name, number))
                bugs.append(Bug(fields["bug"], fields["why"], fields["file"], text, at,
                                tuple(fields.get("with", "").split()), fields.get("by")))
            except Stale as mistake:
                stale.append(str(mistake))
            fields = {}
    if stale:
        raise Stale("\nplanted: ".join(stale))
    if len({bug.name for bug in bugs}) != len(bugs):
        raise Stale("%s: two bugs have one name" % name)
    return bugs


def hunt(base, bug, seeds):
    """Returns what is told of one bug: after how many seeds it was caught, and by what."""
    try:
        planted = variant.Variant(base, bug.file, bug.text)
    except variant.Unbuildable as refusal:
        raise Stale("%s does not compile: %s" % (bug.name, refusal)) from refusal
    try:
        if not planted.differs():
            raise Stale("%s: the compiler makes the same of it" % bug.name)
        caught = None
        for seed in range(1, (min(seeds, UNIT_SEEDS) if bug.test else seeds) + 1):
            caught = variant.run_unit(planted.program(bug.test), seed) if bug.test else \
                variant.run_seed(planted.program("sim"), seed, bug.world)
            if caught:
                break
    finally:
        planted.close()
    told = {"name": bug.name, "why": bug.why, "file": "%s:%d" % (bug.file, bug.line),
            "with": " ".join(bug.world), "caught": caught is not None,
            "seeds": seed, "by": caught, "test": bug.test}
    print("%-34s %s" % (bug.name, "%3d seed%s  %s" % (seed, " " if seed == 1 else "s", caught) if caught
                        else "NOT CAUGHT in %d seeds" % seed), flush=True)
    return told


def sound(base, seeds, bugs):
    """The core as it is, over the same seeds; over a few in the worlds and tests that single bugs ask for."""
    program = os.path.join(base.folder, "weir-sim")
    base.link("sim", program)
    worlds = {bug.world for bug in bugs}
    failed = False
    for test in sorted({bug.test for bug in bugs if bug.test}):
        base.link(test, os.path.join(base.folder, test))
        for seed in range(1, min(seeds, UNIT_SEEDS) + 1):
            what = variant.run_unit(os.path.join(base.folder, test), seed)
            if what:
                print("%s %d fails without a planted bug: %s" % (test, seed, what), flush=True)
                failed = True
    runs = [(seed, ()) for seed in range(1, seeds + 1)] if any(not bug.test for bug in bugs) else []
    runs += [(seed, world) for world in sorted(worlds) for seed in range(1, min(seeds, WEATHER_SEEDS) + 1) if world]
    with concurrent.futures.ThreadPoolExecutor(variant.JOBS) as pool:
        broken = list(pool.map(lambda run: variant.run_seed(program, *run), runs))
    for (seed, world), what in zip(runs, broken):
        if what:
            print("seed %d fails without a planted bug: %s; replay: weir sim --seed %d %s" % (
                seed, what, seed, " ".join(world)), flush=True)
    return not failed and not any(broken)


def summary(told):
    """Of the bugs that these tell of: how many there were, how many were caught, and by which seed each."""
    return {"bugs": len(told), "caught": sum(bug["caught"] for bug in told),
            "seeds": {bug["name"]: bug["seeds"] for bug in told if bug["caught"]}}


def in_words(what, part):
    taken = sorted(part["seeds"].values())
    seeds = ": %d by the first, all by number %d at the latest" % (taken.count(1), taken[-1]) if taken else ""
    return "%d of %d planted bugs caught by %s%s" % (part["caught"], part["bugs"], what, seeds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=60, help="seeds played per bug at most (60)")
    parser.add_argument("--first", type=int, help="only the first bugs of the table")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these bugs")
    options = parser.parse_args()
    try:
        bugs = read_bugs()
        unknown = sorted(set(options.names) - {bug.name for bug in bugs})
        if unknown:
            raise Stale("no bug is named %s" % unknown[0])
        bugs = [bug for bug in bugs if not options.names or bug.name in options.names][:options.first]
        base = variant.Base("planted", tests=any(bug.test for bug in bugs))
        clean = sound(base, options.seeds, bugs)
        with concurrent.futures.ThreadPoolExecutor(variant.JOBS) as pool:
            told = list(pool.map(lambda bug: hunt(base, bug, options.seeds), bugs))
    except (Stale, variant.Unbuildable) as mistake:
        print("FAIL planted: %s" % mistake, file=sys.stderr)
        return 2
    parts = {"simulator": summary([bug for bug in told if not bug["test"]]),
             "unit_tests": summary([bug for bug in told if bug["test"]])}
    caught = sum(bug["caught"] for bug in told)
    with open(os.path.join(variant.OUT, "planted.json"), "w", encoding="utf-8") as out:
        json.dump({"bugs": len(told), "caught": caught, "sound": clean, "seeds_at_most": options.seeds,
                   "unit_seeds_at_most": min(options.seeds, UNIT_SEEDS), **parts, "each": told}, out, indent=1)
        out.write("\n")
    print("%d of %d planted bugs caught" % (caught, len(told)))
    print(in_words("the simulator's seeds", parts["simulator"]))
    print(in_words("unit tests", parts["unit_tests"]))
    return 0 if clean and caught == len(told) else 1


if __name__ == "__main__":
    sys.exit(main())
