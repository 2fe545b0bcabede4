"""The mathematics of the RL family: pure functions on tensors, and the table that composes them into algorithms."""
