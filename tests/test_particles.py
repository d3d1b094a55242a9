"""Systems of particles: their energies, the space of centred configurations, the equivariant network."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from support import fit, perturbed, slow, z_scores

import tiltjax as tj
from tiltjax import coordinates, networks, particles, paths, problems, processes, targets
from tiltjax.types import Replay

KEY = jax.random.key(0)
TARGETS = {"double_well": targets.double_well, "lennard_jones": targets.lennard_jones}


def configuration(target, key=KEY, size=1.5):
    return size * jax.random.normal(key, target.shape)


def moved(x):
    """x turned, reflected, shifted, with its particles exchanged; and one of the same distances by all four."""
    n, dim = x.shape
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(7), (dim, dim), x.dtype))[0]
    order = jax.random.permutation(jax.random.key(8), n)
    shift = jnp.asarray([1.3, -0.4, 2.2], x.dtype)[None, :dim]
    return [x @ turn, x.at[:, 0].multiply(-1), x + shift, x[order], (x[order] @ turn).at[:, 0].multiply(-1) + shift]


# ------------------------------------------------------------------------------------------------ energies


def slow_double_well(x):
    pairs = [math.dist(a, b) - 4 for i, a in enumerate(x) for b in x[:i]]
    return -sum(0.9 * d**4 - 4 * d**2 for d in pairs)


def slow_lennard_jones(x):
    """Over ordered pairs."""
    r = [math.dist(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    return -sum(d**-12 - 2 * d**-6 for d in r) - 0.5 * float(np.sum((x - x.mean(0)) ** 2))


@pytest.mark.parametrize(("name", "slow"), [("double_well", slow_double_well), ("lennard_jones", slow_lennard_jones)])
def test_log_density_against_a_loop(name, slow):
    for n, dim in ((2, 1), (4, 2), (13, 3)):
        target = TARGETS[name](n, dim)
        # particles apart by more than the core: a jittered line
        x = np.random.default_rng(n).normal(size=(n, dim)) * 0.05
        x[:, 0] += 0.9 * np.arange(n)
        assert jax.jit(target.log_density)(jnp.asarray(x)) == pytest.approx(slow(x), rel=1e-12)
        assert target.shape == (n, dim) and target.centred


@pytest.mark.parametrize("name", TARGETS)
def test_log_density_has_the_symmetries(name):
    target = TARGETS[name]()
    x, log_density = configuration(target), jax.jit(target.log_density)
    expected = log_density(x)
    for y in moved(x):
        np.testing.assert_allclose(log_density(y), expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        target.log_density(jnp.zeros((3, *target.shape)))


@pytest.mark.float32
@pytest.mark.parametrize("name", TARGETS)
def test_overlapping_particles_have_finite_gradients_in_float32(name):
    target = TARGETS[name]()
    apart, both = configuration(target).at[1:].multiply(100.0), jax.jit(jax.value_and_grad(target.log_density))
    for x in (jnp.zeros(target.shape), 1e-20 * apart, apart.at[0].set(apart[1]), 1e-3 * apart, apart):
        value, slope = both(x.astype(jnp.float32))
        assert value.dtype == slope.dtype == jnp.float32
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(slope))


def test_the_soft_core_is_a_tangent_and_touches_no_mass():
    """u and u' meet at the core; a pair's share of exp(-u) within it, by quadrature, is nothing beside the well's."""

    def pair(core):
        target = targets.lennard_jones(2, 1, core=core)
        return jax.jit(lambda r: -target.log_density(jnp.stack([jnp.zeros(1), r[None]])) - 0.25 * r**2)

    soft, singular = (lambda r, u=pair(core): u(jnp.asarray(r)) for core in (0.7, 0.0))
    slope = jax.jit(jax.grad(pair(0.7)))
    for r in (0.70001, 0.9, 1.0, 3.0):
        assert soft(r) == pytest.approx(float(singular(r)), rel=1e-12)
    assert soft(1.0) == pytest.approx(-2.0)
    assert slope(0.7 - 1e-9) == pytest.approx(float(slope(0.7 + 1e-9)), rel=1e-6)
    assert slope(0.1) == pytest.approx(float(slope(0.6)), rel=1e-12)
    grid = np.linspace(0, 0.7, 1001)
    within = integrate.trapezoid(np.exp(-np.asarray(jax.vmap(soft)(grid))), grid)
    assert within < 1e-48


