"""Both VAEs as one instrument: sample, reconstruct and morph loops, and walk among them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from techloop.artifacts import atomic_folder
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import MODEL_FILES, model_fingerprint, pick_device
from techloop.models.latent_vae import LatentVAE

BATCH = 32
WALK_HARMONICS = 2
NOISE_SEED = 0x5EED  # so that points and noise of one seed are independent


class Instrument:
    """A latent VAE on top of its audio VAE.

    A loop is audio `(samples,)`, the latents of the audio VAE `(c, frames)`, or the points of the
    latent VAE `(d, length)`. Points and latents are float32 tensors on the CPU; audio is float32 in
    [-1, 1].

    Args:
        audio_vae: decodes latents.
        latent_vae: was trained on the latents of that audio VAE.
        fingerprint: of the latent VAE's folder.
    """

    def __init__(self, audio_vae: AudioVAE, latent_vae: LatentVAE, fingerprint: str = "") -> None:
        self.device = pick_device()
        self.audio_vae = audio_vae.to(self.device).eval()
        self.latent_vae = latent_vae.to(self.device).eval()
        self.fingerprint = fingerprint
        self.grid = latent_vae.grid

    @classmethod
    def load(cls, folder: str | Path) -> "Instrument":
        """The instrument in `data/instrument/<cell>`, or a copy of it anywhere.

        `data/latent_vae/<cell>` is an instrument too, which plays the audio VAE that it was trained
        on.

        Raises:
            ValueError: the folder is damaged, or the latent VAE was trained on another audio VAE.
        """
        folder = Path(folder)
        latent_vae = LatentVAE.load(folder)
        audio_vae = AudioVAE.load(folder / "audio_vae", latent_vae.grid)
        _check_plays(audio_vae, folder / "audio_vae", latent_vae, folder)
        return cls(audio_vae, latent_vae, model_fingerprint(folder))

    @property
    def preparation(self) -> dict[str, Any]:
        """How the training loops were prepared: fields of `PreparationConfig`, without the grid.

        Raises:
            ValueError: the model's config does not have it, as the pipeline did not train it.
        """
        if "preparation" not in self.audio_vae.notes:
            raise ValueError(
                "the model does not say how its loops were prepared (`preparation` in "
                "audio_vae/config.json), so a recording cannot be prepared for it; train it with "
                "`dvc repro`"
            )
        return dict(self.audio_vae.notes["preparation"])

    @property
    def point_shape(self) -> tuple[int, int]:
        """Dimensions of a point, and points per loop."""
        return self.latent_vae.latent_dim, self.latent_vae.length

    def sample(
        self, n: int, seed: int, shift: Float[Tensor, "d length"] | None = None
    ) -> Float[Tensor, "n d length"]:
        """Points of `n` loops, sampled from the prior.

        Args:
            n: how many loops.
            seed: of the noise.
            shift: is added to the noise, see `sample_prior`.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, *self.point_shape, generator=generator)
        return self.sample_prior(noise, shift)

    @torch.inference_mode()
    def sample_prior(
        self, noise: Float[Tensor, "n d length"], shift: Float[Tensor, "d length"] | None = None
    ) -> Float[Tensor, "n d length"]:
        """Points of the prior, as a function of noise from N(0, 1) plus `shift`."""
        noise = noise if shift is None else noise + shift
        return self.latent_vae.sample_prior(noise.to(self.device)).cpu()

    @torch.inference_mode()
    def latents(self, points: Float[Tensor, "n d length"]) -> Float[Tensor, "n c frames"]:
        """Latents of the audio VAE for loops: the means that the latent VAE predicts."""
        batches = torch.split(points, BATCH)
        return torch.cat([self.latent_vae.decode(p.to(self.device))[0].cpu() for p in batches])

    @torch.inference_mode()
    def decode(
        self, latents: Float[Tensor, "n c frames"], seed: int = 0, *, same_noise: bool = False
    ) -> Float[np.ndarray, "n samples"]:
        """Audio of the audio VAE's latents, never beyond full scale.

        Args:
            latents: of loops.
            seed: of the noise that the decoder plays.
            same_noise: whether all loops play the same noise, so that they differ by their latents
                alone; else the i-th loop has the i-th draw, however many there are.
        """
        noise = self.draw_noise(latents[:1] if same_noise else latents, seed)
        parts = []
        for rows in torch.split(torch.arange(len(latents)), BATCH):
            own = (noise if same_noise else noise[rows]).to(self.device)
            parts.append(self.audio_vae.decode(latents[rows].to(self.device), own).cpu())
        return torch.cat(parts).numpy()

    def draw_noise(
        self, latents: Float[Tensor, "n c frames"], seed: int
    ) -> Float[Tensor, "n samples"]:
        """The noise that `decode` plays for this seed; it is not that of `sample`."""
        generator = torch.Generator().manual_seed(seed ^ NOISE_SEED)
        return self.audio_vae.draw_noise(latents, generator)

    @torch.inference_mode()
    def embed(self, audio: Float[np.ndarray, "n samples"]) -> Float[Tensor, "n d length"]:
        """Points of loops: posterior means of both VAEs.

        Raises:
            ValueError: the audio is not whole loops of this grid.
        """
        if audio.ndim != 2 or audio.shape[1] != self.grid.samples:
            raise ValueError(
                f"audio of shape {audio.shape} is not (n, {self.grid.samples}): loops must be on "
                f"the model's grid ({self.grid.bpm:g} BPM, {self.grid.bars} bars)"
            )
        parts = []
        for x in torch.split(torch.from_numpy(audio), BATCH):
            mu, sigma = self.audio_vae.encode(x.to(self.device))
            parts.append(self.latent_vae.encode(mu, sigma)[0].cpu())
        return torch.cat(parts)

    def render(
        self, points: Float[Tensor, "n d length"], seed: int = 0
    ) -> Float[np.ndarray, "n samples"]:
        """Audio of points: one exact loop for each; `seed` is that of the noise."""
        return self.decode(self.latents(points), seed)

    def render_sequence(
        self, points: Float[Tensor, "n d length"], seed: int = 0
    ) -> Float[np.ndarray, " samples"]:
        """Audio of loops in sequence, decoded as one circle, so without a seam at any bar line."""
        chain = torch.cat(list(self.latents(points)), -1)
        audio: np.ndarray = self.decode(chain[None], seed)[0]
        return audio

    def generate(
        self, n: int, seed: int, shift: Float[Tensor, "d length"] | None = None
    ) -> Float[np.ndarray, "n samples"]:
        """`n` new loops, see `sample`."""
        return self.render(self.sample(n, seed, shift), seed)

    def reconstruct(self, audio: Float[np.ndarray, "n samples"]) -> Float[np.ndarray, "n samples"]:
        """Loops, encoded and decoded by both VAEs."""
        return self.render(self.embed(audio))

    def morph(
        self, a: Float[np.ndarray, " samples"], b: Float[np.ndarray, " samples"], bars: int
    ) -> Float[np.ndarray, " total"]:
        """From loop `a` to loop `b` in `bars` bars, on a line in the latent VAE's space."""
        ends = self.embed(np.stack([a, b]))
        return self.render_sequence(interpolate(ends[0], ends[1], self._loops(bars)))

    def walk(
        self, bars: int, seed: int, shift: Float[Tensor, "d length"] | None = None
    ) -> Float[np.ndarray, " total"]:
        """A closed, smooth random walk of `bars` bars that ends where it began; see `sample`."""
        noise = closed_walk(self._loops(bars), self.point_shape, seed)
        return self.render_sequence(self.sample_prior(noise, shift), seed)

    def _loops(self, bars: int) -> int:
        """The number of loops in so many bars."""
        loops, rest = divmod(bars, self.grid.bars)
        if rest:
            raise ValueError(
                f"{bars} bars are not a whole number of loops, which have {self.grid.bars} bars "
                "each"
            )
        return loops


