"""Fine-tuning of the decoder: a game in one loss, a frozen encoder, resume, odd loops, collapse."""

import copy
import json
import math
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from techloop.artifacts import read_json
from techloop.data.datasets import LoopDataset
from techloop.metric import read_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint
from techloop.params import AdversarialWeights, DecoderCell
from techloop.training.adversarial import feature_distance
from techloop.training.collapse import PATIENCE, CollapseWatch, collapses
from techloop.training.decoder import DecoderTask, Game, decoder_loss, judged_rows
from tests.helpers.params import GRID, finetune_small_decoder, small_params

CELL = DecoderCell(
    regulariser="kl",
    discriminators=["period"],
    objective="hinge",
    weights=AdversarialWeights(adversarial=1, feature_matching=1, spectral=1),
)


def cell(**changes: object) -> DecoderCell:
    return CELL.model_copy(update=changes)


def weights(**changes: float) -> DecoderCell:
    return cell(weights=CELL.weights.model_copy(update=changes))


def loops(seed: int = 0) -> torch.Tensor:
    return 0.2 * torch.randn(2, 24 * GRID.hop, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vae(audio_vae_folder: Path) -> AudioVAE:
    return AudioVAE.load(audio_vae_folder)


def step(
    vae: AudioVAE, chosen: DecoderCell, x: torch.Tensor, plays: bool = True
) -> tuple[Game, dict[str, torch.Tensor]]:
    """A game after a backward pass, and its terms."""
    game = Game(vae, chosen, seed=0)
    terms = decoder_loss(game, x, chosen, torch.Generator().manual_seed(1), plays)
    game.zero_grad()
    terms["loss"].backward()
    return game, terms


def decoder_side(vae: AudioVAE) -> dict[str, torch.nn.Parameter]:
    """All parameters but the encoder's, by name."""
    return {name: p for name, p in vae.named_parameters() if not name.startswith("encoder.")}


def gradients(part: torch.nn.Module) -> torch.Tensor:
    """The gradients of discriminators, or of an audio VAE's decoder."""
    parameters = decoder_side(part).values() if isinstance(part, AudioVAE) else part.parameters()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_each_side_is_moved_by_its_own_terms_alone(vae: AudioVAE) -> None:
    x = loops()
    game, _ = step(vae, CELL, x)
    decoder, discriminators = gradients(vae), gradients(game.discriminators)
    assert decoder.norm() > 0
    assert discriminators.norm() > 0
    assert not any(p.grad is not None for p in vae.encoder.parameters())

    # The discriminators' gradient is that of their own loss, whatever the decoder's weights are.
    only = weights(adversarial=0, feature_matching=0, spectral=0)
    alone, _ = step(vae, only, x)
    torch.testing.assert_close(gradients(alone.discriminators), discriminators)
    assert not gradients(vae).any(), "the discriminators' loss moves the decoder"

    # The decoder's is the sum over its terms.
    parts = []
    for name in ("adversarial", "feature_matching", "spectral"):
        off = dict.fromkeys(("adversarial", "feature_matching", "spectral"), 0.0)
        step(vae, weights(**off | {name: 1.0}), x)
        parts.append(gradients(vae))
        assert parts[-1].norm() > 0, name
    torch.testing.assert_close(sum(parts), decoder, rtol=1e-3, atol=1e-5 * float(decoder.norm()))


def test_the_terms_are_those_of_their_definitions(vae: AudioVAE) -> None:
    x = loops()
    game, terms = step(vae, CELL, x)
    terms = {name: value.detach() for name, value in terms.items()}
    with torch.no_grad():
        (*_, y, _), _ = game(x, torch.Generator().manual_seed(1), plays=False)
        real, decoded = game.discriminators(x), game.discriminators(y)
    pairs = list(zip(real, decoded, strict=True))
    hinge = [((1 - r.score[:1]).relu() + (1 + d.score[:1]).relu()).mean() for r, d in pairs]
    assert float(terms["discriminator_loss"]) == pytest.approx(float(sum(hinge)) / 5, rel=1e-4)
    assert float(terms["adversarial_loss"]) == pytest.approx(
        -float(sum(d.score.mean() for _, d in pairs)) / 5, rel=1e-4
    )
    sizes, differences = (
        torch.stack([f(a, b).abs().flatten(1).mean(1) for r, d in pairs
                     for a, b in zip(r.features, d.features, strict=True)], 1)
        for f in (lambda a, b: a, lambda a, b: a - b)
    )  # fmt: skip
    expected = float(feature_distance(sizes, differences))
    assert float(terms["feature_distance"]) == pytest.approx(expected, rel=1e-4)
    total = terms["log_distance"] - terms["noise_distance"] / 2 + 2.5 * terms["linear_distance"]
    total = total + terms["frame_distance"] + terms["adversarial_loss"]
    total = total + terms["feature_distance"] + terms["discriminator_loss"]
    torch.testing.assert_close(terms["loss"], total)
    scores = [float(sum(j.score[:1].mean() for j in side)) / 5 for side in (real, decoded)]
    assert float(terms["score_real"]) == pytest.approx(scores[0], abs=1e-5)
    assert float(terms["score_fake"]) == pytest.approx(scores[1], abs=1e-5)


def test_without_a_game_the_discriminators_rest(vae: AudioVAE) -> None:
    game, terms = step(vae, CELL, loops(), plays=False)
    names = ("log", "linear", "noise", "frame")
    assert set(terms) == {"loss", *(f"{name}_distance" for name in names)}
    assert not gradients(game.discriminators).any()
    assert all(p.grad is not None for p in game.discriminators.parameters())
    assert gradients(vae).norm() > 0


@pytest.mark.parametrize("name", ["classical", "non-saturating", "hinge", "least-squares"])
def test_a_few_steps_make_discriminators_that_the_decoder_then_moves(
    vae: AudioVAE, name: str
) -> None:
    """Both sides improve: the scores part, and a step of the decoder raises its score."""
    chosen, x = (
        weights(feature_matching=0.0, spectral=0.0).model_copy(update={"objective": name}),
        loops(),
    )
    game = Game(vae, chosen, seed=0)
    optimizer = torch.optim.AdamW(game.discriminators.parameters(), 2e-3, betas=(0.8, 0.99))

    def terms() -> dict[str, torch.Tensor]:
        return decoder_loss(game, x, chosen, torch.Generator().manual_seed(1), True)

    first = terms()
    for _ in range(20):
        optimizer.zero_grad()
        terms()["loss"].backward()
        optimizer.step()
    taught = terms()
    assert taught["discriminator_loss"] < 0.9 * first["discriminator_loss"]
    assert taught["score_real"] > taught["score_fake"]
    game.zero_grad()
    taught["loss"].backward()
    with torch.no_grad():
        size = gradients(vae).norm()
        for p in decoder_side(vae).values():
            p -= 0.02 * p.grad / size
    after = terms()
    assert after["adversarial_loss"] < taught["adversarial_loss"]
    assert after["score_fake"] > taught["score_fake"]


ODD_LOOPS = {
    "silence": torch.zeros(2, 24 * GRID.hop),
    "constant": torch.full((2, 24 * GRID.hop), 0.9),
    "clipped": torch.sin(torch.arange(2 * 24 * GRID.hop) / 20).mul(5).clamp(-1, 1).view(2, -1),
    "impulse": torch.eye(2, 24 * GRID.hop).roll(500, 1),
}
ODD_LOOPS["all"] = torch.stack([x[0] for x in ODD_LOOPS.values()])


@pytest.mark.parametrize("name", ODD_LOOPS)
def test_odd_loops_do_no_harm(vae: AudioVAE, name: str) -> None:
    """Steps on nothing but odd loops leave everything finite, and both sides able to play."""
    chosen = cell(discriminators=["scale", "period", "stft", "frame"])
    game = Game(vae, chosen, seed=0)
    _, before = step(copy.deepcopy(vae), chosen, loops())
    trained = [p for p in game.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-4, betas=(0.8, 0.99))
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        terms = decoder_loss(game, ODD_LOOPS[name], chosen, generator, True)
        assert all(value.isfinite() for value in terms.values()), terms
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, error_if_nonfinite=True)
        optimizer.step()
    _, terms = step(vae, chosen, loops())
    assert all(value.isfinite() for value in terms.values())
    assert terms["log_distance"] < before["log_distance"] + 1


