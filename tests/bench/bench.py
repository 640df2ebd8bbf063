#!/usr/bin/python3
"""make bench: how fast Weir is on this machine, beside Gearman and Dask in the same run.

    bench.py [--only PART[,PART...]] [--runs N] [--build FOLDER]

Prints a table and writes bench.json into the build folder. Figures are medians of 5 runs, or of 3 where one run takes
longer than 20 s (`runs` in bench.json says how many). Nothing here passes or fails by its time; a wrong result fails.
Parts: noop, single, cached, submits, commits, takeover, recovery, resync, efficiency, blob, idle, kernels, shares, users, gearman, dask,
reclaim.
"""
import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy

import journals
import local_mesh
import owner
from blob import bench_blob
from figures import Report, cpu_seconds, family, machine, memory_mb, number
from local_mesh import Mesh

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

ROW_BYTES = 200
NOOP_SHARDS = 200_000
NOOP_SINGLE_SHARDS = 20_000  # with one shard per bundle
LATENCY_JOBS = 1_000
CACHED_SHARDS = 10_000
EFFICIENCY_SHARDS = 2_000
EFFICIENCY_US = 10_000
IDLE_NODES = 9
IDLE_SETTLE_S = 30
IDLE_S = 30
GEARMAN_JOBS = 20_000
GEARMAN_BATCH = 500
GEARMAN_ONE_CALL_JOBS = 10_000
GEARMAN_SINGLE_JOBS = 5_000
DASK_TASKS = 3_000
DASK_SINGLE_TASKS = 200

# What the project aims at; ("at least" or "at most", value).
AIMS = {
    "noop_to_gearman": (">=", 10),
    "noop_to_dask": (">=", 60),
    "single_shard_p50_ms": ("<", 3),
    "cached_job_ms": ("<", 100),
    "worker_start_ms": ("<=", 50),
    "worker_roundtrip_us": ("<=", 30),
    "efficiency": (">=", 0.95),
    "blob_cpu_to_floor": ("<=", 1.3),
    "blob_peak_extra_mb": ("<=", 64),
    "resume_waste_bytes": ("<=", 8 << 20),
    "idle_rss_mb": ("<=", 20),
    "submit_ack_p50_ms": ("<=", 3),
    "submit_ack_p99_ms": ("<=", 10),
    "commits_per_s": (">=", 30_000),
    "takeover_p99_ms": ("<=", 15_000),
    "recovery_s": ("<=", 5),
    "recovery_rss_mb": ("<=", 300),
    "idle_cpu_percent": ("<=", 0.5),
    "reclaim_p99_ms": ("<=", 100),
    "user_saxpy_ratio": ("<=", 1.2),
    "user_mandelbrot_ratio": ("<=", 1.2),
    "user_reduction_ratio": ("<=", 3),
    "user_gravity_ratio": ("<=", 3),
    "reclaim_scripted_gpu_p99_ms": ("<=", 1000),
}


def column(rows, key):
    return [row[key] for row in rows]


# ---- No-op shards


def expected_sums(rows):
    """64-bit FNV-1a of each row, as the kernel `noop` computes it."""
    sums = numpy.full(len(rows), 0xCBF29CE484222325, dtype=numpy.uint64)
    prime = numpy.uint64(0x100000001B3)
    for column in range(rows.shape[1]):
        sums ^= rows[:, column]
        sums *= prime
    return sums


def fresh_rows(count):
    return numpy.frombuffer(os.urandom(count * ROW_BYTES), dtype=numpy.uint8).reshape(count, ROW_BYTES)


def submit_rows(api, blob, **fields):
    return api.call("submit", kernel="noop", shard_items=1, replicas=1, **fields,
                    inputs=[{"name": "data", "blob": blob, "format": "raw", "row_bytes": ROW_BYTES, "split": True}])


