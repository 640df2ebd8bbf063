"""Who is let in, and what becomes of those who are not: over real sockets, with real processes."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import msgpack

import rogue
from harness import Node, Skipped, expect, wait_until
from mesh_test import expect_marks, get
from operations_test import odd_clock, start_with_clock

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "chaos"))
import stores  # noqa: E402

NOBODY = 65534


def address(node, which="control"):
    return node.status()[which]


def counts_up(node, part, name, before, by=1):
    wait_until(lambda: "%s.%s passes %d; it is %d" % (part, name, before, node.count(part, name)),
               lambda: node.count(part, name) >= before + by)


def refused(answer, *words):
    expect(answer.code not in (0, -6, -11), "%s: not refused" % answer)
    for word in words:
        expect(word in answer.error, "%s: no %r in it" % (answer, word))


def accomplice(place, inviter, name):
    """Keys that the mesh admits, without a node behind them any more."""
    node = place.join(inviter, name)
    inviter.wait_states({name: "up"})
    node.kill()
    return node


# ---- Journals

def forgeries(job, sender, real, keeps):
    """What a node may say of a journal that it has no right to: (words, message). `real` is the true first entry. One that
    keeps a copy itself is believed what it says of its own copy (docs/security.md), so that is left to others."""
    epoch, members, body = real
    far = 1 << 20
    mine = [members[0], 0, 0, sender, 1] + members[5:]
    lies = [
        ("a first entry that makes no sense", [rogue.APPEND, 1, job, 1, 1, 0, 1, 0, 1, 1, members, b"nonsense"]),
        ("the true first entry, from another", [rogue.APPEND, 1, job, epoch, epoch, 0, 1, 0, 1, 1, members, body]),
        ("a first entry that names the sender home", [rogue.APPEND, 1, job, 1, 1, 0, 1, 0, 1, 1, mine, body]),
        ("an end", [rogue.APPEND, 1, job, 1, 1, 1, 2, 2, 1, 3, [], msgpack.packb([1, 4, 1, b""])]),
        ("a vote for itself, with an older log", [rogue.VOTE, 1, job, 2, 0, 0, False, False, 1, []]),
        ("that it leads, and that it is over", [rogue.BEAT, 1, 1, [[job, 1, far, far, True]]]),
    ]
    return lies if keeps else lies + [
        ("that it holds what nobody wrote", [rogue.APPENDED, 1, job, 1, far, 1, True, False, 1, 1]),
        ("that all is over", [rogue.APPENDED, 1, job, 1, far, 1, True, True, 1, 1]),
        ("a vote for itself, with a log from the future", [rogue.VOTE, 1, job, 99, 98, far, False, False, 1, members]),
    ]


def first_entry(data, job):
    """From the disk of a node that keeps the journal: epoch, members, bytes."""
    for key, value in stores.rows(data, "entries"):
        if key == job + b"\0\0\0\1":
            _, epoch, _, _, members, body = msgpack.unpackb(value, raw=True)
            return epoch, members, body
    raise AssertionError("no first entry of %s in %s" % (job.hex(), data))


def refusals(node):
    """Of what was said about journals: senseless messages, and entries that make no sense."""
    refused = re.search(r"^weir_journal_refused\S* (\d+)", get(node, "/metrics")[1], re.M)
    return node.count("core", "bad_messages") + int(refused.group(1))


def forged_and_older_logs_change_nothing(place):
    """A node that keeps no copy, and then one that does, tell lies about a journal to its home and to the other member."""
    mesh = place.mesh("ashburn", "berlin", "cairo", "dublin")
    home = mesh["ashburn"]
    job = home.submit_detached("spin", "--items", "120", "--shard-items", "1", "--param", "us=100000", "--cache", "off",
                               "--replicas", "3")
    wait_until("some shards are done", lambda: home.job(job)["done"] > 2, 60)
    keepers = [row["name"] for row in home.job(job)["keepers"]]
    outsider = next(node for name, node in mesh.items() if name not in keepers)
    liar, witness = (mesh[name] for name in keepers if name != "ashburn")
    ids = {name: bytes.fromhex(row["id"]) for name, row in home.nodes().items()}
    real = first_entry(witness.data, bytes.fromhex(job))
    for node, keeps in ((outsider, False), (liar, True)):
        node.kill()
        for target in (home, witness):
            before = refusals(target)
            with rogue.Rogue(address(target), rogue.curve_public(target.data), rogue.curve_secret(node.data)) as peer:
                expect(peer.send(rogue.hello(ids[node.name], protocol=(2, 2), incarnation=100)), "it was not let in")
                for words, message in forgeries(bytes.fromhex(job), ids[node.name], real, keeps):
                    expect(peer.send(msgpack.packb(message)), "%s was not taken" % words)
                wait_until("%s refuses what %s says" % (target.name, node.name), lambda: refusals(target) > before)
        expect(witness.call("where", job=job)["jobs"], "%s was talked out of its copy" % witness.name)
    home.wait_job(job, timeout_s=120)
    expect_marks(home, job, 120)
    expect(home.job(job)["home"] == "ashburn" and "makes no sense" in home.log_text(), home.log_end())


# ---- The transport

def a_stranger_gets_past_neither_socket(place):
    node = place.mesh("ashburn")["ashburn"]
    for which in ("control", "bulk"):
        before = node.count("admission", "handshakes_unknown_key")
        with rogue.Rogue(address(node, which), rogue.curve_public(node.data)) as stranger:
            expect(stranger.handshake_refused(), "a stranger's message was taken on %s" % which)
        counts_up(node, "admission", "handshakes_unknown_key", before)
    expect(node.count("transport", "messages_received") == 0, "a stranger's message was received")


def a_plain_connection_is_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    before = node.count("transport", "handshakes_failed")
    with rogue.Rogue(address(node), None, "plain") as stranger:
        expect(stranger.handshake_refused(), "a plain-text message was taken")
    counts_up(node, "transport", "handshakes_failed", before)


def another_federation_is_strange(place):
    """A member of another federation, with good keys there, is nobody here."""
    node = place.mesh("ashburn")["ashburn"]
    other = Node(place, "delta")
    place.weir("init", "--federation", "lakes", "--site", "delta", "--name", "delta", "--data", other.data)
    before = node.count("admission", "handshakes_unknown_key")
    with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(other.data)) as stranger:
        expect(stranger.handshake_refused(), "another federation's node was let in")
    counts_up(node, "admission", "handshakes_unknown_key", before)
    token = node.weir("invite", "--site", "delta").out.strip()
    refused(place.weir("join", token, "--data", other.data, code=None), "federation")


def bad_messages_are_counted_and_shut_their_sender_out(place):
    """Each kind from a key of its own, because the first one shuts the key out for a minute."""
    mesh = place.mesh("ashburn")
    node = mesh["ashburn"]
    kinds = [
        ("multi", "refused_multi_frame", [rogue.hello(b"\0" * 32), b"more"]),
        ("garbage", "refused_bad_frame", [os.urandom(100)]),
        ("types", "refused_bad_frame", [msgpack.packb([rogue.HELLO, 1, "one", None, 3.5])]),
        ("length", "refused_bad_frame", [b"\xdd\xff\xff\xff\xff"]),
        ("liar", "refused_wrong_identity", [rogue.hello(b"\x07" * 32)]),
    ]
    for name, counter, frames in kinds:
        keys = accomplice(place, node, name)
        before = node.count("transport", counter)
        penalties = node.count("admission", "penalties")
        with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(keys.data)) as peer:
            expect(peer.send(*frames), "an admitted key was not let in")
            counts_up(node, "transport", counter, before)
            counts_up(node, "admission", "penalties", penalties)
            shut = node.count("transport", "refused_unadmitted")
            peer.send(rogue.hello(b"\0" * 32))
            counts_up(node, "transport", "refused_unadmitted", shut)
        before = node.count("admission", "handshakes_penalty")
        with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(keys.data)) as again:
            expect(again.handshake_refused(), "a key that is shut out was let in again")
        counts_up(node, "admission", "handshakes_penalty", before)
    job = node.submit_detached("spin", "--items", "2", "--replicas", "1")  # nobody else here keeps a journal
    node.wait_job(job)


def signed_record(federation, origin, not_before_s=None, body=b"", body_bytes=None):
    """A capacity record as crypto/record.h lays it out, with a signature that is none."""
    now_s = int(time.time())
    return (b"weir record 1".ljust(16, b"\0") + federation + struct.pack("<H", 2) + origin +
            struct.pack("<QQqqI", 9, 9, not_before_s or now_s - 5, now_s + 9 * 3600,
                        len(body) if body_bytes is None else body_bytes) + body + bytes(64))


def records_that_do_not_verify_are_counted_by_kind_and_go_no_further(place):
    mesh = place.mesh("ashburn", "berlin")
    node, other = mesh["ashburn"], mesh["berlin"]
    keys = accomplice(place, node, "carthage")
    federation = bytes.fromhex(node.status()["federation"])
    origin = bytes.fromhex(node.nodes()["carthage"]["id"])
    cases = [
        ("bad_signature", signed_record(federation, origin)),
        ("other_federation", signed_record(bytes(32), origin)),
        ("not_yet_valid", signed_record(federation, origin, not_before_s=int(time.time()) + 4 * 3600)),
        ("too_long", signed_record(federation, origin, body_bytes=65 * 1024)),
        ("malformed", b"x" * 200),
    ]
    heard = other.counters("records")
    with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(keys.data)) as peer:
        expect(peer.send(rogue.hello(origin, incarnation=100)), "an admitted key was not let in")
        for name, record in cases:
            before = node.count("records", name)
            expect(peer.send(msgpack.packb([rogue.PUSH, 1, record])), "an admitted key was not let in")
            counts_up(node, "records", name, before)
    expect(other.counters("records") == heard, "a record that did not verify was passed on")


def an_oversized_message_ends_its_connection(place):
    node = place.mesh("ashburn")["ashburn"]
    keys = accomplice(place, node, "berlin")
    secret = rogue.curve_secret(keys.data)
    before = node.count("transport", "inbound_ended")
    memory = node.memory_kb()
    with rogue.Rogue(address(node), rogue.curve_public(node.data), secret) as peer:
        peer.send(bytes(64 << 20))
        counts_up(node, "transport", "inbound_ended", before)
    expect(node.memory_kb() < memory + 16384, "the node took %d KiB for it" % (node.memory_kb() - memory))
    before = node.count("transport", "oversized")
    with rogue.Rogue(address(node), rogue.curve_public(node.data), secret) as peer:
        expect(peer.send(bytes(256 * 1024 + 100)), "not connected")
        counts_up(node, "transport", "oversized", before)


def bulk_takes_no_bad_messages_either(place):
    node = place.mesh("ashburn")["ashburn"]
    for name, counter, frames in (("multi", "refused_multi_frame", [b"a", b"b"]),
                                  ("garbage", "refused_bad_frame", [os.urandom(50)])):
        keys = accomplice(place, node, name)
        before = node.count("bulk", counter)
        with rogue.Rogue(address(node, "bulk"), rogue.curve_public(node.data), rogue.curve_secret(keys.data)) as peer:
            expect(peer.send(*frames), "an admitted key was not let in")
            counts_up(node, "bulk", counter, before)
            shut = node.count("bulk", "refused_unadmitted")
            peer.send(*frames)
            counts_up(node, "bulk", "refused_unadmitted", shut)


def fragments_of_tcp_do_no_harm(place):
    """What is not even ZeroMQ, on every port."""
    node = place.mesh("ashburn")["ashburn"]
    for which in ("control", "bulk", "join"):
        host, _, port = address(node, which).rpartition(":")
        for data in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 10, bytes(64), os.urandom(1000)):
            with socket.create_connection((host, int(port)), 5) as wire:
                wire.sendall(data)
    expect(node.weir("nodes", "--json").json["nodes"][0]["state"] == "up", "the node is not well")


# ---- Joining

def a_token_works_once(place):
    node = place.mesh("ashburn")["ashburn"]
    token = node.weir("invite", "--site", "berlin").out.strip()
    place.weir("join", token, "--name", "berlin", "--data", place.path("berlin"))
    before = node.count("join", "refused")
    refused(place.weir("join", token, "--name", "thief", "--data", place.path("thief"), code=None), "used")
    counts_up(node, "join", "refused", before)
    listed = node.weir("invite", "--list", "--json").json["invites"]
    expect([row["state"] for row in listed] == ["used"], "%s" % listed)


def a_guest_is_admitted_by_its_inviter_at_once_and_after_a_restart(place):
    """Before it has shown its certificate to anybody: whom a node has certified it knows."""
    node = place.mesh("ashburn")["ashburn"]
    token = node.weir("invite", "--site", "berlin").out.strip()
    place.weir("join", token, "--name", "berlin", "--data", place.path("berlin"))
    for restart in (None, node.stop, node.kill):
        if restart:
            restart()
            node.start()
        with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(place.path("berlin"))) as peer:
            expect(peer.send(rogue.hello(b"\0" * 32)), "a guest of its own is strange to it")
            wait_until("its message is heard", lambda: node.count("transport", "messages_received") +
                       node.count("transport", "refused_wrong_identity") > 0)
    listed = node.weir("revoke", "berlin", "--reason", "never came up", "--json").json["revoked"]
    expect([row["site"] for row in listed] == ["berlin"], "it can't be revoked: %s" % listed)
    node.stop()
    node.start()
    with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(place.path("berlin"))) as peer:
        expect(peer.handshake_refused(), "a guest that was revoked is admitted after a restart")


def an_inviter_that_left_and_forgot_its_guest_is_found_again(place):
    """The inviter, set back to before it invited, refuses the guest's key and has no address to dial. So the guest must
    show its certificate again."""
    node = place.found()
    node.stop()
    before = place.path("before")
    shutil.copytree(node.data, before)
    node.start()
    guest = place.join(node, "berlin")
    node.wait_states({"berlin": "up"})
    node.stop()
    guest.wait_states({"ashburn": "left"})
    guest.signal(signal.SIGSTOP)
    shutil.rmtree(node.data)
    os.rename(before, node.data)
    for _ in range(4):  # past the incarnations that the guest has seen
        node.start()
        node.kill()
    node.start()
    expect("berlin" not in node.states(), "the guest is known already: %s" % node.states())
    guest.signal(signal.SIGCONT)
    node.wait_states({"berlin": "up"}, 20)
    guest.wait_states({"ashburn": "up"}, 5)


def an_expired_token_is_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    token = node.weir("invite", "--site", "berlin", "--expires", "1s").out.strip()
    wait_until("it expires", lambda: node.weir("invite", "--list", "--json").json["invites"][0]["state"] == "expired")
    refused(place.weir("join", token, "--data", place.path("berlin"), code=None), "expired", "ask")
    expect(not os.path.exists(place.path("berlin", "federation", "chain")), "half a membership was left")


def a_cancelled_token_is_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    token = node.weir("invite", "--site", "berlin").out.strip()
    row = node.weir("invite", "--list", "--json").json["invites"][0]
    expect(row["state"] == "open" and row["site"] == "berlin", "%s" % row)
    node.weir("invite", "--cancel", row["id"][:8])
    expect(node.weir("invite", "--list", "--json").json["invites"][0]["state"] == "cancelled", "not cancelled")
    refused(place.weir("join", token, "--data", place.path("berlin"), code=None), "cancelled")
    refused(node.weir("invite", "--cancel", "ffffffff", code=None))


def a_token_comes_from_a_file_or_standard_input(place):
    node = place.mesh("ashburn")["ashburn"]
    for name, how in (("berlin", "file"), ("cairo", "input")):
        token = node.weir("invite", "--site", name).out
        path = place.path("token")
        with open(path, "w", encoding="ascii") as out:
            out.write(token)
        source, text = (path, "") if how == "file" else ("-", token)
        place.weir("join", "--token-file", source, "--name", name, "--data", place.path(name), stdin=text)
    refused(place.weir("join", "--token-file", place.path("nowhere"), "--data", place.path("x"), code=None), "nowhere")
    refused(place.weir("join", "--token-file", "-", "--data", place.path("x"), code=None, stdin="no token\n"), "token")


def a_damaged_token_is_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    token = node.weir("invite", "--site", "berlin").out.strip()
    for bad in (token[:-1], token[:len(token) // 2], token + "A", token[:20] + ("B" if token[20] != "B" else "C") +
                token[21:]):
        refused(place.weir("join", bad, "--data", place.path("berlin"), code=None), "token")
    place.weir("join", token, "--data", place.path("berlin"))


def a_certificate_is_renewed_in_time(place):
    node = place.mesh("ashburn")["ashburn"]
    guest = place.join(node, "berlin", "--lifetime", "20s")
    ends = guest.status()["certificate_ends_at"]
    wait_until("the certificate is renewed", lambda: guest.status()["certificate_ends_at"] > ends, 25)
    node.wait_states({"berlin": "up"})
    counts_up(node, "join", "renewed", 0)


def an_expired_certificate_is_refused(place):
    """The other side's clock runs an hour ahead, so that a certificate of ten minutes has ended there."""
    library = odd_clock(place)
    node = place.mesh("ashburn")["ashburn"]
    guest = place.join(node, "berlin", "--lifetime", "10m")
    node.wait_states({"berlin": "up"})
    guest.kill()
    node.stop()
    start_with_clock(node, library, 3600).start()
    before = node.count("admission", "handshakes_expired")
    with rogue.Rogue(address(node), rogue.curve_public(node.data), rogue.curve_secret(guest.data)) as peer:
        expect(peer.handshake_refused(), "an expired certificate was let in")
    after = node.counters("admission")
    expect(after["handshakes_expired"] > before or after["handshakes_unknown_key"] > 0, "not counted: %s" % after)
    guest.start()
    wait_until("the guest is refused", lambda: node.count("join", "refused") > 0 or
               node.count("admission", "handshakes_expired") + node.count("admission", "handshakes_unknown_key") > 2)
    expect(node.states().get("berlin") != "up", "it is up: %s" % node.states())


