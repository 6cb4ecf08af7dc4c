"""Weights of PyTorch models, read without PyTorch."""
