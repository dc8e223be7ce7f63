"""pass@k: the chance that one of k samples passes, estimated without bias, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES, _LEVEL = 2_000, 0.95


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k) (Chen et al. 2021, section 2.1), as a product, which neither overflows nor cancels.

    Raises ValueError where there are fewer samples than k, or more passed than there are.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} needs {k} samples or more, of which 0 to all passed; got {passed} of {samples}")
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def score(counts: Sequence[tuple[int, int]], k: int, seed: int = 0) -> dict[str, float]:
    """The mean of pass@k over problems, each (samples, passed), and a 95% interval of it: percentiles of the means of
    problems drawn anew (a bootstrap over problems, because they are what a benchmark is a sample of)."""
    each = np.array([pass_at_k(samples, passed, k) for samples, passed in counts])
    draw = np.random.Generator(np.random.PCG64(seed))
    means = [each[draw.integers(0, len(each), len(each))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"score": float(each.mean()), "low": float(low), "high": float(high)}
