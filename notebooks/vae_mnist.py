# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Variational auto-encoders where they can be seen
#
# Techloop learns to play techno with two variational auto-encoders: an *audio VAE*, and a *latent VAE*
# on top of it. This notebook applies their objectives to images of 28 × 28 pixels, where one look
# shows what takes long listening there: how the two terms trade off, what a regulariser does to the
# latent space, how a posterior collapses, and what lies between two points. The KL, the maximum mean
# discrepancy, the Gaussian likelihood and the Fréchet distance are
# [techloop's own functions](../techloop/training/losses.py), so what you learn here holds there.
#
# *Run it* with `make notebook` (under 15 minutes on two cores), or cell by cell in Jupyter.
# `TECHLOOP_QUICK=1` is a rehearsal of under a minute: every cell runs, but the numbers mean nothing.
# `TECHLOOP_IMAGES` names a folder of your own with `mnist/` and `fashion-mnist/`.

# %%
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from images import load_images, spread
from IPython.display import Markdown, display
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from techloop.evaluation.metrics.frechet import PrincipalComponents, frechet_distance
from techloop.instrument import interpolate, interpolate_spherically
from techloop.models.sampling import sample
from techloop.training.losses import active_units, gaussian_kl, gaussian_nll, mmd, rate

QUICK = bool(os.environ.get("TECHLOOP_QUICK"))
SEEDS = (0,) if QUICK else (0, 1, 2)
SEEN = 1_280 if QUICK else 64_000  # images per training, whatever the size of its data set
TESTED = 100 if QUICK else 2_000  # test images, at most
BATCH = 32
LATENT_DIM = 16

plt.rcParams |= {"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False}
pd.options.display.float_format = "{:.1f}".format

# %% [markdown]
# ## 0. The images
#
# Two data sets of ten classes in one format: handwritten digits, and pieces of clothing, made as a
# harder replacement of the digits. Both are cut to the size of the smaller one, so that differences
# come from the images and not from their number.

# %%
loaded, folder = {}, os.environ.get("TECHLOOP_IMAGES", "")
loaded["mnist"] = load_images("mnist", folder, download=not QUICK)
try:
    loaded["fashion-mnist"] = load_images("fashion-mnist", folder, download=not QUICK)
except FileNotFoundError as error:
    display(Markdown(f"**Fashion-MNIST is left out, and with it section 4.** {error}"))

fewest = min(len(x.train) for x in loaded.values())
fewest_test = min(TESTED, *(len(x.test) for x in loaded.values()))
data = {
    name: x.spread(train=fewest, test=fewest_test)  # evenly over all of them
    for name, x in loaded.items()
}
pd.DataFrame(
    {
        name: {
            "from": x.source,
            "images": len(x.train) + len(x.test),
            "used to train": fewest,
            "used to test": fewest_test,
        }
        for name, x in loaded.items()
    }
).T


# %%
def show(rows: dict[str, Tensor], title: str = "", size: float = 0.6) -> None:
    """Draw rows of images, each with a label at its left."""
    across = max(len(row) for row in rows.values())
    shape = (size * across + 1.6, size * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), 1, figsize=shape, squeeze=False)
    for ax, (label, row) in zip(axes[:, 0], rows.items(), strict=True):
        ax.imshow(row.squeeze(1).permute(1, 0, 2).flatten(1), cmap="gray_r", vmin=0, vmax=1)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.suptitle(title)
    figure.tight_layout(pad=0.3)
    plt.show()


def first_of_classes(x: Tensor, labels: Tensor, classes: range) -> Tensor:
    """The first image of each of these classes; a class without images is left out."""
    return x[[int((labels == c).nonzero()[0]) for c in classes if (labels == c).any()]]


show({name: first_of_classes(x.train, x.train_labels, range(10)) for name, x in data.items()})

