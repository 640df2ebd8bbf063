#!/usr/bin/python3
"""Measures what the protocol costs and promises, in the simulator: make sim-report.

Runs the studies of `weir sim --study`, two at a time (those of the simulator's speed alone, before all others), and prints
every figure beside its aim, and every placement policy beside the one that we took, as tables in Markdown. Each study has a
budget, its share of the time that is left; one that has not ended then is stopped (SIGTERM), and what it has seen until then
counts if it states figures of that: the report says how many samples or virtual minutes each figure rests on. A figure
whose study failed or saw too little is null, with the reason: nothing is invented. build/sim/report.json is written anew after each study: the figures by key, under `about` what each
rests on, and under `policies` what each policy of placement did. --document also puts the tables into docs/performance.md,
in place of those that stand there between two marks, unless only some were asked for; --list tells the keys, aims and commands instead, and measures nothing.

What a binary has measured is kept in build/sim/studies.jsonl, so a report that ran out of time goes on where it was, with the
whole time for what is left and then for what was stopped (--fresh measures all anew). --long knows no budgets.

The two figures of real nodes beside serf are those that `make bench-members` left in build/sim/members.json. If it has
not been run with this binary, it runs first, alone and in short (three deaths of each kind; about six minutes).

Ends with 0 if everything was measured, 1 if a study failed, 2 if nothing is named so, else 6: in part. A figure that misses
its aim is no failure.

    tests/sim/report.py [--only WORD] [--minutes 28] [--seed 1] [--binary build/weir] [--fresh] [--long]
                        [--no-nodes] [--document] [--list]
"""
import argparse
import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = os.path.join(ROOT, "build", "sim")

MEMBERSHIP = "Membership, failure detection, dissemination"
PLACEMENT = "Placement without a centre"

MEMBERS = "members"  # not a study: real processes, by tests/bench/members.py
MEMBERS_SCRIPT = os.path.join(ROOT, "tests", "bench", "members.py")
DOCUMENT = os.path.join(ROOT, "docs", "performance.md")
DOCUMENT_MARKS = ("<!-- make sim-report writes from here -->\n", "<!-- to here -->\n")


class Figure:
    """One key of the report: which study at which size states it under which name, and what is aimed at."""

    def __init__(self, table, key, what, study, nodes, figure, aim, unit="", at_least=False, minutes=0):
        self.table, self.key, self.what, self.study, self.nodes = table, key, what, study, nodes
        self.figure, self.aim, self.unit, self.at_least = figure, aim, unit, at_least
        self.minutes = minutes  # that the aim is to be met in

    def met(self, value):
        return value >= self.aim if self.at_least else value <= self.aim

    def aim_text(self):
        return "" if self.aim is None else "%s %s" % (">=" if self.at_least else "<=", with_unit(self.aim, self.unit))


def with_unit(value, unit=""):
    """For people: three digits apart, and no more of a fraction than says something."""
    text = "{:,}".format(value) if isinstance(value, int) else "{:,.4g}".format(value) if abs(value) < 10000 else \
        "{:,.0f}".format(value)
    return text + (" " + unit if unit else "")


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
           "false_evictions", 0, minutes=120),
    Figure(MEMBERSHIP, "false_evictions_oneway", "false evictions, 40 % of links one-way", "evictions-oneway", 1000,
           "false_evictions", 0, minutes=10),
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


# How the study of placement calls whom it compares. Each has every figure of POLICY_FIGURES at both loads.
POLICIES = [("omniscient", "omniscient, one queue"), ("weir", "weir"),
            ("push_best", "push to the best-looking site"), ("two_choices", "better of two sites by gossip"),
            ("batch_probes", "batch probing (Sparrow)"), ("stealing", "work stealing")]
POLICY_LOADS = (90, 95)
# The study's name of it, the column's head, the divisor from what is stated to what is shown, how it is shown.
POLICY_FIGURES = [("utilisation", "utilisation of the omniscient", 1, "%.4f"),
                  ("wait_mean_ms", "mean wait, s", 1000, "%.2f"),
                  ("wait_p99_ms", "p99 wait, s", 1000, "%.2f"),
                  ("wait_excess", "p99 wait above the omniscient, of the mean shard time", 1, "%.3f"),
                  ("messages_per_shard", "messages per shard", 1, "%.2f")]


class Study:
    """What a study is asked for, and its share of the time of all."""

    def __init__(self, name, nodes, share, *arguments, alone=False):
        self.name, self.nodes, self.share, self.arguments = name, nodes, share, list(arguments)
        self.alone = alone  # nothing runs beside it: two that wait for memory slow each other down

    @property
    def key(self):
        return self.name, self.nodes

    def words(self):
        """The command line after `weir sim`, seed apart."""
        sized = ["--nodes", str(self.nodes)] if self.nodes else []
        return ["--study", self.name, *sized, *self.arguments]


