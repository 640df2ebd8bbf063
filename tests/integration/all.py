#!/usr/bin/python3
"""Runs the integration tests: all.py --build FOLDER [--long] [FAMILY | FAMILY.NAME]...

Some run at a time, each in a process and a folder of its own. Prints a line per test; the last line is the count.
"""
import argparse
import concurrent.futures
import importlib
import multiprocessing
import os
import signal
import sys

import harness

FOLDER = os.path.dirname(os.path.abspath(__file__))
FAMILIES = sorted(name[:-len("_test.py")] for name in os.listdir(FOLDER) if name.endswith("_test.py"))
# Tests mostly wait, but two meshes at work are what two cores can bear.
AT_ONCE = max(2, len(os.sched_getaffinity(0)) // 2)


def find_tests(long):
    """Test functions by name, in order; those that must not share the machine are listed in their family's ALONE."""
    tests, alone = {}, []
    for family in FAMILIES:
        module = importlib.import_module(family + "_test")
        for test in module.TESTS + (getattr(module, "LONG_TESTS", []) if long else []):
            name = "%s.%s" % (family, test.__name__)
            tests[name] = test
            if test in getattr(module, "ALONE", []):
                alone.append(name)
    return tests, alone


def run_named(name, build, long):
    return harness.run_test(name, find_tests(long)[0][name], build)


def begin_worker():
    harness.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def run_all(names, alone, options):
    """Counts of passed, failed and skipped."""
    counts = [0, 0, 0]
    shared = [name for name in names if name not in alone]
    for workers, batch in ((AT_ONCE, shared), (1, [name for name in names if name in alone])):
        with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), begin_worker) as pool:
            waiting = [pool.submit(run_named, name, options.build, options.long) for name in batch]
            for done in concurrent.futures.as_completed(waiting):
                result, line = done.result()
                counts[result] += 1
                print(line, flush=True)
    return counts


def main():
    parser = argparse.ArgumentParser(description="Runs the integration tests.")
    parser.add_argument("--build", default="build", help="folder of weir and weir-worker")
    parser.add_argument("--long", action="store_true", help="also the tests that take minutes")
    parser.add_argument("--list", action="store_true", help="print the tests' names")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    tests, alone = find_tests(options.long)
    if options.list:
        print("\n".join(tests))
        return 0
    if not os.access(os.path.join(options.build, "weir"), os.X_OK):
        print("FAIL %s/weir: build it first\n0 passed, 1 failed, 0 skipped" % options.build)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = options.tests or FAMILIES
    names = [name for name in tests if any(name == w or name.startswith(w + ".") for w in wanted)]
    unknown = [w for w in wanted if not any(name == w or name.startswith(w + ".") for name in tests)]
    for word in unknown:
        print("FAIL %s: no such test" % word)
    passed, failed, skipped = run_all(names, alone, options)
    print("%d passed, %d failed, %d skipped" % (passed, failed + len(unknown), skipped))
    return 0 if failed == 0 and not unknown else 1


if __name__ == "__main__":
    sys.exit(main())
