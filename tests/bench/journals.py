"""Journals of several copies: what they cost, how soon another node goes on, and how long a restart takes."""
import os
import shutil
import signal
import time

from local_mesh import Mesh, wait_until

SUBMITS = 500
COMMIT_SHARDS = 200_000
ENTRY_SHARDS = 20_000  # with one shard per entry
TAKEOVERS = 10
TAKEOVER_SHARDS = 400
TAKEOVER_US = 100_000
RECOVERY_SHARDS = 1_000_000
RECOVERED = 950_000
RECOVERY_ROW_BYTES = 8
RESYNC_JOBS = 1_000


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


def holds(node, job):
    api = node.api()
    found = any(row["id"] == job for row in api.call("where", job=job)["jobs"])
    api.close()
    return found


def home_of(nodes, job):
    """Among these nodes, or None."""
    for node in nodes:
        api = node.api()
        mine = any(row["id"] == job and row["home"] for row in api.call("where", job=job)["jobs"])
        api.close()
        if mine:
            return node
    return None


def first_grant(nodes, job):
    """When the new home first bound shards of the job, in ms since the epoch; None if it has not yet."""
    home = home_of(nodes, job)
    if not home:
        return None
    api = home.api()
    times = [row["at"] for row in api.call("explain", job=job)["decisions"] if row["why"] == "assigned"]
    api.close()
    return times[0] if times else None


def take_over_once(mesh, index):
    """Kills the home of a job that all its members hold; gives ms until another has bound a shard of it anew."""
    home = mesh.nodes[index]
    others = [node for node in mesh.nodes if node is not home]
    api = home.api()
    job = api.call("submit", kernel="spin", params=[f"us={TAKEOVER_US}"], items=TAKEOVER_SHARDS, shard_items=1,
                   cache="off", replicas=3, inputs=[])["job"]
    keepers = {row["name"] for row in api.call("job", job=job)["job"]["keepers"]}
    wait_until("all members hold the job and some shards are done",
               lambda: all(holds(node, job) for node in mesh.nodes if node.site in keepers) and
               api.call("job", job=job)["job"]["done"] > 5, 60)
    api.close()
    home.process.send_signal(signal.SIGKILL)
    killed_ms = 1e3 * time.time()
    home.process.wait()
    wait_until("another node goes on with the job", lambda: first_grant(others, job), 120)
    took_ms = first_grant(others, job) - killed_ms
    api = home_of(others, job).api()
    again = api.call("job", job=job)["job"]["reassigned"]
    api.call("cancel", job=job)
    api.close()
    home.start()
    api = home.api()
    wait_until("all are up again", lambda: all(row["state"] == "up" for row in api.call("nodes")["nodes"]), 90)
    api.close()
    return {"ms": took_ms, "again": again}


def bench_takeover(report, tools):
    with Mesh(tools.weir, tools.folder("takeover"), [1] * 5) as mesh:
        taken = [take_over_once(mesh, count % 5) for count in range(TAKEOVERS)]
        times = sorted(row["ms"] for row in taken)
        report.add("takeover_p50_ms", [times[len(times) // 2]])
        report.add("takeover_p99_ms", [times[-1]])  # of so few, the longest
        report.add("takeover_shards_run_again", [sum(row["again"] for row in taken)])


def recover_once(mesh):
    """A job of a million shards, of which 95 % and more are in its home's journal when that is killed and started."""
    node, executor = mesh.nodes
    api = node.api()
    job = submit_rows(api, rows(api, RECOVERY_SHARDS, RECOVERY_ROW_BYTES), RECOVERY_ROW_BYTES, replicas=1)["job"]

    def done(api):
        return api.call("job", job=job)["job"]["done"]

    while done(api) < RECOVERY_SHARDS * 8 // 10:
        pass
    while done(api) < RECOVERED:  # what is left would be done in half a second: in slices
        executor.process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
        executor.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
    journalled = done(api)
    if journalled == RECOVERY_SHARDS:
        raise RuntimeError("recovery: the job was finished before the executor could be held up; its journal is gone")
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    api.close()
    begin = time.perf_counter()
    node.start()
    api = node.api()
    wait_until("the job is read back", lambda: done(api) >= journalled, 120)
    seconds = time.perf_counter() - begin
    with open(f"/proc/{node.process.pid}/status", encoding="ascii") as status:
        peak_mb = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    executor.process.send_signal(signal.SIGCONT)
    if api.finish(job)["done"] != RECOVERY_SHARDS:
        raise RuntimeError("recovery: a shard is missing")
    api.close()
    return {"recovery_s": seconds, "recovery_rss_mb": peak_mb}


def bench_recovery(report, tools):
    with Mesh(tools.weir, tools.folder("recovery"), [0, 2]) as mesh:
        taken = report.repeat(lambda: recover_once(mesh))
        for key in taken[0]:
            report.add(key, [row[key] for row in taken])


def put_back(node, folder):
    """The node's folder becomes what it was; gives the seconds from its start until it has all jobs that it forgot."""
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    shutil.rmtree(node.data)
    shutil.copytree(folder, node.data)
    begin = time.perf_counter()
    node.start()
    api = node.api()
    wait_until("the finished jobs to be back", lambda: api.call("jobs", limit=1)["total"] == RESYNC_JOBS, 600)
    seconds = time.perf_counter() - begin
    api.close()
    return seconds


def bench_resync(report, tools):
    """Small finished jobs asked back by their home: first of members that have no more than the journals, then of homes."""
    with Mesh(tools.weir, tools.folder("resync"), [1, 1, 1]) as mesh:
        home, others = mesh.nodes[0], mesh.nodes[1:]
        before = f"{mesh.folder}/before"
        home.process.terminate()
        home.process.wait()
        shutil.copytree(home.data, before)
        home.start()
        api = home.api()
        wait_until("all are up", lambda: all(row["state"] == "up" for row in api.call("nodes")["nodes"]), 60)
        for _ in range(RESYNC_JOBS):
            job = api.call("submit", kernel="spin", params=["us=0"], items=1, replicas=3, inputs=[])["job"]
            api.finish(job)
        api.close()

        def over(node):
            api = node.api()
            found = any(row["over"] for row in api.call("where", job=job)["jobs"])
            api.close()
            return found

        wait_until("the last is over everywhere", lambda: all(over(node) for node in others), 60)
        report.add("resync_together_s", [put_back(home, before)])
        report.add("resync_s", [put_back(home, before)])
