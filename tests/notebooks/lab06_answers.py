"""Answers to lab 06: mistakes of distributed training, and right answers in another way."""

from __future__ import annotations

from typing import NamedTuple


class Wrong(NamedTuple):
    """One mistake: the master's answer with lines replaced, and the record that must say it.

    ``edits`` of "" replaces the whole answer.
    """

    exercise: str
    mistake: str
    edits: dict[str, str]
    record: str


ALL = ""
SHARE = "share = count * gradient if count else np.zeros_like(gradient)"
SUMS = "sums = await comm.all_reduce(np.append(share, count))"
MINE = "mine = range(comm.rank, samples, comm.world)"
SCORED = "sums += score(list(mine[begin : begin + batch_size])).sum(axis=0)"
MEET = "loss, right = await comm.all_reduce(sums)"
BEGINS = "range(0, len(mine), batch_size)"
BEGUN = "total, count = np.zeros_like(weights), 0"
TOTAL = "total += len(batch) * gradient(weights, batch)"
MORE = "i_have_more = place < len(batches)"
PIECES = "pieces = np.array_split(data, world)"
SENT = "comm.send_right(pieces[(rank - hop) % world])"
HANDED_ON = "pieces[(rank - hop) % world] = await comm.receive_left()"
ADDED = "pieces[(rank - hop - 1) % world] = pieces[(rank - hop - 1) % world] + received"
SECOND_HALF = (
    "    for hop in range(world - 1):\n"
    "        comm.send_right(pieces[(rank + 1 - hop) % world])\n"
    f"        {HANDED_ON}\n"
)
HERE = "at(other) == op"
VELOCITY = ('        "velocity": training.velocity.tolist(),\n', 'state["velocity"]')
SAVED = 'disk.write("checkpoint.new", json.dumps(state))'
RENAMED = '    disk.rename("checkpoint.new", "checkpoint")\n'
READ = 'state = json.loads(disk.read("checkpoint"))'
RNG = 'training.rng.bit_generator.state = state["rng"]'

EVERYTHING_AROUND = """
async def ring_all_reduce(comm, data):
    total, packet = data, data
    for _ in range(comm.world - 1):
        comm.send_right(packet)
        packet = await comm.receive_left()
        total = total + packet
    return total
"""

DOWN_AND_BACK = """
async def ring_all_reduce(comm, data):
    last = comm.world - 1
    total = data if comm.rank == 0 else data + await comm.receive_left()
    comm.send_right(total)
    if comm.rank < last:
        total = await comm.receive_left()
        if comm.rank < last - 1:
            comm.send_right(total)
    return total
"""

BUFFERED = """
def stuck(programs):
    places, mail, moved = [0] * len(programs), [], True

    def at(rank):
        return programs[rank][places[rank]] if places[rank] < len(programs[rank]) else None

    def missing(rank):
        name, others = at(rank)
        if name == "send":
            return []
        if name == "receive":
            return [] if (others, rank) in mail else [others]
        return [other for other in others if at(other) != at(rank)]

    while moved:
        moved = False
        for rank in range(len(programs)):
            while at(rank) and not missing(rank):
                name, others = at(rank)
                if name == "send":
                    mail.append((rank, others))
                elif name == "receive":
                    mail.remove((others, rank))
                for one in others if isinstance(others, tuple) else [rank]:
                    places[one] += 1
                moved = True
    return {r: (places[r], missing(r)) for r in range(len(programs)) if at(r)}
"""

IN_STEP = """
def stuck(programs):
    for place in range(max(map(len, programs))):
        here = [program[place] if place < len(program) else None for program in programs]
        if len(set(here)) > 1:
            return {
                rank: (place, [o for o in range(len(programs)) if here[o] != here[rank]])
                for rank in range(len(programs))
                if here[rank]
            }
    return {}
"""

HOW_OFTEN = """
from collections import Counter

def stuck(programs):
    called = [Counter(program) for program in programs]
    found = {}
    for rank, program in enumerate(programs):
        for place, (name, others) in enumerate(program):
            if name == "send":
                missing = [others] if ("receive", rank) not in called[others] else []
            elif name == "receive":
                missing = [others] if ("send", rank) not in called[others] else []
            else:
                often = program[: place + 1].count((name, others))
                missing = [o for o in others if called[o][(name, others)] < often]
            if missing:
                found[rank] = (place, missing)
                break
    return found
"""