def test_clipping_changes_gradients_and_no_values():
    for make in (targets.double_well, targets.lennard_jones):
        free, bound = make(), make(clip=5.0)
        x = configuration(free)
        (value, slope), (same, cut) = (jax.jit(jax.value_and_grad(target.log_density))(x) for target in (free, bound))
        assert value == same
        size = jnp.linalg.norm(slope, axis=1, keepdims=True)
        assert jnp.any(size > 5)
        np.testing.assert_allclose(cut, slope * jnp.minimum(1.0, 5.0 / size), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.double_well(1), "num_particles=1"),
        (lambda: targets.lennard_jones(13, 0), "dim=0"),
        (lambda: targets.lennard_jones(core=1.0), "core=1.0"),
        (lambda: targets.double_well(clip=0.0), "clip=0.0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------- the centred space


@pytest.mark.parametrize("n", [2, 3, 4, 13, 55])
def test_embedding_is_an_isometry_onto_centred_configurations(n):
    basis = particles.helmert(n)
    np.testing.assert_allclose(basis @ basis.T, np.eye(n - 1), atol=1e-14)
    x = jax.random.normal(KEY, (n, 3))
    centred = x - x.mean(0, keepdims=True)
    np.testing.assert_allclose(particles.embed(particles.project(x)), centred, atol=1e-13)
    np.testing.assert_allclose(jnp.sum(particles.project(x) ** 2), jnp.sum(centred**2), rtol=1e-13)
    y = jax.random.normal(KEY, (n - 1, 3))
    np.testing.assert_allclose(particles.project(particles.embed(y)), y, atol=1e-13)


def ring(n):
    """The Laplacian of springs of unequal stiffness around a ring."""
    out = np.zeros((n, n))
    for i in range(n):
        out[np.ix_([i, (i + 1) % n], [i, (i + 1) % n])] += (1.0 + 0.3 * i) * np.array([[1.0, -1.0], [-1.0, 1.0]])
    return out


def harmonic_cluster(laplacian, dim):
    """exp(-sum_ij L_ij x_i.x_j / 2): log Z = dim/2 log((2 pi)^(n-1) / pdet L), pdet the product of nonzero eigenvalues."""
    n = len(laplacian)
    log_pdet = float(np.log(np.linalg.eigvalsh(laplacian)[1:]).sum())
    springs = jnp.asarray(laplacian)

    def log_density(x):
        return -0.5 * jnp.sum(x * (springs.astype(x.dtype) @ x))

    return tj.Target(log_density, (n, dim), 0.5 * dim * ((n - 1) * math.log(2 * math.pi) - log_pdet), centred=True)


def test_the_harmonic_source_is_the_density_of_its_springs():
    """The base in its coordinates is the harmonic cluster itself: the reward is log Z everywhere, on a ring and all to all."""
    complete = 0.7 * (5 * np.eye(5) - np.ones((5, 5)))
    for laplacian, isotropic in ((ring(5), False), (complete, True)):
        target = harmonic_cluster(laplacian, 2)
        there = particles.harmonic(laplacian, 2)
        assert (there.scale.ndim == 1) == isotropic
        problem = problems.sampling(target, processes.gaussian(paths.linear(), (4, 2), 1.0), coordinates=there)
        y = jax.random.normal(KEY, (20, 4, 2))
        np.testing.assert_allclose(jax.vmap(problem.reward)(y), target.log_z, rtol=1e-12)
        x = jax.vmap(problem.decode)(jax.random.normal(KEY, (20_000, 4, 2)))
        np.testing.assert_allclose(x.sum(1), 0, atol=1e-12)
        expected = np.einsum("ij,kl->ikjl", np.linalg.pinv(laplacian), np.eye(2)).reshape(10, 10)
        products = np.einsum("ni,nj->nij", *[np.asarray(x).reshape(-1, 10)] * 2)
        assert np.abs(z_scores(products, expected)).max() < 5
        for one in y[:2]:
            np.testing.assert_allclose(problem.encode(problem.decode(one)), one, rtol=1e-9)
    assert particles.harmonic(complete, 2).scale[0] == pytest.approx((0.7 * 5) ** -0.5)


def test_a_harmonic_source_says_what_it_needs():
    with pytest.raises(ValueError, match=r"a symmetric \(n, n\) matrix"):
        particles.harmonic(np.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="connected graph"):
        particles.harmonic(np.eye(3), 2)
    with pytest.raises(ValueError, match="connected graph"):
        particles.harmonic(np.kron(np.eye(2), np.array([[1.0, -1.0], [-1.0, 1.0]])), 2)


@pytest.mark.slow
def test_log_z_on_the_subspace_by_importance_sampling():
    """Of a harmonic ring in closed form, and of two particles by a radial integral, r = |x_1 - x_2| = sqrt(2) |y|."""
    pair = targets.double_well(2, 3)
    shell, _ = integrate.quad(lambda r: 4 * math.pi * r**2 * math.exp(-0.9 * (r - 4) ** 4 + 4 * (r - 4) ** 2 - 4), 0, 12)
    pair = pair._replace(log_z=math.log(shell) + 4 - 1.5 * math.log(2))
    for target, scale in ((harmonic_cluster(ring(5), 2), 0.9), (pair, 2.5)):
        process = processes.gaussian(paths.linear(), (target.shape[0] - 1, target.shape[1]), scale)
        problem = problems.sampling(target, process, resolution=0.1)
        sampler = tj.sampling.sampler(problem, networks.zero(problem), (), paths.uniform, num_steps=2)
        draws = sampler.sample(jax.random.key(1), 40_000)
        np.testing.assert_allclose(draws.x.sum(1), 0, atol=1e-10)
        log_z = tj.diagnostics.log_z(draws.log_weight)
        assert abs(log_z.value - target.log_z) < 5 * log_z.stderr and log_z.stderr < 0.05


def test_a_process_of_the_wrong_shape_is_told_the_right_one():
    process = processes.gaussian(paths.linear(), (4, 2), 1.0)
    with pytest.raises(ValueError, match=r"\(4, 2\), centred.*shape=\(3, 2\)"):
        problems.sampling(targets.double_well(), process)
    with pytest.raises(ValueError, match=r"configurations \(n, d\)"):
        particles.free(tj.Target(lambda x: -jnp.sum(x**2), (4,), centred=True))


# -------------------------------------------------------------------------------------------- the network


def particle_problem(target, scale=1.3):
    process = processes.gaussian(paths.linear(), (target.shape[0] - 1, target.shape[1]), scale)
    units = coordinates.Coordinates(jnp.zeros(process.shape).reshape(-1), 2.0 * jnp.ones(process.shape).reshape(-1))
    return problems.sampling(target, process, resolution=0.01, coordinates=units)


@pytest.mark.float32
@pytest.mark.parametrize(
    ("name", "informed"),
    [("double_well", False), slow("double_well", True), slow("lennard_jones", False), ("lennard_jones", True)],
)
def test_egnn_is_zero_at_first_and_equivariant(name, informed):
    """To 1e-5 in float32 with random parameters: u(g x) = g u(x); translations drop out by construction of y."""
    problem = particle_problem(TARGETS[name]())
    network = networks.egnn(problem, width=16, depth=2, informed=informed)
    params = jax.jit(network.init)(KEY)
    x = configuration(problem.target, size=1.0)
    control = jax.jit(lambda params, t, x: particles.embed(network.apply(params, t, particles.project(x))))
    t = jnp.asarray(0.6)
    np.testing.assert_array_equal(control(params, t, x), 0.0)
    params = perturbed(params, jax.random.key(1), 0.3)
    u = control(params, t, x)
    assert jnp.all(jnp.isfinite(u)) and u.dtype == jnp.float32 and float(jnp.max(jnp.abs(u))) > 0.1
    for a, b in zip(moved(x), moved(u), strict=True):
        expected = b - b.mean(0, keepdims=True)
        np.testing.assert_allclose(control(params, t, a), expected, atol=1e-5 * float(jnp.max(jnp.abs(u))))
    slope_at = jax.jit(jax.grad(lambda params, t: jnp.sum(control(params, t, 0 * x))))
    for t in (0.0, 1e-7, 1 - 1e-7, 1.0):
        slope = slope_at(params, jnp.asarray(t))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slope))