# In the order in which they are begun. Shares are some half more than the seconds of a processor with nothing else to do, since
# nothing comes of most studies that are stopped. Those without a share state what they have seen by then, and take longer than
# all others: they have what time the others leave.
STUDIES = [
    Study("speed", 1000, 20, alone=True),
    Study("speed", 10000, 150, alone=True),
    Study("speed", 100000, 900),
    Study("hops", 1000, 60),
    Study("hops-loss10", 1000, 80),
    Study("detect-reset", 1000, 80),
    Study("detect-silent", 1000, 80),
    Study("detect-silent-loss10", 1000, 100),
    Study("traffic-idle", 1000, 50),
    Study("traffic-busy", 1000, 120),
    Study("placement", 0, 70, "--minutes", "6"),
    Study("speculation", 0, 90, "--minutes", "20"),
    Study("owner", 0, 40, "--minutes", "6"),
    Study("hops", 10000, 100, "--samples", "5"),
    Study("hops-loss10", 10000, 130, "--samples", "5"),
    Study("heal", 1000, 900),
    Study("evictions-oneway", 1000, 0),
    Study("evictions-loss10", 1000, 0, "--minutes", "120"),
]
STOP_S = 30  # in which a study that was told to stop states what it has


class Ledger:
    """What this very binary has measured: {(study, nodes): the study's own report}."""

    def __init__(self, options):
        self.path = os.path.join(FOLDER, "studies.jsonl")
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

    def add(self, key, report):
        self.known[key] = report
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"binary": self.binary, "seed": self.seed, "study": key[0], "nodes": key[1],
                                    "report": report}) + "\n")


class Outcome:
    """What came of one study: its own report, or why there is none."""

    def __init__(self, report=None, why=None, failed=False):
        self.report, self.why, self.failed = report, why, failed


under_way = set()  # processes of studies, each in a session of its own


def end_with_all(number, _):
    for running in list(under_way):
        running.kill()
    os._exit(128 + number)  # the workers' threads wait for them, and what is known is written


def run_study(ledger, options, study, budget_s):
    command = [options.binary, "sim", *study.words(), "--seed", str(options.seed), "--json"]
    began = time.monotonic()
    stopped = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as running:
        under_way.add(running)
        try:
            said, words = running.communicate(timeout=None if options.long else budget_s)
        except subprocess.TimeoutExpired:
            stopped = True
            running.send_signal(signal.SIGTERM)
            try:
                said, words = running.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                running.kill()
                said, words = running.communicate()
        under_way.discard(running)
    took_s = time.monotonic() - began
    lines = said.splitlines()
    if lines and running.returncode in (0, 6):
        report = dict(json.loads(lines[-1]), wall_s=round(took_s), load=round(os.getloadavg()[0], 1),
                      date=datetime.date.today().isoformat(),
                      command=" ".join(["weir"] + command[1:]), stopped=running.returncode == 6)
        known = ledger.known.get(study.key)
        if not known or report["virtual_s"] > known["virtual_s"]:
            ledger.add(study.key, report)
        return Outcome(ledger.known[study.key])
    why = (words.strip().splitlines() or ["nothing was said"])[-1]
    if stopped:
        why = "not done in %d s: %s" % (took_s, why)
    return Outcome(why=why, failed=not stopped)


def run_members(binary, deadline):
    """The comparison of real nodes, unless this binary has been compared already."""
    path = os.path.join(os.path.dirname(os.path.abspath(binary)), "sim", "members.json")
    if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(binary):
        command = [sys.executable, MEMBERS_SCRIPT, "--runs", "3", "--only", "weir,serf", "--build",
                   os.path.dirname(os.path.abspath(binary))]
        with subprocess.Popen(command, stdout=sys.stderr) as running:
            try:
                running.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.terminate()
                return Outcome(why="not done in the time that was left")
    try:
        with open(path, encoding="utf-8") as file:
            return Outcome({"figures": json.load(file), "nodes": 30, "command": "make bench-members"})
    except OSError:
        return Outcome(why="tests/bench/members.py failed", failed=True)


