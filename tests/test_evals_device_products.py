"""Products on a device: the same counts as on the host, candidates sent once, float32 whatever the default is."""

import jax
import numpy as np
import pytest

from lit_tune.evals import device_products as device, retrieval as r, tiles


def unit_rows(rng, n, d):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("spread", [1.0, 1e-7, 0.0])
def test_counts_on_the_device_are_those_of_the_host(spread):
    rng = np.random.default_rng(0)
    z = unit_rows(rng, 1, 48) + spread * unit_rows(rng, 300, 48)
    z[::7] = z[0]
    z[11, 3] = np.nan
    args = z[:120], z, np.arange(300) % 120, np.arange(300)
    got = r.find(*args, tile=(50, 70), products=device.device_products())
    for here, there in zip(r.find(*args), got, strict=True):
        for name in ("above", "tied", "tied_right", "right"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name), err_msg=name)
    labels = rng.integers(120, size=300)
    one = r.find_labels(z, z[:120], labels, products=device.device_products(jax.devices()[-1]))
    np.testing.assert_array_equal(one.ranks, r.find_labels(z, z[:120], labels).ranks)


def test_products_are_float32_and_within_their_bound_even_when_the_default_precision_is_lower():
    rng = np.random.default_rng(0)
    a, b = np.abs(unit_rows(rng, 64, 768)), np.abs(unit_rows(rng, 96, 768))
    with jax.default_matmul_precision("bfloat16"):
        products = device.device_products()
        got = products.multiply(a, b)
    assert got.dtype == np.float32 and got.shape == (64, 96)
    assert np.abs(got - a.astype(np.float64) @ b.astype(np.float64).T).max() <= products.error(768)


def test_the_bound_is_wider_than_the_hosts_and_widest_for_a_device_that_is_not_known(monkeypatch):
    host, cpu = tiles.HOST.error(768), device.device_products().error(768)
    monkeypatch.setattr(device, "ROUNDINGS", {})
    assert host < cpu < device.device_products().error(768) == tiles.gamma(16 * 768)


def test_candidates_are_sent_once_and_queries_each_time(monkeypatch):
    sent, put = [], jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, place: sent.append(x.shape) or put(x, place))
    z = unit_rows(np.random.default_rng(0), 30, 8)
    r.find(z, z, np.arange(30), np.arange(30), tile=(10, 15), products=device.device_products())
    assert sorted(sent) == sorted(2 * [(15, 8)] + 6 * [(10, 8)])