def a_session_ends_with_its_revocation(place):
    """libzmq can't be told to end it, so each message is asked for its sender's standing."""
    node = place.mesh("ashburn")["ashburn"]
    keys = accomplice(place, node, "carthage")
    secret = rogue.curve_secret(keys.data)
    origin = bytes.fromhex(node.nodes()["carthage"]["id"])
    with rogue.Rogue(address(node), rogue.curve_public(node.data), secret) as control, \
            rogue.Rogue(address(node, "bulk"), rogue.curve_public(node.data), secret) as bulk:
        ask = msgpack.packb([rogue.BULK_GET, 1, 1, b"\0" * 32, 0, 1])
        expect(control.send(rogue.hello(origin)) and bulk.send(ask), "an admitted key was not let in")
        expect(bulk.receive(), "an admitted key gets no answer")
        node.weir("revoke", "carthage", "--reason", "stolen")
        for peer, part, frame in ((control, "transport", rogue.hello(origin)), (bulk, "bulk", ask)):
            before = node.count(part, "refused_unadmitted")
            peer.send(frame)
            counts_up(node, part, "refused_unadmitted", before)
        expect(not bulk.receive(), "a revoked node got an answer")


def a_revoked_node_learns_why(place):
    """The others no longer talk to it: it learns from the answers on their join sockets, also after a restart, and says so."""
    mesh = place.mesh("ashburn", "berlin", "cairo")
    bad = mesh["cairo"]
    bad.wait_states({"ashburn": "up", "berlin": "up"})

    def noted():
        rows = bad.nodes()
        return (rows["cairo"]["note"] == "revoked, others say" and
                all(rows[name]["note"] == "says we are revoked" for name in ("ashburn", "berlin")))
    mesh["ashburn"].weir("revoke", "cairo", "--reason", "stolen")
    for again in ("", " after a restart"):
        wait_until(lambda: "cairo notes it%s: %s" % (again, bad.nodes()), noted, 60)
        bad.kill()
        expect(bad.log_text().count("level=error at=cairo event=revoked by=ashburn") == 1 + bool(again), bad.log_end())
        if not again:
            bad.start()


