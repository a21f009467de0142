"""Warnings of an adversarial game that has stopped teaching anybody."""

import warnings
from collections.abc import Mapping, Sequence

PATIENCE = 5  # logs in a row: as many as there are between two validations
LEAST_LOOPS = 500  # seen between the first and the last of these logs: a new game needs time
PERFECT, CHANCE = 0.995, 0.51  # accuracies of the discriminators
VANISHED = 1e-6  # gradient norm

Row = Mapping[str, int | float | str]


class CollapseWatch:
    """Called after each log, it warns once of each finding of `collapses`."""

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def __call__(self, history: Sequence[Row]) -> None:
        """Warn of what the last logs show and was not reported yet."""
        for name, message in collapses(history).items():
            if name not in self._reported:
                self._reported.add(name)
                warnings.warn(message, stacklevel=3)


def collapses(history: Sequence[Row]) -> dict[str, str]:
    """What the last `PATIENCE` logs have in common that they should not, by a short name.

    Nothing, if these logs cover fewer than `LEAST_LOOPS` loops.

    * `perfect`: the discriminators are always right, so that their gradient says little.
    * `chance`: they cannot tell real from decoded, be it that they learn too slowly.
    * `vanished`: the gradients of one side are nearly zero.

    Args:
        history: rows of numbers by name; those without an accuracy do not count.
    """
    rows = [row for row in history if "discriminator_accuracy" in row][-PATIENCE:]
    seen = [int(row["loops_seen"]) for row in rows]
    if len(rows) < PATIENCE or seen[-1] - seen[0] < LEAST_LOOPS:
        return {}
    accuracies = [float(row["discriminator_accuracy"]) for row in rows]
    last = rows[-1]
    state = (
        f"in the last {PATIENCE} logs, up to {seen[-1]} loops seen (accuracy "
        f"{accuracies[-1]:.3f}, scores {float(last['score_real']):.2f} of real and "
        f"{float(last['score_fake']):.2f} of decoded loops)"
    )
    findings = {}
    if min(accuracies) > PERFECT:
        findings["perfect"] = (
            f"the discriminators were perfect {state}, so the decoder learns little from them. "
            "Lower finetune_decoder.discriminator_learning_rate, take fewer discriminators, or "
            "another objective than classical."
        )
    if max(accuracies) < CHANCE:
        findings["chance"] = (
            f"the discriminators were at chance {state}, so the decoder learns nothing from them. "
            "Raise finetune_decoder.discriminator_learning_rate, take more discriminators, or "
            "lower the weight `adversarial`."
        )
    for side in ("decoder", "discriminators"):
        norms = [float(row[f"gradient_norm_{side}"]) for row in rows]
        if max(norms) < VANISHED:
            findings[f"vanished {side}"] = (
                f"the gradients of the {side} vanished {state}: their norm is {norms[-1]:.1e}. "
                "Take the objective least-squares or hinge, or other learning rates."
            )
    return findings