# %% [markdown]
# ## 1. From the formula up
#
# We want a model in which a code $z$, drawn from a prior $p(z) = N(0, I)$, explains an image $x$. The
# likelihood $p(x) = \int p(x \mid z)\, p(z)\, dz$ cannot be computed, but any distribution
# $q(z \mid x)$ gives a lower bound of it:
#
# $$\log p(x) \;\ge\; \underbrace{E_{q(z \mid x)} \log p(x \mid z)}_{-\,\text{distortion}}
# \;-\; \underbrace{KL\big(q(z \mid x) \,\|\, p(z)\big)}_{\text{rate}} .$$
#
# Both terms are in *nats*. The **rate** is what it costs to send the code, the **distortion** what
# it costs to send the image once the code is there. Their sum is the length of a message, and the
# negative of this evidence lower bound (ELBO). All that follows is about the trade between the two.
#
# An encoder gives the mean $\mu$ and deviation $\sigma$ of $q(z \mid x)$, a decoder the parameters
# of $p(x \mid z)$. For Gaussians the rate has a closed form, for each dimension
#
# $$KL = \tfrac12 (\mu^2 + \sigma^2 - 1) - \log \sigma .$$
#
# This is `gaussian_kl`, here and in techloop. A mean over draws of $q$ must converge to it:

# %%
mu, sigma = torch.tensor([1.0], requires_grad=True), torch.tensor([0.5], requires_grad=True)
z = sample(mu.expand(10_000), sigma.expand(10_000), Generator().manual_seed(0))
log_q = torch.distributions.Normal(mu, sigma).log_prob(z)
log_p = torch.distributions.Normal(0, 1).log_prob(z)
closed = gaussian_kl(mu.view(1, 1, 1), sigma.view(1, 1, 1)).item()
draws = torch.arange(1, len(z) + 1)

figure, ax = plt.subplots(figsize=(6, 2.4))
running = ((log_q - log_p).cumsum(0) / draws).detach()
ax.semilogx(draws, running, label="mean of log q(z) − log p(z) over draws")
ax.axhline(closed, color="k", ls=":", label=f"closed form: {closed:.3f}")
ax.set(xlabel="draws", ylabel="nats", title="The rate of q = N(1, 0.5²)")
ax.legend()
plt.show()

# %% [markdown]
# To learn, a gradient must pass through a draw. It does if the draw is written as
# $z = \mu + \sigma\,\varepsilon$ with $\varepsilon \sim N(0, I)$ (`sample`, the *reparametrisation*).
# For example, the gradient of $E\,z^2 = \mu^2 + \sigma^2$ is $2\mu$ and $2\sigma$, here 2 and 1.

# %%
z.square().mean().backward()
mu.grad.item(), sigma.grad.item()


# %% [markdown]
# The model itself is short. Codes have the shape `(images, dimensions, 1)`: in techloop the last
# axis is time, which has one step here.


# %%
class VAE(nn.Module):
    """An encoder to means and log deviations, and a decoder to logits of pixels."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the codes `(b, d, 1)`."""
        mu, log_sigma = self.encoder(x).unsqueeze(2).chunk(2, 1)
        return mu, log_sigma.exp()

    def decode(self, z: Tensor) -> Tensor:
        """Logits of images, from codes."""
        return self.decoder(z.squeeze(2))


def stack(*layers: nn.Module, norm: bool) -> nn.Sequential:
    """Layers with ReLU between them, after batch normalisation if asked for."""
    stacked = [layers[0]]
    for before, layer in pairwise(layers):
        if norm and isinstance(before, nn.Linear):
            stacked.append(nn.BatchNorm1d(before.out_features))
        elif norm:
            stacked.append(nn.BatchNorm2d(before.out_channels))
        stacked += [nn.ReLU(), layer]
    return nn.Sequential(*stacked)


def linear(latent_dim: int = LATENT_DIM, norm: bool = False, width: int = 117) -> VAE:
    """Three fully connected layers in the encoder, and three in the decoder."""
    encoder = [nn.Linear(784, width), nn.Linear(width, width), nn.Linear(width, 2 * latent_dim)]
    decoder = [nn.Linear(latent_dim, width), nn.Linear(width, width), nn.Linear(width, 784)]
    return VAE(
        nn.Sequential(nn.Flatten(), stack(*encoder, norm=norm)),
        nn.Sequential(stack(*decoder, norm=norm), nn.Unflatten(1, (1, 28, 28))),
    )


