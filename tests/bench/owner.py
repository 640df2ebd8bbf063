"""How soon an owner has a device back, while an endless kernel runs on it for another site."""
import contextlib
import os
import signal

from figures import family
from local_mesh import Mesh, wait_until

RECLAIMS = 200
SHARD_S = 1000  # far longer than all of it takes


def worker_of(node):
    """0 while there is none, or its command line can't be read yet."""
    for pid in family(node.process.pid)[1:]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
            if b"weir-worker" in line.read():
                return pid
    return 0


def percentile(values, permille):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * permille // 1000) - 1)]


def reclaim_times(owner, device, listens):
    """Milliseconds from each claim until the worker was gone with its memory. A worker that is stopped hears no stop
    word, like a kernel that never looks: it is killed when its grace is over."""
    times_ms = []
    while len(times_ms) < RECLAIMS:
        wait_until("the shard to run", lambda: owner.call("devices")["devices"][0]["in_hand"] > 0)
        if not listens:
            wait_until("a worker", lambda: worker_of(device))
            os.kill(worker_of(device), signal.SIGSTOP)
        row = owner.call("reclaim", device="cpu:0")["devices"][0]
        if row["state"] != "owned" or owner.call("devices")["devices"][0]["in_hand"] > 0:
            raise RuntimeError(f"the device is not its owner's: {row}")
        times_ms.append(row["reclaim_ms"])
        owner.call("release", device="cpu:0", now=True)
    return times_ms


def bench_reclaim(report, tools):
    with Mesh(tools.weir, tools.folder("reclaim"), [0, 1]) as mesh:
        home, lender = mesh.nodes
        job = home.run("submit", "spin", "--detach", "--node", f"{home.data}/api.sock", "--items", f"{4 * SHARD_S}",
                       "--shard-items", f"{SHARD_S}", "--param", "us=1000000", "--cache", "off").split()[-1]
        owner = lender.api()
        for key, listens in (("reclaim_p99_ms", False), ("reclaim_listening_p99_ms", True)):
            times_ms = reclaim_times(owner, lender, listens)
            report.add(key, [percentile(times_ms, 990)])
            report.add(key.replace("p99", "p50"), [percentile(times_ms, 500)])
        owner.close()
        home.run("cancel", "--node", f"{home.data}/api.sock", job)
