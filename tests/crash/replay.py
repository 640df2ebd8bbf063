#!/usr/bin/python3
"""Crash consistency of the store: replay.py PROGRAM RECORDER [--batches N] [--mixtures N] [--seed S]

Runs `PROGRAM write` with the recorder preloaded, which writes down each change to a file and each sync. Then, for every
place between two of them, it makes folders as a machine that lost power there may leave them, and has `PROGRAM verify`
open each: it must open, hold every acknowledged batch, and no part of another.

What a disk may do (the model of ext4, XFS and Btrfs): a write is durable once its file was synced after it, or if its
descriptor has O_DSYNC. Any of the writes that are not may be there or not, in any mixture, and one of more than a
sector (512 bytes) may be torn between sectors. A name made, moved or removed is durable once its folder was synced, or
for a new file once anything in it was; otherwise the first so many of them may be there.

Last it proves itself: runs with syncs left out, all or those of data only, must be found to lose what was acknowledged.
"""
import argparse
import collections
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

WRITE, TRUNCATE, SYNC, CREATE, RENAME, UNLINK, FOLDER, ACKNOWLEDGED = range(1, 9)
HEADER = struct.Struct("<IIIIQQ")
SECTOR = 512
Op = collections.namedtuple("Op", "op durable path second offset data")


def read_log(path):
    """The records of a run, in order; see struct record of recorder.c."""
    with open(path, "rb") as log:
        data = log.read()
    ops, at = [], 0
    while at < len(data):
        op, durable, path_bytes, second_bytes, offset, count = HEADER.unpack_from(data, at)
        at += HEADER.size
        path = data[at:at + path_bytes].decode()
        second = data[at + path_bytes:at + path_bytes + second_bytes].decode()
        at += path_bytes + second_bytes
        count = count if op == WRITE else 0
        ops.append(Op(op, bool(durable), path, second, offset, data[at:at + count]))
        at += count
    return ops


class File:
    """Its bytes as far as they are certain, then what was done since: [op, certain] in order."""

    def __init__(self):
        self.base = bytearray()
        self.since = []

    def add(self, op):
        self.since.append([op, op.durable])
        self.fold()

    def sync(self):
        for entry in self.since:
            entry[1] = True
        self.fold()

    def arrive(self):
        self.since[-1][1] = True
        self.fold()

    def fold(self):
        while self.since and self.since[0][1]:
            apply(self.base, self.since.pop(0)[0])

    def image(self, keep):
        """The file after a crash: `keep(op)` gives for one that is not certain the ops that it comes to."""
        image = bytearray(self.base)
        for op, certain in self.since:
            for part in [op] if certain else keep(op):
                apply(image, part)
        return image


def apply(image, op):
    if op.op == TRUNCATE:
        del image[op.offset:]
        image.extend(bytes(op.offset - len(image)))
    else:
        image.extend(bytes(max(0, op.offset + len(op.data) - len(image))))
        image[op.offset:op.offset + len(op.data)] = op.data


class Disk:
    """What the program believes (names), and what would be found after a crash (certain names, and changes to them that are not)."""

    def __init__(self):
        self.names = {}     # path to File, or None for a folder
        self.certain = {}
        self.changes = []   # Ops, with the File they are about

    def take(self, op):
        if op.op in (WRITE, TRUNCATE):
            self.names[op.path].add(op)
        elif op.op == SYNC:
            self.sync(op.path)
        elif op.op in (CREATE, FOLDER, RENAME, UNLINK):
            file = File() if op.op == CREATE else None if op.op == FOLDER else self.names[op.path]
            self.changes.append((op, file))
            self.rename(self.names, op, file)

    @staticmethod
    def rename(names, op, file):
        if op.op in (RENAME, UNLINK):
            names.pop(op.path, None)
        if op.op != UNLINK:
            names[op.second if op.op == RENAME else op.path] = file
        if op.op == RENAME and file is None:
            for path in [path for path in names if path.startswith(op.path + "/")]:
                names[op.second + path[len(op.path):]] = names.pop(path)

    def arrive(self, path):
        """The write in flight is durable, and with it its file's name."""
        self.names[path].arrive()
        self.settle(path)

    def sync(self, path):
        if self.names.get(path) is not None:
            self.names[path].sync()
        self.settle(path)

    def settle(self, path):
        """What the sync of a file or folder makes certain about names."""
        file = self.names.get(path)

        def is_certain(op, about):
            if file is not None:  # a new file's name, and the folders above it
                return (op.op == CREATE and about is file) or (op.op == FOLDER and path.startswith(op.path + "/"))
            return os.path.dirname(op.second or op.path) == path
        left = []
        for op, about in self.changes:
            if is_certain(op, about):
                self.rename(self.certain, op, about)
            else:
                left.append((op, about))
        self.changes = left

    def write(self, folder, keep, changes):
        names = dict(self.certain)
        for op, file in self.changes[:changes]:
            if op.op in (CREATE, FOLDER) or op.path in names:
                self.rename(names, op, file)
        for path in sorted(names):
            whole = os.path.join(folder, path)
            os.makedirs(whole if names[path] is None else os.path.dirname(whole), 0o700, exist_ok=True)
            # The lock table is mapped memory: whatever it holds after a boot, LMDB makes it anew.
            if names[path] is not None and os.path.basename(path) != "lock.mdb":
                with open(whole, "wb") as out:
                    out.write(names[path].image(keep))
                os.chmod(whole, 0o600)