def test_a_decoder_folder(decoder_folder: Path, audio_vae_folder: Path, loops_folder: Path) -> None:
    assert sorted(p.name for p in decoder_folder.iterdir()) == [
        "config.json", "history.csv", "history.json", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    before, after = AudioVAE.load(audio_vae_folder), AudioVAE.load(decoder_folder)
    changed = {
        name
        for name, value in before.state_dict().items()
        if not torch.equal(value, after.state_dict()[name])
    }
    assert changed
    assert changed <= set(decoder_side(before)), "neither the encoder nor a constant"
    x = torch.from_numpy(LoopDataset(loops_folder, "test").audio()[:2])
    for one, other in zip(before.encode(x), after.encode(x), strict=True):
        assert torch.equal(one, other)
    config = read_json(decoder_folder / "config.json")
    assert config["audio_vae"] == model_fingerprint(audio_vae_folder)
    assert config["preparation"] == read_json(audio_vae_folder / "config.json")["preparation"]
    assert config["cell"]["objective"] == "hinge"
    metrics = read_metrics(decoder_folder / "metrics.json")
    assert metrics["parameters"].value == sum(p.numel() for p in decoder_side(after).values())
    assert metrics["log_distance"].metric.better == "lower"


def test_its_history_has_every_curve_and_its_meaning(decoder_folder: Path) -> None:
    history = pd.read_csv(decoder_folder / "history.csv")
    meaning = json.loads((decoder_folder / "history.json").read_text())
    assert set(history) - {"loops_seen", "split"} == set(meaning)
    assert set(meaning) == {
        "loss", "log_distance", "linear_distance", "noise_distance", "frame_distance",
        "adversarial_loss", "feature_distance",
        "discriminator_loss", "score_real", "score_fake", "discriminator_accuracy",
        "gradient_norm_decoder", "gradient_norm_discriminators",
    }  # fmt: skip
    train = history[history["split"] == "train"]
    warmup = train["loops_seen"] <= small_params().finetune_decoder.warmup_loops
    assert warmup.any()
    game = train[["adversarial_loss", "score_real", "discriminator_accuracy", "feature_distance"]]
    assert game[warmup].isna().to_numpy().all()
    assert game[~warmup].notna().to_numpy().all()
    assert (train["gradient_norm_decoder"] > 0).all()
    assert (train["gradient_norm_discriminators"] > 0).tolist() == (~warmup).tolist()
    assert train["discriminator_accuracy"].dropna().between(0, 1).all()


class PowerCut(Exception):
    pass


def test_an_interrupted_tuning_ends_with_the_same_bytes(
    loops_folder: Path, audio_vae_folder: Path, decoder_folder: Path, tmp_path: Path
) -> None:
    def cut(metrics, seen):
        if seen >= 76:  # amid the game
            raise PowerCut

    place = (loops_folder, audio_vae_folder, tmp_path / "vae")
    with pytest.raises(PowerCut):
        finetune_small_decoder(*place, log=cut)
    assert len(list(tmp_path.glob("checkpoints/*/last.pt"))) == 1
    finetune_small_decoder(*place)
    for file in ("model.safetensors", "history.csv", "metrics.json", "config.json"):
        assert (tmp_path / "vae" / file).read_bytes() == (decoder_folder / file).read_bytes()


CHANGES = {
    "the crop": ({"crop_fraction": 0.05}, {}),
    "the warm-up": ({"warmup_loops": 0}, {}),
    "the discriminators' learning rate": ({"discriminator_learning_rate": 1e-3}, {}),
    "the discriminators": ({}, {"discriminators": ["scale", "period", "frame"]}),
    "the objective": ({}, {"objective": "least-squares"}),
    "the adversarial weight": ({}, {"adversarial": 0.0}),
    "the feature weight": ({}, {"feature_matching": 0.0}),
    "the spectral weight": ({}, {"spectral": 3.0}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_setting_changes_the_decoder(
    loops_folder: Path, audio_vae_folder: Path, decoder_folder: Path, tmp_path: Path, what: str
) -> None:
    section, own = CHANGES[what]
    params = small_params().finetune_decoder
    chosen = params.cell("kl")
    known_weights = {k: v for k, v in own.items() if hasattr(chosen.weights, k)}
    chosen = chosen.model_copy(
        update={"weights": chosen.weights.model_copy(update=known_weights)}
        | {k: v for k, v in own.items() if k not in known_weights}
    )
    params = params.model_copy(update=section)
    folder = tmp_path / "vae"
    finetune_small_decoder(loops_folder, audio_vae_folder, folder, params=params, cell=chosen)
    one, two = (AudioVAE.load(place).state_dict() for place in (folder, decoder_folder))
    assert any(not torch.equal(value, two[name]) for name, value in one.items())


def test_the_task_gives_the_sides_their_rates(loops_folder: Path, audio_vae_folder: Path) -> None:
    params = small_params().finetune_decoder
    task = DecoderTask(
        loops_folder, audio_vae_folder, params, params.cell("kl"), 0, torch.device("cpu")
    )
    decoder, discriminators = task.groups(0.5)
    assert (decoder.name, discriminators.name) == ("decoder", "discriminators")
    assert (decoder.learning_rate, discriminators.learning_rate) == (0.5, 3e-4)
    names = {id(p): name for name, p in task.module.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in decoder.parameters} == {"vae"}
    assert not any("encoder" in names[id(p)] for p in decoder.parameters)


def test_half_of_the_batch_is_judged() -> None:
    assert [judged_rows(n) for n in (1, 2, 3, 8)] == [1, 1, 2, 4]


def history(n: int = PATIENCE, step: int = 200, **values: float) -> list[dict[str, float]]:
    row = {
        "discriminator_accuracy": 0.8, "score_real": 0.3, "score_fake": -0.4,
        "gradient_norm_decoder": 1.0, "gradient_norm_discriminators": 1.0,
    }  # fmt: skip
    return [{"loops_seen": step * i, "split": "train"} | row | values for i in range(n)]


@pytest.mark.parametrize(
    ("rows", "findings"),
    [
        (history(), set()),
        ([{"loops_seen": 3, "split": "train", "loss": 1.0}] * 9, set()),
        (history(discriminator_accuracy=1.0), {"perfect"}),
        (history(PATIENCE - 1, discriminator_accuracy=1.0), set()),
        (history()[:1] + history(discriminator_accuracy=1.0)[1:], set()),
        (history()[:1] + history(discriminator_accuracy=1.0), {"perfect"}),
        (history(discriminator_accuracy=0.5), {"chance"}),
        (
            [row | {"loops_seen": i} for i, row in enumerate(history(discriminator_accuracy=0.5))],
            set(),
        ),
        (history(gradient_norm_decoder=1e-9), {"vanished decoder"}),
        (
            history(discriminator_accuracy=1.0, gradient_norm_discriminators=0.0),
            {"perfect", "vanished discriminators"},
        ),
    ],
)
def test_a_collapse_is_one_of_all_the_last_logs(rows: list, findings: set[str]) -> None:
    assert set(collapses(rows)) == findings


def test_a_collapse_is_warned_of_once_with_values_and_a_remedy() -> None:
    watch = CollapseWatch()
    with pytest.warns(UserWarning, match=r"perfect in the last 5 logs.* 800 .*1\.000.*Lower "):
        watch(history(discriminator_accuracy=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(history(PATIENCE + 1, discriminator_accuracy=1.0))
    with pytest.warns(UserWarning, match=r"chance .*scores 0\.30 of real and -0\.40 .*Raise "):
        watch(history(discriminator_accuracy=0.5))


def test_a_training_warns_of_a_collapse(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("techloop.training.collapse.CHANCE", math.inf)
    monkeypatch.setattr("techloop.training.collapse.LEAST_LOOPS", 0)
    with pytest.warns(UserWarning, match="the discriminators were at chance"):
        finetune_small_decoder(loops_folder, audio_vae_folder, tmp_path / "vae")