@pytest.mark.slow
def test_egnn_on_the_messages_of_a_loop():
    """One layer, particle by particle and pair by pair."""
    problem = particle_problem(targets.double_well(3, 2))
    network = networks.egnn(problem, width=5, depth=1)
    params = perturbed(jax.jit(network.init)(KEY), jax.random.key(1), 0.3)
    t, y = jnp.asarray(0.4), jax.random.normal(KEY, (2, 2))
    expected = jax.jit(lambda params, t, y: loop(problem, params, t, y))(params, t, y)
    np.testing.assert_allclose(jax.jit(network.apply)(params, t, y), expected, rtol=1e-5)


def loop(problem, params, t, y):
    process = problem.process
    z = particles.embed(process.frame.response(t) * y / process.frame.scale)
    level = process.frame.residual(t) + problem.resolution
    layer, silu = params["layers"][0], jax.nn.silu

    def dense(p, x):
        return p["kernel"] @ x + p.get("bias", 0.0)

    h = silu(dense(params["time"], networks.time_features(level)))
    v = []
    for i in range(3):
        total, pull = 0.0, 0.0
        for j in range(3):
            d = jnp.sqrt(jnp.sum((z[i] - z[j]) ** 2))
            e = jnp.concatenate([jnp.exp(-0.5 * (23 / 4 * d - jnp.arange(24.0)) ** 2), d[None] / 4])
            m = silu(jnp.sum(dense(layer["ends"], h).reshape(2, 5), axis=0) + dense(layer["edge"], e))
            total, pull = total + m, pull + dense(layer["pull"], m) * (z[i] - z[j]) / 3
        own = h + dense(layer["node"], silu(dense(layer["gather"], total / math.sqrt(3))))
        v.append(pull + dense(params["own"], own) * z[i])
    return process.frame.gain(t) * particles.project(jnp.stack(v)) / jnp.sqrt(level)


