"""Logistic regression for the linear probe: all labels at once, by L-BFGS, and whitening before it."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

RIDGE = 0.003  # of the mean variance, added in every direction before whitening; our choice


def whitening(x):
    """x (N, d) -> mean (d,), W (d, d): (x - mean) @ W has variance 1 in all directions but those with next to none.

    Embeddings vary much more in some directions than in others, so no C suits them all; after whitening one does.
    """
    variances = np.atleast_2d(np.cov(x.T))
    noise = RIDGE * np.trace(variances) / len(variances) + 1e-12
    return x.mean(0), np.linalg.inv(np.linalg.cholesky(variances + noise * np.eye(len(variances)))).T


def fit_logistic(x, truth, C):
    """Logistic regressions, one per column, by L-BFGS: x (N, d), truth (N, K) bool -> (d + 1, K) float64.

    Minimises |w|^2 / 2 + C sum_i log(1 + exp(-y_i (w.x_i + b))), y = +-1, as scikit-learn does; the last row
    of the result is b, not regularised. The columns share no term, so minimising their sum minimises each.
    """
    x = np.column_stack([x, np.ones(len(x))])  # (N, d + 1)
    sign, shape = np.where(truth, 1.0, -1.0), (x.shape[1], truth.shape[1])
    penalty = np.append(np.full(shape[0] - 1, 1 / C), 0)[:, None]  # (d + 1, 1), none on the intercept
    # Embeddings vary much more in some directions than in others, and that makes L-BFGS slow. In coordinates
    # u with w = A u, the largest curvature the loss can have, x'x / 4 + penalty, is the identity.
    A = np.linalg.inv(np.linalg.cholesky(x.T @ x / 4 + np.diag(penalty[:, 0]))).T
    z = x @ A  # (N, d + 1)

    def loss_and_gradient(u):  # both divided by C
        u = u.reshape(shape)
        margin, w = sign * (z @ u), A @ u  # (N, K), (d + 1, K)
        pull = sign * expit(-margin)  # (N, K)
        loss = (penalty * w**2).sum() / 2 + np.logaddexp(0, -margin).sum()
        return loss, (A.T @ (penalty * w) - z.T @ pull).ravel()

    options = {"maxiter": 1000, "gtol": 1e-7 * len(x), "ftol": 0}
    fit = minimize(loss_and_gradient, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    return A @ fit.x.reshape(shape)


def predict_logistic(weights, x):
    """Log-odds of each label: (d + 1, K), (N, d) -> (N, K)."""
    return x @ weights[:-1] + weights[-1]
