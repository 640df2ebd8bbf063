"""Reads what nodes have on their disks, with liblmdb, msgpack and hashlib: none of their own code.

The formats are those of store/schema.c (rows and their sums), node/copies.c (entries of journals), node/payload.c (what is in
them) and crypto/record.h. LMDB lets a second process read while the node writes, so a watcher looks at all disks every half
second: a journal is deleted once its job is over everywhere, and what stood in it must have been seen before.
"""
import collections
import contextlib
import hashlib
import os
import threading
import time

import lmdb
import msgpack

SUM_BYTES = 8
SUBMIT, COMMIT, END, TAKEOVER, CHANGE = 1, 2, 3, 4, 5
RECORD_HEADER_BYTES = 118
LOOK_EVERY_S = 0.5


def row_sum(key, value):
    """What stands behind each value of the state."""
    domain = b"weir cache row 1"
    return hashlib.blake2b(bytes([len(domain)]) + domain + len(key).to_bytes(8, "little") + key + value,
                           digest_size=32).digest()[:SUM_BYTES]


def rows(folder, table):
    """Keys and values of a table of the state, as of one moment; sums that do not match are an error of the disk's node."""
    environment = lmdb.open(os.path.join(folder, "store", "state"), readonly=True, max_dbs=32, create=False)
    try:
        handle = environment.open_db(table.encode(), create=False)
        with environment.begin(db=handle) as txn:
            for key, sealed in txn.cursor():
                value, found = sealed[:-SUM_BYTES], sealed[-SUM_BYTES:]
                if row_sum(key, value) != found:
                    raise ValueError("%s: a row of %s does not match its sum" % (folder, table))
                yield key, value
    finally:
        environment.close()


Entry = collections.namedtuple("Entry", "epoch settled kind digest shards")


def decode_entry(value):
    version, epoch, settled, kind, _, body = msgpack.unpackb(value, raw=True, strict_map_key=False)
    if version != 1:
        raise ValueError("an entry of version %d" % version)
    shards = {}
    if kind == COMMIT:
        items = msgpack.unpackb(body, raw=True)[5]
        shards = {items[i]: hashlib.blake2b(items[i + 1], digest_size=16).digest() for i in range(0, len(items), 2)}
    return Entry(epoch, settled, kind, hashlib.blake2b(body, digest_size=16).digest(), shards)


class History:
    """What all disks have held, put together as it is seen."""

    def __init__(self):
        self.settled = collections.defaultdict(dict)  # job -> index -> {(epoch, kind, digest): the entry}
        self.records = collections.defaultdict(set)  # (origin, kind, incarnation, sequence) -> digests
        self.keepers = collections.defaultdict(dict)  # job -> site's index -> [first, last] wall clock of entries on its disk
        self.cache = {}  # raw value's digest -> entry: most have been decoded before
        self.looks = 0
        self.errors = []

    def take(self, site):
        """Adds what is on a site's disk now."""
        self.take_entries(site)
        self.take_records(site)
        self.looks += 1

    def take_entries(self, site):
        journals = collections.defaultdict(dict)
        for key, value in rows(site.data, "entries"):
            name = hashlib.blake2b(value, digest_size=16).digest()
            if name not in self.cache:
                self.cache[name] = decode_entry(value)
            journals[key[:32]][int.from_bytes(key[32:], "big")] = self.cache[name]
        now = time.time()
        for job, log in journals.items():
            self.keepers[job].setdefault(site.index, [now, now])[1] = now
            # Who holds an entry that says so much is settled, holds what is settled (log matching, Raft 5.3).
            settled = max(entry.settled for entry in log.values())
            for index, entry in log.items():
                if index <= settled:
                    self.settled[job].setdefault(index, {})[entry.epoch, entry.kind, entry.digest] = entry

    def take_records(self, site):
        for _, value in rows(site.data, "records"):
            kind = int.from_bytes(value[48:50], "little")
            name = (value[50:82], kind, int.from_bytes(value[82:90], "little"), int.from_bytes(value[90:98], "little"))
            self.records[name].add(hashlib.blake2b(value, digest_size=16).digest())

    def watch(self, sites, stopped):
        """On a thread, until told to stop."""
        while not stopped.wait(LOOK_EVERY_S):
            for site in sites:
                with contextlib.suppress(RuntimeError):
                    self.look(site)

    def look(self, site, last=False):
        """A folder that is just being moved or made is passed over, but not when nothing runs any more."""
        try:
            self.take(site)
        except ValueError as wrong:
            self.errors.append("%s: %s" % (site.name, wrong))
        except (lmdb.Error, OSError) as unread:
            if last:
                self.errors.append("%s: can't be read at the end: %s" % (site.name, unread))

    # ---- What must hold.

    def changed(self):
        """Settled entries that were replaced by others."""
        return [(job, index) for job, log in self.settled.items() for index, found in log.items() if len(found) > 1]

    def doubled(self):
        """Shards that one history commits twice."""
        twice = []
        for job, log in self.settled.items():
            first = {}
            for index in sorted(log):
                for entry in log[index].values():
                    for shard in entry.shards:
                        if first.setdefault(shard, index) != index:
                            twice.append((job, shard))
        return twice

    def forked(self):
        return [name for name, digests in self.records.items() if len(digests) > 1]

    def epochs_fall(self):
        """Journals in which a later entry is of an earlier epoch."""
        wrong = []
        for job, log in self.settled.items():
            epochs = [entry.epoch for index in sorted(log) for entry in log[index].values()]
            if epochs != sorted(epochs):
                wrong.append(job)
        return wrong

    def members(self, job, at):
        """Indexes of the sites that kept the job's journal then; between two homes they do not change."""
        return {site for site, (first, last) in self.keepers[job].items() if first - 2 * LOOK_EVERY_S <= at <= last + 2 * LOOK_EVERY_S}

    def commits(self):
        return sum(len(entry.shards) for log in self.settled.values() for found in log.values() for entry in found.values())


def start_watching(sites):
    """Returns the history and what ends the watch."""
    history, stopped = History(), threading.Event()
    thread = threading.Thread(target=history.watch, args=(sites, stopped), daemon=True)
    thread.start()

    def stop():
        stopped.set()
        thread.join()
    return history, stop
