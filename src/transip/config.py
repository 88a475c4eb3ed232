"""Every setting of transip, declared once with its default and its explanation.

Unknown keys fail before any data are read. The settings reference in the docs is generated from this file.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from transip.errors import InputError

Domain = Literal["neutral_organics", "biomolecules", "elytes", "metal_complexes", "reactivity", "liquids"]
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ---------------------------------------------------------------------------------------------- labels


class DomainSettings(Settings):
    """One chemical domain of a labelling campaign."""

    domain: Domain = Field(
        description="which molecules to draw: domains of OMol25, or liquids, periodic boxes of water"
    )
    structures: PositiveInt = Field(description="labelled structures wanted from this domain")
    smiles: tuple[str, ...] = Field(
        default=(),
        description="molecules of your own, drawn in the place of the domain's, which only names them; "
        "charge and unpaired electrons (high spin) are those of the SMILES",
    )
    max_atoms: PositiveInt = Field(default=60, description="skip molecules with more atoms than this")
    conformers: PositiveInt = Field(default=4, description="conformers per molecule, or frames per trajectory, at most")
    displacement: Literal["thermal", "gaussian"] = Field(
        default="thermal",
        description="thermal: vibrations or molecular dynamics at `temperatures`; gaussian: random, per atom",
    )
    temperatures: tuple[NonNegative, ...] = Field(
        default=(50.0, 100.0, 200.0), min_length=1, description="K, one drawn per conformer or trajectory"
    )
    sigmas: tuple[NonNegative, ...] = Field(
        default=(0.02, 0.05, 0.1, 0.15),
        min_length=1,
        description="Å, one drawn per structure, for `displacement: gaussian`",
    )
    max_force: float = Field(
        default=50.0, gt=0, description="eV/Å; structures with a larger force on any atom are dropped"
    )


class LabelSettings(Settings):
    """A labelling campaign: molecules → geometries → reference energies and forces (`transip data build`)."""

    method: Literal["gfn2-xtb", "wb97m-v"] = Field(
        default="gfn2-xtb", description="gfn2-xtb through tblite; wb97m-v/def2-TZVPD through PySCF (extra `dft`)"
    )
    domains: tuple[DomainSettings, ...] = Field(description="what to label, domain by domain")
    seed: Seed = Field(default=0, description="seed of molecules, conformers and displacements")
    workers: PositiveInt | Literal[-1] = Field(default=-1, description="processes; -1 uses every core")
    backend: Literal["loky", "dask", "ray"] = Field(
        default="loky", description="joblib backend; dask and ray for clusters"
    )
    chunk: PositiveInt = Field(
        default=64, description="structures between two points from which a killed campaign resumes"
    )

    @model_validator(mode="after")
    def _check(self) -> LabelSettings:
        if self.method == "wb97m-v" and any(one.domain == "liquids" and not one.smiles for one in self.domains):
            raise ValueError("wb97m-v labels molecules only: give domain liquids to gfn2-xtb")
        return self


# ---------------------------------------------------------------------------------------------- data


class KeySettings(Settings):
    """Where labels are found in a file; None looks in the calculator results, then under the usual names."""

    energy: str | None = Field(default=None, description="key of the total energy; usual: energy, REF_energy")
    forces: str | None = Field(default=None, description="key of the forces; usual: forces, REF_forces")
    stress: str | None = Field(
        default=None,
        description="key of the stress, in periodic cells, in units of energy / length³; usual: stress, REF_stress",
    )
    charge: str = Field(default="charge", description="key of the total charge in `atoms.info`")
    spin: str = Field(default="spin", description="key of the multiplicity 2S+1 in `atoms.info`")
    domain: str = Field(
        default="data_id", description="key of the chemical domain in `atoms.info`; optional in the file"
    )
    source: str = Field(default="source", description="key of the identifier in `atoms.info`; optional in the file")


class UnitSettings(Settings):
    """Units in which a file's numbers are written; stored and predicted numbers are always eV and Å."""

    energy: Literal["eV", "hartree", "kcal/mol", "kJ/mol"] = Field(default="eV", description="unit of energies")
    length: Literal["angstrom", "bohr"] = Field(default="angstrom", description="unit of positions")
    forces: Literal["eV/angstrom", "hartree/bohr", "kcal/mol/angstrom", "kJ/mol/angstrom"] | None = Field(
        default=None, description="unit of forces; None: energy / length as given above"
    )