def noop_job(api, count, **fields):
    """From the input's first byte sent to the output's last byte read back. Returns seconds by part."""
    rows = fresh_rows(count)
    data = rows.tobytes()
    stamps = [time.perf_counter()]
    blob = api.put(data)
    stamps.append(time.perf_counter())
    job = submit_rows(api, blob, cache="off", **fields)["job"]
    stamps.append(time.perf_counter())
    final = api.finish(job)
    stamps.append(time.perf_counter())
    sums = numpy.load(io.BytesIO(api.get(final["outputs"][0]["blob"])))
    stamps.append(time.perf_counter())
    if not numpy.array_equal(sums, expected_sums(rows)):
        raise RuntimeError("noop: a result is wrong")
    parts = [later - earlier for earlier, later in zip(stamps, stamps[1:])]
    return {"whole": stamps[-1] - stamps[0], "put": parts[0], "submit": parts[1], "run": parts[2], "get": parts[3],
            "by_node": {row["site"]: row["shards"] for row in final["by_node"]}}


def bench_noop(report, tools):
    with Mesh(tools.weir, tools.folder("noop"), [0, 2]) as mesh:
        api = mesh.nodes[0].api()
        noop_job(api, 1_000)  # the workers start
        rows = report.repeat(lambda: noop_job(api, NOOP_SHARDS))
        if any(row["by_node"] != {"site1": NOOP_SHARDS} for row in rows):
            raise RuntimeError("noop: not every shard was run by the other node")
        report.add("noop_shards_per_s", [NOOP_SHARDS / row["whole"] for row in rows])
        for part in ("put", "submit", "run", "get"):
            report.add(f"noop_{part}_s", column(rows, part))
        rows = report.repeat(lambda: noop_job(api, NOOP_SINGLE_SHARDS, bundle_shards=1))
        report.add("noop_single_shards_per_s", [NOOP_SINGLE_SHARDS / row["whole"] for row in rows])
        api.close()


# ---- One shard at a time


