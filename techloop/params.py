"""The typed sections of params.yaml, each a stage's. An unknown or missing key is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from techloop.grid import Grid

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Objective = Literal["trajectory-mean", "trajectory-sample", "posterior"]


class Section(BaseModel):
    """A section of params.yaml: every key is required, and no other is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class CellsSection(Section):
    """A section whose stage runs once a cell, with what all cells share beside `cells`."""

    cells: Mapping[str, Any]

    def cell(self, name: str) -> Any:
        """One cell.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.cells:
            raise ValueError(
                f"cell: {name!r} is none of {', '.join(self.cells)}, as listed in params.yaml"
            )
        return self.cells[name]

    def of(self, name: str) -> dict[str, Any]:
        """All that one cell's stage is told."""
        return {**self.model_dump(exclude={"cells"}), "cell": self.cell(name).model_dump()}


class GridParams(Section):
    """The beat grid, see `techloop.grid.Grid`."""

    sample_rate_hz: Count
    hop: Count
    bpm: Positive
    beats_per_bar: Count
    bars: Count


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


class PreparationParams(Section):
    """What turns a recording into loops, see `techloop.data.loops.PreparationConfig`."""

    min_bpm: Positive
    max_bpm: Positive
    min_confidence: Fraction
    tracker: Literal["librosa", "beat_this"]
    stretch: Literal["resample", "preserve_pitch"]
    loudness_lufs: float
    silence_lufs: float
    max_clipped_share: Fraction
    max_dc_offset: Fraction


class PrepareLoops(Section):
    """Section `prepare_loops`."""

    source: Literal["synth", "folder", "fsld"]
    path: str
    synth: SynthParams
    folder: FolderParams
    fsld: FSLDParams
    recipe: PreparationParams
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


class TrainAudioVAE(CellsSection):
    """Section `train_audio_vae`."""

    model: AudioVAESize
    training: Training
    crop_fraction: Annotated[float, Field(gt=0, le=1)]
    cells: dict[str, AudioVAECell]


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


class TrainLatentVAE(CellsSection):
    """Section `train_latent_vae`."""

    model: LatentVAESize
    training: Training
    warmup_loops: Annotated[int, Field(ge=0)]
    free_nats: Annotated[float, Field(ge=0)]
    cells: dict[str, LatentVAECell]


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
    seeds: Count
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
    grid: GridParams
    prepare_loops: PrepareLoops
    train_audio_vae: TrainAudioVAE
    extract_latents: ExtractLatents
    train_latent_vae: TrainLatentVAE
    evaluate_reconstruction: EvaluateReconstruction
    evaluate_descriptors: EvaluateDescriptors
    evaluate_prior: EvaluatePrior
    evaluate_smoothness: EvaluateSmoothness
    evaluate_generation: EvaluateGeneration
    evaluate_controls: EvaluateControls
    study: StudyParams
    vae_mnist: VAEMNIST

    def told(self, section: str, cell: str | None = None) -> dict[str, Any]:
        """What a stage's run is logged with: seed, grid, and its section, or a cell's share."""
        own = getattr(self, section)
        mine = own.of(cell) if cell else own.model_dump()
        return {"seed": self.seed, "grid": self.grid.model_dump(), **mine}

    def studied(self) -> TrainLatentVAE:
        """How a run of the study is trained: as any VAE 2, but for its budget."""
        section, loops = self.train_latent_vae, self.study.loops
        budget = {"loops": loops, "validate_every_loops": loops}
        training = section.training.model_copy(update=budget)
        warmup = {"warmup_loops": min(section.warmup_loops, loops // 3)}
        return section.model_copy(update={"training": training, **warmup})

    def beat_grid(self) -> Grid:
        """The grid that loops are prepared on.

        Raises:
            ValueError: an impossible one.
        """
        return Grid(**self.grid.model_dump())


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: it is not there, is no YAML, has an unknown, missing or wrong value (each named
            with its place, and what may stand there), or names an impossible grid.
    """
    return check_params(read_yaml(path, YAML(typ="safe")), path)


def read_yaml(path: str | Path, yaml: YAML) -> Any:
    """What a YAML file at the top of the repository holds.

    Raises:
        ValueError: it is not there, or is no YAML.
    """
    path = Path(path)
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there; run from the top of the repository, where it lies"
        ) from None
    except YAMLError as error:
        raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None


def check_params(raw: object, where: str | Path) -> Params:
    """The values of a params.yaml, checked.

    Args:
        raw: nested mappings, as read.
        where: what an error calls them.

    Raises:
        ValueError: see `load_params`.
    """
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: {'; '.join(map(_complaint, error.errors()))}.") from None
    grid, audio = params.beat_grid(), params.train_audio_vae
    # What would only be noticed once the stages before have run for long:
    for name, cell in params.train_latent_vae.cells.items():
        place = f"{where}: `train_latent_vae.cells.{name}"
        if cell.regulariser not in audio.cells:
            raise ValueError(
                f"{place}.regulariser` is {cell.regulariser!r}, none of {', '.join(audio.cells)}, "
                "the cells of train_audio_vae"
            )
        try:
            grid.check_length(cell.length)
        except ValueError as error:
            raise ValueError(f"{place}`: {error}") from None
    return params


def _complaint(error: object) -> str:
    """One pydantic error as a person would say it."""
    assert isinstance(error, dict)
    where = ".".join(map(str, error["loc"])) or "the file"
    match error["type"]:
        case "missing":
            return f"`{where}` is missing; no key may be, see the repository's params.yaml"
        case "extra_forbidden":
            return f"`{where}` is no known key; it may be misspelt or from another version"
        case _:
            return f"`{where}` is {error['input']!r}: {error['msg'].lower()}"
