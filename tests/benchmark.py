"""What the script costs and reaches, beside other ways: one thread, nats per image, JAX if installed."""

import contextlib
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pennkey_hw5_problem1 as hw5

os.environ.update(JAX_PLATFORMS="cpu", NPROC="1")  # NPROC is the size of XLA's pool of threads
LIBRARIES = [name for name in ("torch", "numpy", "jax", "optax") if util.find_spec(name)]
DATA = Path(hw5.__file__).with_name("data")
UPDATES, BATCH, RATE, _ = (default for default, _ in hw5.OPTIONS.values())


def matrix_products():
    """The factors of the 11 matrix products of an update: of each layer forward, for weights, for inputs."""
    b, s, p, h, z = BATCH, BATCH * hw5.SAMPLES, hw5.PIXELS, hw5.HIDDEN, hw5.LATENT
    for rows, inputs, outputs in [(b, p, h), (b, h, 2 * z), (s, z, h), (s, h, p)]:
        x, weight, gradient = map(torch.randn, [(rows, inputs), (outputs, inputs), (rows, outputs)])
        yield from [(x, weight.T), (gradient.T, x), (gradient, weight)][: 2 if inputs == p else 3]


def usual_loop(batches):
    """The loop of most tutorials, without validation: two decodes, BCE of the sigmoid, a look at the loss."""
    model = hw5.VAE()
    optimizer = torch.optim.Adam(model.parameters())
    for x in batches:
        mean, log_variance = model.encoder(x).chunk(2, dim=-1)
        z = [mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) for _ in range(2)]
        losses = [
            binary_cross_entropy(torch.sigmoid(model.decoder(sample)), x, reduction="sum") for sample in z
        ]
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss = (sum(losses) / 2 + kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()


def batches_of_loader():
    """As many images of MNIST, twice, by a DataLoader with transforms."""
    binarize = transforms.Lambda(lambda image: (image[:, ::2, ::2] > 128 / 255).float().flatten())
    mnist = hw5.MNIST(DATA, transform=transforms.Compose([transforms.ToTensor(), binarize]))
    loader = DataLoader(Subset(mnist, range(10_000)), BATCH, shuffle=True)
    return (x for x, _ in itertools.chain(loader, loader))


def jitted_scan(images):
    """A function that makes 100 updates of the same objective in one jitted jax.lax.scan."""
    import jax
    import optax

    jnp, optimizer, images = jax.numpy, optax.adam(RATE), jax.numpy.asarray(images.numpy())
    weights = [jnp.asarray(weight.detach().numpy().T) for weight in hw5.VAE().parameters()]

    def loss(weights, x, key):
        w1, b1, w2, b2, w3, b3, w4, b4 = weights
        mean, log_variance = jnp.split(jnp.tanh(x @ w1 + b1) @ w2 + b2, 2, axis=-1)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, (hw5.SAMPLES, *mean.shape))
        logits = jnp.tanh(z @ w3 + b3) @ w4 + b4
        kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(axis=-1).mean()
        return kl - jax.nn.log_sigmoid((2 * x - 1) * logits).sum(axis=-1).mean()

    def update(state, key):
        x = images[jax.random.randint(key, (BATCH,), 0, len(images))]
        value, gradient = jax.value_and_grad(loss)(state[0], x, jax.random.fold_in(key, 1))
        changes, moments = optimizer.update(gradient, state[1])
        return (optax.apply_updates(state[0], changes), moments), value

    scan, keys = jax.jit(lambda *state_and_keys: jax.lax.scan(update, *state_and_keys)), jax.random.key(0)
    return lambda: jax.block_until_ready(
        scan((weights, optimizer.init(weights)), jax.random.split(keys, 100))
    )


def measure_updates(training, validation, test, rounds):
    """Print microseconds an update of each way, medians over rounds of 100 updates that alternate them."""
    products = 100 * [(a, b, a @ b) for a, b in matrix_products()]
    batches = (training[torch.randint(10_000, (BATCH,))] for _ in itertools.count())
    ways = {
        "floor: its matrix products alone": lambda: [torch.mm(a, b, out=c) for a, b, c in products],
        "this program, with log and validation": lambda: hw5.train(
            hw5.VAE(), training, validation, test[::6], 100, BATCH, RATE
        ),
        "usual loop in memory": lambda: usual_loop(itertools.islice(batches, 100)),
        "usual loop over a DataLoader with transforms": lambda: usual_loop(batches_of_loader()),
    }
    with contextlib.suppress(ImportError):
        ways["the same objective as one jitted `jax.lax.scan`"] = jitted_scan(training)
    times = np.empty((1 + rounds, len(ways)))  # the first round only sets up
    for row, (column, way) in itertools.product(times, enumerate(ways.values())):
        start = time.perf_counter()
        with contextlib.redirect_stdout(None):  # progress
            way()
        row[column] = (time.perf_counter() - start) * 1e4  # microseconds, each of 100
    print(f"| an update of {BATCH} images, two samples | microseconds | times floor |\n| --- | ---: | ---: |")
    for row in zip(ways, np.median(times[1:], axis=0), np.median(times[1:] / times[1:, :1], axis=0)):
        print("| {} | {:.0f} | {:.2f} |".format(*row))
    print(f"\nMedians over {rounds} rounds that alternate them; ratios within a round.\n", flush=True)


def measure_command(seeds, updates):
    """Print seconds of the whole command, timed from outside, and the ELBO that it reaches, by seed."""
    print(f"| {updates} updates, seed | seconds | training ELBO | test ELBO |\n| --- | ---: | ---: | ---: |")
    rows = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            options = f"--seed={seed} --updates={updates} --device=cpu --output-dir={folder}".split()
            start = time.perf_counter()
            subprocess.run([sys.executable, hw5.__file__, *options], check=True, capture_output=True)
            seconds = time.perf_counter() - start
            results = json.loads(Path(folder, "metrics.json").read_text())["results"]
            rows.append([seconds, results["training"]["elbo"], results["test"]["elbo"]])
    for seed, row in [*enumerate(rows), ("mean", np.mean(rows, axis=0))]:
        print("| {} | {:.1f} | {:.2f} | {:.2f} |".format(seed, *row))


if __name__ == "__main__":
    torch.set_num_threads(1)
    info = Path("/proc/cpuinfo")  # on Linux
    names = re.findall(r"model name\s*: (.*)", info.read_text() if info.exists() else "") or [
        platform.machine()
    ]
    print(
        f"{names[0]} ({torch.backends.cpu.get_cpu_capability()}), one thread, Python {sys.version.split()[0]}"
    )
    print(
        *(f"{each.name} {each.version}" for each in map(metadata.distribution, LIBRARIES)),
        sep=", ",
        end="\n\n",
    )
    measure_updates(*hw5.make_data(DATA), rounds=40)
    measure_command(seeds=5, updates=UPDATES)
