"""transip potentials in simulation programs other than ASE; each module imports its program, none imports another's."""
