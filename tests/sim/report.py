#!/usr/bin/python3
"""Measures what the protocol costs and promises, in the simulator: make sim-report.

Runs the studies of `weir sim --study` (two at a time; those of one size go on from one start of the mesh), writes build/sim/report.json, and prints every figure beside
its aim. A figure whose study is missing, failed or did not fit into the time is null there: nothing is invented. What a
binary has measured is kept in build/sim/studies.jsonl, so a report that ran out of time goes on where it was (--fresh
measures all anew).

The two figures of real nodes beside serf are those that `make bench-members` left in build/sim/members.json. If it has
not been run with this binary, it runs first, alone and in short (three deaths of each kind; about six minutes).

    tests/sim/report.py [--only WORD] [--minutes 28] [--seed 1] [--binary build/weir] [--fresh]
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

MEMBERSHIP = "Membership, failure detection, dissemination"
PLACEMENT = "Placement without a centre"

MEMBERS = "members"  # not a study: real processes, by tests/bench/members.py
# Of the studies that share a start, those that have little time come first.
FIRST = ["speed", "hops", "hops-loss10", "detect-reset", "detect-silent", "detect-silent-loss10", "heal", "traffic-idle",
         "evictions-oneway", "traffic-busy", "evictions-loss10"]
MEMBERS_SCRIPT = os.path.join(ROOT, "tests", "bench", "members.py")


class Figure:
    """One key of the report: which study at which size states it under which name, and what is aimed at."""

    def __init__(self, table, key, what, study, nodes, figure, aim, unit="", at_least=False):
        self.table, self.key, self.what, self.study, self.nodes = table, key, what, study, nodes
        self.figure, self.aim, self.unit, self.at_least = figure, aim, unit, at_least

    def met(self, value):
        return value >= self.aim if self.at_least else value <= self.aim


# In the order in which they are printed. nodes 0: as the study likes.
FIGURES = [
    Figure(MEMBERSHIP, "hops_1k", "hops to all, 1,000 nodes", "hops", 1000, "hops", 6),
    Figure(MEMBERSHIP, "hops_10k", "hops to all, 10,000 nodes", "hops", 10000, "hops", 7),
    Figure(MEMBERSHIP, "hops_1k_loss10", "the same at 10 % loss, 1,000", "hops-loss10", 1000, "hops", 8),
    Figure(MEMBERSHIP, "hops_10k_loss10", "the same at 10 % loss, 10,000", "hops-loss10", 10000, "hops", 10),
    Figure(MEMBERSHIP, "redundancy", "redundant copies per delivery, steady", "traffic-busy", 1000, "redundancy", 0.3),
    Figure(MEMBERSHIP, "idle_bytes_per_s_1k", "control bytes a node sends, idle", "traffic-idle", 1000,
           "bytes_per_s", 8192, "B/s"),
    Figure(MEMBERSHIP, "busy_bytes_per_s_1k", "the same, every capacity changing", "traffic-busy", 1000,
           "bytes_per_s", 32768, "B/s"),
    Figure(MEMBERSHIP, "detect_reset_p99_ms", "crash seen by all, connections reset", "detect-reset", 1000,
           "seen_p99_ms", 1500, "ms"),
    Figure(MEMBERSHIP, "detect_silent_p99_ms", "crash seen by all, silent", "detect-silent", 1000,
           "seen_p99_ms", 8000, "ms"),
    Figure(MEMBERSHIP, "detect_silent_loss10_p99_ms", "the same at 10 % loss", "detect-silent-loss10", 1000,
           "seen_p99_ms", 10000, "ms"),
    Figure(MEMBERSHIP, "false_evictions_loss10", "false evictions, 10 % loss, pauses", "evictions-loss10", 1000,
           "false_evictions", 0),
    Figure(MEMBERSHIP, "false_evictions_oneway", "false evictions, 40 % of links one-way", "evictions-oneway", 1000,
           "false_evictions", 0),
    Figure(MEMBERSHIP, "heal_1k_ms", "halves of a split back to one view", "heal", 1000, "one_view_ms", 60000, "ms"),
    Figure(MEMBERSHIP, "sim_speed_1k", "simulated per real time, 1,000 nodes", "speed", 1000, "speed", 50, "x", True),
    Figure(MEMBERSHIP, "sim_speed_10k", "the same, 10,000", "speed", 10000, "speed", 5, "x", True),
    Figure(MEMBERSHIP, "sim_speed_100k", "the same, 100,000", "speed", 100000, "speed", 0.5, "x", True),
    Figure(MEMBERSHIP, "sim_rss_1k_mb", "memory of the simulator, 1,000 nodes", "speed", 1000, "rss_mb", 400, "MB"),
    Figure(MEMBERSHIP, "sim_rss_10k_mb", "the same, 10,000", "speed", 10000, "rss_mb", 3000, "MB"),
    Figure(MEMBERSHIP, "sim_rss_100k_mb", "the same, 100,000", "speed", 100000, "rss_mb", 8000, "MB"),
    Figure(MEMBERSHIP, "serf_detect_ms", "30 real nodes: serf sees a kill", MEMBERS, 30, "serf_detect_ms", None, "ms"),
    Figure(MEMBERSHIP, "weir_detect_ms", "30 real nodes: weir sees a kill", MEMBERS, 30, "weir_detect_ms", None, "ms"),
    Figure(PLACEMENT, "utilisation_95", "utilisation of the omniscient, 95 % load", "placement", 0,
           "utilisation_95", 0.98, "", True),
    Figure(PLACEMENT, "wait_excess_90", "p99 shard wait above it, 90 % load", "placement", 0, "wait_excess_90", 0.10),
    Figure(PLACEMENT, "wait_excess_95", "the same, 95 % load", "placement", 0, "wait_excess_95", 0.15),
    Figure(PLACEMENT, "messages_per_shard", "messages per shard", "placement", 0, "messages_per_shard", 3.5),
    Figure(PLACEMENT, "speculation_gain", "p99.9 job time saved by speculation", "speculation", 0,
           "speculation_gain", 0.40, "", True),
    Figure(PLACEMENT, "speculation_extra", "device time it costs", "speculation", 0, "speculation_extra", 0.02),
    Figure(PLACEMENT, "owner_lost", "shards lost to owners' claims", "owner", 0, "owner_lost", 0),
    Figure(PLACEMENT, "owner_billed", "reclaimed shards billed", "owner", 0, "owner_billed", 0),
]


class Ledger:
    """What this very binary has measured: {(study, nodes): the study's own report}."""

    def __init__(self, options):
        self.path = os.path.join(ROOT, "build", "sim", "studies.jsonl")
        with open(options.binary, "rb") as file:
            self.binary = hashlib.sha256(file.read()).hexdigest()
        self.seed = options.seed
        self.known = {}
        if os.path.exists(self.path) and not options.fresh:
            with open(self.path, encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line) if line.endswith("\n") else {}
                    if (entry.get("binary"), entry.get("seed")) == (self.binary, self.seed):
                        self.known[entry["study"], entry["nodes"]] = entry["report"]

    def add(self, job, report):
        self.known[job] = report
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"binary": self.binary, "seed": self.seed, "study": job[0], "nodes": job[1],
                                    "report": report}) + "\n")