def assemble_instrument(
    latent_vae_folder: str | Path, audio_vae_folder: str | Path, folder: str | Path
) -> None:
    """Write the folder of an instrument: a latent VAE, and in `audio_vae/` the one that plays it.

    Args:
        latent_vae_folder: of the latent VAE.
        audio_vae_folder: of the audio VAE that it was trained on, or one tuned from that.
        folder: is replaced.

    Raises:
        ValueError: a folder is damaged, or the latent VAE was trained on another audio VAE.
    """
    latent_vae_folder, audio_vae_folder = Path(latent_vae_folder), Path(audio_vae_folder)
    latent_vae = LatentVAE.load(latent_vae_folder)
    audio_vae = AudioVAE.load(audio_vae_folder, latent_vae.grid)
    _check_plays(audio_vae, audio_vae_folder, latent_vae, latent_vae_folder)
    with atomic_folder(folder) as new:
        (new / "audio_vae").mkdir()
        for source, target in ((latent_vae_folder, new), (audio_vae_folder, new / "audio_vae")):
            for name in MODEL_FILES:
                shutil.copyfile(source / name, target / name)


def _check_plays(audio_vae: AudioVAE, inner: Path, latent_vae: LatentVAE, folder: Path) -> None:
    """Raise a ValueError unless the latents are those of this audio VAE, or of its source."""
    expected, actual = latent_vae.notes.get("audio_vae"), model_fingerprint(inner)
    source = audio_vae.notes.get("audio_vae")  # of a tuned decoder
    if expected is None or expected not in (actual, source):
        tuned = f", tuned from {source}" if source else ""
        raise ValueError(
            f"{inner} is audio VAE {actual}{tuned}, but {folder} was trained on the latents of "
            f"{expected}: files of two runs are mixed. `dvc checkout dvc.yaml` restores the folder."
        )


