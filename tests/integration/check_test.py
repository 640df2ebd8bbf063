"""What `weir store check` names: rows whose sums are right and that no honest node leaves behind. And what it must not name."""
import ctypes
import ctypes.util
import os
import shutil
import sys

import lmdb
import msgpack

from harness import expect, wait_until
from mesh_test import THREE, expect_marks, wait_running
from operations_test import odd_clock, set_clock
from takeover_test import FIVE, LONG_ITEMS, LONG_SPIN, wait_taken_over

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "chaos"))
import stores  # noqa: E402

SIGNATURE_BYTES = 64
NOT_AFTER, BODY_BYTES, BODY = 106, 114, 118  # crypto/record.h
MEMBER, CHAIN = 3, 10  # the kind of a member's record; where in its body the chain is


# ---- Writing rows as a node does

class Rows:
    """A table of a copy of a node's folder, to be changed; each row that is put gets its right sum."""

    def __init__(self, place, data, table):
        self.data = place.path("changed-%d" % len(os.listdir(place.folder)))
        shutil.copytree(data, self.data)
        self.table = table

    def __enter__(self):
        self.environment = lmdb.open(os.path.join(self.data, "store", "state"), max_dbs=32)
        self.txn = self.environment.begin(write=True)
        self.handle = self.environment.open_db(self.table.encode(), txn=self.txn, create=False)
        return self

    def __exit__(self, *_):
        self.txn.commit()
        self.environment.close()

    def put(self, key, value):
        self.txn.put(key, value + stores.row_sum(key, value), db=self.handle)

    def delete(self, key):
        expect(self.txn.delete(key, db=self.handle), "there is no such row")


def entries_of(data, job):
    """Index to [version, epoch, settled, kind, members, bytes], as on that disk."""
    return {int.from_bytes(key[32:], "big"): msgpack.unpackb(value, raw=True)
            for key, value in stores.rows(data, "entries") if key[:32] == job}


def entry_key(job, index):
    return job + index.to_bytes(4, "big")


class Seed:
    """Signs as the holder of that Ed25519 seed."""

    def __init__(self, seed):
        self.sodium = ctypes.CDLL(ctypes.util.find_library("sodium"))
        self.public, self.secret = ctypes.create_string_buffer(32), ctypes.create_string_buffer(64)
        self.sodium.crypto_sign_seed_keypair(self.public, self.secret, seed)

    def sign(self, record):
        """The record with another signature in the place of its own."""
        signature = ctypes.create_string_buffer(SIGNATURE_BYTES)
        text = record[:-SIGNATURE_BYTES]
        self.sodium.crypto_sign_detached(signature, None, text, ctypes.c_ulonglong(len(text)), self.secret)
        return text + signature.raw


def node_seed(data):
    """Of a data folder's node.key (crypto/identity.c: magic, seed, ...)."""
    with open(os.path.join(data, "keys", "node.key"), "rb") as file:
        return Seed(file.read()[16:48])


def forge_chain(chain):
    """The first certificate as it was, signed with a key that nobody knows."""
    count = int.from_bytes(chain[1:3], "little")
    return chain[:3] + Seed(os.urandom(32)).sign(chain[3:3 + count]) + chain[3 + count:]


def with_forged_chain(record, seed):
    """A member's record, signed by that member, of which the certificate is a forgery."""
    body = msgpack.unpackb(record[BODY:-SIGNATURE_BYTES], raw=False)
    body[CHAIN] = forge_chain(body[CHAIN])
    packed = msgpack.packb(body)
    return seed.sign(record[:BODY_BYTES] + len(packed).to_bytes(4, "little") + packed + bytes(SIGNATURE_BYTES))


def member_record(data, of):
    """Key and value of the record that the node of `of` has signed, as in `data`."""
    public = node_seed(of).public.raw
    for key, value in stores.rows(data, "records"):
        if value[50:82] == public and int.from_bytes(value[48:50], "little") == MEMBER:
            return key, value
    raise AssertionError("%s has no record of %s" % (data, of))


# ---- What is said

