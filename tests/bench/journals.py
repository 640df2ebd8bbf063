"""Journals of several copies: what they cost, how soon another node goes on, and how long a restart takes."""
import os
import signal
import time

import numpy

from figures import memory_mb
from local_mesh import Mesh, start, wait_until

SUBMITS = 500
COMMIT_SHARDS = 200_000
ENTRY_SHARDS = 20_000  # with one shard per entry
TAKEOVERS = 10
TAKEOVER_SHARDS = 400
TAKEOVER_US = 100_000
RECOVERY_SHARDS = 1_000_000
RECOVERY_ROW_BYTES = 8


def rows(api, count, row_bytes):
    return api.put(os.urandom(count * row_bytes))


def submit_rows(api, blob, row_bytes, **fields):
    return api.call("submit", kernel="noop", shard_items=1, cache="off", **fields,
                    inputs=[{"name": "data", "blob": blob, "format": "raw", "row_bytes": row_bytes, "split": True}])


def percentiles(times, prefix):
    times = sorted(times)
    return {f"{prefix}_p50_ms": times[len(times) // 2], f"{prefix}_p99_ms": times[len(times) * 99 // 100]}


def bench_submits(report, tools):
    """From the call to the acknowledgement: held by two of three, its input of 200 B included."""
    with Mesh(tools.weir, tools.folder("submits"), [0, 1, 1]) as mesh:
        api = mesh.nodes[0].api()

        def run(replicas):
            times = []
            for _ in range(SUBMITS):
                blob = rows(api, 1, 200)
                begin = time.perf_counter()
                job = submit_rows(api, blob, 200, replicas=replicas)["job"]
                times.append(1e3 * (time.perf_counter() - begin))
                api.finish(job)
            return times

        run(3)
        for replicas, prefix in ((3, "submit_ack"), (1, "submit_ack_alone")):
            taken = report.repeat(lambda: percentiles(run(replicas), prefix))
            for key in taken[0]:
                report.add(key, [row[key] for row in taken])
        api.close()


def bench_commits(report, tools):
    """No-op shards at another node, their results durable at two of three nodes before they are acknowledged."""
    with Mesh(tools.weir, tools.folder("commits"), [0, 2, 0]) as mesh:
        api = mesh.nodes[0].api()

        def rate(count, **fields):
            blob = rows(api, count, 200)
            begin = time.perf_counter()
            api.finish(submit_rows(api, blob, 200, **fields)["job"])
            return count / (time.perf_counter() - begin)

        rate(1_000, replicas=3)
        report.add("commits_per_s", report.repeat(lambda: rate(COMMIT_SHARDS, replicas=3)))
        report.add("commits_alone_per_s", report.repeat(lambda: rate(COMMIT_SHARDS, replicas=1)))
        report.add("commit_entries_per_s", report.repeat(lambda: rate(ENTRY_SHARDS, replicas=3, bundle_shards=1)))
        api.close()


def take_over_once(mesh, index):
    """Kills the home of a job in its middle; returns ms until another has granted and bound a shard of it anew."""
    home = mesh.nodes[index]
    others = [node for node in mesh.nodes if node is not home]
    api = home.api()
    job = api.call("submit", kernel="spin", params=[f"us={TAKEOVER_US}"], items=TAKEOVER_SHARDS, shard_items=1,
                   cache="off", replicas=3, inputs=[])["job"]
    wait_until("some shards are done", lambda: api.call("job", job=job)["job"]["done"] > 5, 60)
    api.close()
    home.process.send_signal(signal.SIGKILL)
    killed_ms = 1e3 * time.time()
    home.process.wait()
    clients = [node.api() for node in others]
    found = []

    def granted():
        for client in clients:
            if job not in {row["id"] for row in client.call("jobs", limit=5)["jobs"]}:
                continue
            times = [row["at"] for row in client.call("explain", job=job)["decisions"] if row["why"] == "assigned"]
            found.extend(times[:1])
        return found

    wait_until("another node goes on with the job", granted, 120)
    moved = next(client.call("job", job=job)["job"] for client in clients
                 if job in {row["id"] for row in client.call("jobs", limit=5)["jobs"]})
    clients[0].call("cancel", job=job) if moved["home"] == others[0].site else None
    for node, client in zip(others, clients):
        if node.site == moved["home"] and node is not others[0]:
            client.call("cancel", job=job)
        client.close()
    home.start()
    api = others[0].api()
    wait_until("all are up again", lambda: all(row["state"] == "up" for row in api.call("nodes")["nodes"]), 90)
    api.close()
    return {"ms": found[0] - killed_ms, "again": moved["reassigned"]}


def bench_takeover(report, tools):
    with Mesh(tools.weir, tools.folder("takeover"), [1] * 5) as mesh:
        taken = [take_over_once(mesh, count % 5) for count in range(TAKEOVERS)]
        times = sorted(row["ms"] for row in taken)
        report.add("takeover_p50_ms", [times[len(times) // 2]])
        report.add("takeover_p99_ms", [times[-1]])  # of so few, the longest
        report.add("takeover_shards_run_again", [sum(row["again"] for row in taken)])


def recover_once(mesh, tools):
    node = mesh.nodes[0]
    api = node.api()
    blob = rows(api, RECOVERY_SHARDS + 40_000, RECOVERY_ROW_BYTES)
    job = submit_rows(api, blob, RECOVERY_ROW_BYTES, replicas=1)["job"]
    wait_until("a million shards are journalled",
               lambda: api.call("job", job=job)["job"]["done"] >= RECOVERY_SHARDS, 300)
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    api.close()
    begin = time.perf_counter()
    node.start()
    api = node.api()
    peak = 0

    def restored():
        nonlocal peak
        row = api.call("job", job=job)["job"]
        return row["done"] >= RECOVERY_SHARDS and row["state"] in ("running", "done")

    wait_until("the job is read back", restored, 120)
    seconds = time.perf_counter() - begin
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    final = api.finish(job)
    if final["done"] != RECOVERY_SHARDS + 40_000:
        raise RuntimeError(f"recovery: {final['done']} shards are done")
    api.close()
    return {"recovery_s": seconds, "recovery_rss_mb": peak}


def bench_recovery(report, tools):
    with Mesh(tools.weir, tools.folder("recovery"), [0, 2]) as mesh:
        taken = report.repeat(lambda: recover_once(mesh, tools))
        for key in taken[0]:
            report.add(key, [row[key] for row in taken])
