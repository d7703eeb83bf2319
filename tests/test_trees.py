"""Names, counts and differences of trees against worked examples."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codejax import trees


def small_tree():
    return {"blocks": {"0": {"gate": np.ones((2, 3), np.float32)}}, "scale": np.zeros(4, np.int8)}


def test_leaves_are_named_by_their_path_in_tree_order():
    tree = {"b": [1, {"c": 2}], "a": 3}
    assert trees.named_leaves(tree) == {"a": 3, "b/0": 1, "b/1/c": 2}
    assert list(trees.named_leaves(tree).values()) == jax.tree.leaves(tree)


def test_nest_is_the_inverse_of_naming():
    tree = small_tree()
    assert trees.nest(trees.named_leaves(tree)) == tree


def test_map_named_gives_the_name_first():
    tree = {"a": {"b": 1}, "c": 2}
    mapped = trees.map_named(lambda name, x, y: f"{name}:{x + y}", tree, {"a": {"b": 10}, "c": 20})
    assert mapped == {"a": {"b": "a/b:11"}, "c": "c:22"}


def test_counts_need_only_shapes():
    abstract = jax.eval_shape(lambda: {"a": jnp.zeros((2, 3)), "b": jnp.zeros((4,), jnp.bfloat16)})
    assert trees.count_parameters(abstract) == 10
    assert trees.count_bytes(abstract) == 2 * 3 * 4 + 4 * 2


def test_equal_trees_have_no_difference_even_with_nan():
    tree = {"a": np.array([np.nan, 1.0]), "b": jnp.ones((2,), jnp.bfloat16), "c": np.float32(3)}
    assert trees.first_difference(tree, jax.tree.map(np.array, tree)) is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t | {"extra": np.ones(1)}, "extra: only in the right tree"),
        (lambda t: {"blocks": t["blocks"]}, "scale: only in the left tree"),
        (lambda t: t | {"scale": np.zeros(5, np.int8)}, "scale: shape (4,) and (5,)"),
        (lambda t: t | {"scale": np.zeros(4, np.int16)}, "scale: dtype int8 and int16"),
        (
            lambda t: t | {"scale": np.array([0, 0, 7, 7], np.int8)},
            "scale: 2 of 4 values, first at (2,): 0 and 7",
        ),
    ],
)
def test_first_difference_names_the_leaf(change, line):
    assert trees.first_difference(small_tree(), change(small_tree())) == line


def test_zero_differs_from_negative_zero_bitwise_but_not_within_a_tolerance():
    left, right = {"a": np.array([0.0], np.float32)}, {"a": np.array([-0.0], np.float32)}
    assert trees.first_difference(left, right) is not None
    assert trees.first_difference(left, right, atol=1e-9) is None


def test_tolerance_is_relative_to_the_right_tree():
    left, right = {"a": np.array([1.0, 2.0], np.float32)}, {"a": np.array([1.0, 2.1], np.float32)}
    assert trees.first_difference(left, right, rtol=0.1) is None
    assert trees.first_difference(left, right, rtol=0.01) == (
        "a: 1 of 2 values, first at (1,): 2.0 and 2.0999999046325684"
    )


def test_other_containers_are_a_difference():
    line = trees.first_difference({"a": [1, 2]}, {"a": (1, 2)})
    assert line is not None
    assert line.startswith("same leaves, other containers")
