"""Multinomial logistic regression on frozen features."""
