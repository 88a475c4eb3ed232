"""Settings of data: labels in files, training and validation sets, batches, element energies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from transip.config.base import Count, Fraction, PositiveInt, Seed, Settings


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
    """Training and validation data: packed stores (NAME.pack), and how they are split."""

    train: tuple[str, ...] = Field(description="packs to train on")
    validation: tuple[str, ...] = Field(
        default=(), description="packs to validate with; empty: compositions are held out of `train`"
    )
    validation_fraction: Fraction = Field(default=0.1, description="fraction of `train` that is held out")
    split: Literal["random", "hash"] = Field(
        default="random",
        description="how compositions are held out. random: at random until the fraction is reached; hash: by a hash "
        "of the atoms, so that a composition stays on its side when packs are added (for models trained in stages)",
    )
    max_val_structures: PositiveInt = Field(
        default=1000,
        description="number of held-out structures, at most, on which the model is evaluated during training; "
        "`transip evaluate` takes all",
    )
    max_train: int | None = Field(
        default=None, gt=0, description="train on a random subset of this many structures; None: on all"
    )
    unlabelled: tuple[str, ...] = Field(
        default=(),
        description="packs of which only the geometries are used, for the latent loss between two views; structures "
        "whose composition is held out for validation are left out",
    )
    replay: tuple[str, ...] = Field(
        default=(),
        description="labelled packs of the same level of theory, usually those on which `init_from` was trained; some "
        "of their structures are in each batch, so that the model does not forget them. Structures whose composition "
        "is held out are left out",
    )
    seed: Seed = Field(default=0, description="seed of the split and of subsets")


class BatchSettings(Settings):
    """How structures are put into batches: whichever limit is met first closes a batch."""

    batch_size: PositiveInt = Field(default=16, description="structures in a batch, at most, per process")
    unlabelled: Count = Field(
        default=0,
        description="structures of `data.unlabelled` in addition to them, each in two views, at most, per process; "
        "the limits below hold for them, too, apart from the labelled ones",
    )
    replay: Count = Field(
        default=0,
        description="structures of `data.replay` in addition to them, at most, per process; in the losses each counts "
        "like one of `data.train`, and the limits below hold for them, too, apart from the others",
    )
    max_atoms: PositiveInt = Field(default=4096, description="atoms in a batch, at most, per process")
    pairs: PositiveInt = Field(
        default=1_000_000,
        description="padded atoms² in a batch, at most: structures × (largest structure)²; bounds attention between "
        "molecules' atoms, in crystals and liquids without the images, of which there may be ten times as many",
    )
    bucket_window: PositiveInt = Field(
        default=8,
        description="structures are sorted by size within windows of this many batches: less padding, slightly less "
        "random batches; 1: no sorting",
    )


class ReferenceSettings(Settings):
    """Element energies that are subtracted before and added after the network."""

    kind: Literal["least-squares", "given", "omol25"] = Field(
        default="least-squares",
        description="least-squares: fitted to the training data in float64; given: in `values`; omol25: OMol25's table",
    )
    values: dict[str, float] = Field(default={}, description="element symbol → eV, for kind `given`")
