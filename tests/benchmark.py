"""What the script costs and what it gains, beside what one would write or use instead.

    python tests/benchmark.py            everything, in some minutes; draws figures/benchmark.pdf and .png
    python tests/benchmark.py --quick    shorter and rougher, in about a minute; draws nothing

Tables go to standard output as Markdown, progress to standard error. All of it runs on the CPU, with the number of
threads that the script uses. ELBO is in nats per image. JAX and optax are measured where they are installed.
"""

import argparse
import importlib.util
import inspect
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "pennkey_hw5_problem1.py"
CHUNK = 100  # updates between two looks at the clock
BATCH = 200  # where an update is compared with the floor
BATCH_SIZES, SAMPLE_COUNTS = (25, 50, 100, 200, 400, 800), (1, 2, 4, 8)
USUAL_BATCH, USUAL_RATE, USUAL_TIME = 100, 1e-3, 5  # the usual recipe, and how many times our seconds it may train
TARGETS = (-38, -37, -36, -35, -34.5)  # validation ELBO
# Linux counts the memory of who starts a process as that process's own: hence a small process between.
RUNNER = """import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"""


# ---- Helpers ------------------------------------------------------------------------------------


def import_script():
    """The script as a module, from its file."""
    spec = importlib.util.spec_from_file_location("hw5", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(title, header, rows, note=""):
    """A Markdown table; all columns but the first are numbers, on the right."""
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] + ["---:"] * (len(header) - 1), *rows)]
    return "\n".join([f"### {title}", "", *lines, ""] + ([note, ""] if note else []))


def tell(text):
    """Progress, where it does not mix with the tables."""
    print(text, file=sys.stderr, flush=True)


def measure(chunks, seconds):
    """Microseconds an update, an array over rounds, for every `chunks[name] = (run, updates)`.

    A round runs each of them once, so that a slow moment of the machine meets them all. The first only warms up.
    """
    times = {name: [] for name in chunks}
    for number in itertools.count():
        for name, (run, updates) in chunks.items():
            start = time.perf_counter()
            run(updates)
            times[name].append((time.perf_counter() - start) / updates * 1e6)
        if number == 0:
            end = time.perf_counter() + seconds
        elif time.perf_counter() >= end:
            return {name: np.array(values[1:]) for name, values in times.items()}


def machine(threads):
    """One line that names processor, versions and threads."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    processor = found[1] if found else platform.processor() or platform.machine()
    versions = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"Measured on {processor}, {os.cpu_count()} cores; {versions}; threads: {threads}.\n"


# ---- An update, and what else it could be: functions that do a number of them ---------------------


def floor(hw5):
    """The 11 matrix products of an update and nothing else; the images need no gradient, which would be the 12th."""
    encoder, decoder = [hw5.PIXELS, hw5.HIDDEN, 2 * hw5.LATENT], [hw5.LATENT, hw5.HIDDEN, hw5.PIXELS]
    products = []
    for rows, (inputs, hidden, outputs) in [(BATCH, encoder), (BATCH * hw5.SAMPLES, decoder)]:
        for a, b in [(inputs, hidden), (hidden, outputs)]:
            x, weight, gradient = torch.randn(rows, a), torch.randn(b, a), torch.randn(rows, b)
            products += [(x, weight.T), (gradient.T, x), (gradient, weight)]
    del products[2]
    products = [(left, right, left @ right) for left, right in products]

    def run(updates):
        for _ in range(updates):
            for left, right, product in products:
                torch.mm(left, right, out=product)

    return run


def this_program(hw5, data, settings):
    """The script's own train() on the real data: its set-up, logging and validation are part of the time."""

    def run(updates):
        log = hw5.train(hw5.VAE(), data, **{**settings, "updates": updates, "batch_size": BATCH})
        assert log.stopped is None

    return run


