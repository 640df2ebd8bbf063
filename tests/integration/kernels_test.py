"""The built-in kernels through a mesh, against references in NumPy that share no code with them, and against the CUDA code on
an emulated driver, bit for bit."""
import contextlib
import glob
import os
import struct
import subprocess
import zlib

import numpy

from harness import Skipped, expect
from input_test import no_jobs, refused, save

USAGE, FAILED = 2, 1
SCENE = """# as small as it can show everything
camera 0 1.5 7   0 0.8 0   32
sky 0.3 0.5 0.9  0.8 0.8 0.7
plane 0 0 0  0 1 0  checker 0.8 0.7 0.6  0.2 0.3 0.4  1
sphere -1.7 1 0  1  diffuse 0.8 0.2 0.1
sphere 0.4 1 -0.5  1  glass 1 1 1 1.5
sphere 2.3 0.8 0.6  0.8  metal 0.9 0.7 0.4 0.2
sphere 2 5 3  1.8  light 3 2.5 2
"""


def text_file(place, name, text):
    path = place.path(name)
    with open(path, "w", encoding="ascii") as out:
        out.write(text)
    return path


# ---- render: another path tracer, in float64, without choosing lights: what is hit is what counts.

def unit(v):
    return v / numpy.linalg.norm(v, axis=1)[:, None]


def around(draw, normal):
    """Directions by the cosine: a point of the unit sphere on top of the normal."""
    return unit(normal + unit(draw.standard_normal(normal.shape)) * (1 - 1e-9))


def read_scene(text):
    spheres, planes, sky, camera = [], [], None, None
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["camera"]:
            camera = [float(word) for word in words[1:]]
        elif words[:1] == ["sky"]:
            sky = numpy.array([float(word) for word in words[1:]]).reshape(2, 3)
        elif words[:1] == ["sphere"]:
            spheres.append(([float(word) for word in words[1:5]], words[5], [float(word) for word in words[6:]]))
        elif words[:1] == ["plane"]:
            planes.append(([float(word) for word in words[1:7]], words[7], [float(word) for word in words[8:]]))
    return spheres, planes, sky, camera


def nearest(spheres, planes, start, way):
    distance, which = numpy.full(len(start), numpy.inf), numpy.full(len(start), -1)
    for n, (place, _, _) in enumerate(spheres):
        gap = start - numpy.array(place[:3])
        b = (gap * way).sum(1)
        inner = b * b - (gap * gap).sum(1) + place[3] ** 2
        root = numpy.sqrt(numpy.maximum(inner, 0))
        for t in (-b - root, -b + root):
            better = (inner > 0) & (t > 1e-4) & (t < distance)
            distance[better], which[better] = t[better], n
    for n, (place, _, _) in enumerate(planes):
        normal = numpy.array(place[3:]) / numpy.linalg.norm(place[3:])
        with numpy.errstate(divide="ignore", invalid="ignore"):
            t = ((numpy.array(place[:3]) - start) @ normal) / (way @ normal)
        better = (t > 1e-4) & (t < distance)
        distance[better], which[better] = t[better], len(spheres) + n
    return distance, which


def colour_of(kind, numbers, at):
    colour = numpy.tile(numbers[:3], (len(at), 1))
    if kind == "checker":
        cubes = numpy.floor(at / numbers[6] + 0.5)
        odd = cubes.sum(1).astype(int) & 1 == 1
        colour[odd] = numbers[3:6]
    return colour


def bounce(draw, kind, numbers, way, normal, inside):
    """Where a path goes on, and which of them do."""
    if kind in ("diffuse", "checker"):
        return around(draw, normal), numpy.ones(len(way), bool)
    cosine = -(way * normal).sum(1)
    mirrored = way + 2 * cosine[:, None] * normal
    if kind == "metal":
        out = unit(mirrored + numbers[3] * unit(draw.standard_normal(way.shape)))
        return out, (out * normal).sum(1) > 0
    index = numbers[3]
    ratio = numpy.where(inside, index, 1 / index)
    left = 1 - ratio ** 2 * (1 - cosine ** 2)
    root = numpy.sqrt(numpy.maximum(left, 0))
    base = ((1 - index) / (1 + index)) ** 2
    chance = base + (1 - base) * (1 - numpy.where(inside, root, cosine)) ** 5
    through = ratio[:, None] * way + (ratio * cosine - root)[:, None] * normal
    reflect = (left <= 0) | (draw.random(len(way)) < chance)
    return unit(numpy.where(reflect[:, None], mirrored, through)), numpy.ones(len(way), bool)


