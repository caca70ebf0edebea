"""Measure the causes that the write-up names, at the script's defaults; writes experiments.json beside it.

Its quantities are [least, most] of seeds 0 to 4, in nats per image; a "control" was made to refute a cause.
"""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pennkey_hw5_problem1 as hw5

DATA = Path(hw5.__file__).with_name("data")
SETTINGS = {name.replace("-", "_"): default for name, (default, _) in hw5.OPTIONS.items() if name != "seed"}
SLOW, MEAN = {"learning_rate": SETTINGS["learning_rate"] / 4}, {"order": slice(None)}


def run(seed, watch=lambda *_: None, stop=10**9, order=None, units=None, tuned=None, images=None, **changes):
    """What `main` does with `seed`, with `watch` before each update, an end after `stop` of them, changes."""
    torch.manual_seed(seed)
    training, validation, test = hw5.make_data(DATA)
    model, images = hw5.VAE(), training if images is None else images
    if units:
        model.decoder = nn.Sequential(nn.Linear(hw5.LATENT, units), nn.Tanh(), nn.Linear(units, hw5.PIXELS))
    if order is not None:  # of the mean image's pixels
        model.decoder[2].bias.data = torch.logit(training.mean(dim=0)[order], eps=1e-3)
    if tuned:  # its encoder alone is trained on
        model.load_state_dict(tuned.state_dict())
        model.decoder.requires_grad_(False)
    batches = zip(range(stop), hw5.mini_batches(images, SETTINGS["batch_size"]))
    watched = (watch(model, training) or x for _, x in batches)
    with mock.patch.object(hw5, "mini_batches", return_value=watched), mock.patch("builtins.print"):
        log = hw5.train(model, images, validation, test, **SETTINGS | changes)
    elbo, test_elbo = (hw5.evaluate(model.requires_grad_(False), x, 4)["elbo"] for x in (training, test))
    idle = (model.decoder[:2](model.encoder(training)[:, : hw5.LATENT]).std(dim=0) < 0.05).sum().item()
    z = hw5.reparameterize(*model.encoder(test).chunk(2, dim=1), prior := torch.randn(len(test), hw5.LATENT))
    y = torch.sigmoid(model.decoder(torch.stack((z, prior))))
    grey, prior_grey = (torch.special.entr(y) + torch.special.entr(1 - y)).sum(dim=2).mean(dim=1).tolist()
    found = {"elbo": elbo, "test": test_elbo, "idle": idle, "grey": grey, "prior_grey": prior_grey}
    return SimpleNamespace(sets=(training, test), model=model, log=log, gap=elbo - test_elbo, **found)


def first_peak(seed, stop=100, **changes):
    """Highest mean KL of the training images in the first updates, highest shift in it, and last shift."""
    seen = []

    def watch(model, training):
        mean, log_variance = model.encoder(training).detach().chunk(2, dim=1)
        kl, shift = hw5.gaussian_kl(mean, log_variance).mean(), (mean.mean(dim=0) ** 2).sum() / 2
        seen.append((kl.item(), shift.item()))

    run(seed, watch, stop, **changes)
    return *(max(values) for values in zip(*seen)), seen[-1][1]


def optimize_q(model, images):
    """What the ELBO of 1,000 images loses by the encoder, against a q for each image, and by q's Gaussian."""
    images = images.unflatten(0, (10, -1))[:, :100].flatten(0, 1)
    q = nn.Parameter(model.encoder(images))
    free, optimizer = SimpleNamespace(encoder=lambda _: q, decoder=model.decoder), torch.optim.Adam([q], 0.01)
    for _ in range(400):  # 800, or other rates, give the same
        reconstruction, kl = hw5.elbo_terms(free, images, 16)
        (q.grad,) = torch.autograd.grad((kl - reconstruction).sum(), q)
        optimizer.step()
    (mean, log_variance), ratios = q.detach().chunk(2, dim=1), []
    for epsilon in torch.randn(20, 50, *mean.shape):
        z = hw5.reparameterize(mean, log_variance, epsilon)
        ratio = (epsilon**2 + log_variance - z**2).sum(dim=-1) / 2  # log p(z) / q(z)
        ratios.append(ratio + hw5.bernoulli_log_likelihood(images, model.decoder(z)))
    elbo, log_p = torch.cat(ratios).mean(), torch.logsumexp(torch.cat(ratios), dim=0).mean() - math.log(1000)
    return elbo.item() - hw5.evaluate(model, images, 100)["elbo"], (log_p - elbo).item()


def mixture(y, training, test, steps=0):
    """Mean log p(x) of the test images by a Bernoulli mixture: y (k, 196) after `steps` of EM."""
    share = torch.full((len(y),), 1 / len(y))
    for images in (*[training] * steps, test):
        joint = images @ torch.logit(y).T + torch.log1p(-y).sum(dim=1) + share.log()
        total = (responsible := torch.softmax(joint, dim=1)).sum(dim=0)
        y, share = (responsible.T @ images + 0.1) / (total[:, None] + 0.2), (total + 1) / (total + 1).sum()
    return torch.logsumexp(joint, dim=1).mean().item()


