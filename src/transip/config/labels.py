"""Settings of a labelling campaign."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from transip.config.base import NonNegative, PositiveFloat, PositiveInt, Seed, Settings

Domain = Literal["neutral_organics", "biomolecules", "elytes", "metal_complexes", "reactivity", "liquids", "pairs"]
Choices = Annotated[tuple[NonNegative, ...], Field(min_length=1)]


class DomainSettings(Settings):
    """One chemical domain of a labelling campaign."""

    domain: Domain
    """which molecules are drawn: those of a domain of OMol25 (elytes: ions and solvents of electrolytes), liquids,
    which are periodic boxes of water, or pairs of molecules and ions from contact to 12 Å, and each of them alone"""
    structures: PositiveInt
    """number of labelled structures wanted from this domain"""
    smiles: tuple[str, ...] = ()
    """SMILES of molecules of your own, which are drawn instead of the domain's; the domain then only names them. Charge
    and unpaired electrons (high spin) are those of the SMILES"""
    max_atoms: PositiveInt = 60
    """larger molecules are skipped"""
    conformers: PositiveInt = 4
    """conformers per molecule, frames per trajectory, or geometries of a pair and its two members, at most"""
    displacement: Literal["thermal", "gaussian"] = "thermal"
    """how atoms leave their equilibrium. thermal: by vibrations or molecular dynamics at `temperatures`; gaussian: at
    random, atom by atom"""
    temperatures: Choices = (50.0, 100.0, 200.0)
    """temperatures of `displacement: thermal`, K; one is drawn per conformer or trajectory"""
    sigmas: Choices = (0.02, 0.05, 0.1, 0.15)
    """standard deviations of `displacement: gaussian`, Å; one is drawn per structure"""
    max_force: PositiveFloat = 50.0
    """eV/Å; structures with a larger force on any atom are dropped"""


class LabelSettings(Settings):
    """A labelling campaign: molecules → geometries → reference energies and forces (`transip data build`)."""

    method: Literal["gfn2-xtb", "wb97m-v"] = "gfn2-xtb"
    """gfn2-xtb through tblite; wb97m-v/def2-TZVPD through PySCF (extra `dft`)"""
    domains: tuple[DomainSettings, ...]
    """what is labelled, domain by domain"""
    seed: Seed = 0
    """seed of molecules, conformers and displacements"""
    workers: PositiveInt | Literal[-1] = -1
    """number of processes; -1: one per core"""
    backend: Literal["loky", "dask", "ray"] = "loky"
    """joblib backend; dask and ray are for clusters"""
    chunk: PositiveInt = 64
    """a killed campaign resumes after the last full chunk of this many structures"""

    @model_validator(mode="after")
    def _check(self) -> LabelSettings:
        if self.method == "wb97m-v" and any(d.domain == "liquids" and not d.smiles for d in self.domains):
            raise ValueError("wb97m-v labels molecules only: give domain liquids to gfn2-xtb")
        return self
