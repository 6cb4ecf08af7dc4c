"""Optimisers as the originals' PyTorch has them: directions at rate 1, which `train.update` scales by the rate."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import optax


def adam_l2(weight_decay: float) -> optax.GradientTransformation:
    """torch.optim.Adam(betas=(0.9, 0.999), eps=1e-8): its weight_decay is L2 in the gradient, not AdamW's."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(0.9, 0.999, 1e-8))


def sgd_l2(weight_decay: float, heads: tuple[str, ...], factor: float) -> optax.GradientTransformation:
    """torch.optim.SGD(momentum=0.9, nesterov=True) with L2 in the gradient; what is no head goes `factor` of the rate.

    heads: names of modules at the top of the parameters.
    """

    def groups(params: Mapping) -> Mapping:
        return {name: jax.tree.map(lambda _, head=name in heads: head, tree) for name, tree in params.items()}

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(0.9, nesterov=True),
        optax.partition({True: optax.identity(), False: optax.scale(factor)}, groups),
    )
