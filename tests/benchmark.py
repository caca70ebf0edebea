"""What the script costs and what it gains, beside what one would write or use instead.

`python tests/benchmark.py --seeds 5` takes some minutes. Tables go to standard output as Markdown, progress
to standard error. ELBO is in nats per image. Everything runs on the CPU in one thread.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pennkey_hw5_problem1 as hw5

os.environ.update(JAX_PLATFORMS="cpu", NPROC="1")  # NPROC is the size of XLA's pool of threads
try:
    import jax
    import optax
except ImportError:
    jax = None

BATCH = 200  # where an update is compared with the floor
USUAL_BATCH, USUAL_RATE = 100, 1e-3  # the usual recipe, with Adam

IMPORTS = """import runpy, sys, time
start = time.perf_counter()
torch = runpy.run_path(sys.argv[1])["torch"]
imported = time.perf_counter()
torch.optim.AdamW([torch.zeros(1)])
print(imported - start, time.perf_counter() - imported)"""
# Linux counts the memory of who starts a process as that process's own: hence a small process between.
RUN = """import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def print_table(title, note, header, *rows):
    """A Markdown table; all columns but the first are numbers, on the right."""
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] + ["---:"] * (len(header) - 1), *rows)]
    print("\n".join([f"### {title}", "", *lines, "", note, ""]), flush=True)


def floor():
    """The 11 matrix products of an update and nothing else; yields after every update, without end."""
    p, h, z, b, s = hw5.PIXELS, hw5.HIDDEN, hw5.LATENT, BATCH, BATCH * hw5.SAMPLES
    products = []
    for rows, inputs, outputs in [(b, p, h), (b, h, 2 * z), (s, z, h), (s, h, p)]:
        x, weight, gradient = map(torch.randn, [(rows, inputs), (outputs, inputs), (rows, outputs)])
        products += [(x, weight.T), (gradient.T, x), (gradient, weight)]
    del products[2]  # the images need no gradient
    products = [(left, right, left @ right) for left, right in products]
    while True:
        for left, right, product in products:
            torch.mm(left, right, out=product)
        yield


def jitted_scan(images):
    """The objective of the script as one jitted jax.lax.scan; yields after every epoch, without end."""
    jnp, optimizer = jax.numpy, optax.adam(USUAL_RATE)
    images = jnp.asarray(images.numpy())
    weights = [jnp.asarray(weight.detach().numpy().T) for weight in hw5.VAE().parameters()]

    def minus_elbo(weights, x, key):
        w1, b1, w2, b2, w3, b3, w4, b4 = weights
        mean, log_variance = jnp.split(jnp.tanh(x @ w1 + b1) @ w2 + b2, 2, axis=-1)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, (hw5.SAMPLES, *mean.shape))
        logits = jnp.tanh(z @ w3 + b3) @ w4 + b4
        reconstruction = jax.nn.log_sigmoid((2 * x - 1) * logits).sum(axis=-1).mean()
        kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(axis=-1).mean()
        return kl - reconstruction, (reconstruction, kl)

    def update(state, inputs):
        (weights, moments), (indices, key) = state, inputs
        gradient, terms = jax.grad(minus_elbo, has_aux=True)(weights, images[indices], key)
        changes, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(weights, changes), moments), terms

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(key, len(images)).reshape(-1, BATCH)
        return jax.lax.scan(update, state, (order, jax.random.split(jax.random.fold_in(key, 1), len(order))))

    state = (weights, optimizer.init(weights))
    for number in range(sys.maxsize):
        state, _ = jax.block_until_ready(epoch(state, jax.random.key(number)))
        yield


def usual_updates(model, batches):
    """The loop of most tutorials, without validation; yields the number of every update."""
    optimizer, history = torch.optim.Adam(model.parameters(), lr=USUAL_RATE), []
    for update, x in enumerate(batches, start=1):
        mean, log_variance = model.encode(x)
        reconstruction = 0.0
        for _ in range(2):
            y = model.decode(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
            reconstruction -= torch.nn.functional.binary_cross_entropy(y, x, reduction="sum") / len(x) / 2
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp()) / len(x)
        optimizer.zero_grad()
        (kl - reconstruction).backward()
        optimizer.step()
        history.append((reconstruction.item(), kl.item()))
        yield update