def usual_updates(model, batches):
    """The loop of most tutorials: decodes sample by sample, takes log after sigmoid, asks for both values at each step.

    It yields after every update.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=USUAL_RATE)
    history = []
    for x in batches:
        mean, log_variance = model.encode(x)
        deviation = torch.exp(0.5 * log_variance)
        reconstruction = 0.0
        for _ in range(2):
            y = model.decode(mean + deviation * torch.randn_like(deviation))
            reconstruction = reconstruction - F.binary_cross_entropy(y, x, reduction="sum") / len(x) / 2
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp()) / len(x)
        loss = kl - reconstruction
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((reconstruction.item(), kl.item()))
        yield


def batches_of_loader(hw5, data_dir, seed, size):
    """The same images from torchvision's MNIST, each transformed when it is asked for, through a DataLoader."""
    from torchvision import transforms
    from torchvision.datasets import MNIST

    steps = [transforms.ToTensor(), lambda image: image[:, ::2, ::2], lambda image: (image > 128 / 255).float().flatten()]
    with tempfile.TemporaryDirectory() as folder:  # MNIST leaves extracted files beside the packed ones
        raw = Path("MNIST", "raw")
        shutil.copytree(data_dir / raw, folder / raw, ignore=shutil.ignore_patterns("*-ubyte"))
        mnist = MNIST(folder, train=True, transform=transforms.Compose(steps), download=True)
    chosen = hw5.draw_balanced(mnist.targets.numpy(), hw5.TRAINING_PER_DIGIT, torch.Generator().manual_seed(seed))
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(mnist, chosen.tolist()), size, shuffle=True)
    while True:
        for x, _ in loader:
            yield x