def torn(op, draw):
    """Some of a write's sectors: a prefix, or what follows one."""
    start = op.offset // SECTOR + 1
    end = (op.offset + len(op.data) - 1) // SECTOR
    if op.op != WRITE or end < start:
        return [op]
    cut = draw.randint(start, end) * SECTOR - op.offset
    if draw.random() < 0.5:
        return [op._replace(data=op.data[:cut])]
    return [op._replace(offset=op.offset + cut, data=op.data[cut:])]


def mixture(draw):
    def keep(op):
        chance = draw.random()
        return [] if chance < 0.45 else torn(op, draw) if chance < 0.6 else [op]
    return keep


class Verifier:
    def __init__(self, program, scratch):
        self.scratch = scratch
        self.program = subprocess.Popen([program, "verify"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def verdict(self, disk, acknowledged, keep, changes):
        """None if the image holds what it must, otherwise why not."""
        folder = os.path.join(self.scratch, "image")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "store"), 0o700)
        disk.write(folder, keep, changes)
        self.program.stdin.write("%s %d\n" % (os.path.join(folder, "store"), acknowledged))
        self.program.stdin.flush()
        answer = self.program.stdout.readline().strip()
        if not answer:
            return "the program died with %s" % self.program.wait()
        return None if answer.startswith("ok") else answer[4:]

    def close(self):
        self.program.stdin.close()
        self.program.wait()


def record(options, scratch, without=None):
    root, log = os.path.join(scratch, "root"), os.path.join(scratch, "log")
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root, 0o700)
    env = dict(os.environ, LD_PRELOAD=os.path.abspath(options.recorder), WEIR_RECORD_ROOT=root, WEIR_RECORD_LOG=log)
    if without:
        env["WEIR_RECORD_NOSYNC"] = without
    subprocess.run([options.program, "write", os.path.join(root, "store"), str(options.batches)], env=env, check=True)
    return read_log(log)


def crash_everywhere(ops, options, scratch, after=0, failures_max=10):
    """Images at every place of the run once `after` batches are acknowledged; returns (images, failures as text)."""
    draw = random.Random(options.seed)
    verifier = Verifier(options.program, scratch)
    disk, acknowledged, images, failures = Disk(), 0, 0, []
    for place, op in enumerate(ops):
        if op.op == ACKNOWLEDGED:
            acknowledged = op.offset
            continue
        in_flight = op._replace(durable=False)
        if op.op != SYNC:
            disk.take(in_flight)
        # Nothing of what is not certain, all of it, and mixtures of it, torn here and there.
        pictures = [(lambda op: [], 0), (lambda op: [op], len(disk.changes))]
        pictures += [(mixture(draw), draw.randint(0, len(disk.changes))) for _ in range(options.mixtures)]
        for picture in pictures if acknowledged >= after else ():
            why = verifier.verdict(disk, acknowledged, *picture)
            images += 1
            if why:
                failures.append("crash %d of %d (seed %d): %s" % (place, len(ops), options.seed, why))
                if len(failures) == failures_max:
                    verifier.close()
                    return images, failures
        if op.op == SYNC:
            disk.take(op)
        elif op.durable:
            disk.arrive(op.path)
    verifier.close()
    return images, failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("recorder")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--mixtures", type=int, default=4, help="torn and reordered pictures of the disk at each boundary, beside nothing and all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # the syncs of images need not reach a disk
    with tempfile.TemporaryDirectory(prefix="weir-crash-", dir=memory) as scratch:
        ops = record(options, scratch)
        syncs = sum(op.op == SYNC or op.durable for op in ops)
        images, failures = crash_everywhere(ops, options, scratch)
        print("seed %d: %d batches, %d changes and syncs, %d of them make something durable; %d crashes, %d bad"
              % (options.seed, options.batches, len(ops), syncs, images, len(failures)))
        print("".join("    %s\n" % failure for failure in failures), end="")
        if not any(op.op == ACKNOWLEDGED and op.offset == options.batches for op in ops):
            sys.exit("this run shows nothing: the recorder saw no acknowledgements")
        for without in ("all", "calls"):
            found = crash_everywhere(record(options, scratch, without), options, scratch, 1, 1)[1]
            print("without syncs (%s): %s" % (without, found[0] if found else "nothing was found"))
            failures += [] if found else [without]
        sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
