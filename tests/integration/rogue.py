"""A peer that speaks the protocol's transport but keeps none of its rules. Needs python3-zmq."""
import os
import struct

import msgpack
import zmq
from zmq.utils import z85

HELLO = 1
PING = 16
PUSH = 18
APPEND, APPENDED, VOTE, BEAT = 38, 39, 40, 42
BULK_GET = 66


def curve_secret(data):
    """The CURVE secret in a data folder's node.key (crypto/identity.c: magic, seed, CURVE secret, ...)."""
    with open(os.path.join(data, "keys", "node.key"), "rb") as file:
        return file.read()[16 + 32:16 + 64]


def curve_public(data):
    return z85.decode(zmq.curve_public(z85.encode(curve_secret(data))))


def join_public(data):
    with open(os.path.join(data, "keys", "node.key"), "rb") as file:
        return file.read()[16 + 64:16 + 96]


class Rogue:
    """One DEALER to one socket of a node. `secret` None: a key that nobody has heard of; "plain": no CURVE."""

    def __init__(self, address, server_public, secret=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.immediate = 1
        self.socket.sndtimeo = 5000
        self.socket.rcvtimeo = 5000
        if secret != "plain":
            if secret is None:
                _, secret = (z85.decode(key) for key in zmq.curve_keypair())
            self.socket.curve_serverkey = z85.encode(server_public)
            self.socket.curve_secretkey = z85.encode(secret)
            self.socket.curve_publickey = zmq.curve_public(z85.encode(secret))
        self.socket.connect("tcp://" + address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(linger=0)

    def send(self, *frames):
        """False: the connection never came about, or can't take it."""
        try:
            self.socket.send_multipart(list(frames))
            return True
        except zmq.Again:
            return False

    def receive(self):
        """The first message that comes, or None."""
        try:
            return self.socket.recv()
        except zmq.Again:
            return None

    def handshake_refused(self):
        """Nothing could be sent for a while; that it was refused, and not just slow, the node's counters tell."""
        self.socket.sndtimeo = 1500
        return not self.send(b"anybody there?")


def hello(node_id, session=None, protocol=(1, 1), incarnation=1):
    session = session or struct.unpack("<Q", os.urandom(8))[0] | 1
    return msgpack.packb([HELLO, 1, protocol[0], protocol[1], session, False, node_id, incarnation, session, "0.1.0"])
