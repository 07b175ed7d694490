"""Trained models as plain arrays: what is saved, checked when loaded, and applied without scikit-learn."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree._tree import Tree

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
LARGEST = 1e30  # of a weight: sums of some of them are still numbers
STEEPEST = 700.0  # log-odds beyond which float64 has no exponential
FURTHEST = 4.0  # deviations from its mean at which a feature of the regression is cut off


@dataclass(frozen=True)
class Forest:
    """Decision trees, one behind the other; children stand together and behind their parent.

    Args:
        thresholds: (nodes,) float32; infinite in a leaf.
        children: (nodes,) uint32, the first child, counted from the tree's root: a pixel whose feature is not above the
            threshold goes there, others to the node behind it. A leaf names itself.
        features: (nodes,) uint16, what is compared.
        values: (nodes,) float32, the share of roof in a leaf.
        roots: (trees + 1,) int64, where each tree starts, and the number of nodes.
    """

    DTYPES: ClassVar = {
        "thresholds": "float32", "children": "uint32", "features": "uint16", "values": "float32", "roots": "int64",
    }  # fmt: skip
    thresholds: Floats
    children: NDArray[np.uint32]
    features: NDArray[np.uint16]
    values: Floats
    roots: NDArray[np.int64]

    @classmethod
    def of(cls, forest: "RandomForestClassifier") -> "Forest":
        """The trees of a forest that was trained on background (False) and roof (True)."""
        trees = [_packed(estimator.tree_) for estimator in forest.estimators_]
        roots = np.cumsum([0, *(len(tree[0]) for tree in trees)], dtype=np.int64)
        thresholds, children, features, values = (np.concatenate(column) for column in zip(*trees))
        return cls(thresholds, children, features, values, roots)

    def probability(self, pixels: Floats) -> NDArray[np.float64]:
        """The share of roof (pixels,), as scikit-learn's predict_proba, of features (features, pixels)."""
        from pixelwise.kernels import walk

        return walk(self.thresholds, self.children, self.features, self.values, self.roots, pixels)

    def fault(self, num_features: int) -> str:
        """What is wrong with these arrays, for pixels of that many features; "" where nothing is.

        Every walk through a tree must end: so each child lies behind its parent, and within its tree.
        """
        roots, nodes = self.roots, len(self.thresholds)
        sizes = np.diff(roots)
        if len(roots) < 2 or roots[0] != 0 or roots[-1] != nodes or (sizes < 1).any():
            return f"trees that do not fill {nodes:,} nodes"
        if not len(self.children) == len(self.features) == len(self.values) == nodes:
            return "columns of different length"
        place = np.arange(nodes) - np.repeat(roots[:-1], sizes)
        child = self.children.astype(np.int64)
        leaf = child == place
        if not (leaf | ((child > place) & (child + 1 < np.repeat(sizes, sizes)))).all():
            return "a child outside its tree, or before its parent"
        if not (self.thresholds[leaf] == np.inf).all() or np.isnan(self.thresholds).any():
            return "a leaf that is none, or a threshold that is no number"
        if (self.features >= num_features).any():
            return f"feature {int(self.features.max())} of {num_features}"
        if not ((self.values >= 0) & (self.values <= 1)).all():
            return "a share of roof that is not 0 to 1"
        return ""


def _packed(tree: "Tree") -> tuple[NDArray[Any], ...]:
    """Thresholds, children, features and values of a tree, level by level, so that children stand together."""
    left, right = tree.children_left, tree.children_right
    order, first = np.zeros(tree.node_count, np.int64), np.zeros(tree.node_count, np.uint32)
    level, filled = np.array([0]), 1
    start = 0
    while level.size:
        inner = left[level] >= 0
        children = np.stack([left[level[inner]], right[level[inner]]], axis=1).ravel()
        places = np.arange(start, start + level.size)
        first[places] = places
        first[places[inner]] = filled + 2 * np.arange(inner.sum())
        order[filled : filled + children.size] = children
        start, filled, level = filled, filled + children.size, children
    leaf = left[order] < 0
    shares = tree.value[order, 0] / tree.value[order, 0].sum(axis=1, keepdims=True)
    return (
        np.where(leaf, np.float32(np.inf), rounded_down(tree.threshold[order])),
        first,
        np.where(leaf, 0, tree.feature[order]).astype(np.uint16),
        shares[:, 1].astype(np.float32),
    )


def rounded_down(thresholds: NDArray[np.float64]) -> Floats:
    """The largest float32 that is not above each: a float32 compares with it as with the number itself."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


@dataclass(frozen=True)
class Regression:
    """A logistic regression on standardised features.

    Args:
        mean: (features,) float32.
        deviation: (features,) float32, above 0.
        weights: (features,) float32.
        squares: (features,) float32, the weights of squared features; empty where there are none.
        bias: (1,) float32.
    """

    DTYPES: ClassVar = dict.fromkeys(("mean", "deviation", "weights", "squares", "bias"), "float32")
    mean: Floats
    deviation: Floats
    weights: Floats
    squares: Floats
    bias: Floats

    def probability(self, pixels: Floats) -> NDArray[np.float64]:
        """The roof probability (pixels,) of features (features, pixels)."""
        scaled = standardised(pixels, self.mean[:, None], self.deviation[:, None])
        logit = self.weights @ scaled + self.bias
        if self.squares.size:
            logit += self.squares @ np.square(scaled, out=scaled)
        return logistic(logit.astype(np.float64))

    def fault(self, num_features: int) -> str:
        """What is wrong with these arrays, for pixels of that many features; "" where nothing is."""
        lengths = {len(self.mean), len(self.deviation), len(self.weights), len(self.squares) or num_features}
        if lengths != {num_features} or len(self.bias) != 1:
            return f"weights for {len(self.weights)} features, and {num_features} features"
        if not all((np.abs(getattr(self, field.name)) < LARGEST).all() for field in fields(self)):
            return "a weight that is no number, or out of all bounds"
        return "" if (self.deviation > 0).all() else "a deviation of 0"


def standardised(pixels: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Features in deviations from their mean, -4 to 4, so that no outlier outweighs all else."""
    with np.errstate(over="ignore"):  # what is infinite is cut off, too
        scaled = (pixels - mean) / deviation
    return np.clip(scaled, -FURTHEST, FURTHEST, out=scaled)


def logistic(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of log-odds, however large these are."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -STEEPEST, STEEPEST))))


Model = Forest | Regression
MODELS: dict[str, type[Forest] | type[Regression]] = {"forest": Forest, "regression": Regression}


def arrays_of(model: Model) -> Arrays:
    """The arrays of a model by name."""
    return {field.name: getattr(model, field.name) for field in fields(model)}


def model_of(kind: str, arrays: Mapping[str, Any], num_features: int) -> Model:
    """The model of that kind that the arrays hold.

    Raises:
        ValueError: They do not, with what is wrong.
    """
    made = MODELS[kind]
    if set(arrays) != set(made.DTYPES):
        raise ValueError(f"the arrays {', '.join(sorted(map(str, arrays))) or 'of nothing'}")
    for name, dtype in made.DTYPES.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != 1:
            raise ValueError(f"{name} that is no row of {dtype}")
    model = made(**{name: np.ascontiguousarray(array) for name, array in arrays.items()})
    if fault := model.fault(num_features):
        raise ValueError(fault)
    return model
