#!/usr/bin/python3
"""What a GPU does behind the whole mesh: mesh.py --build FOLDER [--emulated]; prints one JSON object.

Two nodes of this machine by the programs in FOLDER, one that submits and one that lends cuda:0: the share of time in which the
device is busy with small shards, how soon its owner has it back, and what compiling a user's kernel costs. --emulated: on the
driver that plays a GPU and the library that plays NVML, in a reduced form; it proves this script, and its figures mean nothing.
"""
import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT + "/tests/integration")
from harness import Failed, Node, Place, wait_until  # noqa: E402  (its folder first)

DEVICE = "cuda:0"


class Sizes:
    """How much of everything: on a GPU, in some five minutes; or emulated."""

    def __init__(self, emulated, seconds):
        self.window_s = 1 if emulated else 5
        self.reclaims = 2 if emulated else 100  # of each kind, or as many as there is time for
        self.reclaim_budget_s = max(10, (seconds - 80) / 2)
        self.endless_us = 100000 if emulated else 200000
        self.base_rows = 2000 if emulated else 4 << 20  # of 256 bytes
        self.queries = 8 if emulated else 1 << 21
        self.queries_per_shard = 1 if emulated else 1 << 16
        self.restarts = 2 if emulated else 10


def percentile(values, permille):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * permille // 1000) - 1)]


def write_npy(path, rows, columns):
    """int8 at random, without numpy, which a bare machine lacks."""
    header = "{'descr': '|i1', 'fortran_order': False, 'shape': (%d, %d), }" % (rows, columns)
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    block = os.urandom(1 << 20)
    with open(path, "wb") as out:
        out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        for left in range(rows * columns, 0, -len(block)):
            out.write(block[:left])


class Lender:
    """The node whose GPU it is about."""

    def __init__(self, node, script):
        self.node, self.script = node, script

    def device(self):
        return next(row for row in self.node.status()["devices"] if row["device"] == DEVICE)

    def owned(self):
        return next(row for row in self.node.call("devices")["devices"] if row["device"] == DEVICE)

    def wait_shards(self, more, goes_on=lambda: True):
        """Until so many more shards came from it: its worker is up, and what they need is on the device."""
        before = self.device()["shards"]
        wait_until(lambda: "%s computes: %s" % (DEVICE, self.device()),
                   lambda: goes_on() and self.device()["shards"] >= before + more, 60)

    def tell_memory(self):
        """The scripted NVML: the worker holds memory as long as it lives."""
        if self.script:
            pid = self.device()["pid"]
            with open(self.script + ".new", "w", encoding="ascii") as out:
                out.write("gpu 0 memory 4 utilisation 0\n" + ("holder 0 %d 70000\n" % pid if pid else ""))
            os.rename(self.script + ".new", self.script)


def busy_share(home, lender, us, window_s):
    job = home.submit_detached("spin", "--items", int(4e6 * window_s / us) + 4000, "--shard-items", 1, "--param", "us=%d" % us,
                               "--cache", "off")
    lender.wait_shards(10)
    begin, begin_us = time.monotonic(), lender.device()["busy_us"]
    time.sleep(window_s)  # the window itself
    share = (lender.device()["busy_us"] - begin_us) * 1e-6 / (time.monotonic() - begin)
    home.weir("cancel", job)
    return share


class Job:
    """Work without end: submitted again whenever it is done."""

    def __init__(self, home, *arguments):
        self.home, self.arguments = home, arguments
        self.id = home.submit_detached(*arguments, "--cache", "off")

    def goes_on(self):
        if self.home.job(self.id)["state"] == "done":
            self.id = self.home.submit_detached(*self.arguments, "--cache", "off")
        return True

    def end(self):
        self.home.weir("cancel", self.id, code=None)


def reclaims(lender, job, sizes):
    """Milliseconds from each claim until no process of ours was on the device and its memory was seen free."""
    times_ms, until = [], time.monotonic() + sizes.reclaim_budget_s
    while len(times_ms) < sizes.reclaims and time.monotonic() < until:
        lender.wait_shards(1, job.goes_on)
        lender.tell_memory()
        time.sleep(random.random() * sizes.endless_us * 0.5e-6)  # at any moment of a launch
        row = lender.node.weir("reclaim", DEVICE, "--json").json["devices"][0]
        if row["state"] != "owned":
            raise Failed("the device is not its owner's: %s" % row)
        if row["reclaim_ms"] > 0:  # else nothing was there
            times_ms.append(row["reclaim_ms"])
        lender.node.call("release", device=DEVICE, now=True)
    job.end()
    return times_ms


