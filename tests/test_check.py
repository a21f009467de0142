"""The check runs every stage, prints what it would cost, and leaves no file behind."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.check import main, run_script
from techloop.pipeline.check import (
    COST_DRIVERS,
    SMOKE_PARAMS,
    run_metered,
    temporary_workplace,
)
from tests.helpers.params import ROOT, small_params

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def test_every_stage_has_small_sizes_and_a_cost() -> None:
    trained = {stage for stage in STAGES if stage.startswith(("train_", "finetune_"))}
    assert set(STAGES) - trained == set(COST_DRIVERS)
    without = {"assemble_instrument", "evaluate_decoder", "report"}  # they have no section
    assert set(STAGES) - without == set(SMOKE_PARAMS)


@pytest.mark.ci
def test_one_step_of_every_stage(tmp_path: Path) -> None:
    raw = small_params().model_dump()
    raw["train_audio_vae"]["cells"].pop("wae")
    raw["train_audio_vae"]["training"] |= {"loops": 4000, "batch_size": 20_000}
    raw["evaluate_descriptors"]["bootstrap"] = 20
    cells = raw["train_latent_vae"]["cells"]
    raw["train_latent_vae"]["cells"] = {"kl-posterior-4": cells["kl-posterior-4"]}
    YAML().dump(raw, tmp_path / "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-m", "stages.check", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    rows = [line.split()[0] for line in ended.stdout.splitlines()[1:] if "0." in line]
    assert [row.partition("@")[0] for row in rows[: len(STAGES)]] == list(STAGES), ended.stderr
    assert "Every stage ran" in ended.stdout
    assert sorted(tmp_path.rglob("*")) == before
    # Such a batch is more than a card of 1 GB has.
    assert ended.returncode == 1
    assert re.match(
        r"check: train_audio_vae@kl takes about [\d.]+ GB, and 90% of 1 GB are usable", ended.stderr
    )


@pytest.mark.parametrize("wrong", ["much", "0", "-8"])
def test_a_wrong_number_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"GB must be a positive whole number.* got '{wrong}'"):
        main(wrong)


def test_the_stage_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    here, before = Path.cwd(), dict(os.environ)
    with temporary_workplace(small_params().model_dump()):
        assert "MLFLOW_TRACKING_URI" not in os.environ, "its runs would go to a server"
        with pytest.raises(ValueError, match=r"^train_audio_vae@kl: data/loops is missing"):
            run_metered("train_audio_vae", ("kl",), run_script)
    assert (Path.cwd(), dict(os.environ)) == (here, before)
