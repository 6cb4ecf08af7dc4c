"""Optimisers as the originals' PyTorch has them: directions at rate 1, which `train.update` scales by the rate."""

from __future__ import annotations

import optax


def adam_l2(weight_decay: float) -> optax.GradientTransformation:
    """torch.optim.Adam(betas=(0.9, 0.999), eps=1e-8): its weight_decay is L2 in the gradient, not AdamW's."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(0.9, 0.999, 1e-8))
