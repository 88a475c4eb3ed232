"""
How equivariant is a calculator?
================================

Some networks learn rotational symmetry instead of having it built in. Their equivariance error can be measured from the
outside, for any ASE calculator: rotate a molecule, predict, rotate the forces back, and compare them. Averaging over
the rotations of a tetrahedron, octahedron or icosahedron removes most of this error, and the spread over these
rotations measures it.

The example needs nothing but this package and takes seconds.
"""

from ase.build import molecule
from ase.calculators.lj import LennardJones

from transip import TransIPCalculator
from transip.symmetry.any_calculator import RotationAveragedCalculator, rotation_error
from transip.testing import check_conformance, from_calculator

molecules = [molecule(name, info={"charge": 0, "spin": 1}) for name in ("CH3CH2OH", "C6H6", "CH3CONH2")]

# %%
# Measure
# -------
#
# Replace ``LennardJones``, which is exactly equivariant, by the calculator of any package. The two numbers are the
# standard deviation of the energy over orientations, and the mean absolute deviation of a force component.

learned = TransIPCalculator("transip-s-gfn2-direct")
for name, calculator in {"Lennard-Jones": LennardJones(), "transip-s-gfn2-direct": learned}.items():
    errors = rotation_error(calculator, molecules, rotations=8)
    energy, forces = errors["energy_rotation_spread"], errors["force_rotation_error"]
    print(f"{name:22} energy {1000 * energy:8.4f} meV, forces {1000 * forces:8.4f} meV/Å")

# %%
# Average
# -------
#
# ``RotationAveragedCalculator`` wraps any calculator and calls it once for each rotation. (For a model of this package,
# ``TransIPCalculator(..., average=12)`` predicts all orientations in one batch.) If the forces of the wrapped
# calculator are conservative, so are the averaged forces.

averaged = RotationAveragedCalculator(learned, rotations=12)
errors = rotation_error(averaged, molecules, rotations=8)
print(f"{'average of 12':22} forces {1000 * errors['force_rotation_error']:8.4f} meV/Å")
molecules[0].calc = averaged
molecules[0].get_potential_energy()
print(f"spread of a force of ethanol: {1000 * averaged.results['forces_std'].mean():.2f} meV/Å")

# %%
# All physical requirements
# -------------------------
#
# Rotation is not the only symmetry. ``check_conformance`` checks the requirements that every potential must satisfy,
# and measures the equivariance error. In your own tests, use ``assert_conforms``.

report = check_conformance(
    from_calculator(LennardJones(rc=5.0, smooth=True)), conservative=True, cutoffs=[5.0], seeds=1
)
print(report)
assert report.passed
