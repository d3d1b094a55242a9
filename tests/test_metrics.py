"""Each metric against a slow, obvious version of it, and its floor against what exact draws score."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiltjax as tj
from benchmarks import metrics
from benchmarks.metrics import geometric, table, transport

RNG = np.random.default_rng


def normal(seed, *shape):
    return RNG(seed).normal(size=shape)


def orthogonal(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


# ------------------------------------------------------------------------------------------ numbers of the draws


def test_pair_distances_by_loops():
    x = normal(0, 3, 4, 2)
    slow = [math.dist(one[i], one[j]) for one in x for i in range(4) for j in range(4) if i < j]
    np.testing.assert_allclose(metrics.pair_distances(x), slow, rtol=1e-13)


def test_pair_distance_w2_is_transport_of_the_pooled_distances():
    ot = pytest.importorskip("ot")
    a, b = normal(0, 40, 3, 2), 1.5 * normal(1, 40, 3, 2)
    pooled = [np.sort(metrics.pair_distances(x))[:, None] for x in (a, b)]
    assert metrics.pair_distance_w2(a, b) == pytest.approx(math.sqrt(ot.emd2([], [], ot.dist(*pooled))), abs=1e-6)
    moved = a @ orthogonal(RNG(2), 2) + 3.0
    assert metrics.pair_distance_w2(a, moved[:, ::-1]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("distance", [metrics.pair_distance_w2, metrics.geometric_w2])
def test_flat_configurations_are_refused(distance):
    with pytest.raises(ValueError, match=r"got draws of shape \(5, 8\), expected \(n, particles, d\)"):
        distance(np.zeros((5, 8)), np.zeros((5, 8)))


# ------------------------------------------------------------------------------------------------ transport


def test_w2_is_the_least_over_all_pairings():
    a, b = normal(0, 6, 2, 3), normal(1, 6, 2, 3)
    least = min(np.mean(np.sum((a - b[list(order)]) ** 2, (1, 2))) for order in itertools.permutations(range(6)))
    assert metrics.w2(a, b) == pytest.approx(math.sqrt(least), abs=1e-10)


def test_w2_agrees_with_an_assignment():
    from scipy.optimize import linear_sum_assignment

    a, b = normal(0, 150, 5), 2.0 + normal(1, 150, 5)
    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    assert metrics.w2(a, b) == pytest.approx(math.sqrt(cost[linear_sum_assignment(cost)].mean()), abs=1e-6)


def test_the_plan_of_two_sets_is_solved_once_and_is_theirs(monkeypatch):
    """By what the draws are: others of the same shapes have another."""
    solved, solve = [], transport.exact_transport
    monkeypatch.setattr(transport, "exact_transport", lambda *given: solved.append(given) or solve(*given))
    a, b, c = normal(70, 40, 2), normal(71, 40, 2), normal(72, 40, 2)
    for x in (b, c, np.concatenate([b[:20], b[:20]])):
        metrics.sinkhorn(a, x)
        assert metrics.w2(a, x) ** 2 == pytest.approx(solve(metrics.squared_distances(a, x)).value, abs=1e-10)
    assert len(solved) == 3


def slow_sinkhorn(a, b, epsilon):
    """The scaling form, which needs no logarithms at a large epsilon; the value is that of its plan."""

    def entropic(x, y):
        cost = ((x[:, None] - y[None]) ** 2).sum(-1)
        kernel, v = np.exp(-cost / epsilon), np.ones(len(y))
        for _ in range(3000):
            u = 1 / len(x) / (kernel @ v)
            v = 1 / len(y) / (kernel.T @ u)
        plan = u[:, None] * kernel * v
        return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan * cost.size))

    return entropic(a, b) - 0.5 * entropic(a, a) - 0.5 * entropic(b, b)


@pytest.mark.parametrize("m", [60, 90])
def test_sinkhorn_agrees_with_the_scaling_form_and_with_pot(m):
    ot = pytest.importorskip("ot")
    a, b, epsilon = normal(0, 60, 2), 0.5 + normal(1, m, 2), 0.5
    ours = metrics.sinkhorn(a, b, epsilon, tolerance=1e-9)
    assert ours == pytest.approx(slow_sinkhorn(a, b, epsilon), abs=1e-6)

    def value(x, y):
        cost = ot.dist(x, y)
        plan = ot.sinkhorn([], [], cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=5000)
        return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan * cost.size))

    halves = np.concatenate([a[:30], a[:30]])  # copies, as resampling leaves them
    assert metrics.sinkhorn(halves, b, epsilon, 1e-9) == pytest.approx(slow_sinkhorn(halves, b, epsilon), abs=1e-6)
    assert ours == pytest.approx(value(a, b) - 0.5 * value(a, a) - 0.5 * value(b, b), abs=1e-6)


def test_sinkhorn_tends_to_exact_transport_and_is_zero_for_equal_sets():
    """|S - W2^2| <= epsilon log n, whatever the costs: here up to 10^4."""
    a, b = 30 * normal(0, 200, 3), 30 * normal(1, 200, 3)
    epsilon = transport.EPSILON
    assert abs(metrics.sinkhorn(a, b) - metrics.w2(a, b) ** 2) < epsilon * math.log(200) + 2e-3
    assert metrics.sinkhorn(a, a) == pytest.approx(0.0, abs=2e-3)
    copies = np.repeat(a[:50], 4, 0)
    assert abs(metrics.sinkhorn(copies, b) - metrics.w2(copies, b) ** 2) < epsilon * math.log(200) + 2e-3


def test_the_two_bounds_of_the_entropic_value_hold():
    """The dual value after few sweeps is below the converged one, by less than the tolerance that stopped it."""
    cost, mass = transport.squared_distances(normal(0, 50, 2), normal(1, 50, 2)), np.full(50, 0.02)
    plan = transport.exact_transport(cost)
    for epsilon in (1e-3, 3.0):
        fine = transport.entropic_transport(cost, mass, mass, plan, epsilon, 1e-8, 100_000) if epsilon > 1 else None
        for tolerance in (1e-1, 1e-2, 1e-3):
            value = transport.entropic_transport(cost, mass, mass, plan, epsilon, tolerance, 100_000)
            bound = plan.value + epsilon * math.log(50)
            assert value <= bound + 1e-12
            assert fine is None or fine - tolerance <= value <= fine + 1e-9


def test_sinkhorn_says_when_it_does_not_converge():
    with pytest.raises(RuntimeError, match=r"did not converge in 3 sweeps at epsilon=0\.05"):
        metrics.sinkhorn(normal(0, 100, 2), normal(1, 100, 2), 0.05, tolerance=1e-9, max_iterations=3)
    with pytest.raises(ValueError, match="got epsilon=0"):
        metrics.sinkhorn(normal(0, 3, 2), normal(1, 3, 2), 0.0)


def test_mmd_by_loops():
    a, b = normal(0, 12, 3), 1.0 + normal(1, 15, 3)
    every = np.concatenate([a, b])
    width = np.median([math.dist(x, y) for x, y in itertools.combinations(every, 2)])

    def mean(x, y):
        return np.mean([[math.exp(-(math.dist(p, q) ** 2) / (2 * width**2)) for p in x] for q in y])

    assert metrics.mmd(a, b) == pytest.approx(math.sqrt(mean(a, a) + mean(b, b) - 2 * mean(a, b)), abs=1e-9)
    assert metrics.mmd(a, a) == pytest.approx(0.0, abs=1e-7)


def test_mmd_agrees_with_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = normal(0, 100, 4), normal(1, 100, 4) * 1.5
    distance = pairwise.euclidean_distances(np.concatenate([a, b]))
    gamma = 0.5 / np.median(distance[np.triu_indices(200, 1)]) ** 2
    k = [pairwise.rbf_kernel(x, y, gamma).mean() for x, y in ((a, a), (b, b), (a, b))]
    assert metrics.mmd(a, b) == pytest.approx(math.sqrt(k[0] + k[1] - 2 * k[2]), abs=1e-6)


# ------------------------------------------------------------------------------------------------ geometric


def slow_geometric(a, b):
    """Hungarian on distances, then Kabsch by the rotation itself."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    a, b = a - a.mean(0), b - b.mean(0)
    b = b[linear_sum_assignment(cdist(a, b))[1]]
    left, _, right = np.linalg.svd(b.T @ a)
    return np.sum((b @ left @ right - a) ** 2)