class Report:
    """The figures as far as they are known; written anew whenever one more study is done."""

    def __init__(self, figures, seed=1):
        self.figures = figures
        self.seed = seed
        self.outcomes = {}
        self.lock = threading.Lock()
        self.path = os.path.join(FOLDER, "report.json")

    def add(self, key, outcome):
        with self.lock:
            self.outcomes[key] = outcome
            self.write()

    def stated(self, key, name):
        outcome = self.outcomes.get(key)
        return outcome.report["figures"].get(name) if outcome and outcome.report else None

    def value(self, figure):
        return self.stated((figure.study, figure.nodes), figure.figure)

    def policies(self):
        """What each policy of placement did: {policy: {figure_load: value}}."""
        names = ["%s_%d" % (figure, load) for figure, *_ in POLICY_FIGURES for load in POLICY_LOADS]
        return {policy: {name: self.stated(("placement", 0), "%s_%s" % (policy, name)) for name in names}
                for policy, _ in POLICIES}

    def reason(self, figure):
        outcome = self.outcomes.get((figure.study, figure.nodes), Outcome(why="not measured yet"))
        return outcome.why or "it states no such figure"

    def about(self, figure):
        """What the figure rests on."""
        outcome = self.outcomes.get((figure.study, figure.nodes))
        if not outcome or not outcome.report:
            return {"why": self.reason(figure)}
        report = outcome.report
        about = {name: report[name] for name in ("command", "begins", "virtual_s", "cpu_ms", "wall_s", "load", "date", "stopped")
                 if name in report}
        if report.get("begins") == "anew":  # all of the minutes that it was asked for are measured
            about["virtual_minutes"] = report["minutes"]
        about.update({name: report["figures"][name] for name in ("samples", "virtual_minutes", "calm_virtual_ms")
                      if name in report["figures"]})
        return about

    def write(self):
        values = {figure.key: self.value(figure) for figure in self.figures}
        values["about"] = {figure.key: self.about(figure) for figure in self.figures}
        values["policies"] = self.policies()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        beside = "%s.%d" % (self.path, os.getpid())  # two reports may be under way
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
            file.write("\n")
        os.replace(beside, self.path)

    def tables(self):
        """Everything that was measured, in Markdown."""
        lines = [self.circumstances()]
        for table in (MEMBERSHIP, PLACEMENT):
            lines += ["", "| %s | key | aim | measured | rests on | |" % table.lower(), "| --- | --- | --- | --- | --- | --- |"]
            lines += [self.row(figure) for figure in self.figures if figure.table == table]
        loads = " / ".join("%d" % load for load in POLICY_LOADS)
        heads = ["policy, at %s %% load" % loads] + [head for _, head, _, _ in POLICY_FIGURES]
        lines += ["", "| %s |" % " | ".join(heads), "|%s" % (" --- |" * len(heads))]
        lines += [policy_row(words, self.policies()[policy]) for policy, words in POLICIES]
        return "\n".join(lines) + "\n"

    def circumstances(self):
        known = [outcome.report for outcome in self.outcomes.values() if outcome.report]
        dates = sorted({report["date"] for report in known if "date" in report})
        loads = [report["load"] for report in known if "load" in report]
        words = ["seed %d" % self.seed, "%d x %s" % (len(os.sched_getaffinity(0)), processor())]
        if dates:
            words.append(dates[0] if len(dates) == 1 else "%s to %s" % (dates[0], dates[-1]))
        if loads:
            words.append("load %g to %g, its own two studies among it" % (min(loads), max(loads)))
        return "Measured with " + ", ".join(words) + "."

    def row(self, figure):
        value, about = self.value(figure), self.about(figure)
        if value is None:
            cells = ("", "", "not measured: " + self.reason(figure))
        else:
            rests = ["%s %s" % (with_unit(about[name]), words) for name, words in (
                ("samples", "samples"), ("virtual_minutes", "virtual min")) if name in about]
            rests += ["stopped"] if about.get("stopped") else []
            cells = (with_unit(value, figure.unit), ", ".join(rests), verdict(figure, value, about))
        return "| %s | `%s` | %s | %s | %s | %s |" % (figure.what, figure.key, figure.aim_text(), *cells)


def verdict(figure, value, about):
    if figure.aim is None:
        return ""
    if not figure.met(value):
        return "**missed**"
    return "met" if about.get("virtual_minutes", figure.minutes) >= figure.minutes else "met so far; %d min are aimed at" % figure.minutes


def policy_row(words, figures):
    cells = [words]
    for name, _, divisor, how in POLICY_FIGURES:
        values = [figures["%s_%d" % (name, load)] for load in POLICY_LOADS]
        cells.append(" / ".join("-" if value is None else how % (value / divisor) for value in values))
    return "| %s |" % " | ".join(cells)


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "an unknown processor"


def listed():
    """The keys, their aims and the commands that give them, as docs/protocol.md has them."""
    commands = {study.key: "weir sim " + " ".join(study.words()) for study in STUDIES}
    commands[MEMBERS, 30] = "make bench-members"
    rows = ["| `%s` | %s | %s | `%s` |" % (figure.key, figure.what, figure.aim_text(), commands[figure.study, figure.nodes])
            for figure in FIGURES]
    return "\n".join(["| key | what | aim | command |", "| --- | --- | --- | --- |"] + rows) + "\n"


