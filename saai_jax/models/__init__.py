"""Networks in Linen that several systems share: ResNet, attention, heads, and convolutions for a CPU."""