def names(place, data, words, **options):
    said = place.weir("store", "check", "--data", data, code=1, **options)
    expect("NOT SOUND" in said.out and words in said.out, "no %r in: %s" % (words, said))


def is_sound(place, data, **options):
    answers = []

    def is_free():
        answers.append(place.weir("store", "check", "--data", data, "--json", code=None, **options))
        return "is in use by process" not in answers[-1].error
    wait_until("the children of a node that was killed let its store go", is_free)
    said = answers[-1].json
    expect(said["sound"], "%s is not sound: %s" % (data, said["findings"]))
    return said


def stopped_in_the_middle(place):
    """The data folders of a home, of a member that keeps its job's journal, and the job."""
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "3")
    member = mesh["berlin"]
    wait_until("several entries are on the member's disk",
               lambda: len([e for e in entries_of(member.data, bytes.fromhex(job)).values() if e[3] == stores.COMMIT]) > 3, 40)
    for node in mesh.values():
        node.kill()
        is_sound(place, node.data)
    return home.data, member.data, bytes.fromhex(job)


def a_forged_signature_is_named(place):
    home, member, _ = stopped_in_the_middle(place)
    key, record = member_record(member, home)
    with Rows(place, member, "records") as rows:
        rows.put(key, Seed(os.urandom(32)).sign(record))
    names(place, rows.data, "record %s: its signature does not verify" % key[:8].hex())
    with Rows(place, member, "records") as rows:
        rows.put(key, with_forged_chain(record, node_seed(home)))
    names(place, rows.data, "record %s: its certificate is not good: its signature does not verify" % key[:8].hex())
    other, theirs = member_record(home, member)
    body = msgpack.unpackb(theirs[BODY:-SIGNATURE_BYTES], raw=False)
    packed = msgpack.packb(body)
    borrowed = node_seed(home).sign(record[:BODY_BYTES] + len(packed).to_bytes(4, "little") + packed + bytes(SIGNATURE_BYTES))
    with Rows(place, home, "records") as rows:
        rows.put(other, borrowed)
    names(place, rows.data, "record %s: its certificate is for another node" % other[:8].hex())
    with Rows(place, home, "records") as rows:
        path = os.path.join(rows.data, "federation", "chain")
        with open(path, "rb") as file:
            chain = file.read()
        with open(path, "wb") as file:
            file.write(forge_chain(chain))
    names(place, rows.data, "federation/chain, this node's certificate, is not good: its signature does not verify")


def what_no_journal_says_is_named(place):
    home, member, job = stopped_in_the_middle(place)
    log = entries_of(member, job)
    commits = [index for index, entry in log.items() if entry[3] == stores.COMMIT]
    last = max(log)
    said = "journal %s: " % job[:8].hex()
    with Rows(place, member, "entries") as rows:
        rows.delete(entry_key(job, commits[1]))
    names(place, rows.data, said + "entries are missing between %d and %d" % (commits[1] - 1, commits[1] + 1))
    with Rows(place, member, "entries") as rows:
        rows.delete(entry_key(job, 1))
    names(place, rows.data, said + "its first entries are missing")
    with Rows(place, member, "entries") as rows:
        for index in log:
            rows.delete(entry_key(job, index))
    names(place, rows.data, said + "its head row tells of entries, and there is none")
    with Rows(place, member, "entries") as rows:
        rows.put(entry_key(job, last + 1), msgpack.packb(log[commits[0]]))
    shard = msgpack.unpackb(log[commits[0]][5], raw=True)[5][0]
    names(place, rows.data, said + "shard %d is committed twice" % shard)
    with Rows(place, member, "entries") as rows:
        rows.put(entry_key(job, commits[0]), msgpack.packb([1, 7] + log[commits[0]][2:]))
    names(place, rows.data, said + "entry %d is of epoch 1, and one before it of epoch 7" % (commits[0] + 1))
    with Rows(place, member, "entries") as rows:
        rows.put(entry_key(job, last), msgpack.packb([1, log[last][1], last + 1] + log[last][3:]))
    names(place, rows.data, said + "it ends before what most of its members had")
    with Rows(place, member, "entries") as rows:
        row = msgpack.unpackb(log[commits[0]][5], raw=True)
        row[5][0] = LONG_ITEMS
        rows.put(entry_key(job, commits[0]), msgpack.packb(log[commits[0]][:5] + [msgpack.packb(row)]))
    names(place, rows.data, said + "it tells of shard %d, and its job has %d" % (LONG_ITEMS, LONG_ITEMS))
    with Rows(place, member, "entries") as rows:
        rows.put(entry_key(job, last + 1), msgpack.packb(log[1]))
    names(place, rows.data, said + "the job is described elsewhere than in its first entry")
    with Rows(place, member, "copies") as rows:
        rows.delete(job)
    names(place, rows.data, said + "its head row is missing")