def interpolate(
    a: Float[Tensor, "d length"], b: Float[Tensor, "d length"], n: int
) -> Float[Tensor, "n d length"]:
    """`n` points on the straight line from `a` to `b`, both included.

    Raises:
        ValueError: fewer than two points.
    """
    if n < 2:
        raise ValueError(f"a path from one loop to another needs 2 bars or more, got {n}")
    share = torch.linspace(0, 1, n)[:, None, None]
    return (1 - share) * a + share * b


def interpolate_spherically(
    a: Float[Tensor, "d length"], b: Float[Tensor, "d length"], n: int
) -> Float[Tensor, "n d length"]:
    """`n` points on the arc from `a` to `b`, both included, equally spaced in angle and in norm.

    In many dimensions samples of a normal distribution lie near a sphere, and a straight line
    between two of them passes far inside it. Where both ends have one direction, or one end is the
    origin, the result is the straight line.

    Raises:
        ValueError: fewer than two points.

    References:
        White, Sampling generative networks, 2016, section 2.1 (there both ends have one norm).
    """
    straight = interpolate(a, b, n)
    norms = a.norm(), b.norm()
    cosine = (a * b).sum() / (norms[0] * norms[1]).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4 or min(norms) == 0:
        return straight
    share = torch.linspace(0, 1, n)[:, None, None]
    directions = ((1 - share) * angle).sin() * a / norms[0] + (share * angle).sin() * b / norms[1]
    points: Tensor = directions / angle.sin() * ((1 - share) * norms[0] + share * norms[1])
    return points


def closed_walk(n: int, shape: tuple[int, int], seed: int) -> Tensor:
    """`n` points `(n, *shape)` on a closed random curve, each distributed as N(0, 1).

    The curve is a random Fourier series of `WALK_HARMONICS`. Over seeds, each point is normally
    distributed, so the prior maps it to points on which the decoder was trained.

    Raises:
        ValueError: fewer than two points.
    """
    if n < 2:
        raise ValueError(f"a walk needs 2 bars or more, got {n}")
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(2, WALK_HARMONICS, *shape, generator=generator) / WALK_HARMONICS**0.5
    angle = 2 * torch.pi * torch.arange(n)[:, None] / n * torch.arange(1, WALK_HARMONICS + 1)
    return torch.einsum("nh,hdl->ndl", angle.cos(), waves[0]) + torch.einsum(
        "nh,hdl->ndl", angle.sin(), waves[1]
    )
