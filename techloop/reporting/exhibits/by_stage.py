"""What draws and lists the exhibits of each stage of evaluation."""

from collections.abc import Mapping

from techloop.reporting.embedding import Exhibits
from techloop.reporting.exhibits import (
    controls,
    decoder,
    descriptors,
    generation,
    prior,
    reconstruction,
    smoothness,
)

EXHIBITS: Mapping[str, Exhibits] = {
    "evaluate_reconstruction": reconstruction.exhibits,
    "evaluate_decoder": decoder.exhibits,
    "evaluate_descriptors": descriptors.exhibits,
    "evaluate_prior": prior.exhibits,
    "evaluate_smoothness": smoothness.exhibits,
    "evaluate_generation": generation.exhibits,
    "evaluate_controls": controls.exhibits,
}
