"""Visible-infrared person re-identification: SAAI, affinity inference and ranking metrics in JAX."""

__version__ = "0.1.0"