WRONG = [
    Wrong(
        "weighted-reduce",
        "a mean of means",
        {SHARE: "share = gradient", "np.append(share, count)": "np.append(share, 1)"},
        "gradient on each rank, uneven shards",
    ),
    Wrong(
        "weighted-reduce",
        "divides by the ranks a second time",
        {"sums[:-1] / sums[-1]": "sums[:-1] / sums[-1] / comm.world"},
        "gradient on each rank, uneven shards",
    ),
    Wrong(
        "weighted-reduce",
        "divides by its own samples",
        {"sums[:-1] / sums[-1]": "sums[:-1] / count"},
        "gradient on each rank, uneven shards",
    ),
    Wrong(
        "weighted-reduce",
        "works in the caller's array",
        {SHARE: "gradient *= count\n    share = gradient if count else np.zeros_like(gradient)"},
        "gradients of the caller, afterwards",
    ),
    Wrong(
        "weighted-reduce",
        "communicates twice",
        {SUMS: "sums = np.append(await comm.all_reduce(share), await comm.all_reduce([count]))"},
        "calls of all_reduce on each rank",
    ),
    Wrong(
        "weighted-reduce",
        "multiplies nan by zero",
        {SHARE: "share = count * gradient"},
        "gradient on each rank, one without samples",
    ),
    Wrong(
        "weighted-reduce",
        "a rank without samples stays away",
        {SHARE: f"if not count:\n        return np.zeros_like(gradient)\n    {SHARE}"},
        "gradient on each rank, one without samples",
    ),
    Wrong(
        "weighted-reduce",
        "returns it flat",
        {".reshape(gradient.shape)": ""},
        "gradient of a matrix",
    ),
    Wrong(
        "evaluation",
        "pads, as DistributedSampler does",
        {
            MINE: "each = math.ceil(samples / comm.world)\n"
            "    mine = [(comm.rank + i * comm.world) % samples for i in range(each)]",
            "loss / samples, right / samples": "(loss, right) / (each * comm.world * np.ones(1))",
        },
        "times that each sample was scored, 4 ranks",
    ),
    Wrong(
        "evaluation",
        "drops what the ranks do not divide",
        {MINE: "mine = range(comm.rank, samples // comm.world * comm.world, comm.world)"},
        "times that each sample was scored, 4 ranks",
    ),
    Wrong(
        "evaluation",
        "every rank evaluates everything",
        {MINE: "mine = range(samples)", MEET: f"{MEET} / comm.world"},
        "times that each sample was scored, 4 ranks",
    ),
    Wrong(
        "evaluation",
        "the last rank takes the rest",
        {
            MINE: "each = samples // comm.world\n    mine = range(comm.rank * each, samples if "
            "comm.rank == comm.world - 1 else (comm.rank + 1) * each)"
        },
        "samples of the ranks, in order of size",
    ),
    Wrong(
        "evaluation",
        "the last rank takes what is left",
        {
            MINE: "each = math.ceil(samples / comm.world)\n    "
            "mine = range(samples)[comm.rank * each : (comm.rank + 1) * each]"
        },
        "samples of the ranks, in order of size",
    ),
    Wrong(
        "evaluation",
        "a mean of the ranks' means",
        {
            MEET: "loss, right = await comm.all_reduce(sums / max(1, len(mine)))",
            "loss / samples, right / samples": "loss / comm.world, right / comm.world",
        },
        "mean loss and accuracy on each rank",
    ),
    Wrong(
        "evaluation",
        "a mean of the batches' means",
        {
            ".sum(axis=0)": ".mean(axis=0)",
            MEET: f"sums *= len(mine) / max(1, math.ceil(len(mine) / batch_size))\n    {MEET}",
        },
        "mean loss and accuracy, the last batch smaller",
    ),
    Wrong(
        "evaluation",
        "the whole shard as one batch",
        {BEGINS: "range(min(1, len(mine)))", "mine[begin : begin + batch_size]": "mine"},
        "largest batch, of at most 10",
    ),
    Wrong(
        "evaluation",
        "communicates after every batch",
        {SCORED: SCORED.replace("score(", "await comm.all_reduce(score(") + ")"}
        | {MEET: "loss, right = sums"},
        "mean loss and accuracy, some ranks with a batch more",
    ),
    Wrong(
        "evaluation",
        "communicates once a number",
        {MEET: "loss, right = [await comm.all_reduce(one) for one in sums]"},
        "calls of all_reduce on each rank",
    ),
    Wrong(
        "evaluation",
        "a rank without samples stays away",
        {MINE: f"{MINE}\n    if not mine:\n        return 0.0, 0.0"},
        "mean loss and accuracy, more ranks than samples",
    ),
    Wrong(
        "evaluation",
        "a mean of nothing",
        {
            SCORED: SCORED.replace(
                ".sum(axis=0)", ".mean(axis=0) * len(mine[begin:][:batch_size])"
            ),
            BEGINS: "range(0, max(1, len(mine)), batch_size)",
        },
        "mean loss and accuracy, more ranks than samples",
    ),
    Wrong(
        "evaluation",
        "calls the model with nothing",
        {BEGINS: "range(0, max(1, len(mine)), batch_size)"},
        "smallest batch there",
    ),
    Wrong(
        "accumulation",
        "a mean of the micro-batches' means",
        {TOTAL: "total += gradient(weights, batch)", "count += len(batch)": "count += 1"},
        "weights on each rank after one step",
    ),
    Wrong(
        "accumulation",
        "a mean of the ranks' means",
        {"[*total, count,": "[*(total / max(1, count)), count > 0,"},
        "weights on each rank after one step",
    ),
    Wrong(
        "accumulation",
        "divides by the ranks a second time",
        {"/ sums[-2]": "/ sums[-2] / comm.world"},
        "weights on each rank after one step",
    ),
    Wrong(
        "accumulation",
        "moves after each micro-batch",
        {"gradient(weights, batch)": "gradient(weights - rate * total / max(1, count), batch)"},
        "weights on each rank after one step",
    ),
    Wrong(
        "accumulation",
        "communicates once a micro-batch",
        {
            TOTAL: "total += await comm.all_reduce(len(batch) * gradient(weights, batch))",
            "[*total,": "[*(total / comm.world),",
        },
        "calls of all_reduce on each rank, one step",
    ),
    Wrong(
        "accumulation",
        "asks for the number of steps first",
        {
            "    while somebody_has_more:": "    most = await comm.all_reduce(np.eye(comm.world)"
            "[comm.rank] * len(batches))\n    while place < most.max():"
        },
        "calls of all_reduce on each rank, one step",
    ),
    Wrong(
        "accumulation",
        "goes on until a step was empty",
        {MORE: "i_have_more = count > 0", "/ sums[-2]": "/ max(1, sums[-2])"},
        "calls of all_reduce on each rank, one step",
    ),
    Wrong(
        "accumulation",
        "never begins at zero again",
        {
            f"        {BEGUN}\n": "",
            "    while somebody": f"    {BEGUN}\n    while somebody",
        },
        "weights on each rank after full steps",
    ),
    Wrong(
        "accumulation",
        "two passes a micro-batch",
        {TOTAL: f"gradient(weights, batch)\n            {TOTAL}"},
        "micro-batches whose gradient was computed",
    ),
    Wrong(
        "accumulation",
        "drops the last step where it is not full",
        {MORE: "i_have_more = place + every <= len(batches)"},
        "weights on each rank, the last step not full",
    ),
    Wrong(
        "accumulation",
        "ends when its own data ends",
        {"somebody_has_more = sums[-1] > 0": "somebody_has_more = i_have_more"},
        "weights on each rank, ranks with different numbers of micro-batches",
    ),
    Wrong(
        "accumulation",
        "brings only what it has",
        {
            "[*total, count, i_have_more]": "[*total, count, i_have_more][: None if count else 2]",
        },
        "weights on each rank, ranks with different numbers of micro-batches",
    ),
    Wrong(
        "accumulation",
        "ends when the first rank ends",
        {"somebody_has_more = sums[-1] > 0": "somebody_has_more = sums[-1] == comm.world"},
        "weights on each rank, ranks with different numbers of micro-batches",
    ),
    Wrong(
        "ring",
        "all of the data around the ring",
        {ALL: EVERYTHING_AROUND},
        "numbers sent by all ranks",
    ),
    Wrong(
        "ring",
        "all of the data to the last rank, and back",
        {ALL: DOWN_AND_BACK},
        "time until the last rank has finished",
    ),
    Wrong(
        "ring",
        "the first half alone",
        {SECOND_HALF: ""},
        "sum on each rank, length a multiple of the ranks",
    ),
    Wrong(
        "ring",
        "adds up in the second half too",
        {HANDED_ON: HANDED_ON.replace(" = ", " = pieces[(rank - hop) % world] + ")},
        "sum on each rank, length a multiple of the ranks",
    ),
    Wrong(
        "ring",
        "hands on another piece than it finished",
        {"(rank + 1 - hop)": "(rank - hop)", HANDED_ON: HANDED_ON.replace("- hop", "- hop - 1")},
        "sum on each rank, length a multiple of the ranks",
    ),
    Wrong(
        "ring",
        "every rank begins with the same piece",
        {SENT: "comm.send_right(pieces[hop])"},
        "sum on each rank, length a multiple of the ranks",
    ),
    Wrong(
        "ring",
        "adds into the caller's array",
        {ADDED: "pieces[(rank - hop - 1) % world] += received"},
        "data of the first rank, afterwards",
    ),
    Wrong(
        "ring",
        "pieces of one size only",
        {
            PIECES: "each = len(data) // world\n"
            "    pieces = [data[i * each : (i + 1) * each] for i in range(world)]"
        },
        "sum on each rank, length no multiple of the ranks",
    ),
    Wrong(
        "ring",
        "fills the last piece up with zeros",
        {
            PIECES: "pieces = np.split(np.append(data, np.zeros(-len(data) % world)), world)",
            "np.concatenate(pieces)": "np.concatenate(pieces)[: len(data)]",
        },
        "numbers sent there",
    ),
    Wrong(
        "ring",
        "the last piece takes the rest",
        {
            PIECES: "each = len(data) // world\n"
            "    pieces = np.split(data, [each * i for i in range(1, world)])"
        },
        "time there",
    ),
    Wrong(
        "ring",
        "sends no empty piece",
        {SENT: f"if len(pieces[(rank - hop) % world]):\n            {SENT}"},
        "sum on each rank, fewer numbers than ranks",
    ),
    Wrong(
        "deadlock",
        "the ranks go in step",
        {ALL: IN_STEP},
        "stuck, ranks that meet at different places of their programs",
    ),
    Wrong(
        "deadlock",
        "goes through the ranks once",
        {"                moved = True\n": ""},
        "stuck, ranks that meet at different places of their programs",
    ),
    Wrong(
        "deadlock",
        "waits for the whole group, as if nobody had come",
        {"if at(o) != op": "if at(rank)"},
        "stuck, one rank leaves an operation out",
    ),
    Wrong(
        "deadlock",
        "counts places from 1",
        {"rank: (places[rank],": "rank: (places[rank] + 1,"},
        "stuck, one rank leaves an operation out",
    ),
    Wrong(
        "deadlock",
        "compares how often, not in which order",
        {ALL: HOW_OFTEN},
        "stuck, two operations in another order",
    ),
    Wrong(
        "deadlock",
        "takes every operation of a group for the same",
        {
            HERE: "at(other) and (at(other)[1:] == op[1:] if at(other)[0] in 'all_reduce broadcast "
            "barrier' else at(other) == op)"
        },
        "stuck, two operations in another order",
    ),
    Wrong(
        "deadlock",
        "puts down what is sent",
        {ALL: BUFFERED},
        "stuck, two ranks that both send first",
    ),
    Wrong(
        "deadlock",
        "takes every group for the same",
        {
            HERE: "at(other) and (at(other)[0] == op[0] if op[0] in 'all_reduce broadcast barrier' "
            "else at(other) == op)"
        },
        "stuck, ranks that meet at different places of their programs",
    ),
    Wrong(
        "resume",
        "saves no steps",
        {'        "steps": training.steps,\n': "", '    training.steps = state["steps"]\n': ""},
        "steps done, after the restart",
    ),
    Wrong(
        "resume",
        "rounds the weights",
        {"training.weights.tolist()": "training.weights.round(6).tolist()"},
        "weights, after the restart",
    ),
    Wrong(
        "resume",
        "saves the weights alone",
        {
            VELOCITY[0]: "",
            '    training.velocity = np.array(state["velocity"])\n': "",
            '    vars(training.schedule).update(state["schedule"])\n': "",
            f"    {RNG}\n": "",
        },
        "velocity, after the restart",
    ),
    Wrong(
        "resume",
        "forgets the schedule",
        {'    vars(training.schedule).update(state["schedule"])\n': ""},
        "rate, best loss and steps waited, after the restart",
    ),
    Wrong(
        "resume",
        "of the schedule the rate alone",
        {"vars(training.schedule),": '{"rate": training.schedule.rate},'},
        "rate, best loss and steps waited, after the restart",
    ),
    Wrong(
        "resume",
        "begins the epoch anew",
        {'    training.loader.place = state["place"]\n': ""},
        "batches left of the epoch, after the restart",
    ),
    Wrong(
        "resume",
        "draws the order anew",
        {'    training.loader.order = state["order"]\n': "    training.loader.next()\n"},
        "batches left of the epoch, after the restart",
    ),
    Wrong(
        "resume",
        "forgets the random state",
        {f"    {RNG}\n": ""},
        "random numbers that come next",
    ),
    Wrong(
        "resume",
        "gives the training another generator",
        {RNG: f"training.rng = np.random.default_rng()\n    {RNG}"},
        "first batch of the next epoch",
    ),
    Wrong(
        "resume",
        "saves the data too",
        {
            '"place": training.loader.place,': '"place": training.loader.place,\n'
            '        "x": training.x.tolist(),'
        },
        "size of all files",
    ),
    Wrong(
        "resume",
        "keeps a file of every checkpoint",
        {RENAMED: f'{RENAMED}    disk.write(f"step-{{training.steps}}", json.dumps(state))\n'},
        "size of all files",
    ),
    Wrong(
        "resume",
        "writes twelve digits",
        {"training.weights.tolist()": '[float(f"{w:.12g}") for w in training.weights]'},
        "ends with the bits of the run that nobody killed",
    ),
    Wrong(
        "resume",
        "computes the steps again",
        {READ: f"{READ}\n    while training.steps < state['steps']:\n        training.step()"},
        "steps computed after the restart",
    ),
    Wrong(
        "resume",
        "writes over the old checkpoint",
        {SAVED: SAVED.replace(".new", ""), RENAMED: ""},
        "weights at the end, the power cut in the middle of a save",
    ),
    Wrong(
        "resume",
        "begins anew where the checkpoint is half",
        {
            SAVED: SAVED.replace(".new", ""),
            RENAMED: "",
            READ: f"try:\n        {READ}\n    except ValueError:\n        return",
        },
        "most steps computed after a power cut",
    ),
]

