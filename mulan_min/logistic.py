"""Logistic regression for the linear probe: the embeddings are whitened, then all labels are fitted at once by L-BFGS."""
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

RIDGE = 0.003  # share of the mean variance that is added in every direction before whitening; our choice


def whitening(x):
    """x (N, d) -> mean (d,), W (d, d). (x - mean) @ W has variance 1 in every direction whose variance is well above RIDGE.
    Embeddings vary much more in some directions than in others, so no single C suits all directions. After whitening, one does."""
    variances = np.atleast_2d(np.cov(x.T))
    noise = RIDGE * np.trace(variances) / len(variances) + 1e-12
    return x.mean(0), np.linalg.inv(np.linalg.cholesky(variances + noise * np.eye(len(variances)))).T


def fit_logistic(x, truth, C):
    """One logistic regression per label, by L-BFGS: x (N, d), truth (N, K) bool -> weights (d + 1, K) float64.

    It minimises |w|^2 / 2 + C sum_i log(1 + exp(-y_i (w.x_i + b))) with y = +-1, as scikit-learn does. The last row of the
    weights is the intercept b, which is not regularised. The labels share no parameter, so one minimisation of the sum of
    their losses minimises each of them.
    """
    x = np.column_stack([x, np.ones(len(x))])  # (N, d + 1)
    sign, shape = np.where(truth, 1.0, -1.0), (x.shape[1], truth.shape[1])
    penalty = np.append(np.full(shape[0] - 1, 1 / C), 0)[:, None]  # (d + 1, 1), 0 for the intercept
    # L-BFGS is slow when the curvature of the loss differs much between directions. We therefore optimise u, with w = A u.
    # A is chosen so that the upper bound of the curvature, x'x / 4 + penalty, becomes the identity.
    A = np.linalg.inv(np.linalg.cholesky(x.T @ x / 4 + np.diag(penalty[:, 0]))).T
    z = x @ A  # (N, d + 1)

    def loss_and_gradient(u):  # both divided by C
        u = u.reshape(shape)
        margin, w = sign * (z @ u), A @ u  # (N, K), (d + 1, K)
        residual = sign * expit(-margin)  # (N, K)
        loss = (penalty * w**2).sum() / 2 + np.logaddexp(0, -margin).sum()
        return loss, (A.T @ (penalty * w) - z.T @ residual).ravel()

    options = {"maxiter": 1000, "gtol": 1e-7 * len(x), "ftol": 0}
    fit = minimize(loss_and_gradient, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    return A @ fit.x.reshape(shape)


def predict_logistic(weights, x):
    """The log-odds of each label: weights (d + 1, K), x (N, d) -> (N, K)."""
    return x @ weights[:-1] + weights[-1]
