"""An explanation method: how steep the class's logit is in each cell of a layer."""

from torch import Tensor

from petechia.saliency import LayerMethod, of_gradients


def weigh(activations: Tensor, gradients: Tensor) -> Tensor:
    """The length of the gradient, over the channels of each cell; [T, B, h, w]."""
    return gradients.square().sum(dim=2).sqrt()


SLOPE = LayerMethod("Slope", "length of the gradient in each cell", "Simonyan et al. 2014, section 3", of_gradients(weigh))
