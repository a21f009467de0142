"""What a metric can be compared with.

The table is apart from `techloop.metric`, which trainings depend on: a new baseline or another
label makes no training stale.
"""

from techloop.metric import Measurements

BASELINES = {  # and what the report calls it
    "original": "the originals themselves",
    "before": "the decoder before fine-tuning",
    "silence": "silence",
    "noise": "noise of the same spectrum",
    "other_loop": "another loop",
    "spherical": "arc in the latent space",
    "audio_vae": "line in the audio VAE's latents",
    "crossfade": "cross-fade",
    "shuffled": "shuffled points",
    "white": "white frames",
    "standard_normal": "independent points from N(0, 1)",
    "real": "real held-out loops",
    "rotated": "a random rotation of the latents",
    "chance": "chance",
}

# Loops that generated ones are compared with, and paths that the line in the latent space is.
OTHER_SAMPLES = ("standard_normal", "white", "real")
OTHER_PATHS = ("spherical", "audio_vae", "crossfade", "shuffled")


def check_baselines(measurements: Measurements) -> None:
    """Refuse baselines that the report has no label for.

    Raises:
        ValueError: a measurement has a baseline that is not in `BASELINES`.
    """
    for name, measurement in measurements.items():
        if unknown := sorted(measurement.baselines.keys() - BASELINES.keys()):
            raise ValueError(f"metric {name}: baselines {unknown} are not in BASELINES")