def jitted_scan(hw5, images, threads):
    """The same objective as one jitted jax.lax.scan with optax's Adam; None where they are not installed."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("NPROC", str(threads))  # the size of XLA's pool of threads
    try:
        import jax
        import optax
    except ImportError:
        return None
    jnp, batches = jax.numpy, len(images) // BATCH
    images, optimizer = jnp.asarray(images.numpy()), optax.adam(USUAL_RATE)
    weights = [jnp.asarray(p.detach().numpy().T) for p in hw5.VAE().parameters()]  # weight, bias, weight, bias, ...

    def two_layers(x, weight1, bias1, weight2, bias2):
        return jnp.tanh(x @ weight1 + bias1) @ weight2 + bias2

    def loss(weights, x, key):
        mean, log_variance = jnp.split(two_layers(x, *weights[:4]), 2, axis=-1)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, (hw5.SAMPLES, *mean.shape))
        reconstruction = -optax.sigmoid_binary_cross_entropy(two_layers(z, *weights[4:]), x).sum(axis=-1).mean()
        kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(axis=-1).mean()
        return kl - reconstruction, (reconstruction, kl)

    def update(state, inputs):
        (weights, moments), (indices, key) = state, inputs
        gradient, terms = jax.grad(loss, has_aux=True)(weights, images[indices], key)
        changes, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(weights, changes), moments), terms

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(key, len(images))[: batches * BATCH].reshape(batches, BATCH)
        return jax.lax.scan(update, state, (order, jax.random.split(jax.random.fold_in(key, 1), batches)))

    state, keys = (weights, optimizer.init(weights)), map(jax.random.key, itertools.count())

    def run(updates):
        nonlocal state
        for key in itertools.islice(keys, updates // batches):
            state, _ = jax.block_until_ready(epoch(state, key))

    return run


# ---- The tables ---------------------------------------------------------------------------------


def cost_of_an_update(hw5, data, settings, data_dir, seconds, threads):
    """The script's update beside the floor and what one would write instead."""

    def usual(batches):
        loop = usual_updates(hw5.VAE(), batches)
        return lambda updates: [next(loop) for _ in range(updates)]

    scan = jitted_scan(hw5, data.training, threads)
    chunks = {
        "floor: the matrix products of forward and backward alone": (floor(hw5), CHUNK),
        "this program: `train()`, with logging and validation": (this_program(hw5, data, settings), CHUNK),
        **({"the same objective as one jitted `jax.lax.scan` an epoch, optax adam": (scan, CHUNK)} if scan else {}),
        "the usual in-memory PyTorch loop (two decodes, BCE on sigmoid, `.item()` every step)":
            (usual(hw5.minibatches(data.training, BATCH, None)), CHUNK),
        "the usual PyTorch loop over a DataLoader with transforms":
            (usual(batches_of_loader(hw5, data_dir, settings["seed"], BATCH)), CHUNK // 10),
    }
    tell("cost of an update")
    times = measure(chunks, seconds)
    base = next(iter(times.values()))
    rows = [[name, f"{np.median(values):.0f}", f"{np.median(values / base):.2f}"] for name, values in times.items()]
    note = f"Medians over rounds of {CHUNK} updates each (DataLoader: {CHUNK // 10}), ratios within a round; number of rounds: {len(base)}."
    note += f" JAX {sys.modules['jax'].__version__}." if scan else " JAX and optax are not installed: no row for them."
    return table(f"An update at batch {BATCH} and two samples", ["", "microseconds an update", "times the floor"], rows, note)


def cost_of_sizes(hw5, data, settings, seconds):
    """How the cost of an update grows with the batch and with the number of samples: train()'s statements alone."""

    def loop_of(batch_size, samples):
        model, generator = hw5.VAE(), torch.Generator().manual_seed(0)
        optimizer = hw5.Optimizer(model, settings["weight_decay"])
        batches = hw5.minibatches(data.training, batch_size, generator)

        def run(updates):
            terms = torch.empty(updates, 2)
            for row, x in zip(terms, batches):
                reconstruction, kl = hw5.elbo_terms(model, x, generator, samples)
                (kl - reconstruction).backward()
                optimizer.step(USUAL_RATE)
                row.copy_(torch.stack((reconstruction.detach(), kl.detach())))

        return run

    sizes = dict.fromkeys([(batch, hw5.SAMPLES) for batch in BATCH_SIZES] + [(BATCH, samples) for samples in SAMPLE_COUNTS])
    tell("cost of batch size and samples")
    times = measure({size: (loop_of(*size), CHUNK // 5) for size in sizes}, seconds)
    base = times[BATCH, hw5.SAMPLES]
    rows = [
        [f"{batch}", f"{samples}", f"{np.median(values):.0f}", f"{np.median(values / base):.2f}", f"{np.median(values) / batch:.2f}"]
        for (batch, samples), values in times.items()
    ]
    header = ["batch size", "samples", "microseconds an update", f"times that of {BATCH} and {hw5.SAMPLES}", "microseconds an image"]
    return table("An update of this program against batch size and samples", header, rows, f"Medians over rounds; number of rounds: {len(base)}.")


def whole_command(runs, updates, threads):
    """Seconds of each part of the script as a user runs it, and its peak memory; medians over some runs."""
    results, threads_used = [], []
    for number in range(runs):
        tell(f"the whole command, run {number + 1} of {runs}")
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(SCRIPT), "--device", "cpu", "--output-dir", folder, "--updates", str(updates)]
            command += ["--threads", str(threads)] if threads else []
            outside, peak = json.loads(subprocess.check_output([sys.executable, "-c", RUNNER, *command]))
            metrics = json.loads(Path(folder, "metrics.json").read_text())
        threads_used.append(str(metrics["machine"]["threads"]))
        results.append({**metrics["seconds"], "from start to exit, as a shell sees it": outside, "peak memory": peak})
    rows = [[part, f"{np.median([result[part] for result in results]):.2f} s"] for part in results[0]]
    memory = np.median([result["peak memory"] for result in results]) / (2**20 if sys.platform == "darwin" else 2**10)
    rows[-1] = ["peak memory", f"{memory:.0f} MiB"]
    note = f"Medians over runs; threads that each run took: {', '.join(threads_used)}."
    return table(f"The whole command, {updates} updates", ["", "time or size"], rows, note)


class Curve:
    """ELBO of a model against the seconds of its training; the clock stands still during an evaluation."""

    def __init__(self, hw5, data, seed, growth):
        torch.manual_seed(seed)
        self.hw5, self.data, self.seed, self.growth, self.model = hw5, data, seed, growth, hw5.VAE()
        self.points, self.next, self.start = [], 0.2, time.perf_counter()

    def __call__(self, update, last):
        """Add (seconds, update, ELBO on validation and on test images) where `growth` times as long as before has gone by."""
        stopped = time.perf_counter()
        seconds = stopped - self.start
        if seconds >= self.next or last:
            parts = [(self.data.validation, 64), (self.data.test, 4)]  # images, samples of z
            elbos = (self.hw5.evaluate(self.model, images, self.seed, samples)["elbo"] for images, samples in parts)
            self.points.append((seconds, update, *elbos))
            self.next = seconds * self.growth
            self.start += time.perf_counter() - stopped
        return seconds

    def reach(self, target):
        """Seconds until the validation ELBO is `target`, linear in log seconds between two points; None if it never is."""
        seconds, _, elbo, _ = np.array(self.points).T
        for i in np.flatnonzero(elbo >= target)[:1]:
            around = slice(max(0, i - 1), i + 1)
            return np.exp(np.interp(target, elbo[around], np.log(seconds[around])))


def time_to_reach(hw5, data, settings, growth, plot):
    """How soon this program and the usual recipe reach a validation ELBO, and where both end."""
    ours, usual = curves = [Curve(hw5, data, settings["seed"], growth) for _ in range(2)]
    tell("time to reach an ELBO: this program")
    ours.start = time.perf_counter()
    hw5.train(ours.model, data, **settings, progress=lambda update, *_: ours(update, last=update == settings["updates"]))
    tell("time to reach an ELBO: the usual recipe")
    limit = USUAL_TIME * ours.points[-1][0]
    usual.start = time.perf_counter()
    for update, _ in enumerate(usual_updates(usual.model, hw5.minibatches(data.training, USUAL_BATCH, None)), start=1):
        if usual(update, last=time.perf_counter() - usual.start >= limit) >= limit:
            break

    rows = []
    for target in TARGETS:
        reached = [curve.reach(target) for curve in curves]
        cells = [f"{at:.1f} s" if at else f"not in {curve.points[-1][0]:.1f} s" for at, curve in zip(reached, curves)]
        rows.append([f"{target:g}", *cells, f"{reached[1] / reached[0]:.1f}" if all(reached) else ""])
    header = ["validation ELBO", "this program", "usual recipe", "usual / this"]
    text = table("Seconds of training until a validation ELBO is reached", header, rows)
    rows = []
    for name, curve in zip(header[1:], curves):
        seconds, update, validation, test = curve.points[-1]
        rows.append([name, f"{update}", f"{seconds:.1f} s", f"{validation:.2f}", f"{test:.2f}"])
    note = (f"One training each. Usual recipe: the usual in-memory loop, Adam at {USUAL_RATE:g}, batch {USUAL_BATCH}. "
            "Neither imports nor data nor these evaluations are counted.")
    if plot:
        hw5.save_figure(ROOT / "figures" / "benchmark.pdf", lambda: draw_curves(hw5, ours, usual), png=True)
    return text + "\n" + table("Where both trainings end", ["", "updates", "training", "validation ELBO", "test ELBO"], rows, note)


def draw_curves(hw5, ours, usual):
    """A Figure of test ELBO against training seconds for both; its axis shows the tail."""
    figure = hw5.Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    usual_name = f"usual recipe: Adam, rate {USUAL_RATE:g}, batch {USUAL_BATCH}"
    for curve, style in [
        (ours, {"color": hw5.BLUE, "marker": "o", "label": "this program, default settings"}),
        (usual, {"color": hw5.ORANGE, "marker": "s", "linestyle": "--", "label": usual_name}),
    ]:
        seconds, _, _, elbo = np.array(curve.points).T
        axes.plot(seconds, elbo, markersize=4, **style)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="ELBO (nats per image)", ylim=(-45, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("ELBO on the 10,000 test images against training time")
    figure.legend(loc="outside lower center")
    return figure


def over_seeds(hw5, data_dir, settings, seeds):
    """ELBO of the default training for seeds 0, 1, ...: data, weights, batches and noise all change."""
    rows, elbos = [], []
    for seed in range(seeds):
        tell(f"seed {seed}, the last is {seeds - 1}")
        data = hw5.make_data(data_dir, seed)
        torch.manual_seed(seed)
        model, start = hw5.VAE(), time.perf_counter()
        hw5.train(model, data, **{**settings, "seed": seed})
        spent = time.perf_counter() - start
        elbos.append([hw5.evaluate(model, images, seed)["elbo"] for images in (data.validation, data.test)])
        rows.append([f"{seed}", *(f"{elbo:.3f}" for elbo in elbos[-1]), f"{spent:.1f} s"])
    rows.append(["mean", *(f"{mean:.3f}" for mean in np.mean(elbos, axis=0)), ""])
    if seeds > 1:
        rows.append(["standard deviation", *(f"{deviation:.3f}" for deviation in np.std(elbos, axis=0, ddof=1)), ""])
    note = f"{settings['updates']} updates each; every ELBO by {hw5.ELBO_SAMPLES} samples of z."
    return table("ELBO over seeds", ["seed", "validation ELBO", "test ELBO", "training"], rows, note)


# ---- Command line -------------------------------------------------------------------------------


def parse_options(arguments, updates):
    """The options of the command line; `updates` is the script's own default."""
    parser = argparse.ArgumentParser(description="Measure the script beside what one would use instead, and print tables.")
    add = parser.add_argument
    add("--quick", action="store_true", help="shorter and rougher: less time, fewer updates, no plot")
    add("--seconds", type=float, metavar="S", help="for the first table; the second takes half of it (default: 40, quick 8)")
    add("--updates", type=int, metavar="N", help=f"of every whole training (default: {updates}, quick 500)")
    add("--threads", type=int, default=0, metavar="N", help="for everything, JAX too (default: what the script chooses)")
    add("--seeds", type=int, default=0, metavar="N", help="also train with seeds 0 to N - 1 and print each ELBO (default: 0)")
    add("--no-plot", action="store_true", help="leave figures/benchmark.pdf and .png alone")
    add("--output", type=Path, metavar="FILE", help="write the tables to a file too")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (8 if options.quick else 40)
    options.updates = options.updates or (500 if options.quick else updates)
    return options


def main(arguments=None):
    """Measure part after part and print each table as it is there."""
    hw5 = import_script()
    defaults = hw5.parse_options([])
    options = parse_options(arguments, defaults.updates)
    quick, arguments_of_train = options.quick, inspect.signature(hw5.train).parameters
    settings = {name: value for name, value in vars(defaults).items() if name in arguments_of_train}
    settings["updates"] = options.updates
    threads = options.threads or defaults.threads
    torch.set_num_threads(threads)
    data = hw5.make_data(defaults.data_dir, defaults.seed)
    parts = [
        lambda: machine(threads),
        lambda: cost_of_an_update(hw5, data, settings, defaults.data_dir, options.seconds, threads),
        lambda: cost_of_sizes(hw5, data, settings, options.seconds / 2),
        lambda: whole_command(1 if quick else 2, options.updates, options.threads),
        lambda: time_to_reach(hw5, data, settings, 2 if quick else 1.25, not (quick or options.no_plot)),
        lambda: over_seeds(hw5, defaults.data_dir, settings, options.seeds),
    ]
    texts = []
    for part in parts if options.seeds else parts[:-1]:
        texts.append(part())
        print(texts[-1], flush=True)
    if options.output:
        hw5.save(options.output, "\n".join(texts).encode(), "--output")


if __name__ == "__main__":
    main()
