"""Settings of data: labels in files, training and validation sets, batches, element energies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from transip.config.base import Count, Fraction, PositiveInt, Seed, Settings


class KeySettings(Settings):
    """Where labels are found in a file; None looks in the calculator results, then under the usual names."""

    energy: str | None = None
    """key of the total energy; usual: energy, REF_energy"""
    forces: str | None = None
    """key of the forces; usual: forces, REF_forces"""
    stress: str | None = None
    """key of the stress, in periodic cells, in units of energy / length³; usual: stress, REF_stress"""
    charges: str | None = None
    """key of the partial charges of the atoms; usual: charges. Here and in the two below, an empty text means that they
    are not read, and structures may lack what is named"""
    spin_populations: str | None = None
    """key of the unpaired electrons of the atoms; usual: magmoms"""
    dipole: str | None = None
    """key of the dipole moment of molecules, about the origin of the coordinates; usual: dipole"""
    charge: str = "charge"
    """key of the total charge in `atoms.info`"""
    spin: str = "spin"
    """key of the multiplicity 2S+1 in `atoms.info`"""
    domain: str = "data_id"
    """key of the chemical domain in `atoms.info`; optional in the file"""
    source: str = "source"
    """key of the identifier in `atoms.info`; optional in the file"""


class UnitSettings(Settings):
    """Units in which a file's numbers are written; stored and predicted numbers are always eV and Å."""

    energy: Literal["eV", "hartree", "kcal/mol", "kJ/mol"] = "eV"
    """unit of energies"""
    length: Literal["angstrom", "bohr"] = "angstrom"
    """unit of positions"""
    forces: Literal["eV/angstrom", "hartree/bohr", "kcal/mol/angstrom", "kJ/mol/angstrom"] | None = None
    """unit of forces; None: energy / length as given above"""
    dipole: Literal["e*angstrom", "e*bohr", "debye"] | None = None
    """unit of dipole moments; None: e times the length as given above"""


class DataSettings(Settings):
    """Training and validation data: packed stores (NAME.pack), and how they are split."""

    train: tuple[str, ...]
    """packs to train on"""
    validation: tuple[str, ...] = ()
    """packs to validate with; empty: compositions are held out of `train`"""
    validation_fraction: Fraction = 0.1
    """fraction of `train` that is held out"""
    split: Literal["random", "hash"] = "random"
    """how compositions are held out. random: at random until the fraction is reached; hash: by a hash of the atoms, so
    that a composition stays on its side when packs are added (for models trained in stages)"""
    max_val_structures: PositiveInt = 1000
    """number of held-out structures, at most, on which the model is evaluated during training; `transip evaluate` takes
    all of them"""
    max_train: PositiveInt | None = None
    """train on a random subset of this many structures; None: on all"""
    unlabelled: tuple[str, ...] = ()
    """packs of which only the geometries are used, for the latent loss between two views; structures whose composition
    is held out for validation are left out"""
    replay: tuple[str, ...] = ()
    """labelled packs of the same level of theory, usually those on which `init_from` was trained; some of their
    structures are in each batch, so that the model does not forget them. Structures whose composition is held out are
    left out"""
    seed: Seed = 0
    """seed of the split and of subsets; they stay the same when `training.seed` changes"""


class BatchSettings(Settings):
    """How structures are put into batches: whichever limit is met first closes a batch."""

    batch_size: PositiveInt = 16
    """structures in a batch, at most, per process"""
    unlabelled: Count = 0
    """structures of `data.unlabelled` in addition to them, each in two views, at most, per process; the limits below
    hold for them, too, apart from the labelled ones"""
    replay: Count = 0
    """structures of `data.replay` in addition to them, at most, per process; in the losses each counts like one of
    `data.train`, and the limits below hold for them, too, apart from the others"""
    max_atoms: PositiveInt = 4096
    """atoms in a batch, at most, per process"""
    bucket_window: PositiveInt = 8
    """structures are sorted by size within windows of this many batches: less padding, slightly less random batches; 1:
    they are not sorted"""


ReferenceTerm = Literal["charge", "unpaired_electrons", "charge_squared"]


class ReferenceSettings(Settings):
    """Reference energies that are subtracted before and added after the network."""

    kind: Literal["least-squares", "given", "omol25"] = "least-squares"
    """energies of elements. least-squares: fitted to the training data in float64; given: in `values`; omol25: OMol25's
    table"""
    values: dict[str, float] = Field(default={})
    """element symbol → eV, for kind `given`"""
    terms: tuple[ReferenceTerm, ...] = ("charge", "unpaired_electrons")
    """terms of the total charge Q and the multiplicity 2S+1, which are fitted together with elements by least squares,
    whatever `kind` says, where the data determine them. charge: Q; unpaired_electrons: 2S; charge_squared: Q², with
    which molecules with charges of 2 or more fit better, but which does not add up over ions far from each other (two
    cations are no dication); []: none"""