@pytest.mark.parametrize("particles", [3, 4, 5, 7])
@pytest.mark.parametrize("d", [2, 3])
def test_geometric_distances_pair_by_pair(particles, d):
    a, b = normal(0, 9, particles, d), 1.0 + normal(1, 7, particles, d)
    slow = [[slow_geometric(x, y) for y in b] for x in a]
    np.testing.assert_allclose(metrics.aligned_squared_distances(a, b), slow, atol=1e-9)


def test_geometric_w2_is_the_transport_of_these(monkeypatch):
    monkeypatch.setattr(geometric, "CHUNK", 10)  # in several blocks
    a, b = normal(0, 6, 4, 2), normal(1, 6, 4, 2)
    slow = np.asarray([[slow_geometric(x, y) for y in b] for x in a])
    least = min(np.mean(slow[range(6), list(order)]) for order in itertools.permutations(range(6)))
    assert metrics.geometric_w2(a, b) == pytest.approx(math.sqrt(least), abs=1e-9)


def test_geometric_w2_does_not_see_labels_positions_and_reflections():
    """Permutations and shifts always; orthogonal maps where the matching is right: here without a permutation, and small."""
    a, rng = normal(0, 30, 5, 3), RNG(1)
    order = rng.permutation(5)
    assert metrics.geometric_w2(a, a[:, order] + 7.0) == pytest.approx(0.0, abs=1e-6)
    small = np.linalg.qr(np.eye(3) + 0.01 * rng.normal(size=(3, 3)))[0]
    assert metrics.geometric_w2(a, a @ (small * np.sign(np.diag(small)))) == pytest.approx(0.0, abs=1e-6)
    flipped = a * np.asarray([1.0, 1.0, -1e-3])  # nearly flat: matched across the reflection
    assert metrics.geometric_w2(flipped, flipped * np.asarray([1.0, 1.0, -1.0])) == pytest.approx(0.0, abs=1e-6)