def trace(text, width, height, samples, depth):
    spheres, planes, sky, camera = read_scene(text)
    things = spheres + planes
    draw = numpy.random.default_rng()
    eye, look = numpy.array(camera[:3]), numpy.array(camera[3:6])
    forward = (look - eye) / numpy.linalg.norm(look - eye)
    right = numpy.cross(forward, [0, 1, 0])
    right /= numpy.linalg.norm(right)
    upward = numpy.cross(right, forward)
    tangent = numpy.tan(numpy.radians(camera[6]) / 2)
    row, column = numpy.divmod(numpy.repeat(numpy.arange(width * height), samples), width)
    across = (2 * (column + draw.random(len(row))) - width) / height * tangent
    above = (1 - 2 * (row + draw.random(len(row))) / height) * tangent
    start = numpy.tile(eye, (len(row), 1))
    way = unit(forward + across[:, None] * right + above[:, None] * upward)
    light, weight, alive = numpy.zeros((len(row), 3)), numpy.ones((len(row), 3)), numpy.arange(len(row))
    for _ in range(depth):
        distance, which = nearest(spheres, planes, start[alive], way[alive])
        free = alive[which < 0]
        share = numpy.sqrt(numpy.maximum(way[free, 1], 0))[:, None]
        light[free] += weight[free] * (sky[1] * (1 - share) + sky[0] * share)
        going = []
        for n, (place, kind, numbers) in enumerate(things):
            rays = alive[which == n]
            if kind == "light":
                light[rays] += weight[rays] * numbers[:3]
                continue
            at = start[rays] + distance[which == n][:, None] * way[rays]
            normal = unit(at - place[:3]) if n < len(spheres) else numpy.tile(place[3:], (len(rays), 1))
            inside = (normal * way[rays]).sum(1) > 0
            normal[inside] *= -1
            weight[rays] *= colour_of(kind, numbers, at)
            onward, goes = bounce(draw, kind, numbers, way[rays], normal, inside)
            start[rays], way[rays] = at, onward
            going.append(rays[goes])
        alive = numpy.concatenate(going) if going else alive[:0]
    return light.reshape(height, width, samples, 3).mean(2)


def on_screen(light):
    film = numpy.minimum(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 1)
    return 255 * numpy.where(film <= 0.0031308, 12.92 * film, 1.055 * film ** (1 / 2.4) - 0.055)


