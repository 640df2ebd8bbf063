#!/usr/bin/python3
"""make chaos: five real sites, a network and disks that fail, clients at every site, and a check of every promise.

    chaos.py [--minutes N] [--seeds N] [--seed FIRST] [--replicas N] [--build FOLDER] [--keep FOLDER]

Each seed draws the delays of the network, the faults (nemesis.py) and the jobs (clients.py). The sites run in network
namespaces of this program's own (sites.py), each with its disk on a small tmpfs. After the faults all is mended, every
acknowledged job is waited for, the nodes are stopped, and check.py, which shares no code with them, reads what is on their disks.

Times are real, so a seed draws the same faults again, but not the same run. Needs root (namespaces, mounts); ends with 77
where it can't have them. Writes build/chaos/summary.json; what a run that failed has left is kept beside it.
"""
import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "integration")]
import check  # noqa: E402
import clients  # noqa: E402
import nemesis  # noqa: E402
import sites as mesh  # noqa: E402
import stores  # noqa: E402

INSIDE = "WEIR_CHAOS_NAMESPACE"
SETTLE_S = 300  # once all is mended every acknowledged job must be done and handed out within so long


def enter_namespaces():
    """Runs this program again in a network and mount namespace of its own."""
    if os.environ.get(INSIDE):
        return
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode != 0:
        print("chaos: needs root, for network namespaces and mounts\n0 passed, 0 failed, 1 skipped")
        sys.exit(77)
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])


class Draw(random.Random):
    """A generator that knows which seed to show."""

    def __init__(self, seed, part):
        super().__init__("%d %s" % (seed, part))
        self.seed_shown = seed