class DataSettings(Settings):
    """Training data: packed stores, and how they are split."""

    train: tuple[str, ...] = Field(description="packed stores (NAME.pack)")
    validation: tuple[str, ...] = Field(
        default=(), description="packed stores; empty: split off `train` by composition"
    )
    validation_fraction: Fraction = Field(default=0.1, description="share held out of `train`")
    split: Literal["random", "hash"] = Field(
        default="random",
        description="random: compositions are held out at random until the share is reached; hash: each by a hash of "
        "its atoms, so that it stays on its side when packs are added: for models trained in stages, or on more data",
    )
    max_val_structures: PositiveInt = Field(
        default=1000,
        description="structures that training looks at in between, at most, to keep the best model; "
        "`transip evaluate` looks at all that is held out",
    )
    max_train: int | None = Field(default=None, gt=0, description="train on a random subset of this many structures")
    unlabelled: tuple[str, ...] = Field(
        default=(),
        description="packed stores of which only geometries are used, for the losses between two views; "
        "structures whose composition is held out for validation are left out",
    )
    replay: tuple[str, ...] = Field(
        default=(),
        description="labelled packs of the same level of theory, usually what `init_from` was trained on, of which "
        "each batch shows some, so that it is not forgotten; structures whose composition is held out are left out",
    )
    seed: Seed = Field(default=0, description="seed of the split and of subsets")


class BatchSettings(Settings):
    """How structures are put into batches: whichever limit is met first closes a batch."""

    batch_size: PositiveInt = Field(default=16, description="structures in a batch, at most, per process")
    unlabelled: Count = Field(
        default=0,
        description="structures of `data.unlabelled` beside them, each in two views, at most, per process; "
        "the limits below hold for them too, apart from the labelled ones",
    )
    replay: Count = Field(
        default=0,
        description="structures of `data.replay` beside them, at most, per process; in the losses each counts like one "
        "of `data.train`, and the limits below hold for them too, apart from the others",
    )
    max_atoms: PositiveInt = Field(default=4096, description="atoms in a batch, at most, per process")
    pairs: PositiveInt = Field(
        default=1_000_000,
        description="padded atoms² in a batch, at most: structures × (largest structure)²; bounds attention between "
        "molecules' atoms, in crystals and liquids without the images, of which there may be ten times as many",
    )
    bucket_window: PositiveInt = Field(
        default=8,
        description="sort by size within windows of this many batches: less padding, slightly less random batches",
    )


# ---------------------------------------------------------------------------------------------- model