def nobody_revokes_the_asked_node(place):
    """By name, by id or by its site: refused, and nothing happens to anybody. Another node that may revokes it."""
    first = place.found()
    helper = place.join(first, "berlin", "--may-invite")
    plain = place.join(first, "cairo")
    everybody = {"ashburn": "up", "berlin": "up", "cairo": "up"}
    for node in (first, helper, plain):
        node.wait_states(everybody)
    own = first.nodes()["ashburn"]["id"]
    for target in ("ashburn", own, own[:8]):
        answer = first.weir("revoke", target, "--reason", "x", code=2)
        expect("the node that was asked" in answer.error and answer.error.count("\n") == 1, "%s" % answer)
    for node in (first, helper, plain):
        node.wait_states(everybody)
    first.weir("revoke", "berlin", "--reason", "another one")
    plain.wait_states({"ashburn": "up", "berlin": "revoked"})


def a_revoked_node_is_shut_out(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    bad = mesh["cairo"]
    secret = rogue.curve_secret(bad.data)
    mesh["ashburn"].weir("revoke", "cairo", "--reason", "stolen")
    for name in ("ashburn", "berlin"):
        mesh[name].wait_states({"cairo": "revoked"})
        expect(mesh[name].nodes()["cairo"]["note"] == "stolen", "%s does not say why: %s" % (name, mesh[name].nodes()["cairo"]))
        before = mesh[name].count("admission", "handshakes_revoked")
        with rogue.Rogue(address(mesh[name]), rogue.curve_public(mesh[name].data), secret) as peer:
            expect(peer.handshake_refused(), "a revoked node was let in by %s" % name)
        counts_up(mesh[name], "admission", "handshakes_revoked", before)
    for name in ("ashburn", "berlin"):  # and stays out when all start again
        mesh[name].stop()
        mesh[name].start()
    for name in ("ashburn", "berlin"):
        row = mesh[name].nodes().get("cairo", {})
        expect(row.get("state") == "revoked" and row["site"] == "cairo" and row["note"] == "stolen" and
               0 <= row["state_ms"] < 120000, "after a restart %s does not list who was revoked: %s" % (name, row))
        expect("1 revoked" in mesh[name].weir("nodes").out, "not counted: " + mesh[name].weir("nodes").out)
        with rogue.Rogue(address(mesh[name]), rogue.curve_public(mesh[name].data), secret) as peer:
            expect(peer.handshake_refused(), "after a restart a revoked node was let in by %s" % name)
    bad.kill()
    bad.start()
    mesh["ashburn"].wait_states({"berlin": "up"})
    expect(mesh["ashburn"].states().get("cairo") != "up", "a revoked node is up: %s" % mesh["ashburn"].states())
    refused(mesh["ashburn"].weir("revoke", "nobody-of-that-name", "--reason", "x", code=None))
    heir = Node(place, "heir")  # a successor under the same name is who the name means
    token = mesh["ashburn"].weir("invite", "--site", "cairo").out.strip()
    place.weir("join", token, "--name", "cairo", "--data", heir.data)
    heir.start()
    for name in ("ashburn", "berlin"):
        wait_until("%s sees both of that name" % name, lambda: sorted(
            row["state"] for row in mesh[name].weir("nodes", "--json").json["nodes"] if row["name"] == "cairo") ==
            ["revoked", "up"])
        mesh[name].weir("ping", "cairo", "-c", "1")


def a_flood_of_the_join_socket_leaves_the_node_as_it_was(place):
    mesh = place.mesh("ashburn", "berlin")
    node = mesh["ashburn"]
    node.count("join", "requests")
    memory, descriptors = node.memory_kb(), node.descriptors()
    links = node.count("transport", "links_down")
    target, key = address(node, "join"), rogue.join_public(node.data)
    host, _, port = target.rpartition(":")
    deadline = time.monotonic() + 5
    peers, sockets = [rogue.Rogue(target, key) for _ in range(8)], []
    try:
        while time.monotonic() < deadline:
            for peer in peers:
                for frames in ([bytes(3000)], [b"\1\2"] * 50, [bytes(1 << 20)]):
                    try:
                        peer.socket.send_multipart(frames, flags=1)  # NOBLOCK: a full pipe is the child's success
                    except Exception:  # noqa: BLE001 - whatever it says, the flood goes on
                        pass
            if len(sockets) < 400:
                try:
                    sockets.append(socket.create_connection((host, int(port)), 1))
                except OSError:
                    pass
    finally:
        for wire in sockets:
            wire.close()
        for peer in peers:
            peer.context.destroy(linger=0)
    expect(node.memory_kb() < memory + 8192 * (8 if place.sanitized else 1),
           "memory went from %d to %d KiB" % (memory, node.memory_kb()))
    expect(node.descriptors() <= descriptors + 8, "descriptors: %d, then %d" % (descriptors, node.descriptors()))
    expect(node.count("transport", "links_down") == links, "a link went down")
    expect(node.states()["berlin"] == "up", "%s" % node.states())
    wait_until("someone can join again", lambda: joins(place, node))


def joins(place, node):
    folder = place.path("late%d" % time.monotonic_ns())
    token = node.weir("invite", "--site", "late").out.strip()
    return place.weir("join", token, "--data", folder, "--name", "late", code=None).code == 0


def the_join_child_may_be_killed(place):
    node = place.mesh("ashburn")["ashburn"]
    child = wait_until("the child runs", lambda: node.children("join-child"))[0]
    os.kill(child, signal.SIGKILL)
    wait_until("another child runs", lambda: node.children("join-child") not in ([], [child]))
    wait_until("someone can join", lambda: joins(place, node))


# ---- Keys and folders

def exposed_keys_are_refused_with_the_command_that_helps(place):
    node = Node(place, "ashburn")
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--data", node.data)
    keys = os.path.join(node.data, "keys")
    for path, bad, good in ((os.path.join(keys, "node.key"), 0o644, "chmod 600"), (keys, 0o755, "chmod 700"),
                            (node.data, 0o755, "chmod 700")):
        mode = os.stat(path).st_mode & 0o777
        os.chmod(path, bad)
        answer = place.weir("node", "--data", node.data, "--set", "network.bind=127.0.0.1", code=None, timeout_s=10)
        refused(answer, good, path)
        expect(answer.code == 5, "%s: not 5, denied" % answer)
        os.chmod(path, mode)
    node.start()


def a_key_file_is_as_private_as_it_should_be(place):
    node = place.mesh("ashburn", "berlin")["berlin"]
    for path in (node.data, os.path.join(node.data, "keys")):
        expect(os.stat(path).st_mode & 0o777 == 0o700, "%s is %o" % (path, os.stat(path).st_mode))
    for name in os.listdir(os.path.join(node.data, "keys")):
        mode = os.stat(os.path.join(node.data, "keys", name)).st_mode & 0o777
        expect(mode == 0o600, "%s is %o" % (name, mode))


def two_nodes_on_one_folder_are_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    second = [x for key, value in node.settings.items() if "port" not in key and key != "api.socket"
              for x in ("--set", "%s=%s" % (key, value))]
    ports = [x for key in ("network.control_port", "network.bulk_port", "network.join_port", "http.port")
             for x in ("--set", key + "=0")]
    answer = place.weir("node", "--data", node.data, "--set", "api.socket=" + place.path("second.sock"), *second, *ports,
                        code=None, timeout_s=10)
    refused(answer, node.data)
    expect(node.status()["name"] == "ashburn", "the first node suffered")


def a_port_in_use_is_told(place):
    node = place.mesh("ashburn")["ashburn"]
    for setting in ("control_port", "bulk_port", "join_port"):
        other = Node(place, "other-" + setting.replace("_", "-"))
        place.weir("init", "--federation", "lakes", "--site", "delta", "--data", other.data)
        port = node.settings["network." + setting]
        other.settings["network." + setting] = port
        arguments = [x for key, value in other.settings.items() for x in ("--set", "%s=%s" % (key, value))]
        refused(place.weir("node", "--data", other.data, *arguments, code=None, timeout_s=10), str(port), "in use")


def a_copied_folder_is_noticed(place):
    """The same keys in two places at once: the copy, or the original, is told so; neither passes for two nodes."""
    mesh = place.mesh("ashburn", "berlin")
    clone = Node(place, "clone")
    mesh["berlin"].stop()
    shutil.copytree(mesh["berlin"].data, clone.data)
    mesh["berlin"].start()
    mesh["ashburn"].wait_states({"berlin": "up"})
    clone.launch()

    def told():
        logs = [node.log_text() for node in (clone, mesh["berlin"]) if os.path.exists(node.log)]
        return any(word in text for text in logs for word in ("clone", "same identity", "another node with"))
    wait_until("one of the two says that its identity is used twice", told, 20)
    names = [row["id"] for row in mesh["ashburn"].weir("nodes", "--json").json["nodes"]]
    expect(len(names) == len(set(names)) == 2, "%s" % names)


# ---- People

def an_unprivileged_user_is_denied(place):
    if os.getuid() != 0:
        raise Skipped("needs root to become another user")
    node = place.mesh("ashburn")["ashburn"]
    for command in (("nodes",), ("submit", "spin", "--items", "1"), ("drain",), ("invite", "--site", "x")):
        answer = node.weir(*command, user=NOBODY, code=None)
        expect(answer.code == 5, "%s: not 5, denied" % answer)
    os.chmod(node.socket, 0o666)  # even past the file's permissions, the node looks at who calls
    for command in (("submit", "spin", "--items", "1"), ("drain",), ("invite", "--site", "x")):
        answer = node.weir(*command, user=NOBODY, code=None)
        expect(answer.code == 5, "%s: not 5, denied" % answer)
    expect(node.process.poll() is None and not node.status()["draining"], "someone drained the node")


def a_uid_is_its_tenant(place):
    node = Node(place, "ashburn", **{"tenants__uid-0": "geology"})
    if os.getuid() != 0:
        raise Skipped("needs root")
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--data", node.data)
    node.start()
    expect(node.status()["tenant"] == "geology", json.dumps(node.status()))
    job = node.submit_detached("spin", "--items", "1")
    expect(node.job(job)["tenant"] == "geology", json.dumps(node.job(job)))


TESTS = [forged_and_older_logs_change_nothing, a_stranger_gets_past_neither_socket, a_plain_connection_is_refused, another_federation_is_strange,
         bad_messages_are_counted_and_shut_their_sender_out, records_that_do_not_verify_are_counted_by_kind_and_go_no_further,
         an_oversized_message_ends_its_connection,
         bulk_takes_no_bad_messages_either, fragments_of_tcp_do_no_harm, a_token_works_once,
         a_guest_is_admitted_by_its_inviter_at_once_and_after_a_restart,
         an_inviter_that_left_and_forgot_its_guest_is_found_again,
         an_expired_token_is_refused, a_cancelled_token_is_refused, a_token_comes_from_a_file_or_standard_input,
         a_damaged_token_is_refused, a_certificate_is_renewed_in_time, an_expired_certificate_is_refused,
         a_revoked_node_is_shut_out, a_session_ends_with_its_revocation, a_revoked_node_learns_why, nobody_revokes_the_asked_node,
         a_flood_of_the_join_socket_leaves_the_node_as_it_was, the_join_child_may_be_killed,
         exposed_keys_are_refused_with_the_command_that_helps, a_key_file_is_as_private_as_it_should_be,
         two_nodes_on_one_folder_are_refused, a_port_in_use_is_told, a_copied_folder_is_noticed,
         an_unprivileged_user_is_denied, a_uid_is_its_tenant]
# What others do on the machine would be measured, captured or starved too.
ALONE = [a_flood_of_the_join_socket_leaves_the_node_as_it_was]
