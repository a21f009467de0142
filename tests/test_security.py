"""What SECURITY.md promises: no file runs code, and nothing listens to other machines.

Archives that climb out of themselves are in test_folder.py and test_fsld.py, passwords in
test_tracking.py, test_doctor.py and test_ui.py.
"""

import ast
import pickle
import shutil
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from techloop.data.build import prepare_loops
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.data.sources.synth.source import SynthSource
from techloop.models.audio_vae import AudioVAE
from techloop.params import Training
from techloop.training.distributed import launch_fabric
from techloop.training.loop import fit
from techloop.training.task import Task
from tests.helpers.params import GRID, ROOT, preparation, recipe

UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNS = {"read_pickle", "extract", "extractall", "unpack_archive"}


def dangers(code: str) -> list[str]:
    """What in a module may run what is in a file, unpack where it wants, or listen to anyone."""
    risks = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                risks += [n.name for n in names if n.name.partition(".")[0] in UNPICKLES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNPICKLES:
                risks.append(module)
            case ast.Call(func=ast.Attribute(attr="load", value=ast.Name(id="torch"))):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if keywords.get("weights_only") != "True":
                    risks.append("torch.load")
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                risks.append(name)
            case ast.Call(func=ast.Attribute(attr=name)) if name in RUNS:
                risks.append(name)
            case ast.keyword(arg="allow_pickle" | "shell", value=ast.Constant(value=True)):
                risks.append(str(node.arg))
            case ast.keyword(arg="typ", value=ast.Constant(value="unsafe")):
                risks.append("typ")
            case ast.Constant(value="0.0.0.0"):
                risks.append("0.0.0.0")
    return risks


def test_no_module_can_run_what_is_in_a_file() -> None:
    files = [
        f
        for d in ("techloop", "stages", "notebooks", "benchmarks")
        for f in (ROOT / d).rglob("*.py")
    ]
    assert len(files) > 60
    assert {f.name: risks for f in files if (risks := dangers(f.read_text()))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "numpy.load(file, allow_pickle=True)",
        "YAML(typ='unsafe')",
        "pandas.read_pickle(file)",
        "eval(text)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(file)",
        "subprocess.run(text, shell=True)",
        "serve(host='0.0.0.0')",
    ],
)
def test_each_danger_is_found(code: str) -> None:
    assert len(dangers(code)) == 1
    assert dangers("torch.load(file, weights_only=True); numpy.load(f); model.eval(); YAML()") == []


class Burglar:
    """An object that makes a file as it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


class InterruptedTask(Task[torch.Tensor]):
    """A training that is interrupted after some loops."""

    def __init__(self, interrupt_at: int) -> None:
        self.module, self.loop_ids, self.interrupt_at = (
            nn.Linear(1, 1),
            list("abcdefgh"),
            interrupt_at,
        )

    @property
    def identity(self):
        return {}

    def batch(self, rows):
        return torch.ones(len(rows), 1)

    def loss(self, module, batch, generator, seen):
        if seen == self.interrupt_at:
            raise KeyboardInterrupt
        return {"loss": module(batch).square().mean()}

    def validate(self):
        return {}


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    entered = tmp_path / "entered"

    def train(interrupt_at: int) -> None:
        task = InterruptedTask(interrupt_at)
        training = Training(
            loops=64,
            batch_size=4,
            learning_rate=0.1,
            validate_every_loops=16,
            checkpoint_every_loops=16,
        )
        fit(task, launch_fabric(), training=training, seed=0, log=lambda m, s: None,
            checkpoints=tmp_path)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(interrupt_at=40)
    (last,) = tmp_path.glob("*/last.pt")
    saved = torch.load(last, weights_only=True)
    torch.save(saved | {"optimizer": Burglar(entered)}, last)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        train(interrupt_at=-1)
    assert not entered.exists()
    torch.load(last, weights_only=False)
    assert entered.exists(), "it would have run"


def test_arrays_of_objects_and_pickled_weights_are_refused(
    loops_folder: Path, audio_vae_folder: Path, latents_folder: Path, tmp_path: Path
) -> None:
    entered = tmp_path / "entered"
    loops, vae, latents = (tmp_path / name for name in ("loops", "vae", "latents"))
    for source, copy in ((loops_folder, loops), (audio_vae_folder, vae), (latents_folder, latents)):
        shutil.copytree(source, copy)
    np.save(loops / "audio-00000.npy", np.array([Burglar(entered)]), allow_pickle=True)
    torch.save(Burglar(entered), vae / "model.safetensors")
    torch.save(Burglar(entered), latents / "latents-00000.safetensors")
    with pytest.raises(ValueError, match=r"audio-00000\.npy is truncated or damaged"):
        LoopDataset(loops).audio()
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        AudioVAE.load(vae)
    with pytest.raises(ValueError, match=r"latents-00000\.safetensors is truncated or damaged"):
        _ = LatentDataset(latents).mu
    assert not entered.exists()
    assert load_file(audio_vae_folder / "model.safetensors"), "the original is none of these"


def test_processes_of_preparation_listen_to_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: list[str] = []
    make = distributed.LocalCluster

    def watched(**settings: Any) -> distributed.LocalCluster:
        cluster, this = make(**settings), psutil.Process()
        for process in (this, *this.children(recursive=True)):
            sockets = process.net_connections("inet")
            listening.extend(s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN)
        return cluster

    monkeypatch.setattr(distributed, "LocalCluster", watched)
    prepare_loops(
        SynthSource(GRID, 60, 0), tmp_path / "loops", GRID, recipe(), **preparation(), workers=2
    )
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}