class ModelSettings(Settings):
    """The Transformer. `preset` and `size` fill in whatever is not given."""

    preset: Literal["default", "paper"] = Field(
        default="default",
        description="default: translation-exact, the best known; paper: plain backbone, absolute coordinates",
    )
    size: Literal["XS", "S", "M", "L"] = Field(default="S", description="fills in width, depth and heads")
    width: PositiveInt = Field(default=128, description="features per atom")
    depth: PositiveInt = Field(default=2, description="attention blocks")
    heads: PositiveInt = Field(default=8, description="attention heads; width / heads must be even")
    forces: Literal["direct", "conservative"] = Field(
        default="conservative",
        description="conservative: −∂E/∂x, exactly the derivative of the energy, and more accurate; direct: read "
        "from the embeddings by a head of their own, twice as fast",
    )
    rotary_values: bool = Field(default=True, description="rotate values too, so that directions reach them")
    distance_bias: bool = Field(default=True, description="add a learned function of distance to the attention logits")
    num_local_layers: Count = Field(
        default=2, description="blocks, evenly spread, that show each atom its surroundings within 4 Å"
    )
    num_rbf: Annotated[int, Field(ge=2)] = Field(
        default=12, description="Gaussians over which convolutions and pair forces spread a distance"
    )
    angular_channels: Count = Field(
        default=64, description="sums over the angles between neighbours, of each degree, that each convolution shows"
    )
    l_max: Literal[1, 2, 3] = Field(
        default=2, description="1: sums of cosines; 2: of their second Legendre polynomial, too; 3: of their third"
    )
    edge_force_head: bool = Field(
        default=True, description="with direct forces: add forces along the lines between atoms within 4 Å"
    )
    cutoff: float | None = Field(
        default=None,
        ge=4.0,  # as far as convolutions see
        description="Å beyond which atoms do not see each other, fading smoothly towards it; needed for periodic "
        "cells; None: every atom sees all others of its molecule",
    )
    absolute_features: bool = Field(
        default=False, description="Fourier features of the centred positions in the embedding"
    )
    min_frequency: float = Field(default=0.3, gt=0, description="rad/Å, shortest initial frequency vector")
    max_frequency: float = Field(default=6.0, gt=0, description="rad/Å, longest initial frequency vector")
    fixed_representation: bool = Field(
        default=False, description="read the last embedding as ¼ scalars and ¾ vectors (for `latent.action: fixed`)"
    )

    @property
    def has_edge_force_head(self) -> bool:
        """Whether `edge_force_head` has an effect: a gradient or a fixed representation leaves no room for it."""
        return self.edge_force_head and self.forces == "direct" and not self.fixed_representation

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, given: Any, handler: ModelWrapValidatorHandler[ModelSettings]) -> ModelSettings:
        if not isinstance(given, dict):
            return handler(given)
        fill = SIZES.get(str(given.get("size", "S")), {}) | PRESETS.get(str(given.get("preset", "default")), {})
        settings = handler(fill | given)
        if not {"size", "preset"} & set(given):  # then what they fill in was not asked for; see `Recipe.settled`
            settings.model_fields_set.intersection_update(given)
        return settings

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")
        if self.num_local_layers > self.depth:
            raise ValueError(f"num_local_layers {self.num_local_layers} must not exceed depth {self.depth}")
        if self.cutoff is not None and self.absolute_features:
            raise ValueError("a cutoff needs absolute_features: false, or all atoms would still see the centre")
        if self.fixed_representation and self.width % 4:
            raise ValueError("fixed_representation needs a width divisible by 4")
        return self


SIZES: dict[str, dict[str, int]] = {
    "XS": {"width": 64, "depth": 2, "heads": 4},
    "S": {"width": 128, "depth": 2, "heads": 8},
    "M": {"width": 384, "depth": 12, "heads": 12},
    "L": {"width": 768, "depth": 16, "heads": 16},
}
PRESETS: dict[str, dict[str, bool | int | str]] = {
    "default": {},
    "paper": {
        "forces": "direct",
        "rotary_values": False,
        "distance_bias": False,
        "num_local_layers": 0,
        "angular_channels": 0,
        "edge_force_head": False,
        "absolute_features": True,
    },
}


# ---------------------------------------------------------------------------------------------- objective


class LatentSettings(Settings):
    """Latent equivariance: a network predicts the embedding of a rotated view from the unrotated one's."""

    weight: NonNegative = Field(default=0.0, description="weight of the loss; 0 switches it off")
    level: Literal["atoms", "pooled"] = Field(
        default="atoms", description="per atom, or the mean over atoms (the paper)"
    )
    layers: tuple[int, ...] = Field(
        default=(-1,), min_length=1, description="blocks after which embeddings are compared; -1 is the last"
    )
    distance: Literal["mse", "cosine", "infonce"] = Field(
        default="mse", description="between predicted and found embedding"
    )
    temperature: float = Field(default=0.1, gt=0, description="of InfoNCE")
    action: Literal["mlp", "fixed"] = Field(
        default="mlp", description="mlp: learned from the rotation; fixed: scalars stay, vectors are rotated"
    )
    rotation: Literal["matrix", "6d", "quaternion"] = Field(
        default="matrix", description="how the MLP sees the rotation"
    )
    hidden: PositiveInt = Field(default=256, description="hidden width of the MLP")
    stop_gradient: bool = Field(default=False, description="treat the rotated view's embedding as a constant target")
    warmup: Fraction = Field(default=0.3, description="share of training over which the weight rises from 0")