def bench_single(report, tools):
    with Mesh(tools.weir, tools.folder("single"), [0, 2]) as mesh:
        api = mesh.nodes[0].api()
        noop_job(api, 100)

        def run():
            rows = [noop_job(api, 1) for _ in range(LATENCY_JOBS)]
            cuts = {}
            for name, parts in (("single_shard", ("submit", "run")),
                                ("single_shard_with_io", ("put", "submit", "run", "get"))):
                times_ms = sorted(1e3 * sum(row[part] for part in parts) for row in rows)
                cuts[f"{name}_p50_ms"] = times_ms[len(times_ms) // 2]
                cuts[f"{name}_p99_ms"] = times_ms[len(times_ms) * 99 // 100]
            return cuts

        rows = report.repeat(run)
        for key in rows[0]:
            report.add(key, column(rows, key))
        api.close()


# ---- A job whose shards are all cached


def bench_cached(report, tools):
    with Mesh(tools.weir, tools.folder("cached"), [0, 2]) as mesh:
        api = mesh.nodes[0].api()
        rows = fresh_rows(CACHED_SHARDS)
        blob = api.put(rows.tobytes())
        first = api.finish(submit_rows(api, blob, cache="mesh")["job"])

        def run():
            begin = time.perf_counter()
            final = api.finish(submit_rows(api, blob, cache="mesh")["job"])
            ms = 1e3 * (time.perf_counter() - begin)
            if final["cached"] != CACHED_SHARDS:
                raise RuntimeError(f"cached: only {final['cached']} shards came from the cache")
            if final["outputs"][0]["blob"] != first["outputs"][0]["blob"]:
                raise RuntimeError("cached: the output differs from the first run's")
            return ms

        report.add("cached_job_ms", report.repeat(run))
        api.close()


# ---- Workers


def bench_worker(report, tools):
    """What a sandboxed worker costs to start, and a shard that does nothing costs between a node's end and a worker."""
    def run():
        done = subprocess.run([tools.worker, "--measure"], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    results = report.repeat(run)
    for key in results[0]:
        report.add(key, [result[key] for result in results])


# ---- Efficiency


def pinned_rate(tools):
    """Shards per second of one worker alone, pinned to one core."""
    shards = EFFICIENCY_SHARDS // 10
    done = subprocess.run(["taskset", "-c", "0", tools.worker, "--run", "spin", "--param", f"us={EFFICIENCY_US}",
                           "--items", str(shards)], capture_output=True, text=True, check=True)
    return shards / (json.loads(done.stdout)["ms"] / 1e3)


def bench_efficiency(report, tools):
    with Mesh(tools.weir, tools.folder("efficiency"), [1, 1]) as mesh:
        api = mesh.nodes[0].api()

        def job(shards):
            submitted = api.call("submit", kernel="spin", params=[f"us={EFFICIENCY_US}"], items=shards, shard_items=1,
                                 cache="off", replicas=1, inputs=[])
            return api.finish(submitted["job"])

        def run():
            before = pinned_rate(tools)
            begin = time.perf_counter()
            final = job(EFFICIENCY_SHARDS)
            seconds = time.perf_counter() - begin
            rate = EFFICIENCY_SHARDS / seconds
            busy_s = sum(row["device_us"] for row in final["by_node"]) / 1e6
            ideal = before + pinned_rate(tools)  # of two; before and after, in case others use the machine
            return {"efficiency": rate / ideal, "efficiency_shards_per_s": rate, "efficiency_ideal_shards_per_s": ideal,
                    "efficiency_slots_busy": busy_s / (2 * seconds)}

        job(10)  # the workers start
        rows = report.repeat(run)
        for key in rows[0]:
            report.add(key, column(rows, key))
        api.close()


# ---- At rest


def bench_idle(report, tools):
    with Mesh(tools.weir, tools.folder("idle"), [1] * IDLE_NODES) as mesh:
        time.sleep(IDLE_SETTLE_S)
        families = [family(node.process.pid) for node in mesh.nodes]
        before = [sum(map(cpu_seconds, pids)) for pids in families]
        begin = time.monotonic()
        time.sleep(IDLE_S)
        seconds = time.monotonic() - begin
        after = [sum(map(cpu_seconds, pids)) for pids in families]
        report.add("idle_cpu_percent", [100 * (b - a) / seconds for a, b in zip(before, after)])
        report.add("idle_rss_mb", [memory_mb(pids[0], "Rss") for pids in families])
        for field in ("Rss", "Pss"):  # with the join child; pages in common count twice in Rss, shared out in Pss
            report.add(f"idle_{field.lower()}_mb_with_child",
                       [sum(memory_mb(pid, field) for pid in pids) for pids in families])


# ---- Kernels on one core


def run_kernel(tools, kernel, *arguments):
    done = subprocess.run(["taskset", "-c", "0", tools.worker, "--run", kernel, *arguments], capture_output=True,
                          text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def bench_shares(report, tools):
    """How much of what the core can do our loops reach, by processor time: each beside its peak, in turns. There is so much
    of the split input that what is made of the other once, and kept by a worker, counts for little."""
    folder = tools.folder("shares")
    os.makedirs(folder, exist_ok=True)
    draw = numpy.random.default_rng(1)

    def save(name, array):
        numpy.save(f"{folder}/{name}.npy", array)
        return f"{folder}/{name}.npy"

    base = save("base", draw.integers(-127, 128, (104_334, 256), dtype=numpy.int8))
    query = save("query", draw.integers(-127, 128, (4_000, 256), dtype=numpy.int8))
    pairs = {name: [save(f"{side}_{name}", draw.integers(-127, 128, (rows, 2_048)).astype(dtype))
                    for side, rows in (("a", 8_192), ("b", 2_048))]
             for name, dtype in (("fp32", numpy.float32), ("int8", numpy.int8))}
    bodies = save("bodies", draw.random((20_000, 7)).astype(numpy.float32))
    kernels = {  # what to run, operations of it, and the peak that they are held against
        "knn_int8": (("knn", "--input", f"base={base}", "--input", f"query={query}:split", "--param", "k=5"),
                     4_000 * 104_334 * 256, "int8_gmac"),
        "matmul_int8": (("matmul", "--input", f"a={pairs['int8'][0]}:split", "--input", f"b={pairs['int8'][1]}"),
                        8_192 * 2_048 ** 2, "int8_gmac"),
        "matmul_fp32": (("matmul", "--input", f"a={pairs['fp32'][0]}:split", "--input", f"b={pairs['fp32'][1]}"),
                        2 * 8_192 * 2_048 ** 2, "sgemm_gflop"),
        "nbody_fp32": (("nbody", "--input", f"bodies={bodies}"), 34 * 20_000 ** 2, "fp32_gflop"),
    }

    def once():
        row = {}
        for name, (arguments, operations, peak) in kernels.items():
            before = json.loads(subprocess.run(["taskset", "-c", "0", f"{tools.build}/bench/tools/peak"], check=True,
                                               capture_output=True, text=True).stdout)
            rate = operations / run_kernel(tools, *arguments)["cpu_ms"] * 1e-6
            row[f"{name}_rate"], row[f"{name}_share_percent"] = rate, 100 * rate / before[peak]
        return row

    rows = report.repeat(once)
    for key in rows[0]:
        report.add(key, column(rows, key))
    shutil.rmtree(folder)


def bench_kernels(report, tools):
    folder = tools.folder("kernels")
    os.makedirs(folder, exist_ok=True)
    draw = numpy.random.default_rng(1)

    def save(name, array):
        path = f"{folder}/{name}.npy"
        numpy.save(path, array)
        return path

    def each(key, scale, *arguments):
        report.add(key, [scale(row) for row in report.repeat(lambda: run_kernel(tools, *arguments))])

    base = save("base", draw.integers(-127, 128, (104_334, 256), dtype=numpy.int8))
    query = save("query", draw.integers(-127, 128, (1_000, 256), dtype=numpy.int8))
    each("knn_gmac_per_s", lambda row: row["gops"], "knn", "--input", f"base={base}", "--input", f"query={query}:split",
         "--param", "k=5")
    for name, dtype in (("fp32", numpy.float32), ("int8", numpy.int8)):
        a = save(f"a_{name}", draw.integers(-127, 128, (2_048, 2_048)).astype(dtype))
        b = save(f"b_{name}", draw.integers(-127, 128, (2_048, 2_048)).astype(dtype))
        each(f"matmul_{name}_gflop_per_s" if name == "fp32" else "matmul_int8_gop_per_s", lambda row: 2 * row["gops"],
             "matmul", "--input", f"a={a}:split", "--input", f"b={b}")
    words = f"{folder}/words.txt"
    with open("/usr/share/dict/words", "rb") as source, open(words, "wb") as target:
        target.write(source.read() * 4)
    each("embed_lines_per_s", lambda row: row["items"] / row["ms"] * 1e3, "embed", "--input", f"text={words}:split")
    options = save("options", numpy.array([[100, 80 + 5 * i, 0.03, 0.2, 1] for i in range(8)], dtype=numpy.float64))
    paths = 1 << 21
    each("montecarlo_european_paths_per_s", lambda row: row["items"] * paths / row["ms"] * 1e3, "montecarlo", "--input",
         f"option={options}:split", "--param", f"paths={paths}")
    steps = 64
    each("montecarlo_asian_steps_per_s", lambda row: row["items"] * (paths // 32) * steps / row["ms"] * 1e3,
         "montecarlo", "--input", f"option={options}:split", "--param", f"paths={paths // 32}", "--param",
         "style=asian", "--param", f"steps={steps}")
    shutil.rmtree(folder)


# ---- Users' kernels


# As many items as a mesh puts into a shard of them.
USER_KERNELS = {"saxpy": 131_072, "mandelbrot": 131_072, "reduction": 262_144, "gravity": 2_048}


def check_kernel(tools, name, items):
    """Milliseconds of a run on one core, and of its compilation."""
    done = subprocess.run(["taskset", "-c", "0", tools.worker, "--check", f"{ROOT}/kernels/examples/{name}.cu", "--items",
                           str(items), "--repeat", "31"], capture_output=True, text=True)
    found = re.search(r"^cpu +compiled in (\d+) ms .*; ran \d+ items in ([\d.e+-]+) ms", done.stdout, re.M)
    if done.returncode != 0 or not found:
        raise RuntimeError(done.stdout + done.stderr)
    return {"compile": float(found[1]), "run": float(found[2])}


def plain_loop(tools, name, items):
    done = subprocess.run(["taskset", "-c", "0", f"{tools.build}/bench/tools/plain_loops", name, str(items), "31"],
                          capture_output=True, text=True, check=True)
    return float(done.stdout)


def bench_users(report, tools):
    """Examples beside the same loops in plain C, one after the other in each run; and what a first job of a kernel waits."""
    for name, items in USER_KERNELS.items():
        rows = report.repeat(lambda: (check_kernel(tools, name, items), plain_loop(tools, name, items)))
        report.add(f"user_{name}_ratio", [ours["run"] / plain for ours, plain in rows])
        report.add(f"user_{name}_compile_ms", [ours["compile"] for ours, _ in rows])
    folder = tools.folder("users")
    with Mesh(tools.weir, folder, [1]) as mesh:
        api = mesh.nodes[0].api()
        manifest = open(f"{ROOT}/kernels/examples/mandelbrot.ini").read()
        source = open(f"{ROOT}/kernels/examples/mandelbrot.cu").read()
        noop_job(api, 10)

        def job(text):
            blob = api.put(text.encode())
            begin = time.monotonic()
            submitted = api.call("submit", kernel="mandelbrot", manifest=manifest, source=blob, inputs=[], items=1, cache="off",
                                 replicas=1)
            api.finish(submitted["job"])
            return 1e3 * (time.monotonic() - begin)

        number_of_run = iter(range(1_000_000))

        def run():
            text = f"{source}// {next(number_of_run)}\n"
            return job(text), job(text)

        rows = report.repeat(run)
        report.add("user_job_first_ms", [first for first, _ in rows])
        report.add("user_job_again_ms", [again for _, again in rows])
        api.close()


# ---- The peers


def bench_gearman(report, tools):
    client, worker = (f"{tools.build}/bench/tools/gearman_{name}" for name in ("client", "worker"))
    server = shutil.which("gearmand") or "/usr/sbin/gearmand"
    if not os.path.exists(server) or not os.path.exists(client):
        print("  gearmand or libgearman is not here: left out")
        return
    folder = tools.folder("gearman")
    os.makedirs(folder, exist_ok=True)
    port = str(local_mesh.free_ports(1)[0])
    log = f"{folder}/gearman.log"
    peers = [local_mesh.start([server, "--port", port, "--listen", "127.0.0.1", "--log-file", log], log)]
    time.sleep(0.5)
    peers += [local_mesh.start([worker, port], log) for _ in range(2)]

    def rate(count, batch):
        done = subprocess.run([client, port, str(count), str(ROW_BYTES), str(batch)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return count / json.loads(done.stdout)["seconds"]

    rate(1_000, 1)
    report.add("gearman_jobs_per_s", report.repeat(lambda: rate(GEARMAN_JOBS, GEARMAN_BATCH)))
    report.add("gearman_one_call_jobs_per_s",
               report.repeat(lambda: rate(GEARMAN_ONE_CALL_JOBS, GEARMAN_ONE_CALL_JOBS)))
    report.add("gearman_single_jobs_per_s", report.repeat(lambda: rate(GEARMAN_SINGLE_JOBS, 1)))
    for peer in reversed(peers):
        local_mesh.stop(peer)


def bench_dask(report, _tools):
    done = subprocess.run([sys.executable, f"{HERE}/dask_peer.py", str(DASK_TASKS), str(DASK_SINGLE_TASKS),
                           str(report.runs_wanted)], capture_output=True, text=True)
    if done.returncode != 0:
        print("  distributed is not here: left out" if "No module named" in done.stderr else done.stderr)
        return
    rates = json.loads(done.stdout)
    report.add("dask_tasks_per_s", rates["batch"])
    report.add("dask_single_tasks_per_s", rates["single"])


# ---- All of it


class Tools:
    def __init__(self, build):
        self.build = build
        self.weir, self.worker = f"{build}/weir", f"{build}/weir-worker"

    def folder(self, name):
        return f"{self.build}/bench/{name}"


def build_peers(tools):
    for command in (["cmake", "-S", HERE, "-B", f"{tools.build}/bench/tools"],
                    ["cmake", "--build", f"{tools.build}/bench/tools"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout + done.stderr, file=sys.stderr)
            return


def print_table(report):
    width = max(map(len, report.figures))
    print(f"\n{'FIGURE':{width}}  {'MEDIAN':>12}  {'FROM':>12}  {'TO':>12}  RUNS  AIM")
    for key, value in report.figures.items():
        low, high = report.spread.get(key, (value, value))
        aim = ""
        if key in AIMS:
            sign, bound = AIMS[key]
            met = {">=": value >= bound, "<": value < bound, "<=": value <= bound}[sign]
            aim = f"{sign} {bound:g}: {'met' if met else 'not met'}"
        print(f"{key:{width}}  {number(value):>12}  {number(low):>12}  {number(high):>12}  "
              f"{report.runs.get(key, ''):>4}  {aim}".rstrip())


PARTS = {"kernels": bench_kernels, "shares": bench_shares, "users": bench_users, "worker": bench_worker,
         "gearman": bench_gearman, "dask": bench_dask, "noop": bench_noop,
         "single": bench_single, "cached": bench_cached, "submits": journals.bench_submits, "commits": journals.bench_commits,
         "takeover": journals.bench_takeover, "recovery": journals.bench_recovery, "resync": journals.bench_resync,
         "efficiency": bench_efficiency,
         "blob": bench_blob, "idle": bench_idle, "reclaim": owner.bench_reclaim}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--build", default=f"{ROOT}/build", help="where weir and weir-worker are")
    options = parser.parse_args()
    wanted = options.only.split(",")
    for part in wanted:
        if part not in PARTS:
            parser.error(f"no part '{part}'; there are {', '.join(PARTS)}")
    local_mesh.stop_on_signals()
    tools = Tools(os.path.abspath(options.build))
    os.makedirs(f"{tools.build}/bench", exist_ok=True)
    build_peers(tools)
    report, failed = Report(options.runs), []
    about = machine()
    for part in PARTS:
        if part not in wanted:
            continue
        print(f"{part}:", flush=True)
        try:
            PARTS[part](report, tools)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(part)
            print(f"bench: {part}: {error}", file=sys.stderr, flush=True)
    report.ratio("noop_to_gearman", "noop_shards_per_s", "gearman_jobs_per_s")
    report.ratio("noop_single_to_gearman_single", "noop_single_shards_per_s", "gearman_single_jobs_per_s")
    report.ratio("noop_to_dask", "noop_shards_per_s", "dask_tasks_per_s")
    if report.figures:
        print_table(report)
    with open(f"{tools.build}/bench.json", "w") as out:
        json.dump({**report.figures, "runs": report.runs, "range": report.spread, "machine": about, "failed": failed},
                  out, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