# %% [markdown]
# ### What is a good likelihood of a pixel?
#
# **Bernoulli**: a pixel is black with probability $y$. A grey of 0.3 is read as a pixel that is black
# in three of ten cases. The distortion is then exactly that of images binarised at random, and
# cannot fall below the entropy of the greys themselves.
#
# **Gaussian**: a pixel is $N(y, \sigma^2)$. A fixed $\sigma$ is a hidden weight: halve it, and the
# squared error counts four times as much against the rate. So we take the best $\sigma$ for the images
# of a batch, their root mean square error (Rybkin et al., *Simple and effective VAE training with
# calibrated decoders*, 2021). A density may exceed 1, so these nats may be negative. They are
# comparable only with one another.


# %%
def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Distortion in nats per image."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1).mean()


def gaussian(x: Tensor, logits: Tensor) -> Tensor:
    """Distortion in nats per image, with the deviation that minimises it."""
    x, y = x.flatten(2), logits.sigmoid().flatten(2)
    sigma = (x - y).square().mean().sqrt().clamp_min(1e-3)
    return gaussian_nll(x, y, sigma.expand_as(y)).flatten(1).sum(1).mean()


# %% [markdown]
# A regulariser looks at the posteriors and at codes drawn from them. The **KL** keeps *each*
# posterior near the prior. A Wasserstein auto-encoder (Tolstikhin et al., 2018) asks only that *all*
# codes together are distributed like the prior. It measures that by the maximum mean discrepancy (MMD)
# between codes $z$ and draws $\tilde z$ of the prior,
#
# $$\text{MMD}^2 = E\,k(z, z') + E\,k(\tilde z, \tilde z') - 2\,E\,k(z, \tilde z) ,$$
#
# which is zero where both have one distribution.

# %%
Regulariser = Callable[[Tensor, Tensor, Tensor, Generator], Tensor]


def kl(beta: float = 1.0, free_nats: float = 0.0) -> Regulariser:
    """Beta times the rate; each dimension may spend `free_nats` without penalty."""
    return lambda mu, sigma, z, generator: beta * rate(gaussian_kl(mu, sigma), free_nats)


def wae(weight: float) -> Regulariser:
    """Weight times the MMD between the codes of a batch and as many draws of the prior."""
    return lambda mu, sigma, z, generator: (
        weight * mmd(z.squeeze(2), torch.randn(z.shape[:2], generator=generator))
    )


# %% [markdown]
# ### How all models are trained and measured
#
# We measure on test images. **−ELBO**, **distortion** and **rate** are in nats per image, for codes
# drawn from the posterior. The **error** is the root mean square error in grey levels of 255, for the
# posteriors' means. **Active units** are dimensions whose mean varies from image to image (with a
# variance above 0.01; Burda et al., 2016).


# %%
@torch.no_grad()
def evaluate(vae: VAE, x: Tensor, likelihood: Callable[..., Tensor]) -> dict[str, float]:
    """The metrics on test images; the model is then in evaluation mode."""
    vae.eval()
    mu, sigma = (torch.cat(v) for v in zip(*map(vae.encode, x.split(500)), strict=True))
    z = sample(mu, sigma, Generator().manual_seed(0))
    logits, mean_logits = (torch.cat([vae.decode(part) for part in v.split(500)]) for v in (z, mu))
    distortion, nats = likelihood(x, logits).item(), rate(gaussian_kl(mu, sigma)).item()
    return {
        "−ELBO": distortion + nats,
        "distortion": distortion,
        "rate": nats,
        "error": 255 * (x - mean_logits.sigmoid()).square().mean().sqrt().item(),
        "active units": active_units(mu),
    }


# %% [markdown]
# One loop trains every model: Adam, with a learning rate that falls to zero as a cosine. Every model
# sees the same images in the same order.