def begin_together(jobs):
    """Groups of (study, nodes): studies of the same number of nodes begin with the same start of the mesh, which costs
    more than most of them. The group of many comes first, the large worlds last, and within one the studies as in FIRST."""
    groups = {}
    for study, nodes in jobs:
        groups.setdefault((nodes, "" if nodes else study), []).append(study)
    for studies in groups.values():
        studies.sort(key=lambda study: FIRST.index(study) if study in FIRST else 0)
    return [(studies, nodes) for (nodes, _), studies in sorted(groups.items(), key=lambda group: group[0][0] or 1001)]


def run_group(ledger, options, studies, nodes, deadline):
    """Runs the studies of one start that are not known yet. Returns {(study, nodes): (figures, None) or (None, why)}."""
    left = [study for study in studies if (study, nodes) not in ledger.known]
    results = {(study, nodes): (ledger.known[study, nodes]["figures"], None) for study in studies if study not in left}
    left_s = deadline - time.monotonic()
    if not left or left_s <= 0:
        return dict(results, **{(study, nodes): (None, "no time was left") for study in left})
    arguments = [options.binary, "sim", "--study", ",".join(left), "--seed", str(options.seed), "--json"]
    if nodes:
        arguments += ["--nodes", str(nodes)]
    said = tempfile.TemporaryFile("w+")
    with said, subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=said, text=True,
                                start_new_session=True) as running:
        # Each study of a group is a process of its own: all of them end when the time does.
        timer = threading.Timer(left_s, os.killpg, (running.pid, signal.SIGKILL))
        timer.start()
        for line in running.stdout:
            report = json.loads(line)
            print("%s %d: %s" % (report["study"], nodes, line.strip()), file=sys.stderr, flush=True)
            ledger.add((report["study"], nodes), report)
            results[report["study"], nodes] = (report["figures"], None)
        running.wait()
        timer.cancel()
        said.seek(0)
        words = said.read()
    for study in left:
        failed = [line for line in words.splitlines() if study + "," in line or "the start of" in line]
        why = failed[0] if failed else "not done in the %d s that were left, after %s" % (
            left_s, ", ".join(left[:left.index(study)]) or "the start")
        results.setdefault((study, nodes), (None, why))
    return results


