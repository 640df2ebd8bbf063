"""What the benchmarks share: figures with their spread, and what a process costs, read from /proc."""
import math
import os
import platform
import statistics
import time

LONG_RUN_S = 20


class Report:
    def __init__(self, runs):
        self.runs_wanted = runs
        self.figures, self.runs, self.spread = {}, {}, {}

    def add(self, key, values):
        values = list(values)
        self.figures[key] = statistics.median(values)
        self.runs[key] = len(values)
        self.spread[key] = [min(values), max(values)]
        print(f"  {key} = {number(self.figures[key])}"
              f"  ({len(values)} runs: {number(min(values))} to {number(max(values))})", flush=True)

    def repeat(self, run):
        """Calls `run` so often as the rules say and returns what it returned each time."""
        results = []
        wanted = self.runs_wanted
        while len(results) < wanted:
            begin = time.monotonic()
            results.append(run())
            if time.monotonic() - begin > LONG_RUN_S:
                wanted = min(wanted, 3)
        return results

    def ratio(self, key, above, below):
        if above in self.figures and below in self.figures:
            self.figures[key] = self.figures[above] / self.figures[below]


def number(value):
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 3 - math.floor(math.log10(abs(value))) - 1)
    return f"{value:,.{digits}f}"


def family(pid):
    """A process and all below it."""
    pids = [pid]
    for each in pids:
        try:
            with open(f"/proc/{each}/task/{each}/children") as children:
                pids += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return pids


def memory_mb(pid, field):
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def cpu_seconds(pid):
    total_ns = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as line:
            total_ns += int(line.read().split()[0])
    return total_ns * 1e-9


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "load_at_start": os.getloadavg()[0]}