ANOTHER_WAY = {
    "weighted-reduce": """
async def mean_gradient(comm, gradient, count):
    packed = np.zeros(gradient.size + 1)
    packed[0] = count
    if count > 0:
        packed[1:] = gradient.ravel()
        packed[1:] *= count
    samples, *sums = await comm.all_reduce(packed)
    return np.array(sums).reshape(gradient.shape) / samples
""",
    "evaluation": """
async def evaluate(comm, score, samples, batch_size):
    first = samples * comm.rank // comm.world
    last = samples * (comm.rank + 1) // comm.world
    mine, rows = list(range(first, last)), []
    while mine:
        rows += [[1, *row] for row in score(mine[-batch_size:])]
        del mine[-batch_size:]
    n, loss, right = await comm.all_reduce(np.sum(rows, axis=0) if rows else [0, 0, 0])
    return [loss / n, right / n]
""",
    "accumulation": """
async def train(comm, weights, batches, gradient, every, rate):
    groups = [batches[i : i + every] for i in range(0, len(batches), every)]
    while True:
        step, groups = (groups[0], groups[1:]) if groups else ([], [])
        sums = np.zeros(len(weights) + 2)
        for batch in step:
            sums += [*(len(batch) * gradient(weights, batch)), len(batch), 0]
        sums[-1] = len(groups)
        *total, count, left = await comm.all_reduce(sums)
        weights = weights - rate * np.array(total) / count
        if not left:
            return weights
""",
    "ring": """
async def ring_all_reduce(comm, data):
    world, total = comm.world, np.array(data, dtype=float)
    borders = [len(data) * i // world for i in range(world + 1)]

    def piece(number):
        number %= world
        return total[borders[number] : borders[number + 1]]

    buffer = np.empty(len(data))  # used again at once: a message must have been copied
    for hop in range(2 * (world - 1)):
        packet = buffer[: len(piece(comm.rank + 3 - hop))]
        packet[:] = piece(comm.rank + 3 - hop)
        comm.send_right(packet)
        received = await comm.receive_left()
        if hop < world - 1:
            piece(comm.rank + 2 - hop)[:] += received
        else:
            piece(comm.rank + 2 - hop)[:] = received
    return total.tolist()
""",
    "deadlock": """
def stuck(programs):
    left = {rank: list(enumerate(program)) for rank, program in enumerate(programs) if program}

    def wanted(rank, operation):
        name, others = operation
        if name in ("send", "receive"):
            return {others: ("receive" if name == "send" else "send", rank)}
        return dict.fromkeys(others, operation)

    def absent(rank):
        need = wanted(rank, left[rank][0][1])
        return [o for o in sorted(need) if o not in left or left[o][0][1] != need[o]]

    able = sorted(left)
    while able:
        rank = able.pop()
        if rank not in left or absent(rank):
            continue
        for one in {rank, *wanted(rank, left[rank][0][1])}:
            del left[one][0]
            if not left[one]:
                del left[one]
            able.append(one)
    return {rank: [left[rank][0][0], absent(rank)] for rank in left}
""",
    "resume": """
import hashlib

def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()

def save(training, disk):
    state = json.dumps(
        [
            training.steps, list(training.weights), list(training.velocity),
            training.schedule.rate, training.schedule.best, training.schedule.waited,
            list(training.loader.order), training.loader.place, training.rng.bit_generator.state,
        ]
    )
    # Two places in turn: the other one holds the checkpoint before, whatever happens to this one.
    newest = max(whole(disk), default=(0, "", "two"))
    disk.write("one" if newest[2] == "two" else "two", digest(state) + state)

def whole(disk):
    for name in disk.names():
        text = disk.read(name)
        if text[:64] == digest(text[64:]):
            yield json.loads(text[64:])[0], text[64:], name

def resume(training, disk):
    found = max(whole(disk), default=None)
    if found:
        (
            training.steps, weights, velocity,
            training.schedule.rate, training.schedule.best, training.schedule.waited,
            training.loader.order, training.loader.place, random_state,
        ) = json.loads(found[1])
        training.weights[:], training.velocity[:] = weights, velocity
        training.rng.bit_generator.state = random_state
""",
}

# Mistakes that end the check with the learner's own error: what it must say.
RAISES = {
    "resume: a checkpoint is always there": (
        "resume",
        {'    if "checkpoint" not in disk.names():\n        return\n': ""},
        ("FileNotFoundError", "checkpoint"),
    ),
    "resume: pickles the training as bytes": (
        "resume",
        {SAVED: 'import pickle\n    disk.write("checkpoint.new", pickle.dumps(state))'},
        ("TypeError", "the disk holds text, found bytes"),
    ),
    "ring: asks for all_reduce": (
        "ring",
        {PIECES: "return await comm.all_reduce(data)"},
        ("AttributeError", "all_reduce"),
    ),
    "weighted-reduce: forgets to await": (
        "weighted-reduce",
        {"await comm": "comm"},
        ("TypeError", "coroutine"),
    ),
}
