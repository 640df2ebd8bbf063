#!/usr/bin/python3
"""The scripts around the simulator: tests/sim/scripts_test.py SIMULATOR. Studies are run small, for the figures' names."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "planted")]
sys.dont_write_bytecode = True

import long  # noqa: E402
import planted  # noqa: E402
import report  # noqa: E402

SIMULATOR = os.path.abspath(sys.argv.pop(1))
SMALL = {0: "8"}  # sites of a study that likes its own size; nodes of others:
SMALL_NODES = "30"


def read(path):
    with open(os.path.join(report.ROOT, path), encoding="utf-8") as text:
        return text.read()


def run_small(study):
    kind = study.name.split("-")[0]
    shortest = {"hops": ["--samples", "1"], "detect": ["--samples", "1"], "heal": []}.get(kind, ["--minutes", "1"])
    said = subprocess.run([SIMULATOR, "--study", study.name, "--nodes", SMALL.get(study.nodes, SMALL_NODES), *shortest, "--json"],
                          capture_output=True, text=True, check=True).stdout
    return json.loads(said)


class OfReport(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        known = {}
        cls.report = report.Report(report.FIGURES)
        cls.report.path = os.path.join(cls.folder.name, "report.json")
        for study in report.STUDIES:
            if study.name not in known:
                known[study.name] = run_small(study)
            cls.report.add(study.key, report.Outcome(known[study.name]))
        with open(cls.report.path, encoding="utf-8") as file:
            cls.written = json.load(file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_studies_state_every_figure(self):
        missing = [figure.key for figure in report.FIGURES
                   if figure.study != report.MEMBERS and self.written[figure.key] is None]
        self.assertEqual(missing, [])

    def test_every_policy_has_every_figure(self):
        self.assertEqual(list(self.written["policies"]), [policy for policy, _ in report.POLICIES])
        for policy, figures in self.written["policies"].items():
            self.assertEqual(len(figures), 10)
            self.assertNotIn(None, figures.values(), policy)
        ours = self.written["policies"]["weir"]
        self.assertEqual(ours["utilisation_95"], self.written["utilisation_95"])
        self.assertEqual(ours["messages_per_shard_95"], self.written["messages_per_shard"])

    def test_no_policy_is_left_out(self):
        stated = self.report.outcomes["placement", 0].report["figures"]
        self.assertEqual({name[:-len("_utilisation_95")] for name in stated if name.endswith("_utilisation_95")},
                         set(self.written["policies"]))

    def test_tables_are_whole(self):
        rows = [line for line in self.report.tables().splitlines() if line.startswith("|")]
        for figure in report.FIGURES:
            self.assertEqual(sum("| `%s` |" % figure.key in row for row in rows), 1, figure.key)
        for _, words in report.POLICIES:
            self.assertEqual(sum(row.startswith("| %s |" % words) for row in rows), 1, words)
        self.assertEqual({row.count("|") for row in rows}, {7})

    def test_what_is_missed_or_missing_says_so(self):
        figure = report.Figure(report.MEMBERSHIP, "hops_1k", "hops", "hops", 1000, "hops", 1)
        self.assertIn("**missed**", self.report.row(figure))
        evictions = next(one for one in report.FIGURES if one.key == "false_evictions_loss10")
        self.assertIn("| met so far; 120 min are aimed at |", self.report.row(evictions))
        self.assertEqual(report.verdict(evictions, 0, {"virtual_minutes": 120.0}), "met")
        self.assertEqual(report.verdict(evictions, 1, {"virtual_minutes": 1.0}), "**missed**")
        self.assertIn("not measured: not measured yet",
                      self.report.row(report.Figure(report.MEMBERSHIP, "none", "none", "none", 7, "none", 1)))

    def test_a_key_that_nothing_has_is_a_mistake(self):
        ran = subprocess.run([sys.executable, report.__file__, "--only", "nosuchkey"], capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stdout), (2, ""))
        self.assertIn("no figure's key contains 'nosuchkey'", ran.stderr)

    def test_documents_carry_the_tables(self):
        self.assertTrue(report.listed() in read("docs/protocol.md"), "docs/protocol.md wants what report.py --list tells")
        text = read("docs/performance.md")
        again = report.document(text, "tables\n")
        self.assertIn("tables\n".join(report.DOCUMENT_MARKS), again)
        self.assertEqual(again.split(report.DOCUMENT_MARKS[0])[0], text.split(report.DOCUMENT_MARKS[0])[0])
        self.assertEqual(again.split(report.DOCUMENT_MARKS[1])[1], text.split(report.DOCUMENT_MARKS[1])[1])
        self.assertRaises(ValueError, report.document, "no marks", "tables\n")


def options_of_long(**said):
    return argparse.Namespace(**{"seeds": 200, "block": 100, "profile": None, "hours": 24, **said})


class OfLong(unittest.TestCase):
    SMALL = long.Block(long.EVICTIONS, 0, 3, 3, 30, 1)

    def test_evictions_come_last_and_are_a_day(self):
        blocks = list(long.blocks(options_of_long()))
        hours = [block for block in blocks if block.profile == long.EVICTIONS]
        self.assertEqual(blocks[-len(hours):], hours)
        self.assertEqual(sum(block.minutes for block in hours), 24 * 60)
        self.assertEqual(len({block.first for block in hours}), len(hours))
        self.assertEqual({block.nodes for block in hours}, {1000})
        self.assertEqual(list(long.blocks(options_of_long(profile=[long.EVICTIONS]))), hours)
        self.assertNotIn(long.EVICTIONS, {block.profile for block in long.blocks(options_of_long(hours=0))})
        self.assertEqual({block.profile for block in long.blocks(options_of_long(profile=["disk"]))}, {"disk"})

    def test_a_block_that_held_is_remembered(self):
        result, digest, _ = long.play(SIMULATOR, self.SMALL)
        self.assertEqual((result, digest), long.play(SIMULATOR, self.SMALL)[:2])
        self.assertEqual(result, "held")
        self.assertNotEqual(digest, long.play(SIMULATOR, self.SMALL._replace(first=4, last=4))[1])
        with tempfile.TemporaryDirectory() as folder:
            ledger = os.path.join(folder, "ledger.txt")
            long.append(ledger, "2026-01-01 commit tree %s 3-3 %s %s" % (long.name_of(self.SMALL), result, digest))
            self.assertEqual(long.played(ledger, "tree"), {(long.name_of(self.SMALL), "3-3")})
            self.assertEqual(long.played(ledger, "another"), set())

    def test_seeds_of_a_profile_are_played(self):
        result, digest, output = long.play(SIMULATOR, long.Block("mixed", 20, 1, 2, 0, 10))
        self.assertEqual((result, digest), ("held", json.loads(output.splitlines()[-1])["hash"]))

    def test_an_eviction_fails_its_block(self):
        figures = {"false_evictions": 1, "virtual_minutes": 1.0}
        self.assertEqual(long.judge(self.SMALL, json.dumps({"seed": 3, "virtual_s": 62, "figures": figures})), ("failed:3", "-"))
        figures = {"false_evictions": 0, "virtual_minutes": 0.5}
        self.assertRaises(RuntimeError, long.judge, self.SMALL, json.dumps({"seed": 3, "virtual_s": 62, "figures": figures}))

    def test_a_study_that_fails_tells_its_seed(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = os.path.join(folder, "broken")
            with open(broken, "w", encoding="utf-8") as script:
                script.write("#!/bin/sh\necho 'weir: sim: study %s, seed 3: not all up' >&2\nexit 1\n" % long.EVICTIONS)
            os.chmod(broken, 0o755)
            self.assertEqual(long.play(broken, self.SMALL)[:2], ("failed:3", "-"))


class OfPlanted(unittest.TestCase):
    def test_summary_counts_what_was_caught(self):
        told = [{"name": "a", "caught": True, "seeds": 1}, {"name": "b", "caught": False, "seeds": 60},
                {"name": "c", "caught": True, "seeds": 7}]
        part = planted.summary(told)
        self.assertEqual(part, {"bugs": 3, "caught": 2, "seeds": {"a": 1, "c": 7}})
        self.assertEqual(planted.in_words("seeds", part), "2 of 3 planted bugs caught by seeds: 1 by the first, all by number 7 at the latest")
        self.assertEqual(planted.in_words("seeds", planted.summary([])), "0 of 0 planted bugs caught by seeds")


if __name__ == "__main__":
    unittest.main()