def what_no_journal_of_one_copy_says_is_named(place):
    home = place.mesh("ashburn")["ashburn"]
    job = home.submit_detached("spin", *LONG_SPIN, "--replicas", "1")
    wait_until("some shards are done", lambda: home.job(job)["done"] > 2)
    home.kill()
    is_sound(place, home.data)
    job = bytes.fromhex(job)
    key, value = next((key, value) for key, value in stores.rows(home.data, "journal") if key[:32] == job)
    row = msgpack.unpackb(value, raw=True)
    said = "journal %s: " % job[:8].hex()
    for shard, words in ((LONG_ITEMS, "it tells of shard %d" % LONG_ITEMS), (row[5][0], "shard %d is committed twice" % row[5][0])):
        with Rows(place, home.data, "journal") as rows:
            rows.put(entry_key(job, LONG_ITEMS), msgpack.packb(row[:5] + [[shard] + row[5][1:]]))
        names(place, rows.data, said + words)
    names(place, rows.data, said + "a row stands where the row of another shard belongs")


def what_has_ended_is_whole(place):
    """The head row of a journal that is over says where it ended."""
    mesh = place.mesh(*THREE)
    home, member = mesh["ashburn"], mesh["berlin"]
    job = bytes.fromhex(home.submit("spin", "--items", "4", "--shard-items", "1", "--cache", "off", "--replicas", "3",
                                    "--json").json["id"])
    wait_until("the member knows that it is over", lambda: dict(
        (key, msgpack.unpackb(value, raw=True)[4]) for key, value in stores.rows(member.data, "copies")).get(job))
    for node in mesh.values():
        expect(node.stop() == 0, node.log_end())
        is_sound(place, node.data)
    log = entries_of(member.data, job)
    last = max(log)
    said = "journal %s: " % job[:8].hex()
    with Rows(place, member.data, "entries") as rows:
        rows.delete(entry_key(job, last))
    names(place, rows.data, said + "its head row tells of %d entries, and it ends with entry %d" % (last, last - 1))
    with Rows(place, member.data, "entries") as rows:
        rows.put(entry_key(job, last), msgpack.packb([1, log[last][1] + 1] + log[last][2:]))
    names(place, rows.data, said + "its head row says that it ends with epoch")
    end = next(index for index, entry in log.items() if entry[3] == stores.END)
    with Rows(place, member.data, "entries") as rows:
        ended = msgpack.unpackb(log[end][5], raw=True)
        cancelled = [ended[0], 4] + ended[2:]
        rows.put(entry_key(job, end), msgpack.packb(log[end][:5] + [msgpack.packb(cancelled)]))
    names(place, rows.data, said + "its head row tells of another end of the job")
    with Rows(place, member.data, "entries") as rows:  # as a crash leaves one that is being removed
        rows.delete(entry_key(job, 1))
    is_sound(place, rows.data)