def measure_reclaims(place, home, lender, sizes):
    for name, rows in (("base", sizes.base_rows), ("query", sizes.queries)):
        write_npy(place.path(name + ".npy"), rows, 256)
    kinds = {"endless": ("spin", "--items", 4000, "--shard-items", 1, "--param", "us=%d" % sizes.endless_us),
             "full": ("knn", "--input", "base=" + place.path("base.npy"), "--input", "query=" + place.path("query.npy"),
                      "--shard-items", sizes.queries_per_shard, "--param", "k=8")}
    out = {"reclaim_full_mib": sizes.base_rows * 256 / 2**20,
           "reclaim_memory_seen": lender.node.call("devices")["watch"]["running"]}
    for kind, arguments in kinds.items():
        times_ms = reclaims(lender, Job(home, *arguments), sizes)
        out.update({"reclaim_%s_times" % kind: len(times_ms), "reclaim_%s_p50_ms" % kind: percentile(times_ms, 500),
                    "reclaim_%s_p99_ms" % kind: percentile(times_ms, 990)})
    return out


def measure_compile(lender, sizes):
    """A job of a user's kernel that the node never saw; then after each restart, when its code lies in the store."""
    def submit():
        lender.node.weir("submit", "--kernel", ROOT + "/kernels/examples/mandelbrot.cu", "--items", 1200, "--param", "width=40",
                         "--param", "height=30", "--output", lender.node.place.path("steps.npy"), "--cache", "off", timeout_s=60)

    def logged(pattern):
        return [int(found) for found in re.findall(r"event=compile kernel=mandelbrot " + pattern, lender.node.log_text())]

    worker = os.path.join(lender.node.place.build, "weir-worker")
    for arguments, lacks in ((["--toolkit", "cuda"], '"why"'), (["--sandbox"], '"on":false')):
        said = subprocess.run([worker, *arguments], capture_output=True, text=True, check=False,
                              env=lender.node.environment).stdout
        missing = [line for line in said.splitlines() if lacks in line]
        if missing:
            return {"compile_missing": "users' kernels are refused here: " + missing[0][:300]}
    submit()
    for _ in range(sizes.restarts):
        lender.node.stop()
        lender.node.start()
        submit()
    kept_us = logged(r"state=kept bytes=\d+ us=(\d+)")
    return {"compile_cold_ms": logged(r"state=done ms=(\d+)")[0], "compile_kept_times": len(kept_us),
            "compile_kept_p50_us": percentile(kept_us, 500), "compile_kept_most_us": max(kept_us)}


def start(place, emulated):
    environment = dict(os.environ, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    script = None
    if emulated:
        script = place.path("gpu.script")
        environment.update(LD_LIBRARY_PATH=os.path.join(place.build, "tests", "emulated"), WEIR_NVML_SCRIPT=script,
                           WEIR_NVML=os.path.join(place.build, "tests", "nvml_script.so"))
    home = Node(place, "home", work__cpu_slots=0, work__cuda_devices=0)
    place.weir("init", "--federation", "rivers", "--site", "home", "--name", "home", "--data", home.data)
    home.start()
    node = Node(place, "lender", work__cpu_slots=0, work__cuda_devices=1)
    node.environment = environment
    token = home.weir("invite", "--site", "lender").out.strip().split("\n")[-1]
    place.weir("join", token, "--name", "lender", "--data", node.data)
    lender = Lender(node, script)
    if script:
        with open(script, "w", encoding="ascii") as out:
            out.write("gpu 0 memory 4 utilisation 0\n")
    node.start()
    home.wait_states({"lender": "up"})
    return home, lender


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--seconds", type=float, default=300, help="what all of it may take, about")
    options = parser.parse_args()
    if options.emulated and not all(os.path.exists(os.path.join(options.build, "tests", name))
                                    for name in ("emulated/libcuda.so.1", "nvml_script.so")):
        print("skipped: this build has no emulated driver (no CUDA compiler)", file=sys.stderr)
        sys.exit(77)
    sizes, figures = Sizes(options.emulated, options.seconds), {}
    with Place(options.build) as place:
        home, lender = start(place, options.emulated)
        for part in (lambda: {"mesh_busy_share_10_ms": busy_share(home, lender, 10000, sizes.window_s)},
                     lambda: {"mesh_busy_share_1_ms": busy_share(home, lender, 1000, sizes.window_s)},
                     lambda: measure_reclaims(place, home, lender, sizes), lambda: measure_compile(lender, sizes)):
            try:
                figures.update(part())
            except Failed as reason:
                figures.setdefault("failed", []).append(str(reason)[:600])
                if lender.node.process.poll() is not None:
                    break
    print(json.dumps(figures, indent=1))
    sys.exit(1 if "failed" in figures else 0)


if __name__ == "__main__":
    main()
