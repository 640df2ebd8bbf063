"""What goes wrong, drawn by a seed: one fault after the other, some at once, each with its end.

Bounded so that the promise stays one that can be kept: at most one site at a time has a disk that lies (an old folder put
back), all others live meanwhile, and none follows within QUIET_AFTER_RESTORE_S; everything that is broken is mended at the end.
"""
import signal
import time

from sites import NAMES

QUIET_AFTER_RESTORE_S = 20

#        kind             weight
FAULTS = (("kill", 22), ("kill_two", 6), ("pause", 14), ("isolate", 10), ("cut", 10), ("one_way", 10), ("reset", 12),
          ("stall", 14), ("fill_disk", 8), ("fail_syncs", 6), ("restore", 6), ("restart_all", 3))


class Nemesis:
    def __init__(self, rng, network, sites, began, until):
        self.rng, self.network, self.sites, self.began, self.until = rng, network, sites, began, until
        self.pending = []  # (when, what to do): the ends of faults
        self.counts = {kind: 0 for kind, _ in FAULTS}
        self.events = []
        self.killed = []  # (site's name, wall clock)
        self.put_back = []  # (site's index, wall clock): until a home brings its copies up anew they have no vote
        self.broken = []  # [what, from, until] by the wall clock: a site's index, or the way (from, to) between two
        self.busy = set()  # sites that are down, paused, cut off or without a disk now
        self.quiet_until = 0
        self.restoring = False

    def breaks(self, what):
        self.broken.append([what, time.time(), None])

    def works(self, what):
        """A way works again with the first of its faults that ends."""
        for span in self.broken:
            if span[0] == what and span[2] is None:
                span[2] = time.time()

    def end(self, site):
        """SIGKILL; returns what starts it again."""
        self.killed.append((site.name, time.time()))
        self.breaks(site.index)
        site.kill()

        def again():
            site.start()
            self.works(site.index)
        return again

    def note(self, text):
        self.events.append((round(time.monotonic() - self.began, 3), text))

    def later(self, after_s, what):
        self.pending.append((time.monotonic() + after_s, what))
        self.pending.sort(key=lambda item: item[0])

    def run(self):
        for site in self.sites:
            self.snapshot(site)
        at = time.monotonic() + 2
        while time.monotonic() < self.until:
            if self.pending and self.pending[0][0] <= time.monotonic():
                self.pending.pop(0)[1]()
            elif time.monotonic() >= at:
                self.strike()
                at = time.monotonic() + self.rng.uniform(0.5, 5)
            else:
                time.sleep(0.05)
        self.mend()

    def mend(self):
        for _, what in self.pending:
            what()
        self.pending = []
        for site in self.sites:
            site.fill(False)
            site.fail_syncs(False)
            site.signal(signal.SIGCONT)
            site.start()
        self.network.heal()
        self.note("all is mended")

    def snapshot(self, site):
        """The folder of a node that was killed, to be put back some time later."""
        again = self.end(site)
        site.take_snapshot()
        again()

    def strike(self):
        kind = self.rng.choices([kind for kind, _ in FAULTS], [weight for _, weight in FAULTS])[0]
        site = self.rng.choice(self.sites)
        if self.restoring or (site in self.busy and kind not in ("reset", "stall")):
            return  # the rest must live
        if getattr(self, kind)(site):
            self.counts[kind] += 1

    def free(self, site):
        self.busy.discard(site)

    def hold_ways(self, ways, seconds):
        for a, b in ways:
            self.breaks((a, b))
            self.network.hold(a, b, True)

        def end():
            for a, b in ways:
                self.network.hold(a, b, False)
                self.works((a, b))
        self.later(seconds, end)

    def disable(self, site, seconds, mend):
        """The site is no use until `mend` has been called, so long from now."""
        self.busy.add(site)
        self.breaks(site.index)
        self.later(seconds, lambda: (mend(), self.works(site.index), self.free(site)))

    def others(self, site):
        return [other for other in self.sites if other is not site]

    # Each returns whether it happened.

    def kill(self, site):
        self.note("kill " + site.name)
        again = self.end(site)
        self.busy.add(site)
        self.later(self.rng.uniform(0.2, 15), lambda: (again(), self.free(site)))
        return True

    def kill_two(self, site):
        other = self.rng.choice(self.others(site))
        if other in self.busy:
            return False
        return self.kill(site) and self.kill(other)

    def pause(self, site):
        self.note("pause " + site.name)
        site.signal(signal.SIGSTOP)
        self.disable(site, self.rng.uniform(0.1, 12), lambda: site.signal(signal.SIGCONT))
        return True

    def isolate(self, site):
        self.note("isolate " + site.name)
        ways = [way for other in self.others(site) for way in ((site.index, other.index), (other.index, site.index))]
        self.busy.add(site)
        seconds = self.rng.uniform(2, 20)
        self.hold_ways(ways, seconds)
        self.later(seconds, lambda: self.free(site))
        return True

    def cut(self, site):
        other = self.rng.choice(self.others(site))
        self.note("cut %s %s" % (site.name, other.name))
        self.hold_ways([(site.index, other.index), (other.index, site.index)], self.rng.uniform(2, 20))
        return True

    def one_way(self, site):
        other = self.rng.choice(self.others(site))
        self.note("one way: nothing from %s to %s" % (site.name, other.name))
        self.hold_ways([(site.index, other.index)], self.rng.uniform(2, 20))
        return True

    def reset(self, site):
        other = self.rng.choice(self.others(site))
        self.note("reset %s %s" % (site.name, other.name))
        self.network.reset(site.index, other.index)
        return True

    def stall(self, site):
        other = self.rng.choice(self.others(site))
        self.hold_ways([(site.index, other.index)], self.rng.uniform(0.2, 2))
        return True

    def fill_disk(self, site):
        self.note("fill the disk of " + site.name)
        site.fill(True)
        self.disable(site, self.rng.uniform(2, 12), lambda: site.fill(False))
        return True

    def fail_syncs(self, site):
        self.note("syncs fail at " + site.name)
        site.fail_syncs(True)
        self.disable(site, self.rng.uniform(0.5, 6), lambda: site.fail_syncs(False))
        return True

    def restore(self, site):
        if self.busy or time.monotonic() < self.quiet_until or time.monotonic() > self.until - 5:
            return False
        self.note("put the old folder of %s back" % site.name)
        again = self.end(site)
        self.put_back.append((site.index, time.time()))
        site.put_snapshot_back()
        again()
        self.restoring = True

        def settled():
            self.restoring = False
            self.quiet_until = time.monotonic() + QUIET_AFTER_RESTORE_S
            self.snapshot(site)
        self.later(8, settled)
        return True

    def restart_all(self, _):
        if self.busy:
            return False
        self.note("restart of everything")
        for again in [self.end(site) for site in self.sites]:
            again()
        return True


def totals(counts):
    return {"kills": counts["kill"] + 2 * counts["kill_two"] + len(NAMES) * counts["restart_all"],
            "pauses": counts["pause"],
            "cuts": counts["cut"] + counts["isolate"] + counts["one_way"],
            "disk_faults": counts["fill_disk"] + counts["fail_syncs"] + counts["restore"]}
