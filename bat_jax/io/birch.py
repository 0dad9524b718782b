"""BIRCH as a region partition (UHR-BAT, arXiv:2604.13565, App., Table 8), on the host with scikit-learn.

Zhang, Ramakrishnan, Livny 1996: one pass over the rows builds a tree of subclusters of at most a given radius, then an
agglomerative clustering of the subclusters' centres makes the regions. UHR-BAT's paper gives no settings.
"""

import numpy as np

from bat_jax.typing import Bool, Float, Int

# The global step keeps all distances between subclusters: 10,000 of them take 0.4 GB.
MAX_SUBCLUSTERS = 10_000


def birch_labels(
    rows: Float[np.ndarray, "M C"], valid: Bool[np.ndarray, "M"], num_clusters: int, threshold: float
) -> Int[np.ndarray, "M"]:
    """Return int32 labels in [0, num_clusters), -1 for rows that are not valid; the same rows give the same labels.

    There are fewer regions where the tree has fewer subclusters. `threshold` is the largest radius of a subcluster, in
    the units of `rows`.

    Raises:
      ValueError: scikit-learn is missing, or the threshold leaves more than MAX_SUBCLUSTERS subclusters.
    """
    try:
        from sklearn.cluster import Birch
    except ImportError:
        raise ValueError("partition='birch': needs scikit-learn; pip install 'bat_jax[birch]'") from None
    label = np.full(valid.shape, -1, np.int32)
    if not valid.any():
        return label
    used = np.asarray(rows, np.float32)[valid]
    tree = Birch(threshold=threshold, n_clusters=None).fit(used)
    num_subclusters = len(tree.subcluster_centers_)
    if num_subclusters > MAX_SUBCLUSTERS:
        raise ValueError(
            f"birch_threshold={threshold}: leaves {num_subclusters} subclusters of {len(used)} tokens, at most "
            f"{MAX_SUBCLUSTERS} can be joined; raise it"
        )
    if num_subclusters > num_clusters:
        tree.set_params(n_clusters=num_clusters).partial_fit()
    label[valid] = tree.predict(used)
    return label
