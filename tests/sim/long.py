#!/usr/bin/python3
"""Plays seeds by the thousand and remembers which were played: make sim-long.

    tests/sim/long.py [--seeds 2000] [--block 100] [--profile NAME ...] [--hours 24] [--ledger tests/sim/ledger.txt] [--binary FILE]

Every line of the ledger is one block of seeds that was played to its end on one state of the core:

    DATE COMMIT TREE PROFILE:FAULTS[:NODES] FIRST-LAST RESULT HASH

COMMIT is what was checked out, TREE the tree hashes of mesh/ and store/ as git names them (a `+` behind them says that the working tree
differed), RESULT `held` or `failed:SEED`, HASH the hash over the block's traces. A block that held
for the TREE of today is not played again (unless the working tree differs from it), so a run may be interrupted at any moment and goes on with the next block; a
line is written, whole and on disk, only when its block is done. When the core changes, everything is to be played anew. A block that failed is played again each
time, since the mistake may have been the simulator's; the last of a block's lines counts.

Behind the profiles come 24 blocks `evictions-loss10:0:1000` of one seed each: an hour of 1,000 nodes where every tenth message is lost
and nodes pause (the study of that name). Such an hour fails if a living node was shown down; its HASH is that over its seed and figures. It takes
some 6 to 10 minutes of processor time: --profile evictions-loss10 plays these alone, --hours 0 leaves them out.
"""
import argparse
import collections
import concurrent.futures
import datetime
import hashlib
import json
import os
import re
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Each profile's share of the seeds, and its faults per run. Runs of their own follow below.
PROFILES = collections.OrderedDict([("mixed", 20), ("crash", 30), ("partition", 30), ("lossy", 20), ("owner", 30),
                                    ("disk", 30), ("byzantine", 30), ("wrong", 30)])

# A study instead of a profile: each block is one virtual hour.
EVICTIONS = "evictions-loss10"

RUNNING = set()
Block = collections.namedtuple("Block", "profile faults first last nodes minutes")


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def tree_of_core():
    """The hashes of mesh/ and store/, as they are now, and whether they or what is built beside them differ from that."""
    changed = git("status", "--porcelain", "--", "mesh", "store", "node/sim")
    return "-".join(git("rev-parse", "--short=12", "HEAD:" + folder) for folder in ("mesh", "store")) + ("+" if changed else "")


def blocks(options):
    """What is to be played, in turns over the profiles, so that an interrupted run has some of each."""
    profiles = [name for name in options.profile or PROFILES if name != EVICTIONS]
    for first in range(1, options.seeds + 1, options.block):
        last = min(first + options.block - 1, options.seeds)
        for profile in profiles:
            yield Block(profile, PROFILES[profile], first, last, 0, 10)
    if not options.profile:
        for seed in range(1, 1 + max(1, options.seeds // 1000)):
            yield Block("mixed", 40, seed, seed, 1000, 10)
            yield Block("crowd", 0, seed, seed, 1000, 6)
    if EVICTIONS in (options.profile or [EVICTIONS]):
        for seed in range(1, 1 + options.hours):
            yield Block(EVICTIONS, 0, seed, seed, 1000, 60)


def name_of(block):
    return "%s:%d%s" % (block.profile, block.faults, ":%d" % block.nodes if block.nodes else "")


def played(path, tree):
    """The blocks that held for this tree, by name and seeds. A line that was cut off counts for nothing."""
    result = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as ledger:
            for line in ledger:
                words = line.split()
                if len(words) == 7 and line.endswith("\n") and words[2] == tree:
                    result[words[3], words[4]] = words[5]
    return {block for block, how in result.items() if how == "held"}


def append(path, line):
    with open(path, "a+b") as ledger:
        ledger.seek(0, os.SEEK_END)
        if ledger.tell():
            ledger.seek(-1, os.SEEK_END)
            if ledger.read(1) != b"\n":  # an interrupted write
                ledger.write(b"\n")
        ledger.write(line.encode() + b"\n")
        ledger.flush()
        os.fsync(ledger.fileno())


def command(binary, block):
    arguments = [binary, "sim"] if os.path.basename(binary) == "weir" else [binary]
    arguments += ["--seed", str(block.first), "--minutes", str(block.minutes), "--json"]
    if block.nodes:
        arguments += ["--nodes", str(block.nodes)]
    if block.profile == EVICTIONS:
        return arguments + ["--study", EVICTIONS]
    return arguments + ["--seeds", str(block.last - block.first + 1), "--faults", "%s:%d" % (block.profile, block.faults)]


def judge(block, output):
    """Returns (result, hash) of a run that ended well."""
    if block.profile != EVICTIONS:
        return "held", re.search(r'"hash": "([0-9a-f]+)"', output).group(1)
    stated = json.loads(output.splitlines()[-1])
    figures = stated["figures"]
    if figures["virtual_minutes"] != block.minutes:
        raise RuntimeError("%s minutes were played of %d" % (figures["virtual_minutes"], block.minutes))
    if figures["false_evictions"]:
        return "failed:%d" % block.first, "-"
    told = json.dumps([stated["seed"], stated["virtual_s"], figures], sort_keys=True)
    return "held", hashlib.sha256(told.encode()).hexdigest()[:16]


def play(binary, block):
    """Returns (result, hash, output)."""
    arguments = command(binary, block)
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    RUNNING.add(child)
    output, _ = child.communicate()
    RUNNING.discard(child)
    if child.returncode == 0:
        return (*judge(block, output), output)
    failed = re.search(r"^seed (\d+)|^weir: sim: study \S+, seed (\d+)", output, re.M)
    if not failed:
        raise RuntimeError("%s: exit code %d: %s" % (" ".join(arguments), child.returncode, output[-2000:]))
    return "failed:" + (failed.group(1) or failed.group(2)), "-", output


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="of each profile")
    parser.add_argument("--block", type=int, default=100, help="seeds per line of the ledger")
    parser.add_argument("--profile", action="append", choices=[*PROFILES, EVICTIONS], help="only this one; may be repeated")
    parser.add_argument("--hours", type=int, default=24, help="of %s, behind the profiles; 0: none" % EVICTIONS)
    parser.add_argument("--ledger", default=os.path.join(ROOT, "tests", "sim", "ledger.txt"))
    parser.add_argument("--binary", default=os.path.join(ROOT, "build", "weir"))
    options = parser.parse_args()
    if not os.access(options.binary, os.X_OK):
        parser.error("%s is not there: build it first" % options.binary)
    signal.signal(signal.SIGTERM, interrupt)
    tree = tree_of_core()
    commit = git("rev-parse", "--short=12", "HEAD")
    done = set() if tree.endswith("+") else played(options.ledger, tree)
    todo = [block for block in blocks(options) if (name_of(block), "%d-%d" % (block.first, block.last)) not in done]
    print("mesh/ and store/ are %s: %d blocks held before, %d to play" % (tree, len(done), len(todo)), flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        under_way = {pool.submit(play, options.binary, block): block for block in todo}
        try:
            for future in concurrent.futures.as_completed(under_way):
                block = under_way[future]
                result, digest, output = future.result()
                append(options.ledger, "%s %s %s %s %d-%d %s %s" % (
                    datetime.date.today().isoformat(), commit, tree, name_of(block), block.first, block.last, result, digest))
                print("%s seeds %d-%d: %s" % (name_of(block), block.first, block.last, result), flush=True)
                if result != "held":
                    failed += 1
                    print(output, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(RUNNING):
                child.kill()
            print("interrupted; what is done is in the ledger")
            return 130
    print("%d blocks failed" % failed if failed else "everything held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