def test_egnn_refuses_particles_that_are_told_apart():
    with pytest.raises(ValueError, match=r"turned, reflected or exchanged; got .* Use networks\.mlp"):
        networks.egnn(particle_problem(harmonic_cluster(ring(5), 2)))
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        networks.egnn(problems.tilt(processes.gaussian(paths.linear(), (6,)), lambda x: -jnp.sum(x**2)))
    assert tj.preparing.default_network(targets.double_well()) is networks.egnn
    assert tj.preparing.default_network(particle_problem(targets.double_well())) is networks.egnn


# ------------------------------------------------------------------------------------------------- a fit

SMALL = functools.partial(
    fit,
    num_updates=300,
    num_steps=15,
    sampling_steps=60,
    replay=Replay(256, 1024, 50, 256, tj.weights.tempered(0.2)),
    progress=False,
)


@pytest.mark.float32
@pytest.mark.slow
def test_fit_of_three_particles(tmp_path):
    """log Z against a quadrature over the shapes of a triangle, draws centred, the base invariant, loading as saved."""
    target = targets.double_well(3, 2)
    network = functools.partial(networks.egnn, width=16, depth=1)
    sampler = SMALL(KEY, target, network=network)
    draws = sampler.sample(jax.random.key(1), 4000)
    assert draws.x.shape == (4000, 3, 2) and draws.x.dtype == jnp.float32
    np.testing.assert_allclose(draws.x.sum(1), 0, atol=1e-4)
    log_z = tj.diagnostics.log_z(draws.log_weight)
    assert abs(log_z.value - triangle_log_z()) < 5 * log_z.stderr and log_z.stderr < 0.05

    problem = sampler.problem
    table = sampler.problem.encode(draws.x[0])
    assert table.shape == (2, 2) == problem.process.shape
    base = [problem.process.log_density(problem.encode(x)) for x in moved(draws.x[0])]
    np.testing.assert_allclose(base, problem.process.log_density(table), rtol=1e-4)
    back = sampler.backward(jax.random.key(3), draws.x[:100])
    assert bool(jnp.all(jnp.isfinite(back.log_weight)))

    sampler.save(tmp_path / "saved")
    loaded = tj.load(tmp_path / "saved", target, network=network)
    np.testing.assert_array_equal(loaded.sample(jax.random.key(1), 100).x, sampler.sample(jax.random.key(1), 100).x)
    with pytest.raises(ValueError, match=r"particles of shape \(3, 2\); got a problem of shape \(4, 2\)"):
        tj.load(tmp_path / "saved", targets.double_well())


@functools.cache
def triangle_log_z():
    """Three particles in the plane: y_1 on an axis (2 pi |y_1|), y_2 anywhere; trapezoid rule."""
    r, a = np.linspace(0.0, 9.0, 121), np.linspace(-9.0, 9.0, 181)
    first, second, third = np.meshgrid(r, a, a, indexing="ij")
    basis = particles.helmert(3)
    x = np.stack([basis[0, i] * first + basis[1, i] * second for i in range(3)])
    y = np.stack([basis[1, i] * third for i in range(3)])
    log_density = np.zeros(first.shape)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        d = np.sqrt((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2)
        log_density -= 0.9 * (d - 4) ** 4 - 4 * (d - 4) ** 2
    total = np.sum(np.exp(log_density) * 2 * np.pi * first)
    return math.log(total * (r[1] - r[0]) * (a[1] - a[0]) ** 2)


def test_one_gamma_for_all_coordinates():
    """Of the learned mixture: the regression target turns with the particles."""
    problem = particle_problem(targets.double_well())
    objective = tj.losses.minimum_variance(problem, networks.egnn(problem, width=8, depth=1), paths.uniform(5))
    assert objective.init().shape == (24,)