# ------------------------------------------------------------------------------------------- the table, and floors


def test_a_sum_of_floors_is_that_of_independent_halves():
    sizes = []

    def sample(key, n):
        sizes.append(n)
        return jax.random.normal(key, (n, 1))

    values = metrics.floors(jax.random.key(0), lambda a, b: float(jnp.mean(a) - jnp.mean(b)), sample, 100, 400)
    assert set(sizes) == {200}
    assert abs(values.mean()) < 5 * math.sqrt(2 / 100 / 400)
    assert values.std() == pytest.approx(math.sqrt(2 / 100), rel=0.2)  # five standard errors
    assert metrics.floor(jax.random.key(0), lambda a, b: float(a[0, 0]), sample, 5, 3) == pytest.approx(
        np.median(metrics.floors(jax.random.key(0), lambda a, b: float(a[0, 0]), sample, 5, 3))
    )


def test_the_floor_of_mmd_is_what_its_docstring_says():
    n, values = 500, []
    for seed in range(8):
        a, b = normal(seed, n, 2), normal(seed + 100, n, 2)
        values.append(metrics.mmd(a, b) ** 2)
    # E k of N(0, I_2) with width h^2 = 4 log 2 (median of |x - y|^2, x - y ~ N(0, 2 I)) is 1 / (1 + 2 / h^2)
    expected = 2 * (1 - 1 / (1 + 1 / (2 * math.log(2)))) / n
    assert abs(np.mean(values) - expected) < 5 * np.std(values) / math.sqrt(8)


