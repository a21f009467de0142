"""What fine-tuning changed of the decoder, on loops that no training has seen."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/decoder/<cell>."""
    from techloop.data.columns import HELD_OUT
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.decoder import evaluate_decoder
    from techloop.models.audio_vae import AudioVAE
    from techloop.models.base import pick_device

    params = load_params()
    section, folder = params.evaluate_reconstruction, f"reports/decoder/{cell}"
    regulariser = params.finetune_decoder.cell(cell).regulariser
    inputs = ["data/loops", f"data/audio_vae/{regulariser}", f"data/decoder/{cell}"]
    with track(f"evaluate_decoder@{cell}", params.logged("evaluate_reconstruction"), inputs) as run:
        before, after = (AudioVAE.load(place).to(pick_device()) for place in inputs[1:])
        evaluation = evaluate_decoder(
            before,
            after,
            LoopDataset(inputs[0], "train"),
            LoopDataset(inputs[0], HELD_OUT),
            loops_used=section.loops,
            examples=section.examples,
            seed=params.seed,
        )
        evaluation.write(folder, before.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)
