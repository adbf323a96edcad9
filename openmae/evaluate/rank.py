"""RankMe, how many directions features fill: a figure of their quality that needs no labels.

Source: Garrido et al., arXiv 2210.02885, equations 1 and 2.
"""

import torch
from torch import Tensor

MOST_ROWS = 25_600  # the paper's; more change nothing
_EPSILON = 1e-7  # the paper's, for float32


def rankme(features: Tensor) -> float:
    """The effective rank of features (n, D): exp of the entropy of their singular values as shares of the sum.

    Between 1, where all lie on one line, and min(n, D), where they fill all directions alike. Of more than MOST_ROWS
    rows, as many evenly spaced ones are taken. Compare it between models of the same width only.
    """
    if len(features) > MOST_ROWS:
        features = features[torch.linspace(0, len(features) - 1, MOST_ROWS).long()]
    rows = features.double() if features.device.type != "mps" else features.cpu().double()
    # Squared singular values of the smaller product: sixteen digits leave eight, and epsilon hides the rest.
    product = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    singular = torch.linalg.eigvalsh(product).clamp_min(0).sqrt()
    shares = singular / singular.sum() + _EPSILON
    return float((-(shares * shares.log()).sum()).exp())
