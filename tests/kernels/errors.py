from torch import Tensor


def relative(got: Tensor, wanted: Tensor, terms: Tensor | None = None) -> float:
    """The error beside what was wanted; or beside the sizes of its terms, where these may cancel."""
    assert got.shape == wanted.shape
    if wanted.numel() == 0:
        return 0.0
    size = (wanted if terms is None else terms).double().norm()
    return float((got.double() - wanted.double()).norm() / size.clamp_min(1e-300))
