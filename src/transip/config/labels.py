"""Settings of a labelling campaign."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from transip.config.base import NonNegative, PositiveInt, Seed, Settings

Domain = Literal["neutral_organics", "biomolecules", "elytes", "metal_complexes", "reactivity", "liquids"]


class DomainSettings(Settings):
    """One chemical domain of a labelling campaign."""

    domain: Domain = Field(
        description="which molecules are drawn: those of a domain of OMol25 (elytes: ions and solvents of "
        "electrolytes), or liquids, which are periodic boxes of water"
    )
    structures: PositiveInt = Field(description="number of labelled structures wanted from this domain")
    smiles: tuple[str, ...] = Field(
        default=(),
        description="SMILES of molecules of your own, which are drawn instead of the domain's; the domain then only "
        "names them. Charge and unpaired electrons (high spin) are those of the SMILES",
    )
    max_atoms: PositiveInt = Field(default=60, description="larger molecules are skipped")
    conformers: PositiveInt = Field(default=4, description="conformers per molecule, or frames per trajectory, at most")
    displacement: Literal["thermal", "gaussian"] = Field(
        default="thermal",
        description="how atoms leave their equilibrium. thermal: by vibrations or molecular dynamics at "
        "`temperatures`; gaussian: at random, atom by atom",
    )
    temperatures: tuple[NonNegative, ...] = Field(
        default=(50.0, 100.0, 200.0), min_length=1, description="K; one is drawn per conformer or trajectory"
    )
    sigmas: tuple[NonNegative, ...] = Field(
        default=(0.02, 0.05, 0.1, 0.15),
        min_length=1,
        description="standard deviations of `displacement: gaussian`, Å; one is drawn per structure",
    )
    max_force: float = Field(
        default=50.0, gt=0, description="eV/Å; structures with a larger force on any atom are dropped"
    )


class LabelSettings(Settings):
    """A labelling campaign: molecules → geometries → reference energies and forces (`transip data build`)."""

    method: Literal["gfn2-xtb", "wb97m-v"] = Field(
        default="gfn2-xtb", description="gfn2-xtb through tblite; wb97m-v/def2-TZVPD through PySCF (extra `dft`)"
    )
    domains: tuple[DomainSettings, ...] = Field(description="what is labelled, domain by domain")
    seed: Seed = Field(default=0, description="seed of molecules, conformers and displacements")
    workers: PositiveInt | Literal[-1] = Field(default=-1, description="number of processes; -1: one per core")
    backend: Literal["loky", "dask", "ray"] = Field(
        default="loky", description="joblib backend; dask and ray are for clusters"
    )
    chunk: PositiveInt = Field(
        default=64, description="a killed campaign resumes after the last full chunk of this many structures"
    )

    @model_validator(mode="after")
    def _check(self) -> LabelSettings:
        if self.method == "wb97m-v" and any(d.domain == "liquids" and not d.smiles for d in self.domains):
            raise ValueError("wb97m-v labels molecules only: give domain liquids to gfn2-xtb")
        return self
