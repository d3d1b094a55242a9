"""Bayesian logistic regression, and data for it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Target
from ._particle import particle


def logistic_regression(features: ArrayLike, labels: ArrayLike, prior_scale: float = 1.0) -> Target:
    """The posterior of the intercept and the weights of a logistic regression; shape (1 + d,).

    x = (intercept, weights),   x_i ~ N(0, prior_scale^2),   labels_j ~ Bernoulli(logistic(intercept + features_j . weights)).

    `features` (n, d), used as they are: standardize them first; `labels` (n,) of 0 and 1. The prior is normalized and in the
    density, so Z is the evidence of the labels (published code leaves it out for some data: compare the definition).
    log_z is not known and `sample` is None. `constrain(x)` is {"intercept", "weights"}.

    Raises ValueError for shapes that disagree, features that are not finite, other labels, or a scale that is not positive.
    """
    features_, labels_ = np.asarray(features, np.float64), np.asarray(labels)
    if features_.ndim != 2 or features_.size == 0 or not np.isfinite(features_).all():
        raise ValueError(f"got features of shape {features_.shape}, expected finite (n, d): one row a case")
    if labels_.shape != features_.shape[:1] or not np.isin(labels_, (0, 1)).all():
        raise ValueError(f"got labels of shape {labels_.shape}, expected ({len(features_)},) of 0 and 1, one a row of features")
    if not (math.isfinite(prior_scale) and prior_scale > 0):
        raise ValueError(f"got prior_scale={prior_scale}, expected a positive standard deviation: pass prior_scale=1.0, say")
    design = np.concatenate([np.ones((len(features_), 1)), features_], 1)
    signed = np.where(labels_ == 1, -1.0, 1.0)[:, None] * design  # log Bernoulli = -softplus(signed . x)
    dim = design.shape[1]
    constant = -dim * (math.log(prior_scale) + 0.5 * math.log(2 * math.pi))

    def log_density(x: Array) -> Array:
        x = particle(x, (dim,))
        # some accelerators multiply float32 matrices in fewer bits unless told
        logits = jnp.matmul(jnp.asarray(signed, x.dtype), x, precision="highest")
        return constant - 0.5 * jnp.sum((x / prior_scale) ** 2) - jnp.sum(jax.nn.softplus(logits))

    return Target(log_density, (dim,), constrain=lambda x: {"intercept": x[0], "weights": x[1:]})


def logistic_breast_cancer() -> Target:
    """`logistic_regression`, N(0, 1) priors, malignant or benign from 30 features of 569 tumours; shape (31,).

    Standardized; label 1 is benign. Needs scikit-learn, which ships the data, else ImportError. Not the form of arXiv
    2406.07423, which has no prior and is wider.
    Source: Street, Wolberg, Mangasarian 1993 (UCI, Breast Cancer Wisconsin, diagnostic).
    """
    data = _datasets().load_breast_cancer()
    return logistic_regression(_standardized(data.data), data.target)


def logistic_digits() -> Target:
    """`logistic_regression`, N(0, 1) priors, a written 3 or 8 from the pixels of 357 images; shape (55,).

    The 54 of 8 x 8 pixels that vary, standardized; label 1 is an 8. Needs scikit-learn, which ships the data, else
    ImportError.
    Source: Alpaydin, Kaynak 1998 (UCI, Optical Recognition of Handwritten Digits).
    """
    data = _datasets().load_digits()
    chosen = np.isin(data.target, (3, 8))
    return logistic_regression(_standardized(data.data[chosen]), data.target[chosen] == 8)


def logistic_iris() -> Target:
    """`logistic_regression`, N(0, 1) priors, versicolor or virginica from 4 lengths of 100 flowers; shape (5,).

    Standardized; label 1 is virginica. Needs scikit-learn, which ships the data, else ImportError.
    Source: Fisher 1936, Annals of Eugenics 7 (2).
    """
    data = _datasets().load_iris()
    chosen = data.target > 0
    return logistic_regression(_standardized(data.data[chosen]), data.target[chosen] == 2)


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "this target's data ship with scikit-learn, which is not installed: pip install scikit-learn, "
            "or pass features and labels of your own to logistic_regression"
        ) from error
    return datasets


def _standardized(features: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 by column, without the columns that do not vary."""
    varying = features[:, features.std(0) > 0]
    return (varying - varying.mean(0)) / varying.std(0)