def one_seed(seed, options, build, preload):
    """One run from nothing; returns its row of the summary."""
    folder = tempfile.mkdtemp(prefix="weir-chaos-")
    network = mesh.Network()
    sites = [mesh.Site(folder, index, network, build, preload) for index in range(len(mesh.NAMES))]
    stopped = threading.Event()
    try:
        mesh.federate(sites)
        for (a, b), ms in mesh.one_way_delays(Draw(seed, "delays")).items():
            network.delay(a, b, ms)
        watcher = threading.Thread(target=mesh.watch, args=(sites, stopped), daemon=True)
        watcher.start()
        history, stop_watching = stores.start_watching(sites)
        row = play(seed, options, folder, network, sites, build)
        stop_watching()
        stopped.set()
        watcher.join()
        for site in sites:
            site.kill()
        row.update(check.run(sites, row.pop("people"), history, row.pop("foe")))
        row["ended_by_themselves"] = {site.name: site.ended_by_itself for site in sites if site.ended_by_itself}
        if row["failed"] or options.keep_all:
            place = os.path.join(options.keep, "seed%d" % seed)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.sock", "*.snapshot", "filler"))
            row["kept"] = os.path.relpath(place, ROOT)
        return row
    finally:
        stopped.set()
        for site in sites:
            site.kill()
            subprocess.run(["umount", "-l", site.disk], check=False)
        network.close()
        for index in range(len(mesh.NAMES)):
            subprocess.run(["ip", "address", "del", "10.98.0.%d/32" % (index + 1), "dev", "lo"], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def play(seed, options, folder, network, sites, build):
    began = time.monotonic()
    until = began + 60 * options.minutes
    numbers = clients.Numbers()
    people = [clients.Client(folder, Draw(seed, "client " + site.name), sites, site, numbers, began,
                             os.path.join(build, "weir"), options.replicas) for site in sites]
    foe = nemesis.Nemesis(Draw(seed, "nemesis"), network, sites, began, until)
    threads = [threading.Thread(target=person.run, args=(until,)) for person in people]
    for thread in threads:
        thread.start()
    foe.run()
    for thread in threads:
        thread.join()
    until = time.monotonic() + SETTLE_S
    threads = [threading.Thread(target=person.finish, args=(until,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [job for person in people for job in person.jobs]
    with open(os.path.join(folder, "clients.json"), "w", encoding="utf-8") as out:
        json.dump([{"job": job.id, "key": job.key, "home": job.home, "acked_at": job.acked_at, "done_at": job.done_at,
                    "done_by": job.done_by, "result": job.result, "arguments": job.arguments, "said": job.said,
                    "names": sorted(job.names), "replicas": job.replicas, "at_once": job.at_once} for job in jobs], out, indent=1)
    with open(os.path.join(folder, "nemesis.json"), "w", encoding="utf-8") as out:
        json.dump(foe.events, out, indent=1)
    return {"seed": seed, "minutes": options.minutes, **nemesis.totals(foe.counts), "faults": foe.counts, "events": foe.events,
            "people": people, "foe": foe, "settled_s": round(time.monotonic() - until + SETTLE_S, 1)}


def compile_preload(folder):
    path = os.path.join(folder, "faulty_disk.so")
    subprocess.run(["cc", "-std=c17", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", path,
                    os.path.join(HERE, "faulty_disk.c"), "-ldl"], check=True)
    return path


SUMMED = ("minutes", "kills", "pauses", "cuts", "disk_faults", "jobs", "shards", "lost", "doubled", "wrong", "takeovers", "reattached", "at_once", "forked")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, len(values) * share // 100)] if values else None


def summary(rows):
    took = [one for row in rows for one in row["took"]]
    return {"seed": rows[0]["seed"], "seeds": len(rows), **{key: sum(row[key] for row in rows) for key in SUMMED},
            **{"takeover_%s_p%d_ms" % (kind, share): percentile([one[kind + "_ms"] for one in took], share)
               for kind in ("home", "home_able", "grant", "grant_able") for share in (50, 99)},
            "takeovers_timed": len(took), "takeover_p99_ms": percentile([one["grant_able_ms"] for one in took], 99),
            "failed": sum(1 for row in rows if row["failed"]), "runs": rows}


COLUMNS = ("seed", "minutes", "kills", "pauses", "cuts", "disk_faults", "jobs", "shards", "takeovers", "reattached", "at_once", "settled_s",
           "lost", "doubled", "wrong", "forked")


def table(rows):
    """All runs as a table for people, and for docs/performance.md: a line per seed, and what it comes to."""
    total = summary(rows)
    total = {**total, "seed": "all", "settled_s": max(row["settled_s"] for row in rows)}
    lines = ["| %s |" % " | ".join(column.replace("_", " ") for column in COLUMNS), "| --- " * len(COLUMNS) + "|"]
    for row in rows + [total] * (len(rows) > 1):
        lines.append("| %s |" % " | ".join("%g" % row[key] if isinstance(row[key], float) else str(row[key]) for key in COLUMNS))
    lines += ["%d takeovers after a SIGKILL of the home, ms (without the time when no majority of the journal was in touch):"
              % total["takeovers_timed"]]
    lines += ["  %s: p50 %s (%s), p99 %s (%s)" % (what, *(total["takeover_%s_p%d_ms" % (kind + able, share)]
                                                         for share in (50, 99) for able in ("", "_able")))
              for kind, what in (("home", "until the next home has read the journal"), ("grant", "until it hands out a shard"))]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Real sites under seeded faults, and a check of every promise.")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, help="copies of each job's journal (drawn: three, or five for every fourth job)")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--keep", default=os.path.join(ROOT, "build", "chaos"), help="where what a failed run left is kept")
    parser.add_argument("--keep-all", action="store_true", help="keep what every run left")
    options = parser.parse_args()
    enter_namespaces()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # die with the parent: nobody else ends these processes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = os.path.join(ROOT, "build", "chaos")
    os.makedirs(place, exist_ok=True)
    preload = compile_preload(place)
    rows = []
    for seed in range(options.seed, options.seed + options.seeds):
        row = one_seed(seed, options, os.path.abspath(options.build), preload)
        rows.append(row)
        with open(os.path.join(place, "summary.json"), "w", encoding="utf-8") as out:
            json.dump(summary(rows), out, indent=1)
        print(check.line(row), flush=True)
        for what in row["failed"]:
            print("FAIL seed %d: %s" % (seed, what), flush=True)
    print(table(rows))
    failed = sum(1 for row in rows if row["failed"])
    if failed:
        print("again with: make chaos MINUTES=%g SEEDS=1 SEED=%d" % (options.minutes,
                                                                    next(row["seed"] for row in rows if row["failed"])))
    print("%d passed, %d failed, 0 skipped" % (len(rows) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
