"""First weights as PyTorch draws them."""

from flax import linen as nn

kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1/sqrt(d)), torch.nn.Linear's
