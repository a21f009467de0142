"""The effect of the weight of each regulariser of the audio VAE: `make sweep`.

    python benchmarks/sweep.py data/loops --out benchmarks

Trains the audio VAE briefly with six weights per regulariser and writes `sweep.csv` (a row per
training, on the validation split) and `sweep.png`. A row of the same code and data is not computed
again.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from techloop.allocator import keep_freed_memory
from techloop.artifacts import atomic_file, read_json
from techloop.closure import code_fingerprint
from techloop.params import AudioVAECell, load_params
from techloop.reporting.sweep_plot import sweeps
from techloop.training.audio_vae import train_audio_vae
from techloop.training.distributed import launch_fabric

ROOT = Path(__file__).parent.parent
WEIGHTS = {
    "kl": (1e-3, 4e-3, 1.6e-2, 4e-2, 0.12, 0.4),
    "wae": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "wae-gan": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}
COLUMNS = ("log_distance", "linear_distance", "kl_nats_per_frame", "active_units", "mmd")


def main() -> None:
    """Train what is missing, then draw."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", help="a prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of table and picture")
    parser.add_argument("--budget", type=int, default=4_000, help="loops seen in each training")
    arguments = parser.parse_args()
    all_params = load_params(ROOT / "params.yaml")
    params = all_params.train_audio_vae
    cadence = {"loops": arguments.budget, "validate_every_loops": arguments.budget}
    params = params.model_copy(update={"training": params.training.model_copy(update=cadence)})
    table, fabric = arguments.out / "sweep.csv", launch_fabric()
    data = read_json(Path(arguments.loops) / "card.json")["fingerprint"]
    made_by = f"{code_fingerprint('techloop.training.audio_vae')}-{data}"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    rows = [
        row for row in rows if (row["made_by"], row["loops_seen"]) == (made_by, arguments.budget)
    ]
    finished = {(row["regulariser"], row["weight"]) for row in rows}
    for regulariser, weights in WEIGHTS.items():
        for weight in weights:
            if (regulariser, weight) in finished:
                continue
            print(f"{regulariser}, weight {weight:g}", flush=True)
            cell = AudioVAECell(
                regulariser=regulariser,
                weight=weight,
                warmup_loops=arguments.budget // 8,
                free_nats=0,
            )
            with tempfile.TemporaryDirectory() as folder:
                metrics = train_audio_vae(
                    arguments.loops,
                    Path(folder) / "vae",
                    fabric,
                    params=params,
                    cell=cell,
                    seed=all_params.seed,
                    log=lambda metrics, seen: None,
                    checkpoints=Path(folder) / "checkpoints",
                )
            rows.append(
                {
                    "regulariser": regulariser,
                    "weight": weight,
                    "loops_seen": arguments.budget,
                    **{name: round(metrics[name].value, 4) for name in COLUMNS},
                    "made_by": made_by,
                }
            )
            with atomic_file(table) as new:
                pd.DataFrame(rows).to_csv(new, index=False)
    results = pd.DataFrame(rows)
    results["distance"] = results["log_distance"] + results["linear_distance"]
    results = results.sort_values("weight")
    cells = params.cells.values()
    sweeps(
        arguments.out / "sweep.png",
        {name: group.to_dict("list") for name, group in results.groupby("regulariser")},
        {cell.regulariser: cell.weight for cell in cells},
        params.model.latent_dim,
    )


if __name__ == "__main__":
    main()