def batches_of_loader(data_dir):
    """As many images of MNIST, each transformed as its torchvision class does, by a DataLoader."""
    binarize = transforms.Lambda(lambda image: (image[:, ::2, ::2] > 128 / 255).float().flatten())
    steps = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor(), binarize])
    images = hw5.read_idx(data_dir, "train-images-idx3-ubyte.gz")[: 10 * hw5.TRAINING_PER_DIGIT]
    collate = transforms.Lambda(lambda raw: torch.stack([steps(image) for image in raw]))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, collate_fn=collate)
    while True:
        yield from loader


def measure(trainings, rounds):
    """Microseconds an update, by round, of each `trainings[name] = (generator, steps, updates a step)`."""
    times = {name: [] for name in trainings}
    for _ in range(1 + rounds):  # of all, so that a slow moment meets them all; the first only sets up
        for name, (training, steps, updates) in trainings.items():
            start = time.perf_counter()
            for _ in range(steps):
                next(training)
            times[name].append((time.perf_counter() - start) / (steps * updates) * 1e6)
    return {name: np.array(values[1:]) for name, values in times.items()}


def cost_of_an_update(rounds):
    """Question 1: an update of the script beside the floor and what one would write instead."""
    settings = hw5.parse_options(["--device", "cpu", "--batch-size", str(BATCH)])
    data = hw5.make_data(settings.data_dir, settings.seed)
    this_program = hw5.train(hw5.VAE(), data, torch.empty(100 * (1 + rounds), 3), settings)
    in_memory = usual_updates(hw5.VAE(), hw5.minibatches(data.training, BATCH, None))
    over_loader = usual_updates(hw5.VAE(), batches_of_loader(settings.data_dir))
    trainings = {
        "floor: the matrix products of forward and backward alone, in PyTorch": (floor(), 100, 1),
        "this program: `train()`, with logging and validation": (this_program, 1, hw5.VALIDATION_EVERY),
        "the same objective as one jitted `jax.lax.scan` an epoch": (jitted_scan(data.training), 2, 50),
        "usual loop in memory (two decodes, BCE on sigmoid, `.item()` each step)": (in_memory, 100, 1),
        "usual loop over a DataLoader with transforms": (over_loader, 10, 1),
    }
    trainings = {name: training for name, training in trainings.items() if jax or "jax" not in name}
    times = measure(trainings, rounds)
    base = next(iter(times.values()))
    rows = [[name, f"{np.median(t):.0f}", f"{np.median(t / base):.2f}"] for name, t in times.items()]
    note = f"Medians over {rounds} rounds that alternate them; ratios within a round. JAX has optax's Adam."
    print_table(f"An update at batch {BATCH}, two samples", note, ["", "microseconds", "times floor"], *rows)