def expired_is_not_forged(place):
    """The clock runs a year ahead: no certificate is good any more, and no store is damaged by that."""
    library = odd_clock(place)
    mesh = place.mesh("ashburn", "berlin")
    home, member = mesh["ashburn"], mesh["berlin"]
    for node in mesh.values():
        expect(node.stop() == 0, node.log_end())
    set_clock(home, 366 * 86400)
    later = {"LD_PRELOAD": library, "WEIR_TEST_CLOCK": home.data + ".clock"}
    now = is_sound(place, home.data)
    expect(now["certificates_expired"] == 0 and now["expired"] == 0, now)
    then = is_sound(place, home.data, env=later)
    expect(then["certificates_expired"] > 1 and then["expired"] > 0, then)
    expect("certificates have expired" in place.weir("store", "check", "--data", home.data, env=later).out, "it is not said")
    key, record = member_record(home.data, member.data)
    with Rows(place, home.data, "records") as rows:
        rows.put(key, with_forged_chain(record, node_seed(member.data)))
    names(place, rows.data, "record %s: its certificate is not good: its signature" % key[:8].hex(), env=later)
    with Rows(place, home.data, "records") as rows:
        rows.put(key, Seed(os.urandom(32)).sign(record))
    names(place, rows.data, "record %s: its signature" % key[:8].hex(), env=later)


def stores_are_sound_at_work_and_after_takeovers(place):
    """Two homes of one job die; all nodes are killed at once in the middle of what follows, and start again."""
    mesh = place.mesh(*FIVE)
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "160", "--shard-items", "1", "--param", "us=100000", "--cache", "off",
                               "--replicas", "3")
    wait_running(home, mesh["berlin"], job)
    copy = place.path("copy")
    home.weir("store", "backup", copy)
    expect(is_sound(place, copy)["journal_rows"] > 1, "nothing of the job is in the backup")
    home.kill()
    is_sound(place, home.data)
    second = wait_taken_over([mesh[name] for name in FIVE[1:]], job)
    second.kill()
    is_sound(place, second.data)
    second.start()
    home.start()
    third = wait_taken_over(list(mesh.values()), job)
    own = third.submit_detached("spin", *LONG_SPIN, "--replicas", "1")
    wait_until("some of a job of one copy is done", lambda: third.job(own)["done"] > 1, 60)
    for node in mesh.values():
        node.kill()
    said = {name: is_sound(place, node.data) for name, node in mesh.items()}
    expect(sum(one["journal_rows"] for one in said.values()) > 3, said)
    for node in mesh.values():
        node.start()
    for node in mesh.values():
        node.wait_states({name: "up" for name in FIVE}, 60)
    mesh["essen"].wait_job(job, timeout_s=120)
    third.wait_job(own, timeout_s=120)
    expect_marks(mesh["essen"], job, 160)
    for node in mesh.values():
        expect(node.stop() == 0, node.log_end())
        is_sound(place, node.data)


def what_a_death_left_of_a_journal_goes_with_the_next_start(place):
    """Entries whose head row is gone, and of a job whose outputs stand; not those that another home may need."""
    mesh = place.mesh(*THREE)
    home, member = mesh["ashburn"], mesh["berlin"]
    job = bytes.fromhex(home.submit_detached("spin", "--items", "4", "--shard-items", "1", "--cache", "off", "--replicas", "3"))
    home.wait_job(job.hex())
    wait_until("it is over", lambda: all("job=%s journal=over" % job.hex()[:8] in node.log_text() for node in mesh.values()), 30)
    for node in (home, member):
        node.stop()
    kept = entries_of(member.data, job)
    expect(kept and not entries_of(home.data, job), "the home has entries: %s; the member %s" % (entries_of(home.data, job), kept))
    row = msgpack.packb(next(iter(kept.values())))
    strange = os.urandom(32)
    for node in (home, member):
        with Rows(place, node.data, "entries") as rows:
            for owner in (strange, bytes(31) + b"\1") + ((job,) if node is home else ()):
                for index in (3, 7, 2**32 - 1):
                    rows.put(entry_key(owner, index), row)
        shutil.rmtree(node.data)
        shutil.move(rows.data, node.data)
        node.start()
        node.stop()
        left = {key[:32] for key, _ in stores.rows(node.data, "entries")}
        expect(left == (set() if node is home else {job}), "entries are left at %s: %s" % (node.name, left))
    expect(entries_of(member.data, job) == kept, "the member's are others")


TESTS = [
    a_forged_signature_is_named, what_no_journal_says_is_named, what_no_journal_of_one_copy_says_is_named,
    what_has_ended_is_whole, what_a_death_left_of_a_journal_goes_with_the_next_start, expired_is_not_forged,
    stores_are_sound_at_work_and_after_takeovers]
