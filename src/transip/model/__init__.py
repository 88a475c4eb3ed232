"""The network and the potential made of it.

One letter for each axis of a tensor, in its annotation and as the suffix of names, the same in every file:

- ``B`` blocks, each of ``Q`` query atoms, which are updated, and ``K`` key atoms, which they attend to; a small
  molecule is one block, whose keys are its queries (`transip.blocks`);
- ``M`` neighbours of a query atom within the local cutoff;
- ``L`` layers, ``D`` width, ``H`` heads, ``F`` features of a head, or its frequencies (``F / 2``);
- ``R`` radial basis functions, ``S`` spherical harmonics of all degrees, ``C`` channels, ``P`` angular channels.

Pairs are always query × key, and a vector points from the query to the key.
"""
