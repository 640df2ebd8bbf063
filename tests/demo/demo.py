#!/usr/bin/python3
"""The demo: correct misspellings by vector search on a mesh of three sites, one of which is killed meanwhile.

    make demo          or, on a built tree: /usr/bin/python3 tests/demo/demo.py [--build FOLDER]

It drives the real program as a user would and measures what it says. What it shows is checked: the neighbours must be
those that NumPy finds from the same vectors, with and without the killed site, and from another site's cache. Results
are in build/demo: summary.json, neighbours.npy, base.npy, query.npy.
"""
import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SITES = 3
ENTRIES = 10000  # misspellings: every third entry of codespell's dictionary
EVERY = 3
NEIGHBOURS = 5
ROWS_SHOWN = 12
KILL_TRIES = 4
SOCKET_PATH_BYTES_MAX = 100  # of 107 that a Unix socket's path may have
START_TIMEOUT_S = 60
JOB_TIMEOUT_S = 300
STOP_TIMEOUT_S = 15
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """The demo cannot go on, or what it saw is wrong: one line that says what."""


def say(text=""):
    print(text, flush=True)


# ---- Input


def package_file(package, ending):
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    for path in listed.stdout.splitlines():
        if path.endswith(ending) and os.path.isfile(path):
            return os.path.realpath(path)
    raise Failure(f"the package {package} is not installed; run: sudo packaging/deps demo")


def read_words():
    with open(package_file("wamerican", "/american-english"), encoding="utf-8") as lines:
        return lines.read().splitlines()


def read_entries():
    """(misspelling, its corrections) of every third entry."""
    entries = []
    with open(package_file("codespell", "/data/dictionary.txt"), encoding="utf-8") as lines:
        for line in lines:
            wrong, arrow, right = line.rstrip("\n").partition("->")
            if arrow:
                entries.append((wrong, [word.strip() for word in right.split(",") if word.strip()]))
    return entries[::EVERY][:ENTRIES]


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")


# ---- The mesh


