"""The typed sections of params.yaml, one per stage. An unknown or missing key is an error.

No value is computed here: the code of the stages does not depend on this module.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails
from ruamel.yaml import YAML

from techloop.grid import Grid
from techloop.params_text import in_plain_words, read_yaml
from techloop.preparation_config import PreparationConfig

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Objective = Literal["trajectory-mean", "trajectory-sample", "posterior"]
AdversarialObjective = Literal["classical", "non-saturating", "hinge", "least-squares"]
Discriminator = Literal["scale", "period", "stft", "frame"]


class Section(BaseModel):
    """A section of params.yaml: every key is required, and no other is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


Cell = TypeVar("Cell", bound=Section)


class CellsSection(Section, Generic[Cell]):
    """A section whose stage runs once per cell; cells share all values beside `cells`."""

    cells: dict[str, Cell]

    def cell(self, name: str) -> Cell:
        """One cell.

        Raises:
            ValueError: no cell has that name.
        """
        if name not in self.cells:
            raise ValueError(
                f"cell: {name!r} is not one of {', '.join(self.cells)}, as listed in params.yaml"
            )
        return self.cells[name]

    def logged(self, cell: str) -> dict[str, object]:
        """The values that one cell's run is logged with: the shared ones, and its own."""
        return {**self.model_dump(exclude={"cells"}), "cell": self.cell(cell).model_dump()}


def _every_key(section: type) -> Callable[[object], object]:
    """A check that a section has every field of a dataclass, also those with a default."""

    def check(values: object) -> object:
        if isinstance(values, Mapping):
            names = [field.name for field in dataclasses.fields(section)]
            missing = [
                InitErrorDetails(type="missing", loc=(n,), input=values)
                for n in names
                if n not in values
            ]
            if missing:
                raise ValidationError.from_exception_data(section.__name__, missing)
        return values

    return check


class SynthParams(Section):
    """The built-in drum machine."""

    loops: Count


class FolderParams(Section):
    """A folder of audio files."""

    group: Literal["author", "folder", "file"]


class FSLDParams(Section):
    """The Freesound Loop Dataset, and what of it is taken."""

    licences: list[str]
    genres: list[str]
    min_bpm: Annotated[float, Field(ge=0)]
    max_bpm: Positive


class PrepareLoops(Section):
    """Section `prepare_loops`."""

    source: Literal["synth", "folder", "fsld"]
    path: str
    synth: SynthParams
    folder: FolderParams
    fsld: FSLDParams
    recipe: Annotated[PreparationConfig, BeforeValidator(_every_key(PreparationConfig))]
    max_similarity: Fraction
    train_fraction: Fraction
    validation_fraction: Fraction
    shard_mb: Count


class Training(Section):
    """How a model is trained; counted in loops seen, so that batch size keeps its meaning."""

    loops: Count
    batch_size: Count  # or all loops, where they are fewer
    learning_rate: Positive
    validate_every_loops: Count
    checkpoint_every_loops: Count


class AudioVAESize(Section):
    """Sizes of the audio VAE."""

    latent_dim: Annotated[int, Field(ge=2)]  # the level, and something beside
    channels: Count
    blocks: Count


class AudioVAECell(Section):
    """One regulariser and its weight."""

    regulariser: Literal["kl", "wae", "wae-gan"]
    weight: Positive
    warmup_loops: Annotated[int, Field(ge=0)]
    free_nats: Annotated[float, Field(ge=0)]


class TrainAudioVAE(CellsSection[AudioVAECell]):
    """Section `train_audio_vae`."""

    model: AudioVAESize
    training: Training
    crop_fraction: Annotated[float, Field(gt=0, le=1)]


class AdversarialWeights(Section):
    """Weights of the terms of the decoder's loss."""

    adversarial: Annotated[float, Field(ge=0)]
    feature_matching: Annotated[float, Field(ge=0)]
    spectral: Annotated[float, Field(ge=0)]


class DecoderCell(Section):
    """Whose decoder is tuned against which discriminators, by which objective."""

    regulariser: str
    discriminators: Annotated[list[Discriminator], Field(min_length=1)]
    objective: AdversarialObjective
    weights: AdversarialWeights


class FinetuneDecoder(CellsSection[DecoderCell]):
    """Section `finetune_decoder`."""

    training: Training
    crop_fraction: Annotated[float, Field(gt=0, le=1)]
    warmup_loops: Annotated[int, Field(ge=0)]
    discriminator_learning_rate: Positive


class ExtractLatents(Section):
    """Section `extract_latents`."""

    batch_size: Count
    shard_mb: Count


class LatentVAESize(Section):
    """Sizes of the latent VAE, the same in every cell."""

    latent_dim: Count
    channels: Count
    blocks: Count


class LatentVAECell(Section):
    """One cell of the study."""

    regulariser: str
    objective: Objective
    length: Count


class InstrumentCell(LatentVAECell):
    """The same in the pipeline: also, which audio VAE plays it."""

    plays: str  # a folder below data/