def test_each_metric_applies_where_the_target_has_what_it_needs():
    applies = {name: metric.applies for name, metric in metrics.METRICS.items()}
    plain, modes = tj.targets.funnel(3), tj.targets.gmm()
    everywhere = {"energy_w2", "sinkhorn", "w2", "mmd"}
    assert {name for name in applies if applies[name](plain)} == everywhere
    assert {name for name in applies if applies[name](modes)} == {*everywhere, "mode_total_variation"}

    class Centred(tuple):
        centred, shape, mode, mode_weights = True, (4, 2), None, None

    assert {name for name in applies if applies[name](Centred())} == {*everywhere, "pair_distance_w2", "geometric_w2"}
    assert [table.assignable(Centred(), n) for n in (100, 5000)] == [100, 2000]
    assert set(metrics.DISTANCES) == {"mode_entropy"} | {n + s for n in applies for s in ("", "_resampled", "_floor")}


def test_floors_are_shared_by_methods_of_one_key_target_and_number_of_draws(tmp_path, monkeypatch):
    """With a folder figures are what they are without one; another key, n, number of pairs or target has floors of its own."""
    computed, whole = [], table.floor

    def floor(*arguments):
        computed.append(arguments[3:])
        return whole(*arguments)

    monkeypatch.setattr(table, "floor", floor)
    monkeypatch.setattr(table, "METRICS", {name: table.METRICS[name] for name in ("energy_w2", "mmd")})

    def values(key=2, n=100, pairs=2, kept=tmp_path, width=1.0, shift=0.0):
        target = tj.Target(
            lambda x: -0.5 * jnp.sum((x / width) ** 2), (2,), sample=lambda key, n: width * jax.random.normal(key, (n, 2))
        )
        x = shift + jax.random.normal(jax.random.key(0), (n, 2))
        return metrics.distances(target, tj.Samples(x, jnp.zeros(n)), x, jax.random.key(key), pairs, kept)

    alone = [values(kept=None), values(kept=None, shift=1.0)]
    assert len(computed) == 4 and alone[0]["mmd_floor"] == alone[1]["mmd_floor"] != alone[0]["energy_w2_floor"]
    computed.clear()
    assert [values(), values(shift=1.0)] == alone and computed == [(100, 2)] * 2
    computed.clear()
    others = [values(key=3), values(n=90), values(pairs=3), values(width=2.0)]
    assert computed == [(100, 2)] * 2 + [(90, 2)] * 2 + [(100, 3)] * 2 + [(100, 2)] * 2
    assert len({other["energy_w2_floor"] for other in [alone[0], *others[:3]]}) == 4


def test_all_distances_have_raw_resampled_and_floor(monkeypatch):
    """Of particles: draws that are 20 % too wide and weighted right come down to the floors by resampling."""
    monkeypatch.setattr(table, "equal_particles", lambda target: True)
    monkeypatch.setattr(
        table,
        "METRICS",
        {name: m._replace(applies=table.always) for name, m in table.METRICS.items() if name != "mode_total_variation"},
    )
    target = tj.Target(
        lambda x: -0.5 * jnp.sum(x**2), (3, 2), sample=lambda key, n: jax.random.normal(key, (n, 3, 2)) * jnp.ones(())
    )
    x = 1.3 * jax.random.normal(jax.random.key(0), (4000, 3, 2))
    log_weight = jnp.sum(-0.5 * x**2 + 0.5 * (x / 1.3) ** 2, (1, 2))
    resampled = x[tj.weights.resample(jax.random.key(1), log_weight, 4000)]
    monkeypatch.setattr(table, "NUM_DRAWS", 300)
    values = metrics.distances(target, tj.Samples(x, log_weight), resampled, jax.random.key(2), 3)
    for name in ("energy_w2", "pair_distance_w2", "mmd"):
        assert values[name] > 2 * values[name + "_floor"], name
        assert values[name + "_resampled"] < 0.7 * values[name], name
    for name in ("w2", "sinkhorn", "geometric_w2"):  # floors so high that little else is seen
        assert values[name] > values[name + "_floor"] > 0, name
    wild = tj.Samples(x.at[3].set(jnp.nan), log_weight)
    values = metrics.distances(target, wild, resampled, jax.random.key(2), 1)
    assert values["w2"] is None and values["w2_resampled"] > 0