def document(text, tables):
    """The document's text with these tables between its marks."""
    before, begin, rest = text.partition(DOCUMENT_MARKS[0])
    _, end, after = rest.partition(DOCUMENT_MARKS[1])
    if not begin or not end:
        raise ValueError("it has no marks '%s' and '%s'" % tuple(mark.strip() for mark in DOCUMENT_MARKS))
    return before + begin + tables + end + after


def chosen(word):
    return [figure for figure in FIGURES if not word or word in figure.key]


def measure(options, report):
    """Runs each study once, two at a time, and adds what came of it to the report."""
    deadline = time.monotonic() + 60 * options.minutes
    wanted = {(figure.study, figure.nodes) for figure in chosen(options.only)}
    if (MEMBERS, 30) in wanted and options.no_nodes:
        report.add((MEMBERS, 30), Outcome(why="left out (--no-nodes)"))
    elif (MEMBERS, 30) in wanted:  # here and now, before the studies take the processors
        report.add((MEMBERS, 30), run_members(options.binary, deadline))
    ledger = Ledger(options)
    for study in STUDIES:
        if study.key in ledger.known:
            report.add(study.key, Outcome(ledger.known[study.key]))
    missing = [study for study in STUDIES if study.key in wanted and study.key not in ledger.known]
    stopped = [study for study in STUDIES if study.key in wanted and ledger.known.get(study.key, {}).get("stopped")]
    left = missing + stopped
    lock = threading.Lock()

    def take(alone):
        """The next study and its budget: its share of what is left of both workers' time."""
        with lock:
            if not left or (alone and not left[0].alone):
                return None, 0
            left_s = max(0, deadline - time.monotonic())
            shares = sum(study.share for study in left)
            budget_s = min(left_s, 2 * left_s * left[0].share / shares) if shares else left_s
            return left.pop(0), budget_s

    def work(alone=False):
        for study, budget_s in iter(lambda: take(alone), (None, 0)):
            outcome = run_study(ledger, options, study, budget_s) if budget_s > 0 else Outcome(why="no time was left")
            if outcome.report or study.key not in ledger.known:
                report.add(study.key, outcome)
            print("%s %d: %s" % (study.name, study.nodes, json.dumps(outcome.report) if outcome.report else outcome.why),
                  file=sys.stderr, flush=True)

    left.sort(key=lambda study: not study.alone)
    work(alone=True)
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cpu_s = sum(known["cpu_ms"] for known in ledger.known.values()) / 1000
    print("%d of %d studies are measured, in %d s of processor time" % (
        len(set(ledger.known) & wanted), len(wanted - {(MEMBERS, 30)}), cpu_s), file=sys.stderr)
    return [report.outcomes[key] for key in wanted]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="measure only figures whose key contains this word")
    parser.add_argument("--minutes", type=float, default=28, help="of real time for all studies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="also what this binary has measured before")
    parser.add_argument("--long", action="store_true", help="no budgets")
    parser.add_argument("--no-nodes", action="store_true", help="leave out the comparison of real nodes")
    parser.add_argument("--document", action="store_true", help="put the tables into docs/performance.md, too")
    parser.add_argument("--list", action="store_true", help="tell the keys, aims and commands, and measure nothing")
    parser.add_argument("--binary", default=os.path.join(ROOT, "build", "weir"))
    options = parser.parse_args()
    if not chosen(options.only):
        parser.error("no figure's key contains '%s'; --list tells them" % options.only)
    if options.list:
        print(listed(), end="")
        return 0
    if not os.access(options.binary, os.X_OK):
        parser.error("%s is not there: build it first" % options.binary)
    signal.signal(signal.SIGINT, end_with_all)
    signal.signal(signal.SIGTERM, end_with_all)
    report = Report(FIGURES, options.seed)
    outcomes = measure(options, report)
    print(report.tables())
    print("written to %s" % os.path.relpath(report.path, os.getcwd()))
    if options.document and not options.only:
        with open(DOCUMENT, encoding="utf-8") as file:
            text = document(file.read(), report.tables())
        with open(DOCUMENT, "w", encoding="utf-8") as file:
            file.write(text)
        print("and into %s" % os.path.relpath(DOCUMENT, os.getcwd()))
    if any(outcome.failed for outcome in outcomes):
        return 1
    return 0 if all(outcome.report for outcome in outcomes) else 6


if __name__ == "__main__":
    sys.exit(main())