# %%
@dataclass
class Run:
    """A trained model, its test metrics during the training, and the seconds it took."""

    vae: VAE
    curve: pd.DataFrame
    seconds: float

    @property
    def final(self) -> pd.Series:
        """The last metrics."""
        return self.curve.iloc[-1].drop("images seen")


def train(
    make: Callable[[], VAE],
    images: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    likelihood: Callable[..., Tensor] = bernoulli,
    regulariser: Regulariser | None = None,
) -> Run:
    """Train on the first set of images and measure on the second; the KL is the default."""
    train_images, test_images = images
    regulariser = regulariser or kl()
    torch.manual_seed(seed)
    vae, steps = make(), SEEN // BATCH
    batches, generator = Generator().manual_seed(seed), Generator().manual_seed(seed + 1_000)
    adam = torch.optim.Adam(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    rows, seconds = [], 0.0
    for step in range(1, steps + 1):
        start = time.perf_counter()
        vae.train()
        x = train_images[torch.randint(len(train_images), (BATCH,), generator=batches)]
        mu, sigma = vae.encode(x)
        z = sample(mu, sigma, generator)
        loss = likelihood(x, vae.decode(z)) + regulariser(mu, sigma, z, generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step % (steps // 10) == 0:
            rows.append({"images seen": step * BATCH, **evaluate(vae, test_images, likelihood)})
    return Run(vae, pd.DataFrame(rows), seconds)


# %%
digits = data["mnist"].train, data["mnist"].test
by_likelihood = {
    "Bernoulli": train(linear, digits),
    "Gaussian": train(linear, digits, likelihood=gaussian),
}
pd.DataFrame({key: run.final for key, run in by_likelihood.items()}).T


# %%
@torch.no_grad()
def reconstruct(vae: VAE, x: Tensor) -> Tensor:
    """Images from the means of their codes."""
    return vae.decode(vae.encode(x)[0]).sigmoid()


@torch.no_grad()
def generate(vae: VAE, n: int) -> Tensor:
    """Images from draws of the prior."""
    generator = Generator().manual_seed(0)
    return vae.decode(torch.randn(n, LATENT_DIM, 1, generator=generator)).sigmoid()


some_digits = spread(digits[1], 16)
show(
    {"test images": some_digits}
    | {key: reconstruct(run.vae, some_digits) for key, run in by_likelihood.items()}
    | {f"{key}: prior": generate(run.vae, 16) for key, run in by_likelihood.items()}
)

# %% [markdown]
# The nats are on two scales, but error, rate and pictures can be compared. The Gaussian with its
# free deviation buys a smaller error with a larger rate: its codes say more about each image.
#
# Techloop has both cases. The [latent VAE](../techloop/models/latent_vae.py) predicts a Gaussian with a
# learned deviation for each latent, so its objective is in nats. The audio VAE has a distance of
# spectra, and the weight of its regulariser plays the part of the hidden $\sigma$: only a sweep over
# the weight shows the trade ([`benchmarks/README.md`](../benchmarks/README.md)).

# %% [markdown]
# ## 2. Architectures, on one protocol
#
# We compare fully connected layers with convolutions, each with and without batch normalisation (BN),
# at the same number of parameters (BN adds less than 1 %). The likelihood is Bernoulli, the KL has the
# weight 1, and there are three seeds.


# %%
def convolutional(latent_dim: int = LATENT_DIM, norm: bool = False) -> VAE:
    """Images to maps of 14 x 14, then 7 x 7, then a code; and the same back."""
    encoder = [
        nn.Conv2d(1, 32, 4, stride=2, padding=1),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.Conv2d(64, 2 * latent_dim, 7),
    ]
    decoder = [
        nn.ConvTranspose2d(latent_dim, 64, 7),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
    ]
    return VAE(
        nn.Sequential(stack(*encoder, norm=norm), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (latent_dim, 1, 1)), stack(*decoder, norm=norm)),
    )


ARCHITECTURES = {
    "linear": linear,
    "linear + BN": partial(linear, norm=True),
    "convolutional": convolutional,
    "convolutional + BN": partial(convolutional, norm=True),
}
Runs = dict[tuple[str, int], Run]

pd.Series(
    {key: sum(p.numel() for p in make().parameters()) for key, make in ARCHITECTURES.items()},
    name="parameters",
).to_frame()


# %%
def over_seeds(runs: Runs) -> pd.DataFrame:
    """Final metrics and seconds of training: mean ± deviation over seeds."""
    rows = [{"": key, **run.final, "seconds": run.seconds} for (key, _), run in runs.items()]
    groups = pd.DataFrame(rows).groupby("", sort=False)
    means = groups.mean().map("{:.1f}".format)
    return means if len(SEEDS) == 1 else means + " ± " + groups.std().map("{:.1f}".format)


def curves(runs: Runs, title: str) -> None:
    """Draw the test bound against images seen: mean and range over seeds."""
    _, ax = plt.subplots(figsize=(6, 3.2))
    for key in ARCHITECTURES:
        seeds = [run.curve for (k, _), run in runs.items() if k == key]
        values = np.stack([curve["−ELBO"] for curve in seeds])
        ax.plot(seeds[0]["images seen"], values.mean(0), label=key)
        ax.fill_between(seeds[0]["images seen"], values.min(0), values.max(0), alpha=0.2)
    ax.set(xlabel="images seen", ylabel="−ELBO of test images, nats", title=title)
    ax.legend()
    plt.show()


# %%
def compare(images: tuple[Tensor, Tensor]) -> Runs:
    """One run per architecture and seed."""
    return {
        (key, seed): train(make, images, seed=seed)
        for key, make in ARCHITECTURES.items()
        for seed in SEEDS
    }


architectures = {"mnist": compare(digits)}
over_seeds(architectures["mnist"])

# %%
curves(architectures["mnist"], "mnist")

# %% [markdown]
# Read the columns together. The lower −ELBO comes with a *higher rate*: a decoder that makes good use
# of a code saves several nats of **distortion** for each nat of rate. Convolutions win at the same
# number of parameters, because they need not learn at every place anew what a stroke is. They pay in
# time, because each of their weights works at all places. Batch normalisation helps the fully connected
# layers a lot, also in their spread between seeds, and the convolutions little. The curves show where it
# helps: mostly at the start.

# %% [markdown]
# ## 3. The regularisers of the audio part
#
# A weight $\beta$ on the rate (Higgins et al., *beta-VAE*, 2017) moves along the trade. The −ELBO is
# a valid bound for every model, however it was trained; $\beta = 1$ optimises it. We compare six
# weights of the KL, one of them zero, and the MMD of a Wasserstein auto-encoder at three weights.

# %%
REGULARISERS = {
    **{f"KL, β = {beta:g}": kl(beta) for beta in (0.0, 0.1, 0.5, 1.0, 4.0, 32.0)},
    **{f"WAE, λ = {weight:g}": wae(weight) for weight in (10.0, 100.0, 1_000.0)},
}
regularised = {
    (key, seed): train(linear, digits, seed=seed, regulariser=regulariser)
    for key, regulariser in REGULARISERS.items()
    for seed in SEEDS
}

# %% [markdown]
# How good are new loops, or new digits? Techloop compares *sets*: the **Fréchet distance** is the
# distance between two Gaussians, fitted to features of real and of generated ones (mel levels and
# descriptors there, 32 principal components of the pixels here). For sets of finite size it is never
# 0, so the last row shows the distance of as many training images.

# %%
real = digits[1].flatten(1).numpy()
project = PrincipalComponents(spread(digits[0], 2_000).flatten(1).numpy(), 32)


def frechet(images: Tensor) -> float:
    """Fréchet distance of images to the test images."""
    return frechet_distance(project(real), project(images.flatten(1).numpy()))


weights = over_seeds(regularised)
weights["Fréchet"] = [
    f"{frechet(generate(regularised[key, 0].vae, len(real))):.1f}" for key in weights.index
]
weights.loc["training images", "Fréchet"] = f"{frechet(spread(digits[0], len(real))):.1f}"
weights.fillna("")

# %%
figure, ax = plt.subplots(figsize=(6.4, 3.6))
for prefix, marker in (("KL", "o"), ("WAE", "s")):
    keys = [key for key in REGULARISERS if key.startswith(prefix)]
    at = [
        np.mean([regularised[k, s].final[["rate", "distortion"]] for s in SEEDS], 0) for k in keys
    ]
    ax.plot(*np.transpose(at), marker=marker, label=prefix)
    for key, point in zip(keys, at, strict=True):
        ax.annotate(key.split(", ")[1], point, (4, 4), textcoords="offset points", fontsize=8)
ax.set(xscale="symlog", xlabel="rate, nats per image", ylabel="distortion, nats per image")
ax.set_xlim(left=0)
ax.legend()
plt.show()

show({key: generate(regularised[key, 0].vae, 16) for key in REGULARISERS}, "Draws of the prior")

# %% [markdown]
# Along the KL's curve each further nat of rate buys less distortion. The −ELBO is lowest in the flat
# part around $\beta = 1$, and so is the Fréchet distance. With a small $\beta$, reconstructions are
# sharp, but the codes lie where the prior seldom is, and its draws are smears. With a large $\beta$
# a code holds nothing, and every draw is the same.
#
# The WAE's *rate* is high because its objective ignores it: a posterior may be as narrow as it likes, as
# long as all codes together fill the prior. With a small weight its reconstructions are nearly those
# without a regulariser, at a fraction of the Fréchet distance: the codes have moved to where the prior
# draws. At the *same rate* the WAE has more distortion than the KL, because it does not ask for cheap
# codes. So techloop [has both](../techloop/training/audio_vae.py), and compares them by rate and distance
# together ([`make sweep`](../benchmarks/README.md)), never by their losses. Here, too, a weight that is
# too large empties the codes.

# %% [markdown]
# ### Posterior collapse, provoked
#
# When a nat of rate costs more than it saves, a dimension is switched off: its posterior becomes the
# prior, and the decoder learns to ignore it. Here are the rates of all dimensions, largest first:


# %%
@torch.no_grad()
def rates(vae: VAE, x: Tensor) -> Tensor:
    """Nats of each dimension, largest first."""
    return gaussian_kl(*vae.encode(x)).mean((0, 2)).sort(descending=True)[0]


collapsing = {f"KL, {name}": regularised[f"KL, {name}", 0] for name in ("β = 1", "β = 4", "β = 32")}
collapsing["β = 32, 0.3 free nats"] = train(linear, digits, regulariser=kl(32.0, free_nats=0.3))

figure, axes = plt.subplots(1, 4, figsize=(9, 2.2), sharey=True, layout="constrained")
for ax, (key, run) in zip(axes, collapsing.items(), strict=True):
    ax.bar(range(LATENT_DIM), rates(run.vae, digits[1]))
    ax.set_title(f"{key}\n{run.final['active units']:.0f} active", fontsize=8)
    ax.set(xlabel="dimension")
axes[0].set_ylabel("rate, nats")
plt.show()

show(
    {"test images": some_digits}
    | {key: reconstruct(run.vae, some_digits) for key, run in collapsing.items()}
)

# %% [markdown]
# At $\beta = 32$ nothing is left, and every image is reconstructed as the same blur: the average. This
# is not an accident of training but what the objective asks for: a code that costs 32 times its nats is
# not worth having. **Free nats** (Kingma et al., 2016) change the objective: each dimension may spend
# a little before it is charged, so that switching one off saves nothing, and even here the digits come
# back.
#
# A bad start causes the other kind of collapse: the rate is charged before the decoder has learned to use
# a code, and a dimension that was switched off stays off. A *warm-up* of the weight prevents that, and
# leaves the final objective as it is. Techloop's [latent VAE](../techloop/training/latent_vae.py)
# has both, and warns when less than half of its dimensions are active.

# %% [markdown]
# ## 4. Harder data: Fashion-MNIST

# %%
if "fashion-mnist" in data:
    clothing = data["fashion-mnist"].train, data["fashion-mnist"].test
    architectures["fashion-mnist"] = compare(clothing)
    display(over_seeds(architectures["fashion-mnist"]))
    curves(architectures["fashion-mnist"], "fashion-mnist")


# %%
def entropy(x: Tensor) -> float:
    """Nats per image of greys, read as probabilities: the smallest Bernoulli distortion."""
    return -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1).mean().item()


def gain(runs: Runs, better: str, worse: str) -> str:
    """How much lower the −ELBO of one is: mean ± deviation of the differences, seed by seed."""
    gains = [runs[worse, seed].final["−ELBO"] - runs[better, seed].final["−ELBO"] for seed in SEEDS]
    return f"{np.mean(gains):.1f}" + (f" ± {np.std(gains, ddof=1):.1f}" if len(gains) > 1 else "")


harder = {}
for name, runs in architectures.items():
    floor = entropy(data[name].test)
    best = [runs["convolutional", seed].final for seed in SEEDS]
    harder[name] = {
        "entropy of the greys": f"{floor:.1f}",
        "distortion above it (convolutional)": f"{np.mean([b['distortion'] for b in best]) - floor:.1f}",
        "rate (convolutional)": f"{np.mean([b['rate'] for b in best]):.1f}",
        "gain by convolutions": gain(runs, "convolutional", "linear"),
        "gain by BN, linear": gain(runs, "linear + BN", "linear"),
        "gain by BN, convolutional": gain(runs, "convolutional + BN", "convolutional"),
    }
pd.DataFrame(harder)

# %% [markdown]
# The −ELBO of clothing is more than twice that of digits, but that says little: most of it is the
# entropy of its greys, below which no model can go. Above that floor the distortion is about the
# same. What differs is what a code is worth: clothing gets fewer nats of rate than digits. It has few
# outlines, and the rest is texture, which a code of this size cannot describe and the bound hardly
# rewards: look at the prints and patterns in the reconstructions below. For the same reason better
# architectures gain less on clothing, convolutions and batch normalisation alike, although in the same
# order.
#
# Loops resemble clothing in this: much of a hi-hat is noise, and only its level can be described. So
# techloop does not ask which samples a loop has, but how loud each band is, and reports the
# [fine structure](../techloop/evaluation/metrics/fidelity.py) that is lost as a number of its own.

# %% [markdown]
# ## 5. Generation
#
# With the convolutional model:

# %%
for name, runs in architectures.items():
    vae, some = runs["convolutional", 0].vae, spread(data[name].test, 20)
    show({"test": some, "reconstructed": reconstruct(vae, some), "prior": generate(vae, 20)}, name)

# %% [markdown]
# ### Between two images
#
# We compare a straight line between two codes with an arc. In 16 dimensions, draws of the prior lie
# near a sphere of radius 4. The middle of a line between two of them lies well inside it, where the
# decoder has seen few codes; the norm of the middle shows how far inside.


# %%
@torch.no_grad()
def paths(vae: VAE, ends: Tensor, names: str) -> dict[str, Tensor]:
    """Images along the line and the arc between the codes of two images."""
    a, b = vae.encode(ends)[0]
    codes_by_path = {"line": interpolate(a, b, 16), "arc": interpolate_spherically(a, b, 16)}
    return {
        f"{names}, {path}, norm {codes[8].norm():.1f}": vae.decode(codes).sigmoid()
        for path, codes in codes_by_path.items()
    }


for name, runs in architectures.items():
    x = data[name]
    pairs = {}
    for a, b in ((0, 1), (3, 8)):
        ends = first_of_classes(x.test, x.test_labels, range(a, b + 1, b - a))
        pairs |= paths(runs["convolutional", 0].vae, ends, f"{x.classes[a]} to {x.classes[b]}")
    show(pairs, name)

# %% [markdown]
# The line's middle is well inside, and yet its images are hardly worse than the arc's: a code that is
# *too near the origin* has neighbours on all sides. Both paths pass through images that are neither the
# one thing nor the other. Also, not every draw of the prior above is a digit: posteriors of a high rate
# are narrow, and leave more of the space between them empty. So techloop fits its prior to the codes,
# once the network is trained.
#
# ### A space of two dimensions
#
# With two dimensions the whole space can be drawn. On the left are the codes of the test images: the
# model was given no classes, and yet each class has its own place. On the right is what the decoder
# makes of a grid that is even in the *quantiles* of the prior, so that each image stands for the same
# share of the prior's mass.

# %%
planes = {name: train(partial(linear, latent_dim=2), (x.train, x.test)) for name, x in data.items()}


# %%
@torch.no_grad()
def plane(vae: VAE, name: str, across: int = 18) -> None:
    """Draw the codes of test images by class, and the decoder's images of the plane."""
    x = data[name]
    codes = vae.encode(x.test)[0].squeeze(2)
    z = torch.special.ndtri((torch.arange(across) + 0.5) / across)
    grid = torch.stack(torch.meshgrid(z, -z, indexing="xy"), -1).view(-1, 2, 1)
    tiles = vae.decode(grid).sigmoid().view(across, across, 28, 28)

    _, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for c, label in enumerate(x.classes):
        at = codes[x.test_labels == c]
        left.scatter(at[:, 0], at[:, 1], s=4, color=plt.cm.tab10(c), label=label)
    left.set(title=f"{name}: codes of test images", aspect="equal")
    left.legend(markerscale=3, fontsize=7, ncols=2)
    right.imshow(tiles.permute(0, 2, 1, 3).reshape(across * 28, across * 28), cmap="gray_r")
    right.set(title="what the decoder makes of the plane", xticks=[], yticks=[])
    plt.show()


for name, run in planes.items():
    plane(run.vae, name)

# %% [markdown]
# ## 6. What carries over to loops
#
# | here | in techloop |
# |---|---|
# | closed-form KL, rate with free nats, MMD | the same functions: [`losses.py`](../techloop/training/losses.py) |
# | a Gaussian of free deviation | the latent VAE predicts one for each latent, and its loss is the likelihood, or the KL between the audio VAE's posterior and the prediction: [`training/latent_vae.py`](../techloop/training/latent_vae.py) |
# | a likelihood of pixels | the audio VAE has a weighted distance of log spectra instead: [`losses.spectrogram_distance`](../techloop/training/losses.py) |
# | one code per image | the audio VAE has one code per 8 ms, the latent VAE 60 points per loop, down to one: [`models/latent_vae.py`](../techloop/models/latent_vae.py) |
# | convolutions share weights over places | convolutions around the circle, as a loop has no first beat: [`layers.CircularConv`](../techloop/models/layers.py) |
# | batch normalisation | each frame is normalised by itself, in training and in use alike: [`layers.RMSNorm`](../techloop/models/layers.py) |
# | the weight of a regulariser moves along rate and distortion | `train_audio_vae.cells` in [`params.yaml`](../params.yaml), and `make sweep` |
# | posteriors of a WAE that shrink to points | a floor under every deviation: [`models/audio_vae.py`](../techloop/models/audio_vae.py) |
# | codes that miss the prior | a prior that is fitted to the codes after training (Ghosh et al., 2020): [`LatentVAE.fit_prior`](../techloop/models/latent_vae.py) |
# | collapse, visible in active units | a warning during training, warm-up and free nats: [`training/latent_vae.py`](../techloop/training/latent_vae.py) |
# | a line or an arc between digits | morphs between loops, and how smooth they are: [`smoothness.py`](../techloop/evaluation/smoothness.py) |
# | Fréchet distance to test images | the same function: [`frechet.py`](../techloop/evaluation/metrics/frechet.py) |
#
# One thing does not carry over. Here the model predicts the same pixels that are measured; in sound, two
# loops that sound alike may differ in every sample. So the audio VAE's encoder reads no phase, and its
# decoder plays tones and noise at amplitudes that are compared: [`refiner.py`](../techloop/models/refiner.py).