class ObjectiveSettings(Settings):
    """What training minimises. One set of switches gives the method and every control."""

    augment: bool = Field(default=True, description="rotate each structure at random in each view")
    mirror: bool = Field(
        default=True,
        description="with `augment`, turn half of the molecules into their mirror images: the same physics",
    )
    views: Literal[1, 2] = Field(default=1, description="2: each structure is seen in two orientations a step")
    second_view: Fraction = Field(default=1.0, description="share of the batch that gets the second view")
    second_view_labels: bool = Field(
        default=True,
        description="false: labels are learned from the first view alone, and only blocks that `latent.layers` or "
        "`consistency` need see the second",
    )
    energy_weight: NonNegative = Field(default=8.0, description="weight of |ΔE| / atoms / scale")
    force_weight: NonNegative = Field(default=1.0, description="weight of ‖ΔF‖₂ / scale, mean over atoms")
    stress_weight: NonNegative = Field(
        default=1.0,
        description="weight of ‖Δσ‖ · volume / atoms / scale where there are labels; conservative forces only",
    )
    equigrad_weight: NonNegative = Field(
        default=0.0, description="weight of ‖∂E/∂rotation‖ / scale (Orb-v3); conservative forces only"
    )
    consistency: NonNegative = Field(
        default=0.0,
        description="weight of the distance between the predictions for both views, measured like errors of energy "
        "and forces, with their weights: asks the outputs what `latent` asks the embeddings",
    )
    latent: LatentSettings = Field(default_factory=LatentSettings, description="latent equivariance; needs two views")

    @property
    def comparison(self) -> str:
        """The setting, if any, by which two views of a structure are compared."""
        return "latent.weight" if self.latent.weight else "consistency" if self.consistency else ""

    @model_validator(mode="after")
    def _check(self) -> ObjectiveSettings:
        if self.comparison and not self.augment:
            raise ValueError(f"{self.comparison} > 0 needs rotated views: set objective.augment to true")
        if not self.second_view_labels and not (self.comparison and self.views == 2):
            raise ValueError(
                "second_view_labels: false leaves the second view without a use: "
                "set views to 2, and latent.weight or consistency above 0"
            )
        return self


# ---------------------------------------------------------------------------------------------- training


class OptimizerSettings(Settings):
    """Muon for the matrices inside the blocks, AdamW for everything else."""

    name: Literal["muon", "adamw"] = Field(default="muon", description="adamw uses AdamW for the matrices too")
    learning_rate: float = Field(default=2e-3, gt=0, description="AdamW's peak learning rate")
    muon_learning_rate: float = Field(default=0.015, gt=0, description="Muon's peak learning rate")
    momentum: Fraction = Field(default=0.95, description="Muon's momentum")
    weight_decay: NonNegative = Field(default=0.0, description="decoupled weight decay of matrices")
    warmup: Fraction = Field(default=0.02, description="share of training with linearly rising learning rate")
    min_lr_ratio: Fraction = Field(
        default=0.01, description="final learning rate as a share of the peak, reached along a cosine"
    )
    grad_clip_norm: float = Field(default=10.0, gt=0, description="largest gradient norm")