def whole_command(runs, updates, training):
    """Question 2: seconds of the script as a user runs it, their parts, and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        script = [hw5.__file__, "--device", "cpu", "--updates", str(updates), "--output-dir", folder]
        commands = [[IMPORTS, hw5.__file__], [RUN, sys.executable, *script]] * runs
        outputs = [subprocess.check_output([sys.executable, "-c", *command]) for command in commands]
    results = np.array([output.split() for output in outputs], float).reshape(runs, 4)
    imports, optimizer, whole, memory = np.median(results, axis=0)
    rows = [
        ["imports", f"{imports:.2f} s"],
        ["first use of `torch.optim`, which imports `torch._dynamo`", f"{optimizer:.2f} s"],
        ["training", f"{training:.2f} s"],
        ["the rest: data, results, figures, files", f"{whole - imports - optimizer - training:.2f} s"],
        ["**all of it**, as a shell sees it", f"{whole:.2f} s"],
        ["peak memory", f"{memory / (2**20 if sys.platform == 'darwin' else 2**10):.0f} MiB"],
    ]
    note = f"Medians over {runs} runs; training is measured apart, by `train()` with its validation."
    print_table(f"The whole command, {updates} updates", note, ["", "time or size"], *rows)


def follow(seed, updates, usual_seconds=None):
    """Points (seconds, update, validation ELBO, test ELBO) of the script's training or the usual recipe's."""
    print(f"{'usual recipe' if usual_seconds else 'this program'}, seed {seed}", file=sys.stderr)
    settings = hw5.parse_options(["--device", "cpu", "--updates", str(updates), "--seed", str(seed)])
    data = hw5.make_data(settings.data_dir, seed)
    torch.manual_seed(seed)
    model = hw5.VAE()
    training = hw5.train(model, data, torch.empty(updates, 3), settings)
    if usual_seconds:
        training = usual_updates(model, hw5.minibatches(data.training, USUAL_BATCH, None))
    points, due, done, start = [], 0.5, False, time.perf_counter()
    while not done:
        update = next(training)
        seconds = time.perf_counter() - start
        done = seconds >= usual_seconds if usual_seconds else update == updates
        if done or seconds >= due:
            elbos = [hw5.evaluate(model, images, seed)["elbo"] for images in (data.validation, data.test)]
            points.append((seconds, update, *elbos))
            due, start = 1.25 * seconds, time.perf_counter() - seconds  # the clock stood still
    return np.array(points)


def time_to_reach(ours, usual):
    """Question 3: the seconds of both until a validation ELBO, linear between points, and where both end."""
    rows = []
    for target in (-38, -37, -36, -35, -34.7):
        at = [np.interp(target, np.maximum.accumulate(p[:, 2]), p[:, 0], right=np.nan) for p in (ours, usual)]
        rows.append([f"seconds to {target:g}", *("not reached" if np.isnan(t) else f"{t:.1f}" for t in at)])
    for column, name in enumerate(["seconds", "updates", "validation ELBO", "test ELBO"]):
        rows.append([f"at the end: {name}", *(f"{points[-1, column]:.5g}" for points in (ours, usual))])
    note = f"Training alone. Usual recipe: the loop in memory, Adam {USUAL_RATE:g}, batch {USUAL_BATCH}."
    print_table("How soon a validation ELBO is reached", note, ["", "this program", "usual recipe"], *rows)


def draw(ours, usual):
    """Test ELBO against training seconds for both, into figures/; the axis leaves out the steep start."""
    figures = Path(hw5.__file__).with_name("figures")
    with hw5.matplotlib.style.context(["default", hw5.STYLE]):
        axes = hw5.Figure(figsize=(4.8, 3.6)).subplots()
        axes.semilogx(*ours[:, [0, 3]].T, "o-", color=hw5.BLUE, markersize=4, label="this program")
        axes.semilogx(*usual[:, [0, 3]].T, "s--", color=hw5.ORANGE, markersize=4, label="usual recipe")
        axes.set(xlabel="seconds of training", ylabel="test ELBO (nats per image)", ylim=(-42, None))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(loc="lower right")
        axes.figure.savefig(figures / "benchmark.pdf", metadata={"CreationDate": None})
        axes.figure.savefig(figures / "benchmark.png", dpi=200)


def main():
    """Measure part after part and print each table as it is there."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add, updates = parser.add_argument, hw5.parse_options([]).updates
    add("--rounds", type=int, default=50, metavar="N", help="for the cost of an update")
    add("--runs", type=int, default=3, metavar="N", help="of the whole command")
    add("--updates", type=int, default=updates, metavar="N", help="of a training, in whole hundreds")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of this program, with seeds 0 to N - 1")
    add("--no-plot", action="store_true", help="leave figures/benchmark.pdf and .png alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    names = [*re.findall(r"model name\s*: (.+)", cpu), os.uname().machine]
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, "
    versions += f"JAX {jax.__version__}" if jax else "JAX or optax not installed: no row of it"
    print(f"{names[0]}, {os.cpu_count()} cores; {versions}; 1 thread.\n", flush=True)
    cost_of_an_update(options.rounds)  # first: it imports what train() needs
    curves = [follow(seed, options.updates) for seed in range(options.seeds)]
    usual = follow(0, options.updates, 4 * curves[0][-1, 0])  # it may train four times as long
    whole_command(options.runs, options.updates, np.median([points[-1, 0] for points in curves]))
    time_to_reach(curves[0], usual)
    if not options.no_plot:
        draw(curves[0], usual)
    if options.seeds > 1:
        elbos = [points[-1, 3] for points in curves]
        row = [f"{elbo:.2f}" for elbo in (*elbos, np.mean(elbos), np.std(elbos, ddof=1))]
        header = ["seed", *map(str, range(options.seeds)), "mean", "standard deviation"]
        print_table("ELBO over seeds", "10,000 test images; data by seed.", header, ["test ELBO", *row])


if __name__ == "__main__":
    main()
