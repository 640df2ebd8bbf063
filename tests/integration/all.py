#!/usr/bin/python3
"""Runs the integration tests: all.py --build FOLDER [--long] [FAMILY | FAMILY.NAME]...

Prints a line per test; the last line is the count.
"""
import argparse
import importlib
import os
import signal
import sys

import harness

FAMILIES = ["mesh", "security", "privacy", "input", "api", "cli"]


def main():
    parser = argparse.ArgumentParser(description="Runs the integration tests.")
    parser.add_argument("--build", default="build", help="folder of weir and weir-worker")
    parser.add_argument("--long", action="store_true", help="also the tests that take minutes")
    parser.add_argument("--list", action="store_true", help="print the tests' names")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not os.access(os.path.join(options.build, "weir"), os.X_OK):
        print("FAIL %s/weir: build it first\n0 passed, 1 failed, 0 skipped" % options.build)
        return 1
    counts = [0, 0, 0]
    known = set()
    for family in FAMILIES:
        module = importlib.import_module(family + "_test")
        tests = module.TESTS + (getattr(module, "LONG_TESTS", []) if options.long else [])
        known |= {family} | {"%s.%s" % (family, test.__name__) for test in tests}
        if options.list:
            print("\n".join("%s.%s" % (family, test.__name__) for test in tests))
            continue
        for i, count in enumerate(harness.run_tests(family, tests, options.build, options.tests)):
            counts[i] += count
    for name in options.tests:
        if name not in known:
            print("FAIL %s: no such test" % name)
            counts[1] += 1
    if not options.list:
        print("%d passed, %d failed, %d skipped" % tuple(counts))
    return 0 if counts[1] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