class TrainLatentVAE(CellsSection[InstrumentCell]):
    """Section `train_latent_vae`."""

    model: LatentVAESize
    training: Training
    warmup_loops: Annotated[int, Field(ge=0)]
    free_nats: Annotated[float, Field(ge=0)]


class EvaluateReconstruction(Section):
    """Section `evaluate_reconstruction`."""

    loops: Count
    examples: Count


class EvaluateDescriptors(Section):
    """Section `evaluate_descriptors`."""

    loops: Count
    bootstrap: Count


class EvaluatePrior(Section):
    """Section `evaluate_prior`."""

    loops: Count
    examples: Count


class EvaluateSmoothness(Section):
    """Section `evaluate_smoothness`."""

    paths: Count
    points: Count


class EvaluateGeneration(Section):
    """Section `evaluate_generation`."""

    loops: Count
    examples: Count


class EvaluateControls(Section):
    """Section `evaluate_controls`."""

    loops: Count
    probes: Count


class StudyParams(Section):
    """Section `study`: all combinations of these."""

    regulariser: Annotated[list[str], Field(min_length=1)]
    objective: Annotated[list[Objective], Field(min_length=1)]
    length: Annotated[list[Count], Field(min_length=1)]
    seed: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    loops: Count


class VAEMNIST(Section):
    """Section `vae_mnist`."""

    path: str


class Params(Section):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0)]
    grid: Annotated[Grid, BeforeValidator(_every_key(Grid))]
    prepare_loops: PrepareLoops
    train_audio_vae: TrainAudioVAE
    extract_latents: ExtractLatents
    finetune_decoder: FinetuneDecoder
    train_latent_vae: TrainLatentVAE
    evaluate_reconstruction: EvaluateReconstruction
    evaluate_descriptors: EvaluateDescriptors
    evaluate_prior: EvaluatePrior
    evaluate_smoothness: EvaluateSmoothness
    evaluate_generation: EvaluateGeneration
    evaluate_controls: EvaluateControls
    study: StudyParams
    vae_mnist: VAEMNIST

    def logged(self, section: str, cell: str | None = None) -> dict[str, object]:
        """The values that a stage's run is logged with: seed, grid and its section.

        Args:
            section: name of the section, which is the stage's.
            cell: only the values of this cell, where the section has several.
        """
        values: Section = getattr(self, section)
        if cell is not None:
            assert isinstance(values, CellsSection), f"{section} has no cells"
            own = values.logged(cell)
        else:
            own = values.model_dump()
        return {"seed": self.seed, "grid": dataclasses.asdict(self.grid), **own}


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: the file is missing or not valid YAML; a value is unknown, missing or wrong
            (each is named with its place, and what may stand there); the grid is impossible; a
            cell names a regulariser, a length or a decoder that does not exist.
    """
    return check_params(read_yaml(path, YAML(typ="safe")), path)


def check_params(raw: object, where: str | Path) -> Params:
    """The checked values of a params.yaml.

    Args:
        raw: nested mappings, as read.
        where: what an error calls them.

    Raises:
        ValueError: see `load_params`.
    """
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: {' '.join(map(in_plain_words, error.errors()))}") from None
    # Mistakes that would otherwise be noticed only once the earlier stages have run for long:
    if mistakes := " ".join(_contradictions(params)):
        raise ValueError(f"{where}: {mistakes}")
    return params


def _contradictions(params: Params) -> Iterator[str]:
    """Values that are right each by itself and wrong together, a sentence each."""
    tuning, regularisers = params.finetune_decoder, ", ".join(params.train_audio_vae.cells)
    if tuning.cells and tuning.warmup_loops >= tuning.training.loops:
        yield (
            f"`finetune_decoder.warmup_loops` is {tuning.warmup_loops} of the training's "
            f"{tuning.training.loops} loops, so no discriminator would take part; lower it."
        )
    places: dict[str, DecoderCell | InstrumentCell] = {
        f"{section}.cells.{name}": cell
        for section in ("finetune_decoder", "train_latent_vae")
        for name, cell in getattr(params, section).cells.items()
    }
    for place, cell in places.items():
        if cell.regulariser not in params.train_audio_vae.cells:
            yield (
                f"`{place}.regulariser` is {cell.regulariser!r}, which is not one of "
                f"{regularisers}, the cells of train_audio_vae."
            )
        if isinstance(cell, DecoderCell):
            if len(set(kinds := cell.discriminators)) < len(kinds):
                yield f"`{place}.discriminators` is {', '.join(kinds)}; list each kind once."
            continue
        try:
            params.grid.check_length(cell.length)
        except ValueError as error:
            yield f"`{place}`: {error}"
        # A decoder plays the latents of the audio VAE that it was tuned from, and no others.
        tuned = [k for k, other in tuning.cells.items() if other.regulariser == cell.regulariser]
        playable = [f"audio_vae/{cell.regulariser}", *(f"decoder/{name}" for name in tuned)]
        if cell.plays not in playable:
            yield (
                f"`{place}.plays` is {cell.plays!r}; latents of the regulariser {cell.regulariser} "
                f"are played by {' or '.join(playable)}."
            )