def run_members(binary, deadline):
    """The same for the comparison of real nodes, unless this binary has been compared already."""
    path = os.path.join(os.path.dirname(os.path.abspath(binary)), "sim", "members.json")
    if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(binary):
        command = [sys.executable, MEMBERS_SCRIPT, "--runs", "3", "--only", "weir,serf", "--build",
                   os.path.dirname(os.path.abspath(binary))]
        with subprocess.Popen(command, stdout=sys.stderr) as running:
            try:
                running.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.terminate()
                return None, "not done in the time that was left"
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file), None
    except OSError:
        return None, "tests/bench/members.py failed"


def known_studies(binary):
    listed = subprocess.run([binary, "sim", "--study", "list", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return set(json.loads(listed.stdout)["studies"])


def measure(options, figures):
    """Runs each (study, nodes) once. Returns {(study, nodes): (figures, why not)}."""
    known = known_studies(options.binary)
    ledger = Ledger(options)
    deadline = time.monotonic() + 60 * options.minutes
    results = {}
    wanted = []
    for figure in figures:  # real nodes are measured here and now, before the studies take the processors
        job = (figure.study, figure.nodes)
        if job in results or job in wanted:
            continue
        if figure.study == MEMBERS:
            results[job] = run_members(options.binary, deadline)
        elif figure.study in known:
            wanted.append(job)
        else:
            results[job] = (None, "there is no such study here")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(run_group, ledger, options, studies, nodes, deadline)
                     for studies, nodes in begin_together(wanted)]
        for group in under_way:
            results.update(group.result())
    cpu_s = sum(report["cpu_ms"] for report in ledger.known.values()) / 1000
    print("%d of %d studies are measured, in %d s of processor time" % (
        sum(job in ledger.known for job in wanted), len(wanted), cpu_s), file=sys.stderr)
    return results


def show(figures, values, reasons):
    for table in (MEMBERSHIP, PLACEMENT):
        print("\n%s\n%-42s %12s %12s  %s" % (table, "figure", "measured", "aim", "met"))
        for figure in figures:
            if figure.table != table:
                continue
            value = values[figure.key]
            aim = "" if figure.aim is None else "%s %s %s" % (">=" if figure.at_least else "<=", figure.aim, figure.unit)
            if value is None:
                print("%-42s %12s %12s  %s" % (figure.what, "-", aim, reasons[figure.key]))
            else:
                met = "" if figure.aim is None else "yes" if figure.met(value) else "NO"
                print("%-42s %12s %12s  %s" % (figure.what, "%s %s" % (value, figure.unit), aim, met))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="only figures whose key contains this word; the others stay null")
    parser.add_argument("--minutes", type=float, default=28, help="of real time for all studies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="also what this binary has measured before")
    parser.add_argument("--binary", default=os.path.join(ROOT, "build", "weir"))
    options = parser.parse_args()
    chosen = [figure for figure in FIGURES if not options.only or options.only in figure.key]
    results = measure(options, chosen)
    values = {figure.key: None for figure in FIGURES}
    reasons = {figure.key: "not asked for" for figure in FIGURES}
    for figure in chosen:
        stated, why = results[(figure.study, figure.nodes)]
        values[figure.key] = stated.get(figure.figure) if stated else None
        reasons[figure.key] = why or "it states no such figure"
    folder = os.path.join(ROOT, "build", "sim")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "report.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.write("\n")
    show(FIGURES, values, reasons)
    print("\nwritten to %s" % os.path.relpath(path, os.getcwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
