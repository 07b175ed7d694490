"""`residual_unet`: a U-Net of residual blocks whose first layer halves the frame, so that it is quick on a CPU.

Sources: U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with pre-activation residual blocks (He et al. 2016,
arXiv:1603.05027), as in ResUNet (Zhang et al. 2018, arXiv:1711.10684); halving at the start as in ResNet.
"""

from typing import Any

from roofkit.settings import ModelArgs
from unet.parts import active, climb, convolution, dropout, residual_block, to_full_size


def residual_body(x: Any, args: ModelArgs) -> Any:
    """Everything up to the last layer.

    The frame is halved once at the start and `num_layers` times after; each halving doubles `filters`.
    """
    x = convolution(x, args.filters, args, size=4, stride=2)
    x = residual_block(x, args.filters, args)
    skips = []
    for level in range(1, args.num_layers + 1):
        skips.append(x)
        filters = args.filters * 2**level
        x = convolution(active(x, args), filters, args, size=2, stride=2)
        x = residual_block(residual_block(x, filters, args), filters, args)
    x = dropout(x, args)
    for level in reversed(range(args.num_layers)):
        x = climb(x, skips[level], args.filters * 2**level, args)
    return to_full_size(x, args.filters, args)
