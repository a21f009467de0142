"""What the weight of each regulariser of VAE 1 does: `make sweep`.

    python benchmarks/sweep.py data/loops --out benchmarks

Trains VAE 1 briefly with six weights a regulariser and writes `sweep.csv` (a row a training, those
of the validation split) and `sweep.png`. A row of this code and data is not computed again.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from techloop.artifacts import atomic_file, read_json
from techloop.closure import code_fingerprint
from techloop.params import AudioVAECell, load_params
from techloop.reporting.sweep_plot import sweeps
from techloop.training.audio_vae import train_audio_vae

ROOT = Path(__file__).parent.parent
WEIGHTS = {
    "kl": (1e-3, 4e-3, 1.6e-2, 4e-2, 0.12, 0.4),
    "wae": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "wae-gan": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}
COLUMNS = ("log_distance", "linear_distance", "kl_nats_per_frame", "active_units", "mmd")


def main() -> None:
    """Train what is missing, then draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", help="a prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of table and picture")
    parser.add_argument("--budget", type=int, default=4_000, help="loops seen in each training")
    told = parser.parse_args()
    all_params = load_params(ROOT / "params.yaml")
    params = all_params.train_audio_vae
    cadence = {"loops": told.budget, "validate_every_loops": told.budget}
    params = params.model_copy(update={"training": params.training.model_copy(update=cadence)})
    table = told.out / "sweep.csv"
    made_by = f"{code_fingerprint('techloop.training.audio_vae')}-{read_json(Path(told.loops) / 'card.json')['fingerprint']}"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    rows = [row for row in rows if (row["made_by"], row["loops_seen"]) == (made_by, told.budget)]
    known = {(row["regulariser"], row["weight"]) for row in rows}
    for regulariser, weights in WEIGHTS.items():
        for weight in weights:
            if (regulariser, weight) in known:
                continue
            print(f"{regulariser}, weight {weight:g}", flush=True)
            cell = AudioVAECell(
                regulariser=regulariser, weight=weight, warmup_loops=told.budget // 8, free_nats=0
            )
            with tempfile.TemporaryDirectory() as folder:
                metrics = train_audio_vae(
                    told.loops,
                    Path(folder) / "vae",
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
                    "loops_seen": told.budget,
                    **{name: round(metrics[name], 4) for name in COLUMNS},
                    "made_by": made_by,
                }
            )
            with atomic_file(table) as new:
                pd.DataFrame(rows).to_csv(new, index=False)
    found = pd.DataFrame(rows)
    found["distance"] = found["log_distance"] + found["linear_distance"]
    found = found.sort_values("weight")
    cells = params.cells.values()
    sweeps(
        told.out / "sweep.png",
        {name: of.to_dict("list") for name, of in found.groupby("regulariser")},
        {cell.regulariser: cell.weight for cell in cells},
        params.model.latent_dim,
    )


if __name__ == "__main__":
    main()