class TrainingSettings(Settings):
    """How long, how fast, and how often to look."""

    steps: int | None = Field(default=None, gt=0, description="optimiser steps; None: until `minutes` are over")
    minutes: float | None = Field(
        default=None, gt=0, description="wall-time budget; the schedule follows it if `steps` is None"
    )
    batch: BatchSettings = Field(default_factory=BatchSettings, description="what goes into one step")
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings, description="optimiser and schedule")
    grad_accumulation: PositiveInt = Field(default=1, description="batches per optimiser step")
    ema_decay: Fraction = Field(
        default=0.99, description="decay of the averaged weights that are evaluated and saved; 0: none"
    )
    evaluate_every: PositiveInt = Field(default=500, description="steps between evaluations")
    checkpoint_every: PositiveInt = Field(default=500, description="steps between checkpoints")
    log_every: PositiveInt = Field(default=20, description="steps between lines of metrics.jsonl")
    early_stopping_patience: int | None = Field(
        default=None, gt=0, description="stop after this many evaluations without a better force MAE"
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="bf16: autocast matrix products (angles stay float32)"
    )
    compile: bool = Field(
        default=False,
        description="compile the network: steps take up to a sixth less time, up to a quarter with conservative "
        "forces, after one to five minutes of compiling, once per machine and network; needs a C++ compiler on CPUs",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="a batch whose loss or gradient is not finite never changes the weights; stop: the run ends; "
        "skip: it goes on without the batch, says so and logs it, but ends after ten such batches in a row",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(default=(), description="also log there (extras)")
    seed: Seed = Field(default=0, description="seed of weights, batches and rotations")

    @model_validator(mode="after")
    def _check(self) -> TrainingSettings:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either training.steps or training.minutes")
        return self


class ReferenceSettings(Settings):
    """Element energies that are subtracted before and added after the network."""

    kind: Literal["least-squares", "given", "omol25"] = Field(
        default="least-squares",
        description="fitted to the training data in float64, given in `values`, or OMol25's table",
    )
    values: dict[str, float] = Field(default={}, description="element symbol → eV, for kind `given`")


class FineTuningSettings(Settings):
    """What is kept of the model that training starts from (`init_from`)."""

    frozen_blocks: int | None = Field(
        default=None,
        ge=0,
        description="keep the embedding and this many blocks, from the first on, as they are; elements, charges and "
        "multiplicities that the model has not seen are learned all the same; None: train everything",
    )
    lora_rank: Count = Field(
        default=0,
        description="low-rank adapters (LoRA): keep embedding and blocks as they are, but add a learned matrix of this "
        "rank to each matrix of attention and MLP of the blocks that are not frozen; merged when the model is saved; "
        "0: none",
    )
    alpha: float = Field(default=8.0, gt=0, description="adapters are scaled by alpha / lora_rank")
    references: Literal["auto", "keep", "refit"] = Field(
        default="auto",
        description="element energies. keep: the model's, and fitted ones for elements that it has not seen; refit: "
        "fitted to what the model's predictions leave of the new energies; auto: keep if the level of theory is the "
        "same, else refit",
    )


class Recipe(Settings):
    """A training recipe (`transip train`)."""

    name: str = Field(description="of the run; its folder is runs/NAME unless given")
    data: DataSettings = Field(description="what to learn from")
    model: ModelSettings = Field(default_factory=ModelSettings, description="the network")
    init_from: str | None = Field(
        default=None,
        description="trained model whose weights, element energies and scale training begins with: a folder, a shipped "
        "model's name, or owner/name on the Hugging Face Hub; `model` is then that model's, but `forces` may differ",
    )
    fine_tuning: FineTuningSettings = Field(
        default_factory=FineTuningSettings, description="what is kept of the model `init_from`"
    )
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings, description="the loss and its controls")
    references: ReferenceSettings = Field(default_factory=ReferenceSettings, description="element energies")
    training: TrainingSettings = Field(description="the run")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.name in ("", ".", "..") or not self.name.isprintable() or set(self.name) & set("/\\"):
            raise ValueError(f"name {self.name!r} cannot be that of a folder in runs/")
        if self.init_from is None and self.fine_tuning != FineTuningSettings():
            raise ValueError("fine_tuning says what to keep of a trained model: give init_from")
        if self.init_from is not None and self.references != ReferenceSettings():
            raise ValueError("with init_from, element energies are that model's: see fine_tuning.references")
        self._check_views()
        if self.settled:
            self._check_model()
        return self

    @property
    def settled(self) -> bool:
        """Whether `model` is all that is meant: with `init_from`, what it does not say is as in that model."""
        return self.init_from is None or set(ModelSettings.model_fields) <= self.model.model_fields_set

    def _check_model(self) -> None:
        latent, frozen = self.objective.latent, self.fine_tuning.frozen_blocks
        if latent.weight and latent.action == "fixed" and not self.model.fixed_representation:
            raise ValueError("latent.action 'fixed' needs model.fixed_representation: true")
        if self.objective.equigrad_weight and self.model.forces != "conservative":
            raise ValueError("objective.equigrad_weight penalises ∂E/∂rotation: it needs model.forces: conservative")
        outside = [k for k in latent.layers if not -self.model.depth <= k < self.model.depth]
        if outside:
            raise ValueError(f"latent.layers {outside} do not exist in a model of depth {self.model.depth}")
        if frozen is not None and frozen > self.model.depth:
            raise ValueError(f"fine_tuning.frozen_blocks {frozen} exceeds the model's depth {self.model.depth}")

    def _check_views(self) -> None:
        packs, number, compared = self.data.unlabelled, self.training.batch.unlabelled, self.objective.comparison
        if number and not packs:
            raise ValueError(f"training.batch.unlabelled {number} has nothing to draw from: give data.unlabelled")
        if bool(self.data.replay) != bool(self.training.batch.replay):
            raise ValueError(
                "data.replay and training.batch.replay go together: which packs, how many structures a batch"
            )
        if packs and not number:
            raise ValueError("data.unlabelled is never seen: set training.batch.unlabelled above 0")
        if packs and not compared:
            raise ValueError(
                "data.unlabelled serves only losses between two views: "
                "set objective.latent.weight or objective.consistency above 0"
            )
        if compared and self.objective.views != 2 and not packs:
            raise ValueError(
                f"objective.{compared} > 0 compares two views: set objective.views to 2, or give data.unlabelled"
            )