def measure(seed):
    """Every quantity of a seed, by name; "start" is that at the mean image."""
    base, long = run(seed), 2 * SETTINGS["updates"]
    (training, test), model, log = base.sets, base.model, base.log
    found = {name: getattr(base, name) for name in ("elbo", "test", "gap", "idle", "grey", "prior_grey")}
    longer, held = run(seed, updates=long), run(seed, updates=long, stop=long // 2)
    found.update(longer=longer.elbo - base.elbo, longer_test=longer.test - base.test, held=held.elbo)
    rise, ahead = log[-100:].mean(axis=0) - log[200:300].mean(axis=0), (log[:, 2] - log[:, 3])[499::100]
    early_gap = log[250:750, 0].mean() - log[299:700:100, 3].mean()
    found.update(rise=rise[0], kl_rise=rise[1], ahead=ahead[-1], swing=ahead.std(), early_gap=early_gap)
    found.update(zip(("peak_kl", "peak_shift", "later_shift"), first_peak(seed)))
    found["start_shift"] = first_peak(seed, **MEAN)[1]
    found["shuffled_shift"] = first_peak(seed, order=torch.randperm(hw5.PIXELS))[1]  # control
    found["usual_shift"] = first_peak(seed, 200, learning_rate=0.001)[1]  # control: Adam's usual rate
    start, slow_start = run(seed, **MEAN), run(seed, **MEAN, **SLOW)
    found.update(start_idle=start.idle, slow_idle=slow_start.idle, start_loss=base.elbo - start.elbo)
    found["fewer_loss"] = base.elbo - run(seed, units=hw5.HIDDEN - start.idle).elbo  # control: the idle ones
    found["slow_gain"] = slow_start.elbo - run(seed, **SLOW).elbo
    torch.manual_seed(seed)  # so the training images come first, then four times as many others
    others = hw5.draw_balanced(hw5.MNIST(DATA), 5 * hw5.TRAINING_PER_DIGIT)[:, hw5.TRAINING_PER_DIGIT :]
    found["others_gap"] = run(seed, tuned=model, images=others.flatten(0, 1), **SLOW).gap
    found["same_gap"] = run(seed, tuned=model, **SLOW).gap  # control: as many updates more
    (lost, gauss), (test_lost, test_gauss) = (optimize_q(model, images) for images in (training, test))
    found.update(lost=lost, test_lost=test_lost, encoder=test_lost - lost, rest=base.gap - test_lost + lost)
    found.update(gauss=gauss, test_gauss=test_gauss, log_p=base.test + test_lost + test_gauss)
    y = training.view(10, -1, hw5.PIXELS).mean(dim=1).clamp(1e-3, 1 - 1e-3)
    found["pixels"], found["classes"] = (mixture(y, training, test) for y in (y.mean(dim=0, keepdim=True), y))
    found["em"] = mixture(0.25 + training[torch.randperm(len(training))[:100]] / 2, training, test, 80)
    for name, images in (("", training), ("test_", test)):
        differ = images.sum(dim=1)[:, None] + training.sum(dim=1) - 2 * images @ training.T  # pixels
        nearest = (differ.fill_diagonal_(math.inf) if images is training else differ).min(dim=1).values
        reconstruction = hw5.elbo_terms(model, images, 4)[0]
        inverse = torch.corrcoef(torch.stack((reconstruction, nearest, images.sum(dim=1)))).inverse()
        found[f"{name}partial"] = -(inverse[0, 1] / (inverse[0, 0] * inverse[1, 1]).sqrt()).item()  # for ink
        for end, chosen in (("near", nearest < 6), ("far", nearest > 13)):
            found[name + end] = reconstruction[chosen].mean().item()
    found["units_grey"] = run(seed, units=4 * hw5.HIDDEN).grey
    with mock.patch.object(hw5, "LATENT", 2 * hw5.LATENT):
        return found | {"latent_grey": run(seed).grey}


if __name__ == "__main__":
    torch.set_num_threads(1)
    seeds = [print(seed, found := measure(seed), flush=True) or found for seed in range(5)]
    logits = torch.tensor((-28.0, -32.0), requires_grad=True)
    nn.functional.binary_cross_entropy(torch.sigmoid(logits), torch.ones(2), reduction="sum").backward()
    made = {"settings": SETTINGS, "torch": torch.__version__, "gradient": logits.grad.tolist()}
    made["constants"] = {name: value for name, value in vars(hw5).items() if type(value) is int}
    for name in seeds[0]:
        made[name] = [round(float(end(found[name] for found in seeds)), 5) for end in (min, max)]
    Path(__file__).with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
