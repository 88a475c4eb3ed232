"""What processes see: their shards make up the global batch, and every batch can be drawn by its number alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy import toy_recipe
from transip.data.dataset import Dataset
from transip.training.training_batch import Normalizer
from transip.training.view_sampler import ViewBatch, ViewSampler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sampler(toy_packs, toy_pool):
    """Builds a sampler of labelled, replayed and unlabelled structures."""
    data, replay, unlabelled = (Dataset.open([path]) for path in (*toy_packs, toy_pool))

    def build(views: int, num_processes: int, with_replay: bool, with_unlabelled: bool) -> ViewSampler:
        changes = {"training.batch.batch_size": 5, "objective.views": views, "training.seed": 3}
        recipe = toy_recipe(toy_packs, changes)
        limits = recipe.training.batch.model_copy(update={"replay": 3, "unlabelled": 2})
        recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"batch": limits})})
        extra = {"replay": replay if with_replay else None, "unlabelled": unlabelled if with_unlabelled else None}
        return ViewSampler(recipe, data, num_processes=num_processes, **extra)

    return build


def structures_seen(batch: ViewBatch) -> dict[tuple, torch.Tensor]:
    """Rotations of each structure in a batch as it is read, by where its numbers come from."""
    read = batch.collate(Normalizer(1, 1), CPU)
    seen = {
        ("labelled", float(e)): r
        for e, r in zip(read.labelled.batch.energy, read.labelled.rotations.unbind(1), strict=True)
    }
    if read.unlabelled is not None:
        index, rotations = read.unlabelled.batch.index, read.unlabelled.rotations
        seen |= {("unlabelled", int(i)): r for i, r in zip(index, rotations.unbind(1), strict=True)}
    return seen


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(0, 30),
    views=st.sampled_from([1, 2]),
    num_processes=st.integers(1, 3),
    with_replay=st.booleans(),
    with_unlabelled=st.booleans(),
)
def test_shards_make_up_the_global_batch(sampler, number, views, num_processes, with_replay, with_unlabelled):
    sampler = sampler(views, num_processes, with_replay, with_unlabelled)
    whole = sampler.batch(number)
    shards = [whole.shard(rank, num_processes) for rank in range(num_processes)]
    parts = [structures_seen(shard) for shard in shards]
    expected = structures_seen(whole)
    assert sum(map(len, parts)) == len(expected) and all(parts)
    for part in parts:
        for key, rotations in part.items():
            assert torch.equal(rotations, expected[key])
    for total in ("num_passes", "num_atoms", "num_labelled_atoms"):
        assert sum(getattr(shard, total) for shard in shards) == getattr(whole, total)
    normalizer = sampler.normalizer([whole])
    batches = [shard.collate(normalizer, CPU) for shard in shards]
    assert normalizer.structures * num_processes == sum(len(batch.labelled.rotated) for batch in batches)
    assert normalizer.atoms * num_processes == sum(batch.labelled.rotated.num_atoms for batch in batches)
    pairs = [batch.pairs.batch for batch in batches if batch.pairs is not None]
    assert normalizer.paired_structures * num_processes == sum(map(len, pairs))
    assert normalizer.paired_atoms * num_processes == sum(batch.num_atoms for batch in pairs)


def test_a_batch_is_a_function_of_its_number(sampler):
    built = sampler(2, 2, True, True)
    for number, batch in zip(range(12), built.batches(), strict=False):
        again = sampler(2, 2, True, True).batch(number)
        assert again.number == batch.number == number
        for one, other in zip(batch.samples, again.samples, strict=True):
            assert one.indices.tolist() == other.indices.tolist() and torch.equal(one.rotations, other.rotations)


def test_the_second_view_is_a_proper_rotation_of_the_first(sampler):
    read = sampler(2, 1, False, True).batch(0).collate(Normalizer(1, 1), CPU)
    relative = read.pairs.relative_rotation
    torch.testing.assert_close(torch.linalg.det(relative), torch.ones(len(relative)))
    first, second = (view.positions for view in (read.unlabelled.rotated.head(2), read.unlabelled.rotated))
    rotated = torch.einsum("ij,aj->ai", relative[-2], first[: read.unlabelled.batch.atom_counts[0]])
    offset = len(second) // 2
    torch.testing.assert_close(second[offset : offset + len(rotated)], rotated)