# ---------------------------------------------------------------------------------------------- reading

AnySettings = TypeVar("AnySettings", bound=Settings)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which nothing is said twice: PyYAML would forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if name != "<<" and names.count(name) > 1:
                raise ValueError(f"{name!r} stands there twice (line {node.start_mark.line + 1} and after)")
        return super().construct_mapping(node, deep)


def load(kind: type[AnySettings], path: str | Path, overrides: list[str] | None = None) -> AnySettings:
    """Read a YAML file as `kind`, with ``a.b=c`` overrides applied.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, or a value does not fit.
    """
    try:
        values = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except Exception as error:  # tags, dates and depth make PyYAML fail in many ways; none of them is a defect of ours
        raise InputError(f"is not YAML: {str(error) or type(error).__name__}", where=str(path)) from error
    if not isinstance(values, dict):
        raise InputError("is not a recipe: expected `key: value` lines", where=str(path))
    for override in overrides or []:
        _apply(values, override)
    return parse(kind, values, str(path))


def parse(kind: type[AnySettings], values: dict[str, Any], where: str) -> AnySettings:
    """Validate `values` as `kind`.

    Raises:
        InputError: a key is unknown (with the nearest known one) or a value does not fit.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # a misspelt key also leaves the right one missing: name the cause, not the consequence
        problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] != "extra_forbidden":
            bare_word = problem["type"] == "string_type" and isinstance(problem["input"], bool)
            remedy = "write it in quotes: YAML takes words like NO and ON for true or false" if bare_word else ""
            message = problem["msg"].removeprefix("Value error, ")
            raise InputError(message, where=f"{where}, {path}", remedy=remedy) from None
        known = _known_keys(kind, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known settings here: {', '.join(sorted(known))}"
        raise InputError(f"unknown setting {path!r}", where=where, remedy=remedy) from None


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"override {override!r} has no '='", remedy="write --set training.steps=1000")
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"override {override!r}: {parent!r} is a value, not a group of settings")
    try:
        values[last] = yaml.safe_load(text)
    except Exception as error:  # as above
        raise InputError(f"override {override!r}: the value is not YAML", remedy="quote it") from error


def _known_keys(kind: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        annotation = kind.model_fields[part].annotation
        if get_origin(annotation) is tuple:
            annotation = get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        kind = annotation
    return list(kind.model_fields)
