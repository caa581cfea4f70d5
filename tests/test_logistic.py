"""Logistic regression against scikit-learn, one label at a time, and whitening."""

import numpy as np
import pytest

from mulan_min.logistic import fit_logistic, predict_logistic, whitening


@pytest.mark.parametrize("C", [0.1, 1.0, 1000.0])
def test_logistic_regressions_equal_scikit_learn(C):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)) * [3, 1, 1, 0.3, 0.1, 0.1] + 0.5  # variances differ by direction, as in embeddings
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    truth = x @ rng.normal(size=(6, 4)) + 0.3 * rng.normal(size=(300, 4)) > np.array([-1, 0, 0.5, 1])
    weights = fit_logistic(x, truth, C)
    for k in range(truth.shape[1]):
        oracle = linear.LogisticRegression(C=C, tol=1e-10, max_iter=10000).fit(x, truth[:, k])
        np.testing.assert_allclose(weights[:-1, k], oracle.coef_[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(weights[-1, k], oracle.intercept_[0], rtol=1e-4, atol=1e-4)
        probability = 1 / (1 + np.exp(-predict_logistic(weights, x)[:, k]))
        np.testing.assert_allclose(probability, oracle.predict_proba(x)[:, 1], atol=1e-4)


def test_whitening_scales_strong_directions_to_variance_1_and_keeps_weak_ones_small():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 5)) @ np.diag([3, 1, 1, 0.3, 1e-5]) @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 7
    mean, W = whitening(x[:3000])
    variances = np.linalg.eigvalsh(np.cov(((x[3000:] - mean) @ W).T))
    np.testing.assert_allclose(variances[1:], 1, atol=0.15)
    assert variances[0] < 1e-6 and abs(((x[3000:] - mean) @ W).mean(0)).max() < 0.1
    assert np.isfinite(whitening(np.ones((3, 2)))[1]).all()      # all variances are 0