def read_png(path):
    """Width, height and rows of an RGB picture of 8 bits, by the PNG specification."""
    with open(path, "rb") as source:
        data = source.read()
    expect(data[:8] == b"\x89PNG\r\n\x1a\n", "%s is no PNG" % path)
    at, body, size = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        chunk = data[at + 8:at + 8 + length]
        expect(zlib.crc32(kind + chunk) == struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0], "a bad chunk")
        if kind == b"IHDR":
            size = struct.unpack(">IIBBBBB", chunk)
        elif kind == b"IDAT":
            body += chunk
        at += 12 + length
    width, height, bits, colour = size[:4]
    expect((bits, colour) == (8, 2), "an unusual PNG: %s" % (size,))
    flat, rows, before = zlib.decompress(body), [], numpy.zeros((width, 3), int)
    for y in range(height):
        kind = flat[y * (3 * width + 1)]
        line = numpy.frombuffer(flat, numpy.uint8, 3 * width, y * (3 * width + 1) + 1).reshape(width, 3).astype(int)
        out = numpy.zeros((width, 3), int)
        for x in range(width):
            a = out[x - 1] if x else numpy.zeros(3, int)
            b, c = before[x], before[x - 1] if x else numpy.zeros(3, int)
            guess = a + b - c
            paeth = numpy.where((abs(guess - a) <= abs(guess - b)) & (abs(guess - a) <= abs(guess - c)), a,
                                numpy.where(abs(guess - b) <= abs(guess - c), b, c))
            out[x] = (line[x] + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
        rows.append(out)
        before = out
    return numpy.array(rows, numpy.uint8)


def a_picture_is_that_of_another_path_tracer(place):
    node = place.mesh("ashburn")["ashburn"]
    scene, png, npy = text_file(place, "scene.txt", SCENE), place.path("picture.png"), place.path("picture.npy")
    size = ("--param", "width=48", "--param", "height=32", "--param", "samples=1024", "--param", "clamp=1000",
            "--param", "seed=%d" % numpy.random.default_rng().integers(1 << 30))
    node.submit("render", "--scene", scene, *size, "--output", png, timeout_s=120)
    node.submit("render", "--input", "scene=" + scene, *size, "--output", "picture=" + npy, "--shard-items", "5",
                "--cache", "off", timeout_s=120)
    picture = numpy.load(npy)
    expect(picture.shape == (32, 48, 3) and picture.dtype == numpy.uint8, "%s %s" % (picture.shape, picture.dtype))
    expect((read_png(png) == picture).all(), "the PNG shows another picture than the array")
    other = on_screen(trace(SCENE, 48, 32, 512, 16))
    # Both have grain: single pixels differ by chance, and by the caustic below the glass more than elsewhere; squares of 16
    # pixels and the whole do not.
    gap = picture - other
    squares = abs(gap.reshape(8, 4, 12, 4, 3).mean((1, 3)))
    expect(abs(gap.mean()) < 0.5, "the picture is %.2f brighter on the whole" % gap.mean())
    expect(numpy.median(squares) < 1 and squares.max() < 12, "squares differ by %.1f, one by %.1f" % (numpy.median(squares),
                                                                                                 squares.max()))
    expect(not any(name.startswith(".weir") for name in os.listdir(place.folder)), "temporary files were left")


# ---- nbody and kmeans

def slow_step(bodies, step, softening):
    bodies = bodies.astype(numpy.float64)
    gap = bodies[None, :, :3] - bodies[:, None, :3]
    square = (gap ** 2).sum(2) + numpy.float32(softening).astype(numpy.float64) ** 2
    pull = (gap * (bodies[None, :, 6] / square ** 1.5)[:, :, None]).sum(1)
    moved = bodies.copy()
    moved[:, 3:6] += pull * step
    moved[:, :3] += moved[:, 3:6] * step
    return moved


def bodies_move_as_newton_says_from_job_to_job(place):
    node = place.mesh("ashburn")["ashburn"]
    draw = numpy.random.default_rng()
    bodies = draw.normal(size=(777, 7)).astype(numpy.float32)
    bodies[:, 6] = draw.random(777) / 777
    given = "bodies=" + save(place, "bodies.npy", bodies)
    expected = bodies
    for _ in range(3):
        job = node.submit_detached("nbody", "--input", given, "--param", "dt=0.125", "--param", "softening=0.05",
                                   "--shard-items", "100")
        node.wait_job(job)
        given = "bodies=job:%s/bodies" % job
        expected = slow_step(expected, 0.125, 0.05)
    out, again = place.path("out.npy"), place.path("again.npy")
    node.weir("submit", "--reattach", job, "--output", "bodies=" + out)
    moved = numpy.load(out)
    expect(abs(moved - expected).max() < 2e-5, "off by %g" % abs(moved - expected).max())
    # The same bits whatever the cut.
    before = node.job(job)
    node.submit("nbody", "--input", "bodies=" + place.path("bodies.npy"), "--param", "dt=0.125", "--param",
                "softening=0.05", "--shard-items", "777", "--output", again)
    whole = numpy.load(again)
    node.submit("nbody", "--input", "bodies=" + place.path("bodies.npy"), "--param", "dt=0.125", "--param",
                "softening=0.05", "--shard-items", "31", "--cache", "off", "--output", "bodies=" + again)
    expect(whole.tobytes() == numpy.load(again).tobytes(), "another cut gives other bits")
    expect(before["state"] == "done", "%s" % before)


def slow_round(points, sums, counts):
    size = abs(sums)
    centres = numpy.where(sums < 0, -1, 1) * ((256 * size + counts[:, None]) // (2 * numpy.maximum(counts, 1)[:, None]))
    centres = numpy.clip(centres, -16384, 16256)
    distances = ((128 * points[:, None, :].astype(numpy.int64) - centres[None]) ** 2).sum(2)
    distances[:, counts == 0] = numpy.iinfo(numpy.int64).max
    labels = distances.argmin(1)
    spread = ((distances[numpy.arange(len(points)), labels] + 8192) // 16384).sum()
    new_sums = numpy.zeros_like(sums)
    numpy.add.at(new_sums, labels, points.astype(numpy.int64))
    return labels, new_sums, numpy.bincount(labels, minlength=len(counts)), spread


def clusters_are_found_round_by_round(place):
    node = place.mesh("ashburn", "berlin")["ashburn"]
    draw = numpy.random.default_rng()
    middles = draw.integers(-90, 90, (6, 24))
    points = numpy.clip(middles[draw.integers(0, 6, 4000)] + draw.normal(0, 9, (4000, 24)), -128, 127).astype(numpy.int8)
    sums, counts = points[draw.choice(4000, 8, replace=False)].astype(numpy.int64), numpy.ones(8, numpy.int64)
    counts[7] = 0  # takes nothing, and never will
    inputs = {"sum": save(place, "sum.npy", sums), "count": save(place, "count.npy", counts)}
    spreads = []
    for _ in range(4):
        job = node.submit_detached("kmeans", "--input", "point=" + save(place, "points.npy", points), "--input",
                                   "sum=" + inputs["sum"], "--input", "count=" + inputs["count"], "--shard-items", "512")
        node.wait_job(job)
        got = {}
        for name in ("label", "sum", "count", "spread"):
            node.weir("submit", "--reattach", job, "--output", "%s=%s" % (name, place.path(name + ".out.npy")))
            got[name] = numpy.load(place.path(name + ".out.npy"))
            os.unlink(place.path(name + ".out.npy"))
        labels, sums, counts, spread = slow_round(points, sums, counts)
        for name, expected in (("label", labels), ("sum", sums), ("count", counts), ("spread", [spread])):
            expect((got[name] == expected).all(), "%s of a round is wrong" % name)
        expect(counts[7] == 0 and counts.sum() == 4000, "counts are %s" % counts)
        spreads.append(int(spread))
        inputs = {name: "job:%s/%s" % (job, name) for name in ("sum", "count")}
    expect(spreads == sorted(spreads, reverse=True), "rounds make it worse: %s" % spreads)


def a_worker_alone_combines_nothing_and_needs_not(place):
    """More points than a mesh puts into a shard: what is combined must not be written once per shard."""
    draw = numpy.random.default_rng()
    points = draw.integers(-128, 128, (100_000, 24)).astype(numpy.int8)
    sums, counts = draw.integers(-500, 500, (3, 24)), draw.integers(1, 9, 3)
    outputs = {name: place.path(name + ".alone.npy") for name in ("label", "sum", "count", "spread")}
    arguments = ["--input", "point=%s:split" % save(place, "many.npy", points), "--input",
                 "sum=" + save(place, "s.npy", sums), "--input", "count=" + save(place, "c.npy", counts)]
    for name, path in outputs.items():
        arguments += ["--output", "%s=%s" % (name, path)]
    subprocess.run([os.path.join(place.build, "weir-worker"), "--run", "kmeans", *arguments], check=True,
                   stdout=subprocess.DEVNULL)
    expected = slow_round(points, sums, counts)
    for (name, path), wanted in zip(outputs.items(), expected):
        expect((numpy.load(path) == wanted).all(), "%s is wrong" % name)


# ---- bad input

def wrong_scenes_bodies_and_centres_are_refused(place):
    node = place.mesh("ashburn")["ashburn"]
    good = text_file(place, "good.txt", SCENE)
    bad = text_file(place, "bad.txt", SCENE + "spere 0 0 0 1 diffuse 1 1 1\n")
    bodies = save(place, "bodies.npy", numpy.zeros((3, 6), numpy.float32))
    seven = save(place, "seven.npy", numpy.ones((3, 7), numpy.float32))
    far = save(place, "far.npy", numpy.full((3, 7), 1e13, numpy.float32))
    points = save(place, "points.npy", numpy.zeros((5, 4), numpy.int8))
    sums = save(place, "sums.npy", numpy.zeros((2, 4), numpy.int64))
    none = save(place, "none.npy", numpy.zeros(2, numpy.int64))
    one = save(place, "one.npy", numpy.ones(1, numpy.int64))
    centres = ("--input", "point=" + points, "--input", "sum=" + sums)
    floats = save(place, "floats.npy", numpy.eye(4, dtype=numpy.float32))
    cases = [
        (("render", "--scene", bad), USAGE, "scene line 9"),
        (("render", "--scene", good, "--items", "5"), USAGE, "360"),
        (("render", "--scene", place.path("nowhere.txt")), USAGE, "nowhere.txt"),
        (("render", "--scene", good, "--param", "width=0"), USAGE, "width"),
        (("nbody", "--scene", good), USAGE, "nbody"),
        (("nbody", "--input", "bodies=" + bodies), USAGE, "rows of 7"),
        (("nbody", "--input", "bodies=" + far), USAGE, "1e+13"),
        (("kmeans", *centres, "--input", "count=" + none), USAGE, "all 0"),
        (("kmeans", *centres, "--input", "count=" + one), USAGE, "a count for each"),
        (("kmeans", *centres, "--input", "count=" + none, "--output", place.path("x.npy")), USAGE, "more than one output"),
        (("nbody", "--input", "bodies=" + seven, "--output", place.path("b.csv")), USAGE, "an output is written as .npy"),
        (("nbody", "--input", "bodies=" + seven, "--output", "bodies=" + place.path("b.JPG")), USAGE, "a picture as .png"),
        (("matmul", "--input", "a=" + points, "--input", "b=" + points, "--param", "precision=bfloat16"), USAGE, "give one"),
    ]
    for arguments, code, word in cases:
        refused(node.submit(*arguments, code=None), code, word)
    no_jobs(node)
    picture = ("--output", place.path("c.png"))
    refused(node.submit("matmul", "--input", "a=" + floats, "--input", "b=" + floats, *picture, code=None), USAGE, "uint8",
            "name a .npy file")
    no_jobs(node)
    # Of a blob the node alone knows the type.
    blob = "blob:" + node.weir("blob", "put", floats, "--json").json["blob"]
    refused(node.submit("matmul", "--input", "a=" + blob, "--input", "b=" + blob, *picture, code=None), FAILED, "uint8", "blob:")
    expect(not os.path.exists(place.path("c.png")), "half a picture was left")


# ---- the CUDA code

@contextlib.contextmanager
def emulated_driver(place):
    """Processes started meanwhile find a driver that runs the CUDA code on the CPU."""
    found = glob.glob(os.path.join(place.build, "**", "emulated", "libcuda.so.1"), recursive=True)
    if not found:
        raise Skipped("this build has no emulated driver (no CUDA compiler)")
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = os.path.dirname(found[0])
    try:
        yield
    finally:
        if before is None:
            del os.environ["LD_LIBRARY_PATH"]
        else:
            os.environ["LD_LIBRARY_PATH"] = before


def cuda_code_gives_the_same_bits_through_the_mesh(place):
    draw = numpy.random.default_rng()
    bodies = draw.normal(size=(300, 7)).astype(numpy.float32)
    points = draw.integers(-128, 128, (200, 20)).astype(numpy.int8)
    words = "".join("%s\n" % "".join(map(chr, draw.integers(97, 123, draw.integers(0, 12)))) for _ in range(60))
    bodies, points = save(place, "bodies.npy", bodies), save(place, "points.npy", points)
    sums = save(place, "sums.npy", draw.integers(-500, 500, (9, 20)))
    counts = save(place, "counts.npy", draw.integers(1, 9, 9))
    jobs = [
        ("render", ("picture",), "--scene", text_file(place, "scene.txt", SCENE), "--param", "width=24", "--param",
         "height=16", "--param", "samples=4"),
        ("nbody", ("bodies",), "--input", "bodies=" + bodies),
        ("kmeans", ("label", "sum", "count", "spread"), "--input", "point=" + points, "--input", "sum=" + sums, "--input",
         "count=" + counts),
        ("embed", ("vectors",), "--input", "text=" + text_file(place, "words.txt", words)),
        ("knn", ("index",), "--input", "base=" + points, "--input", "query=" + points, "--split", "query", "--param", "k=3"),
    ]
    results = {}
    with emulated_driver(place):
        for site, settings in (("gpu", {"work__cpu_slots": 0, "work__cuda_devices": 1}), ("cpu", {"work__cuda_devices": 0})):
            node = place.mesh(site, **settings)[site]
            for kernel, outputs, *arguments in jobs:
                paths = {output: place.path("%s.%s.%s.npy" % (site, kernel, output)) for output in outputs}
                for output, path in paths.items():
                    arguments += ["--output", "%s=%s" % (output, path)]
                node.submit(kernel, *arguments, "--shard-items", "7", timeout_s=240)
                results[site, kernel] = [open(path, "rb").read() for path in paths.values()]
            classes = node.weir("nodes", "--json").json["nodes"][0]["classes"]
            expect(classes["cuda" if site == "gpu" else "cpu"]["slots"] > 0, "%s" % classes)
            node.stop()
    for kernel, *_ in jobs:
        expect(results["gpu", kernel] == results["cpu", kernel], "%s has other bits by the CUDA code" % kernel)


def a_finished_job_of_every_kernel_may_be_kept_elsewhere(place):
    """Its row is checked by who takes it: all outputs or some of them, concatenated or combined, of one type or another."""
    mesh = place.mesh("ashburn", "berlin")
    node = mesh["ashburn"]
    draw = numpy.random.default_rng(7)
    bytes_ = draw.integers(-128, 128, (40, 16), dtype=numpy.int8)
    given = {
        "text": text_file(place, "words.txt", "".join("word%d\n" % i for i in range(30))),
        "scene": text_file(place, "scene.txt", SCENE),
        "bytes": save(place, "bytes.npy", bytes_),
        "across": save(place, "across.npy", bytes_.T.copy()),
        "floats": save(place, "floats.npy", bytes_.astype(numpy.float32)),
        "floats_across": save(place, "floats_across.npy", bytes_.T.copy().astype(numpy.float32)),
        "raw": save(place, "raw.npy", bytes_.view(numpy.uint8)),
        "sums": save(place, "sums.npy", bytes_[:4].astype(numpy.int64)),
        "counts": save(place, "counts.npy", numpy.ones(4, numpy.int64)),
        "bodies": save(place, "bodies.npy", abs(draw.normal(size=(30, 7))).astype(numpy.float32)),
        "options": save(place, "options.npy", numpy.tile(numpy.array([100, 100, 0.05, 0.2, 1]), (8, 1))),
    }
    jobs = ["embed text=text split=text", "kmeans point=bytes sum=sums count=counts split=point", "knn base=bytes query=bytes split=query k=3",
            "knn base=bytes query=bytes split=query k=3 distances=yes", "matmul a=bytes b=across split=a",
            "matmul a=floats b=floats_across split=a", "montecarlo option=options split=option paths=256 steps=4",
            "montecarlo option=options split=option paths=256 steps=4 book=yes", "nbody bodies=bodies", "noop data=raw split=data",
            "render scene=scene width=8 height=8 samples=2"]
    told = {kernel["name"] for kernel in node.weir("kernels", "--json").json["kernels"] if not kernel["diagnostic"]}
    expect(told <= {job.split()[0] for job in jobs}, "a kernel has no job here: %s" % told)
    for job in jobs:
        name, *words = job.split()
        command = [name, "--shard-items", "3", "--detach", "--json"]
        for key, value in (word.split("=") for word in words):
            command += (["--split", value] if key == "split" else ["--input", "%s=%s" % (key, given[value])] if value in given
                        else ["--param", "%s=%s" % (key, value)])
        node.wait_job(node.weir("submit", *command).json["job"])
        again = node.weir("submit", *command)
        expect(again.json["state"] == "done" and again.json["replicas"] == 2, "%s: %s" % (job, again))


TESTS = [a_finished_job_of_every_kernel_may_be_kept_elsewhere, a_picture_is_that_of_another_path_tracer, bodies_move_as_newton_says_from_job_to_job,
         clusters_are_found_round_by_round, a_worker_alone_combines_nothing_and_needs_not,
         wrong_scenes_bodies_and_centres_are_refused, cuda_code_gives_the_same_bits_through_the_mesh]