def start_in_own_session():
    """In the child: away from our terminal, so that Ctrl-C reaches only us, and never outliving us."""
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Mesh:
    """`weir dev` while it runs."""

    def __init__(self, weir, folder, log):
        self.weir, self.folder, self.log = weir, folder, log
        self.process = None
        self.sites = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        # The sites share this machine: each lends its part of the cores.
        slots = max(1, len(os.sched_getaffinity(0)) // SITES)
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [self.weir, "dev", "--sites", str(SITES), "--data", self.folder, "--json", "--set",
                 f"work.cpu_slots={slots}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=start_in_own_session)
        line = self.first_line()
        if not line:
            with open(self.log, encoding="utf-8") as log:
                said = log.read().strip().splitlines()
            raise Failure("weir dev did not start: " + (said[-1] if said else "it said nothing"))
        self.sites = json.loads(line)["sites"]

    def first_line(self):
        """The line that dev prints when all sites are up, or "" if it ended or took too long."""
        signal.alarm(START_TIMEOUT_S)
        try:
            return self.process.stdout.readline()
        finally:
            signal.alarm(0)

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def run(self, site, *arguments):
        """One command against the node of `site`; returns its standard output. Progress shows on a terminal."""
        done = subprocess.run([self.weir, *arguments, "--node", site["socket"]], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, timeout=JOB_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise Failure(f"weir {' '.join(arguments)}: exit code {done.returncode}")
        return done.stdout

    def ask(self, site, *arguments):
        return json.loads(self.run(site, *arguments, "--json"))


# ---- The jobs


def submit_embed(mesh, site, path):
    return mesh.ask(site, "submit", "embed", "--input", f"text={path}", "--split", "text")


def fetch(mesh, site, job, output, path):
    mesh.ask(site, "submit", "--reattach", job["id"], "--output", f"{output}={path}")


def knn_arguments(base, query, shard_items):
    cut = ["--shard-items", str(shard_items)] if shard_items else []
    return ["submit", "knn", "--input", f"base=job:{base['id']}/vectors", "--input",
            f"query=job:{query['id']}/vectors", "--split", "query", "--param", f"k={NEIGHBOURS}", *cut]


def in_progress(mesh, home, job):
    """Shards in the hands of each other node, by the record of decisions at the job's home."""
    shards = {}
    for decision in mesh.ask(home, "explain", job)["decisions"]:
        change = {"assigned": 1, "done": -1, "returned": -1, "crashed": -1, "expired": -1, "lease-ended": -1,
                  "member-down": -1, "restarted": -1}.get(decision["why"], 0)
        shards[decision["node"]] = shards.get(decision["node"], 0) + change * decision["count"]
    return shards


def stop_and_kill(mesh, home, job, site):
    """Kills the site's node if it surely holds shards: it is stopped first, and what it had sent is waited for."""
    os.kill(site["pid"], signal.SIGSTOP)
    time.sleep(0.1)
    if in_progress(mesh, home, job).get(site["id"], 0) > 0:
        os.kill(site["pid"], signal.SIGKILL)
        return True
    os.kill(site["pid"], signal.SIGCONT)
    return False


def kill_one_site(mesh, home, job):
    """Waits until a site other than `home` holds shards of the job, then kills its node. None: the job was quicker."""
    others = [site for site in mesh.sites if site is not home]
    while mesh.ask(home, "jobs", job)["job"]["state"] in ("preparing", "running"):
        shards = in_progress(mesh, home, job)
        busiest = max(others, key=lambda site: shards.get(site["id"], 0))
        if shards.get(busiest["id"], 0) > 0 and stop_and_kill(mesh, home, job, busiest):
            return busiest
    return None


def search_and_kill(mesh, home, base, query):
    """The knn job, with a site killed while it runs. A machine that is too quick for that gets smaller shards."""
    shard_items = 0
    for _ in range(KILL_TRIES):
        begin = time.monotonic()
        job = mesh.run(home, *knn_arguments(base, query, shard_items), "--detach").strip()
        waiting = subprocess.Popen([mesh.weir, "submit", "--reattach", job, "--json", "--node", home["socket"]],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            killed = kill_one_site(mesh, home, job)
            answer, _ = waiting.communicate(timeout=JOB_TIMEOUT_S)
        finally:
            if waiting.poll() is None:
                waiting.kill()
                waiting.wait()
        elapsed_ms = (time.monotonic() - begin) * 1000
        if waiting.returncode != 0:
            raise Failure(f"the knn job ended with exit code {waiting.returncode}")
        state = json.loads(answer)
        if killed:
            return state, killed, shard_items, elapsed_ms
        shard_items = max(1, (shard_items or ENTRIES // state["shards"]) // 8)
        say(f"   (done in {elapsed_ms:.0f} ms, before a site could be killed: again with {shard_items} queries a shard)")
    raise Failure("this machine finishes the job before a site can be killed in the middle of it")


# ---- The check


def nearest_by_numpy(base, query, k):
    """Exact squared L2 in int32, ties by the lower row number: written without a look at the kernel."""
    assert base.shape[1] * 127 * 127 < 2**24, "float32 sums of products would not be exact"
    wide_base = base.astype(numpy.float32)
    squares = (base.astype(numpy.int32) ** 2).sum(axis=1, dtype=numpy.int32)
    block = 64
    padding = -len(base) % block
    result = numpy.empty((len(query), k), numpy.int32)
    for first in range(0, len(query), 128):
        chunk = query[first:first + 128]
        products = (chunk.astype(numpy.float32) @ wide_base.T).astype(numpy.int32)
        own = (chunk.astype(numpy.int32) ** 2).sum(axis=1, dtype=numpy.int32)
        distances = own[:, None] + squares[None, :] - 2 * products
        # The k-th smallest of the blocks' minima is no less than the k-th smallest distance.
        padded = numpy.pad(distances, ((0, 0), (0, padding)), constant_values=numpy.iinfo(numpy.int32).max)
        minima = padded.reshape(len(chunk), -1, block).min(axis=2)
        limits = numpy.partition(minima, k - 1, axis=1)[:, k - 1]
        for i in range(len(chunk)):
            rows = numpy.flatnonzero(distances[i] <= limits[i])
            order = numpy.lexsort((rows, distances[i][rows]))
            result[first + i] = rows[order[:k]]
    return result


def digest_of(path):
    with open(path, "rb") as data:
        return hashlib.blake2b(data.read(), digest_size=32).hexdigest()


def check_neighbours(path, base_path, query_path):
    base, query, found = numpy.load(base_path), numpy.load(query_path), numpy.load(path)
    if found.dtype != numpy.int32 or found.shape != (len(query), NEIGHBOURS):
        raise Failure(f"{path} holds {found.dtype} {found.shape}, not int32 ({len(query)}, {NEIGHBOURS})")
    expected = nearest_by_numpy(base, query, NEIGHBOURS)
    wrong = numpy.flatnonzero((expected != found).any(axis=1))
    if len(wrong):
        raise Failure(f"{len(wrong)} of {len(query)} queries have other neighbours than NumPy finds; the first is row "
                      f"{wrong[0]}: {found[wrong[0]].tolist()} instead of {expected[wrong[0]].tolist()}")
    return found


# ---- What is shown


def judge(words, entries, found):
    """For each entry: True or False, or None where no correction of it is in the word list."""
    known = {word.lower() for word in words}
    verdicts = []
    for (_, corrections), rows in zip(entries, found):
        wanted = {word.lower() for word in corrections} & known
        verdicts.append(any(words[row].lower() in wanted for row in rows) if wanted else None)
    return verdicts


def show_corrections(words, entries, found, verdicts):
    judged = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    shown = [judged[(2 * n + 1) * len(judged) // (2 * ROWS_SHOWN)] for n in range(ROWS_SHOWN)]
    say(f"{'':2} {'MISSPELLING':18} FIVE NEAREST WORDS")
    for i in shown:
        near = "  ".join(words[row] for row in found[i])
        say(f"{'ok' if verdicts[i] else '--':2} {entries[i][0]:18} {near}")


def shards_by_site(*jobs):
    """Shards that each site computed, over these jobs."""
    shards = {}
    for job in jobs:
        for node in job["by_node"]:
            shards[node["site"]] = shards.get(node["site"], 0) + node["shards"]
    return shards


def left_behind():
    """Processes that outlived their parents: as a subreaper, this process inherited them."""
    deadline = time.monotonic() + 3
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return []
        with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as children:
            pids = [int(pid) for pid in children.read().split()]
        if not pids or time.monotonic() > deadline:
            return pids
        time.sleep(0.05)


# ---- In order


def first_run(mesh, home, files):
    say(f"1. embed: {files['words']:,} words and {files['queries']:,} misspellings to vectors, from {home['site']}")
    begin = time.monotonic()
    base = submit_embed(mesh, home, files["words_path"])
    query = submit_embed(mesh, home, files["queries_path"])
    embed_ms = (time.monotonic() - begin) * 1000
    say(f"   {base['shards'] + query['shards']} shards in {embed_ms:.0f} ms")
    say(f"2. knn: the {NEIGHBOURS} nearest words of each, and a site is killed meanwhile")
    knn, killed, shard_items, knn_ms = search_and_kill(mesh, home, base, query)
    say(f"   {knn['shards']} shards in {knn_ms:.0f} ms; {killed['site']} was killed (SIGKILL) with shards in hand, "
        f"{knn['reassigned']} were reassigned")
    if knn["reassigned"] < 1:
        raise Failure(f"{killed['site']} was killed with shards in hand, but none was reassigned")
    return {"base": base, "query": query, "knn": knn, "killed": killed, "shard_items": shard_items,
            "ms": embed_ms + knn_ms}


def fetch_all(mesh, site, jobs, folder):
    """Outside of the times that are measured: a result is at its home when its job is done."""
    for job, output, name in zip(jobs, ("vectors", "vectors", "index"), ("base", "query", "neighbours")):
        fetch(mesh, site, job, output, f"{folder}/{name}.npy")


def second_run(mesh, site, files, shard_items):
    """The same jobs from another site. Returns the jobs and the time that they took."""
    begin = time.monotonic()
    base = submit_embed(mesh, site, files["words_path"])
    query = submit_embed(mesh, site, files["queries_path"])
    knn = mesh.ask(site, *knn_arguments(base, query, shard_items))
    return [base, query, knn], (time.monotonic() - begin) * 1000


def demo(weir, folder, mesh_folder):
    words, entries = read_words(), read_entries()
    files = {name: f"{folder}/{name}.npy" for name in ("base", "query", "neighbours")}
    files.update(words_path=f"{folder}/words.txt", queries_path=f"{folder}/misspellings.txt", again=f"{folder}/again",
                 words=len(words), queries=len(entries))
    for name in ("base", "query", "neighbours"):
        if os.path.exists(files[name]):
            os.unlink(files[name])
    os.makedirs(files["again"], exist_ok=True)
    write_lines(files["words_path"], words)
    write_lines(files["queries_path"], [wrong for wrong, _ in entries])
    with Mesh(weir, mesh_folder, f"{folder}/dev.log") as mesh:
        home = mesh.sites[0]
        say(f"{SITES} sites are up: {', '.join(site['site'] for site in mesh.sites)}")
        say()
        first = first_run(mesh, home, files)
        jobs = [first["base"], first["query"], first["knn"]]
        fetch_all(mesh, home, jobs, folder)
        other = next(site for site in mesh.sites if site is not home and site is not first["killed"])
        say(f"3. the same jobs again, submitted at {other['site']}")
        cached_jobs, cached_ms = second_run(mesh, other, files, first["shard_items"])
        fetch_all(mesh, other, cached_jobs, files["again"])
        shards, cached = sum(job["shards"] for job in jobs), sum(job["cached"] for job in cached_jobs)
        say(f"   {cached} of {shards} shards from the cache in {cached_ms:.0f} ms; the first run took "
            f"{first['ms']:.0f} ms, {first['ms'] / cached_ms:.1f} times as long")
        say()
        say(mesh.run(other, "nodes").rstrip())
    computed = shards_by_site(*cached_jobs)
    if cached != shards or any(computed.values()):
        raise Failure(f"the second run computed {shards - cached} of {shards} shards")
    for name in ("base", "query", "neighbours"):
        if digest_of(files[name]) != digest_of(f"{files['again']}/{name}.npy"):
            raise Failure(f"the second run's {name}.npy differs from the first run's")
    found = check_neighbours(files["neighbours"], files["base"], files["query"])
    verdicts = judge(words, entries, found)
    judged = [verdict for verdict in verdicts if verdict is not None]
    by_site = {site["site"]: shards_by_site(*jobs).get(site["site"], 0) for site in mesh.sites}
    say()
    show_corrections(words, entries, found, verdicts)
    say()
    say(f"correction among the {NEIGHBOURS} nearest: {sum(judged)} of the {len(judged)} entries whose correction is in "
        f"the word list ({100 * sum(judged) / len(judged):.1f} %)")
    say("shards run by each site: " + ", ".join(f"{site} {count}" for site, count in by_site.items())
        + f" (of {shards}); killed: {first['killed']['site']}; reassigned: {first['knn']['reassigned']}")
    say(f"checked: the {len(found):,} x {NEIGHBOURS} neighbours are those that NumPy finds; both runs gave the same "
        "bytes")
    return {
        "sites": [site["site"] for site in mesh.sites],
        "shards": shards,
        "shards_by_node": by_site,
        "killed": first["killed"]["site"],
        "reassigned_shards": first["knn"]["reassigned"],
        "queries": len(entries),
        "top5_share": round(sum(judged) / len(judged), 4),
        "first_run_ms": round(first["ms"], 1),
        "cached_run_ms": round(cached_ms, 1),
        "speedup": round(first["ms"] / cached_ms, 1),
        "cached_shards": cached,
        "result_digest": digest_of(files["neighbours"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build"), help="the folder that weir was built in")
    build = os.path.abspath(parser.parse_args().build)
    weir, folder = os.path.join(build, "weir"), os.path.join(ROOT, "build", "demo")
    if not os.access(weir, os.X_OK):
        raise Failure(f"{weir} is not there; run: make build")
    os.makedirs(folder, exist_ok=True)
    lock = open(os.path.join(folder, "lock"), "w", encoding="ascii")  # held until we end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        raise Failure(f"another demo runs in {folder}; wait for it, or use another clone") from busy
    summary_path = os.path.join(folder, "summary.json")
    if os.path.exists(summary_path):
        os.unlink(summary_path)
    mesh_folder, temporary = os.path.join(folder, "mesh"), None
    if len(mesh_folder) > SOCKET_PATH_BYTES_MAX - len("/ashburn/api.sock"):
        temporary = tempfile.mkdtemp(prefix="weir-demo-")
        mesh_folder = os.path.join(temporary, "mesh")
    try:
        summary = demo(weir, folder, mesh_folder)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    with open(summary_path, "w", encoding="utf-8") as out:
        json.dump(summary, out, indent=2)
        out.write("\n")
    say(f"summary: {os.path.relpath(summary_path)}")


def interrupted(number, _frame):
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def run():
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(
        Failure(f"weir dev was not ready after {START_TIMEOUT_S} s")))
    code = 1
    try:
        main()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except (Failure, subprocess.TimeoutExpired) as failure:
        print(f"demo: {failure}", file=sys.stderr)
    finally:
        for pid in left_behind():
            with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as line:
                print(f"demo: left a process behind: {pid} {line.read().replace(chr(0), ' ')}", file=sys.stderr)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = code or 1
    return code


if __name__ == "__main__":
    sys.exit(run())
