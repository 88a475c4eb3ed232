"""Labelling: molecules by chemical domain → geometries → reference energies and forces (`transip data build`)."""
