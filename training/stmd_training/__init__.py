"""Training of stochastic transition maps and of their baselines."""
